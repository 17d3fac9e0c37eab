/* The lease of this session: asks the daemon for more, which reads the client's limits anew, raises our RLIMIT_MEMLOCK, and only
 * then answers; and gives back what is idle, after VB_LEASE_IDLE_MS, or at once when another session of the account needs it.
 * What is given is empty already, and no longer counted on when the message leaves: core/ledger.c decides. */
#include <errno.h>
#include <stdio.h>

#include "proto/clock.h"
#include "session/session.h"

static int ask(struct vb_session *s, uint64_t need, uint64_t wish, uint64_t doubled, struct vb_error *e) {
    struct vb_ledger *l = &s->model->ledger;
    VfioBrokerInternal__LeaseWant want = VFIO_BROKER_INTERNAL__LEASE_WANT__INIT;
    VfioBrokerInternal__Call call = VFIO_BROKER_INTERNAL__CALL__INIT;
    VfioBrokerInternal__Answer *answer;

    want.need = need;
    want.wish = wish;
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

static int want(struct vb_ledger *l, uint64_t need, uint64_t doubled, struct vb_error *e) {
    uint64_t wish;

    return ask(l->arg, need, __builtin_add_overflow(need, VB_LEASE_SLACK, &wish) ? need : wish, doubled, e);
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

/* Little is left of the lease: more is asked for before it is needed, since no daemon may be there then. */
static bool low(const struct vb_session *s, uint64_t *ret_idle) {
    *ret_idle = vb_ledger_idle(&s->model->ledger, 0);
    return *ret_idle < VB_LEASE_SLACK / 2 && s->control.state == VB_LINK_UP && !lies(s) &&
           vb_now_ms() >= s->low_again_ms;
}

static void on_low(evutil_socket_t fd, short what, void *arg) {
    struct vb_session *s = arg;
    struct vb_error e = {.code = 0};
    uint64_t idle;

    (void)fd, (void)what;
    if (!low(s, &idle))
        return;
    s->low_again_ms = vb_now_ms() + VB_LEASE_IDLE_MS; /* an account that has nothing left is not asked at each map */
    ask(s, 0, VB_LEASE_SLACK - idle, s->model->ledger.doubled_granted, &e);
}

void vb_lease_used(struct vb_session *s) {
    uint64_t idle;

    if (s->lease_low && low(s, &idle))
        event_active(s->lease_low, EV_TIMEOUT, 0);
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
    s->model->ledger.doubled_slack = VB_DOUBLED_SLACK;
    s->lease_timer = evtimer_new(s->base, on_idle, s);
    s->lease_low = event_new(s->base, -1, 0, on_low, s);
    return s->lease_timer && s->lease_low ? 0 : -ENOMEM;
}

void vb_lease_stop(struct vb_session *s) {
    if (s->lease_timer)
        event_free(s->lease_timer);
    if (s->lease_low)
        event_free(s->lease_low);
    s->lease_timer = s->lease_low = NULL;
}
