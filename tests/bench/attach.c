/* What attaching costs: a device that joins a space with many mappings, through the broker and by hand with the same ioctls
 * (attach.h), in the same run, in turns, on the same memfd: what pinning costs depends on how its pages lie in physical memory.
 *
 *   late     the space has mappings and no device: on iommufd the attach pins them all, on type1 it is their replay
 *   second   a device of the same kind is attached already: on iommufd it joins that one's domain; on type1 it has a container
 *            of its own, and the space is replayed once more
 *   pinning  the whole memfd in one mapping, by two threads and by one; a daemon on one CPU has sessions without a second one
 *
 * The mappings are 4 KiB each, of distinct pages, and none is adjacent to another: nothing is coalesced. Taking them out again is
 * not measured. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/bench/attach.h"
#include "tests/bench/bench.h"

#define PAGE      4096ull
#define IOVA      (1ull << 32)
#define MANY_MAX  60000u
#define FULL_SIZE (1ull << 30)
#define SMOKE     (256ull << 20) /* enough for a session to use threads */

static const char usage[] = "--device=A --second=B --direct=C --direct-second=D [--container=PATH] [--one=SOCKET]\n"
                            "  --device, --second          attach these through the broker\n"
                            "  --direct, --direct-second   and these by hand: root, bound to vfio-pci; as iommufd or "
                            "type1, what the broker has\n"
                            "  --container                 type1's, by hand (/dev/vfio/vfio)\n"
                            "  --one                       the socket of a second broker, which runs on one CPU\n"
                            "The broker is the one behind $VFIO_BROKER_SOCKET.\n";

struct attach {
    struct bench *bench;
    struct end end;
    const struct hand_ops *ops;
    void *hand;
    unsigned device; /* that is attached and detached */
    int memfd;
    uint64_t size; /* of the memfd */
    struct hand_map maps[MANY_MAX];
    size_t n;
};

/* ---- attaching ---- */

static void ours(void *arg, unsigned count) {
    struct attach *a = arg;
    uint32_t device = a->end.device[a->device].id;

    while (count--) {
        bench_check(a->end.client, vfb_device_attach(a->end.client, device, a->end.space), "vfb_device_attach");
        uint64_t t = bench_now();
        bench_check(a->end.client, vfb_device_detach(a->end.client, device), "vfb_device_detach");
        a->bench->excluded += bench_now() - t;
    }
}

static void by_hand(void *arg, unsigned count) {
    struct attach *a = arg;

    while (count--) {
        a->ops->attach(a->hand, a->device);
        uint64_t t = bench_now();
        a->ops->detach(a->hand, a->device);
        a->bench->excluded += bench_now() - t;
    }
}

static void attach_case(struct attach *a, const char *what, unsigned rounds) {
    struct end *e = &a->end;
    struct bench_pair p;
    uint64_t bytes;

    end_map(e, a->maps, a->n);
    a->ops->fill(a->hand, a->maps, a->n);
    a->device = 0;
    p = bench_turns(a->bench, ours, by_hand, a, rounds, 1);
    bench_case(a->bench, p.ours / 1e6, p.baseline / 1e6, "ms", "1.1 times by hand", "late device, %s", what);
    bench_check(e->client, vfb_device_attach(e->client, e->device[0].id, e->space), "vfb_device_attach");
    a->ops->attach(a->hand, 0);
    a->device = 1;
    p = bench_turns(a->bench, ours, by_hand, a, rounds, a->ops == &hand_iommufd ? 20 : 1); /* joining takes 0.1 ms */
    bench_case(a->bench, p.ours / 1e6, p.baseline / 1e6, "ms", "1.1 times by hand", "second device, %s", what);
    bench_check(e->client, vfb_device_detach(e->client, e->device[0].id), "vfb_device_detach");
    a->ops->detach(a->hand, 0);
    bench_check(e->client, vfb_unmap_all(e->client, e->space, &bytes), "vfb_unmap_all");
    if (bytes != a->n * a->maps[0].size)
        bench_die("%s: the space had %llu bytes", what, (unsigned long long)bytes);
    a->ops->fill(a->hand, NULL, 0);
}

static void attaching(struct attach *a) {
    static const struct { unsigned n, rounds; } cases[] = {{1000, 21}, {10000, 15}, {MANY_MAX, 9}};
    char what[64];

    for (size_t k = 0; k < sizeof(cases) / sizeof(cases[0]); k++) {
        a->n = cases[k].n;
        for (size_t i = 0; i < a->n; i++)
            a->maps[i] = (struct hand_map){.iova = IOVA + 2 * i * PAGE, .size = PAGE, .offset = i * PAGE};
        snprintf(what, sizeof(what), "%u mappings", cases[k].n);
        if (!a->bench->smoke || a->n < MANY_MAX)
            attach_case(a, what, cases[k].rounds);
    }
    a->n = 1;
    a->maps[0] = (struct hand_map){.iova = IOVA, .size = a->size};
    snprintf(what, sizeof(what), "%llu MiB in one mapping", (unsigned long long)(a->size >> 20));
    attach_case(a, what, 9);
}

