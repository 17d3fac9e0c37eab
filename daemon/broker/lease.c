#include "broker/lease.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "broker/payer.h"

static struct vb_record *owner(const struct vb_lease *l) {
    return (struct vb_record *)((char *)l - offsetof(struct vb_record, lease));
}

/* A process that we started to empty what another left has pinned nothing itself: what is booked is not its to give. */
static bool may_give(const struct vb_record *r) {
    return r->lease.account && r->pid != 0 && !r->fresh && r->state != VB_RECORD_LOST;
}

/* ---- limits ---- */

/* Another session of the same process was counted before this one. */
static bool counted(const struct vb_lease *l) {
    const struct vb_record *r = owner(l), *o;
    const struct vb_lease *i;

    LIST_FOREACH (i, &l->account->leases, entry) {
        if (i == l)
            return false;
        o = owner(i);
        if (o->peer.pid == r->peer.pid && o->peer.start == r->peer.start)
            return true;
    }
    return false;
}

static uint64_t locked_by_clients(const struct vb_account *a, const char *proc) {
    struct vb_proc_status status;
    const struct vb_lease *l;
    uint64_t sum = 0;

    LIST_FOREACH (l, &a->leases, entry) {
        const struct vb_peer *p = &owner(l)->peer;

        if (counted(l) || p->pidfd < 0 || vb_proc_status(proc, p->pid, &status) < 0 || !vb_pidfd_alive(p->pidfd))
            continue;
        if (__builtin_add_overflow(sum, status.locked, &sum))
            sum = UINT64_MAX;
    }
    return sum;
}

/* Without what clients have locked themselves. */
static int read_limits_alone(const struct vb_record *r, struct vb_limits *ret) {
    return vb_limits_read(r->broker->options.proc, &r->peer, r->grant ? r->grant->memory_max : 0, ret);
}

static uint64_t own_mlock(const struct vb_record *r) {
    return r->grant && !r->grant->own_mlock ? 0 : locked_by_clients(r->lease.account, r->broker->options.proc);
}

static int read_limits(const struct vb_record *r, struct vb_limits *ret) {
    int n = read_limits_alone(r, ret);

    if (n == 0)
        ret->own = own_mlock(r);
    return n;
}

static int limits(struct vb_lease *l, struct vb_limits *ret, struct vb_error *e) {
    struct vb_record *r = owner(l);
    int n = read_limits(r, ret);

    if (n == -ESRCH)
        return vb_refuse(e, VB_DENIED, "client pid %d is gone: it gets no lease", (int)r->peer.pid);
    return n < 0 ? vb_fail(e, n, "cannot read the limits of pid %d", (int)r->peer.pid) : 0;
}

/* ---- RLIMIT_MEMLOCK ---- */

/* The kernel enforces the ledger a second time. Soft and hard, so that the session cannot raise it. */
static int set_memlock(struct vb_lease *l, uint64_t bytes, uint64_t *ret_locked, struct vb_error *e) {
    const struct rlimit rl = {bytes, bytes};
    struct vb_record *r = owner(l);
    struct vb_proc_status status = {.locked = 0};

    if (!vb_backend_pins(r->broker)) /* nothing is pinned, and raising needs privilege */
        return 0;
    if (r->pid == 0 || !vb_pidfd_alive(r->pidfd)) /* else the pid may be another's */
        return vb_fail(e, -ESRCH, "session %u has no process", r->id);
    if (prlimit(r->pid, RLIMIT_MEMLOCK, &rl, NULL) < 0)
        return vb_fail(e, -errno, "cannot set the memory limit of session %u", r->id);
    if (!ret_locked)
        return 0;
    int n = vb_proc_status(r->broker->options.proc, r->pid, &status);
    if (n < 0)
        return vb_fail(e, n, "cannot read what session %u has locked", r->id);
    *ret_locked = status.locked;
    return 0;
}

/* ---- the wire ---- */

