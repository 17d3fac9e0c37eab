/* The lease of this session: asks the daemon for more, which reads the client's limits anew, raises our RLIMIT_MEMLOCK, and only
 * then answers; and gives back what is idle, after VB_LEASE_IDLE_MS, or at once when another session of the account needs it.
 * What is given is empty already, and no longer counted on when the message leaves: core/ledger.c decides. */
#include <errno.h>
#include <stdio.h>

#include "session/session.h"

static int want(struct vb_ledger *l, uint64_t need, uint64_t doubled, struct vb_error *e) {
    struct vb_session *s = l->arg;
    VfioBrokerInternal__LeaseWant want = VFIO_BROKER_INTERNAL__LEASE_WANT__INIT;
    VfioBrokerInternal__Call call = VFIO_BROKER_INTERNAL__CALL__INIT;
    VfioBrokerInternal__Answer *answer;

    want.need = need;
    if (__builtin_add_overflow(need, VB_LEASE_SLACK, &want.wish))
        want.wish = need;
    want.doubled = doubled;
    call.body_case = VFIO_BROKER_INTERNAL__CALL__BODY_LEASE;
    call.lease = &want;
    int r = vb_control_call(s, &call, &answer, NULL, e);
    if (r != 0)
        return r;
    if (answer->body_case != VFIO_BROKER_INTERNAL__ANSWER__BODY_LEASE)
        return vb_fail(e, -EPROTO, "vfio-brokerd answered something else than a lease");
    vb_ledger_granted(l, answer->lease->granted, doubled);
    l->limit = answer->lease->limit;
    snprintf(l->whose, sizeof l->whose, "%s", answer->lease->limit_whose);
    return 0;
}

/* A session that lies to itself (--test-lie) has less than it believes, and keeps all. */
static bool lies(const struct vb_session *s) {
    return s->lies;
}

/* Looks again in a while, if there is something to look at then. */
static void watch(struct vb_session *s) {
    static const struct timeval t = {VB_LEASE_IDLE_MS / 1000, VB_LEASE_IDLE_MS % 1000 * 1000};

    if (!lies(s) && vb_ledger_watch(&s->model->ledger, VB_LEASE_SLACK))
        evtimer_add(s->lease_timer, &t);
}

static void released(struct vb_ledger *l) {
    vb_lease_idle(l->arg);
}

static void on_idle(evutil_socket_t fd, short what, void *arg) {
    struct vb_session *s = arg;
    struct vb_give g;

    (void)fd, (void)what;
    if (s->control.state != VB_LINK_UP) /* what is leased serves us while no daemon is there: see adopted() */
        return;
    if (vb_ledger_give_watched(&s->model->ledger, VB_LEASE_SLACK, &g))
        vb_control_give(s, &g, false);
    watch(s);
}

void vb_lease_idle(struct vb_session *s) {
    if (s->lease_timer && !evtimer_pending(s->lease_timer, NULL))
        watch(s);
}

void vb_lease_reclaimed(struct vb_session *s) {
    struct vb_give g = {.doubled = s->model->ledger.doubled_granted};

    if (!lies(s))
        g = vb_ledger_give(&s->model->ledger);
    vb_control_give(s, &g, true);
}

void vb_lease_came_late(struct vb_session *s, uint64_t granted) {
    struct vb_ledger *l = &s->model->ledger;

    vb_ledger_granted(l, granted, l->doubled_granted);
    vb_lease_idle(s);
}

int vb_lease_start(struct vb_session *s) {
    s->model->ledger.arg = s;
    s->model->ledger.want = want;
    s->model->ledger.released = released;
    s->lease_timer = evtimer_new(s->base, on_idle, s);
    return s->lease_timer ? 0 : -ENOMEM;
}

void vb_lease_stop(struct vb_session *s) {
    if (s->lease_timer)
        event_free(s->lease_timer);
    s->lease_timer = NULL;
}
