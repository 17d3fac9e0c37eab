/* Sessions from the client's connection to their process: policy, limits, uid, spawn. */
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
#include "broker/lease.h"
#include "broker/record.h"
#include "broker/spawn.h"
#include "host/iommu.h"
#include "proto/cleanup.h"

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
}

/* With Start, to hold: the groups of the one before. */
static int send_groups(struct vb_record *r) {
    VfioBrokerInternal__ToSession m = VFIO_BROKER_INTERNAL__TO_SESSION__INIT;
    VfioBrokerInternal__HoldGroup body = VFIO_BROKER_INTERNAL__HOLD_GROUP__INIT;
    const struct vb_group *g;
    int n = 0;

    m.body_case = VFIO_BROKER_INTERNAL__TO_SESSION__BODY_HOLD_GROUP;
    m.hold_group = &body;
    LIST_FOREACH (g, &r->broker->devices.groups, entry) {
        const int fds[] = {g->fd, g->container};

        if (g->session != r->id || n != 0)
            continue;
        body.group = (uint32_t)g->number;
        n = vb_link_send(&r->link, &m, fds, 2);
    }
    return n;
}

static int send_start(struct vb_record *r, const struct vb_limits *limits, bool hold) {
    VfioBrokerInternal__Start start = VFIO_BROKER_INTERNAL__START__INIT;
    VfioBrokerInternal__ToSession m = VFIO_BROKER_INTERNAL__TO_SESSION__INIT;
    struct vb_broker *b = r->broker;
    const char *held[3 * VB_DEVICES_MAX];
    int fds[2];
    unsigned n_fds = 0;

    start.session = r->id;
    start.backend = (char *)vb_backend_name(b);
    start.client_pid = (uint32_t)r->peer.pid;
    start.client_uid = r->peer.uid;
    start.session_socket = b->sessions.path;
    start.lease = hold ? 0 : r->lease.bytes;
    start.no_map_file = b->options.test_no_map_file;
    start.lie = b->options.test_lie;
    if (hold) {
        start.hold = true;
        start.n_held_devices = vb_register_of(&b->devices, r->id, held, sizeof held / sizeof held[0]);
        start.held_devices = (char **)held;
        start.n_groups = vb_register_groups(&b->devices, r->id);
    } else {
        start.admin = r->grant->admin;
        start.mappings_max = r->grant->mappings;
        start.tables_max = vb_grant_tables_max(r->grant, limits->limit);
        start.limit = limits->limit;
        start.limit_whose = (char *)limits->whose;
        fds[n_fds++] = r->peer.pidfd;
    }
    if (r->iommufd >= 0)
        fds[n_fds++] = r->iommufd;
    m.body_case = VFIO_BROKER_INTERNAL__TO_SESSION__BODY_START;
    m.start = &start;
    int n = vb_link_send(&r->link, &m, fds, n_fds);
    return n == 0 && hold ? send_groups(r) : n;
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
    VB_FD int join = -1;
    /* One that holds makes nothing: it has what a process needs. */
    n = vb_cgroup_new(&b->cgroups, r->id,
                      client_fd < 0 ? vb_grant_session_memory(NULL, 0)
                                    : vb_grant_session_memory(r->grant, limits->limit),
                      &r->cgroup, &join, e);
    if (n != 0)
        return n;
    const struct vb_spawn s = {.client_fd = client_fd,
                               .control_fd = theirs,
                               .cgroup_fd = join,
                               .change_uid = b->uids.count > 0,
                               .uid = r->uid,
                               .lease = client_fd < 0 ? 0 : r->lease.bytes,
                               .pins = vb_backend_pins(b)};
    n = vb_spawn(&s, &spawned, e);
    if (n != 0) {
        r->cgroup = vb_cgroup_end(&b->cgroups, r->cgroup);
        return n;
    }
    r->pid = spawned.pid;
    r->pidfd = spawned.pidfd;
    r->status_fd = spawned.status;
    r->ours = true;
    r->fresh = client_fd < 0;
    /* As the next daemon will read it, so that a session keeps its start across restarts. */
    if (vb_proc_start_time(b->options.proc, r->pid, &started) == 0)
        r->started = vb_proc_started(started);
    r->status = event_new(b->base, r->status_fd, EV_READ | EV_PERSIST, on_status, r);
    n = r->status && event_add(r->status, NULL) == 0 ? vb_record_watch(r) : -ENOMEM;
    if (n == 0 && client_fd >= 0)
        n = vb_record_watch_client(r);
    if (n == 0)
        n = send_start(r, limits, client_fd < 0);
    if (n == 0)
        return 0;
    kill(r->pid, SIGKILL);
    waitpid(r->pid, NULL, 0); /* it has begun nothing yet that could hold it up */
    vb_record_forget_process(r);
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
        vb_refuse(e, VB_LIMIT, "uid %u has %u of %u sessions (policy: sessions); end one, or have policy grant more",
                  uid, n, grant->sessions);
        vb_error_limit(e, 1, n, grant->sessions, whose);
        return VB_LIMIT;
    }
    if (b->n_sessions >= VB_SESSIONS_MAX) {
        vb_refuse(e, VB_LIMIT,
                  "the broker has %u sessions of all users, and serves no more: try again when one has ended",
                  b->n_sessions);
        vb_error_limit(e, 1, b->n_sessions, VB_SESSIONS_MAX, "the broker");
        return VB_LIMIT;
    }
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
    n = vb_lease_first(r, &limits, e);
    if (n != 0)
        return n;
    if (b->backend == VB_BACKEND_IOMMUFD && (r->iommufd = vb_iommu_open(b->options.dev)) < 0)
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
        vb_log_limited(&b->lost, n == -ESRCH ? LOG_NOTICE : LOG_ERR, "%s", e.text);
    vb_refuse_client(client_fd, &e);
    vb_record_free(r);
}