static void reclaim(struct vb_lease *l) {
    VfioBrokerInternal__ToSession m = VFIO_BROKER_INTERNAL__TO_SESSION__INIT;
    VfioBrokerInternal__LeaseReclaim body = VFIO_BROKER_INTERNAL__LEASE_RECLAIM__INIT;
    struct vb_record *r = owner(l);

    if (!may_give(r))
        return;
    m.body_case = VFIO_BROKER_INTERNAL__TO_SESSION__BODY_LEASE_RECLAIM;
    m.lease_reclaim = &body;
    if (vb_link_send(&r->link, &m, NULL, 0) == -EAGAIN)
        vb_record_kill(r, "it does not read what it is asked");
    /* Anything else: it is gone, and on_link_lost follows. */
}

static void answer(struct vb_lease *l, uint64_t serial, uint64_t granted, const struct vb_limits *limits,
                   const struct vb_error *e) {
    VfioBrokerInternal__Answer a = VFIO_BROKER_INTERNAL__ANSWER__INIT;
    VfioBrokerInternal__LeaseGrant grant = VFIO_BROKER_INTERNAL__LEASE_GRANT__INIT;

    if (e) {
        vb_answer_error(owner(l), serial, e);
        return;
    }
    grant.granted = granted;
    grant.limit = limits->limit;
    grant.limit_whose = (char *)limits->whose;
    a.serial = serial;
    a.body_case = VFIO_BROKER_INTERNAL__ANSWER__BODY_LEASE;
    a.lease = &grant;
    vb_answer(owner(l), &a, NULL, 0);
}

/* ---- time ---- */

static void on_timeout(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    vb_account_timeout(arg);
}

static void arm(struct vb_account *a, unsigned ms) {
    const struct timeval t = {ms / 1000, (suseconds_t)(ms % 1000) * 1000};

    if (ms == 0) {
        event_free(a->timer);
        a->timer = NULL;
        return;
    }
    if (!a->timer) {
        const struct vb_lease *any = LIST_FIRST(&a->leases);

        a->timer = evtimer_new(owner(any)->broker->base, on_timeout, a);
    }
    /* Without memory for a timer, the answers, or the ends, of the others decide. */
    if (a->timer)
        evtimer_add(a->timer, &t);
}

const struct vb_account_ops vb_lease_ops = {
    .limits = limits, .set_memlock = set_memlock, .reclaim = reclaim, .answer = answer, .arm = arm};

/* ---- sessions ---- */

static struct vb_account *account_of(struct vb_record *r, struct vb_error *e) {
    struct vb_broker *b = r->broker;
    struct vb_account_key key;

    int n = vb_payer_find(b->options.proc, &r->peer, r->grant, &key);
    if (n == -ESRCH) {
        vb_refuse(e, VB_DENIED, "client pid %d is gone: it gets no lease", (int)r->peer.pid);
        return NULL;
    }
    if (n < 0) {
        vb_fail(e, n, "cannot tell who pays for pid %d", (int)r->peer.pid);
        return NULL;
    }
    if (r->grant && key.kind != r->grant->account)
        vb_log_limited(
            &b->refused, LOG_NOTICE,
            "pid %d (%s) is in no unit of systemd: it pays for itself, though policy says that its unit does",
            (int)r->peer.pid, r->peer.comm);
    struct vb_account *a = vb_account_get(&b->accounts, &key);
    if (!a)
        vb_fail(e, -ENOMEM, "account of pid %d", (int)r->peer.pid);
    return a;
}

int vb_lease_first(struct vb_record *r, struct vb_limits *ret, struct vb_error *e) {
    struct vb_account *a = account_of(r, e);

    if (!a)
        return e->code;
    int n = vb_account_join(a, &r->lease, VB_LEASE_SLACK, ret, e);
    vb_account_put(a);
    return n;
}

/* What the session may be given of what it says to have, and what it has locked. */
static int check_told(struct vb_record *r, uint64_t *bytes, uint64_t doubled, uint64_t *ret_locked,
                      struct vb_error *e) {
    struct vb_proc_status status;
    uint64_t memlock;

    if (*bytes > VB_POLICY_MEMORY_MAX)
        *bytes = VB_POLICY_MEMORY_MAX;
    *ret_locked = 0;
    if (!vb_backend_pins(r->broker))
        return 0;
    int n = vb_proc_memlock(r->broker->options.proc, r->pid, &memlock);
    if (n == 0) {
        *bytes = vb_lease_within(memlock, *bytes, doubled);
        n = set_memlock(&r->lease, vb_lease_memlock(*bytes, doubled), NULL, e);
        if (n < 0)
            return n;
        n = vb_proc_status(r->broker->options.proc, r->pid, &status);
    }
    if (n < 0)
        return vb_fail(e, n, "cannot read the limits of pid %d", (int)r->pid);
    *ret_locked = status.locked < VB_POLICY_MEMORY_MAX ? status.locked : VB_POLICY_MEMORY_MAX;
    return 0;
}

