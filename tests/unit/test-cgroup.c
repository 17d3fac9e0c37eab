/* Cgroups of sessions, on a directory that looks like cgroup2: mkdirat() fills what it makes as the kernel would, and
 * unlinkat() and fgetxattr() say what a test wants. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "broker/cgroup-place.h"
#include "broker/cgroup.h"
#include "host/cgroupfs.h"

#define MIB (1ull << 20)

int __real_mkdirat(int dir, const char *name, mode_t mode);
int __wrap_mkdirat(int dir, const char *name, mode_t mode);
int __real_unlinkat(int dir, const char *name, int flags);
int __wrap_unlinkat(int dir, const char *name, int flags);
ssize_t __wrap_fgetxattr(int fd, const char *name, void *value, size_t size);

static char root[64], proc[72], sys[72]; /* of the fake host */
static struct event_base *base;
static struct {
    int mkdir_error;
    const char *missing; /* a file that a new cgroup has not */
    const char *busy;    /* name of a cgroup with a process; "*": all */
    const char *delegate;
} fake;

static const struct {
    const char *name, *text;
} kernel_files[] = {{"cgroup.procs", ""},           {"cgroup.controllers", "memory pids\n"},
                    {"cgroup.subtree_control", ""}, {"memory.max", "max\n"},
                    {"memory.oom.group", "0\n"},    {"memory.events", "oom 0\n"},
                    {"memory.current", "0\n"}};
#define N_FILES (sizeof kernel_files / sizeof kernel_files[0])

static void put_at(int dir, const char *name, const char *text) {
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

int __wrap_mkdirat(int dir, const char *name, mode_t mode) {
    if (fake.mkdir_error) {
        errno = fake.mkdir_error;
        return -1;
    }
    if (__real_mkdirat(dir, name, mode) < 0)
        return -1;
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (size_t i = 0; i < N_FILES; i++)
        if (!fake.missing || strcmp(fake.missing, kernel_files[i].name) != 0)
            put_at(fd, kernel_files[i].name, kernel_files[i].text);
    close(fd);
    return 0;
}

int __wrap_unlinkat(int dir, const char *name, int flags) {
    if (!(flags & AT_REMOVEDIR))
        return __real_unlinkat(dir, name, flags);
    if (fake.busy && (strcmp(fake.busy, "*") == 0 || strcmp(fake.busy, name) == 0) &&
        faccessat(dir, name, F_OK, 0) == 0) {
        errno = EBUSY;
        return -1;
    }
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        for (size_t i = 0; i < N_FILES; i++)
            __real_unlinkat(fd, kernel_files[i].name, 0);
        close(fd);
    }
    return __real_unlinkat(dir, name, flags);
}

ssize_t __wrap_fgetxattr(int fd, const char *name, void *value, size_t size) {
    (void)fd, (void)size;
    if (!fake.delegate || strcmp(name, fake.delegate) != 0) {
        errno = ENODATA;
        return -1;
    }
    memcpy(value, "1", 1);
    return 1;
}

/* ---- the host ---- */

static const char *at(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static const char *at(const char *fmt, ...) {
    static char path[4][256];
    static unsigned next;
    char *p = path[next++ % 4];
    va_list ap;

    int n = snprintf(p, sizeof path[0], "%s/", root);
    va_start(ap, fmt);
    vsnprintf(p + n, sizeof path[0] - (size_t)n, fmt, ap);
    va_end(ap);
    return p;
}
#define CGROUP "sys/fs/cgroup/unit"

static void put(const char *path, const char *text) {
    put_at(AT_FDCWD, path, text);
}

static bool is(const char *path, const char *text) {
    char buf[256] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return false;
    ssize_t n = read(fd, buf, sizeof buf - 1);
    close(fd);
    return n >= 0 && strcmp(buf, text) == 0;
}

static bool exists(const char *path) {
    return access(path, F_OK) == 0;
}

static int set_up(void **state) {
    (void)state;
    memset(&fake, 0, sizeof fake);
    fake.delegate = "user.delegate";
    snprintf(root, sizeof root, "/tmp/vb-cgroup.XXXXXX");
    if (!mkdtemp(root) || !(base = event_base_new()))
        return -1;
    snprintf(proc, sizeof proc, "%s/proc", root);
    snprintf(sys, sizeof sys, "%s/sys", root);
    static const char *const dirs[] = {"sys", "sys/fs", "sys/fs/cgroup", "proc", "proc/self", "proc/812"};
    for (size_t i = 0; i < sizeof dirs / sizeof dirs[0]; i++)
        if (mkdir(at("%s", dirs[i]), 0755) < 0)
            return -1;
    __wrap_mkdirat(AT_FDCWD, at(CGROUP), 0755);
    put(at("proc/self/cgroup"), "1:name=systemd:/else\n0::/unit\n");
    return 0;
}

static int tear_down(void **state) {
    char command[128];

    (void)state;
    event_base_free(base);
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command);
}

