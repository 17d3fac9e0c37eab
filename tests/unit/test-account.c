/* Accounts and leases (every order of events: test-interleave.c); uids of session processes; what /proc says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/account.h"
#include "broker/payer.h"
#include "broker/policy.h"
#include "broker/uids.h"
#include "host/proc.h"
#include "proto/limits.h"

#define MIB (1ull << 20)

/* ---- a world for the accounts: two clients, sessions that do as they are told ---- */

enum { SESSIONS = 4 };

static struct session {
    struct vb_lease lease;
    uint64_t memlock, locked; /* the kernel's */
    bool dead;
    unsigned reclaims;
    /* the last answer */
    unsigned answers;
    uint64_t serial, granted;
    struct vb_error error;
} s[SESSIONS];
static struct vb_limits world;
static unsigned armed; /* ms */
static unsigned looks; /* at /proc */

static struct session *owner(struct vb_lease *l) {
    for (int i = 0; i < SESSIONS; i++)
        if (l == &s[i].lease)
            return &s[i];
    fail_msg("an unknown lease");
    return NULL;
}

static int limits(struct vb_lease *l, struct vb_limits *ret, struct vb_error *e) {
    *ret = world;
    looks++;
    return world.limit ? 0 : vb_refuse(e, VB_DENIED, "the client of %p is gone", (void *)l);
}

static int set_memlock(struct vb_lease *l, uint64_t bytes, uint64_t *ret_locked, struct vb_error *e) {
    struct session *x = owner(l);

    if (x->dead)
        return vb_fail(e, -ESRCH, "no process");
    x->memlock = bytes;
    if (ret_locked)
        *ret_locked = x->locked;
    return 0;
}

static void reclaim(struct vb_lease *l) {
    owner(l)->reclaims++;
}

static void answer(struct vb_lease *l, uint64_t serial, uint64_t granted, const struct vb_limits *limits,
                   const struct vb_error *e) {
    struct session *x = owner(l);

    assert_true(e || limits->limit == world.limit);
    x->answers++;
    x->serial = serial;
    x->granted = granted;
    x->error = e ? *e : (struct vb_error){.code = 0};
}

static void arm(struct vb_account *a, unsigned ms) {
    armed = ms;
    a->timer = ms ? &armed : NULL;
}

static const struct vb_account_ops ops = {limits, set_memlock, reclaim, answer, arm};
static struct vb_accounts accounts;

static struct vb_account *begin(uint64_t limit, uint64_t own) {
    static const struct vb_account_key key = {.kind = VB_ACCOUNT_PROCESS, .pid = 812, .start = 99, .comm = "qemu"};

    memset(s, 0, sizeof s);
    armed = 0;
    accounts = (struct vb_accounts){.ops = &ops};
    world = (struct vb_limits){.limit = limit, .own = own, .whose = "RLIMIT_MEMLOCK of pid 812"};
    return vb_account_get(&accounts, &key);
}

static void end(struct vb_account *a) {
    for (int i = 0; i < SESSIONS; i++)
        vb_account_leave(&s[i].lease);
    assert_int_equal(a->leased, 0);
    assert_null(vb_account_put(a));
    assert_true(LIST_EMPTY(&accounts.list));
    assert_int_equal(armed, 0);
}

static void join(struct vb_account *a, int i, uint64_t wish) {
    struct vb_limits l;
    struct vb_error e;

    assert_int_equal(vb_account_join(a, &s[i].lease, wish, &l, &e), 0);
    s[i].memlock = s[i].lease.bytes;
}

/* ---- accounts ---- */

