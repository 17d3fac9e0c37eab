/* Records of sessions, and how a process ends: see record.h.
 *
 * A killed process may not end for as long as its client likes: the kernel closes what the client has sent, and a FUSE
 * server need not answer (session/client.c). Nothing tells us: pidfd and sockets come after that (kernel/exit.c: files
 * are put in exit_task_work). So sessions that have devices are looked at. A process that ends makes no more calls, so
 * what it leaves is dealt with as if it had ended; its uid stays taken, and its record stays, until it has. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/closer.h"
#include "broker/record.h"
#include "config.h"
#include "proto/cleanup.h"

/* A process that closed its control socket has nothing left to do but to end; the leak check of sanitizers takes long, and
 * must not be killed, since its helper would stay. */
#ifdef VB_SANITIZERS
#define END_MS 30000
#else
#define END_MS 2000
#endif
/* One that ends without anything that makes it wait takes less. */
#define LINGER_MS 500
/* One whose client is dead has to say that it only holds by then: it may have a terabyte to unmap. */
#define OVERDUE_MS 10000

/* ---- records ---- */

struct vb_record *vb_record_new(struct vb_broker *b) {
    struct vb_record *r = calloc(1, sizeof *r);

    if (!r)
        return NULL;
    *r = (struct vb_record){.broker = b,
                            .pidfd = -1,
                            .status_fd = -1,
                            .client_fd = -1,
                            .iommufd = -1,
                            .lingering_pidfd = -1,
                            .started = time(NULL),
                            .link = {.fd = -1},
                            .peer = VB_PEER_INIT};
    LIST_INSERT_HEAD(&b->records, r, entry);
    return r;
}

void vb_record_unlease(struct vb_record *r) {
    vb_account_leave(&r->lease);
}

static void drop_client_fd(struct vb_record *r) {
    /* When the daemon ends, sessions and clients go on, and our exit closes it. */
    if (r->client_fd >= 0 && !r->broker->stopping)
        vb_close_client(r->client_fd);
    r->client_fd = -1;
}

/* Everything that belongs to the process, not to what it may leave. */
void vb_record_forget_process(struct vb_record *r) {
    struct event **events[] = {&r->died, &r->status, &r->timer, &r->bereaved, &r->overdue};

    vb_link_close(&r->link);
    vb_asks_drop(r);
    r->reopen = vb_reopen_free(r->reopen);
    for (unsigned i = 0; i < sizeof events / sizeof events[0]; i++) {
        if (*events[i])
            event_free(*events[i]);
        *events[i] = NULL;
    }
    drop_client_fd(r);
    if (!r->broker->stopping)
        r->cgroup = vb_cgroup_end(&r->broker->cgroups, r->cgroup);
    vb_close_p(&r->pidfd);
    vb_close_p(&r->status_fd);
    r->pidfd = r->status_fd = -1;
    r->pid = 0;
    r->ours = r->ends = false;
}

struct vb_record *vb_record_free(struct vb_record *r) {
    struct vb_broker *b = r->broker;

    vb_record_forget_process(r);
    vb_record_unlease(r);
    if (r->id) {
        vb_register_release_all(&b->devices, r->id);
        b->n_sessions--;
    }
    if (r->has_uid)
        vb_uids_give(&b->uids, r->uid);
    if (r->lingered)
        event_free(r->lingered);
    if (r->lingering_pidfd >= 0)
        vb_uids_give(&b->uids, r->lingering_uid);
    vb_close_p(&r->lingering_pidfd);
    vb_close_p(&r->iommufd);
    while (!LIST_EMPTY(&r->shown))
        vb_group_free(LIST_FIRST(&r->shown));
    vb_peer_fini(&r->peer);
    vb_policy_unref(r->policy);
    LIST_REMOVE(r, entry);
    free(r);
    return NULL;
}

struct vb_record *vb_record_by_id(struct vb_broker *b, uint32_t id) {
    struct vb_record *r;

    LIST_FOREACH (r, &b->records, entry) {
        if (id != 0 && r->id == id)
            return r;
    }
    return NULL;
}

struct vb_record *vb_record_by_pid(struct vb_broker *b, pid_t pid) {
    struct vb_record *r;

    LIST_FOREACH (r, &b->records, entry) {
        if (r->pid == pid)
            return r;
    }
    return NULL;
}

void vb_record_number(struct vb_record *r, uint32_t wanted) {
    struct vb_broker *b = r->broker;

    if (wanted == 0 || vb_record_by_id(b, wanted)) {
        do
            wanted = ++b->last_id;
        while (wanted == 0 || vb_record_by_id(b, wanted));
    }
    if (wanted > b->last_id && wanted - b->last_id < 1u << 30) /* a session's own word does not exhaust the numbers */
        b->last_id = wanted;
    r->id = wanted;
    b->n_sessions++;
}

