/* What a request costs: map and unmap through the broker, against
 *   - a raw SOCK_SEQPACKET echo of the same packet sizes, for spaces without a device; and
 *   - with --device and --direct, the ioctls themselves, made here by root on a device of its own: MAP_FILE + UNMAP, and
 *     COPY from a pool + UNMAP, which is what a session does. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/bench/bench.h"
#include "tests/bench/direct.h"
#include "tests/bench/echo.h"
#include "vfio-broker.pb-c.h"

#define BATCH_MAX 1024u
#define IOVA      0x40000000ull
#define PAGE      4096ull

static const char usage[] = "[--device=ADDRESS --direct=ADDRESS]\n"
                            "  --device   attach this one through the broker\n"
                            "  --direct   and use this one without it: root, /dev/iommu, bound to vfio-pci\n"
                            "The broker is the one behind $VFIO_BROKER_SOCKET.\n";

struct rpc {
    struct bench *bench;
    struct vfb_client *client;
    uint32_t space, memory;
    int memfd;
    struct vfb_map maps[BATCH_MAX];
    struct vfb_unmap unmaps[BATCH_MAX];
    unsigned batch;
    struct echo echo;
    pid_t session; /* 0: unknown */
    cpu_set_t cpus;
    int core[2];
    size_t map_request, map_reply, unmap_request, unmap_reply; /* bytes on the wire */
    struct direct *direct;
    uint64_t size; /* bytes, of the mapping that is made directly */
};

static void do_map(struct rpc *r) {
    bench_check(r->client, vfb_map(r->client, r->space, r->maps, r->batch), "vfb_map");
}

static void do_unmap(struct rpc *r) {
    uint64_t bytes = 0;

    bench_check(r->client, vfb_unmap(r->client, r->space, r->unmaps, r->batch, &bytes), "vfb_unmap");
    if (bytes != r->batch * r->maps[0].size)
        bench_die("vfb_unmap unmapped %llu bytes", (unsigned long long)bytes);
}

static void ours_pair(void *arg, unsigned count) {
    struct rpc *r = arg;

    while (count--) {
        do_map(r);
        do_unmap(r);
    }
}

static void echo_pair(void *arg, unsigned count) {
    struct rpc *r = arg;

    while (count--) {
        echo_call(&r->echo, r->map_request, r->map_reply);
        echo_call(&r->echo, r->unmap_request, r->unmap_reply);
    }
}

static void ours_map(void *arg, unsigned count) {
    struct rpc *r = arg;

    while (count--) {
        uint64_t t;

        do_map(r);
        t = bench_now();
        do_unmap(r);
        r->bench->excluded += bench_now() - t;
    }
}

static void echo_map(void *arg, unsigned count) {
    struct rpc *r = arg;

    while (count--)
        echo_call(&r->echo, r->map_request, r->map_reply);
}

static void direct_map_file(void *arg, unsigned count) {
    struct rpc *r = arg;

    while (count--)
        direct_pair(r->direct, false, IOVA, r->size);
}

static void direct_copy(void *arg, unsigned count) {
    struct rpc *r = arg;

    while (count--)
        direct_pair(r->direct, true, IOVA, r->size);
}

