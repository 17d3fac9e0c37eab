/* Dirty tracking of the iommufd backend, with the model above it, compared bit by bit with what was dirtied: the kernel's mock
 * devices have page tables whose dirty bits can be set. Run by `tests/vm/run -- PROGRAM`; skips elsewhere, and says why. */
#include "tests/unit/mock-device.h"

#define PAGE  4096ull
#define BASE  0x1000000ull
#define PAGES 200u /* of a mapping: not a multiple of 64 */
#define WORDS 64

static const struct mock_kind normal = {.name = "normal"};
static const struct mock_kind large = {.name = "large", .large = true};
static const struct mock_kind no_dirty = {.name = "no-dirty", .no_dirty = true};
static const struct mock_kind reserving = {.name = "reserving", .reserved = {BASE + 0x400000, BASE + 0x5fffff}};

static struct vb_model *m;

/* Two neighbours, a gap, and a third. */
static const uint64_t starts[] = {BASE, BASE + PAGES *PAGE, BASE + 0x400000};
#define RANGE ((struct vb_range){BASE, BASE + 0x400000 + PAGES * PAGE - 1})

static void set_scene(void) {
    size_t i;

    m = real_model(open_iommufd(), false);
    add_memory(m, 3 * PAGES * PAGE);
    add_space(m);
    mock_small_pages(m, ioas_of(m, 1));
    for (i = 0; i < 3; i++)
        OK(map1(m, 1, 1, starts[i], PAGES * PAGE, i * PAGES * PAGE, 3, &e));
}

static bool bit(const uint64_t *bits, uint64_t n) {
    return bits[n / 64] >> (n % 64) & 1;
}

/* Some pages of a mapping, in `all` from RANGE.first on. Returns how many are new in it. */
static unsigned dirty_some(uint32_t hwpt, size_t mapping, uint64_t *all) {
    const uint64_t at = (starts[mapping] - BASE) / PAGE;
    uint64_t bits[4] = {0};
    unsigned i, n = 0, fresh_ones = 0;

    for (i = 0; i < PAGES; i++)
        if (random_below(5) == 0) {
            bits[i / 64] |= 1ull << (i % 64);
            fresh_ones += !bit(all, at + i);
            all[(at + i) / 64] |= 1ull << ((at + i) % 64);
            n++;
        }
    assert_int_equal(mock_dirty(m, hwpt, starts[mapping], PAGES * PAGE, PAGE, bits), n);
    return fresh_ones;
}

static void assert_dirty(const uint64_t *expected, bool keep) {
    uint64_t got[WORDS] = {0};
    unsigned i;

    OK(vb_model_dirty_read(m, 1, RANGE, PAGE, keep, got, &e));
    for (i = 0; i < WORDS; i++)
        if (got[i] != expected[i])
            fail_msg("pages %u to %u: 0x%llx are dirty, not 0x%llx", i * 64, i * 64 + 63, (unsigned long long)got[i],
                     (unsigned long long)expected[i]);
}

static const uint64_t none[WORDS];