static void test_who_is_the_same(void **state) {
    static const struct vb_account_key keys[] = {
        {.kind = VB_ACCOUNT_PROCESS, .pid = 812, .start = 99, .uid = 1, .comm = "qemu"},
        {.kind = VB_ACCOUNT_PROCESS, .pid = 812, .start = 100, .uid = 1, .comm = "qemu"}, /* the pid was given again */
        {.kind = VB_ACCOUNT_UID, .pid = 812, .start = 99, .uid = 1000},
        {.kind = VB_ACCOUNT_UID, .pid = 812, .start = 99, .uid = 1001},
        {.kind = VB_ACCOUNT_UNIT, .pid = 812, .start = 99, .uid = 1000, .unit = "vm@3.service"},
        {.kind = VB_ACCOUNT_UNIT, .pid = 812, .start = 99, .uid = 1000, .unit = "vm@4.service"},
    };
    static const char *const names[] = {"pid 812 (qemu)", "pid 812 (qemu)",    "uid 1000",
                                        "uid 1001",       "unit vm@3.service", "unit vm@4.service"};
    struct vb_account *a[6];
    (void)state;

    accounts = (struct vb_accounts){.ops = &ops};
    for (int i = 0; i < 6; i++) {
        a[i] = vb_account_get(&accounts, &keys[i]);
        assert_string_equal(a[i]->name, names[i]);
        for (int k = 0; k < i; k++)
            assert_ptr_not_equal(a[i], a[k]);
    }
    struct vb_account_key other = keys[2], unit = keys[4];
    other.pid = unit.pid = 813;
    unit.uid = 0;
    assert_ptr_equal(vb_account_get(&accounts, &other), a[2]);
    assert_ptr_equal(vb_account_get(&accounts, &unit), a[4]);
    vb_account_put(a[2]);
    vb_account_put(a[4]);
    for (int i = 0; i < 6; i++)
        assert_null(vb_account_put(a[i]));
    assert_true(LIST_EMPTY(&accounts.list));
}

static void test_leases_share_one_limit(void **state) {
    struct vb_account *a = begin(64 * MIB, 4 * MIB);
    (void)state;

    join(a, 0, 50 * MIB);
    join(a, 1, 50 * MIB);
    assert_int_equal(s[0].lease.bytes, 50 * MIB);
    assert_int_equal(s[1].lease.bytes, 10 * MIB);
    assert_int_equal(a->leased, 60 * MIB);
    vb_account_want(&s[1].lease, 7, 6 * MIB, 6 * MIB, 0);
    assert_int_equal(s[1].answers, 0); /* it waits for the other */
    assert_int_equal(s[0].reclaims, 1);
    assert_int_equal(s[1].reclaims, 0);
    assert_int_equal(armed, VB_RECLAIM_MS);
    /* What was not asked for is no answer, but is welcome. */
    assert_int_equal(vb_account_give(&s[0].lease, 2 * MIB, 0, false), 0);
    assert_int_equal(s[0].memlock, 48 * MIB);
    assert_int_equal(s[1].answers, 0);
    assert_int_equal(vb_account_give(&s[0].lease, 20 * MIB, 0, true), 0);
    assert_int_equal(s[1].answers, 1);
    assert_int_equal(s[1].serial, 7);
    assert_int_equal(s[1].error.code, 0);
    assert_int_equal(s[1].granted, 6 * MIB);
    assert_int_equal(s[1].memlock, 16 * MIB);
    assert_int_equal(s[0].memlock, 28 * MIB);
    assert_int_equal(a->leased, 44 * MIB);
    assert_int_equal(armed, 0);
    end(a);
}

static void test_a_wish_is_taken_if_there_is_room(void **state) {
    struct vb_account *a = begin(10 * MIB, 0);
    (void)state;

    join(a, 0, 0);
    vb_account_want(&s[0].lease, 1, 2 * MIB, 5 * MIB, 0);
    assert_int_equal(s[0].granted, 5 * MIB);
    vb_account_want(&s[0].lease, 2, 2 * MIB, 50 * MIB, 0);
    assert_int_equal(s[0].granted, 5 * MIB);
    assert_int_equal(a->leased, 10 * MIB);
    vb_account_want(&s[0].lease, 3, 0, 50 * MIB, 3 * MIB); /* only doubled */
    assert_int_equal(s[0].granted, 0);
    assert_int_equal(s[0].memlock, 13 * MIB);
    vb_account_want(&s[0].lease, 4, 0, 0, UINT64_MAX); /* at most the lease */
    assert_int_equal(s[0].memlock, 20 * MIB);
    end(a);
}

