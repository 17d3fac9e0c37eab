/* Sessions of an earlier daemon that have not come back yet.
 *
 * At the start every process that can be one is noted: with a uid of the session range, or, where sessions have no uid of
 * their own, our program with --session. Until all have come, ended, or VB_ADOPT_GRACE_MS have passed, claims wait,
 * since a stray may have any device. Its uid stays taken as long as it lives. Contexts, groups and containers that systemd
 * kept belong to strays by uid; when the stray ends without having come, or there is none, they are emptied (hold.c). */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "broker/record.h"
#include "host/files.h"
#include "host/iommu.h"
#include "host/vfio.h"
#include "proto/cleanup.h"

struct vb_stray {
    LIST_ENTRY(vb_stray) entry;
    struct vb_broker *broker;
    pid_t pid;
    uid_t uid;
    int pidfd;
    int iommufd; /* from systemd's store, or -1 */
    struct vb_group_list groups;
    struct event *died;
};

static void drop(struct vb_stray *s) {
    if (s->died)
        event_free(s->died);
    vb_close_p(&s->pidfd);
    vb_close_p(&s->iommufd);
    while (!LIST_EMPTY(&s->groups))
        vb_group_free(LIST_FIRST(&s->groups));
    LIST_REMOVE(s, entry);
    free(s);
}

static void on_died(evutil_socket_t fd, short what, void *arg) {
    struct vb_stray *s = arg;
    struct vb_broker *b = s->broker;
    int iommufd = vb_steal_fd(&s->iommufd);
    struct vb_group_list groups = LIST_HEAD_INITIALIZER(groups);
    struct vb_group *g;
    uid_t uid = s->uid;

    (void)fd, (void)what;
    while ((g = LIST_FIRST(&s->groups))) {
        LIST_REMOVE(g, entry);
        LIST_INSERT_HEAD(&groups, g, entry);
    }
    vb_log(LOG_NOTICE, "pid %d (uid %u), a session of an earlier daemon, ended without having come back", (int)s->pid,
           uid);
    drop(s);
    vb_cgroups_sweep(&b->cgroups);
    vb_uids_give(&b->uids, uid);
    if (iommufd >= 0 || !LIST_EMPTY(&groups))
        vb_hold_orphan(b, uid, iommufd, &groups);
}

static bool is_session(struct vb_broker *b, pid_t pid, uid_t uid) {
    static const char cmdline[] = "vfio-brokerd\0--session";
    char path[256], text[64];

    if (b->uids.count > 0)
        return vb_uids_in_range(&b->uids, uid);
    return uid == getuid() && pid != getpid() &&
           vb_path(path, sizeof path, "%s/%d/cmdline", b->options.proc, (int)pid) &&
           vb_file_read(path, text, sizeof text) == (int)sizeof cmdline && memcmp(text, cmdline, sizeof cmdline) == 0;
}

/* Sessions of another daemon that lives are its children; those of a dead one are init's. */
static bool has_daemon(struct vb_broker *b, pid_t parent) {
    char comm[VB_COMM_SIZE];

    vb_proc_comm(b->options.proc, parent, comm);
    return parent != getpid() && strcmp(comm, "vfio-brokerd") == 0;
}

static int note(pid_t pid, void *data) {
    struct vb_broker *b = data;
    struct vb_proc_status status;

    if (vb_proc_status(b->options.proc, pid, &status) < 0 || !is_session(b, pid, status.uid))
        return 0;
    if (has_daemon(b, status.parent)) {
        vb_uids_note(&b->uids, status.uid);
        return 0;
    }
    struct vb_stray *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    *s = (struct vb_stray){.broker = b, .pid = pid, .uid = status.uid, .pidfd = vb_pidfd_open(pid), .iommufd = -1};
    LIST_INSERT_HEAD(&b->strays, s, entry);
    if (s->pidfd < 0) {
        drop(s);
        return 0; /* it ended just now */
    }
    vb_uids_note(&b->uids, s->uid);
    s->died = event_new(b->base, s->pidfd, EV_READ, on_died, s);
    return s->died && event_add(s->died, NULL) == 0 ? 0 : -ENOMEM;
}

/* ---- what systemd kept ---- */

static struct vb_stray *stray_of(struct vb_broker *b, uid_t uid) {
    struct vb_stray *s;

    LIST_FOREACH (s, &b->strays, entry) {
        if (s->uid == uid)
            return s;
    }
    return NULL;
}

static bool still_good(struct vb_broker *b, const struct vb_stored *s, int fd) {
    if (s->kind == VB_STORED_IOMMUFD)
        return b->backend == VB_BACKEND_IOMMUFD && vb_iommu_is(b->options.dev, fd);
    if (!vb_backend_type1(b))
        return false;
    return s->kind == VB_STORED_GROUP ? vb_fd_is_rdev(fd, vb_group_rdev(b->options.sys, s->group))
                                      : vb_vfio_container_is(b->options.dev, b->devices.iommufd_containers, fd);
}

/* fds as systemd numbers them; those that are taken become -1. */
struct kept {
    char **names;
    int *fds;
    int n;
};

static void take_iommufd(struct vb_broker *b, uid_t uid, int fd /* consumed */) {
    struct vb_group_list none = LIST_HEAD_INITIALIZER(none);
    struct vb_stray *s = stray_of(b, uid);

    if (s && s->iommufd < 0)
        s->iommufd = fd;
    else
        vb_hold_orphan(b, uid, fd, &none);
}

