/* Sessions of an earlier daemon come back at session.sock and show what they have.
 *
 * Nothing that the session says of itself is believed where the kernel can say it: its uid and pid are its socket's, its
 * client is that of the client's socket that it shows (accepted at our own path), its lease is no more than its
 * RLIMIT_MEMLOCK, its context is an iommufd, its groups and containers are such. Devices are booked when they exist and nobody else has them. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "broker/closer.h"
#include "broker/lease.h"
#include "broker/payer.h"
#include "broker/record.h"
#include "host/iommu.h"
#include "host/vfio.h"
#include "proto/cleanup.h"

#define KNOCKING_MAX 1024u
#define GROUPS_MAX   (3 * VB_DEVICES_MAX) /* of one session: claimed and held devices */

/* ---- a connection ---- */

static bool may_knock(struct vb_broker *b, const struct vb_peer *peer) {
    struct vb_record *r;
    unsigned knocking = 0;

    if (b->uids.count > 0 ? !vb_uids_in_range(&b->uids, peer->uid) : peer->uid != getuid())
        return false;
    LIST_FOREACH (r, &b->records, entry) {
        if (r->pid == peer->pid)
            return false; /* one connection for each, and those that we have need none */
        knocking += r->state == VB_RECORD_KNOCKING;
    }
    return knocking < KNOCKING_MAX;
}

static void on_patience(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    vb_record_free(arg);
}

void vb_sessions_knock(struct vb_broker *b, int fd) {
    VB_PEER struct vb_peer peer = VB_PEER_INIT;
    int n = vb_peer_read(fd, b->options.proc, &peer);
    bool may = n == 0 && may_knock(b, &peer);

    if (n == 0 && !may)
        vb_log_limited(&b->refused, LOG_NOTICE, "uid %u (pid %d %s) has no business at %s", peer.uid, (int)peer.pid,
                       peer.comm, b->sessions.path);
    struct vb_record *r = may ? vb_record_new(b) : NULL;
    if (!r) {
        vb_close_client(fd);
        return;
    }
    r->pid = peer.pid;
    r->uid = peer.uid;
    r->started = vb_proc_started(peer.start);
    r->pidfd = vb_steal_fd(&peer.pidfd);
    if (vb_record_link(r, fd) < 0 || vb_record_watch(r) < 0) {
        vb_record_free(r);
        return;
    }
    r->link.takes_fds = true;
    vb_record_timer(r, VB_CALL_MS, on_patience);
}

/* ---- what it shows ---- */

/* The socket of its client: was it accepted by us, and whose is it? */
static int check_client(struct vb_record *r, int fd, struct vb_error *e) {
    struct sockaddr_un a = {.sun_family = AF_UNSPEC};
    socklen_t size = sizeof a;
    int type = 0;
    socklen_t type_size = sizeof type;

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_size) < 0 || type != SOCK_SEQPACKET ||
        getsockname(fd, (struct sockaddr *)&a, &size) < 0 || a.sun_family != AF_UNIX || size >= sizeof a ||
        (((char *)&a)[size] = 0, strcmp(a.sun_path, r->broker->clients.path) != 0))
        return vb_refuse(e, VB_DENIED, "this is not a client's socket of %s", r->broker->clients.path);
    int n = vb_peer_read(fd, r->broker->options.proc, &r->peer);
    if (n == -ESRCH)
        return vb_refuse(e, VB_UNAVAILABLE, "the client has ended");
    return n < 0 ? vb_fail(e, n, "cannot tell who the client is") : 0;
}

/* It has no account, so it must have nothing pinned, and can pin nothing any more. */
static int check_pays_nothing(struct vb_record *r, struct vb_error *e) {
    static const struct rlimit none = {0, 0};
    struct vb_proc_status status;

    if (!vb_backend_pins(r->broker))
        return 0;
    if (prlimit(r->pid, RLIMIT_MEMLOCK, &none, NULL) < 0)
        return vb_fail(e, -errno, "cannot set the memory limit of pid %d", (int)r->pid);
    int n = vb_proc_status(r->broker->options.proc, r->pid, &status);
    if (n < 0)
        return vb_fail(e, n, "cannot read the limits of pid %d", (int)r->pid);
    return status.locked ? vb_refuse(e, VB_DENIED, "it says that it only holds devices, but has %s pinned",
                                     VB_SIZE(status.locked))
                         : 0;
}