static void test_exact_bits(void **state) {
    uint64_t dirty[WORDS] = {0};
    struct vb_dirty_info info = {0};
    uint64_t got[WORDS] = {0};
    struct vb_device *d;
    uint64_t n, bytes;
    unsigned round, sum = 0;
    size_t i;

    (void)state;
    NEED_MACHINE();
    start_random();
    set_scene();
    d = mock_device(m, "a", &normal);
    OK(attach1(m, 1, 1, &e));
    OK(vb_model_dirty_set(m, 1, true, &info, &e));
    assert_int_equal(info.page_size, PAGE);
    assert_false(info.coarse);
    assert_dirty(none, false);
    for (round = 0; round < 20; round++) {
        memset(dirty, 0, sizeof(dirty));
        for (i = 0; i < 3; i++)
            sum += dirty_some(mock_hwpt(m, d), i, dirty);
        assert_dirty(dirty, true); /* kept */
        assert_dirty(dirty, false);
        assert_dirty(none, false);
    }
    printf("# %u dirty pages came back, and no other\n", sum);
    assert_true(sum > 500);
    /* ORed into what is there. */
    memset(dirty, 0, sizeof(dirty));
    dirty_some(mock_hwpt(m, d), 2, dirty);
    memset(got, 0x11, sizeof(got));
    OK(vb_model_dirty_read(m, 1, RANGE, PAGE, false, got, &e));
    for (i = 0; i < WORDS; i++)
        assert_true(got[i] == (dirty[i] | 0x1111111111111111));
    /* By the backend as well. */
    dirty_some(mock_hwpt(m, d), 0, dirty);
    memset(got, 0, sizeof(got));
    got[PAGES / 64] = 1ull << 63; /* behind the last page */
    OK(m->backend->ops->dirty_read(m->backend, ioas_of(m, 1), (struct vb_range){BASE, BASE + PAGES * PAGE - 1}, PAGE,
                                   false, got, &e));
    for (i = 0; i < PAGES; i++)
        assert_int_equal(bit(got, i), bit(dirty, i));
    assert_true(bit(got, PAGES / 64 * 64 + 63));
    /* In larger pages. */
    memset(dirty, 0, sizeof(dirty));
    dirty_some(mock_hwpt(m, d), 0, dirty);
    memset(got, 0, sizeof(got));
    OK(vb_model_dirty_read(m, 1, (struct vb_range){BASE, BASE + 2 * PAGES * PAGE - 1}, 8 * PAGE, false, got, &e));
    for (i = 0; i < PAGES / 8; i++)
        assert_int_equal(bit(got, i), (dirty[i * 8 / 64] >> (i * 8 % 64) & 0xff) != 0);
    /* Read before unmap: nothing is lost that was written until then; mapped anew it is clean. */
    memset(dirty, 0, sizeof(dirty));
    for (i = 0; i < 3; i++)
        dirty_some(mock_hwpt(m, d), i, dirty);
    assert_dirty(dirty, false);
    OK(unmap1(m, 1, starts[2], PAGES * PAGE, &n, &bytes, &e));
    OK(map1(m, 1, 1, starts[2], PAGES * PAGE, 0, 3, &e));
    assert_dirty(none, false);
    /* Off and on again: clean. */
    dirty_some(mock_hwpt(m, d), 0, dirty);
    OK(vb_model_dirty_set(m, 1, false, NULL, &e));
    OK(vb_model_dirty_set(m, 1, true, &info, &e));
    assert_dirty(none, false);
    vb_model_free(m);
}

/* With entries as large as they come: what is dirty is told, and what shares an entry with it. */
static void test_large_entries(void **state) {
    const uint64_t first = 1;
    uint64_t dirty[WORDS] = {0}, got[WORDS] = {0};
    struct vb_device *d;
    unsigned i, n = 0;

    (void)state;
    NEED_MACHINE();
    m = real_model(open_iommufd(), false);
    add_memory(m, 3 * PAGES * PAGE);
    add_space(m);
    OK(map1(m, 1, 1, BASE, PAGES * PAGE, 0, 3, &e));
    d = mock_device(m, "a", &normal);
    OK(attach1(m, 1, 1, &e));
    OK(vb_model_dirty_set(m, 1, true, NULL, &e));
    dirty_some(mock_hwpt(m, d), 0, dirty);
    OK(vb_model_dirty_read(m, 1, RANGE, PAGE, false, got, &e));
    for (i = 0; i < WORDS; i++)
        assert_true((got[i] & dirty[i]) == dirty[i]);
    mock_dirty(m, mock_hwpt(m, d), BASE, PAGE, PAGE, &first);
    memset(got, 0, sizeof(got));
    OK(vb_model_dirty_read(m, 1, RANGE, PAGE, false, got, &e));
    for (i = 0; i < PAGES; i++)
        n += bit(got, i);
    printf("# the first page is dirty: %u pages are told\n", n);
    assert_true(n >= 1 && bit(got, 0));
    vb_model_free(m);
}