static void test_refusals_say_numbers(void **state) {
    struct vb_account *a = begin(64 * MIB, 4 * MIB);
    (void)state;

    join(a, 0, 60 * MIB);
    vb_account_want(&s[0].lease, 1, 16 * MIB, 16 * MIB, 0); /* never: nobody is asked */
    assert_int_equal(s[0].answers, 1);
    assert_int_equal(s[0].error.code, VB_LIMIT);
    assert_string_equal(s[0].error.text,
                        "the client itself has 4 MiB locked; raise the limit or unmap or unlock something");
    assert_int_equal(s[0].error.limit.wanted, 16 * MIB);
    assert_int_equal(s[0].error.limit.used, 64 * MIB);
    assert_int_equal(s[0].error.limit.limit, 64 * MIB);
    vb_account_want(&s[0].lease, 2, UINT64_MAX, UINT64_MAX, 0);
    assert_int_equal(s[0].error.code, VB_LIMIT);
    /* The other has nothing to give. */
    join(a, 1, 60 * MIB);
    assert_int_equal(s[1].lease.bytes, 0);
    vb_account_want(&s[1].lease, 3, 1, 1, 0);
    assert_int_equal(s[1].answers, 0);
    assert_int_equal(vb_account_give(&s[0].lease, 0, 0, true), 0);
    assert_int_equal(s[1].error.code, VB_LIMIT);
    assert_int_equal(s[1].granted, 0);
    world.limit = 0; /* gone */
    vb_account_want(&s[1].lease, 4, 1, 1, 0);
    assert_int_equal(s[1].error.code, VB_DENIED);
    assert_int_equal(a->leased, 60 * MIB);
    end(a);
}

static void test_lowered_limit_takes_nothing_back(void **state) {
    struct vb_account *a = begin(50 * MIB, 0);
    (void)state;

    join(a, 0, 50 * MIB);
    world.limit = 10 * MIB;
    assert_int_equal(vb_account_left(a, &world), 0);
    vb_account_want(&s[0].lease, 1, 1, 1, 0);
    assert_int_equal(s[0].error.code, VB_LIMIT);
    assert_int_equal(a->leased, 50 * MIB);
    assert_int_equal(s[0].memlock, 50 * MIB);
    world.own = UINT64_MAX; /* no overflow makes room */
    assert_int_equal(vb_account_left(a, &world), 0);
    vb_account_want(&s[0].lease, 2, UINT64_MAX, UINT64_MAX, 0);
    assert_int_equal(s[0].error.code, VB_LIMIT);
    end(a);
}

/* Two rounds: one who gave something, but too little, is asked again. */
static void test_asked_until_nobody_gives(void **state) {
    struct vb_account *a = begin(10, 0);
    (void)state;

    join(a, 0, 10);
    join(a, 1, 0);
    vb_account_want(&s[1].lease, 1, 5, 5, 0);
    vb_account_give(&s[0].lease, 2, 0, true);
    assert_int_equal(s[0].reclaims, 2);
    assert_int_equal(s[1].answers, 0);
    vb_account_give(&s[0].lease, 2, 0, true);
    assert_int_equal(s[0].reclaims, 3);
    vb_account_give(&s[0].lease, 0, 0, true);
    assert_int_equal(s[1].error.code, VB_LIMIT);
    end(a);
}

/* Limits cost a file of /proc for each client: they are not read for each of the answers that leave too little. */
static void test_answers_are_cheap(void **state) {
    struct vb_account *a = begin(10, 0);
    (void)state;

    for (int i = 1; i < SESSIONS; i++)
        join(a, i, 2);
    join(a, 0, 0);
    looks = 0;
    vb_account_want(&s[0].lease, 1, 8, 8, 0);
    assert_int_equal(looks, 1);
    vb_account_give(&s[1].lease, 0, 0, true);
    vb_account_give(&s[2].lease, 0, 0, true);
    assert_int_equal(looks, 1);
    world.limit = 14; /* is seen before a refusal */
    vb_account_give(&s[3].lease, 0, 0, true);
    assert_int_equal(looks, 2);
    assert_int_equal(s[0].granted, 8);
    end(a);
}

