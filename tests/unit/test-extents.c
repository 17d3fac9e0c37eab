/* Extents against an array of counts, a place for each byte or page. */
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

/* ---- many mappings, of pages of any size, and the runs that they make ---- */

#define PAGES 6000
#define LIVE  4000

static unsigned counts[PAGES];
static struct vb_range alive[LIVE]; /* page numbers */

static struct vb_range bytes_of(struct vb_range pages, uint64_t unit) {
    return (struct vb_range){pages.first * unit, pages.last * unit + (unit - 1)};
}

/* From a random place on: each run has one count, is as long as it says, and they leave nothing out. */
static void check_runs(struct vb_extents *x, struct vb_range pages, uint64_t unit) {
    const struct vb_range r = bytes_of(pages, unit);
    uint64_t at = r.first + random_below(unit > 1 ? 3 : 1), count, k;
    struct vb_range run;

    while (vb_extents_run(x, r, at, &run, &count)) {
        assert_int_equal(run.first, at);
        assert_in_range(run.last, at, r.last);
        assert_int_equal((run.last + 1) % unit, 0);
        for (k = run.first / unit; k <= run.last / unit; k++)
            assert_int_equal(counts[k], count);
        at = run.last + 1;
    }
    assert_int_equal(at, r.last + 1);
    assert_false(vb_extents_run(x, r, r.last + 1, &run, &count));
}

/* Boundaries as in expected_extents(), with counters of them. */
static unsigned edges[PAGES + 1];
static unsigned runs;
static void count_edges(struct vb_range pages, int delta) {
    const uint64_t at[2] = {pages.first, pages.last + 1};
    unsigned i;

    for (i = 0; i < 2; i++) {
        if (at[i] == 0 || at[i] == PAGES)
            continue;
        runs -= edges[at[i]] > 0;
        edges[at[i]] += (unsigned)delta;
        runs += edges[at[i]] > 0;
    }
}

/* Short pieces in order, short ones anywhere, long ones, all, one page, the first, the last, what is there already. */
static struct vb_range some_pages(unsigned kind, unsigned step, unsigned n) {
    const uint64_t first = random_below(PAGES);

    switch (kind) {
    case 0:
        return (struct vb_range){step * 2 % PAGES, step * 2 % PAGES + 1};
    case 1:
        return (struct vb_range){first,
                                 first + random_below(PAGES - (unsigned)first < 4 ? PAGES - (unsigned)first : 4)};
    case 2:
        return (struct vb_range){first, first + random_below(PAGES - (unsigned)first)};
    case 3:
        return (struct vb_range){0, random_below(8) ? random_below(PAGES) : PAGES - 1};
    case 4:
        return (struct vb_range){first, PAGES - 1};
    case 5:
        return n ? alive[random_below(n)] : (struct vb_range){0, 0};
    default:
        return (struct vb_range){first, first};
    }
}

static void many(uint64_t unit, unsigned steps) {
    unsigned n = 0, step, kind = 0, grow = 0;
    uint64_t i, expected, got, covered = 0;
    struct vb_extents x;
    struct vb_range r;

    memset(counts, 0, sizeof(counts));
    memset(edges, 0, sizeof(edges));
    runs = 1;
    assert_int_equal(vb_extents_init(&x, PAGES * unit), 0);
    for (step = 0; step < steps || n > 0; step++) {
        if (step % 1000 == 0) {
            kind = random_below(8);
            grow = step < steps ? 20 + random_below(75) : 0; /* at the end all goes */
        }
        expected = 0;
        if (n < LIVE && random_below(100) < grow) {
            r = some_pages(kind == 7 ? random_below(7) : kind, step, n);
            for (i = r.first; i <= r.last; i++)
                expected += counts[i]++ == 0;
            assert_int_equal(vb_extents_add(&x, bytes_of(r, unit), &got), 0);
            count_edges(r, 1);
            alive[n++] = r;
            covered += expected;
        } else if (n > 0) {
            unsigned k = random_below(4) ? random_below(n) : n - 1;

            r = alive[k];
            alive[k] = alive[--n];
            for (i = r.first; i <= r.last; i++)
                expected += --counts[i] == 0;
            got = vb_extents_sub(&x, bytes_of(r, unit));
            count_edges(r, -1);
            covered -= expected;
        } else {
            continue;
        }
        assert_int_equal(got, expected * unit);
        assert_int_equal(x.covered, covered * unit);
        assert_int_equal(x.n, runs);
        assert_int_equal(x.live, n);
        if (step % 97 == 0)
            check_runs(&x, step % 2 ? some_pages(2, step, n) : (struct vb_range){0, PAGES - 1}, unit);
    }
    assert_int_equal(x.n, 1);
    assert_int_equal(x.covered, 0);
    vb_extents_fini(&x);
}

static void test_many(void **state) {
    unsigned i;

    (void)state;
    start_random();
    for (i = 0; i < 6; i++) {
        many(1, 10000);
        many(4096, 10000);
        many((1ull << 50) / PAGES / 4096 * 4096, 10000); /* as large as a memory can be */
    }
}

static void test_too_many(void **state) {
    struct vb_range r = {4096, 8191};
    struct vb_extents x;
    uint64_t n;
    unsigned i;

    (void)state;
    assert_int_equal(vb_extents_init(&x, 1 << 20), 0);
    for (i = 0; i < VB_EXTENTS_LIVE_MAX; i++)
        assert_true(vb_extents_add(&x, r, &n) == 0 && n == (i ? 0 : 4096));
    n = 7;
    assert_int_equal(vb_extents_add(&x, (struct vb_range){0, 4095}, &n), -EOVERFLOW);
    assert_int_equal(vb_extents_add(&x, r, &n), -EOVERFLOW);
    assert_int_equal(n, 7);
    assert_int_equal(x.n, 3);
    for (i = VB_EXTENTS_LIVE_MAX; i > 0; i--)
        assert_true(vb_extents_sub(&x, r) == (i > 1 ? 0 : 4096));
    assert_int_equal(x.n, 1);
    vb_extents_fini(&x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_mapping),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_too_many),
    };

    return cmocka_run_group_tests_name("extents", tests, NULL, NULL);
}