/* Two kinds of page tables on one IOAS: what either says. What a device wrote before it left is not lost with its HWPT. */
static void test_two_hwpts(void **state) {
    uint64_t dirty[WORDS] = {0};
    struct vb_device *a, *b;
    struct vb_dirty_info info;
    uint32_t left;
    char text[64];
    size_t i;

    (void)state;
    NEED_MACHINE();
    set_scene();
    b = mock_device(m, "b", &large);
    OK(attach1(m, 1, 1, &e));
    a = mock_device(m, "a", &normal);
    OK(attach1(m, 2, 1, &e));
    assert_int_not_equal(mock_hwpt(m, a), mock_hwpt(m, b));
    m->backend->ops->domain_text(m->backend, ioas_of(m, 1), text, sizeof(text));
    printf("# %s\n", text);
    assert_non_null(strstr(text, ", hwpt "));
    OK(vb_model_dirty_set(m, 1, true, &info, &e));
    for (i = 0; i < 3; i++) {
        dirty_some(mock_hwpt(m, a), i, dirty);
        dirty_some(mock_hwpt(m, b), i, dirty);
    }
    assert_dirty(dirty, true);
    assert_dirty(dirty, false);
    assert_dirty(none, false);

    memset(dirty, 0, sizeof(dirty));
    dirty_some(mock_hwpt(m, b), 0, dirty);
    left = mock_hwpt(m, b);
    OK(vb_model_detach(m, 1, &e));
    assert_int_equal(m->backend->ops->leftovers(m->backend), 0);
    assert_dirty(dirty, false);
    /* It comes back to the same one, which went on tracking. */
    OK(attach1(m, 1, 1, &e));
    assert_int_equal(mock_hwpt(m, b), left);
    memset(dirty, 0, sizeof(dirty));
    dirty_some(left, 2, dirty);
    assert_dirty(dirty, false);
    OK(vb_model_detach(m, 1, &e));
    OK(vb_model_dirty_set(m, 1, false, NULL, &e));
    m->backend->ops->domain_text(m->backend, ioas_of(m, 1), text, sizeof(text));
    assert_null(strstr(strstr(text, "hwpt") + 1, "hwpt")); /* now it is gone */
    vb_model_free(m);
}

/* A device that attaches while it is on takes part. */
static void test_late(void **state) {
    uint64_t dirty[WORDS] = {0};
    struct vb_device *a, *b;

    (void)state;
    NEED_MACHINE();
    set_scene();
    b = mock_device(m, "b", &large);
    OK(attach1(m, 1, 1, &e));
    OK(vb_model_dirty_set(m, 1, true, NULL, &e));
    dirty_some(mock_hwpt(m, b), 1, dirty);
    a = mock_device(m, "a", &normal); /* needs tables of its own */
    OK(attach1(m, 2, 1, &e));
    dirty_some(mock_hwpt(m, a), 0, dirty);
    assert_dirty(dirty, false);
    mock_device(m, "c", &no_dirty);
    assert_int_equal(attach1(m, 3, 1, fresh()), VB_UNSUPPORTED);
    assert_text(&e, "c", "dirty tracking", NULL);
    dirty_some(mock_hwpt(m, a), 2, dirty);
    OK(vb_model_dirty_set(m, 1, false, NULL, &e));
    OK(attach1(m, 3, 1, &e));
    assert_int_equal(vb_model_dirty_set(m, 1, true, NULL, fresh()), VB_UNSUPPORTED);
    assert_text(&e, "c", NULL);
    vb_model_free(m);
}

/* Who can be tracked does not depend on who was there first. */
static void test_order(void **state) {
    struct vb_device *a, *b;
    int first;

    (void)state;
    NEED_MACHINE();
    for (first = 0; first < 2; first++) {
        set_scene();
        a = mock_device(m, "can", &normal);
        b = mock_device(m, "cannot", &no_dirty);
        OK(attach1(m, first ? 2 : 1, 1, &e));
        OK(attach1(m, first ? 1 : 2, 1, &e));
        assert_int_not_equal(mock_hwpt(m, a), mock_hwpt(m, b));
        assert_int_equal(vb_model_dirty_set(m, 1, true, NULL, fresh()), VB_UNSUPPORTED);
        assert_text(&e, "cannot", NULL);
        OK(vb_model_detach(m, 2, &e));
        OK(vb_model_dirty_set(m, 1, true, NULL, &e));
        vb_model_free(m);
    }
}