/* One that does not answer costs its account VB_RECLAIM_MS, once; another account nothing. */
static void test_one_that_does_not_answer(void **state) {
    struct vb_account *a = begin(10, 0);
    (void)state;

    join(a, 0, 10);
    join(a, 1, 0);
    join(a, 2, 0);
    vb_account_want(&s[1].lease, 1, 5, 5, 0);
    vb_account_want(&s[2].lease, 2, 5, 5, 0); /* behind it */
    assert_int_equal(s[0].reclaims, 1);
    assert_int_equal(armed, VB_RECLAIM_MS);
    vb_account_timeout(a);
    assert_int_equal(s[1].error.code, VB_LIMIT);
    assert_int_equal(s[2].error.code, VB_LIMIT); /* it is not waited for again */
    assert_int_equal(s[0].reclaims, 1);
    /* It comes round. */
    assert_int_equal(vb_account_give(&s[0].lease, 6, 0, true), 0);
    vb_account_want(&s[2].lease, 3, 6, 6, 0);
    assert_int_equal(s[2].granted, 6);
    vb_account_want(&s[1].lease, 4, 3, 3, 0);
    assert_int_equal(s[0].reclaims, 2);
    vb_account_leave(&s[0].lease); /* its end is an answer too; the other still has to */
    assert_int_equal(s[1].answers, 2);
    assert_int_equal(s[1].granted, 3);
    end(a);
}

/* First come, first served; what a waiting one gives, it needs. */
static void test_queue(void **state) {
    struct vb_account *a = begin(10, 0);
    (void)state;

    join(a, 0, 4);
    join(a, 1, 4);
    join(a, 2, 2);
    vb_account_want(&s[0].lease, 1, 4, 4, 0);
    vb_account_want(&s[1].lease, 2, 1, 1, 0);
    join(a, 3, 10);
    assert_int_equal(s[3].lease.bytes, 0); /* not past those who wait */
    vb_account_give(&s[2].lease, 2, 0, true);
    assert_int_equal(s[1].answers, 0); /* though there would be enough for it */
    vb_account_give(&s[1].lease, 2, 0, true);
    assert_int_equal(s[0].answers, 1);
    assert_int_equal(s[0].granted, 4);
    assert_int_equal(s[1].answers, 0);
    assert_int_equal(s[1].lease.request.need, 3);
    vb_account_give(&s[0].lease, 3, 0, true);
    assert_int_equal(s[1].answers, 1);
    assert_int_equal(s[1].granted, 3);
    assert_int_equal(a->leased, 10);
    end(a);
}

static void test_sessions_that_lie(void **state) {
    struct vb_account *a = begin(10, 0);
    (void)state;

    join(a, 0, 10);
    assert_int_equal(vb_account_give(&s[0].lease, 11, 0, false), VB_PROTOCOL);
    assert_int_equal(vb_account_give(&s[0].lease, 1, 0, true), VB_PROTOCOL); /* nobody asked */
    assert_int_equal(a->leased, 10);
    /* It gives what it has not emptied: the kernel says so, and it goes on paying. */
    s[0].locked = 9;
    assert_int_equal(vb_account_give(&s[0].lease, 6, 0, false), 0);
    assert_int_equal(s[0].lease.bytes, 4);
    assert_int_equal(s[0].memlock, 4);
    assert_int_equal(a->leased, 9);
    join(a, 1, 10);
    assert_int_equal(s[1].lease.bytes, 1);
    /* It had that already. */
    vb_account_want(&s[0].lease, 1, 3, 3, 0);
    assert_int_equal(s[0].granted, 3);
    assert_int_equal(a->leased, 10);
    s[0].locked = 0;
    assert_int_equal(vb_account_give(&s[0].lease, 0, 0, false), 0);
    assert_int_equal(a->leased, 8);
    /* One that has died has what it has until that was taken away. */
    s[0].dead = true;
    assert_int_equal(vb_account_give(&s[0].lease, 5, 0, false), 0);
    assert_int_equal(a->leased, 8);
    vb_account_want(&s[0].lease, 2, 7, 7, 0);
    assert_int_equal(s[0].error.code, -ESRCH);
    assert_int_equal(a->leased, 8);
    end(a);
}

