/* Sessions of an earlier daemon that have not come back yet.
 *
 * At the start every process that can be one is noted: with a uid of the session range, or, where sessions have no uid of
 * their own, our program with --session. Until all have come, ended, or VB_ADOPT_GRACE_MS have passed, claims wait,
 * since a stray may have any device. Its uid stays taken as long as it lives. Contexts that systemd kept belong to strays
 * by uid; when the stray ends without having come, or there is none, its context is emptied (hold.c). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "broker/record.h"
#include "host/files.h"
#include "host/iommu.h"
#include "proto/cleanup.h"

struct vb_stray {
    LIST_ENTRY(vb_stray) entry;
    struct vb_broker *broker;
    pid_t pid;
    uid_t uid;
    int pidfd;
    int iommufd; /* from systemd's store, or -1 */
    struct event *died;
};

static void drop(struct vb_stray *s) {
    if (s->died)
        event_free(s->died);
    vb_close_p(&s->pidfd);
    vb_close_p(&s->iommufd);
    LIST_REMOVE(s, entry);
    free(s);
}

static void on_died(evutil_socket_t fd, short what, void *arg) {
    struct vb_stray *s = arg;
    struct vb_broker *b = s->broker;
    int iommufd = vb_steal_fd(&s->iommufd);
    uid_t uid = s->uid;

    (void)fd, (void)what;
    vb_log(LOG_NOTICE, "pid %d (uid %u), a session of an earlier daemon, ended without having come back", (int)s->pid,
           uid);
    drop(s);
    vb_cgroups_sweep(&b->cgroups);
    vb_uids_give(&b->uids, uid);
    if (iommufd >= 0)
        vb_hold_orphan(b, uid, iommufd);
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

static void take_stored(struct vb_broker *b, const char *name, int fd /* consumed */) {
    struct vb_stray *s;
    uid_t uid;

    if (!vb_fdstore_name(name, &uid)) {
        close(fd);
        return;
    }
    if (!b->iommufd || !vb_iommu_is(b->options.dev, fd)) {
        vb_fdstore_remove_uid(uid);
        close(fd);
        return;
    }
    LIST_FOREACH (s, &b->strays, entry) {
        if (s->uid == uid && s->iommufd < 0) {
            s->iommufd = fd;
            return;
        }
    }
    vb_hold_orphan(b, uid, fd);
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
    char **names = NULL;

    int r = vb_proc_each(b->options.proc, note, b);
    if (r < 0)
        return r;
    int n = sd_listen_fds_with_names(0, &names);
    for (int i = 0; i < n; i++) {
        /* The sockets are the listener's. */
        if (strcmp(names[i], "broker") != 0 && strcmp(names[i], "session") != 0)
            take_stored(b, names[i], SD_LISTEN_FDS_START + i);
        free(names[i]);
    }
    free(names);
    b->grace = evtimer_new(b->base, on_grace, b);
    if (!b->grace)
        return -ENOMEM;
    return LIST_EMPTY(&b->strays) ? 0 : evtimer_add(b->grace, &grace);
}

void vb_strays_came(struct vb_broker *b, pid_t pid) {
    struct vb_stray *s;

    LIST_FOREACH (s, &b->strays, entry) {
        if (s->pid == pid) {
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
