/* Spaces, map and unmap without devices: arithmetic, overlaps, batches, accounts. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "conformance.h"

enum { RW = VFB_READ | VFB_WRITE };

static void nothing_mapped(struct vfb_client *c, uint32_t space) {
    struct vfb_space_info i = describe(c, space);

    tap_check(i.mappings == 0 && i.mapped_bytes == 0, "%" PRIu64 " mappings of %" PRIu64 " bytes", i.mappings,
              i.mapped_bytes);
    tap_check(usage(c).used == 0 && usage(c).mapped == 0, "used %" PRIu64 ", mapped %" PRIu64, usage(c).used,
              usage(c).mapped);
}

static void case_spaces(void) {
    struct vfb_client *c = join();
    uint32_t first = space_new(c), max = vfb_info(c)->spaces_max, space;
    struct vfb_space_info i = describe(c, first);

    tap_check(i.page_sizes & PAGE, "page sizes 0x%" PRIx64, i.page_sizes);
    tap_check(i.mappings_max == vfb_info(c)->mappings_max, "mappings_max %" PRIu64, i.mappings_max);
    tap_check(i.n_usable >= 1 && i.usable[0].first == 0, "%zu usable ranges", i.n_usable);
    nothing_mapped(c, first);
    REFUSED(c, vfb_space_describe(c, first + 1000, &i), VFB_NOT_FOUND);
    says_number(c, first + 1000);
    REFUSED(c, vfb_space_destroy(c, 0), VFB_NOT_FOUND);
    for (uint32_t n = 1; n < max; n++)
        OK(c, vfb_space_create(c, NULL, &space));
    tap_check(usage(c).spaces == max, "%u spaces", usage(c).spaces);
    REFUSED(c, vfb_space_create(c, NULL, &space), VFB_LIMIT);
    says_number(c, max);
    OK(c, vfb_space_destroy(c, first));
    REFUSED(c, vfb_space_destroy(c, first), VFB_NOT_FOUND);
    OK(c, vfb_space_create(c, NULL, &space));
    vfb_client_free(c);
}

static void case_destroy_unmaps(void) {
    struct vfb_client *c = join();
    struct mem m = mem_new(c, MIB);
    uint32_t space = space_new(c);

    OK(c, map1(c, space, m.id, 0, 0, MIB));
    OK(c, vfb_space_destroy(c, space));
    tap_check(usage(c).used == 0 && usage(c).mappings == 0, "used %" PRIu64, usage(c).used);
    OK(c, vfb_memory_unregister(c, m.id));
    vfb_client_free(c);
}

static void case_impossible(void) {
    static const struct {
        uint64_t iova, offset, size;
        uint32_t prot;
        uint64_t names;
    } bad[] = {
        {0x1000, 0, 0, RW, 0x1000},                      /* nothing */
        {0x1001, 0, PAGE, RW, 0x1001},                   /* unaligned IOVA */
        {0x1000, 1, PAGE, RW, 0x1000},                   /* unaligned offset */
        {0x1000, 0, 4097, RW, 4097},                     /* unaligned size */
        {0x1000, 0, PAGE - 1, RW, PAGE - 1},             /* less than a page */
        {0xfffffffffffff000, 0, 2 * PAGE, RW, 2 * PAGE}, /* passes the end of the address space */
        {UINT64_MAX & ~4095ull, 0, MIB, RW, MIB},
        {0x1000, 0, UINT64_MAX & ~4095ull, RW, UINT64_MAX & ~4095ull},
        {0x1000, 0, MIB + PAGE, RW, MIB}, /* passes the end of the memory */
        {0x1000, MIB, PAGE, RW, MIB},
        {0x1000, MIB - PAGE, 2 * PAGE, RW, MIB - PAGE},
        {0x1000, UINT64_MAX & ~4095ull, PAGE, RW, UINT64_MAX & ~4095ull},
        {0x1000, UINT64_MAX & ~4095ull, 2 * PAGE, RW, 2 * PAGE},
        {0x1000, 0, PAGE, 0, 0},         /* no access */
        {0x1000, 0, PAGE, VFB_WRITE, 2}, /* write without read */
        {0x1000, 0, PAGE, 7, 7},         /* bits that do not exist */
        {0x1000, 0, PAGE, UINT32_MAX, UINT32_MAX},
    };
    struct vfb_client *c = join();
    struct mem m = mem_new(c, MIB);
    uint32_t space = space_new(c);

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        REFUSED_ENTRY(c, map_prot(c, space, m.id, bad[i].iova, bad[i].offset, bad[i].size, bad[i].prot), VFB_INVALID,
                      0);
        says_number(c, bad[i].names);
    }
    REFUSED_ENTRY(c, map1(c, space, m.id + 1000, 0, 0, PAGE), VFB_NOT_FOUND, 0);
    says_number(c, m.id + 1000);
    REFUSED(c, map1(c, space + 1000, m.id, 0, 0, PAGE), VFB_NOT_FOUND);
    says_number(c, space + 1000);
    nothing_mapped(c, space);
    vfb_client_free(c);
}