static void test_adopted_leases(void **state) {
    struct vb_account *a = begin(10, 0);
    (void)state;

    assert_int_equal(vb_lease_memlock(10, 3), 13);
    assert_int_equal(vb_lease_memlock(10, 30), 20);
    assert_int_equal(vb_lease_within(13, 10, 3), 10);
    assert_int_equal(vb_lease_within(12, 10, 3), 9);
    assert_int_equal(vb_lease_within(100, 10, 3), 10);
    assert_int_equal(vb_lease_within(8, 10, 30), 4);
    assert_int_equal(vb_lease_within(0, UINT64_MAX, UINT64_MAX), 0);
    assert_int_equal(vb_lease_within(UINT64_MAX, UINT64_MAX, 0), UINT64_MAX);
    for (uint64_t memlock = 0; memlock < 30; memlock++)
        for (uint64_t doubled = 0; doubled < 30; doubled++) {
            uint64_t most = vb_lease_within(memlock, 1000, doubled);

            assert_true(vb_lease_memlock(most, doubled) <= memlock);
            assert_true(vb_lease_memlock(most + 1, doubled) > memlock);
        }
    vb_account_adopt(a, &s[0].lease, 7, 2, 9); /* nine are locked: seven, two of them twice */
    assert_int_equal(a->leased, 7);
    vb_account_adopt(a, &s[1].lease, 1, 0, 8); /* it lies */
    assert_int_equal(a->leased, 15);           /* past the limit: that is how it is */
    vb_account_want(&s[0].lease, 1, 1, 1, 2);
    assert_int_equal(vb_account_give(&s[1].lease, 0, 0, true), 0);
    assert_int_equal(s[0].answers, 1); /* nothing is locked there any more, it turns out */
    assert_int_equal(s[0].error.code, 0);
    end(a);
}

static void test_the_daemon_ends(void **state) {
    struct vb_account *a = begin(10, 0);
    (void)state;

    join(a, 0, 10);
    join(a, 1, 0);
    vb_account_want(&s[1].lease, 1, 5, 5, 0);
    accounts.ends = true; /* its session runs on: what it has is not free */
    vb_account_leave(&s[0].lease);
    assert_int_equal(s[1].answers, 0);
    assert_int_equal(s[1].memlock, 0);
    end(a);
}

/* ---- who pays ---- */

static void test_units(void **state) {
    static const struct {
        const char *cgroup, *unit;
    } cases[] = {
        {"0::/system.slice/vm@3.service\n", "vm@3.service"},
        {"12:cpu:/x\n0::/user.slice/user-1000.slice/user@1000.service/app.slice/foo.scope\n", "user@1000.service"},
        {"0::/machine.slice/machine-qemu\\x2d1.scope/libvirt/emulator\n", "machine-qemu\\x2d1.scope"},
        {"0::/user.slice/user-0.slice/session-3.scope\n", "session-3.scope"},
        {"0::/init.scope\n", "init.scope"},
        {"0::/system.slice/_cgroup.service/x.service\n", "cgroup.service"},
        {"0::/a.slice/b.slice/c.slice\n", NULL},
        {"0::/\n", NULL},
        {"0::/docker/0123.scope\n", NULL},
        {"0::/../x.service\n", NULL},
        {"0::/.service\n", NULL},
        {"0::/.slice/a.service\n", NULL},
        {"1:name=systemd:/system.slice/vm@3.service\n", NULL},
        {"", NULL},
    };
    char unit[VB_UNIT_MAX + 1], text[400];
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bool found = vb_payer_unit(cases[i].cgroup, unit);

        if (found != (cases[i].unit != NULL) || (found && strcmp(unit, cases[i].unit) != 0))
            fail_msg("%s is in %s", cases[i].cgroup, found ? unit : "no unit");
    }
    snprintf(text, sizeof text, "0::/%0247d.service\n", 1);
    assert_true(vb_payer_unit(text, unit));
    assert_int_equal(strlen(unit), VB_UNIT_MAX);
    snprintf(text, sizeof text, "0::/%0248d.service\n", 1);
    assert_false(vb_payer_unit(text, unit));
}

