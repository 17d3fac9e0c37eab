/* Domains of a space on a backend that shares pins: leaving out, later maps and unmaps in several domains, needs, the refill of
 * large spaces, dirty tracking, discards. */
#include "tests/unit/model-fixture.h"

#define LEASE  (64 * MIB)
#define LOW    0x10000ull
#define WINDOW 0xfee00000ull /* of the MSI */
#define HIGH   (1ull << 40)
#define MSI    .n_reserved = 1, .reserved = {{{0xfee00000, 0xfeefffff}, "msi"}}

static const struct vb_emulated_kind kinds[] = {
    {.address = "narrow", .aperture_last = (1ull << 39) - 1, .page_size = 4096, MSI},
    {.address = "narrow2", .aperture_last = (1ull << 39) - 1, .page_size = 4096, MSI},
    {.address = "tiny", .aperture_last = (1ull << 32) - 1, .page_size = 4096, MSI},
    {.address = "no dirty", .aperture_last = (1ull << 48) - 1, .page_size = 4096, .no_dirty = true, MSI},
    {.address = "large pages", .aperture_last = (1ull << 48) - 1, .page_size = 65536, MSI},
};

static struct vb_space *s;

static int set_up(void **state) {
    const struct vb_emulated_knobs knobs = {.kinds = kinds, .n_kinds = sizeof(kinds) / sizeof(*kinds)};

    (void)state;
    fds = count_fds();
    m = make_model_with(&knobs, LEASE);
    add_memory(m, MIB);
    s = add_space(m);
    return 0;
}

static void map_at(uint64_t iova, uint64_t size) {
    assert_int_equal(map1(m, s->id, 1, iova, size, 0, 3, fresh()), 0);
    check_model(m);
}

static void unmap_at(uint64_t iova, uint64_t size) {
    uint64_t n, bytes;

    assert_int_equal(unmap1(m, s->id, iova, size, &n, &bytes, fresh()), 0);
    check_model(m);
}

static unsigned domains(void) {
    const struct vb_domain *dom;
    unsigned n = 0;

    TAILQ_FOREACH (dom, &s->domains, entry)
        n++;
    return n;
}

/* ---- leaving out ---- */

static void test_leaving_out(void **state) {
    struct vb_attached ret = {.conflicts = fresh()};
    struct vb_error list = {0};
    struct vb_device *d;
    int fd;

    (void)state;
    map_at(LOW, 0x4000);
    map_at(WINDOW, 0x1000);
    map_at(HIGH, 0x1000);
    d = add_device(m, "narrow", &fd);
    REFUSED(vb_model_attach(m, d->id, s->id, false, &ret, fresh()), VB_RESERVED, "narrow", "1 mappings", "leaving");
    assert_int_equal(domains(), 1);
    ret = (struct vb_attached){.conflicts = &list};
    assert_int_equal(vb_model_attach(m, d->id, s->id, true, &ret, fresh()), 0);
    check_model(m);
    assert_true(ret.mappings == 1 && ret.bytes == 0x4000 && ret.left_out == 2);
    assert_int_equal(list.n_conflicts, 2);
    assert_true(list.conflicts[0].first == WINDOW && strcmp(list.conflicts[0].kind, "msi") == 0);
    assert_true(list.conflicts[1].first == HIGH && strcmp(list.conflicts[1].kind, "aperture") == 0);
    assert_true(list.conflicts[1].with_first == 1ull << 39 && strcmp(list.conflicts[1].device, "narrow") == 0);
    assert_true(reaches(m, d, LOW, 0x4000) && !reaches(m, d, WINDOW, 0x1000) && !reaches(m, d, HIGH, 0x1000));
    assert_true(domains() == 2 && d->domain->leaves_out && d->domain->left_out == 2);
    /* It does not narrow what can be mapped, now and later. */
    assert_int_equal(s->info.n_usable, 1);
    map_at(HIGH + 0x10000, 0x1000);
    map_at(0x100000, 0x1000);
    assert_true(d->domain->left_out == 3 && reaches(m, d, 0x100000, 0x1000));
    unmap_at(WINDOW, 0x1000);
    unmap_at(LOW, 0x4000);
    assert_true(d->domain->left_out == 2 && !reaches(m, d, LOW, 0x1000));
    assert_int_equal(m->ledger.used, 0x1000); /* all of them show the same page */
    assert_int_equal(vb_model_detach(m, d->id, fresh()), 0);
    assert_int_equal(domains(), 1);
    check_model(m);
    /* The same device, refused for what its claim does not tell: the text names both ends all the same. */
    REFUSED(attach1(m, d->id, s->id, fresh()), VB_RESERVED, "2 mappings", "narrow", "0x10000000000");
    assert_int_equal(e.n_conflicts, 2);
    assert_string_equal(e.conflicts[0].kind, "aperture");
    close(fd);
}