static void case_batch_size(void) {
    struct vfb_client *c = join();
    struct mem m = mem_new(c, PAGE);
    uint32_t space = space_new(c), max = vfb_info(c)->batch_max;
    struct vfb_map *e = calloc(max + 1, sizeof *e);
    struct vfb_unmap *u = calloc(max + 1, sizeof *u);
    uint64_t bytes;

    tap_check(e && u, "no memory");
    for (uint32_t i = 0; i <= max; i++) {
        e[i] = (struct vfb_map){.iova = i * PAGE, .size = PAGE, .memory = m.id, .prot = RW};
        u[i] = (struct vfb_unmap){.iova = i * PAGE, .size = PAGE};
    }
    REFUSED(c, vfb_map(c, space, e, 0), VFB_INVALID);
    REFUSED(c, vfb_map(c, space, e, max + 1), VFB_INVALID);
    says_number(c, max);
    OK(c, vfb_map(c, space, e, max));
    tap_check(usage(c).used == paid(c, PAGE, max * PAGE) && usage(c).mapped == max * PAGE, "used %" PRIu64,
              usage(c).used);
    REFUSED(c, vfb_unmap(c, space, u, 0, NULL), VFB_INVALID);
    REFUSED(c, vfb_unmap(c, space, u, max + 1, NULL), VFB_INVALID);
    OK(c, vfb_unmap(c, space, u, max, &bytes));
    tap_check(bytes == max * PAGE, "%" PRIu64 " bytes", bytes);
    nothing_mapped(c, space);
    free(e);
    free(u);
    vfb_client_free(c);
}

static void case_map_all_or_nothing(void) {
    struct vfb_client *c = join();
    struct mem m = mem_new(c, MIB);
    uint32_t space = space_new(c);
    struct vfb_map e[] = {
        {.iova = 0, .size = PAGE, .offset = 0, .memory = m.id, .prot = RW},
        {.iova = PAGE, .size = PAGE, .offset = PAGE, .memory = m.id, .prot = RW},
        {.iova = 2 * PAGE, .size = PAGE, .offset = MIB, .memory = m.id, .prot = RW},
        {.iova = 3 * PAGE, .size = PAGE, .offset = 3 * PAGE, .memory = m.id, .prot = RW},
    };

    REFUSED_ENTRY(c, vfb_map(c, space, e, 4), VFB_INVALID, 2);
    nothing_mapped(c, space);
    e[2].iova = PAGE / 2 * 2; /* the same as entry 1 */
    e[2].offset = 0;
    REFUSED_ENTRY(c, vfb_map(c, space, e, 4), VFB_OVERLAP, 2);
    nothing_mapped(c, space);
    e[2].iova = 2 * PAGE;
    OK(c, vfb_map(c, space, e, 4));
    tap_check(describe(c, space).mappings == 4 && usage(c).used == paid(c, 3 * PAGE, 4 * PAGE), "used %" PRIu64,
              usage(c).used);
    REFUSED_ENTRY(c, vfb_map(c, space, e, 1), VFB_OVERLAP, 0);
    tap_check(describe(c, space).mappings == 4, "a refused map changed the space");
    vfb_client_free(c);
}