/* The fake kernel moves nobody, so after the daemon's move its /proc says so from the beginning where that matters. */
static struct vb_cgroups *start(struct vb_cgroups *c) {
    put(at("proc/self/cgroup"), "0::/unit/daemon\n");
    assert_int_equal(vb_cgroups_init(c, at(CGROUP), sys, proc, base), 0);
    assert_true(c->dir >= 0);
    return c;
}

static struct vb_cgroup *make(struct vb_cgroups *c, uint32_t session, uint64_t max) {
    struct vb_error e = {.code = 0};
    struct vb_cgroup *g;
    int join;

    assert_int_equal(vb_cgroup_new(c, session, max, &g, &join, &e), 0);
    assert_non_null(g);
    close(join);
    return g;
}

/* ---- the place ---- */

static int place(const char *choice, char path[64], char why[VB_CGROUP_WHY]) {
    int dir = vb_cgroup_place(choice, sys, proc, path, 64, why);

    if (dir < 0)
        return dir;
    close(dir);
    return 0;
}

static void test_place(void **state) {
    char path[64], why[VB_CGROUP_WHY];

    (void)state;
    /* Found, and entered: the last step sees that we are not where we moved to. */
    assert_int_equal(place("auto", path, why), -ENODATA);
    assert_non_null(strstr(why, "although we moved"));
    assert_true(is(at(CGROUP "/daemon/cgroup.procs"), "0"));
    assert_true(is(at(CGROUP "/cgroup.subtree_control"), "+pidsry")); /* "+memory", then "+pids" */
    fake.delegate = "trusted.delegate";
    put(at(CGROUP "/cgroup.controllers"), "cpu memory\n");
    put(at(CGROUP "/cgroup.subtree_control"), "");
    assert_int_equal(place("auto", path, why), -ENODATA);
    assert_true(is(at(CGROUP "/cgroup.subtree_control"), "+memory"));
    /* A directory of somebody's choice is made, and needs no delegation. */
    fake.delegate = NULL;
    put(at("proc/self/cgroup"), "0::/unit/daemon\n");
    assert_int_equal(place(at(CGROUP), path, why), 0);
    assert_string_equal(path, "/unit");
}