static void test_two_devices(void **state) {
    struct vb_device *narrow, *wide, *large;
    int fd[3];

    (void)state;
    map_at(LOW, 0x10000);
    map_at(HIGH, 0x10000);
    narrow = add_device(m, "narrow", &fd[0]);
    wide = add_device(m, "wide", &fd[1]);
    large = add_device(m, "large pages", &fd[2]);
    assert_int_equal(attach_leaving_out(m, narrow->id, s->id), 1);
    assert_int_equal(attach1(m, wide->id, s->id, fresh()), 0);
    assert_int_equal(s->info.n_usable, 2); /* of wide */
    REFUSED(map1(m, s->id, 1, WINDOW, 0x1000, 0, 3, fresh()), VB_RESERVED, "wide", "msi");
    map_at(0x300000, 0x1000);
    assert_true(reaches(m, wide, HIGH, 0x1000) && reaches(m, wide, 0x300000, 0x1000));
    assert_true(reaches(m, narrow, 0x300000, 0x1000) && !reaches(m, narrow, HIGH, 0x1000));
    assert_int_equal(attach_leaving_out(m, large->id, s->id), 1); /* 0x300000 is a small page */
    assert_true(reaches(m, large, HIGH, 0x10000) && !reaches(m, large, 0x300000, 0x1000));
    assert_int_equal(domains(), 3);
    REFUSED(vb_model_space_destroy(m, s->id, fresh()), VB_BUSY, "3 attached");
    assert_int_equal(vb_model_detach(m, wide->id, fresh()), 0);
    map_at(WINDOW, 0x10000);
    assert_true(!reaches(m, large, WINDOW, 0x1000) && !reaches(m, narrow, WINDOW, 0x1000));
    REFUSED(attach1(m, wide->id, s->id, fresh()), VB_RESERVED, "wide", "0xfee00000");
    unmap_at(0, UINT64_MAX);
    assert_int_equal(attach1(m, wide->id, s->id, fresh()), 0);
    close(fd[0]);
    close(fd[1]);
    close(fd[2]);
}

/* A page size of a device that leaves nothing out is everybody's. */
static void test_large_pages(void **state) {
    struct vb_device *d;
    int fd;

    (void)state;
    map_at(LOW, 0x10000);
    map_at(0x300000, 0x1000);
    d = add_device(m, "large pages", &fd);
    REFUSED(attach1(m, d->id, s->id, fresh()), VB_RESERVED, "1 mappings", "0x300000", "large pages");
    assert_string_equal(e.conflicts[0].kind, "alignment");
    unmap_at(0x300000, 0x1000);
    assert_int_equal(attach1(m, d->id, s->id, fresh()), 0);
    REFUSED(map1(m, s->id, 1, 0x300000, 0x1000, 0, 3, fresh()), VB_INVALID, "64 KiB");
    close(fd);
}

/* ---- failures in one domain of two ---- */

static void test_failures_in_the_second_domain(void **state) {
    const struct vb_map_entry batch[3] = {{.iova = 0x200000, .size = 0x1000, .memory = 1, .prot = 3},
                                          {.iova = HIGH + 0x20000, .size = 0x1000, .memory = 1, .prot = 3},
                                          {.iova = 0x210000, .size = 0x1000, .memory = 1, .prot = 3}};
    struct vb_device *wide, *narrow;
    uint64_t n, bytes;
    int fd[2];

    (void)state;
    map_at(LOW, 0x4000);
    map_at(HIGH, 0x1000);
    wide = add_device(m, "wide", &fd[0]);
    narrow = add_device(m, "narrow", &fd[1]);
    assert_int_equal(attach1(m, wide->id, s->id, fresh()), 0);
    assert_int_equal(attach_leaving_out(m, narrow->id, s->id), 1);
    arm(VB_EMULATED_MAP, 5, -EIO, false); /* three in wide's, then the second in narrow's: entry 2 */
    REFUSED(vb_model_map(m, s->id, batch, 3, fresh()), -EIO, "purpose");
    assert_int_equal(e.entry, 2);
    assert_int_equal(s->mappings, 2);
    arm(VB_EMULATED_UNMAP, 2, -EBUSY, false); /* wide's is unmapped, narrow's not: it is put back */
    REFUSED(unmap1(m, s->id, LOW, 0x4000, &n, &bytes, fresh()), -EBUSY, "purpose");
    assert_true(reaches(m, wide, LOW, 0x4000) && reaches(m, narrow, LOW, 0x4000));
    arm(VB_EMULATED_UNMAP, 2, -EBUSY, false); /* and it cannot be put back: it is gone from both, and said so */
    arm(VB_EMULATED_MAP, 1, -ENOMEM, false);
    assert_int_equal(unmap1(m, s->id, LOW, 0x4000, &n, &bytes, fresh()), -EBUSY);
    assert_text(&e, "1 mappings", "gone", NULL);
    arm(VB_EMULATED_UNMAP, 0, 0, false);
    arm(VB_EMULATED_MAP, 0, 0, false);
    vb_model_unmap_all(m, s->id, &n, &bytes, NULL);
    close(fd[0]);
    close(fd[1]);
}

