/* Sessions from the client's connection to the end of their process. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/closer.h"
#include "broker/record.h"
#include "broker/spawn.h"
#include "host/iommu.h"
#include "proto/cleanup.h"

/* A process that closed its control socket is about to end; this is how long that may take. */
#define END_MS 10000

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
                            .started = time(NULL),
                            .link = {.fd = -1},
                            .peer = VB_PEER_INIT};
    LIST_INSERT_HEAD(&b->records, r, entry);
    return r;
}

void vb_record_unlease(struct vb_record *r) {
    if (!r->account)
        return;
    vb_account_book(r->account, r->lease, 0);
    r->lease = 0;
    r->account = vb_account_put(r->account);
}

/* Our copy of the client's socket: the session has its own, unless it ended at once. */
static void drop_client_fd(struct vb_record *r) {
    if (r->client_fd < 0)
        return;
    if (r->pidfd >= 0 && vb_pidfd_alive(r->pidfd))
        close(r->client_fd);
    else
        vb_close_client(r->client_fd);
    r->client_fd = -1;
}

/* Everything that belongs to the process, not to what it may leave. */
static void forget_process(struct vb_record *r) {
    struct event **events[] = {&r->died, &r->status, &r->timer};

    vb_link_close(&r->link);
    vb_asks_drop(r);
    for (unsigned i = 0; i < sizeof events / sizeof events[0]; i++) {
        if (*events[i])
            event_free(*events[i]);
        *events[i] = NULL;
    }
    drop_client_fd(r);
    vb_close_p(&r->pidfd);
    vb_close_p(&r->status_fd);
    r->pidfd = r->status_fd = -1;
    r->pid = 0;
    r->ours = false;
    vb_record_unlease(r);
}

struct vb_record *vb_record_free(struct vb_record *r) {
    struct vb_broker *b = r->broker;