static void test_no_place(void **state) {
    static const struct {
        const char *own, *controllers, *procs, *delegate;
        int mkdir_error, error;
        const char *why;
    } cases[] = {
        {"1:name=systemd:/x\n", "memory\n", "", "user.delegate", 0, -ENODATA, "no cgroup v2"},
        {"0::/\n", "memory\n", "", "user.delegate", 0, -ENODATA, "no cgroup v2 of its own"},
        {"0::/nowhere\n", "memory\n", "", "user.delegate", 0, -ENOENT, "there is no cgroup v2 in"},
        {"0::/unit (deleted)\n", "memory\n", "", "user.delegate", 0, -ENODATA, "no cgroup v2"},
        {"0::/unit\n", "memory\n", "", NULL, 0, -EPERM, "not delegated"},
        {"0::/unit\n", "memory\n", "", "user.something", 0, -EPERM, "not delegated"},
        {"0::/unit\n", "cpu memory2 io\n", "", "user.delegate", 0, -ENOTSUP, "memory controller"},
        {"0::/unit\n", "", "", "user.delegate", 0, -ENOTSUP, "memory controller"},
        {"0::/unit\n", "memory\n", "", "user.delegate", EACCES, -EACCES, "Permission denied"},
        {"0::/unit\n", "memory\n", "812\n", "user.delegate", 0, -EBUSY, "pid 812 sleep is in it too"},
    };
    char path[64], why[VB_CGROUP_WHY];

    (void)state;
    put(at("proc/812/comm"), "sleep\n");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct vb_cgroups c;

        put(at("proc/self/cgroup"), cases[i].own);
        put(at(CGROUP "/cgroup.controllers"), cases[i].controllers);
        put(at(CGROUP "/cgroup.procs"), cases[i].procs);
        fake.delegate = cases[i].delegate;
        fake.mkdir_error = cases[i].mkdir_error;
        assert_int_equal(place("auto", path, why), cases[i].error);
        if (!strstr(why, cases[i].why))
            fail_msg("\"%s\" does not say \"%s\"", why, cases[i].why);
        /* The daemon starts all the same, and makes nothing. */
        assert_int_equal(vb_cgroups_init(&c, "auto", sys, proc, base), 0);
        assert_int_equal(c.dir, -1);
        vb_cgroups_fini(&c);
        assert_true(is(at(CGROUP "/cgroup.subtree_control"), ""));
    }
    /* Asked for by name, it does not start. */
    struct vb_cgroups c;
    assert_int_equal(vb_cgroups_init(&c, at(CGROUP), sys, proc, base), -EBUSY);
    vb_cgroups_fini(&c);
    assert_int_equal(vb_cgroups_init(&c, at("no/where"), sys, proc, base), -ENOENT);
    vb_cgroups_fini(&c);
    put(at("proc/812/comm"), "vfio-broker-ses\n"); /* of a daemon that knew no cgroups */
    put(at("proc/self/cgroup"), "0::/unit/daemon\n");
    assert_int_equal(place(at(CGROUP), path, why), 0);
    assert_true(is(at(CGROUP "/daemon/cgroup.procs"), "812"));
}

static void test_none(void **state) {
    struct vb_cgroup *g = (struct vb_cgroup *)1;
    struct vb_error e = {.code = 0};
    struct vb_cgroups c;
    uint64_t limit;
    int join = 7;

    (void)state;
    assert_int_equal(vb_cgroups_init(&c, "none", sys, proc, base), 0);
    assert_int_equal(vb_cgroup_new(&c, 1, MIB, &g, &join, &e), 0);
    assert_null(g);
    assert_int_equal(join, -1);
    assert_int_equal(vb_cgroup_adopt(&c, 812, 1, MIB, &g, &e), 0);
    assert_null(g);
    assert_int_equal(vb_cgroup_why(&c, g, &limit), VB_CGROUP_END_OTHER);
    assert_null(vb_cgroup_end(&c, g));
    vb_cgroups_sweep(&c);
    vb_cgroups_fini(&c);
    assert_false(exists(at(CGROUP "/daemon")));
}

/* ---- cgroups of sessions ---- */

static void test_new(void **state) {
    struct vb_error e = {.code = 0};
    struct vb_cgroups c;
    struct vb_cgroup *g;
    int join;

    (void)state;
    start(&c);
    assert_int_equal(vb_cgroup_new(&c, 7, 128 * MIB, &g, &join, &e), 0);
    assert_true(is(at(CGROUP "/session-7/memory.max"), "134217728"));
    assert_true(is(at(CGROUP "/session-7/memory.oom.group"), "1\n"));
    assert_int_equal(fcntl(join, F_GETFD), FD_CLOEXEC);
    assert_int_equal(write(join, "0", 1), 1);
    close(join);
    assert_true(is(at(CGROUP "/session-7/cgroup.procs"), "0"));
    assert_null(vb_cgroup_end(&c, g));
    assert_false(exists(at(CGROUP "/session-7")));
    assert_true(LIST_EMPTY(&c.list));
    /* It was removed by somebody else. */
    g = make(&c, 8, MIB);
    assert_int_equal(unlinkat(c.dir, "session-8", AT_REMOVEDIR), 0);
    assert_null(vb_cgroup_end(&c, g));
    assert_true(LIST_EMPTY(&c.list));
    vb_cgroups_fini(&c);
}