/* The packet sizes of a map and an unmap with `batch` entries, as the library and the session pack them. */
static void measure_packets(struct rpc *r) {
    VfioBroker__MapEntry map_entries[BATCH_MAX], *map_list[BATCH_MAX];
    VfioBroker__UnmapEntry unmap_entries[BATCH_MAX], *unmap_list[BATCH_MAX];
    VfioBroker__Map map = VFIO_BROKER__MAP__INIT;
    VfioBroker__Unmap unmap = VFIO_BROKER__UNMAP__INIT;
    VfioBroker__Request request = VFIO_BROKER__REQUEST__INIT;
    VfioBroker__Done done = VFIO_BROKER__DONE__INIT;
    VfioBroker__UnmapReply unmapped = VFIO_BROKER__UNMAP_REPLY__INIT;
    VfioBroker__Reply reply = VFIO_BROKER__REPLY__INIT;

    for (unsigned i = 0; i < r->batch; i++) {
        vfio_broker__map_entry__init(&map_entries[i]);
        map_entries[i].iova = r->maps[i].iova;
        map_entries[i].size = r->maps[i].size;
        map_entries[i].offset = r->maps[i].offset;
        map_entries[i].memory = r->maps[i].memory;
        map_entries[i].prot = r->maps[i].prot;
        map_list[i] = &map_entries[i];
        vfio_broker__unmap_entry__init(&unmap_entries[i]);
        unmap_entries[i].iova = r->unmaps[i].iova;
        unmap_entries[i].size = r->unmaps[i].size;
        unmap_list[i] = &unmap_entries[i];
    }
    request.id = 1u << 16; /* ids grow: three bytes are typical */
    reply.id = request.id;
    map.space = unmap.space = r->space;
    map.n_entries = unmap.n_entries = r->batch;
    map.entries = map_list;
    unmap.entries = unmap_list;
    request.body_case = VFIO_BROKER__REQUEST__BODY_MAP;
    request.map = &map;
    r->map_request = vfio_broker__request__get_packed_size(&request);
    request.body_case = VFIO_BROKER__REQUEST__BODY_UNMAP;
    request.unmap = &unmap;
    r->unmap_request = vfio_broker__request__get_packed_size(&request);
    reply.body_case = VFIO_BROKER__REPLY__BODY_DONE;
    reply.done = &done;
    r->map_reply = vfio_broker__reply__get_packed_size(&reply);
    unmapped.mappings = r->batch;
    unmapped.bytes = r->batch * PAGE;
    reply.body_case = VFIO_BROKER__REPLY__BODY_UNMAP;
    reply.unmap = &unmapped;
    r->unmap_reply = vfio_broker__reply__get_packed_size(&reply);
}

static void fill(struct rpc *r, unsigned batch, uint64_t size) {
    r->batch = batch;
    for (unsigned i = 0; i < batch; i++) {
        r->maps[i] = (struct vfb_map){.iova = IOVA + i * size,
                                      .size = size,
                                      .offset = i * size,
                                      .memory = r->memory,
                                      .prot = VFB_READ | VFB_WRITE};
        r->unmaps[i] = (struct vfb_unmap){.iova = IOVA + i * size, .size = size};
    }
}

/* Where the two ends of a conversation run decides most of what it costs, so it is one of the things measured. */
enum place { FREE, ONE_CORE, TWO_CORES };

/* Puts this process on one core, and session and echo on the same or another; false when that cannot be done. */
static bool place(struct rpc *r, enum place place) {
    const struct {
        pid_t pid;
        bool here;
    } who[] = {{0, true}, {r->session, false}, {r->echo.pid, false}};

    if (place != FREE && (r->session == 0 || CPU_COUNT(&r->cpus) < (place == TWO_CORES ? 2 : 1)))
        return false;
    for (size_t i = 0; i < sizeof(who) / sizeof(who[0]); i++) {
        int core = place == TWO_CORES && !who[i].here ? r->core[1] : r->core[0];
        cpu_set_t set;

        CPU_ZERO(&set);
        CPU_SET(core, &set);
        if (sched_setaffinity(who[i].pid, sizeof(set), place == FREE ? &r->cpus : &set)) {
            if (place == FREE && i == 1)
                continue; /* a session of another user stays where it is */
            return false;
        }
    }
    return true;
}

