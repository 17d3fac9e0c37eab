#include "broker/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/cgroup-place.h"
#include "broker/log.h"
#include "host/cgroupfs.h"
#include "proto/cleanup.h"

#define SESSION "session-"
/* Processes of one session that may be about at the same time: one, and some that do not end. */
#define SAME_MAX 64u
/* How often removing is tried again, doubling. As long as it takes: a process may hang in its exit. */
#define AGAIN_FIRST_MS 10u
#define AGAIN_LAST_MS  10000u

struct vb_cgroup {
    LIST_ENTRY(vb_cgroup) entry;
    char name[32];
    uint64_t memory_max;
    bool ends; /* its process has ended, or will */
};

/* ---- removing ---- */

static void forget(struct vb_cgroup *g) {
    LIST_REMOVE(g, entry);
    free(g);
}

/* True: it is gone. */
static bool try_remove(struct vb_cgroups *c, const char *name) {
    return unlinkat(c->dir, name, AT_REMOVEDIR) == 0 || errno == ENOENT;
}

static void arm(struct vb_cgroups *c) {
    const struct timeval t = {c->again_ms / 1000, (suseconds_t)(c->again_ms % 1000) * 1000};

    if (!evtimer_pending(c->again, NULL))
        evtimer_add(c->again, &t);
}

static void on_again(evutil_socket_t fd, short what, void *arg) {
    struct vb_cgroups *c = arg;
    struct vb_cgroup *g, *next;
    bool left = false;

    (void)fd, (void)what;
    LIST_FOREACH_SAFE(g, &c->list, entry, next) {
        if (g->ends && try_remove(c, g->name))
            forget(g);
        else
            left |= g->ends;
    }
    c->again_ms = c->again_ms * 2 < AGAIN_LAST_MS ? c->again_ms * 2 : AGAIN_LAST_MS;
    if (left)
        arm(c);
}

struct vb_cgroup *vb_cgroup_end(struct vb_cgroups *c, struct vb_cgroup *g) {
    if (!g)
        return NULL;
    if (try_remove(c, g->name)) {
        forget(g);
        return NULL;
    }
    g->ends = true;
    if (c->again_ms > AGAIN_FIRST_MS)
        evtimer_del(c->again);
    c->again_ms = AGAIN_FIRST_MS;
    arm(c);
    return NULL;
}

static bool known(const struct vb_cgroups *c, const char *name) {
    const struct vb_cgroup *g;

    LIST_FOREACH (g, &c->list, entry) {
        if (strcmp(g->name, name) == 0)
            return true;
    }
    return false;
}

void vb_cgroups_sweep(struct vb_cgroups *c) {
    struct dirent *e;

    int fd = c->dir < 0 ? -1 : vb_cgroupfs_open_at(c->dir, "."); /* with a position of its own */
    if (fd < 0)
        return;
    DIR *d = fdopendir(fd);
    if (!d) {
        close(fd);
        return;
    }
    while ((e = readdir(d)))
        if (strncmp(e->d_name, SESSION, strlen(SESSION)) == 0 && !known(c, e->d_name))
            try_remove(c, e->d_name); /* one with a live process cannot be */
    closedir(d);
}

/* ---- making ---- */

static int set_limit(struct vb_cgroups *c, const char *name, uint64_t memory_max) {
    VB_FD int dir = vb_cgroupfs_open_at(c->dir, name);

    if (dir < 0)
        return dir;
    int r = vb_cgroupfs_write_number(dir, "memory.max", memory_max);
    return r < 0 ? r : vb_cgroupfs_write(dir, "memory.oom.group", "1");
}

/* A name that is free. Another daemon's session may have the number, or one that does not come to its end. */
static int make(struct vb_cgroups *c, uint32_t session, struct vb_cgroup *g) {
    for (unsigned i = 0; i < SAME_MAX; i++) {
        if (i == 0)
            snprintf(g->name, sizeof g->name, SESSION "%u", session);
        else
            snprintf(g->name, sizeof g->name, SESSION "%u.%u", session, i);
        if (known(c, g->name))
            continue;
        if (mkdirat(c->dir, g->name, 0755) == 0)
            return 0;
        if (errno != EEXIST)
            return -errno;
        if (try_remove(c, g->name) && mkdirat(c->dir, g->name, 0755) == 0) /* new, so that it counts from 0 */
            return 0;
    }
    return -EEXIST;
}

static struct vb_cgroup *enter(struct vb_cgroups *c, const struct vb_cgroup *g) {
    struct vb_cgroup *copy = malloc(sizeof *copy);

    if (copy) {
        *copy = *g;
        LIST_INSERT_HEAD(&c->list, copy, entry);
    }
    return copy;
}