static int adopt_account(struct vb_record *r, const VfioBrokerInternal__Adopt *told, struct vb_error *e) {
    struct vb_broker *b = r->broker;

    r->policy = vb_policy_ref(b->policy);
    r->grant = vb_policy_find(b->policy, r->peer.uid, r->peer.gid, r->peer.groups, r->peer.n_groups);
    if (!r->grant)
        vb_log(LOG_WARNING, "policy grants nothing to uid %u any more: session %u keeps what it has and gets no more",
               r->peer.uid, r->id);
    return vb_lease_adopt(r, told->lease, told->doubled, e);
}

/* What limited it before may have gone with the last daemon: cgroup.h. That it has none is no reason to end a session. */
static void adopt_cgroup(struct vb_record *r) {
    static const struct vb_grant automatic = {.id = 0};
    struct vb_broker *b = r->broker;
    const struct vb_grant *grant = r->grant ? r->grant : &automatic;
    struct vb_limits limits = {.limit = 0};
    struct vb_error e = {.code = 0};

    /* What it may take for tables was said at its start. If the client's limit is lower by now, what is leased counts. */
    if (!r->grant || vb_limits_read(b->options.proc, &r->peer, grant->memory_max, &limits) < 0 ||
        limits.limit < r->lease.bytes)
        limits.limit = r->lease.bytes;
    if (!vb_pidfd_alive(r->pidfd)) /* else the pid may be another's */
        return;
    if (vb_cgroup_adopt(&b->cgroups, r->pid, r->id, vb_grant_session_memory(grant, limits.limit), &r->cgroup, &e) < 0)
        vb_log(LOG_WARNING, "session %u has no memory cgroup of its own: %s", r->id, e.text);
}

/* ---- its groups ---- */

static int check_group(struct vb_record *r, uint32_t number, const int fds[2], struct vb_error *e) {
    struct vb_broker *b = r->broker;

    if (!vb_backend_type1(b))
        return vb_refuse(e, VB_PROTOCOL, "it is a session of backend type1, and the daemon runs with %s now",
                         vb_backend_text(b));
    if (r->n_shown >= GROUPS_MAX)
        return vb_refuse(e, VB_DENIED, "it shows more than %u groups", GROUPS_MAX);
    if (!vb_fd_is_rdev(fds[0], vb_group_rdev(b->options.sys, (int)number)))
        return vb_refuse(e, VB_DENIED, "this is not VFIO group %u", number);
    if (!vb_vfio_container_is(b->options.dev, b->devices.iommufd_containers, fds[1]))
        return vb_refuse(e, VB_UNSUPPORTED, "the container of group %u is of another kind than those of backend %s",
                         number, vb_backend_text(b));
    return 0;
}

/* They become the register's. Whoever has opened a group is the only one: host/vfio.h. */
static int adopt_groups(struct vb_record *r, struct vb_error *e) {
    struct vb_register *reg = &r->broker->devices;
    struct vb_group *g, *other;

    while ((g = LIST_FIRST(&r->shown))) {
        LIST_FOREACH (other, &reg->groups, entry) {
            if (other->number == g->number)
                return vb_refuse(e, VB_BUSY, "group %d is with session %u", g->number, other->session);
        }
        LIST_REMOVE(g, entry);
        g->session = r->id;
        LIST_INSERT_HEAD(&reg->groups, g, entry);
        r->opened = true;
    }
    return 0;
}

static int adopt_devices(struct vb_record *r, char *const *list, size_t n_list, bool held, struct vb_error *e) {
    for (size_t i = 0; i < n_list; i++) {
        int n = vb_register_adopt(&r->broker->devices, r->id, r->peer.pid, list[i], held, e);

        if (n < 0)
            return n;
        if (n != 0) /* it left the host while no daemon ran, or another session says the same of it */
            vb_log(LOG_WARNING, "session %u is not given what it says it has: %s", r->id, e->text);
    }
    return 0;
}

