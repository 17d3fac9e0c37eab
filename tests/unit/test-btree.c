/* The sorted map against an array with a place for each key, and the memory that it keeps. */
#include "tests/unit/core-fixture.h"

#include <malloc.h>

#include "core/btree.h"

#define KEYS   20000 /* three levels, the nodes above the leaves split and join too */
#define CACHED 8192  /* malloc keeps up to seven freed nodes at hand, and counts them as given out */

static struct vb_btree t;
static bool in[KEYS];
static uint64_t values[KEYS];

/* Where the map has key number k: all over the 64 bits, both ends included. */
static uint64_t key_of(unsigned k, uint64_t stride, uint64_t start) {
    return start + k * stride;
}

static void check_all(uint64_t stride, uint64_t start) {
    unsigned k, n = 0;
    bool more;

    for (k = 0; k < KEYS; k++)
        n += in[k];
    assert_int_equal(t.n, n);
    if (n == 0) {
        assert_null(t.root);
        return;
    }
    vb_btree_seek(&t, 0); /* at the first, whether or not that is 0 */
    for (k = 0, more = true; k < KEYS; k++) {
        if (!in[k])
            continue;
        assert_true(more);
        assert_int_equal(vb_btree_key(&t), key_of(k, stride, start));
        assert_int_equal(*vb_btree_value(&t), values[k]);
        more = vb_btree_next(&t);
    }
    assert_false(more);
    for (k = KEYS, more = true; k-- > 0;) {
        if (!in[k])
            continue;
        assert_true(more);
        assert_int_equal(vb_btree_key(&t), key_of(k, stride, start));
        more = vb_btree_prev(&t);
    }
    assert_false(more);
}

/* Sought: the key itself, or one just below or above it. */
static void check_seek(unsigned k, uint64_t stride, uint64_t start) {
    const int delta = stride > 1 ? (int)random_below(3) - 1 : 0;
    const uint64_t key = key_of(k, stride, start) + (uint64_t)(int64_t)delta;
    unsigned i = delta < 0 ? k : k + 1;

    if ((delta < 0 && k == 0 && start == 0) || (delta > 0 && key == 0))
        return; /* beyond the 64 bits */
    while (i > 0 && !in[i - 1])
        i--;
    vb_btree_expect(&t, key);
    assert_int_equal(vb_btree_seek(&t, key), i > 0);
    if (i > 0)
        assert_int_equal(vb_btree_key(&t), key_of(i - 1, stride, start));
}

static void one_run(uint64_t stride, uint64_t start, unsigned steps) {
    unsigned step, k, grow = 60, at = 0;

    memset(in, 0, sizeof(in));
    t = (struct vb_btree){.n = 0};
    for (step = 0; step < steps; step++) {
        if (step % 25000 == 0)
            grow = 20 + random_below(61); /* per cent: sometimes it fills, sometimes it empties */
        at = step / 500 % 3 == 0 ? random_below(KEYS) : step / 500 % 3 == 1 ? (at + 1) % KEYS : (at + KEYS - 1) % KEYS;
        k = at;
        if (!in[k] && random_below(100) < grow) {
            values[k] = step;
            assert_int_equal(vb_btree_insert(&t, key_of(k, stride, start), step), 0);
            assert_int_equal(vb_btree_key(&t), key_of(k, stride, start));
            in[k] = true;
        } else if (in[k] && random_below(100) >= grow) {
            assert_true(vb_btree_seek(&t, key_of(k, stride, start)));
            assert_int_equal(*vb_btree_value(&t), values[k]);
            vb_btree_remove(&t);
            in[k] = false;
        }
        check_seek(random_below(KEYS), stride, start);
        if (step % 4999 == 0)
            check_all(stride, start);
    }
    for (k = 0; k < KEYS; k++)
        if (in[k]) {
            vb_btree_seek(&t, key_of(k, stride, start));
            vb_btree_remove(&t);
            in[k] = false;
        }
    check_all(stride, start);
}

static void test_random(void **state) {
    unsigned i;

    (void)state;
    start_random();
    for (i = 0; i < 3; i++) {
        one_run(1, 0, 150000);
        one_run(4096, UINT64_MAX - (KEYS - 1) * 4096ull, 150000); /* the last key is 2^64-1 */
        one_run(UINT64_MAX / (KEYS - 1), 0, 150000);
    }
}

/* In every order that has a pattern: to fill, and to empty. */
static void test_orders(void **state) {
    unsigned fill, empty, i, k;

    (void)state;
    for (fill = 0; fill < 4; fill++)
        for (empty = 0; empty < 4; empty++) {
            memset(in, 0, sizeof(in));
            t = (struct vb_btree){.n = 0};
            for (i = 0; i < KEYS; i++) {
                k = fill == 0 ? i : fill == 1 ? KEYS - 1 - i : (i * 1499 + 11) % KEYS;
                k = fill == 2 ? (i % 2 ? KEYS - 1 - i / 2 : i / 2) : k; /* from both ends */
                values[k] = i;
                assert_int_equal(vb_btree_insert(&t, 16ull * k, i), 0);
                in[k] = true;
            }
            check_all(16, 0);
            for (i = 0; i < KEYS; i++) {
                k = empty == 0 ? i : empty == 1 ? KEYS - 1 - i : (i * 1499 + 11) % KEYS;
                k = empty == 2 ? (KEYS / 2 + (i % 2 ? KEYS - 1 - i / 2 : i / 2)) % KEYS : k; /* from the middle */
                assert_true(vb_btree_seek(&t, 16ull * k));
                vb_btree_remove(&t);
                in[k] = false;
                if (i % 2500 == 0)
                    check_all(16, 0);
            }
            check_all(16, 0);
        }
}

/* Bytes that malloc has given out; a sanitizer's malloc does not say. */
static uint64_t given_out(void) {
    struct mallinfo2 i = mallinfo2();

    return i.uordblks + i.hblkhd;
}

static void test_memory(void **state) {
    enum { N = 100000 };
    static unsigned order[N];
    unsigned i, k, left;
    uint64_t before;

    (void)state;
    t = (struct vb_btree){.n = 0};
    start_random();
    free(malloc(1));
    before = given_out();
    if (before == 0)
        return;
    for (i = 0; i < N; i++) {
        k = random_below(i + 1);
        order[i] = order[k];
        order[k] = i;
    }
    for (i = 0; i < N; i++)
        assert_int_equal(vb_btree_insert(&t, order[i], 0), 0);
    print_message("# %.1f bytes for each of %u\n", (double)(given_out() - before) / N, N);
    assert_in_range(given_out() - before, 16 * N, 22 * N);
    for (left = N; left > 0; left--) {
        vb_btree_seek(&t, order[left - 1]);
        vb_btree_remove(&t);
        if (left - 1 == N / 10) {
            print_message("# %.1f bytes for each of %u that are left\n", (double)(given_out() - before) / (N / 10),
                          N / 10);
            assert_in_range(given_out() - before, 16 * N / 10, 40 * N / 10);
        }
    }
    assert_in_range(given_out(), before, before + CACHED);

    for (i = 0; i < N; i++) /* in order they lie close */
        assert_int_equal(vb_btree_insert(&t, i, 0), 0);
    assert_in_range(given_out() - before, 16 * N, 18 * N);
    vb_btree_clear(&t);
    assert_in_range(given_out(), before, before + CACHED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_orders),
        cmocka_unit_test(test_memory),
    };

    return cmocka_run_group_tests_name("btree", tests, NULL, NULL);
}