static void test_a_map_that_cannot_be_undone_is_in_all_domains(void **state) {
    struct vb_device *wide, *narrow;
    int fd[2];

    (void)state;
    wide = add_device(m, "wide", &fd[0]);
    narrow = add_device(m, "narrow", &fd[1]);
    assert_int_equal(attach1(m, wide->id, s->id, fresh()), 0);
    attach_leaving_out(m, narrow->id, s->id);
    arm(VB_EMULATED_MAP, 2, -EIO, false);     /* mapped for wide, not for narrow */
    arm(VB_EMULATED_UNMAP, 1, -EBUSY, false); /* and wide's stays */
    REFUSED(map1(m, s->id, 1, LOW, 0x1000, 0, 3, fresh()), VB_BUSY, "could not be undone");
    assert_true(reaches(m, wide, LOW, 0x1000) && reaches(m, narrow, LOW, 0x1000));
    assert_int_equal(m->ledger.used, 0x1000);
    close(fd[0]);
    close(fd[1]);
}

/* ---- needs ---- */

static void test_needs(void **state) {
    struct vb_range needs[VB_NEEDS_MAX + 1] = {{WINDOW, WINDOW + 0xfff}, {HIGH, HIGH + 0xffff}};
    struct vb_device *wide, *narrow;
    unsigned i;
    int fd[2];

    (void)state;
    wide = add_device(m, "wide", &fd[0]);
    narrow = add_device(m, "narrow", &fd[1]);
    REFUSED(vb_model_space_need(m, 9, needs, 1, fresh()), VB_NOT_FOUND, "space 9");
    for (i = 2; i <= VB_NEEDS_MAX; i++)
        needs[i] = (struct vb_range){i * 0x10000, i * 0x10000 + 1};
    REFUSED(vb_model_space_need(m, s->id, needs, VB_NEEDS_MAX + 1, fresh()), VB_LIMIT, "16", "17");
    needs[2] = (struct vb_range){5, 4};
    REFUSED(vb_model_space_need(m, s->id, needs, 3, fresh()), VB_INVALID, "no range");
    needs[2] = needs[1];
    REFUSED(vb_model_space_need(m, s->id, needs, 3, fresh()), VB_INVALID, "overlaps");
    assert_int_equal(s->n_needs, 0);
    assert_int_equal(vb_model_space_need(m, s->id, needs, 2, fresh()), 0);
    REFUSED(attach1(m, wide->id, s->id, fresh()), VB_RESERVED, "needs 0xfee00000", "wide");
    assert_string_equal(e.conflicts[0].kind, "msi");
    assert_int_equal(vb_model_space_need(m, s->id, needs + 1, 1, fresh()), 0); /* in its place */
    assert_int_equal(attach1(m, wide->id, s->id, fresh()), 0);
    REFUSED(attach1(m, narrow->id, s->id, fresh()), VB_RESERVED, "narrow");
    assert_int_equal(attach_leaving_out(m, narrow->id, s->id), 0); /* its own affair */
    needs[1] = (struct vb_range){HIGH + 1, HIGH + 1};              /* a byte is a page */
    assert_int_equal(vb_model_space_need(m, s->id, needs + 1, 1, fresh()), 0);
    needs[1] = (struct vb_range){HIGH, HIGH + 0xffff};
    assert_int_equal(vb_model_space_need(m, s->id, needs + 1, 1, fresh()), 0);
    REFUSED(vb_model_space_need(m, s->id, needs, 1, fresh()), VB_RESERVED, "wide", "0xfee00000");
    assert_true(s->n_needs == 1 && s->needs[0].first == HIGH);
    arm(VB_EMULATED_DOMAIN_NEED, 1, -EIO, false);
    REFUSED(vb_model_space_need(m, s->id, NULL, 0, fresh()), -EIO, "purpose");
    assert_int_equal(s->n_needs, 1);
    assert_int_equal(vb_model_space_need(m, s->id, NULL, 0, fresh()), 0);
    assert_int_equal(vb_model_detach(m, narrow->id, fresh()), 0);
    assert_int_equal(attach1(m, narrow->id, s->id, fresh()), 0);
    close(fd[0]);
    close(fd[1]);
}

