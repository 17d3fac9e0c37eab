/* The mappings of a space against a plain array, and the memory that they keep. */
#include "tests/unit/core-fixture.h"

#include <malloc.h>

#include "core/mapping.h"

#define N      64
#define CACHED 8192 /* malloc keeps up to seven freed nodes at hand, and counts them as given out */

static struct vb_mapping *new_mapping(struct vb_mapping_tree *t, struct vb_range iova) {
    struct vb_mapping *m = vb_mapping_new(t);

    assert_non_null(m);
    assert_true(m->iova.first == 0 && m->offset == 0 && !m->memory && !m->prot && !m->pending && !m->leaving);
    m->iova = iova;
    return m;
}

static void test_ends_of_the_address_space(void **state) {
    struct vb_mapping_tree t = {.pool = {.chunks = 0}};
    struct vb_mapping *low, *high, *all;

    (void)state;
    low = new_mapping(&t, (struct vb_range){0, 4095});
    high = new_mapping(&t, (struct vb_range){UINT64_MAX - 4095, UINT64_MAX});
    all = new_mapping(&t, (struct vb_range){0, UINT64_MAX});
    assert_null(vb_mapping_first(&t, all->iova));
    assert_int_equal(vb_mapping_insert(&t, low), 0);
    assert_int_equal(vb_mapping_insert(&t, high), 0);
    assert_int_equal(vb_mapping_insert(&t, all), -EEXIST);
    assert_ptr_equal(vb_mapping_first(&t, (struct vb_range){UINT64_MAX, UINT64_MAX}), high);
    assert_ptr_equal(vb_mapping_first(&t, (struct vb_range){4095, UINT64_MAX}), low);
    assert_ptr_equal(vb_mapping_first(&t, (struct vb_range){4096, UINT64_MAX}), high);
    assert_null(vb_mapping_first(&t, (struct vb_range){4096, UINT64_MAX - 4096}));
    assert_ptr_equal(vb_mapping_next(low), high);
    assert_null(vb_mapping_next(high));
    vb_mapping_remove(&t, low);
    vb_mapping_remove(&t, high);
    assert_int_equal(vb_mapping_insert(&t, all), 0);
    assert_null(vb_mapping_next(all));
    vb_mapping_remove(&t, all);
    vb_mapping_free(low);
    vb_mapping_free(high);
    vb_mapping_free(all);
    vb_mapping_free(NULL);
}

static void one_run(uint64_t unit, uint64_t start) {
    struct vb_mapping_tree t = {.pool = {.chunks = 0}};
    struct vb_mapping *m[N] = {NULL};
    unsigned step, i;

    for (step = 0; step < 30000; step++) {
        struct vb_mapping *expected = NULL, *next = NULL;
        unsigned k = random_below(N);
        struct vb_range r;

        r.first = start + random_below(400) * unit;
        r.last = r.first + random_below(20) * unit + (unit - 1);
        if (m[k]) {
            vb_mapping_remove(&t, m[k]);
            vb_mapping_free(m[k]);
            m[k] = NULL;
        } else {
            struct vb_mapping *p = new_mapping(&t, r);
            bool free_range = true;

            for (i = 0; i < N; i++)
                free_range = free_range && !(m[i] && vb_range_overlaps(m[i]->iova, r));
            assert_int_equal(vb_mapping_insert(&t, p), free_range ? 0 : -EEXIST);
            if (free_range)
                m[k] = p;
            else
                vb_mapping_free(p);
        }
        r.first = start + random_below(418) * unit;
        r.last = r.first + random_below(2) * unit + (unit - 1);
        for (i = 0; i < N; i++)
            if (m[i] && vb_range_overlaps(m[i]->iova, r) && (!expected || m[i]->iova.first < expected->iova.first))
                expected = m[i];
        assert_ptr_equal(vb_mapping_first(&t, r), expected);
        for (i = 0; expected && i < N; i++)
            if (m[i] && m[i]->iova.first > expected->iova.last && (!next || m[i]->iova.first < next->iova.first))
                next = m[i];
        if (expected)
            assert_ptr_equal(vb_mapping_next(expected), next);
    }
    for (i = 0; i < N; i++)
        if (m[i]) {
            vb_mapping_remove(&t, m[i]);
            vb_mapping_free(m[i]);
        }
}

static void test_random(void **state) {
    unsigned i;

    (void)state;
    start_random();
    for (i = 0; i < 4; i++) {
        one_run(1, 0);
        one_run(4096, UINT64_MAX - 420 * 4096ull + 1); /* up to 2^64-1 */
    }
}

/* Bytes that malloc has given out; a sanitizer's malloc does not say. */
static uint64_t given_out(void) {
    struct mallinfo2 i = mallinfo2();

    return i.uordblks + i.hblkhd;
}

static uint64_t resident_size(void) {
    FILE *f = fopen("/proc/self/statm", "re");
    unsigned long pages = 0;

    assert_non_null(f);
    assert_int_equal(fscanf(f, "%*u %lu", &pages), 1);
    fclose(f);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* A few cost little, many cost little each, and when they are gone everything is. */
static void test_memory(void **state) {
    enum { MANY = 100000 };
    static struct vb_mapping *m[MANY];
    struct vb_mapping_tree t = {.pool = {.chunks = 0}};
    uint64_t before, resident;
    void *behind;
    unsigned i, k;

    (void)state;
    start_random();
    free(malloc(1));
    before = given_out();
    if (before == 0)
        return;
    for (i = 0; i < 10; i++) {
        m[i] = new_mapping(&t, (struct vb_range){i * 8192ull, i * 8192ull + 4095});
        assert_int_equal(vb_mapping_insert(&t, m[i]), 0);
    }
    assert_in_range(given_out() - before, 1, 6 * 1024);
    for (; i < MANY; i++) {
        m[i] = new_mapping(&t, (struct vb_range){i * 8192ull, i * 8192ull + 4095});
        assert_int_equal(vb_mapping_insert(&t, m[i]), 0);
    }
    assert_in_range(given_out() - before, 56 * MANY, 60 * MANY);
    resident = resident_size();
    behind = malloc(500);
    for (i = MANY; i > 0; i--) {
        k = random_below(i);
        vb_mapping_remove(&t, m[k]);
        vb_mapping_free(m[k]);
        m[k] = m[i - 1];
        if (i == MANY / 2) { /* half of the slots are free: the next ones need none */
            uint64_t half = given_out();
            struct vb_mapping *some[1000];

            for (k = 0; k < 1000; k++)
                some[k] = new_mapping(&t, (struct vb_range){0, 0});
            assert_int_equal(given_out(), half);
            for (k = 0; k < 1000; k++)
                vb_mapping_free(some[k]);
        }
    }
    assert_in_range(resident - resident_size(), 50 * MANY, 60 * MANY); /* the system has it, whatever lies behind */
    free(behind);
    assert_in_range(given_out(), before, before + CACHED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ends_of_the_address_space),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_memory),
    };

    return cmocka_run_group_tests_name("mapping", tests, NULL, NULL);
}