void vb_record_timer(struct vb_record *r, unsigned ms, event_callback_fn fn) {
    const struct timeval t = {ms / 1000, (suseconds_t)(ms % 1000) * 1000};

    if (r->timer)
        event_free(r->timer);
    r->timer = evtimer_new(r->broker->base, fn, r);
    if (r->timer)
        evtimer_add(r->timer, &t);
}

/* ---- the end of a process ---- */

/* The process is gone, or will do nothing any more: what it leaves. */
static void process_gone(struct vb_record *r) {
    bool was_holding = r->state == VB_RECORD_HOLDING || r->state == VB_RECORD_LOST;

    if (!r->lost_at)
        r->lost_at = vb_now_ms();
    vb_record_forget_process(r);
    if (vb_hold_needed(r)) {
        if (!was_holding)
            r->hold_failures = 0;
        vb_hold_start(r);
        return;
    }
    r->state = VB_RECORD_LOST;
    if (r->lingering_pidfd >= 0)
        return; /* the record ends with that one */
    vb_fdstore_remove(r);
    vb_record_free(r);
}

static void on_lingered(evutil_socket_t fd, short what, void *arg) {
    struct vb_record *r = arg;
    siginfo_t ignored;

    (void)fd, (void)what;
    if (r->lingering_ours)
        waitid(P_PIDFD, (id_t)r->lingering_pidfd, &ignored, WEXITED | WNOHANG);
    vb_uids_give(&r->broker->uids, r->lingering_uid);
    vb_close_p(&r->lingering_pidfd);
    r->lingering_pidfd = -1;
    event_free(r->lingered);
    r->lingered = NULL;
    if (r->pid == 0 && r->state == VB_RECORD_LOST && !vb_hold_needed(r)) {
        vb_fdstore_remove(r);
        vb_record_free(r);
    }
}

/* True: it died for want of memory, which is said. Not before the cgroup is given up. */
static bool log_out_of_memory(struct vb_record *r) {
    uint64_t limit;

    enum vb_cgroup_end why = vb_cgroup_why(&r->broker->cgroups, r->cgroup, &limit);
    if (why == VB_CGROUP_END_LIMIT)
        vb_log_limited(&r->broker->lost, LOG_WARNING,
                       "session %u was killed at its memory limit of %s (pid %d, client pid %d %s, uid %u)", r->id,
                       VB_SIZE(limit), (int)r->pid, (int)r->peer.pid, r->peer.comm, r->peer.uid);
    else if (why == VB_CGROUP_END_OOM)
        vb_log_limited(
            &r->broker->lost, LOG_WARNING,
            "session %u was killed by the kernel, which had no memory left (pid %d, client pid %d %s, uid %u)", r->id,
            (int)r->pid, (int)r->peer.pid, r->peer.comm, r->peer.uid);
    return why != VB_CGROUP_END_OTHER;
}

/* Killed, and still there. A second one that lingers in the same record is only waited for. */
static void on_linger(evutil_socket_t fd, short what, void *arg) {
    struct vb_record *r = arg;
    uid_t uid;

    (void)fd, (void)what;
    if (r->lingering_pidfd >= 0 || !r->has_uid || vb_uids_take(&r->broker->uids, &uid) < 0)
        return;
    r->lingered = event_new(r->broker->base, r->pidfd, EV_READ, on_lingered, r);
    if (!r->lingered || event_add(r->lingered, NULL) < 0) {
        if (r->lingered)
            event_free(r->lingered);
        r->lingered = NULL;
        vb_uids_give(&r->broker->uids, uid);
        return;
    }
    log_out_of_memory(r);
    vb_log_limited(&r->broker->lost, LOG_WARNING,
                   "session %u (pid %d) is dead but does not end: what its client sent waits to be closed", r->id,
                   (int)r->pid);
    r->lingering_pidfd = vb_steal_fd(&r->pidfd);
    r->lingering_uid = r->uid;
    r->lingering_ours = r->ours;
    vb_fdstore_remove(r); /* it is stored under the other uid, as soon as there is a process with that */
    r->uid = uid;
    process_gone(r);
}

void vb_record_signal(struct vb_record *r, int sig) {
    if (r->pidfd >= 0 && syscall(SYS_pidfd_send_signal, r->pidfd, sig, NULL, 0) < 0 && errno != ESRCH)
        vb_log(LOG_ERR, "cannot signal pid %d: %s", (int)r->pid, strerror(errno));
}