/* ---- large spaces are refilled ---- */

static uint64_t progress_done, progress_total;
static void on_progress(void *arg, const struct vb_device *d, uint64_t done, uint64_t total) {
    assert_true(arg == &progress_done && strcmp(d->address, "wide") == 0);
    assert_true(done > progress_done);
    progress_done = done;
    progress_total = total;
}

static void test_refill(void **state) {
    static struct vb_map_entry maps[320];
    const struct vb_range need = {HIGH, HIGH + 0xfff}, window = {WINDOW, WINDOW};
    struct vb_attached ret = {0};
    struct vb_device *wide, *narrow;
    vb_handle before;
    unsigned i;
    int fd[2];

    (void)state;
    for (i = 0; i < 320; i++)
        maps[i] = (struct vb_map_entry){.iova = 0x10000000 + i * MIB, .size = MIB, .memory = 1, .prot = 3};
    assert_int_equal(vb_model_map(m, s->id, maps, 320, fresh()), 0);
    assert_int_equal(vb_model_space_need(m, s->id, &need, 1, fresh()), 0);
    wide = add_device(m, "wide", &fd[0]);
    before = TAILQ_FIRST(&s->domains)->handle;
    arm(VB_EMULATED_MAP, 300, -EIO, false);
    assert_int_equal(vb_model_attach(m, wide->id, s->id, false, &ret, fresh()), -EIO);
    check_model(m);
    assert_true(domains() == 1 && TAILQ_FIRST(&s->domains)->handle == before && wide->state == VB_DEVICE_BOUND);
    m->progress = on_progress;
    m->progress_arg = &progress_done;
    progress_done = 0;
    assert_int_equal(vb_model_attach(m, wide->id, s->id, false, &ret, fresh()), 0);
    assert_true(progress_done == 320 * MIB && progress_total == 320 * MIB);
    assert_true(ret.mappings == 320 && ret.bytes == 320 * MIB && ret.left_out == 0);
    assert_true(domains() == 1 && TAILQ_FIRST(&s->domains)->handle != before);
    assert_true(reaches(m, wide, 0x10000000, 320 * MIB));
    assert_int_equal(m->ledger.used, MIB);
    REFUSED(vb_model_space_need(m, s->id, &window, 1, fresh()), VB_RESERVED, "wide");
    narrow = add_device(m, "narrow", &fd[1]); /* the need went along: its claim does not tell how narrow it is */
    REFUSED(attach1(m, narrow->id, s->id, fresh()), VB_RESERVED, "needs 0x10000000000", "narrow");
    assert_int_equal(vb_model_detach(m, wide->id, fresh()), 0);
    assert_int_equal(domains(), 1);
    close(fd[0]);
    close(fd[1]);
}

/* ---- dirty tracking ---- */

/* The bits of [iova, iova + 64 pages) as one word. */
static uint64_t dirty_at(uint64_t iova, bool keep) {
    uint64_t bits = 0;

    assert_int_equal(
        vb_model_dirty_read(m, s->id, (struct vb_range){iova, iova + 64 * 4096 - 1}, 4096, keep, &bits, fresh()), 0);
    return bits;
}

