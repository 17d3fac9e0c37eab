/* Pins of all links together: which there are, asking for them (Invalidate), and taking them away at the deadline. */
#include "proto/clock.h"
#include "session/pins.h"

static bool matches(const struct vb_pin_filter *f, const struct vb_pin *p) {
    const struct vb_pin_link *l = p->access;

    if (f->token && l->token != f->token)
        return false;
    for (size_t i = 0; i < f->n; i++)
        if (vb_range_overlaps(f->ranges[i], p->iova))
            return true;
    return f->n == 0;
}

bool vb_pins_exist(const struct vb_pin_filter *f) {
    const struct vb_pin *p;

    TAILQ_FOREACH (p, &f->space->pins, entry)
        if (matches(f, p))
            return true;
    return false;
}

/* One Invalidate for each link, with all its pins that have to go. */
void vb_pins_ask(struct vb_session *s, const struct vb_pin_filter *f) {
    uint32_t ids[VB_PINS_MAX];
    uint64_t deadline = vb_now_ms() + VB_INVALIDATE_MS;
    struct vb_pin_link *l, *next;
    struct vb_pin *p;

    for (l = TAILQ_FIRST(&s->pin_links); l; l = next) {
        VfioBroker__Invalidate ask = VFIO_BROKER__INVALIDATE__INIT;
        VfioBrokerInternal__ToPinner m = VFIO_BROKER_INTERNAL__TO_PINNER__INIT;

        next = TAILQ_NEXT(l, entry);
        TAILQ_FOREACH (p, &f->space->pins, entry)
            if (p->access == l && p->deadline_ms == 0 && matches(f, p)) {
                p->deadline_ms = deadline;
                ids[ask.n_pins++] = p->id;
            }
        if (ask.n_pins == 0)
            continue;
        ask.pins = ids;
        ask.deadline_ms = VB_INVALIDATE_MS;
        m.body_case = VFIO_BROKER_INTERNAL__TO_PINNER__BODY_INVALIDATE;
        m.invalidate = &ask;
        vb_pin_link_send(l, &m, NULL, 0);
    }
}

static uint64_t earlier(uint64_t a, uint64_t b) {
    return a == 0 || b < a ? b : a;
}

static void send_lost(struct vb_pin_link *l, uint32_t *pins, size_t n, const char *reason) {
    VfioBroker__PinsLost lost = VFIO_BROKER__PINS_LOST__INIT;
    VfioBrokerInternal__ToPinner m = VFIO_BROKER_INTERNAL__TO_PINNER__INIT;

    lost.pins = pins;
    lost.n_pins = n;
    lost.reason = (char *)reason;
    m.body_case = VFIO_BROKER_INTERNAL__TO_PINNER__BODY_PINS_LOST;
    m.pins_lost = &lost;
    vb_pin_link_send(l, &m, NULL, 0);
}

/* Pins of one link in a space. */
static void expire(struct vb_session *s, struct vb_pin_link *l, uint64_t now_ms, uint64_t *next) {
    struct vb_pin *p, *after;
    uint32_t ids[VB_PINS_MAX];
    size_t n = 0;

    for (p = TAILQ_FIRST(&l->token->space->pins); p; p = after) {
        after = TAILQ_NEXT(p, entry);
        if (p->access != l || p->deadline_ms == 0)
            continue;
        if (p->deadline_ms > now_ms) {
            *next = earlier(*next, p->deadline_ms);
            continue;
        }
        ids[n++] = p->id;
        vb_model_unpin(s->model, p);
    }
    if (n == 0)
        return;
    vb_session_log(s, "session %u (client pid %u) has not given up %zu pins in %u ms: taken away", l->pinner,
                   l->client_pid, n, VB_INVALIDATE_MS);
    send_lost(l, ids, n, "the owner unmaps, and the pins were not given up in time");
}

static bool has_expired(const struct vb_pin_link *l, uint64_t now_ms) {
    const struct vb_pin *p;

    TAILQ_FOREACH (p, &l->token->space->pins, entry)
        if (p->access == l && p->deadline_ms != 0 && p->deadline_ms <= now_ms)
            return true;
    return false;
}

uint64_t vb_pins_expire(struct vb_session *s, uint64_t now_ms) {
    struct vb_pin_link *l, *after;
    uint64_t next = 0;

    for (l = TAILQ_FIRST(&s->pin_links); l; l = after) {
        after = TAILQ_NEXT(l, entry);
        /* What it has answered in time counts, also if we have not come to read it. */
        if (has_expired(l, now_ms) && !vb_pin_link_drain(l))
            continue;
        expire(s, l, now_ms, &next);
    }
    return next;
}
