/* The session's ledger, and texts of sizes and errors. */
#include "tests/unit/core-fixture.h"

#include "core/ledger.h"

#define PAID(bytes) ((struct vb_cost){.paid = (bytes)})

static int asked;

static int grant(struct vb_ledger *l, uint64_t need, uint64_t doubled, struct vb_error *e) {
    (void)e;
    asked++;
    vb_ledger_granted(l, need + 4096, doubled);
    return 0;
}

static int grant_too_little(struct vb_ledger *l, uint64_t need, uint64_t doubled, struct vb_error *e) {
    (void)e, (void)need, (void)doubled;
    asked++;
    vb_ledger_granted(l, 1, 0);
    return 0;
}

static int refuse(struct vb_ledger *l, uint64_t need, uint64_t doubled, struct vb_error *e) {
    (void)l, (void)doubled;
    vb_error_limit(e, need, 15000, 20000, "policy");
    return vb_refuse(e, VB_LIMIT, "other sessions of uid 1000 have 5000 bytes; raise the limit");
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
    assert_int_equal(asked, 1 + 8); /* asked again, but not for ever */
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

/* What the account says is followed by nothing: before it stands what was wanted, and what is idle here counts as left. */
static void test_a_refusal_of_the_account(void **state) {
    struct vb_ledger l = {.lease = 10000, .want = refuse};
    struct vb_error e = {0};

    (void)state;
    assert_int_equal(vb_ledger_reserve(&l, PAID(7000), &e), 0);
    assert_int_equal(vb_ledger_reserve(&l, PAID(9000), &e), VB_LIMIT);
    assert_string_equal(e.text,
                        "memory limit: 9000 bytes more wanted, 8000 bytes left of 20000 bytes (policy); other sessions "
                        "of uid 1000 have 5000 bytes; raise the limit");
    assert_true(e.limit.wanted == 9000 && e.limit.used == 12000 && e.limit.limit == 20000);
    assert_int_equal(vb_ledger_reserve(&l, PAID(9000), NULL), VB_LIMIT);
    assert_int_equal(l.used, 7000);
}

/* ---- giving back ---- */

static struct vb_give given;

static int reclaimed_first(struct vb_ledger *l, uint64_t need, uint64_t doubled, struct vb_error *e) {
    (void)e;
    assert_int_equal(doubled, 0);
    given = vb_ledger_give(l); /* while we wait */
    vb_ledger_granted(l, need + given.bytes, doubled);
    return 0;
}

static int doubled_while_reclaimed(struct vb_ledger *l, uint64_t need, uint64_t doubled, struct vb_error *e) {
    (void)e;
    assert_int_equal(need, 0);
    assert_int_equal(doubled, 3000 + VB_DOUBLED_SLACK); /* more than this pin needs: the next one needs no call */
    given = vb_ledger_give(l);
    vb_ledger_granted(l, 0, doubled);
    return 0;
}

static void test_idle_lease(void **state) {
    struct vb_ledger l = {.lease = 10000};
    struct vb_give g;

    (void)state;
    assert_int_equal(vb_ledger_reserve(&l, PAID(4000), NULL), 0);
    assert_int_equal(vb_ledger_idle(&l, 0), 6000);
    assert_int_equal(vb_ledger_idle(&l, 5000), 1000);
    assert_int_equal(vb_ledger_idle(&l, UINT64_MAX), 0);
    g = vb_ledger_give(&l);
    assert_true(g.bytes == 6000 && g.doubled == 0 && l.lease == 4000);
    assert_int_equal(vb_ledger_give(&l).bytes, 0);
    /* A reservation that waits for more gives what it has; the daemon adds it to what it needs. */
    l.lease = 6000;
    l.want = reclaimed_first;
    assert_int_equal(vb_ledger_reserve(&l, PAID(4000), NULL), 0);
    assert_true(given.bytes == 2000 && l.lease == 8000 && l.used == 8000);
    /* One that has enough lease already, and waits for something else, keeps that. */
    l.lease = 14000;
    l.want = doubled_while_reclaimed;
    l.doubled_slack = VB_DOUBLED_SLACK;
    assert_int_equal(vb_ledger_reserve(&l, (struct vb_cost){.paid = 1000, .doubled = 3000}, NULL), 0);
    assert_true(given.bytes == 5000 && given.doubled == 3000 + VB_DOUBLED_SLACK && l.lease == 9000 && l.used == 9000);
    /* What is no longer doubled is told with the next give. */
    vb_ledger_release(&l, (struct vb_cost){.doubled = 1000});
    g = vb_ledger_give(&l);
    assert_true(g.bytes == 0 && g.doubled == 2000 && l.doubled_granted == 2000);
}

static void test_what_stays_idle(void **state) {
    struct vb_ledger l = {.lease = 10000};
    struct vb_give g = {.bytes = 1};

    (void)state;
    assert_int_equal(vb_ledger_reserve(&l, PAID(9500), NULL), 0);
    assert_false(vb_ledger_watch(&l, 500));
    vb_ledger_release(&l, PAID(7500));
    assert_true(vb_ledger_watch(&l, 500));
    /* Used in between, and free again: that was not idle. */
    assert_int_equal(vb_ledger_reserve(&l, PAID(4000), NULL), 0);
    vb_ledger_release(&l, PAID(4000));
    assert_true(vb_ledger_give_watched(&l, 500, &g));
    assert_true(g.bytes == 3500 && l.lease == 6500);
    assert_true(vb_ledger_watch(&l, 500));
    assert_true(vb_ledger_give_watched(&l, 500, &g));
    assert_true(g.bytes == 4000 && l.lease == 2500);
    assert_false(vb_ledger_watch(&l, 500));
    assert_false(vb_ledger_give_watched(&l, 500, &g));
    l.doubled_granted = 100;
    assert_true(vb_ledger_watch(&l, 500));
    assert_true(vb_ledger_give_watched(&l, 500, &g));
    assert_true(g.bytes == 0 && g.doubled == 0 && l.doubled_granted == 0);
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
        cmocka_unit_test(test_a_refusal_of_the_account),
        cmocka_unit_test(test_idle_lease),
        cmocka_unit_test(test_what_stays_idle),
        cmocka_unit_test(test_texts),
    };

    return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