static int adopt(struct vb_record *r, const VfioBrokerInternal__Adopt *a, struct vb_packet *p, struct vb_error *e) {
    struct vb_broker *b = r->broker;
    unsigned i = 0;
    bool iommufd = b->backend == VB_BACKEND_IOMMUFD;
    char clean[32];
    int n;

    if ((a->backend[0] && strcmp(a->backend, vb_backend_name(b)) != 0) ||
        p->n_fds != (a->holding ? 0u : 1u) + (iommufd ? 1u : 0u))
        return vb_refuse(e, VB_PROTOCOL, "it is a session of backend %s with %u fds, and the daemon runs with %s now",
                         vb_log_clean(a->backend, clean, sizeof clean), p->n_fds, vb_backend_text(b));
    if (b->n_sessions >= VB_SESSIONS_MAX)
        return vb_refuse(e, VB_LIMIT, "there are %u sessions already", b->n_sessions);
    if (a->holding) {
        r->peer.pid = (pid_t)(a->client_pid <= INT32_MAX ? a->client_pid : 0);
        r->peer.uid = a->client_uid;
        if ((n = check_pays_nothing(r, e)) != 0)
            return n;
    } else {
        if ((n = check_client(r, p->fds[i], e)) != 0)
            return n;
        r->client_fd = vb_packet_steal_fd(p, i++);
    }
    if (iommufd) {
        if (!vb_iommu_is(b->options.dev, p->fds[i]))
            return vb_refuse(e, VB_DENIED, "this is not an iommufd");
        r->iommufd = vb_packet_steal_fd(p, i);
        r->opened = true; /* by the daemon before us, perhaps */
    }
    vb_record_number(r, a->session);
    r->state = a->holding ? VB_RECORD_HOLDING : VB_RECORD_SERVING;
    if (!a->holding && (n = adopt_account(r, a, e)) != 0)
        return n;
    if ((n = adopt_groups(r, e)) != 0)
        return n;
    n = adopt_devices(r, a->devices, a->n_devices, a->holding, e);
    return n != 0 ? n : adopt_devices(r, a->held, a->n_held, true, e);
}

static void refuse(struct vb_record *r, uint64_t serial, struct vb_packet *p, const struct vb_error *e) {
    vb_log_limited(&r->broker->refused, LOG_WARNING, "pid %d (uid %u) is not adopted: %s", (int)r->pid, r->uid,
                   e->text);
    vb_answer_error(r, serial, e);
    vb_packet_abandon(p);
    if (r->client_fd >= 0)
        vb_close_elsewhere(r->client_fd);
    r->client_fd = -1;
    if (e->code == VB_DENIED) /* it lies: once is enough */
        vb_record_signal(r, SIGKILL);
    vb_record_free(r);
}

void vb_call_adopt_group(struct vb_record *r, const VfioBrokerInternal__Call *call, struct vb_packet *p) {
    struct vb_error e = {.code = 0};
    uint32_t number = call->adopt_group->group;

    int n = check_group(r, number, p->fds, &e);
    if (n == 0 && !vb_group_new(&r->shown, 0, (int)number, vb_packet_steal_fd(p, 0), vb_packet_steal_fd(p, 1)))
        n = vb_fail(&e, -ENOMEM, "group %u", number);
    if (n != 0) {
        refuse(r, call->serial, p, &e);
        return;
    }
    r->n_shown++;
    vb_answer_ok(r, call->serial);
}

void vb_call_adopt(struct vb_record *r, const VfioBrokerInternal__Call *call, struct vb_packet *p) {
    struct vb_error e = {.code = 0};

    if (adopt(r, call->adopt, p, &e) != 0) {
        refuse(r, call->serial, p, &e);
        return;
    }
    if (r->timer)
        event_free(r->timer);
    r->timer = NULL;
    r->link.takes_fds = false;
    if (r->state == VB_RECORD_SERVING)
        vb_record_watch_client(r);
    /* From here on its uid is this record's to give back. */
    vb_strays_came(r->broker, r->pid);
    vb_uids_note(&r->broker->uids, r->uid);
    r->has_uid = true;
    r->stored = false;
    vb_fdstore_put(r);
    adopt_cgroup(r);
    vb_log(LOG_INFO, "session %u (pid %d, client pid %d %s, uid %u) is back", r->id, (int)r->pid, (int)r->peer.pid,
           r->peer.comm, r->peer.uid);
    vb_answer_ok(r, call->serial);
}