static void case_overlap(void) {
    static const struct {
        uint64_t iova, size;
        size_t conflicts;
    } with[] = {
        {0x10000, 0x4000, 1}, /* the same */
        {0x10000, 0x1000, 1}, /* its beginning */
        {0x13000, 0x1000, 1}, /* its end */
        {0x11000, 0x1000, 1}, /* inside */
        {0xf000, 0x2000, 1},  /* over the beginning */
        {0x13000, 0x2000, 1}, /* over the end */
        {0xf000, 0x6000, 1},  /* around it */
        {0x13000, 0x8000, 2}, /* and the next */
    };
    struct vfb_client *c = join();
    struct mem m = mem_new(c, MIB);
    uint32_t space = space_new(c), other = space_new(c);

    OK(c, map1(c, space, m.id, 0x10000, 0, 0x4000));
    OK(c, map1(c, space, m.id, 0x18000, 0, 0x4000));
    for (size_t i = 0; i < sizeof with / sizeof with[0]; i++) {
        const struct vfb_error *e = vfb_error(c);

        REFUSED_ENTRY(c, map1(c, space, m.id, with[i].iova, 0x8000, with[i].size), VFB_OVERLAP, 0);
        says_number(c, 0x10000);
        says_number(c, with[i].iova);
        tap_check(e->n_conflicts == with[i].conflicts, "%zu: %zu conflicts", i, e->n_conflicts);
        tap_check(e->conflicts[0].first == with[i].iova && e->conflicts[0].last == with[i].iova + with[i].size - 1 &&
                      e->conflicts[0].with_first == 0x10000 && e->conflicts[0].with_last == 0x13fff &&
                      strcmp(e->conflicts[0].kind, "mapping") == 0,
                  "%zu: conflict of %" PRIx64 "-%" PRIx64 " with %s %" PRIx64 "-%" PRIx64, i, e->conflicts[0].first,
                  e->conflicts[0].last, e->conflicts[0].kind, e->conflicts[0].with_first, e->conflicts[0].with_last);
    }
    OK(c, map1(c, space, m.id, 0xf000, 0, 0x1000)); /* neighbours are none */
    OK(c, map1(c, space, m.id, 0x14000, 0, 0x1000));
    OK(c, map1(c, other, m.id, 0x10000, 0, 0x4000)); /* nor are other spaces */
    tap_check(describe(c, space).mappings == 4, "%" PRIu64 " mappings", describe(c, space).mappings);
    vfb_client_free(c);
}