/* Detached while it was on, and attached again: what was not read is there. Then off without a device: nothing of it is left. */
static void test_without_devices(void **state) {
    uint64_t dirty[WORDS] = {0};
    struct vb_device *d;

    (void)state;
    NEED_MACHINE();
    set_scene();
    d = mock_device(m, "a", &normal);
    mock_device(m, "c", &no_dirty);
    OK(attach1(m, 1, 1, &e));
    OK(vb_model_dirty_set(m, 1, true, NULL, &e));
    dirty_some(mock_hwpt(m, d), 1, dirty);
    OK(vb_model_detach(m, 1, &e));
    OK(attach1(m, 1, 1, &e));
    assert_dirty(dirty, false);
    dirty_some(mock_hwpt(m, d), 1, dirty);
    OK(vb_model_detach(m, 1, &e));
    OK(vb_model_dirty_set(m, 1, false, NULL, &e));
    OK(attach1(m, 2, 1, &e));
    vb_model_free(m);
}

/* All domains; one of them leaves the last mapping out, whose pages only the other can have dirtied; and a neighbour of what is left
 * out is read whole. */
static void test_two_domains(void **state) {
    uint64_t dirty[WORDS] = {0};
    struct vb_device *a, *b;
    struct vb_dirty_info info;
    struct vb_attached attached = {0};
    uint64_t told[WORDS] = {0};
    unsigned i;

    (void)state;
    NEED_MACHINE();
    set_scene();
    OK(map1(m, 1, 1, BASE + 0x3ff000, PAGE, 0, 3, &e)); /* just before what it reserves */
    OK(map1(m, 1, 1, BASE + 0x600000, PAGE, 0, 3, &e));
    OK(map1(m, 1, 1, BASE + 0x400000 + PAGES * PAGE, 0x200000 - PAGES * PAGE, 0, 3, &e)); /* one run up to there */
    a = mock_device(m, "a", &normal);
    b = mock_device(m, "b", &reserving);
    OK(attach1(m, 1, 1, &e));
    OK(vb_model_attach(m, 2, 1, true, &attached, &e));
    assert_int_equal(attached.left_out, 2);
    OK(vb_model_dirty_set(m, 1, true, &info, &e));
    dirty_some(mock_hwpt(m, a), 2, dirty);
    dirty_some(mock_hwpt(m, a), 0, dirty);
    assert_dirty(dirty, false);
    memset(dirty, 0, sizeof(dirty));
    dirty_some(mock_hwpt(m, b), 1, dirty); /* in a domain where pages may share an entry */
    OK(vb_model_dirty_read(m, 1, RANGE, PAGE, false, told, &e));
    for (i = 0; i < WORDS; i++)
        assert_true((told[i] & dirty[i]) == dirty[i]);
    {
        const struct vb_range run = {BASE + 0x3ff000, BASE + 0x600fff};
        const uint64_t last = vb_range_size(run) / PAGE - 1, one = 1;
        uint64_t got[WORDS] = {0};

        mock_dirty(m, mock_hwpt(m, b), BASE + 0x600000, PAGE, PAGE, &one);
        OK(vb_model_dirty_read(m, 1, run, PAGE, false, got, &e));
        assert_true(bit(got, last)); /* behind the gap that this domain has in the run */
    }
    vb_model_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact_bits),  cmocka_unit_test(test_large_entries),
        cmocka_unit_test(test_two_hwpts),   cmocka_unit_test(test_late),
        cmocka_unit_test(test_order),       cmocka_unit_test(test_without_devices),
        cmocka_unit_test(test_two_domains),
    };

    return cmocka_run_group_tests_name("mock-dirty", tests, mock_prepare, NULL);
}
