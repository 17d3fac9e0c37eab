#include "broker/cgroup-place.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/cgroupfs.h"
#include "host/files.h"
#include "host/proc.h"
#include "proto/cleanup.h"

#define DAEMON "daemon"
/* Processes may fork while they are moved. */
#define MOVE_TRIES 8

/* ---- which ---- */

static int choose(const char *choice, const char *sys, const char *proc, char *why) {
    char own[PATH_MAX], path[PATH_MAX];

    if (strcmp(choice, "auto") != 0) {
        if (mkdir(choice, 0755) < 0 && errno != EEXIST) {
            int r = -errno;

            snprintf(why, VB_CGROUP_WHY, "it cannot be made: %s", strerror(-r));
            return r;
        }
        int dir = vb_cgroupfs_open(choice);
        if (dir < 0)
            snprintf(why, VB_CGROUP_WHY, "%s", strerror(-dir));
        return dir;
    }
    /* "/" is all of the machine's, or of the container's. */
    int r = vb_cgroupfs_path(proc, 0, own, sizeof own);
    if (r < 0 || strcmp(own, "/") == 0) {
        snprintf(why, VB_CGROUP_WHY, "the daemon has no cgroup v2 of its own");
        return -ENODATA;
    }
    VB_FD int dir = vb_path(path, sizeof path, "%s/fs/cgroup%s", sys, own) ? vb_cgroupfs_open(path) : -ENAMETOOLONG;
    if (dir < 0) {
        snprintf(why, VB_CGROUP_WHY, "there is no cgroup v2 in %.64s/fs/cgroup", sys);
        return dir;
    }
    if (!vb_cgroupfs_delegated(dir)) {
        snprintf(why, VB_CGROUP_WHY, "the daemon's cgroup is not delegated to it: a unit needs Delegate=memory pids");
        return -EPERM;
    }
    return vb_steal_fd(&dir);
}

/* ---- making it ours ---- */

struct move {
    const char *proc;
    int to; /* -1: only look */
    char *why;
};

/* Sessions of an older daemon that knew no cgroups, and processes of ours that close what clients sent (closer.c), may be
 * where we were started. Anybody else has not left this cgroup to us. */
static int move_one(pid_t pid, void *data) {
    struct move *m = data;
    char comm[VB_COMM_SIZE];

    vb_proc_comm(m->proc, pid, comm);
    if (m->to < 0) {
        if (pid == getpid() || strncmp(comm, "vfio-broker", strlen("vfio-broker")) == 0 || strcmp(comm, "?") == 0)
            return 0;
        snprintf(m->why, VB_CGROUP_WHY, "pid %d %s is in it too", (int)pid, comm);
        return -EBUSY;
    }
    int r = vb_cgroupfs_write_number(m->to, "cgroup.procs", (uint64_t)pid);
    if (r == 0 || r == -ESRCH)
        return 0;
    snprintf(m->why, VB_CGROUP_WHY, "pid %d %s cannot be moved to its child " DAEMON ": %s", (int)pid, comm,
             strerror(-r));
    return r;
}

/* With controllers for its children a cgroup cannot have processes of its own. */
static int empty_and_enable(int dir, int to, const char *proc, char *why) {
    struct move look = {.proc = proc, .to = -1, .why = why}, move = {.proc = proc, .to = to, .why = why};
    int r = vb_cgroupfs_each(dir, move_one, &look);

    if (r == 0)
        r = vb_cgroupfs_write(to, "cgroup.procs", "0"); /* from wherever we were started */
    for (int i = 0; r == 0 && i < MOVE_TRIES; i++) {
        r = vb_cgroupfs_each(dir, move_one, &move);
        if (r < 0)
            return r;
        r = vb_cgroupfs_write(dir, "cgroup.subtree_control", "+memory");
        if (r == 0)
            return 0;
        if (r == -EBUSY)
            r = 0;
    }
    return r == 0 ? -EBUSY : r;
}

static int take(int dir, const char *proc, char *ret_path, size_t size, char *why) {
    if (!vb_cgroupfs_has(dir, "memory")) {
        snprintf(why, VB_CGROUP_WHY, "it does not have the memory controller");
        return -ENOTSUP;
    }
    if (mkdirat(dir, DAEMON, 0755) < 0 && errno != EEXIST) {
        int r = -errno;

        snprintf(why, VB_CGROUP_WHY, "its child " DAEMON " cannot be made: %s", strerror(-r));
        return r;
    }
    VB_FD int to = vb_cgroupfs_open_at(dir, DAEMON);
    int r = to < 0 ? to : empty_and_enable(dir, to, proc, why);
    if (r < 0) {
        if (!*why)
            snprintf(why, VB_CGROUP_WHY, "the memory controller cannot be enabled for its children: %s", strerror(-r));
        return r;
    }
    if (vb_cgroupfs_has(dir, "pids")) /* for those who look; we set no limit with it */
        vb_cgroupfs_write(dir, "cgroup.subtree_control", "+pids");
    r = vb_cgroupfs_path(proc, 0, ret_path, size);
    char *slash = r < 0 ? NULL : strrchr(ret_path, '/');
    if (!slash || strcmp(slash, "/" DAEMON) != 0) {
        snprintf(why, VB_CGROUP_WHY, "we are not in its child " DAEMON " although we moved there");
        return -ENODATA;
    }
    *slash = 0;
    return 0;
}

int vb_cgroup_place(const char *choice, const char *sys, const char *proc, char *ret_path, size_t size,
                    char why[VB_CGROUP_WHY]) {
    *why = 0;
    VB_FD int dir = choose(choice, sys, proc, why);
    int r = dir < 0 ? dir : take(dir, proc, ret_path, size, why);
    return r < 0 ? r : vb_steal_fd(&dir);
}

/* ---- ExecStopPost= ---- */

/* systemd runs it in a child of the unit's cgroup, ".control" (man systemd.service). A shell is in none of that name. */
int vb_cgroup_release(const char *sys, const char *proc) {
    static const char control[] = "/.control";
    char own[PATH_MAX], path[PATH_MAX];

    int r = vb_cgroupfs_path(proc, 0, own, sizeof own);
    size_t n = r < 0 ? 0 : strlen(own);
    if (n < sizeof control || strcmp(own + n - (sizeof control - 1), control) != 0) {
        fputs("vfio-brokerd: --release-cgroup is for ExecStopPost= of a unit with Delegate=: nothing is done\n",
              stderr);
        return EXIT_FAILURE;
    }
    own[n - (sizeof control - 1)] = 0;
    VB_FD int dir = vb_path(path, sizeof path, "%s/fs/cgroup%s", sys, own) ? vb_cgroupfs_open(path) : -ENAMETOOLONG;
    VB_FD int ours = dir < 0 ? -1 : vb_cgroupfs_open_at(dir, DAEMON);
    if (ours < 0 || !vb_cgroupfs_delegated(dir))
        return EXIT_SUCCESS; /* the daemon had no cgroups */
    static const char *const controllers[] = {"-memory", "-pids"};
    int status = EXIT_SUCCESS;
    for (size_t i = 0; i < sizeof controllers / sizeof controllers[0]; i++) {
        r = vb_cgroupfs_write(dir, "cgroup.subtree_control", controllers[i]);
        if (r == 0)
            continue;
        fprintf(stderr, "vfio-brokerd: %s in %s: %s\n", controllers[i], path, strerror(-r));
        status = EXIT_FAILURE;
    }
    return status;
}