static void test_who_pays(void **state) {
    char proc[] = "/tmp/vfio-broker-account.XXXXXX", path[64], file[96];
    struct vb_peer peer = {.uid = 1000, .pid = getpid(), .start = 5, .pidfd = -1, .comm = "qemu"};
    struct vb_grant grant = {.account = VB_ACCOUNT_UNIT};
    struct vb_account_key k;
    (void)state;

    assert_int_equal(vb_payer_find("/proc", &peer, NULL, &k), 0);
    assert_true(k.kind == VB_ACCOUNT_PROCESS && k.pid == getpid() && k.start == 5 && k.uid == 1000);
    assert_string_equal(k.comm, "qemu");
    assert_non_null(mkdtemp(proc));
    snprintf(path, sizeof path, "%s/%d", proc, (int)getpid());
    snprintf(file, sizeof file, "%s/cgroup", path);
    assert_int_equal(mkdir(path, 0700), 0);
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    fputs("0::/system.slice/vm@3.service\n", f);
    fclose(f);
    assert_int_equal(vb_payer_find(proc, &peer, &grant, &k), -ESRCH); /* without a pidfd nothing is sure */
    peer.pidfd = vb_pidfd_open(getpid());
    assert_int_equal(vb_payer_find(proc, &peer, &grant, &k), 0);
    assert_int_equal(k.kind, VB_ACCOUNT_UNIT);
    assert_string_equal(k.unit, "vm@3.service");
    grant.account = VB_ACCOUNT_UID;
    assert_int_equal(vb_payer_find(proc, &peer, &grant, &k), 0);
    assert_int_equal(k.kind, VB_ACCOUNT_UID);
    unlink(file); /* no cgroups: the process itself */
    grant.account = VB_ACCOUNT_UNIT;
    assert_int_equal(vb_payer_find(proc, &peer, &grant, &k), 0);
    assert_int_equal(k.kind, VB_ACCOUNT_PROCESS);
    close(peer.pidfd);
    rmdir(path);
    rmdir(proc);
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
    struct vb_proc_status status;
    uint64_t start = 0, limit;
    char comm[VB_COMM_SIZE];
    struct rlimit rl;
    void *p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    (void)state;

    assert_int_equal(vb_proc_status("/proc", getpid(), &status), 0);
    uint64_t before = status.locked;
    assert_int_equal(status.uid, getuid());
    assert_int_equal(status.euid, geteuid());
    assert_int_equal(status.parent, getppid());
    if (syscall(SYS_mlock, p, 65536) == 0) { /* the function does nothing under AddressSanitizer */
        assert_int_equal(vb_proc_status("/proc", getpid(), &status), 0);
        assert_int_equal(status.locked, before + 65536);
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
    assert_int_equal(vb_proc_status("/proc", 0x3fffffff, &status), -ENOENT);
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
        cmocka_unit_test(test_who_is_the_same),
        cmocka_unit_test(test_leases_share_one_limit),
        cmocka_unit_test(test_a_wish_is_taken_if_there_is_room),
        cmocka_unit_test(test_refusals_say_numbers),
        cmocka_unit_test(test_lowered_limit_takes_nothing_back),
        cmocka_unit_test(test_asked_until_nobody_gives),
        cmocka_unit_test(test_answers_are_cheap),
        cmocka_unit_test(test_one_that_does_not_answer),
        cmocka_unit_test(test_queue),
        cmocka_unit_test(test_sessions_that_lie),
        cmocka_unit_test(test_adopted_leases),
        cmocka_unit_test(test_the_daemon_ends),
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_who_pays),
        cmocka_unit_test(test_limits_of_a_process),
        cmocka_unit_test(test_proc_of_ourselves),
        cmocka_unit_test(test_uids),
    };
    return cmocka_run_group_tests_name("account", tests, NULL, NULL);
}
