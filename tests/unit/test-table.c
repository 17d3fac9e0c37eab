/* Tables of objects by id. */
#include "tests/unit/core-fixture.h"

#include "core/table.h"

struct thing {
    uint32_t id;
};

static void test_ids_grow_and_are_not_used_again(void **state) {
    struct thing things[5] = {{0}};
    struct vb_table t;
    unsigned i;

    (void)state;
    vb_table_init(&t, 3);
    assert_null(vb_table_find(&t, 0));
    for (i = 0; i < 3; i++) {
        assert_int_equal(vb_table_reserve(&t), 0);
        vb_table_add(&t, &things[i]);
        assert_int_equal(things[i].id, i + 1);
    }
    assert_int_equal(vb_table_reserve(&t), -ENOSPC);
    vb_table_remove(&t, 2);
    assert_null(vb_table_find(&t, 2));
    assert_ptr_equal(vb_table_find(&t, 1), &things[0]);
    assert_ptr_equal(vb_table_find(&t, 3), &things[2]);
    assert_int_equal(vb_table_reserve(&t), 0);
    vb_table_add(&t, &things[3]);
    assert_int_equal(things[3].id, 4);
    assert_null(vb_table_find(&t, UINT32_MAX));
    vb_table_fini(&t);
}

static void test_the_last_id_is_given_once(void **state) {
    struct thing a = {0};
    struct vb_table t;

    (void)state;
    vb_table_init(&t, 10);
    t.next_id = UINT32_MAX;
    assert_int_equal(vb_table_reserve(&t), 0);
    vb_table_add(&t, &a);
    assert_int_equal(a.id, UINT32_MAX);
    assert_int_equal(vb_table_reserve(&t), -ENOSPC);
    vb_table_remove(&t, UINT32_MAX);
    assert_int_equal(vb_table_reserve(&t), -ENOSPC);
    vb_table_fini(&t);
}

static void test_many(void **state) {
    static struct thing things[1000];
    struct vb_table t;
    unsigned i, k;

    (void)state;
    start_random();
    vb_table_init(&t, 1000);
    for (i = 0; i < 1000; i++) {
        assert_int_equal(vb_table_reserve(&t), 0);
        vb_table_add(&t, &things[i]);
    }
    for (i = 0; i < 500; i++) {
        k = random_below(1000);
        if (vb_table_find(&t, k + 1))
            vb_table_remove(&t, things[k].id);
    }
    for (i = k = 0; i < 1000; i++) {
        struct thing *found = vb_table_find(&t, i + 1);

        assert_true(!found || found == &things[i]);
        k += found != NULL;
    }
    assert_int_equal(k, t.n);
    vb_table_fini(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids_grow_and_are_not_used_again),
        cmocka_unit_test(test_the_last_id_is_given_once),
        cmocka_unit_test(test_many),
    };

    return cmocka_run_group_tests_name("table", tests, NULL, NULL);
}
