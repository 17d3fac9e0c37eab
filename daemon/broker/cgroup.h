/* A memory cgroup for each session: what a client makes its session allocate (page tables, holes in its files, objects of the
 * kernel) is counted apart, and limited, so that neither the daemon nor other sessions pay for it.
 *
 *   UNIT/             delegated to us by systemd, or --cgroup=PATH
 *     daemon/         the daemon: with controllers enabled for its children a cgroup cannot have processes of its own
 *     session-7/      one session process; session-7.1: another one while the first does not end
 *     .control/       systemd's ExecReload= and ExecStopPost=
 *
 * A cgroup is made before the fork, joined by the child before its exec, and removed when the process has ended; the kernel may
 * need a moment for that, or as long as the process hangs in its exit, so it is tried again from the event loop. The cgroups
 * of sessions live on when the daemon ends. systemd 252 cannot start a daemon in a cgroup that has controllers enabled
 * for its children (219/CGROUP), so the unit's ExecStopPost= disables them (vb_cgroup_release()), which takes the limits
 * away until the next daemon sets them again (vb_cgroup_adopt()).
 *
 * Without a cgroup of our own everything works, but all sessions' memory counts as the service's. */
#ifndef VB_BROKER_CGROUP_H
#define VB_BROKER_CGROUP_H

#include <bsd/sys/queue.h>
#include <event2/event.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/error.h"

struct vb_cgroup;

struct vb_cgroups {
    int dir;               /* -1: we have none */
    const char *proc;      /* borrowed */
    char prefix[PATH_MAX]; /* of `dir`, as /proc/PID/cgroup shows it */
    LIST_HEAD(, vb_cgroup) list;
    struct event *again; /* pending: some are to be removed */
    unsigned again_ms;
};

/* What the kernel says of the end of a session. */
enum vb_cgroup_end {
    VB_CGROUP_END_OTHER,
    VB_CGROUP_END_LIMIT, /* killed when its cgroup was at its limit */
    VB_CGROUP_END_OOM,   /* killed since something above it, or the machine, had no memory left */
};

/* `choice` is --cgroup: "auto", "none" or a directory that is made ours. With auto a reason not to use cgroups is logged and
 * no error; a directory that cannot be used is. */
int vb_cgroups_init(struct vb_cgroups *c, const char *choice, const char *sys, const char *proc,
                    struct event_base *base);
/* Forgets them; they stay. */
void vb_cgroups_fini(struct vb_cgroups *c);
/* Removes what sessions left that ended while nobody looked. */
void vb_cgroups_sweep(struct vb_cgroups *c);

/* Makes one for a process of this session. *ret_join, if it is not -1, becomes the caller's: a process that writes "0" to it is in.
 * *ret is NULL when we have no cgroups. */
int vb_cgroup_new(struct vb_cgroups *c, uint32_t session, uint64_t memory_max, struct vb_cgroup **ret, int *ret_join,
                  struct vb_error *e);
/* Finds the one that a process of an earlier daemon is in, or moves the process to a new one. A limit that it still has is
 * not lowered: that could kill it. */
int vb_cgroup_adopt(struct vb_cgroups *c, pid_t pid, uint32_t session, uint64_t memory_max, struct vb_cgroup **ret,
                    struct vb_error *e);
/* Why did the process die? */
enum vb_cgroup_end vb_cgroup_why(struct vb_cgroups *c, const struct vb_cgroup *g, uint64_t *ret_memory_max);
/* Its process has ended, or will. Removed, now or later. NULL is fine; NULL. */
struct vb_cgroup *vb_cgroup_end(struct vb_cgroups *c, struct vb_cgroup *g);

#endif