static void case_unmap(void) {
    struct vfb_client *c = join();
    struct mem m = mem_new(c, MIB);
    uint32_t space = space_new(c);
    struct vfb_unmap both[] = {{.iova = 0x10000, .size = 0x4000}, {.iova = 0x18000, .size = 0x1000}};
    uint64_t bytes = 4711;

    REFUSED_ENTRY(c, unmap1(c, space, 0x10000, PAGE), VFB_NOT_FOUND, 0);
    says_number(c, 0x10000);
    OK(c, map1(c, space, m.id, 0x10000, 0, 0x4000));
    OK(c, map1(c, space, m.id, 0x18000, 0, 0x1000));
    REFUSED_ENTRY(c, unmap1(c, space, 0x10000, 0), VFB_INVALID, 0);
    REFUSED_ENTRY(c, unmap1(c, space, UINT64_MAX - 1, PAGE), VFB_INVALID, 0);
    REFUSED_ENTRY(c, unmap1(c, space, 0x14000, 0x4000), VFB_NOT_FOUND, 0); /* the gap */
    REFUSED_ENTRY(c, unmap1(c, space, 0x10000, 0x1000), VFB_INVALID, 0);   /* cuts */
    says_number(c, 0x10000);
    says_number(c, 0x13fff);
    REFUSED_ENTRY(c, unmap1(c, space, 0x11000, 0x8000), VFB_INVALID, 0);
    REFUSED(c, unmap1(c, space + 1000, 0x10000, PAGE), VFB_NOT_FOUND);
    both[1].size = 0x800;
    REFUSED_ENTRY(c, vfb_unmap(c, space, both, 2, &bytes), VFB_INVALID, 1);
    both[1] = both[0];
    REFUSED_ENTRY(c, vfb_unmap(c, space, both, 2, &bytes), VFB_INVALID, 1);
    both[1] = (struct vfb_unmap){.iova = 0x30000, .size = PAGE};
    REFUSED_ENTRY(c, vfb_unmap(c, space, both, 2, &bytes), VFB_NOT_FOUND, 1);
    tap_check(bytes == 4711, "an output was touched on failure");
    tap_check(describe(c, space).mappings == 2, "a refused unmap changed the space");
    OK(c, vfb_unmap(c, space, &(struct vfb_unmap){.iova = 0, .size = 0x100000}, 1, &bytes)); /* several, and gaps */
    tap_check(bytes == 0x5000, "%" PRIu64 " bytes", bytes);
    nothing_mapped(c, space);
    OK(c, map1(c, space, m.id, 0x10000, 0x8000, 0x4000)); /* free again */
    OK(c, map1(c, space, m.id, 0x20000, 0, 0x1000));
    OK(c, vfb_unmap_all(c, space, &bytes));
    tap_check(bytes == 0x5000, "%" PRIu64 " bytes", bytes);
    OK(c, vfb_unmap_all(c, space, &bytes));
    tap_check(bytes == 0, "%" PRIu64 " bytes", bytes);
    REFUSED(c, vfb_unmap_all(c, space + 1000, NULL), VFB_NOT_FOUND);
    nothing_mapped(c, space);
    vfb_client_free(c);
}

static void case_ends_of_address_space(void) {
    struct vfb_client *c = join();
    struct mem m = mem_new(c, MIB);
    uint32_t space = space_new(c);
    struct vfb_space_info i = describe(c, space);
    uint64_t last = i.usable[i.n_usable - 1].last;

    tap_diag("%zu usable ranges, the last ends at 0x%" PRIx64, i.n_usable, last);
    tap_check((last & (PAGE - 1)) == PAGE - 1, "the last address 0x%" PRIx64 " does not end a page", last);
    OK(c, map1(c, space, m.id, 0, 0, PAGE));
    OK(c, map1(c, space, m.id, last - PAGE + 1, PAGE, PAGE)); /* iova + size may be 2^64 */
    if (last != UINT64_MAX) {
        REFUSED_ENTRY(c, map1(c, space, m.id, last + 1, 0, PAGE), VFB_RESERVED, 0);
        tap_check(vfb_error(c)->n_conflicts >= 1, "no conflict is named");
    }
    tap_check(describe(c, space).mappings == 2, "%" PRIu64 " mappings", describe(c, space).mappings);
    OK(c, unmap1(c, space, last - PAGE + 1, PAGE));
    OK(c, unmap1(c, space, 0, PAGE));
    nothing_mapped(c, space);
    vfb_client_free(c);
}

static void pays(struct vfb_client *c, uint64_t shared, int line) {
    const struct vfb_usage u = usage(c);
    const uint64_t wanted = paid(c, shared, u.mapped);

    tap_check(u.used == wanted, "line %d: used %" PRIu64 " instead of %" PRIu64, line, u.used, wanted);
}