static void test_new_fails(void **state) {
    static const struct {
        const char *missing;
        int mkdir_error, error;
    } cases[] = {{NULL, EACCES, -EACCES},          {NULL, EAGAIN, -EAGAIN}, /* cgroup.max.descendants */
                 {NULL, ENOMEM, -ENOMEM},          {"memory.max", 0, -ENOENT},
                 {"memory.oom.group", 0, -ENOENT}, {"cgroup.procs", 0, -ENOENT}};
    struct vb_cgroups c;

    (void)state;
    start(&c);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct vb_cgroup *g = (struct vb_cgroup *)1;
        struct vb_error e = {.code = 0};
        int join = -7, next = dup(c.dir);

        close(next);
        fake.missing = cases[i].missing;
        fake.mkdir_error = cases[i].mkdir_error;
        assert_int_equal(vb_cgroup_new(&c, 7, MIB, &g, &join, &e), cases[i].error);
        assert_non_null(strstr(e.text, "session 7"));
        assert_ptr_equal(g, 1); /* outputs are untouched */
        assert_int_equal(join, -7);
        assert_false(exists(at(CGROUP "/session-7")));
        assert_true(LIST_EMPTY(&c.list));
        int same = dup(c.dir);
        assert_int_equal(same, next); /* no fd is left */
        close(same);
    }
    vb_cgroups_fini(&c);
}

static void test_collisions(void **state) {
    struct vb_error e = {.code = 0};
    struct vb_cgroup *g, *h;
    struct vb_cgroups c;
    int join;

    (void)state;
    start(&c);
    /* One that is empty is made anew, so that it counts from 0. */
    mkdirat(c.dir, "session-7", 0755);
    put(at(CGROUP "/session-7/memory.events"), "oom_kill 1\n");
    g = make(&c, 7, MIB);
    assert_true(is(at(CGROUP "/session-7/memory.events"), "oom 0\n"));
    /* One of a session that lives is left alone, known to us or not. */
    h = make(&c, 7, MIB);
    assert_true(exists(at(CGROUP "/session-7.1")));
    mkdirat(c.dir, "session-9", 0755);
    fake.busy = "session-9";
    vb_cgroup_end(&c, make(&c, 9, MIB));
    assert_true(exists(at(CGROUP "/session-9")));
    assert_false(exists(at(CGROUP "/session-9.1")));
    vb_cgroup_end(&c, g);
    vb_cgroup_end(&c, h);
    assert_false(exists(at(CGROUP "/session-7")) || exists(at(CGROUP "/session-7.1")));
    /* Too many that do not end. */
    fake.busy = "*";
    mkdirat(c.dir, "session-3", 0755);
    for (unsigned i = 1; i < 64; i++) {
        char name[32];

        snprintf(name, sizeof name, "session-3.%u", i);
        mkdirat(c.dir, name, 0755);
    }
    assert_int_equal(vb_cgroup_new(&c, 3, MIB, &g, &join, &e), -EEXIST);
    /* The longest name. */
    fake.busy = NULL;
    g = make(&c, UINT32_MAX, MIB);
    assert_true(exists(at(CGROUP "/session-4294967295")));
    vb_cgroup_end(&c, g);
    vb_cgroups_fini(&c);
}

static void test_busy(void **state) {
    struct vb_cgroups c;

    (void)state;
    start(&c);
    struct vb_cgroup *g = make(&c, 7, MIB), *h = make(&c, 8, MIB);
    fake.busy = "*";
    vb_cgroup_end(&c, g);
    for (int i = 0; i < 3; i++)
        event_base_loop(base, EVLOOP_ONCE);
    assert_true(exists(at(CGROUP "/session-7")));
    vb_cgroup_end(&c, h); /* begins anew with short waits */
    fake.busy = "session-7";
    event_base_loop(base, EVLOOP_ONCE);
    assert_true(exists(at(CGROUP "/session-7")));
    assert_false(exists(at(CGROUP "/session-8")));
    fake.busy = NULL;
    assert_int_equal(event_base_dispatch(base), 1); /* it ends by itself: nothing is waited for any more */
    assert_false(exists(at(CGROUP "/session-7")));
    assert_true(LIST_EMPTY(&c.list));
    /* The daemon ends: they stay. */
    g = make(&c, 7, MIB);
    fake.busy = "*";
    vb_cgroup_end(&c, g);
    make(&c, 8, MIB);
    vb_cgroups_fini(&c);
    assert_true(exists(at(CGROUP "/session-7")) && exists(at(CGROUP "/session-8")));
    /* The next one removes the one that is empty by then. */
    fake.busy = "session-8";
    start(&c);
    assert_false(exists(at(CGROUP "/session-7")));
    assert_true(exists(at(CGROUP "/session-8")) && exists(at(CGROUP "/daemon")));
    /* One that we have is not swept away, although its process has not joined it yet. */
    fake.busy = NULL;
    g = make(&c, 9, MIB);
    vb_cgroups_sweep(&c);
    assert_true(exists(at(CGROUP "/session-9")));
    assert_false(exists(at(CGROUP "/session-8")));
    vb_cgroup_end(&c, g);
    vb_cgroups_fini(&c);
}

