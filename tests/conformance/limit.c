/* Limits: RLIMIT_MEMLOCK of the client, the policy's mappings. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "conformance.h"

static void memlock(uint64_t bytes) {
    struct rlimit l;

    tap_check(getrlimit(RLIMIT_MEMLOCK, &l) == 0, "getrlimit");
    if (l.rlim_max != RLIM_INFINITY && l.rlim_max < bytes)
        tap_case_skip("the hard limit of locked memory is less than %" PRIu64, bytes);
    l.rlim_cur = bytes;
    tap_check(setrlimit(RLIMIT_MEMLOCK, &l) == 0, "setrlimit: %s", strerror(errno));
}

static void case_memlock(void) {
    struct vfb_client *c;
    const struct vfb_error *e;
    struct mem m;
    uint32_t space;

    memlock(MIB);
    c = join();
    e = vfb_error(c);
    tap_check(vfb_info(c)->memory_bytes == MIB, "limit %" PRIu64, vfb_info(c)->memory_bytes);
    m = mem_new(c, 2 * MIB);
    space = space_new(c);
    REFUSED(c, map1(c, space, m.id, 0, 0, MIB + PAGE), VFB_LIMIT);
    OK(c, map1(c, space, m.id, 0, 0, MIB)); /* exactly what is allowed */
    REFUSED(c, map1(c, space, m.id, 0x10000000, MIB, PAGE), VFB_LIMIT);
    says(c, "RLIMIT_MEMLOCK");
    says_number(c, (uint64_t)getpid());
    says_number(c, MIB);
    says_number(c, PAGE);
    tap_check(e->limit == MIB && e->used == MIB && e->wanted == PAGE && strstr(e->limit_whose, "RLIMIT_MEMLOCK"),
              "wanted %" PRIu64 ", used %" PRIu64 ", limit %" PRIu64 " (%s)", e->wanted, e->used, e->limit,
              e->limit_whose);
    tap_check(usage(c).used == MIB && describe(c, space).mappings == 1, "used %" PRIu64, usage(c).used);
    OK(c, unmap1(c, space, 0, MIB));
    OK(c, map1(c, space, m.id, 0, PAGE, MIB)); /* other pages in their place */
    vfb_client_free(c);
}

static void case_memlock_changes(void) {
    struct vfb_client *c;
    struct mem m;
    uint32_t space;

    memlock(MIB);
    c = join();
    m = mem_new(c, 4 * MIB);
    space = space_new(c);
    OK(c, map1(c, space, m.id, 0, 0, MIB));
    REFUSED(c, map1(c, space, m.id, MIB, MIB, MIB), VFB_LIMIT);
    memlock(3 * MIB); /* counts from the next request on */
    OK(c, map1(c, space, m.id, MIB, MIB, MIB));
    memlock(PAGE); /* tears nothing down, grants nothing more */
    tap_check(describe(c, space).mappings == 2, "%" PRIu64 " mappings", describe(c, space).mappings);
    REFUSED(c, map1(c, space, m.id, 2 * MIB, 2 * MIB, 2 * MIB), VFB_LIMIT);
    OK(c, unmap1(c, space, MIB, MIB));
    vfb_client_free(c);
}

static void case_own_locks_count(void) {
    struct vfb_client *c;
    struct mem m;
    uint32_t space;
    void *p = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    memlock(2 * MIB);
    /* Not mlock(): AddressSanitizer makes that do nothing. */
    tap_check(p != MAP_FAILED && syscall(SYS_mlock, p, MIB) == 0, "mlock: %s", strerror(errno));
    c = join();
    m = mem_new(c, 2 * MIB);
    space = space_new(c);
    REFUSED(c, map1(c, space, m.id, 0, 0, MIB + PAGE), VFB_LIMIT);
    OK(c, map1(c, space, m.id, 0, 0, MIB));
    vfb_client_free(c);
}

/* ---- several sessions of one process ---- */

struct member {
    struct vfb_client *c;
    struct mem m;
    uint32_t space;
};