/* The group with a dup of its container goes into `l`. */
static int take_group(struct kept *k, const struct vb_stored *s, int *fd, struct vb_group_list *l) {
    struct vb_stored c;

    for (int i = 0; i < k->n; i++) {
        if (k->fds[i] < 0 || !vb_fdstore_name(k->names[i], &c) || c.kind != VB_STORED_CONTAINER || c.uid != s->uid ||
            c.container_id != s->container_id)
            continue;
        int container = fcntl(k->fds[i], F_DUPFD_CLOEXEC, 0);
        struct vb_group *g = container < 0 ? NULL : vb_group_new(l, 0, s->group, vb_steal_fd(fd), container);
        if (!g)
            return -ENOMEM;
        g->container_id = s->container_id;
        g->stored = s->uid;
        return 0;
    }
    return -ENOENT;
}

/* All groups of the uid of the i-th, which is one. */
static void take_groups(struct vb_broker *b, struct kept *k, int first, uid_t uid) {
    struct vb_group_list l = LIST_HEAD_INITIALIZER(l);
    struct vb_stray *stray = stray_of(b, uid);
    struct vb_stored s;

    for (int i = first; i < k->n; i++) {
        if (k->fds[i] < 0 || !vb_fdstore_name(k->names[i], &s) || s.kind != VB_STORED_GROUP || s.uid != uid)
            continue;
        if (take_group(k, &s, &k->fds[i], stray ? &stray->groups : &l) < 0)
            vb_log(LOG_WARNING, "%s came from systemd without its container: what it maps cannot be taken away",
                   k->names[i]);
        vb_close_p(&k->fds[i]);
        k->fds[i] = -1;
    }
    if (!LIST_EMPTY(&l))
        vb_hold_orphan(b, uid, -1, &l);
}

static void take_stored(struct vb_broker *b, struct kept *k) {
    struct vb_stored s;

    for (int i = 0; i < k->n; i++) { /* the sockets are the listener's */
        bool ours = vb_fdstore_name(k->names[i], &s);

        if (strcmp(k->names[i], "broker") == 0 || strcmp(k->names[i], "session") == 0)
            k->fds[i] = -1;
        else if (ours && still_good(b, &s, k->fds[i]))
            vb_group_note_container(s.container_id);
        else {
            if (ours)
                vb_fdstore_remove_name(k->names[i]);
            vb_close_p(&k->fds[i]);
            k->fds[i] = -1;
        }
    }
    for (int i = 0; i < k->n; i++) {
        if (k->fds[i] < 0 || !vb_fdstore_name(k->names[i], &s))
            continue;
        if (s.kind == VB_STORED_IOMMUFD)
            take_iommufd(b, s.uid, vb_steal_fd(&k->fds[i]));
        else if (s.kind == VB_STORED_GROUP)
            take_groups(b, k, i, s.uid);
    }
    for (int i = 0; i < k->n; i++) /* containers, whose groups have dups of them */
        vb_close_p(&k->fds[i]);
}

static int ask_systemd(struct vb_broker *b) {
    struct kept k = {.names = NULL};

    k.n = sd_listen_fds_with_names(0, &k.names);
    if (k.n <= 0)
        return 0;
    k.fds = malloc((size_t)k.n * sizeof k.fds[0]);
    for (int i = 0; k.fds && i < k.n; i++)
        k.fds[i] = SD_LISTEN_FDS_START + i;
    if (k.fds)
        take_stored(b, &k);
    int r = k.fds ? 0 : -ENOMEM;
    for (int i = 0; i < k.n; i++)
        free(k.names[i]);
    free(k.names);
    free(k.fds);
    return r;
}

static void on_grace(evutil_socket_t fd, short what, void *arg) {
    struct vb_broker *b = arg;
    struct vb_stray *s;

    (void)fd, (void)what;
    LIST_FOREACH (s, &b->strays, entry) {
        vb_log(LOG_WARNING, "pid %d (uid %u) looks like a session of an earlier daemon, but has not come back",
               (int)s->pid, s->uid);
    }
}

int vb_strays_find(struct vb_broker *b) {
    static const struct timeval grace = {VB_ADOPT_GRACE_MS / 1000, VB_ADOPT_GRACE_MS % 1000 * 1000};

    int r = vb_proc_each(b->options.proc, note, b);
    if (r == 0)
        r = ask_systemd(b);
    if (r < 0)
        return r;
    b->grace = evtimer_new(b->base, on_grace, b);
    if (!b->grace)
        return -ENOMEM;
    return LIST_EMPTY(&b->strays) ? 0 : evtimer_add(b->grace, &grace);
}

void vb_strays_came(struct vb_broker *b, pid_t pid) {
    struct vb_stray *s;
    struct vb_group *g;

    LIST_FOREACH (s, &b->strays, entry) {
        if (s->pid == pid) {
            LIST_FOREACH (g, &s->groups, entry) { /* stored anew under the numbers of this daemon */
                vb_fdstore_forget_group(&s->groups, g);
            }
            drop(s);
            return;
        }
    }
}

bool vb_strays_expected(const struct vb_broker *b) {
    return !LIST_EMPTY(&b->strays) && b->grace && evtimer_pending(b->grace, NULL);
}

void vb_strays_free(struct vb_broker *b) {
    while (!LIST_EMPTY(&b->strays))
        drop(LIST_FIRST(&b->strays));
    if (b->grace)
        event_free(b->grace);
    b->grace = NULL;
}
