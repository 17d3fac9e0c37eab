/* The tree of mappings against a plain array. */
#include "tests/unit/core-fixture.h"

#include "core/mapping.h"

#define N 64

static void test_ends_of_the_address_space(void **state) {
    struct vb_mapping low = {.iova = {0, 4095}}, high = {.iova = {UINT64_MAX - 4095, UINT64_MAX}},
                      all = {.iova = {0, UINT64_MAX}};
    struct vb_mapping_tree t = RB_INITIALIZER(&t);

    (void)state;
    assert_null(vb_mapping_first(&t, all.iova));
    assert_null(vb_mapping_insert(&t, &low));
    assert_null(vb_mapping_insert(&t, &high));
    assert_non_null(vb_mapping_insert(&t, &all));
    assert_ptr_equal(vb_mapping_first(&t, (struct vb_range){UINT64_MAX, UINT64_MAX}), &high);
    assert_ptr_equal(vb_mapping_first(&t, (struct vb_range){4095, UINT64_MAX}), &low);
    assert_ptr_equal(vb_mapping_first(&t, (struct vb_range){4096, UINT64_MAX}), &high);
    assert_null(vb_mapping_first(&t, (struct vb_range){4096, UINT64_MAX - 4096}));
    assert_ptr_equal(vb_mapping_next(&low), &high);
    assert_null(vb_mapping_next(&high));
    vb_mapping_remove(&t, &low);
    vb_mapping_remove(&t, &high);
    assert_null(vb_mapping_insert(&t, &all));
}

static void test_random(void **state) {
    struct vb_mapping_tree t = RB_INITIALIZER(&t);
    struct vb_mapping m[N];
    bool in[N] = {false};
    unsigned step, i;

    (void)state;
    start_random();
    for (step = 0; step < 100000; step++) {
        struct vb_mapping *found, *expected = NULL;
        unsigned k = random_below(N);
        struct vb_range r;

        if (in[k]) {
            vb_mapping_remove(&t, &m[k]);
            in[k] = false;
        } else {
            bool free_range = true;

            r.first = random_below(400);
            r.last = r.first + random_below(20);
            for (i = 0; i < N; i++)
                free_range = free_range && !(in[i] && vb_range_overlaps(m[i].iova, r));
            m[k] = (struct vb_mapping){.iova = r};
            found = vb_mapping_insert(&t, &m[k]);
            assert_int_equal(found == NULL, free_range);
            assert_true(!found || vb_range_overlaps(found->iova, r));
            in[k] = free_range;
        }
        r.first = random_below(420);
        r.last = r.first + random_below(60);
        for (i = 0; i < N; i++)
            if (in[i] && vb_range_overlaps(m[i].iova, r) && (!expected || m[i].iova.first < expected->iova.first))
                expected = &m[i];
        assert_ptr_equal(vb_mapping_first(&t, r), expected);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ends_of_the_address_space),
        cmocka_unit_test(test_random),
    };

    return cmocka_run_group_tests_name("mapping", tests, NULL, NULL);
}
