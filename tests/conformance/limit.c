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

/* One client's connections are charged together. What the first was leased is not there for the second, until it ends. */
static void case_connections_share(void) {
    struct timespec pause = {.tv_nsec = 50000000};
    struct vfb_client *a, *b;
    struct mem m, n;
    uint32_t in_a, in_b;
    int r = VFB_LIMIT;

    memlock(2 * MIB);
    a = join();
    m = mem_new(a, MIB);
    in_a = space_new(a);
    OK(a, map1(a, in_a, m.id, 0, 0, MIB));
    b = join();
    n = mem_new(b, 2 * MIB);
    in_b = space_new(b);
    tap_check(usage(a).lease + usage(b).lease <= 2 * MIB, "leases of %" PRIu64 " and %" PRIu64, usage(a).lease,
              usage(b).lease);
    REFUSED(b, map1(b, in_b, n.id, 0, 0, MIB + PAGE), VFB_LIMIT);
    says(b, "RLIMIT_MEMLOCK");
    vfb_client_free(a);
    for (int i = 0; i < 200 && r == VFB_LIMIT; i++) {
        r = map1(b, in_b, n.id, 0, 0, 2 * MIB);
        nanosleep(&pause, NULL);
    }
    OK(b, r);
    vfb_client_free(b);
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
    tap_check(usage(c).used == 16 * PAGE, "used %" PRIu64, usage(c).used);
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
             {"connections of one process share its limit", case_connections_share, 0},
             {"65536 mappings, and not one more", case_mappings_max, 180});
