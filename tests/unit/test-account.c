/* Accounts and leases; uids of session processes; what /proc says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/account.h"
#include "broker/policy.h"
#include "broker/uids.h"
#include "host/proc.h"

#define MIB (1ull << 20)

static void test_leases_share_one_limit(void **state) {
    struct vb_accounts accounts = {.list = {NULL}};
    struct vb_limits l = {.limit = 64 * MIB, .own = 4 * MIB, .whose = "RLIMIT_MEMLOCK of pid 812"};
    struct vb_error e = {.code = 0};
    (void)state;

    struct vb_account *a = vb_account_get(&accounts, 812, 99), *same = vb_account_get(&accounts, 812, 99);
    struct vb_account *other = vb_account_get(&accounts, 812, 100); /* the pid was given again */
    assert_ptr_equal(a, same);
    assert_ptr_not_equal(a, other);
    assert_int_equal(vb_account_left(a, &l), 60 * MIB);
    assert_int_equal(vb_account_check(a, &l, 0, 60 * MIB, &e), 0);
    assert_int_equal(vb_account_check(a, &l, 0, 60 * MIB + 1, &e), VB_LIMIT);
    vb_account_book(a, 0, 50 * MIB);
    assert_int_equal(vb_account_left(a, &l), 10 * MIB);
    assert_int_equal(vb_account_left(other, &l), 60 * MIB);
    /* The second session of the same client. */
    assert_int_equal(vb_account_check(same, &l, 0, 10 * MIB, &e), 0);
    assert_int_equal(vb_account_check(same, &l, 0, 16 * MIB, &e), VB_LIMIT);
    assert_string_equal(e.text, "memory limit: 16 MiB more wanted, 10 MiB left of 64 MiB (RLIMIT_MEMLOCK of pid 812)");
    assert_int_equal(e.limit.wanted, 16 * MIB);
    assert_int_equal(e.limit.used, 54 * MIB);
    assert_int_equal(e.limit.limit, 64 * MIB);
    /* Growing by less than what is left, shrinking, staying. */
    assert_int_equal(vb_account_check(a, &l, 50 * MIB, 60 * MIB, &e), 0);
    assert_int_equal(vb_account_check(a, &l, 50 * MIB, 60 * MIB + 1, &e), VB_LIMIT);
    assert_int_equal(vb_account_check(a, &l, 50 * MIB, 1, &e), 0);
    vb_account_book(a, 50 * MIB, 20 * MIB);
    assert_int_equal(a->leased, 20 * MIB);
    vb_account_book(a, 20 * MIB, 0);
    assert_null(vb_account_put(same));
    assert_null(vb_account_put(a));
    assert_null(vb_account_put(other));
    assert_true(LIST_EMPTY(&accounts.list));
}

static void test_lowered_limit_takes_nothing_back(void **state) {
    struct vb_accounts accounts = {.list = {NULL}};
    struct vb_limits l = {.limit = 10 * MIB, .own = 0, .whose = "x"};
    struct vb_error e = {.code = 0};
    (void)state;

    struct vb_account *a = vb_account_get(&accounts, 1, 1);
    vb_account_book(a, 0, 50 * MIB);
    assert_int_equal(vb_account_left(a, &l), 0);
    assert_int_equal(vb_account_check(a, &l, 50 * MIB, 50 * MIB, &e), 0);
    assert_int_equal(vb_account_check(a, &l, 50 * MIB, 40 * MIB, &e), 0);
    assert_int_equal(vb_account_check(a, &l, 50 * MIB, 50 * MIB + 1, &e), VB_LIMIT);
    l.own = UINT64_MAX; /* no overflow makes room */
    assert_int_equal(vb_account_left(a, &l), 0);
    assert_int_equal(vb_account_check(a, &l, 0, UINT64_MAX, &e), VB_LIMIT);
    vb_account_book(a, 50 * MIB, 0);
    vb_account_put(a);
}