static void test_dirty(void **state) {
    struct vb_device *a, *b;
    struct vb_dirty_info info = {0};
    uint64_t bits, many[3] = {0};
    int fd[2];

    (void)state;
    map_at(0x100000, 0x8000);
    map_at(0x110000, 0x8000); /* an alias, and a hole between them */
    REFUSED(vb_model_dirty_set(m, s->id, true, &info, fresh()), VB_STATE, "no devices");
    REFUSED(vb_model_dirty_read(m, s->id, (struct vb_range){0x100000, 0x107fff}, 4096, false, &bits, fresh()), VB_STATE,
            "not on");
    a = add_device(m, "wide", &fd[0]);
    b = add_device(m, "narrow", &fd[1]);
    assert_int_equal(attach1(m, a->id, s->id, fresh()), 0);
    attach_leaving_out(m, b->id, s->id);
    assert_int_equal(dma_write(m, a, fd[0], 0x100000, 8), 0); /* before: it does not count */
    assert_int_equal(vb_model_dirty_set(m, s->id, true, &info, fresh()), 0);
    assert_true(info.page_size == 4096 && !info.coarse && s->dirty);
    REFUSED(vb_model_dirty_set(m, s->id, true, &info, fresh()), VB_STATE, "is on");
    assert_int_equal(dirty_at(0x100000, false), 0);
    assert_int_equal(dma_write(m, a, fd[0], 0x101ffc, 8), 0); /* over a border: pages 1 and 2 */
    assert_int_equal(dma_write(m, b, fd[1], 0x107ff0, 8), 0); /* the other domain: page 7 */
    assert_int_equal(dma_write(m, b, fd[1], 0x112000, 8), 0); /* page 18 */
    assert_int_equal(dma_write(m, b, fd[1], 0x108000, 8), -EFAULT);
    assert_int_equal(dirty_at(0x100000, true), 0x40086);
    assert_int_equal(dirty_at(0x100000, false), 0x40086);
    assert_int_equal(dirty_at(0x100000, false), 0);
    assert_int_equal(dma_write(m, a, fd[0], 0x114000, 8), 0);
    bits = 1ull << 63; /* bits are set only */
    assert_int_equal(vb_model_dirty_read(m, s->id, (struct vb_range){0x110000, 0x117fff}, 4096, false, &bits, fresh()),
                     0);
    assert_int_equal(bits, 1ull << 63 | 1 << 4);
    /* Larger pages, and a range that begins before what is mapped. */
    assert_int_equal(dma_write(m, a, fd[0], 0x105000, 8), 0);
    assert_int_equal(vb_model_dirty_read(m, s->id, (struct vb_range){0, 0x13ffff}, 0x4000, false, many, fresh()), 0);
    assert_true(many[0] == 0 && many[1] == 1ull << (0x104000 / 0x4000 - 64) && many[2] == 0);
    /* Refused. */
    REFUSED(vb_model_dirty_read(m, s->id, (struct vb_range){0x100000, 0x106fff}, 4096, false, &bits, fresh()),
            VB_INVALID, "cuts");
    REFUSED(vb_model_dirty_read(m, s->id, (struct vb_range){0x100000, 0x107fff}, 512, false, &bits, fresh()),
            VB_INVALID, "512");
    REFUSED(vb_model_dirty_read(m, s->id, (struct vb_range){0x100000, 0x107fff}, 12288, false, &bits, fresh()),
            VB_INVALID, "power of 2");
    REFUSED(vb_model_dirty_read(m, s->id, (struct vb_range){0x100800, 0x107fff}, 4096, false, &bits, fresh()),
            VB_INVALID, "multiple");
    REFUSED(vb_model_dirty_read(m, s->id, (struct vb_range){0, (1ull << 40) - 1}, 4096, false, &bits, fresh()),
            VB_LIMIT, "parts");
    /* A failure in the second domain has lost nothing: what the first told is in the bitmap. */
    assert_int_equal(dma_write(m, a, fd[0], 0x100000, 8), 0);
    assert_int_equal(dma_write(m, b, fd[1], 0x101000, 8), 0);
    arm(VB_EMULATED_DIRTY_READ, 2, -EIO, false);
    bits = 0;
    REFUSED(vb_model_dirty_read(m, s->id, (struct vb_range){0x100000, 0x107fff}, 4096, false, &bits, fresh()), -EIO,
            "purpose");
    bits |= dirty_at(0x100000, false);
    assert_int_equal(bits, 3);
    /* Off and on: from a clean state. */
    assert_int_equal(dma_write(m, a, fd[0], 0x100000, 8), 0);
    assert_int_equal(vb_model_dirty_set(m, s->id, false, NULL, fresh()), 0);
    assert_false(s->dirty);
    arm(VB_EMULATED_DIRTY_SET, 2, VB_UNSUPPORTED, false);
    REFUSED(vb_model_dirty_set(m, s->id, true, &info, fresh()), VB_UNSUPPORTED, "purpose");
    assert_false(s->dirty);
    assert_int_equal(vb_model_dirty_set(m, s->id, true, &info, fresh()), 0);
    assert_int_equal(dirty_at(0x100000, false), 0);
    close(fd[0]);
    close(fd[1]);
}

/* What an unmap that failed has mapped again, has lost its bits: all of it counts as written, once. */
static void test_dirty_and_failed_unmaps(void **state) {
    const struct vb_unmap_entry both[] = {{0x100000, 0x8000}, {0x110000, 0x8000}};
    struct vb_device *a;
    uint64_t n, bytes;
    int fd;

    (void)state;
    map_at(0x100000, 0x8000);
    map_at(0x110000, 0x8000);
    a = add_device(m, "wide", &fd);
    assert_int_equal(attach1(m, a->id, s->id, fresh()), 0);
    assert_int_equal(vb_model_dirty_set(m, s->id, true, NULL, fresh()), 0);
    assert_int_equal(dma_write(m, a, fd, 0x101000, 8), 0);
    arm(VB_EMULATED_UNMAP, 2, -EIO, false);
    assert_int_equal(vb_model_unmap(m, s->id, both, 2, &n, &bytes, fresh()), -EIO);
    check_model(m);
    assert_int_equal(dirty_at(0x100000, true), 0xff00ff);
    assert_int_equal(dirty_at(0x100000, false), 0xff00ff);
    assert_int_equal(dirty_at(0x100000, false), 0);
    close(fd);
}