/* ---- pinning ---- */

static double end_pin(struct end *e, const struct hand_map *all) {
    struct vfb_unmap u = {.iova = all->iova, .size = all->size};
    uint64_t t = bench_now();

    end_map(e, all, 1);
    t = bench_now() - t;
    bench_check(e->client, vfb_unmap(e->client, e->space, &u, 1, NULL), "vfb_unmap");
    return (double)t / 1e6;
}

static double hand_pin(struct attach *a, unsigned threads) {
    uint64_t t = bench_now();

    a->ops->pin(a->hand, IOVA, threads);
    t = bench_now() - t;
    a->ops->unpin(a->hand, IOVA);
    return (double)t / 1e6;
}

/* In turns, all four in each round; the ratios are of a round too. */
static void pinning(struct attach *a, struct end *one) {
    enum { ROUNDS = 15 };
    struct hand_map all = {.iova = IOVA, .size = a->size};
    double two[2][ROUNDS], single[2][ROUNDS], ratio[2][ROUNDS];
    unsigned rounds = a->bench->smoke ? 2 : ROUNDS, mib = (unsigned)(a->size >> 20);

    bench_check(a->end.client, vfb_device_attach(a->end.client, a->end.device[0].id, a->end.space), "attach");
    bench_check(one->client, vfb_device_attach(one->client, one->device[0].id, one->space), "attach");
    a->ops->attach(a->hand, 0);
    end_pin(&a->end, &all);
    end_pin(one, &all);
    hand_pin(a, 2);
    for (unsigned i = 0; i < rounds; i++) {
        two[0][i] = end_pin(&a->end, &all);
        two[1][i] = hand_pin(a, 2);
        single[0][i] = end_pin(one, &all);
        single[1][i] = hand_pin(a, 1);
        for (unsigned k = 0; k < 2; k++)
            ratio[k][i] = two[k][i] / single[k][i];
    }
    bench_case(a->bench, bench_median(two[0], rounds), bench_median(two[1], rounds), "ms", NULL,
               "pinning %u MiB, two threads", mib);
    bench_case(a->bench, bench_median(single[0], rounds), bench_median(single[1], rounds), "ms", NULL,
               "pinning %u MiB, one thread", mib);
    bench_case(a->bench, bench_median(ratio[0], rounds), bench_median(ratio[1], rounds), "times", "1.1 times by hand",
               "pinning %u MiB, two threads / one", mib);
    a->ops->detach(a->hand, 0);
    bench_check(one->client, vfb_device_detach(one->client, one->device[0].id), "vfb_device_detach");
    bench_check(a->end.client, vfb_device_detach(a->end.client, a->end.device[0].id), "vfb_device_detach");
}

static void tell_machine(struct bench *b) {
    char line[256];
    unsigned long kib = 0;
    FILE *f = fopen("/proc/meminfo", "re");

    if (!f)
        bench_die("/proc/meminfo: no such file");
    while (fgets(line, sizeof(line), f) && sscanf(line, "MemTotal: %lu", &kib) != 1)
        ;
    fclose(f);
    snprintf(b->machine, sizeof(b->machine), "%ld CPUs, %lu MiB of memory", sysconf(_SC_NPROCESSORS_ONLN), kib >> 10);
}

static const char *need(int argc, char **argv, const char *name) {
    const char *value = bench_option(argc, argv, name);

    if (!value)
        bench_die("--%s is missing (see --help)", name);
    return value;
}

int main(int argc, char **argv) {
    static struct attach a;
    struct bench bench;
    const char *direct[2], *second, *container, *one;

    bench_init(&bench, "attach", &argc, argv, usage);
    direct[0] = need(argc, argv, "direct");
    direct[1] = need(argc, argv, "direct-second");
    second = need(argc, argv, "second");
    container = bench_option(argc, argv, "container");
    one = bench_option(argc, argv, "one");
    tell_machine(&bench);

    a.bench = &bench;
    a.size = bench.smoke ? SMOKE : FULL_SIZE;
    a.memfd = bench_memfd(a.size);
    a.end = end_open(NULL, a.memfd);
    end_claim(&a.end, 0, need(argc, argv, "device"));
    end_claim(&a.end, 1, second);
    a.ops = strcmp(vfb_info(a.end.client)->backend, "iommufd") ? &hand_type1 : &hand_iommufd;
    a.hand = a.ops->open(a.memfd, a.size, direct, container ? container : "/dev/vfio/vfio");
    attaching(&a);
    end_release(&a.end, 1);
    if (one && a.ops->pin) {
        struct end e = end_open(one, a.memfd);

        end_claim(&e, 0, second);
        pinning(&a, &e);
        end_release(&e, 0);
        vfb_client_free(e.client);
    }
    end_release(&a.end, 0);
    a.ops->close(a.hand);
    vfb_client_free(a.end.client);
    return bench_end(&bench);
}
