/* The session's ledger, and texts of sizes and errors. */
#include "tests/unit/core-fixture.h"

#include "core/ledger.h"

#define PAID(bytes) ((struct vb_cost){.paid = (bytes)})

static int asked;

static int grant(struct vb_ledger *l, uint64_t need, uint64_t doubled, struct vb_error *e) {
    (void)e;
    asked++;
    l->lease += need + 4096;
    l->doubled_granted = doubled;
    return 0;
}

static int grant_too_little(struct vb_ledger *l, uint64_t need, uint64_t doubled, struct vb_error *e) {
    (void)e, (void)need, (void)doubled;
    asked++;
    l->lease += 1;
    return 0;
}

static int no(struct vb_ledger *l, uint64_t need, uint64_t doubled, struct vb_error *e) {
    (void)doubled;
    asked++;
    vb_error_limit(e, need, l->used, l->limit, "policy");
    return vb_refuse(e, VB_UNAVAILABLE, "the daemon is away");
}

static void test_reserve_and_release(void **state) {
    struct vb_ledger l = {.lease = 10000, .limit = 20000, .whose = "RLIMIT_MEMLOCK of pid 812"};
    struct vb_error e = {0};

    (void)state;
    assert_int_equal(vb_ledger_reserve(&l, PAID(10000), &e), 0);
    assert_int_equal(vb_ledger_reserve(&l, PAID(0), &e), 0);
    assert_int_equal(vb_ledger_reserve(&l, PAID(1), &e), VB_LIMIT);
    assert_int_equal(e.code, VB_LIMIT);
    assert_true(e.limit.set && e.limit.wanted == 1 && e.limit.used == 10000 && e.limit.limit == 20000);
    assert_string_equal(e.limit.whose, "RLIMIT_MEMLOCK of pid 812");
    assert_text(&e, "10000 bytes", "pid 812", NULL);
    assert_int_equal(l.used, 10000);
    vb_ledger_release(&l, PAID(4000));
    assert_int_equal(l.used, 6000);
    assert_int_equal(vb_ledger_reserve(&l, PAID(UINT64_MAX - 100), &e), VB_LIMIT);
    assert_int_equal(l.used, 6000);
}

static void test_the_lease_grows(void **state) {
    struct vb_ledger l = {.lease = 4096, .want = grant};
    struct vb_error e = {0};

    (void)state;
    asked = 0;
    assert_int_equal(vb_ledger_reserve(&l, PAID(4096), &e), 0);
    assert_int_equal(asked, 0);
    assert_int_equal(vb_ledger_reserve(&l, PAID(8192), &e), 0);
    assert_int_equal(asked, 1);
    assert_int_equal(l.used, 12288);
    l.want = grant_too_little;
    assert_int_equal(vb_ledger_reserve(&l, PAID(8192), &e), VB_LIMIT);
    assert_int_equal(asked, 2);
    l.want = no;
    assert_int_equal(vb_ledger_reserve(&l, PAID(8192), &e), VB_UNAVAILABLE);
    assert_text(&e, "daemon is away", NULL);
    assert_int_equal(l.used, 12288);
}

static void test_a_lowered_lease_only_grants_nothing_more(void **state) {
    struct vb_ledger l = {.lease = 8192};

    (void)state;
    assert_int_equal(vb_ledger_reserve(&l, PAID(8192), NULL), 0);
    l.lease = 4096;
    assert_int_equal(vb_ledger_reserve(&l, PAID(0), NULL), 0);
    assert_int_equal(vb_ledger_reserve(&l, PAID(1), NULL), VB_LIMIT);
    vb_ledger_release(&l, PAID(4096));
    assert_int_equal(vb_ledger_reserve(&l, PAID(1), NULL), VB_LIMIT);
    vb_ledger_release(&l, PAID(4096));
    assert_int_equal(vb_ledger_reserve(&l, PAID(4096), NULL), 0);
}

static void test_texts(void **state) {
    struct vb_error e = {0};
    unsigned i;

    (void)state;
    assert_string_equal(VB_SIZE(0), "0 bytes");
    assert_string_equal(VB_SIZE(4097), "4097 bytes");
    assert_string_equal(VB_SIZE(4096), "4 KiB");
    assert_string_equal(VB_SIZE(64 * MIB), "64 MiB");
    assert_string_equal(VB_SIZE(1ull << 63), "8 EiB");
    assert_string_equal(VB_SIZE(UINT64_MAX), "18446744073709551615 bytes");
    assert_int_equal(vb_fail(&e, -ENOMEM, "thing %d", 3), -ENOMEM);
    assert_string_equal(e.text, "thing 3: Cannot allocate memory");
    assert_int_equal(vb_error_entry(&e, 5), -ENOMEM);
    vb_error_entry(&e, 6);
    assert_int_equal(e.entry, 5);
    assert_int_equal(vb_fail(&e, -EIO, "%0400d", 1), -EIO);
    assert_int_equal(strlen(e.text), VB_ERROR_TEXT - 1);
    for (i = 0; i < 20; i++)
        vb_error_conflict(&e, i, i, i, i, "msi", i % 2 ? "0000:00:04.0" : NULL);
    assert_int_equal(e.n_conflicts, VB_CONFLICTS_MAX);
    assert_string_equal(e.conflicts[1].device, "0000:00:04.0");
    assert_int_equal(vb_refuse(NULL, VB_BUSY, "x"), VB_BUSY);
    assert_int_equal(vb_error_entry(NULL, 1), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reserve_and_release),
        cmocka_unit_test(test_the_lease_grows),
        cmocka_unit_test(test_a_lowered_lease_only_grants_nothing_more),
        cmocka_unit_test(test_texts),
    };

    return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