static void test_dirty_and_late_devices(void **state) {
    struct vb_device *a, *b, *none;
    int fd[3];

    (void)state;
    map_at(0x100000, 0x8000);
    a = add_device(m, "narrow", &fd[0]);
    b = add_device(m, "wide", &fd[1]);
    none = add_device(m, "no dirty", &fd[2]);
    attach_leaving_out(m, a->id, s->id);
    assert_int_equal(vb_model_dirty_set(m, s->id, true, NULL, fresh()), 0);
    /* The space's first domain had no device so far; a device that comes to it is tracked too. */
    assert_int_equal(attach1(m, b->id, s->id, fresh()), 0);
    assert_int_equal(dma_write(m, b, fd[1], 0x103000, 8), 0);
    assert_int_equal(dirty_at(0x100000, false), 8);
    REFUSED(attach1(m, none->id, s->id, fresh()), VB_UNSUPPORTED, "no dirty");
    assert_int_equal(vb_model_attach(m, none->id, s->id, true, NULL, fresh()), VB_UNSUPPORTED);
    check_model(m);
    map_at(0x120000, 0x1000); /* mapped while it is on */
    assert_int_equal(dma_write(m, a, fd[0], 0x120000, 8), 0);
    assert_int_equal(dirty_at(0x100000, false), 1ull << 32);
    assert_int_equal(vb_model_dirty_set(m, s->id, false, NULL, fresh()), 0);
    assert_int_equal(attach1(m, none->id, s->id, fresh()), 0);
    REFUSED(vb_model_dirty_set(m, s->id, true, NULL, fresh()), VB_UNSUPPORTED, "no dirty");
    assert_int_equal(vb_model_detach(m, a->id, fresh()), 0);
    REFUSED(vb_model_dirty_set(m, s->id, true, NULL, fresh()), VB_UNSUPPORTED, "no dirty");
    close(fd[0]);
    close(fd[1]);
    close(fd[2]);
}

/* Devices that go and come while it is on are tracked again, from a clean state. */
static void test_dirty_without_devices_for_a_while(void **state) {
    struct vb_device *a;
    int fd;

    (void)state;
    map_at(0x100000, 0x8000);
    a = add_device(m, "wide", &fd);
    assert_int_equal(attach1(m, a->id, s->id, fresh()), 0);
    assert_int_equal(vb_model_dirty_set(m, s->id, true, NULL, fresh()), 0);
    assert_int_equal(dma_write(m, a, fd, 0x101000, 8), 0);
    assert_int_equal(vb_model_detach(m, a->id, fresh()), 0);
    arm(VB_EMULATED_DEVICE_ATTACH, 1, -EIO, false);
    assert_int_equal(attach1(m, a->id, s->id, fresh()), -EIO);
    assert_int_equal(attach1(m, a->id, s->id, fresh()), 0);
    assert_int_equal(dma_write(m, a, fd, 0x102000, 8), 0);
    assert_int_equal(dirty_at(0x100000, false), 6); /* also what was written before it left */
    close(fd);
}

/* A domain that ends takes its bits along: all that it had counts as written, once. */
static void test_dirty_and_domains_that_end(void **state) {
    struct vb_device *a, *b;
    int fd[2];

    (void)state;
    map_at(0x100000, 0x8000);
    map_at(HIGH, 0x8000);
    a = add_device(m, "wide", &fd[0]);
    b = add_device(m, "narrow", &fd[1]);
    assert_int_equal(attach1(m, a->id, s->id, fresh()), 0);
    attach_leaving_out(m, b->id, s->id);
    assert_int_equal(vb_model_dirty_set(m, s->id, true, NULL, fresh()), 0);
    assert_int_equal(dma_write(m, b, fd[1], 0x103000, 8), 0);
    assert_int_equal(vb_model_detach(m, b->id, fresh()), 0);
    assert_int_equal(dirty_at(0x100000, true), 0xff);
    assert_int_equal(dirty_at(0x100000, false), 0xff);
    assert_int_equal(dirty_at(0x100000, false), 0);
    assert_int_equal(dirty_at(HIGH, false), 0); /* it could not reach that */
    close(fd[0]);
    close(fd[1]);
}

