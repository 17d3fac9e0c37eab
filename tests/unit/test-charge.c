/* What is paid of a memory, against two counters for each page: how many mappings show it, how many pins need it. */
#include "tests/unit/core-fixture.h"

#include "core/charge.h"

#define PAGES 300
#define LIVE  60

static void test_mapped_and_pinned(void **state) {
    struct vb_charge c;
    struct vb_cost cost;

    (void)state;
    assert_int_equal(vb_charge_init(&c, 1 << 20), 0);
    assert_int_equal(vb_charge_add(&c, VB_BY_MAPPING, (struct vb_range){0, 8191}, &cost), 0);
    assert_true(cost.paid == 8192 && cost.doubled == 0 && cost.tables == 0);
    assert_int_equal(vb_charge_add(&c, VB_BY_PIN, (struct vb_range){4096, 12287}, &cost), 0);
    assert_true(cost.paid == 4096 && cost.doubled == 4096 && cost.tables == 0);
    assert_int_equal(vb_charge_add(&c, VB_BY_PIN, (struct vb_range){4096, 8191}, &cost), 0);
    assert_true(cost.paid == 0 && cost.doubled == 0);
    assert_int_equal(vb_charge_paid(&c), 12288);
    cost = vb_charge_sub(&c, VB_BY_MAPPING, (struct vb_range){0, 8191});
    assert_true(cost.paid == 4096 && cost.doubled == 4096);
    cost = vb_charge_sub(&c, VB_BY_PIN, (struct vb_range){4096, 12287});
    assert_true(cost.paid == 4096 && cost.doubled == 0);
    cost = vb_charge_sub(&c, VB_BY_PIN, (struct vb_range){4096, 8191});
    assert_true(cost.paid == 4096 && cost.doubled == 0);
    assert_int_equal(vb_charge_paid(&c), 0);
    vb_charge_fini(&c);
}

static void many(uint64_t unit, unsigned pins_in_ten, unsigned steps) {
    static const enum vb_charge_by by[2] = {VB_BY_MAPPING, VB_BY_PIN};
    struct vb_range live[2][LIVE], r;
    unsigned n[2] = {0}, counts[2][PAGES] = {{0}}, step, which, k, grow = 0, i;
    uint64_t paid = 0, doubled = 0, new_paid, new_doubled;
    struct vb_charge c;
    struct vb_cost cost;

    assert_int_equal(vb_charge_init(&c, PAGES * unit), 0);
    for (step = 0; step < steps || n[0] || n[1]; step++) {
        bool add;

        if (step % 200 == 0)
            grow = step < steps ? 20 + random_below(61) : 0;
        which = random_below(10) < pins_in_ten;
        add = n[which] < LIVE && random_below(100) < grow;
        if (!add && n[which] == 0)
            which = !which;
        if (!add && n[which] == 0)
            continue;
        if (add) {
            r.first = random_below(PAGES);
            r.last = r.first + random_below(random_below(2) ? PAGES - (unsigned)r.first : 1);
            if (random_below(4) == 0 && n[!which])
                r = live[!which][random_below(n[!which])]; /* pins where mappings are, and the other way round */
            live[which][n[which]++] = r;
        } else {
            k = random_below(n[which]);
            r = live[which][k];
            live[which][k] = live[which][--n[which]];
        }
        for (i = (unsigned)r.first; i <= r.last; i++)
            counts[which][i] += add ? 1u : -1u;
        for (i = 0, new_paid = new_doubled = 0; i < PAGES; i++) {
            new_paid += counts[0][i] || counts[1][i] ? unit : 0;
            new_doubled += counts[0][i] && counts[1][i] ? unit : 0;
        }
        r = (struct vb_range){r.first * unit, r.last * unit + (unit - 1)};
        if (add) {
            assert_int_equal(vb_charge_add(&c, by[which], r, &cost), 0);
            assert_int_equal(cost.paid, new_paid - paid);
            assert_int_equal(cost.doubled, new_doubled - doubled);
        } else {
            cost = vb_charge_sub(&c, by[which], r);
            assert_int_equal(cost.paid, paid - new_paid);
            assert_int_equal(cost.doubled, doubled - new_doubled);
        }
        assert_int_equal(cost.tables, 0);
        assert_int_equal(vb_charge_paid(&c), new_paid);
        assert_int_equal(c.both, new_doubled);
        paid = new_paid;
        doubled = new_doubled;
    }
    assert_true(paid == 0 && doubled == 0);
    vb_charge_fini(&c);
}

static void test_random(void **state) {
    unsigned i;

    (void)state;
    start_random();
    for (i = 0; i < 10; i++) {
        many(4096, 5, 5000);
        many(4096, 1, 5000);
        many((1ull << 50) / PAGES / 4096 * 4096, 3, 5000);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mapped_and_pinned),
        cmocka_unit_test(test_random),
    };

    return cmocka_run_group_tests_name("charge", tests, NULL, NULL);
}
