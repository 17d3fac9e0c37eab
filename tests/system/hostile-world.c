/* What must be the same before and after each test, read from /proc; and the processes of a test. */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "hostile.h"

#define CLIENT_MEMLOCK (64u << 20) /* bytes */

uint64_t now_ms(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void sleep_ms(unsigned ms) {
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};

    while (nanosleep(&t, &t) && errno == EINTR)
        ;
}

void become(enum who who) {
    struct rlimit r = {CLIENT_MEMLOCK, CLIENT_MEMLOCK}, nofile;

    if (who == ADMIN)
        return;
    if (setrlimit(RLIMIT_MEMLOCK, &r) && getrlimit(RLIMIT_MEMLOCK, &r) == 0) {
        r.rlim_cur = r.rlim_max;
        setrlimit(RLIMIT_MEMLOCK, &r);
    }
    if (getrlimit(RLIMIT_NOFILE, &nofile) == 0) {
        nofile.rlim_cur = nofile.rlim_max;
        setrlimit(RLIMIT_NOFILE, &nofile);
    }
    if (!world.uids)
        return;
    uid_t uid = world.uid[who];
    if (geteuid() == uid)
        return;
    CHECK(setgroups(0, NULL) == 0 && setresgid(uid, uid, uid) == 0 && setresuid(uid, uid, uid) == 0,
          "cannot become uid %u: %m", uid);
    prctl(PR_SET_DUMPABLE, 1); /* its own /proc/self, as for any other process */
}

pid_t spawn(enum who who, void (*fn)(void *), void *arg) {
    pid_t parent = getpid(), pid = fork();

    CHECK(pid >= 0, "fork: %m");
    if (pid)
        return pid;
    become(who);
    /* After the change of uid, which forgets it. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    fn(arg);
    _exit(0);
}

void reap(pid_t pid) {
    int status = 0;

    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(status) && WEXITSTATUS(status))
        _exit(1); /* it has told why */
    CHECK(WIFEXITED(status), "a client ended by signal %d", WTERMSIG(status));
}

void kill_and_reap(pid_t pid) {
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

static bool read_file(const char *path, char *buf, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return false;
    ssize_t n = read(fd, buf, size - 1);
    close(fd);
    buf[n > 0 ? n : 0] = 0;
    return n > 0;
}

long proc_status(pid_t pid, const char *field) {
    char path[64], buf[8192], key[64];

    snprintf(path, sizeof path, "/proc/%d/status", pid);
    snprintf(key, sizeof key, "\n%s:", field);
    if (!read_file(path, buf, sizeof buf))
        return -1;
    const char *p = strstr(buf, key);
    return p ? strtol(p + strlen(key), NULL, strncmp(field, "Cap", 3) ? 10 : 16) : -1;
}

int count_fds(pid_t pid) {
    char path[64];
    int n = 0;

    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *d = opendir(path);
    if (!d)
        return -1;
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

int count_sessions(void) {
    DIR *d = opendir("/proc");
    int n = 0;

    CHECK(d, "/proc: %m");
    for (struct dirent *e; (e = readdir(d));) {
        char path[300], buf[512];
        int ppid;

        if (e->d_name[0] < '1' || e->d_name[0] > '9')
            continue;
        snprintf(path, sizeof path, "/proc/%s/stat", e->d_name);
        const char *p = read_file(path, buf, sizeof buf) ? strrchr(buf, ')') : NULL;
        n += p && sscanf(p, ") %*c %d", &ppid) == 1 && ppid == world.daemon;
    }
    closedir(d);
    return n;
}

long system_pins(void) {
    static char buf[65536];
    long a = 0, r = 0;
    int fd = open("/proc/sys/vm/stat_refresh", O_WRONLY | O_CLOEXEC);

    /* Folds the CPUs' own counts; root only, else they lag by some pages. */
    if (fd >= 0) {
        if (write(fd, "1", 1) < 0)
            errno = 0;
        close(fd);
    }
    if (!read_file("/proc/vmstat", buf, sizeof buf))
        return 0;
    const char *p = strstr(buf, "nr_foll_pin_acquired "), *q = strstr(buf, "nr_foll_pin_released ");
    if (p && q)
        a = strtol(p + 21, NULL, 10), r = strtol(q + 21, NULL, 10);
    return a - r;
}

void world_look(struct snapshot *ret) {
    ret->fds = count_fds(world.daemon);
    ret->sessions = count_sessions();
    ret->rss_kib = proc_status(world.daemon, "VmRSS");
    ret->pins = world.kernel ? system_pins() : 0;
}