/* The kernel has something that the model does not know of: refused, and gone. */
static void test_a_stranger_in_the_domain(void **state) {
    const struct vb_domain *dom = TAILQ_FIRST(&s->domains);
    const struct vb_memory *memory = m->memories.items[0];
    const struct vb_backend_map stranger = {.iova = 0x102000, .size = 0x1000, .memory = memory->handle, .prot = 3};
    size_t done;

    (void)state;
    assert_int_equal(m->backend->ops->map(m->backend, dom->handle, &stranger, 1, &done, NULL), 0);
    assert_int_equal(map1(m, s->id, 1, 0x100000, 0x8000, 0, 3, fresh()), -EEXIST);
    assert_int_equal(vb_emulated_dump(m->backend, dom->handle, NULL, 0), 0);
    map_at(0x100000, 0x8000);
}

/* ---- discards ---- */

static void test_discard(void **state) {
    const struct vb_unmap_entry t = {LOW, 0x10000}, both[2] = {{LOW, 0x4000}, {HIGH, 0x1000}};
    struct vb_device *wide, *narrow;
    uint64_t n = 0, bytes = 0, bits = 0;
    struct vb_pin *pin;
    int fd[2];

    (void)state;
    map_at(LOW, 0x4000);
    map_at(LOW + 0x8000, 0x1000);
    map_at(HIGH, 0x1000);
    wide = add_device(m, "wide", &fd[0]);
    narrow = add_device(m, "narrow", &fd[1]);
    assert_int_equal(attach1(m, wide->id, s->id, fresh()), 0);
    attach_leaving_out(m, narrow->id, s->id);
    REFUSED(vb_model_discard_end(m, s->id, true, fresh()), VB_STATE, "nothing");
    REFUSED(vb_model_discard(m, 9, &t, 1, &n, &bytes, fresh()), VB_NOT_FOUND, "space 9");
    REFUSED(vb_model_discard(m, s->id, &(struct vb_unmap_entry){LOW, 0x1000}, 1, &n, &bytes, fresh()), VB_INVALID,
            "cuts");
    REFUSED(vb_model_discard(m, s->id, &(struct vb_unmap_entry){0x900000, 0x1000}, 1, &n, &bytes, fresh()),
            VB_NOT_FOUND, "0x900000");
    assert_int_equal(vb_model_discard(m, s->id, &t, 1, &n, &bytes, fresh()), 0);
    check_model(m);
    assert_true(n == 2 && bytes == 0x5000 && s->discarded == 2 && s->mappings == 1);
    assert_int_equal(m->ledger.used, 0x4000); /* still paid */
    assert_true(!reaches(m, wide, LOW, 0x1000) && !reaches(m, narrow, LOW, 0x1000) && reaches(m, wide, HIGH, 0x1000));
    /* Nobody gets in between. */
    REFUSED(map1(m, s->id, 1, LOW, 0x1000, 0, 3, fresh()), VB_OVERLAP, "0x10000");
    REFUSED(unmap1(m, s->id, LOW, 0x4000, &n, &bytes, fresh()), VB_BUSY, "discarded");
    REFUSED(vb_model_unmap_all(m, s->id, &n, &bytes, fresh()), VB_BUSY, "discarded");
    REFUSED(vb_model_discard(m, s->id, &both[1], 1, &n, &bytes, fresh()), VB_BUSY, "under way");
    REFUSED(vb_model_unregister(m, 1, fresh()), VB_BUSY, "mappings");
    assert_int_not_equal(vb_model_pin(m, s, (struct vb_range){LOW, LOW + 0xfff}, 1, NULL, &pin, fresh()), 0);
    assert_int_equal(vb_model_detach(m, narrow->id, fresh()), 0);
    check_model(m);
    REFUSED(attach1(m, narrow->id, s->id, fresh()), VB_BUSY, "discarded");
    assert_int_equal(vb_model_dirty_set(m, s->id, true, NULL, fresh()), 0);
    REFUSED(vb_model_dirty_read(m, s->id, (struct vb_range){LOW, LOW + 0xffff}, 4096, false, &bits, fresh()), VB_BUSY,
            "discarded");
    map_at(0x500000, 0x1000); /* elsewhere all goes on */
    unmap_at(0x500000, 0x1000);
    assert_int_equal(vb_model_discard_end(m, s->id, true, fresh()), 0);
    assert_true(s->discarded == 0 && s->mappings == 3 && reaches(m, wide, LOW, 0x4000));
    check_model(m);
    assert_int_equal(vb_model_dirty_set(m, s->id, false, NULL, fresh()), 0);
    assert_int_equal(attach_leaving_out(m, narrow->id, s->id), 1);
    /* Left out and not, then forgotten. */
    assert_int_equal(vb_model_discard(m, s->id, both, 2, &n, &bytes, fresh()), 0);
    check_model(m);
    assert_int_equal(narrow->domain->left_out, 0);
    assert_int_equal(vb_model_discard_end(m, s->id, false, fresh()), 0);
    assert_true(s->mappings == 1 && m->ledger.used == 0x1000);
    check_model(m);
    /* Pinned. */
    assert_int_equal(vb_model_pin(m, s, (struct vb_range){LOW + 0x8000, LOW + 0x8fff}, 1, NULL, &pin, fresh()), 0);
    REFUSED(vb_model_discard(m, s->id, &(struct vb_unmap_entry){LOW + 0x8000, 0x1000}, 1, &n, &bytes, fresh()), VB_BUSY,
            "pinned");
    vb_model_unpin(m, pin);
    close(fd[0]);
    close(fd[1]);
}

