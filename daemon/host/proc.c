#include "host/proc.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/files.h"

static bool is_pid(const char *name, pid_t *ret) {
    char *end;

    if (name[0] < '1' || name[0] > '9')
        return false;
    errno = 0;
    long v = strtol(name, &end, 10);
    if (errno || *end || v > INT_MAX)
        return false;
    *ret = (pid_t)v;
    return true;
}

int vb_proc_status(const char *proc, pid_t pid, struct vb_proc_status *ret) {
    char path[PATH_MAX], text[8192];
    struct vb_proc_status s = {0};
    uint64_t kib;

    if (!vb_path(path, sizeof path, "%s/%d/status", proc, (int)pid))
        return -ENAMETOOLONG;
    int r = vb_file_read(path, text, sizeof text);
    if (r < 0)
        return r;
    /* "Name:" comes first and holds the client's text, but never a newline: the kernel escapes it (proc(5)). */
    const char *line = strstr(text, "\nUid:");
    if (!line || sscanf(line, "\nUid: %u %u", &s.uid, &s.euid) != 2)
        return -EBADMSG;
    line = strstr(text, "\nPPid:");
    if (!line || sscanf(line, "\nPPid: %d", &s.parent) != 1)
        return -EBADMSG;
    line = strstr(text, "\nVmLck:");
    if (line) {
        if (sscanf(line, "\nVmLck: %" SCNu64 " kB", &kib) != 1)
            return -EBADMSG;
        s.locked = kib * 1024;
    }
    *ret = s;
    return 0;
}

/* Field `n` of /proc/PID/stat (proc(5) counts from 1). The second is the process's own name for itself, in brackets: count
 * from the last one. */
static int stat_field(const char *proc, pid_t pid, int n, uint64_t *ret) {
    char path[PATH_MAX], text[1024];
    uint64_t value;

    if (!vb_path(path, sizeof path, "%s/%d/stat", proc, (int)pid))
        return -ENAMETOOLONG;
    int r = vb_file_read(path, text, sizeof text);
    if (r < 0)
        return r;
    char *p = strrchr(text, ')');
    for (int field = 2; p && field < n; field++)
        p = strchr(p + 1, ' ');
    if (!p || sscanf(p, " %" SCNu64, &value) != 1)
        return -EBADMSG;
    *ret = value;
    return 0;
}

int vb_proc_start_time(const char *proc, pid_t pid, uint64_t *ret) {
    return stat_field(proc, pid, 22, ret);
}

bool vb_proc_exiting(const char *proc, pid_t pid) {
    uint64_t flags, pending;

    if (stat_field(proc, pid, 9, &flags) == 0 && (flags & 0x4)) /* PF_EXITING, include/linux/sched.h */
        return true;
    return stat_field(proc, pid, 31, &pending) == 0 && (pending & 1u << (SIGKILL - 1));
}

time_t vb_proc_started(uint64_t start) {
    const int64_t second = 1000000000, ticks = sysconf(_SC_CLK_TCK);
    struct timespec now, boot;

    /* In nanoseconds, so that one process gets the same second each time it is asked for. */
    clock_gettime(CLOCK_REALTIME, &now);
    clock_gettime(CLOCK_BOOTTIME, &boot);
    return (
        time_t)(((now.tv_sec - boot.tv_sec) * second + now.tv_nsec - boot.tv_nsec + (int64_t)start * (second / ticks)) /
                second);
}

int vb_proc_memlock(const char *proc, pid_t pid, uint64_t *ret) {
    static const char name[] = "\nMax locked memory ";
    char path[PATH_MAX], text[4096];
    struct rlimit rl;

    if (prlimit(pid, RLIMIT_MEMLOCK, NULL, &rl) == 0) {
        *ret = rl.rlim_cur == RLIM_INFINITY ? UINT64_MAX : rl.rlim_cur;
        return 0;
    }
    if (errno != EPERM)
        return -errno;
    /* Without CAP_SYS_RESOURCE (a container, development) other uids' limits are to be had in the slower way. */
    if (!vb_path(path, sizeof path, "%s/%d/limits", proc, (int)pid))
        return -ENAMETOOLONG;
    int r = vb_file_read(path, text, sizeof text);
    if (r < 0)
        return r;
    const char *line = strstr(text, name);
    if (!line)
        return -EBADMSG;
    line += strlen(name);
    line += strspn(line, " ");
    if (strncmp(line, "unlimited", 9) == 0) {
        *ret = UINT64_MAX;
        return 0;
    }
    return sscanf(line, "%" SCNu64, ret) == 1 ? 0 : -EBADMSG;
}

void vb_proc_comm(const char *proc, pid_t pid, char ret[VB_COMM_SIZE]) {
    char path[PATH_MAX], text[64];

    strcpy(ret, "?");
    if (!vb_path(path, sizeof path, "%s/%d/comm", proc, (int)pid) || vb_file_line(path, text, sizeof text) <= 0)
        return;
    size_t i = 0;
    for (; text[i] && i < VB_COMM_SIZE - 1; i++)
        ret[i] = text[i] > 0x20 && text[i] < 0x7f ? text[i] : '?';
    ret[i] = 0;
}

int vb_proc_each(const char *proc, int (*fn)(pid_t pid, void *data), void *data) {
    DIR *d = opendir(proc);
    struct dirent *e;
    pid_t pid;
    int r = 0;

    if (!d)
        return -errno;
    while (r == 0 && (e = readdir(d)))
        if (is_pid(e->d_name, &pid))
            r = fn(pid, data);
    closedir(d);
    return r;
}

struct holders {
    const char *proc, *path;
    unsigned budget;
    pid_t *pids;
    size_t n, max;
};

static int look_for_holder(pid_t pid, void *data) {
    struct holders *h = data;
    char path[PATH_MAX], target[PATH_MAX];
    struct dirent *e;

    if (!vb_path(path, sizeof path, "%s/%d/fd", h->proc, (int)pid))
        return 0;
    DIR *d = opendir(path);
    if (!d)
        return 0;
    while (h->budget > 0 && (e = readdir(d))) {
        ssize_t n = readlinkat(dirfd(d), e->d_name, target, sizeof target - 1);

        h->budget--;
        if (n < 0)
            continue;
        target[n] = 0;
        if (strcmp(target, h->path) == 0) {
            h->pids[h->n++] = pid;
            break;
        }
    }
    closedir(d);
    return h->n == h->max || h->budget == 0;
}

size_t vb_proc_holders(const char *proc, const char *path, unsigned budget, pid_t *ret, size_t max) {
    struct holders h = {.proc = proc, .path = path, .budget = budget, .pids = ret, .max = max};

    if (max == 0)
        return 0;
    vb_proc_each(proc, look_for_holder, &h);
    return h.n;
}

bool vb_pidfd_alive(int pidfd) {
    struct pollfd p = {.fd = pidfd, .events = POLLIN};

    return poll(&p, 1, 0) == 0;
}

int vb_pidfd_open(pid_t pid) {
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);

    return fd < 0 ? -errno : fd;
}
