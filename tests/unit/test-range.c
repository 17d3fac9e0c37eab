/* Inclusive ranges, at the ends of 64 bits above all. */
#include "tests/unit/core-fixture.h"

#include "core/range.h"

static void test_client_numbers_become_ranges(void **state) {
    struct vb_range r = {1, 2};

    (void)state;
    assert_false(vb_range_from(0, 0, &r));
    assert_false(vb_range_from(UINT64_MAX, 2, &r));
    assert_false(vb_range_from(2, UINT64_MAX, &r));
    assert_int_equal(r.first, 1); /* untouched */
    assert_true(vb_range_from(UINT64_MAX, 1, &r));
    assert_true(r.first == UINT64_MAX && r.last == UINT64_MAX);
    assert_true(vb_range_from(1, UINT64_MAX, &r));
    assert_true(r.first == 1 && r.last == UINT64_MAX);
    assert_true(vb_range_from(0x1000, 0x1000, &r));
    assert_true(r.last == 0x1fff && vb_range_size(r) == 0x1000);
    assert_int_equal(vb_range_size((struct vb_range){0, UINT64_MAX}), 0);
}

static void test_relations(void **state) {
    const struct vb_range a = {10, 20};

    (void)state;
    assert_true(vb_range_overlaps(a, (struct vb_range){20, 30}));
    assert_true(vb_range_overlaps(a, (struct vb_range){0, 10}));
    assert_true(vb_range_overlaps(a, (struct vb_range){12, 13}));
    assert_false(vb_range_overlaps(a, (struct vb_range){21, 30}));
    assert_false(vb_range_overlaps(a, (struct vb_range){0, 9}));
    assert_true(vb_range_contains(a, a));
    assert_true(vb_range_contains((struct vb_range){0, UINT64_MAX}, a));
    assert_false(vb_range_contains(a, (struct vb_range){10, 21}));
    assert_false(vb_range_contains(a, (struct vb_range){9, 20}));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_client_numbers_become_ranges),
        cmocka_unit_test(test_relations),
    };

    return cmocka_run_group_tests_name("range", tests, NULL, NULL);
}