static struct member member(uint64_t size) {
    struct member x = {.c = join()};

    x.m = mem_new(x.c, size);
    x.space = space_new(x.c);
    return x;
}

static int map_of(struct member *x, uint64_t at, uint64_t size) {
    return map1(x->c, x->space, x->m.id, at, at, size);
}

static void full_of(struct vfb_client *c, uint64_t wanted, uint64_t used, uint64_t limit) {
    const struct vfb_error *e = vfb_error(c);

    says(c, "RLIMIT_MEMLOCK");
    says_number(c, (uint64_t)getpid());
    says_number(c, wanted);
    says_number(c, limit);
    tap_check(e->wanted == wanted && e->used == used && e->limit == limit && strstr(e->limit_whose, "RLIMIT_MEMLOCK"),
              "wanted %" PRIu64 ", used %" PRIu64 ", limit %" PRIu64 " (%s)", e->wanted, e->used, e->limit,
              e->limit_whose);
}

static void full(struct member *x, uint64_t wanted, uint64_t used, uint64_t limit) {
    full_of(x->c, wanted, used, limit);
}

static double seconds(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* What the first has leased and does not use is the second's at once. */
static void case_connections_share(void) {
    struct member a, b;
    double before;

    memlock(2 * MIB);
    a = member(2 * MIB);
    OK(a.c, map_of(&a, 0, MIB - PAGE));
    b = member(2 * MIB);
    tap_check(usage(a.c).lease + usage(b.c).lease <= 2 * MIB, "leases of %" PRIu64 " and %" PRIu64, usage(a.c).lease,
              usage(b.c).lease);
    before = seconds();
    OK(b.c, map_of(&b, 0, MIB));
    tap_check(seconds() - before < 1.5, "the second session waited %.1f s for its share", seconds() - before);
    OK(b.c, map_of(&b, MIB, PAGE)); /* exactly what is allowed, over both */
    tap_check(usage(a.c).used == MIB - PAGE && usage(b.c).used == MIB + PAGE, "used %" PRIu64 " and %" PRIu64,
              usage(a.c).used, usage(b.c).used);
    tap_check(usage(a.c).lease + usage(b.c).lease == 2 * MIB, "leases of %" PRIu64 " and %" PRIu64, usage(a.c).lease,
              usage(b.c).lease);
    REFUSED(a.c, map_of(&a, MIB, PAGE), VFB_LIMIT);
    full(&a, PAGE, 2 * MIB, 2 * MIB);
    REFUSED(b.c, map_of(&b, MIB + PAGE, PAGE), VFB_LIMIT);
    full(&b, PAGE, 2 * MIB, 2 * MIB);
    tap_check(describe(a.c, a.space).mappings == 1 && describe(b.c, b.space).mappings == 2, "mappings have changed");
    /* There and back. */
    for (int i = 0; i < 20; i++) {
        OK(b.c, unmap1(b.c, b.space, MIB, PAGE));
        OK(a.c, map_of(&a, MIB, PAGE));
        OK(a.c, unmap1(a.c, a.space, MIB, PAGE));
        OK(b.c, map_of(&b, MIB, PAGE));
    }
    /* What a session had is there for others when it has ended, which is soon after its connection has. */
    vfb_client_free(a.c);
    for (int i = 0; i < 200 && map_of(&b, MIB + PAGE, MIB - PAGE) == VFB_LIMIT; i++)
        usleep(20000);
    tap_check(usage(b.c).used == 2 * MIB, "used %" PRIu64, usage(b.c).used);
    REFUSED(b.c, map1(b.c, b.space, mem_new(b.c, PAGE).id, 1ull << 32, 0, PAGE), VFB_LIMIT);
    vfb_client_free(b.c);
}

static void case_four_connections(void) {
    struct member x[4];

    memlock(4 * MIB);
    for (int i = 0; i < 4; i++)
        x[i] = member(4 * MIB);
    /* Each has all of it in turn. */
    for (int i = 0; i < 8; i++) {
        OK(x[i % 4].c, map_of(&x[i % 4], 0, 4 * MIB));
        REFUSED(x[(i + 1) % 4].c, map_of(&x[(i + 1) % 4], 0, PAGE), VFB_LIMIT);
        OK(x[i % 4].c, unmap1(x[i % 4].c, x[i % 4].space, 0, 4 * MIB));
    }
    for (int i = 0; i < 4; i++)
        OK(x[i].c, map_of(&x[i], 0, MIB));
    REFUSED(x[2].c, map_of(&x[2], MIB, PAGE), VFB_LIMIT);
    full(&x[2], PAGE, 4 * MIB, 4 * MIB);
    for (int i = 0; i < 4; i++)
        vfb_client_free(x[i].c);
}

static void case_lowered_under_two(void) {
    struct member a, b;

    memlock(4 * MIB);
    a = member(4 * MIB);
    b = member(4 * MIB);
    OK(a.c, map_of(&a, 0, MIB));
    OK(b.c, map_of(&b, 0, 2 * MIB));
    memlock(MIB); /* tears nothing down */
    REFUSED(a.c, map_of(&a, 2 * MIB, 2 * MIB), VFB_LIMIT);
    says_number(a.c, MIB);
    REFUSED(b.c, map_of(&b, 2 * MIB, 2 * MIB), VFB_LIMIT);
    tap_check(describe(a.c, a.space).mappings == 1 && describe(b.c, b.space).mappings == 1, "mappings have changed");
    OK(b.c, unmap1(b.c, b.space, 0, 2 * MIB));
    REFUSED(a.c, map_of(&a, 2 * MIB, 2 * MIB), VFB_LIMIT); /* the first still passes the limit with it */
    memlock(3 * MIB);
    OK(a.c, map_of(&a, 2 * MIB, 2 * MIB));
    REFUSED(b.c, map_of(&b, 0, PAGE), VFB_LIMIT);
    full(&b, PAGE, 3 * MIB, 3 * MIB);
    vfb_client_free(a.c);
    vfb_client_free(b.c);
}

/* Locked by the client after all was granted: told, and nothing more is granted; nothing is torn down either. */
static void case_own_locks_later(void) {
    struct member a;
    void *p = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    memlock(2 * MIB);
    a = member(4 * MIB);
    OK(a.c, map_of(&a, 0, 2 * MIB));
    tap_check(p != MAP_FAILED && syscall(SYS_mlock, p, MIB) == 0, "mlock: %s", strerror(errno));
    REFUSED(a.c, map_of(&a, 2 * MIB, PAGE), VFB_LIMIT);
    full(&a, PAGE, 3 * MIB, 2 * MIB);
    says(a.c, "the client itself has 1 MiB locked");
    says(a.c, "unlock");
    tap_check(usage(a.c).used == 2 * MIB && describe(a.c, a.space).mappings == 1, "used %" PRIu64, usage(a.c).used);
    memlock(3 * MIB);
    REFUSED(a.c, map_of(&a, 2 * MIB, PAGE), VFB_LIMIT);
    full(&a, PAGE, 3 * MIB, 3 * MIB);
    tap_check(syscall(SYS_munlock, p, MIB) == 0, "munlock: %s", strerror(errno));
    OK(a.c, map_of(&a, 2 * MIB, MIB));
    vfb_client_free(a.c);
}

/* Nobody asks for it, and it goes back all the same. */
static void case_idle_lease_goes_back(void) {
    struct timespec pause = {.tv_nsec = 100000000};
    struct member a;
    uint64_t most, least;

    memlock(160 * MIB);
    a = member(80 * MIB);
    OK(a.c, map_of(&a, 0, 80 * MIB));
    most = usage(a.c).lease;
    tap_check(most >= 80 * MIB && most <= 160 * MIB, "lease %" PRIu64, most);
    OK(a.c, unmap1(a.c, a.space, 0, 80 * MIB));
    least = usage(a.c).lease;
    tap_check(least == most, "the lease went back at once: from %" PRIu64 " to %" PRIu64, most, least);
    for (int i = 0; i < 80 && least == most; i++) {
        nanosleep(&pause, NULL);
        least = usage(a.c).lease;
    }
    tap_check(least < most && least < 80 * MIB, "the idle lease stays: %" PRIu64 " of %" PRIu64, least, most);
    OK(a.c, map_of(&a, 0, 80 * MIB));
    vfb_client_free(a.c);
}

/* One page more is refused, and nothing changes. */
static void one_page_more(struct vfb_client *c, uint32_t space, uint32_t memory, uint64_t iova, uint64_t limit) {
    struct vfb_usage before = usage(c), after;

    tap_check(before.used == limit, "%" PRIu64 " bytes are paid of %" PRIu64, before.used, limit);
    REFUSED(c, map1(c, space, memory, iova, 0, PAGE), VFB_LIMIT);
    full_of(c, PAGE, limit, limit);
    after = usage(c);
    tap_check(after.used == before.used && after.mappings == before.mappings && after.mapped == before.mapped &&
                  after.lease == before.lease && after.tables == before.tables,
              "a refused page changed something: %" PRIu64 " bytes, %" PRIu64 " mappings", after.used, after.mappings);
}

/* A guest as large as the limit, and two devices that see all of it, first in one space, then each in its own: a page costs a
 * page. */
static void exactly_the_limit_shared(struct vfb_client *c, uint64_t limit) {
    const uint64_t at = 0x1000000;
    struct mem guest = mem_new(c, limit), more = mem_new(c, PAGE);
    uint32_t one = space_new(c), two;
    struct rig a, b;

    OK(c, map1(c, one, guest.id, at, 0, limit));
    OK(c, map1(c, one, guest.id, SCRATCH_IOVA, 0, PAGE)); /* pages that are paid already */
    a = rig_in(c, test_devices[0], one, guest);
    b = rig_in(c, test_devices[1], one, guest);
    for (int spaces = 1; spaces <= 2; spaces++) {
        dma_reaches(&a, at + MIB, guest.p + MIB);
        dma_reaches(&b, at + limit - PAGE, guest.p + limit - PAGE);
        one_page_more(c, one, more.id, 2 * at, limit);
        dma_reaches(&a, at + 2 * MIB, guest.p + 2 * MIB);
        if (spaces == 2)
            break;
        two = space_new(c);
        OK(c, map1(c, two, guest.id, at, 0, limit));
        OK(c, map1(c, two, guest.id, SCRATCH_IOVA, 0, PAGE));
        OK(c, vfb_device_detach(c, b.d.id));
        OK(c, vfb_device_attach(c, b.d.id, two));
        b.space = two;
    }
}

/* Where pins are not shared, a second domain is paid anew, and does not fit; two devices that are claimed for one space have one,
 * and it fits once. A second space never does. */
static void exactly_the_limit_each(struct vfb_client *c, uint64_t limit) {
    const uint64_t at = 0x1000000, size = limit - PAGE;
    struct mem guest = mem_new(c, size), scratch = mem_new(c, PAGE), more = mem_new(c, PAGE);
    uint32_t one = space_new(c), two = space_new(c);
    const struct vfb_error *e = vfb_error(c);
    struct vfb_device d;
    struct rig a, b;

    OK(c, map1(c, one, guest.id, at, 0, size));
    OK(c, map1(c, one, scratch.id, SCRATCH_IOVA, 0, PAGE));
    d = claim_for(c, test_devices[0], one);
    OK(c, vfb_device_attach(c, d.id, one));
    a = rig_of(c, d, one, scratch);
    d = claim_bound(c, test_devices[1]);
    REFUSED(c, vfb_device_attach(c, d.id, one), VFB_LIMIT);
    tap_check(e->wanted == limit && e->used == limit && e->limit == limit,
              "wanted %" PRIu64 ", used %" PRIu64 ", limit %" PRIu64, e->wanted, e->used, e->limit);
    one_page_more(c, one, more.id, 2 * at, limit);
    dma_reaches(&a, at + MIB, guest.p + MIB);
    close(d.fd);
    OK(c, vfb_device_release(c, d.id));
    d = claim_for(c, test_devices[1], one);
    OK(c, vfb_device_attach(c, d.id, one));
    b = rig_of(c, d, one, scratch);
    dma_reaches(&b, at + size - PAGE, guest.p + size - PAGE);
    dma_reaches(&a, at + 2 * MIB, guest.p + 2 * MIB);
    one_page_more(c, one, more.id, 2 * at, limit);
    REFUSED(c, map1(c, two, guest.id, at, 0, size), VFB_LIMIT);
}

static void case_exactly_the_limit(void) {
    const uint64_t limit = 4 * MIB;
    struct vfb_client *c;

    memlock(limit);
    c = join();
    if (shares(c))
        exactly_the_limit_shared(c, limit);
    else
        exactly_the_limit_each(c, limit);
    vfb_client_free(c);
}

static void case_mappings_max(void) {
    struct vfb_client *c = join();
    struct mem m = mem_new(c, 16 * PAGE);
    uint32_t space = space_new(c), batch = vfb_info(c)->batch_max;
    uint64_t max = vfb_info(c)->mappings_max, bytes, n = 0;
    struct vfb_map *e = calloc(batch, sizeof *e);

    tap_check(e, "no memory");
    while (n < max) {
        uint32_t k = max - n < batch ? (uint32_t)(max - n) : batch;

        for (uint32_t i = 0; i < k; i++)
            e[i] = (struct vfb_map){.iova = (n + i) * 2 * PAGE,
                                    .size = PAGE,
                                    .offset = (n + i) % 16 * PAGE,
                                    .memory = m.id,
                                    .prot = VFB_READ | VFB_WRITE};
        OK(c, vfb_map(c, space, e, k));
        n += k;
    }
    tap_check(describe(c, space).mappings == max && usage(c).mappings == max, "%" PRIu64 " mappings",
              describe(c, space).mappings);
    tap_check(usage(c).used == paid(c, 16 * PAGE, max * PAGE), "used %" PRIu64, usage(c).used);
    REFUSED(c, map1(c, space, m.id, 1ull << 40, 0, PAGE), VFB_LIMIT);
    says_number(c, max);
    tap_check(vfb_error(c)->limit == max && vfb_error(c)->used == max && vfb_error(c)->wanted == 1,
              "wanted %" PRIu64 ", used %" PRIu64 ", limit %" PRIu64, vfb_error(c)->wanted, vfb_error(c)->used,
              vfb_error(c)->limit);
    OK(c, unmap1(c, space, 123 * 2 * PAGE, PAGE));
    OK(c, map1(c, space, m.id, 1ull << 40, 0, PAGE));
    OK(c, vfb_unmap_all(c, space, &bytes));
    tap_check(bytes == max * PAGE, "%" PRIu64 " bytes", bytes);
    tap_check(usage(c).used == 0, "used %" PRIu64, usage(c).used);
    free(e);
    vfb_client_free(c);
}

DEFINE_CASES(limit, {"RLIMIT_MEMLOCK: what fits fits, one page more does not", case_memlock, 0},
             {"RLIMIT_MEMLOCK raised and lowered meanwhile", case_memlock_changes, 0},
             {"memory that the client has locked itself counts", case_own_locks_count, 0},
             {"connections of one process share its limit: idle lease goes where it is needed", case_connections_share,
              0},
             {"four connections of one process, each with all of its limit in turn", case_four_connections, 0},
             {"RLIMIT_MEMLOCK lowered under two connections", case_lowered_under_two, 0},
             {"memory that the client locks later counts too", case_own_locks_later, 0},
             {"idle lease goes back by itself", case_idle_lease_goes_back, 30},
             {"a guest as large as the limit, through two devices, in one space and in two", case_exactly_the_limit, 0},
             {"65536 mappings, and not one more", case_mappings_max, 180});