    forget_process(r);
    if (r->id) {
        vb_register_release_all(&b->devices, r->id);
        b->n_sessions--;
    }
    if (r->has_uid)
        vb_uids_give(&b->uids, r->uid);
    vb_close_p(&r->iommufd);
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

void vb_record_kill(struct vb_record *r, const char *why) {
    vb_log_limited(&r->broker->lost, LOG_WARNING, "session %u (pid %d, client pid %d, uid %u) is killed: %s", r->id,
                   (int)r->pid, (int)r->peer.pid, r->peer.uid, why);
    vb_link_close(&r->link);
    if (r->pidfd >= 0 && syscall(SYS_pidfd_send_signal, r->pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
        vb_log(LOG_ERR, "cannot kill pid %d: %s", (int)r->pid, strerror(errno));
}

static void on_end_timer(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    vb_record_kill(arg, "it closed its control socket but does not end");
}

static void on_link_lost(struct vb_link *l, int error) {
    struct vb_record *r = l->owner;

    if (r->state == VB_RECORD_KNOCKING) {
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
    vb_log_limited(&r->broker->lost, r->ours ? LOG_NOTICE : LOG_INFO,
                   "session %u (pid %d, client pid %d %s, uid %u) %s", r->id, (int)r->pid, (int)r->peer.pid,
                   r->peer.comm, r->peer.uid, how);
}

static void on_died(evutil_socket_t fd, short what, void *arg) {
    struct vb_record *r = arg;

    (void)fd, (void)what;
    log_end(r);
    bool was_holding = r->state == VB_RECORD_HOLDING || r->state == VB_RECORD_LOST;
    if (!r->lost_at)
        r->lost_at = vb_now_ms();
    forget_process(r);
    if (vb_hold_needed(r)) {
        if (!was_holding)
            r->hold_failures = 0;
        vb_hold_start(r);
        return;
    }
    vb_fdstore_remove(r);
    vb_record_free(r);
}

int vb_record_watch(struct vb_record *r) {
    r->died = event_new(r->broker->base, r->pidfd, EV_READ, on_died, r);
    return r->died && event_add(r->died, NULL) == 0 ? 0 : -ENOMEM;
}

int vb_record_link(struct vb_record *r, int fd) {
    return vb_link_open(&r->link, r->broker->base, &r->broker->buffers, fd, vb_calls_message, on_link_lost, r);
}

/* ---- the beginning of a process ---- */

/* The exec has happened, or a step before it has failed. */
static void on_status(evutil_socket_t fd, short what, void *arg) {
    struct vb_record *r = arg;
    struct vb_spawn_failure f;
    struct vb_error e = {.code = 0};

    (void)what;
    ssize_t n = read(fd, &f, sizeof f);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n == (ssize_t)sizeof f) {
        f.step[sizeof f.step - 1] = 0;
        vb_fail(&e, -f.error, "cannot start a session process: %s", f.step);
        vb_log_limited(&r->broker->lost, LOG_ERR, "%s", e.text);
        if (r->client_fd >= 0)
            vb_refuse_client(vb_steal_fd(&r->client_fd), &e);
    } else if (r->state == VB_RECORD_STARTING) {
        r->state = VB_RECORD_SERVING;
    }
    event_free(r->status);
    r->status = NULL;
    vb_close_p(&r->status_fd);
    r->status_fd = -1;
    drop_client_fd(r);
}

static int send_start(struct vb_record *r, const struct vb_limits *limits, bool hold) {
    VfioBrokerInternal__Start start = VFIO_BROKER_INTERNAL__START__INIT;
    VfioBrokerInternal__ToSession m = VFIO_BROKER_INTERNAL__TO_SESSION__INIT;
    struct vb_broker *b = r->broker;
    const char *held[3 * VB_DEVICES_MAX];
    int fds[2];
    unsigned n_fds = 0;

    start.session = r->id;
    start.backend = (char *)(b->iommufd ? "iommufd" : "emulated");
    start.client_pid = (uint32_t)r->peer.pid;
    start.client_uid = r->peer.uid;
    start.session_socket = b->sessions.path;
    start.lease = r->lease;
    start.no_map_file = b->options.test_no_map_file;
    start.lie = b->options.test_lie;
    if (hold) {
        start.hold = true;
        start.n_held_devices = vb_register_of(&b->devices, r->id, held, sizeof held / sizeof held[0]);
        start.held_devices = (char **)held;
    } else {
        start.admin = r->grant->admin;
        start.mappings_max = r->grant->mappings;
        start.limit = limits->limit;
        start.limit_whose = (char *)limits->whose;
        fds[n_fds++] = r->peer.pidfd;
    }
    if (r->iommufd >= 0)
        fds[n_fds++] = r->iommufd;
    m.body_case = VFIO_BROKER_INTERNAL__TO_SESSION__BODY_START;
    m.start = &start;
    return vb_link_send(&r->link, &m, fds, n_fds);
}

int vb_record_spawn(struct vb_record *r, int client_fd, const struct vb_limits *limits, struct vb_error *e) {
    struct vb_broker *b = r->broker;
    struct vb_spawned spawned;
    uint64_t started;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return vb_fail(e, -errno, "cannot start a session process");
    VB_FD int theirs = pair[1];
    int n = vb_record_link(r, pair[0]);
    if (n < 0)
        return vb_fail(e, n, "cannot start a session process");
    const struct vb_spawn s = {.client_fd = client_fd,
                               .control_fd = theirs,
                               .change_uid = b->uids.count > 0,
                               .uid = r->uid,
                               .lease = r->lease,
                               .pins = b->iommufd};
    n = vb_spawn(&s, &spawned, e);
    if (n != 0)
        return n;
    r->pid = spawned.pid;
    r->pidfd = spawned.pidfd;
    r->status_fd = spawned.status;
    r->ours = true;
    /* As the next daemon will read it, so that a session keeps its start across restarts. */
    if (vb_proc_start_time(b->options.proc, r->pid, &started) == 0)
        r->started = vb_proc_started(started);
    r->status = event_new(b->base, r->status_fd, EV_READ | EV_PERSIST, on_status, r);
    n = r->status && event_add(r->status, NULL) == 0 ? vb_record_watch(r) : -ENOMEM;
    if (n == 0)
        n = send_start(r, limits, client_fd < 0);
    if (n == 0)
        return 0;
    kill(r->pid, SIGKILL);
    waitpid(r->pid, NULL, 0); /* it has begun nothing yet that could hold it up */
    forget_process(r);
    return vb_fail(e, n, "cannot start a session process");
}

/* ---- a client connects ---- */

static int check_policy(struct vb_broker *b, const struct vb_peer *peer, const struct vb_grant **ret,
                        struct vb_error *e) {
    char groups[96] = "";
    size_t used = 0;

    *ret = vb_policy_find(b->policy, peer->uid, peer->gid, peer->groups, peer->n_groups);
    if (*ret)
        return 0;
    for (size_t i = 0; i < peer->n_groups && used < sizeof groups - 16; i++)
        if (peer->groups[i] != peer->gid)
            used += (size_t)snprintf(groups + used, sizeof groups - used, ", %u", peer->groups[i]);
    vb_log_limited(&b->refused, LOG_NOTICE, "policy grants nothing to uid %u (pid %d %s)", peer->uid, (int)peer->pid,
                   peer->comm);
    return vb_refuse(e, VB_DENIED,
                     "policy %.100s grants nothing to uid %u (gids %u%s): ask the administrator to add a grant",
                     b->policy->path, peer->uid, peer->gid, groups);
}

static int check_numbers(struct vb_broker *b, uid_t uid, const struct vb_grant *grant, struct vb_error *e) {
    char whose[64];
    struct vb_record *r;
    uint32_t n = 0;

    LIST_FOREACH (r, &b->records, entry) {
        n += r->id && r->peer.uid == uid;
    }
    if (n >= grant->sessions) {
        snprintf(whose, sizeof whose, "policy sessions of uid %u", uid);
        vb_refuse(e, VB_LIMIT, "uid %u has %u sessions already, and policy allows %u", uid, n, grant->sessions);
        vb_error_limit(e, 1, n, grant->sessions, whose);
        return VB_LIMIT;
    }
    if (b->n_sessions >= VB_SESSIONS_MAX) {
        vb_refuse(e, VB_LIMIT, "the broker has %u sessions already, and serves no more", b->n_sessions);
        vb_error_limit(e, 1, b->n_sessions, VB_SESSIONS_MAX, "the broker");
        return VB_LIMIT;
    }
    return 0;
}

/* Leases to the new session all that its account has left. */
static int first_lease(struct vb_record *r, struct vb_limits *ret, struct vb_error *e) {
    r->account = vb_account_get(&r->broker->accounts, r->peer.pid, r->peer.start);
    if (!r->account)
        return vb_fail(e, -ENOMEM, "account of pid %d", (int)r->peer.pid);
    int n = vb_limits_read(r->broker->options.proc, &r->peer, r->grant->memory_max, ret);
    if (n < 0)
        return vb_fail(e, n, "cannot read the limits of pid %d", (int)r->peer.pid);
    r->lease = vb_account_left(r->account, ret);
    vb_account_book(r->account, 0, r->lease);
    return 0;
}

static int start(struct vb_record *r, int client_fd, const struct vb_grant *grant, struct vb_error *e) {
    struct vb_broker *b = r->broker;
    struct vb_limits limits;

    r->policy = vb_policy_ref(b->policy);
    r->grant = grant;
    r->state = VB_RECORD_STARTING;
    vb_record_number(r, 0);
    int n = vb_uids_take(&b->uids, &r->uid);
    if (n < 0)
        return vb_fail(e, n, "all %u uids for session processes are in use", b->uids.count);
    r->has_uid = true;
    n = first_lease(r, &limits, e);
    if (n != 0)
        return n;
    if (b->iommufd && (r->iommufd = vb_iommu_open(b->options.dev)) < 0)
        return vb_fail(e, r->iommufd, "cannot open %s/iommu", b->options.dev);
    n = vb_record_spawn(r, client_fd, &limits, e);
    if (n == 0)
        vb_fdstore_put(r);
    return n;
}

/* Closed before we came to it: a flood of such connections costs no process. */
static bool hung_up(int fd) {
    struct pollfd p = {.fd = fd};

    return poll(&p, 1, 0) > 0 && p.revents & POLLHUP;
}

void vb_sessions_connect(struct vb_broker *b, int client_fd) {
    const struct vb_grant *grant;
    struct vb_error e = {.code = 0};
    struct vb_record *r;
    VB_PEER struct vb_peer peer = VB_PEER_INIT;

    int n = hung_up(client_fd) ? -ESRCH : vb_peer_read(client_fd, b->options.proc, &peer);
    if (n == -ESRCH) { /* it connected and ended: there is nobody to tell */
        vb_close_client(client_fd);
        return;
    }
    if (n < 0)
        vb_fail(&e, n, "cannot tell who connects");
    if (n == 0)
        n = check_policy(b, &peer, &grant, &e);
    if (n == 0)
        n = check_numbers(b, peer.uid, grant, &e);
    if (n == 0 && !(r = vb_record_new(b)))
        n = vb_fail(&e, -ENOMEM, "cannot start a session");
    if (n != 0) {
        vb_refuse_client(client_fd, &e);
        return;
    }
    r->peer = peer;
    peer = (struct vb_peer)VB_PEER_INIT;
    n = start(r, client_fd, grant, &e);
    if (n == 0) {
        r->client_fd = client_fd; /* until on_status */
        return;
    }
    if (n < 0)
        vb_log_limited(&b->lost, LOG_ERR, "%s", e.text);
    vb_refuse_client(client_fd, &e);
    vb_record_free(r);
}