int vb_lease_adopt(struct vb_record *r, uint64_t bytes, uint64_t doubled, struct vb_error *e) {
    uint64_t locked;

    int n = check_told(r, &bytes, doubled, &locked, e);
    if (n != 0)
        return n;
    struct vb_account *a = account_of(r, e);
    if (!a)
        return e->code;
    vb_account_adopt(a, &r->lease, bytes, doubled, locked);
    vb_account_put(a);
    return 0;
}

void vb_call_lease(struct vb_record *r, const VfioBrokerInternal__Call *call) {
    const VfioBrokerInternal__LeaseWant *w = call->lease;
    struct vb_error e = {.code = 0};
    const struct vb_lease *l;
    unsigned n = 0;

    if (!r->lease.account) {
        vb_refuse(&e, VB_DENIED, "session %u has no client any more: it gets no lease", r->id);
        vb_answer_error(r, call->serial, &e);
        return;
    }
    LIST_FOREACH (l, &r->lease.account->leases, entry) {
        n++;
    }
    vb_link_charge(&r->link, n / 16); /* a file of /proc for each client process: 20 us */
    vb_account_want(&r->lease, call->serial, w->need, w->wish, w->doubled);
}

void vb_lease_given(struct vb_record *r, const VfioBrokerInternal__LeaseGive *m) {
    if (may_give(r) && vb_account_give(&r->lease, m->bytes, m->doubled, m->asked) != 0)
        vb_record_kill(r, "it gives back lease that it has not");
}

/* ---- view ---- */

static void say_state(const struct vb_account *a, struct vb_account_view *v) {
    const uint64_t own = v->limits.own;
    const struct vb_lease *l;

    v->state[0] = 0;
    if (v->limits.whose[0] == 0)
        snprintf(v->state, sizeof v->state, "its clients have ended, and their memory is being taken away");
    else if (v->over)
        snprintf(
            v->state, sizeof v->state,
            "%s leased%s%s%s pass the limit of %s (%s) by %s: nothing more is granted until the limit is raised, or "
            "something is unmapped%s",
            VB_SIZE(v->leased), own ? " and " : "", own ? VB_SIZE(own) : "",
            own ? " locked by its clients themselves" : "", VB_SIZE(v->limits.limit), v->limits.whose, VB_SIZE(v->over),
            own ? " or unlocked" : "");
    LIST_FOREACH (l, &a->leases, entry) {
        if (v->state[0] == 0 && l->booked > l->bytes)
            snprintf(v->state, sizeof v->state,
                     "session %u has locked more than its lease: %s of %s are kept for it until it ends", owner(l)->id,
                     VB_SIZE(l->booked), VB_SIZE(l->bytes));
    }
}

void vb_account_look(const struct vb_account *a, const struct vb_lease *looker, struct vb_account_view *ret) {
    struct vb_account_view v = {.leased = a->leased};
    const struct vb_lease *l, *least = NULL;
    struct vb_limits one;
    uint64_t used;

    LIST_FOREACH (l, &a->leases, entry) {
        if (l == looker && LIST_NEXT(LIST_FIRST(&a->leases), entry))
            continue;
        if (read_limits_alone(owner(l), &one) == 0 && (!least || one.limit < v.limits.limit)) {
            v.limits = one;
            least = l;
        }
    }
    v.limits.own = least ? own_mlock(owner(least)) : 0;
    if (__builtin_add_overflow(v.leased, v.limits.own, &used))
        used = UINT64_MAX;
    if (least && used > v.limits.limit)
        v.over = used - v.limits.limit;
    say_state(a, &v);
    *ret = v;
}