static void test_adopt(void **state) {
    static const struct {
        const char *where, *max, *expected;
        bool moved;
    } cases[] = {{"0::/unit/session-7\n", "max\n", "16777216", false},
                 {"0::/unit/session-7\n", "8388608\n", "16777216", false},
                 {"0::/unit/session-7\n", "33554432\n", "33554432\n", false}, /* would perhaps kill it */
                 {"0::/unit\n", "max\n", "16777216", true},
                 {"0::/unit/daemon\n", "max\n", "16777216", true},
                 {"0::/unit/session-7/x\n", "max\n", "16777216", true},
                 {"0::/unit2/session-7\n", "max\n", "16777216", true},
                 {"0::/other\n", "max\n", "16777216", true}};
    struct vb_error e = {.code = 0};
    struct vb_cgroup *g, *h;
    struct vb_cgroups c;

    (void)state;
    start(&c);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put(at("proc/812/cgroup"), cases[i].where);
        fake.busy = "session-7";
        mkdirat(c.dir, "session-7", 0755);
        put(at(CGROUP "/session-7/memory.max"), cases[i].max);
        assert_int_equal(vb_cgroup_adopt(&c, 812, 7, 16 * MIB, &g, &e), 0);
        assert_non_null(g);
        const char *dir = cases[i].moved ? "session-7.1" : "session-7";
        assert_true(is(at(CGROUP "/%s/memory.max", dir), cases[i].expected));
        assert_true(is(at(CGROUP "/%s/memory.oom.group", dir), "1\n"));
        assert_true(is(at(CGROUP "/%s/cgroup.procs", dir), cases[i].moved ? "812" : ""));
        fake.busy = NULL;
        vb_cgroup_end(&c, g);
        vb_cgroups_sweep(&c);
    }
    /* Not two in one. */
    put(at("proc/812/cgroup"), "0::/unit/session-7\n");
    g = make(&c, 7, MIB);
    assert_int_equal(vb_cgroup_adopt(&c, 812, 7, MIB, &h, &e), 0);
    assert_true(is(at(CGROUP "/session-7.1/cgroup.procs"), "812"));
    vb_cgroup_end(&c, g);
    vb_cgroup_end(&c, h);
    /* The controllers are gone. */
    fake.missing = "memory.max";
    mkdirat(c.dir, "session-7", 0755);
    assert_int_equal(vb_cgroup_adopt(&c, 812, 7, MIB, &g, &e), -ENOENT);
    assert_null(g);
    assert_true(LIST_EMPTY(&c.list));
    vb_cgroups_fini(&c);
}

static void test_why(void **state) {
    static const struct {
        const char *events;
        enum vb_cgroup_end end;
    } cases[] = {{"low 0\nhigh 0\nmax 12\noom 0\noom_kill 0\noom_group_kill 0\n", VB_CGROUP_END_OTHER},
                 {"low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\noom_group_kill 0\n", VB_CGROUP_END_OTHER},
                 {"low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 1\n", VB_CGROUP_END_LIMIT},
                 {"low 0\nhigh 0\nmax 0\noom 0\noom_kill 1\noom_group_kill 1\n", VB_CGROUP_END_OOM},
                 {"oom_kill 1\n", VB_CGROUP_END_OOM},
                 {"oom_kill x\noom 1\n", VB_CGROUP_END_OTHER},
                 {"", VB_CGROUP_END_OTHER}};
    struct vb_cgroups c;

    (void)state;
    start(&c);
    struct vb_cgroup *g = make(&c, 7, 24 * MIB);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t limit = 0;

        put(at(CGROUP "/session-7/memory.events"), cases[i].events);
        assert_int_equal(vb_cgroup_why(&c, g, &limit), cases[i].end);
        assert_int_equal(limit, cases[i].end == VB_CGROUP_END_LIMIT ? 24 * MIB : 0);
    }
    vb_cgroup_end(&c, g);
    vb_cgroups_fini(&c);
}