static void against_echo(struct rpc *r) {
    static const unsigned batches[] = {1, 16, 256, 1024};
    static const struct {
        enum place place;
        const char *name;
    } places[] = {{FREE, ""}, {ONE_CORE, ", one core"}, {TWO_CORES, ", two cores"}};
    const char *backend = vfb_info(r->client)->backend;

    echo_start(&r->echo);
    for (size_t k = 0; k < sizeof(places) / sizeof(places[0]); k++) {
        struct bench_pair p;

        if (!place(r, places[k].place))
            continue;
        fill(r, 1, PAGE);
        measure_packets(r);
        p = bench_turns(r->bench, ours_pair, echo_pair, r, 21, 2000);
        bench_case(r->bench, p.ours / 1e3, p.baseline / 1e3, "us", "1.5 times the echo", "%s: map+unmap, batch of 1%s",
                   backend, places[k].name);
    }
    if (!place(r, ONE_CORE))
        place(r, FREE);
    for (size_t i = 1; i < sizeof(batches) / sizeof(batches[0]); i++) {
        unsigned batch = batches[i], count = batch < 256 ? 1000 : batch < 1024 ? 200 : 60;
        struct bench_pair p;

        fill(r, batch, PAGE);
        measure_packets(r);
        p = bench_turns(r->bench, ours_pair, echo_pair, r, 11, count);
        bench_case(r->bench, p.ours / 1e3, p.baseline / 1e3, "us", NULL, "%s: map+unmap, batch of %u", backend, batch);
        p = bench_turns(r->bench, ours_map, echo_map, r, 11, count);
        bench_case(r->bench, batch * 1e9 / p.ours, batch * 1e9 / p.baseline, "mappings/s", "1 million a core",
                   "%s: map, batch of %u", backend, batch);
    }
    place(r, FREE);
    echo_stop(&r->echo);
}

static void against_ioctls(struct rpc *r, const char *device, const char *direct) {
    static const struct {
        const char *name, *aim;
        uint64_t size;
        unsigned rounds, count;
    } sizes[] = {{"4 KiB", NULL, 4096, 21, 200},
                 {"2 MiB", NULL, 2u << 20, 21, 20},
                 {"64 MiB", "1.05 times the ioctl", 64u << 20, 21, 1}};
    struct vfb_device d;

    bench_check(r->client, vfb_device_claim(r->client, device, &d), "vfb_device_claim");
    bench_check(r->client, vfb_device_bind(r->client, d.id), "vfb_device_bind");
    bench_check(r->client, vfb_device_attach(r->client, d.id, r->space), "vfb_device_attach");
    r->direct = direct_open(direct, r->memfd, 64u << 20);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct bench_pair p;

        r->size = sizes[i].size;
        fill(r, 1, r->size);
        p = bench_turns(r->bench, ours_pair, direct_map_file, r, sizes[i].rounds, sizes[i].count);
        bench_case(r->bench, p.ours / 1e3, p.baseline / 1e3, "us", sizes[i].aim, "%s attached, against MAP_FILE+UNMAP",
                   sizes[i].name);
        p = bench_turns(r->bench, ours_pair, direct_copy, r, sizes[i].rounds, sizes[i].count);
        bench_case(r->bench, p.ours / 1e3, p.baseline / 1e3, "us", sizes[i].aim, "%s attached, against COPY+UNMAP",
                   sizes[i].name);
    }
    direct_close(r->direct);
    bench_check(r->client, vfb_device_release(r->client, d.id), "vfb_device_release");
    close(d.fd);
}

int main(int argc, char **argv) {
    static struct rpc r;
    struct bench bench;
    struct vfb_memory m;
    const char *device, *direct;
    pid_t pids[2];

    bench_init(&bench, "rpc", &argc, argv, usage);
    device = bench_option(argc, argv, "device");
    direct = bench_option(argc, argv, "direct");
    if (!device != !direct)
        bench_die("--device and --direct go together");
    r.bench = &bench;
    r.client = bench_connect("bench rpc");
    r.memfd = bench_memfd(64u << 20);
    bench_check(r.client, vfb_memory_register(r.client, r.memfd, VFB_WRITABLE, "bench", &m), "vfb_memory_register");
    r.memory = m.id;
    bench_check(r.client, vfb_space_create(r.client, "bench", &r.space), "vfb_space_create");

    sched_getaffinity(0, sizeof(r.cpus), &r.cpus);
    for (int i = 0, n = 0; i < CPU_SETSIZE && n < 2; i++)
        if (CPU_ISSET(i, &r.cpus))
            r.core[n++] = i;
    if (bench_children(bench_daemon(r.client), pids, 2) == 1)
        r.session = pids[0];
    against_echo(&r);
    if (device)
        against_ioctls(&r, device, direct);
    vfb_client_free(r.client);
    return bench_end(&bench);
}
