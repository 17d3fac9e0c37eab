#include "broker/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config.h"
#include "host/proc.h"
#include "proto/cleanup.h"

#define CLIENT_FD  3
#define CONTROL_FD 4
#define STATUS_FD  5

static void child_fail(const char *step) {
    struct vb_spawn_failure f = {.error = errno};

    snprintf(f.step, sizeof f.step, "%s", step);
    if (write(STATUS_FD, &f, sizeof f) < 0)
        _exit(127);
    _exit(126);
}

/* Puts the three fds in their places, whatever places they have now, and closes all others. */
static void child_fds(int client, int control, int status) {
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    /* First above all three places, so that no dup2 closes what is still needed. */
    client = client >= 0 ? fcntl(client, F_DUPFD_CLOEXEC, STATUS_FD + 1) : -1;
    control = fcntl(control, F_DUPFD_CLOEXEC, STATUS_FD + 1);
    status = fcntl(status, F_DUPFD_CLOEXEC, STATUS_FD + 1);
    if (status < 0 || dup3(status, STATUS_FD, O_CLOEXEC) < 0)
        _exit(125);
    if (null < 0 || control < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 ||
        dup2(control, CONTROL_FD) < 0 || (client >= 0 && dup2(client, CLIENT_FD) < 0))
        child_fail("passing fds");
    if (client < 0)
        close(CLIENT_FD);
    if (syscall(SYS_close_range, STATUS_FD + 1, ~0u, 0) < 0)
        child_fail("close_range");
}

static void child_limit(int resource, rlim_t value) {
    struct rlimit rl = {value, value};

    if (setrlimit(resource, &rl) < 0)
        child_fail("setrlimit");
}

static void child_limits(const struct vb_spawn *s) {
    child_limit(RLIMIT_NOFILE, VB_SESSION_NOFILE);
    child_limit(RLIMIT_CORE, 0);
#ifndef VB_SANITIZERS
    if (s->change_uid)
        child_limit(RLIMIT_NPROC, VB_SESSION_THREADS); /* of its own uid: itself; counted again at exec */
#endif
    if (s->pins) {
        child_limit(RLIMIT_MEMLOCK, s->lease);
        return;
    }
    /* Development: nothing is pinned by this backend, only mlocked for pins of others, and raising later, as the lease grows, may
     * need a privilege that we lack. */
    struct rlimit rl;
    if (getrlimit(RLIMIT_MEMLOCK, &rl) < 0)
        child_fail("getrlimit");
    rl.rlim_cur = rl.rlim_max;
    if (setrlimit(RLIMIT_MEMLOCK, &rl) < 0)
        child_fail("setrlimit");
}

static void child_drop(uid_t uid) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2];

    memset(none, 0, sizeof none);
    /* Needs CAP_SETPCAP, which a hardened daemon has not; no_new_privs makes the bounding set moot all the same. */
    for (unsigned long cap = 0; prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0; cap++)
        ;
    if (setgroups(0, NULL) < 0)
        child_fail("setgroups");
    if (setresgid(uid, uid, uid) < 0)
        child_fail("setresgid");
    if (setresuid(uid, uid, uid) < 0)
        child_fail("setresuid");
    /* setresuid has done this if we were root; a daemon with its own uid and some capabilities still has them. */
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        child_fail("ambient capabilities");
    if (syscall(SYS_capset, &header, none) < 0)
        child_fail("capset");
}

/* The environment of a session: nothing but what the sanitizers and the log format need. */
static char **clean_environment(void) {
    static const char *const kept[] = {"ASAN_OPTIONS=", "UBSAN_OPTIONS=", "LSAN_OPTIONS=", "JOURNAL_STREAM="};
    const size_t n_kept = sizeof kept / sizeof kept[0];
    char **env = calloc(n_kept + 1, sizeof *env);
    size_t n = 0;

    for (char **v = environ; env && *v; v++)
        for (size_t i = 0; i < n_kept && n < n_kept; i++)
            if (strncmp(*v, kept[i], strlen(kept[i])) == 0)
                env[n++] = *v;
    return env;
}

static void child(const struct vb_spawn *s, int status, char **env) __attribute__((noreturn));
static void child(const struct vb_spawn *s, int status, char **env) {
    char *argv[] = {(char *)"vfio-brokerd", (char *)"--session", NULL};
    sigset_t none;

    /* All signals are blocked since before the fork: no handler of the daemon may run in here. */
    for (int i = 1; i < NSIG; i++)
        signal(i, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* Before it allocates anything that counts. */
    int joined = s->cgroup_fd < 0 || write(s->cgroup_fd, "0", 1) == 1 ? 0 : errno;
    child_fds(s->client_fd, s->control_fd, status);
    if (joined) {
        errno = joined;
        child_fail("joining its cgroup");
    }
    if (setsid() < 0)
        child_fail("setsid");
    if (chdir("/") < 0)
        child_fail("chdir");
    umask(077);
    child_limits(s);
    if (s->change_uid)
        child_drop(s->uid);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        child_fail("no_new_privs");
    execve("/proc/self/exe", argv, env);
    child_fail("exec");
    _exit(126);
}

int vb_spawn(const struct vb_spawn *s, struct vb_spawned *ret, struct vb_error *e) {
    int status[2];

    if (pipe2(status, O_CLOEXEC | O_NONBLOCK) < 0)
        return vb_fail(e, -errno, "cannot start a session process");
    VB_FD int read_end = status[0];
    VB_FD int write_end = status[1];
    VB_FREE char **env = clean_environment();
    if (!env)
        return vb_fail(e, -ENOMEM, "cannot start a session process");
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid_t pid = fork();
    if (pid == 0)
        child(s, write_end, env);
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (pid < 0)
        return vb_fail(e, -errno, "cannot start a session process");
    int pidfd = vb_pidfd_open(pid); /* safe: it is our child and nobody else waits for it */
    if (pidfd < 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        return vb_fail(e, pidfd, "cannot watch a session process");
    }
    *ret = (struct vb_spawned){.pid = pid, .pidfd = pidfd, .status = vb_steal_fd(&read_end)};
    return 0;
}