/* ---- --release-cgroup ---- */

static void test_release(void **state) {
    (void)state;
    mkdirat(AT_FDCWD, at(CGROUP "/.control"), 0755);
    put(at(CGROUP "/cgroup.subtree_control"), "memory pids\n");
    /* By hand. */
    static const char *const not_ours[] = {"0::/unit\n", "0::/unit/daemon\n", "0::/\n", "0::/.control\n",
                                           "0::/x/my.control\n"};
    mkdirat(AT_FDCWD, at(CGROUP "/daemon"), 0755);
    for (size_t i = 0; i < sizeof not_ours / sizeof not_ours[0]; i++) {
        put(at("proc/self/cgroup"), not_ours[i]);
        assert_int_equal(vb_cgroup_release(sys, proc), EXIT_FAILURE);
    }
    /* Of a unit, but the daemon had no cgroups. */
    put(at("proc/self/cgroup"), "0::/unit/.control\n");
    fake.delegate = NULL;
    assert_int_equal(vb_cgroup_release(sys, proc), EXIT_SUCCESS);
    fake.delegate = "user.delegate";
    unlinkat(AT_FDCWD, at(CGROUP "/daemon"), AT_REMOVEDIR);
    assert_int_equal(vb_cgroup_release(sys, proc), EXIT_SUCCESS);
    assert_true(is(at(CGROUP "/cgroup.subtree_control"), "memory pids\n"));
    /* It had. */
    mkdirat(AT_FDCWD, at(CGROUP "/daemon"), 0755);
    put(at(CGROUP "/cgroup.subtree_control"), "");
    assert_int_equal(vb_cgroup_release(sys, proc), EXIT_SUCCESS);
    assert_true(is(at(CGROUP "/cgroup.subtree_control"), "-pidsry")); /* "-memory", then "-pids" */
    unlink(at(CGROUP "/cgroup.subtree_control"));
    assert_int_equal(vb_cgroup_release(sys, proc), EXIT_FAILURE);
}

/* ---- files ---- */

static void test_files(void **state) {
    static const struct {
        const char *text;
        int r;
        uint64_t n;
    } numbers[] = {{"0\n", 0, 0},
                   {"4096\n", 0, 4096},
                   {"max\n", 0, UINT64_MAX},
                   {"18446744073709551615\n", 0, UINT64_MAX},
                   {"18446744073709551616\n", -EBADMSG, 7},
                   {"", -EBADMSG, 7},
                   {"maximum\n", -EBADMSG, 7},
                   {"12 13\n", -EBADMSG, 7}};
    char path[16];
    uint64_t n;

    (void)state;
    int dir = vb_cgroupfs_open(at(CGROUP));
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        n = 7;
        put(at(CGROUP "/memory.max"), numbers[i].text);
        assert_int_equal(vb_cgroupfs_number(dir, "memory.max", &n), numbers[i].r);
        assert_true(n == numbers[i].n);
    }
    assert_int_equal(vb_cgroupfs_number(dir, "no.such", &n), -ENOENT);
    put(at(CGROUP "/memory.events"), "oom 3\noom_kill 4\n");
    assert_int_equal(vb_cgroupfs_keyed(dir, "memory.events", "oom_kill", &n), 0);
    assert_int_equal(n, 4);
    assert_int_equal(vb_cgroupfs_keyed(dir, "memory.events", "oom", &n), 0);
    assert_int_equal(n, 3);
    assert_int_equal(vb_cgroupfs_keyed(dir, "memory.events", "oom_", &n), -ENOENT);
    assert_int_equal(vb_cgroupfs_path(proc, 0, path, 5), -ENAMETOOLONG); /* "/unit" and its 0 */
    assert_int_equal(vb_cgroupfs_path(proc, 0, path, 6), 0);
    assert_string_equal(path, "/unit");
    assert_int_equal(vb_cgroupfs_path(proc, 813, path, sizeof path), -ESRCH);
    close(dir);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {T(test_place),     T(test_no_place),   T(test_none), T(test_new),
                                       T(test_new_fails), T(test_collisions), T(test_busy), T(test_adopt),
                                       T(test_why),       T(test_release),    T(test_files)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