/* Where pins are not shared, each of them is paid: what is mapped. */
static void case_shared_pages(void) {
    struct vfb_client *c = join();
    struct mem m = mem_new(c, MIB), n = mem_new(c, MIB);
    uint32_t a = space_new(c), b = space_new(c);

    OK(c, map1(c, a, m.id, 0, 0, MIB));
    pays(c, MIB, __LINE__);
    OK(c, map1(c, b, m.id, 0, 0, MIB));
    OK(c, map1(c, a, m.id, 0x10000000, MIB / 2, MIB / 2));
    pays(c, MIB, __LINE__);
    tap_check(usage(c).mapped == 2 * MIB + MIB / 2, "mapped %" PRIu64, usage(c).mapped);
    OK(c, map1(c, b, n.id, 0x10000000, PAGE, PAGE));
    pays(c, MIB + PAGE, __LINE__);
    OK(c, unmap1(c, a, 0, MIB));
    pays(c, MIB + PAGE, __LINE__);
    OK(c, unmap1(c, b, 0, MIB));
    pays(c, MIB / 2 + PAGE, __LINE__);
    OK(c, vfb_unmap_all(c, a, NULL));
    OK(c, vfb_unmap_all(c, b, NULL));
    tap_check(usage(c).used == 0 && usage(c).mapped == 0, "used %" PRIu64, usage(c).used);
    vfb_client_free(c);
}

/* Distinct pages, however the ranges lie over each other. */
static void case_partial_aliases(void) {
    struct vfb_client *c = join();
    struct mem m = mem_new(c, 16 * PAGE);
    uint32_t space = space_new(c);

    OK(c, map1(c, space, m.id, 0x100000, 0, 8 * PAGE));
    OK(c, map1(c, space, m.id, 0x200000, 4 * PAGE, 8 * PAGE));
    pays(c, 12 * PAGE, __LINE__);
    OK(c, map1(c, space, m.id, 0x300000, 14 * PAGE, PAGE));
    OK(c, map1(c, space, m.id, 0x400000, 0, 16 * PAGE));
    pays(c, 16 * PAGE, __LINE__);
    OK(c, unmap1(c, space, 0x400000, 16 * PAGE));
    pays(c, 13 * PAGE, __LINE__);
    OK(c, unmap1(c, space, 0x100000, 8 * PAGE));
    pays(c, 9 * PAGE, __LINE__);
    vfb_client_free(c);
}

static void case_usage(void) {
    struct vfb_client *c = join();
    struct mem m = mem_new(c, MIB);
    uint32_t space = space_new(c);
    struct vfb_usage u = usage(c);

    tap_check(u.memories == 1 && u.spaces == 1 && u.devices == 0, "%u memories, %u spaces, %u devices", u.memories,
              u.spaces, u.devices);
    tap_check(u.used == 0 && u.mapped == 0 && u.mappings == 0, "used %" PRIu64, u.used);
    tap_check(u.limit == vfb_info(c)->memory_bytes, "limit %" PRIu64 ", hello said %" PRIu64, u.limit,
              vfb_info(c)->memory_bytes);
    tap_check(u.limit_whose[0], "whose limit is it?");
    OK(c, map1(c, space, m.id, 0, 0, MIB));
    u = usage(c);
    tap_check(u.used == MIB && u.mapped == MIB && u.mappings == 1, "used %" PRIu64, u.used);
    OK(c, vfb_unmap_all(c, space, NULL));
    OK(c, vfb_space_destroy(c, space));
    OK(c, vfb_memory_unregister(c, m.id));
    u = usage(c);
    tap_check(u.memories == 0 && u.spaces == 0 && u.used == 0 && u.mapped == 0 && u.mappings == 0, "used %" PRIu64,
              u.used);
    vfb_client_free(c);
}

DEFINE_CASES(mapping, {"spaces: create, describe, destroy, limit", case_spaces, 0},
             {"destroying a space unmaps", case_destroy_unmaps, 0},
             {"impossible numbers are refused and named", case_impossible, 0},
             {"batches have a size", case_batch_size, 0}, {"map: all entries or none", case_map_all_or_nothing, 0},
             {"overlaps are refused, with conflicts", case_overlap, 0},
             {"unmap: nothing there, cutting, several, all", case_unmap, 0},
             {"both ends of the address space", case_ends_of_address_space, 0},
             {"two spaces share memory: what is paid", case_shared_pages, 0},
             {"partial aliases: what is paid", case_partial_aliases, 0}, {"usage tells what is there", case_usage, 0});