static void test_discards_that_fail(void **state) {
    const struct vb_unmap_entry t[2] = {{LOW, 0x4000}, {0x200000, 0x1000}};
    struct vb_device *wide, *narrow;
    struct vb_memory *memory;
    uint64_t n, bytes;
    int fd[2];

    (void)state;
    memory = vb_table_find(&m->memories, 1);
    map_at(LOW, 0x4000);
    map_at(0x200000, 0x1000);
    wide = add_device(m, "wide", &fd[0]);
    narrow = add_device(m, "narrow", &fd[1]);
    assert_int_equal(attach1(m, wide->id, s->id, fresh()), 0);
    attach_leaving_out(m, narrow->id, s->id);
    arm(VB_EMULATED_UNMAP, 4, -EBUSY, false); /* the last of four: nothing has changed */
    REFUSED(vb_model_discard(m, s->id, t, 2, &n, &bytes, fresh()), -EBUSY, "purpose");
    assert_true(s->discarded == 0 && s->mappings == 2 && e.entry == 1);
    assert_true(reaches(m, wide, LOW, 0x4000) && reaches(m, narrow, 0x200000, 0x1000));
    /* What cannot be mapped again is gone, and said so. */
    assert_int_equal(vb_model_discard(m, s->id, t, 2, &n, &bytes, fresh()), 0);
    arm(VB_EMULATED_MAP, 4, -ENOMEM, false);
    REFUSED(vb_model_discard_end(m, s->id, true, fresh()), -ENOMEM, "2 mappings of the discard are gone");
    assert_true(s->mappings == 0 && s->discarded == 0 && m->ledger.used == 0);
    map_at(LOW, 0x4000);
    assert_int_equal(vb_model_discard(m, s->id, t, 1, &n, &bytes, fresh()), 0);
    assert_int_equal(ftruncate(memory->fd, 4096), 0);
    REFUSED(vb_model_discard_end(m, s->id, true, fresh()), VB_BAD_MEMORY, "shrunk", "1 mappings", "gone");
    assert_true(s->mappings == 0 && m->ledger.used == 0);
    close(fd[0]);
    close(fd[1]);
}

/* The client ends in the middle of it. */
static void test_emptying_within_a_discard(void **state) {
    const struct vb_unmap_entry t = {LOW, 0x4000};
    uint64_t n, bytes;
    struct vb_device *d;
    int fd;

    (void)state;
    map_at(LOW, 0x4000);
    d = add_device(m, "narrow", &fd);
    attach_leaving_out(m, d->id, s->id);
    assert_int_equal(vb_model_discard(m, s->id, &t, 1, &n, &bytes, fresh()), 0);
    vb_model_empty(m);
    assert_true(m->spaces.n == 0 && m->mappings == 0);
    close(fd);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_leaving_out),
        TEST(test_two_devices),
        TEST(test_large_pages),
        TEST(test_failures_in_the_second_domain),
        TEST(test_a_map_that_cannot_be_undone_is_in_all_domains),
        TEST(test_needs),
        TEST(test_refill),
        TEST(test_dirty),
        TEST(test_dirty_and_failed_unmaps),
        TEST(test_dirty_and_late_devices),
        TEST(test_dirty_without_devices_for_a_while),
        TEST(test_dirty_and_domains_that_end),
        TEST(test_a_stranger_in_the_domain),
        TEST(test_discard),
        TEST(test_discards_that_fail),
        TEST(test_emptying_within_a_discard),
    };

    return cmocka_run_group_tests_name("model-domains", tests, NULL, NULL);
}
