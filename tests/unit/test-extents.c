/* Extents against an array of counts, byte by byte. */
#include "tests/unit/core-fixture.h"

#include "core/extents.h"

#define SIZE     97
#define MAPPINGS 40

static void test_one_mapping(void **state) {
    struct vb_extents x;
    uint64_t n = 7;

    (void)state;
    assert_int_equal(vb_extents_init(&x, 1ull << 50), 0);
    assert_int_equal(x.n, 1);
    assert_int_equal(vb_extents_add(&x, (struct vb_range){0, (1ull << 50) - 1}, &n), 0);
    assert_int_equal(n, 1ull << 50);
    assert_int_equal(x.n, 1); /* a guest's memory as one mapping costs nothing */
    assert_int_equal(vb_extents_add(&x, (struct vb_range){4096, 8191}, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(x.n, 3);
    assert_int_equal(vb_extents_sub(&x, (struct vb_range){0, (1ull << 50) - 1}), (1ull << 50) - 4096);
    assert_int_equal(x.covered, 4096);
    assert_int_equal(vb_extents_sub(&x, (struct vb_range){4096, 8191}), 4096);
    assert_int_equal(x.n, 1);
    vb_extents_fini(&x);
}

/* Boundaries: between neighbours there is one as long as a mapping begins or ends there, and no longer. */
static unsigned expected_extents(const struct vb_range *live, unsigned n) {
    bool edge[SIZE + 1] = {false};
    unsigned i, k = 0;

    for (i = 0; i < n; i++)
        edge[live[i].first] = edge[live[i].last + 1] = true;
    edge[0] = true;
    for (i = 0; i < SIZE; i++)
        k += edge[i];
    return k;
}

static void test_random(void **state) {
    struct vb_range live[MAPPINGS], r;
    unsigned count[SIZE] = {0}, n = 0, step, i, k;
    struct vb_extents x;

    (void)state;
    start_random();
    assert_int_equal(vb_extents_init(&x, SIZE), 0);
    for (step = 0; step < 200000; step++) {
        uint64_t expected = 0, got = 0, covered = 0;

        if (n < MAPPINGS && (n == 0 || random_below(2))) {
            r.first = random_below(SIZE);
            r.last = r.first + random_below((unsigned)(SIZE - r.first));
            if (n && random_below(4) == 0) /* often one that is there already, or its neighbour */
                r = live[random_below(n)];
            for (i = (unsigned)r.first; i <= r.last; i++)
                expected += count[i]++ == 0;
            assert_int_equal(vb_extents_add(&x, r, &got), 0);
            live[n++] = r;
        } else {
            k = random_below(n);
            r = live[k];
            live[k] = live[--n];
            for (i = (unsigned)r.first; i <= r.last; i++)
                expected += --count[i] == 0;
            got = vb_extents_sub(&x, r);
        }
        for (i = 0; i < SIZE; i++)
            covered += count[i] > 0;
        assert_int_equal(got, expected);
        assert_int_equal(x.covered, covered);
        assert_int_equal(x.n, expected_extents(live, n));
    }
    while (n)
        vb_extents_sub(&x, live[--n]);
    assert_int_equal(x.n, 1);
    assert_int_equal(x.covered, 0);
    vb_extents_fini(&x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_mapping),
        cmocka_unit_test(test_random),
    };

    return cmocka_run_group_tests_name("extents", tests, NULL, NULL);
}
