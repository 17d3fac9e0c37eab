/* Parked requests: an Unmap of pinned memory, and whatever follows on the same range, waits until the pinners have answered
 * Invalidate or their deadline has come. The session serves everything else meanwhile. A parked request is kept as the
 * packet it was, and simply carried out again; order among requests on one range stays as asked. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proto/clock.h"
#include "session/pins.h"

struct vb_parked {
    STAILQ_ENTRY(vb_parked) link;
    uint32_t space;
    bool by_token; /* waits for the pins of one token; claims no range */
    struct vb_packet packet;
    size_t n; /* 0: the whole space */
    struct vb_range *ranges;
    uint8_t data[];
};

static bool overlap(const struct vb_parked *p, const struct vb_range *ranges, size_t n) {
    if (p->n == 0 || n == 0)
        return true;
    for (size_t i = 0; i < p->n; i++)
        for (size_t k = 0; k < n; k++)
            if (vb_range_overlaps(p->ranges[i], ranges[k]))
                return true;
    return false;
}

/* By one that came earlier than `self` (NULL: than a new request). */
static bool claimed(struct vb_session *s, const struct vb_parked *self, uint32_t space, const struct vb_range *ranges,
                    size_t n) {
    struct vb_parked *p;

    STAILQ_FOREACH (p, &s->park.list, link) {
        if (p == self)
            break;
        if (p->space == space && !p->by_token && overlap(p, ranges, n))
            return true;
    }
    return false;
}

bool vb_park_covers(struct vb_session *s, const struct vb_space *space, struct vb_range r) {
    return claimed(s, NULL, space->id, &r, 1);
}

static void arm(struct vb_session *s, uint64_t ms) {
    const struct timeval t = {(time_t)(ms / 1000), (suseconds_t)(ms % 1000 * 1000)};

    evtimer_add(s->park.deadline, &t);
}

static int keep(struct vb_session *s, struct vb_request *rq, const struct vb_pin_filter *f, struct vb_error *e) {
    if (s->park.n == VB_PARKED_MAX)
        return vb_refuse(e, VB_BUSY, "%u requests wait for pins to end already; wait for their answers", s->park.n);
    if (!s->base) /* tests and fuzzers without a loop */
        return vb_refuse(e, VB_BUSY, "the range is pinned");
    size_t ranges = f->token ? 0 : f->n * sizeof f->ranges[0];
    struct vb_parked *p = malloc(sizeof *p + rq->packet->size);
    struct vb_range *copy = malloc(ranges + 1);
    if (!p || !copy) {
        free(p);
        free(copy);
        return vb_fail(e, -ENOMEM, "a request that has to wait");
    }
    *p = (struct vb_parked){
        .space = f->space->id, .by_token = f->token != NULL, .n = f->token ? 0 : f->n, .ranges = copy};
    memcpy(p->data, rq->packet->data, rq->packet->size);
    p->packet = (struct vb_packet){.data = p->data, .size = rq->packet->size};
    if (ranges)
        memcpy(copy, f->ranges, ranges);
    STAILQ_INSERT_TAIL(&s->park.list, p, link);
    s->park.n++;
    return 0;
}

int vb_park(struct vb_session *s, struct vb_request *rq, const struct vb_pin_filter *f, bool pins_matter,
            struct vb_error *e) {
    bool pins = pins_matter && vb_pins_exist(f);
    int r;

    if (!pins && (f->token || !claimed(s, s->park.current, f->space->id, f->ranges, f->n)))
        return 0;
    r = s->park.current ? 0 : keep(s, rq, f, e);
    if (r != 0)
        return r;
    rq->deferred = true;
    if (!pins)
        return 0;
    vb_pins_ask(s, f);
    /* Pins that were asked earlier have armed it. Nothing expires here, since that reads links into the arena, where this request
     * lives. */
    if (!evtimer_pending(s->park.deadline, NULL))
        arm(s, VB_INVALIDATE_MS);
    return 0;
}

static void drop(struct vb_session *s, struct vb_parked *p) {
    STAILQ_REMOVE(&s->park.list, p, vb_parked, link);
    s->park.n--;
    free(p->ranges);
    free(p);
}

static void on_retry(evutil_socket_t fd, short what, void *arg) {
    struct vb_session *s = arg;
    struct vb_parked *p, *next;

    (void)fd, (void)what;
    for (p = STAILQ_FIRST(&s->park.list); p; p = next) {
        next = STAILQ_NEXT(p, link);
        s->park.current = p;
        if (vb_client_again(s, &p->packet))
            drop(s, p);
        s->park.current = NULL;
    }
}

static void on_deadline(evutil_socket_t fd, short what, void *arg) {
    uint64_t now = vb_now_ms(), next = vb_pins_expire(arg, now);

    (void)fd, (void)what;
    if (next != 0)
        arm(arg, next > now ? next - now : 1);
    vb_park_poke(arg);
}

int vb_pins_start(struct vb_session *s) {
    vb_table_init(&s->tokens, VB_TOKENS_MAX);
    vb_table_init(&s->accesses, VB_ACCESSES_MAX);
    TAILQ_INIT(&s->pin_links);
    STAILQ_INIT(&s->park.list);
    if (!s->base)
        return 0;
    s->park.retry = event_new(s->base, -1, 0, on_retry, s);
    s->park.deadline = evtimer_new(s->base, on_deadline, s);
    return s->park.retry && s->park.deadline ? 0 : -ENOMEM;
}

void vb_park_poke(struct vb_session *s) {
    if (s->park.n > 0 && s->park.retry)
        event_active(s->park.retry, EV_TIMEOUT, 0);
}

void vb_pins_stop(struct vb_session *s) {
    while (s->park.n > 0)
        drop(s, STAILQ_FIRST(&s->park.list));
    vb_accesses_stop(s);
    while (s->tokens.n > 0) {
        struct vb_token *t = s->tokens.items[s->tokens.n - 1];

        vb_pin_links_close(s, t, "the owner of the space is gone");
        vb_token_remove(s, t);
    }
    vb_table_fini(&s->tokens);
    vb_table_fini(&s->accesses);
    if (s->park.retry)
        event_free(s->park.retry);
    if (s->park.deadline)
        event_free(s->park.deadline);
    s->park.retry = s->park.deadline = NULL;
}