int vb_cgroup_new(struct vb_cgroups *c, uint32_t session, uint64_t memory_max, struct vb_cgroup **ret, int *ret_join,
                  struct vb_error *e) {
    struct vb_cgroup g = {.memory_max = memory_max};
    char procs[sizeof g.name + sizeof "/cgroup.procs"];

    if (c->dir < 0) {
        *ret = NULL;
        *ret_join = -1;
        return 0;
    }
    int r = make(c, session, &g);
    if (r < 0)
        return vb_fail(e, r, "cannot make a cgroup for session %u", session);
    VB_FD int join = -1;
    r = set_limit(c, g.name, memory_max);
    if (r == 0) {
        snprintf(procs, sizeof procs, "%s/cgroup.procs", g.name);
        join = openat(c->dir, procs, O_WRONLY | O_CLOEXEC);
        r = join < 0 ? -errno : 0;
    }
    struct vb_cgroup *made = r == 0 ? enter(c, &g) : NULL;
    if (!made) {
        try_remove(c, g.name);
        return vb_fail(e, r < 0 ? r : -ENOMEM, "cannot set up the cgroup of session %u", session);
    }
    *ret = made;
    *ret_join = vb_steal_fd(&join);
    return 0;
}

/* ---- of an earlier daemon ---- */

/* The name of the child of ours that the process is in. */
static bool in_child(struct vb_cgroups *c, pid_t pid, char *ret, size_t size) {
    char path[PATH_MAX];
    size_t n = strlen(c->prefix);

    if (vb_cgroupfs_path(c->proc, pid, path, sizeof path) < 0 || strncmp(path, c->prefix, n) != 0 || path[n] != '/')
        return false;
    const char *name = path + n + 1;
    if (strncmp(name, SESSION, strlen(SESSION)) != 0 || strchr(name, '/') || strlen(name) >= size)
        return false;
    strcpy(ret, name);
    return true;
}

static int keep(struct vb_cgroups *c, struct vb_cgroup *g, struct vb_cgroup **ret) {
    VB_FD int dir = vb_cgroupfs_open_at(c->dir, g->name);
    uint64_t now;

    if (dir < 0)
        return dir;
    int r = vb_cgroupfs_number(dir, "memory.max", &now);
    if (r < 0)
        return r;
    if (now != UINT64_MAX && now > g->memory_max)
        g->memory_max = now;
    if ((r = set_limit(c, g->name, g->memory_max)) < 0)
        return r;
    return (*ret = enter(c, g)) ? 0 : -ENOMEM;
}

int vb_cgroup_adopt(struct vb_cgroups *c, pid_t pid, uint32_t session, uint64_t memory_max, struct vb_cgroup **ret,
                    struct vb_error *e) {
    struct vb_cgroup g = {.memory_max = memory_max};
    char text[16];
    int join;

    *ret = NULL;
    if (c->dir < 0)
        return 0;
    if (in_child(c, pid, g.name, sizeof g.name) && !known(c, g.name)) {
        int r = keep(c, &g, ret);

        return r < 0 ? vb_fail(e, r, "cannot limit the cgroup of session %u again", session) : 0;
    }
    int r = vb_cgroup_new(c, session, memory_max, ret, &join, e);
    if (r < 0)
        return r;
    int n = snprintf(text, sizeof text, "%d", (int)pid);
    if (write(join, text, (size_t)n) != n)
        r = vb_fail(e, -errno, "cannot move session %u to a cgroup of its own", session);
    close(join);
    if (r < 0)
        *ret = vb_cgroup_end(c, *ret);
    return r;
}

enum vb_cgroup_end vb_cgroup_why(struct vb_cgroups *c, const struct vb_cgroup *g, uint64_t *ret_memory_max) {
    uint64_t kills = 0, at_limit = 0;

    if (!g)
        return VB_CGROUP_END_OTHER;
    VB_FD int dir = vb_cgroupfs_open_at(c->dir, g->name);
    if (dir < 0 || vb_cgroupfs_keyed(dir, "memory.events", "oom_kill", &kills) < 0 || kills == 0)
        return VB_CGROUP_END_OTHER;
    /* "oom" is counted where the limit is that was reached, "oom_kill" where the killed process was. */
    if (vb_cgroupfs_keyed(dir, "memory.events", "oom", &at_limit) < 0 || at_limit == 0)
        return VB_CGROUP_END_OOM;
    *ret_memory_max = g->memory_max;
    return VB_CGROUP_END_LIMIT;
}

/* ---- all of them ---- */

int vb_cgroups_init(struct vb_cgroups *c, const char *choice, const char *sys, const char *proc,
                    struct event_base *base) {
    char why[VB_CGROUP_WHY] = "";

    *c = (struct vb_cgroups){.dir = -1, .proc = proc, .again_ms = AGAIN_FIRST_MS};
    LIST_INIT(&c->list);
    if (strcmp(choice, "none") == 0)
        return 0;
    c->again = evtimer_new(base, on_again, c);
    if (!c->again)
        return -ENOMEM;
    int r = vb_cgroup_place(choice, sys, proc, c->prefix, sizeof c->prefix, why);
    if (r >= 0) {
        c->dir = r;
        vb_cgroups_sweep(c);
        return 0;
    }
    if (strcmp(choice, "auto") != 0) {
        vb_log(LOG_ERR, "--cgroup=%s cannot be used: %s", choice, why);
        return r;
    }
    vb_log(
        LOG_NOTICE,
        "sessions have no memory cgroups of their own (%s): what clients make them allocate counts as the service's, "
        "and has no limit",
        why);
    return 0;
}

void vb_cgroups_fini(struct vb_cgroups *c) {
    while (!LIST_EMPTY(&c->list))
        forget(LIST_FIRST(&c->list));
    if (c->again)
        event_free(c->again);
    c->again = NULL;
    vb_close_p(&c->dir);
    c->dir = -1;
}