static void test_limits_of_a_process(void **state) {
    struct vb_peer peer = VB_PEER_INIT;
    struct vb_limits l;
    struct rlimit rl;
    (void)state;

    pid_t pid = fork();
    if (pid == 0) {
        pause();
        _exit(0);
    }
    peer.pid = pid;
    peer.uid = getuid();
    assert_int_equal(vb_limits_read("/proc", &peer, 1, &l), -ESRCH); /* without a pidfd nothing is sure */
    peer.pidfd = vb_pidfd_open(pid);
    assert_true(peer.pidfd >= 0);
    assert_int_equal(getrlimit(RLIMIT_MEMLOCK, &rl), 0);
    assert_int_equal(vb_limits_read("/proc", &peer, VB_POLICY_NO_LIMIT, &l), 0);
    assert_int_equal(l.limit, rl.rlim_cur < VB_POLICY_MEMORY_MAX ? rl.rlim_cur : VB_POLICY_MEMORY_MAX);
    assert_non_null(strstr(l.whose, "RLIMIT_MEMLOCK of pid"));
    assert_int_equal(l.own, 0);
    assert_int_equal(vb_limits_read("/proc", &peer, 4096, &l), 0);
    assert_int_equal(l.limit, 4096);
    assert_non_null(strstr(l.whose, "policy memory_max of uid"));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_int_equal(vb_limits_read("/proc", &peer, 4096, &l), -ESRCH);
    vb_peer_fini(&peer);
}

static void test_proc_of_ourselves(void **state) {
    struct vb_proc_status s;
    uint64_t start = 0, limit;
    char comm[VB_COMM_SIZE];
    struct rlimit rl;
    void *p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    (void)state;

    assert_int_equal(vb_proc_status("/proc", getpid(), &s), 0);
    uint64_t before = s.locked;
    assert_int_equal(s.uid, getuid());
    assert_int_equal(s.euid, geteuid());
    assert_int_equal(s.parent, getppid());
    if (syscall(SYS_mlock, p, 65536) == 0) { /* the function does nothing under AddressSanitizer */
        assert_int_equal(vb_proc_status("/proc", getpid(), &s), 0);
        assert_int_equal(s.locked, before + 65536);
    }
    munmap(p, 65536);
    assert_int_equal(vb_proc_start_time("/proc", getpid(), &start), 0);
    assert_true(start > 0);
    assert_in_range(time(NULL) - vb_proc_started(start), 0, 60);
    vb_proc_comm("/proc", getpid(), comm);
    assert_true(strlen(comm) > 1);
    assert_int_equal(vb_proc_memlock("/proc", getpid(), &limit), 0);
    assert_int_equal(getrlimit(RLIMIT_MEMLOCK, &rl), 0);
    assert_true(limit == rl.rlim_cur);
    assert_int_equal(vb_proc_start_time("/proc", 0x3fffffff, &start), -ENOENT);
    assert_int_equal(vb_proc_status("/proc", 0x3fffffff, &s), -ENOENT);
    vb_proc_comm("/proc", 0x3fffffff, comm);
    assert_string_equal(comm, "?");
}

static void test_uids(void **state) {
    struct vb_uids u;
    uid_t uid;
    (void)state;

    assert_int_equal(vb_uids_init(&u, 5000, 3), 0);
    assert_false(vb_uids_in_range(&u, 4999));
    assert_true(vb_uids_in_range(&u, 5002));
    assert_false(vb_uids_in_range(&u, 5003));
    assert_false(vb_uids_in_range(&u, 0));
    vb_uids_note(&u, 5001); /* somebody runs under it */
    vb_uids_note(&u, 0);
    assert_int_equal(vb_uids_take(&u, &uid), 0);
    assert_int_equal(uid, 5000);
    vb_uids_give(&u, 5000);
    assert_int_equal(vb_uids_take(&u, &uid), 0);
    assert_int_equal(uid, 5002); /* what was given back last comes last */
    assert_int_equal(vb_uids_take(&u, &uid), 0);
    assert_int_equal(uid, 5000);
    assert_int_equal(vb_uids_take(&u, &uid), -EBUSY);
    vb_uids_give(&u, 5001);
    vb_uids_give(&u, 9999);
    assert_int_equal(vb_uids_take(&u, &uid), 0);
    assert_int_equal(uid, 5001);
    vb_uids_fini(&u);
    assert_int_equal(vb_uids_init(&u, 0, 0), 0);
    assert_int_equal(vb_uids_take(&u, &uid), 0);
    assert_int_equal(uid, getuid());
    vb_uids_fini(&u);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_leases_share_one_limit),
        cmocka_unit_test(test_lowered_limit_takes_nothing_back),
        cmocka_unit_test(test_limits_of_a_process),
        cmocka_unit_test(test_proc_of_ourselves),
        cmocka_unit_test(test_uids),
    };
    return cmocka_run_group_tests_name("account", tests, NULL, NULL);
}