void vb_record_kill(struct vb_record *r, const char *why) {
    vb_log_limited(&r->broker->lost, LOG_WARNING, "session %u (pid %d, client pid %d, uid %u) is killed: %s", r->id,
                   (int)r->pid, (int)r->peer.pid, r->peer.uid, why);
    vb_link_close(&r->link);
    vb_record_signal(r, SIGKILL);
    vb_record_timer(r, LINGER_MS, on_linger);
}

static void on_end_timer(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    vb_record_kill(arg, "it closed its control socket but does not end");
}

static void on_link_lost(struct vb_link *l, int error) {
    struct vb_record *r = l->owner;

    if (r->state == VB_RECORD_KNOCKING) {
        if (error == -EBADMSG)
            vb_record_signal(r, SIGKILL);
        vb_record_free(r);
        return;
    }
    if (error == -EBADMSG)
        vb_record_kill(r, "malformed message");
    else
        vb_record_timer(r, END_MS, on_end_timer);
}

static void log_end(struct vb_record *r) {
    siginfo_t info = {.si_pid = 0};
    char how[64] = "ended";
    bool said = log_out_of_memory(r);

    if (r->ours && waitid(P_PID, (id_t)r->pid, &info, WEXITED | WNOHANG) == 0 && info.si_pid == r->pid) {
        if (info.si_code == CLD_EXITED && info.si_status == 0)
            return;
        if (info.si_code == CLD_EXITED)
            snprintf(how, sizeof how, "ended with status %d", info.si_status);
        else
            snprintf(how, sizeof how, "was killed by signal %d", info.si_status);
    } else if (r->ours || r->state == VB_RECORD_HOLDING) {
        return;
    }
    if (said)
        return;
    vb_log_limited(&r->broker->lost, r->ours ? LOG_NOTICE : LOG_INFO,
                   "session %u (pid %d, client pid %d %s, uid %u) %s", r->id, (int)r->pid, (int)r->peer.pid,
                   r->peer.comm, r->peer.uid, how);
}

static void on_died(evutil_socket_t fd, short what, void *arg) {
    struct vb_record *r = arg;

    (void)fd, (void)what;
    log_end(r);
    process_gone(r);
}

static void on_look(evutil_socket_t fd, short what, void *arg) {
    struct vb_broker *b = arg;
    struct vb_record *r, *next;

    (void)fd, (void)what;
    LIST_FOREACH_SAFE(r, &b->records, entry, next) {
        if (!r->opened || r->pid == 0 || r->lingering_pidfd >= 0)
            continue;
        bool ends = vb_proc_exiting(b->options.proc, r->pid);
        if (ends && r->ends) /* twice, LINGER_MS apart */
            on_linger(-1, 0, r);
        else
            r->ends = ends;
    }
}

int vb_records_look(struct vb_broker *b) {
    static const struct timeval t = {LINGER_MS / 1000, LINGER_MS % 1000 * 1000};

    b->look = event_new(b->base, -1, EV_PERSIST, on_look, b);
    return b->look && event_add(b->look, &t) == 0 ? 0 : -ENOMEM;
}

int vb_record_watch(struct vb_record *r) {
    r->died = event_new(r->broker->base, r->pidfd, EV_READ, on_died, r);
    return r->died && event_add(r->died, NULL) == 0 ? 0 : -ENOMEM;
}

int vb_record_link(struct vb_record *r, int fd) {
    return vb_link_open(&r->link, r->broker->base, &r->broker->buffers, fd, vb_calls_message, on_link_lost, r);
}

static void on_overdue(evutil_socket_t fd, short what, void *arg) {
    struct vb_record *r = arg;

    (void)fd, (void)what;
    if (r->state == VB_RECORD_SERVING || r->state == VB_RECORD_STARTING)
        vb_record_kill(r, "its client is dead, and it does not come to an end");
}

static void on_bereaved(evutil_socket_t fd, short what, void *arg) {
    static const struct timeval t = {OVERDUE_MS / 1000, OVERDUE_MS % 1000 * 1000};
    struct vb_record *r = arg;

    (void)fd, (void)what;
    r->overdue = r->overdue ? r->overdue : evtimer_new(r->broker->base, on_overdue, r);
    if (r->overdue)
        evtimer_add(r->overdue, &t);
}

int vb_record_watch_client(struct vb_record *r) {
    if (r->peer.pidfd < 0)
        return 0;
    r->bereaved = event_new(r->broker->base, r->peer.pidfd, EV_READ, on_bereaved, r);
    return r->bereaved && event_add(r->bereaved, NULL) == 0 ? 0 : -ENOMEM;
}
