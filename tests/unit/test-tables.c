/* The estimate of page tables: its sum over the mappings of a space against a count of the table blocks that they touch. */
#include "tests/unit/core-fixture.h"

#include "core/mapping.h"
#include "core/tables.h"

#define LIVE   40
#define PLACES 4096 /* of 4 KiB, 2 MiB or 1 GiB each */
#define BLOCKS 200000

#define TABLE   4096
#define MAPPING 320

static uint64_t blocks[BLOCKS];

static int compare(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* Distinct blocks of 2^shift bytes; a mapping of huge pages has no table of 4 KiB pages. */
static uint64_t distinct(struct vb_mapping *const *m, unsigned n, unsigned shift) {
    const uint64_t huge = (1 << 21) - 1;
    uint64_t k, count = 0, sum = 0;
    unsigned i;

    for (i = 0; i < n; i++) {
        if (shift == 21 && m[i]->memory->page_size > 4096 &&
            ((m[i]->iova.first | m[i]->offset | (m[i]->iova.last ^ huge)) & huge) == 0)
            continue;
        for (k = m[i]->iova.first >> shift; k <= m[i]->iova.last >> shift; k++) {
            assert_true(count < BLOCKS);
            blocks[count++] = k;
        }
    }
    qsort(blocks, count, sizeof(*blocks), compare);
    for (k = 0; k < count; k++)
        sum += k == 0 || blocks[k] != blocks[k - 1];
    return sum;
}

static uint64_t expected(struct vb_mapping *const *m, unsigned n) {
    return n * (uint64_t)MAPPING + TABLE * (distinct(m, n, 21) + distinct(m, n, 30) + distinct(m, n, 39));
}

/* `start`: of the IOVAs; the last of them may be 2^64-1. */
static void one_run(uint64_t start, uint64_t unit, unsigned longest, unsigned steps) {
    struct vb_memory small = {.page_size = 4096}, large = {.page_size = 2 * MIB};
    struct vb_mapping_tree t = {.pool = {.chunks = 0}};
    struct vb_mapping *m[LIVE], *p;
    uint64_t sum = 0, first, n_units;
    unsigned n = 0, step, k;
    struct vb_cost c;

    assert_int_equal(vb_charge_init(&small.charge, 1ull << 50), 0);
    assert_int_equal(vb_charge_init(&large.charge, 1ull << 50), 0);
    for (step = 0; step < steps || n > 0; step++) {
        if (step < steps && n < LIVE && random_below(2)) {
            first = random_below(PLACES);
            n_units = 1 + random_below(longest);
            n_units = first + n_units > PLACES ? PLACES - first : n_units;
            p = vb_mapping_new(&t);
            assert_non_null(p);
            p->iova.first = start + first * unit;
            p->iova.last = p->iova.first + (n_units * unit - 1);
            p->offset = random_below(1000) * (random_below(4) ? 2 * MIB : 4096);
            p->memory = random_below(2) ? &small : &large;
            c = (struct vb_cost){7, 7, 7};
            if (vb_mapping_charge(&t, p, &c) == 0) {
                m[n++] = p;
                sum += c.tables;
            } else {
                assert_true(c.paid == 7 && c.doubled == 7 && c.tables == 7);
                vb_mapping_free(p);
            }
        } else if (n > 0) {
            k = random_below(n);
            sum -= vb_mapping_uncharge(&t, m[k]).tables;
            vb_mapping_free(m[k]);
            m[k] = m[--n];
        }
        assert_int_equal(sum, expected(m, n));
    }
    assert_int_equal(sum, 0);
    assert_int_equal(vb_charge_paid(&small.charge), 0);
    assert_int_equal(vb_charge_paid(&large.charge), 0);
    vb_charge_fini(&small.charge);
    vb_charge_fini(&large.charge);
}

static void test_random(void **state) {
    static const uint64_t units[] = {4096, 64 * KIB, 2 * MIB};
    unsigned i, u;

    (void)state;
    start_random();
    for (i = 0; i < 3; i++)
        for (u = 0; u < 3; u++) {
            const uint64_t size = PLACES * units[u];

            one_run(0, units[u], i == 0 ? 1 : i == 1 ? 100 : PLACES, 400);
            one_run((1ull << 39) - size / 2, units[u], i == 0 ? 1 : 100, 400);
            one_run(0 - size, units[u], i == 0 ? 1 : i == 1 ? 100 : PLACES, 400); /* up to 2^64-1 */
        }
    one_run(0 - PLACES * (1024 * MIB), 1024 * MIB, 4, 100);
}

/* The numbers of the largest ones, by hand. */
static void test_largest(void **state) {
    struct vb_memory small = {.page_size = 4096}, huge = {.page_size = 1024 * MIB};
    struct vb_mapping m = {.memory = &small};
    const uint64_t below = UINT64_MAX - 4096;

    (void)state;
    m.iova = (struct vb_range){0, UINT64_MAX};
    assert_int_equal(vb_tables_cost(&m, NULL, NULL), MAPPING + TABLE * ((1ull << 43) + (1ull << 34) + (1ull << 25)));
    m.memory = &huge; /* its end is 2^64: aligned */
    assert_int_equal(vb_tables_cost(&m, NULL, NULL), MAPPING + TABLE * ((1ull << 34) + (1ull << 25)));
    m.iova = (struct vb_range){UINT64_MAX - 2 * MIB + 1, UINT64_MAX};
    assert_int_equal(vb_tables_cost(&m, NULL, NULL), MAPPING + 2 * TABLE);
    m.offset = 4096; /* the same IOVA, but no huge page fits */
    assert_int_equal(vb_tables_cost(&m, NULL, NULL), MAPPING + 3 * TABLE);
    m.iova = (struct vb_range){UINT64_MAX - 4095, UINT64_MAX};
    assert_int_equal(vb_tables_cost(&m, NULL, NULL), MAPPING + 3 * TABLE);
    assert_int_equal(vb_tables_cost(&m, &below, NULL), MAPPING);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_largest),
    };

    return cmocka_run_group_tests_name("tables", tests, NULL, NULL);
}
