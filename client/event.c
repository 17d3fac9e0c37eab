/* Events: what the broker tells unasked. Kinds that this library does not know are dropped: a newer broker sends them.
 *
 * A handler may make blocking calls, which dispatch further events: handlers nest, since what an inner call waits for may
 * need the next event handled (two clients that pin in each other). A broker with enough events would so use up the
 * stack; beyond VBC_EVENT_DEPTH handlers, events are kept and delivered, in order, when a handler has returned. */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/client-private.h"
#include "proto/cleanup.h"

struct vbc_late {
    STAILQ_ENTRY(vbc_late) link;
    size_t size;
    uint8_t data[]; /* the packet; events have no fds */
};

void vfb_set_event_handler(struct vfb_client *c, vfb_event_fn fn, void *arg) {
    c->event_fn = fn;
    c->event_arg = arg;
}

static void call_handler(struct vfb_client *c, const struct vfb_event *e) {
    if (!c->event_fn)
        return;
    c->event_depth++;
    c->event_fn(c, e, c->event_arg);
    c->event_depth--;
}

/* ---- pins ------------------------------------------------------------------------------------------------------ */

/* `e` is about these pins: in pieces that one vfb_unpin() takes, `closed` with the last. They are copied first, since the
 * handler's calls decode into the same arena. */
static void about_pins(struct vfb_client *c, struct vfb_event *e, const uint32_t *in_arena, size_t n) {
    uint32_t few[VB_PIN_BATCH], *pins = few;
    VB_FREE uint32_t *many = NULL;
    struct vbc_access *a = vbc_access_find(c, e->access);
    bool closed = e->closed;
    size_t at = 0;

    if (!a) /* closed meanwhile: not the caller's any more */
        return;
    if (n > VB_PIN_BATCH && !(pins = many = malloc(n * sizeof *many))) {
        vbc_lose(c, -ENOMEM, "no memory for an event about %zu pins", n);
        return;
    }
    if (n)
        memcpy(pins, in_arena, n * sizeof *pins);
    a->users++;
    while (!a->ended && (at < n || (closed && n == 0))) {
        e->pins = pins + at;
        e->n_pins = n - at < VB_PIN_BATCH ? n - at : VB_PIN_BATCH;
        at += e->n_pins;
        e->closed = closed && at == n;
        call_handler(c, e);
        if (n == 0)
            break;
    }
    if (closed && !a->ended)
        vbc_access_end(c, a);
    vbc_access_unuse(a);
}

/* ---- delivery -------------------------------------------------------------------------------------------------- */

static void deliver(struct vfb_client *c, const VfioBroker__Event *m) {
    struct vfb_event e = {.text = ""};
    char text[VB_ERROR_TEXT]; /* not the arena's: the handler may make calls */

    switch ((int)m->body_case) {
    case VFIO_BROKER__EVENT__BODY_DEVICE_GONE:
        e.kind = VFB_EVENT_DEVICE_GONE;
        e.device = m->device_gone->device;
        call_handler(c, &e);
        break;
    case VFIO_BROKER__EVENT__BODY_DEVICE_REQUESTED:
        e.kind = VFB_EVENT_DEVICE_REQUESTED;
        e.device = m->device_requested->device;
        call_handler(c, &e);
        break;
    case VFIO_BROKER__EVENT__BODY_ATTACH_PROGRESS:
        e.kind = VFB_EVENT_PROGRESS;
        e.device = m->attach_progress->device;
        e.total = m->attach_progress->total;
        /* Never more than all of it, whatever was said. */
        e.done = m->attach_progress->done < e.total ? m->attach_progress->done : e.total;
        call_handler(c, &e);
        break;
    case VFIO_BROKER__EVENT__BODY_CLOSING:
        vbc_text(text, sizeof text, m->closing->reason);
        vbc_text(c->closing, sizeof c->closing, text[0] ? text : "no reason given");
        e.kind = VFB_EVENT_CLOSING;
        e.text = text;
        call_handler(c, &e);
        break;
    case VFIO_BROKER__EVENT__BODY_INVALIDATE:
        e.kind = VFB_EVENT_INVALIDATE;
        e.access = m->invalidate->access;
        e.deadline_ms = m->invalidate->deadline_ms;
        about_pins(c, &e, m->invalidate->pins, m->invalidate->n_pins);
        break;
    case VFIO_BROKER__EVENT__BODY_PINS_LOST:
        vbc_text(text, sizeof text, m->pins_lost->reason);
        e.kind = VFB_EVENT_PINS_LOST;
        e.access = m->pins_lost->access;
        e.closed = m->pins_lost->closed;
        e.text = text;
        about_pins(c, &e, m->pins_lost->pins, m->pins_lost->n_pins);
        break;
    default:
        break;
    }
}

/* 0, or the connection is lost. */
static int put_off(struct vfb_client *c, const struct vb_packet *p) {
    size_t size = sizeof(struct vbc_late) + p->size;
    struct vbc_late *l;

    if (size > VBC_LATE_MAX - c->late_size) {
        vbc_lose(c, VFB_PROTOCOL, "the broker sent more than %u bytes of events while event handlers were running",
                 VBC_LATE_MAX);
        return -EPIPE;
    }
    l = malloc(size);
    if (!l) {
        vbc_lose(c, -ENOMEM, "no memory for an event");
        return -EPIPE;
    }
    l->size = p->size;
    memcpy(l->data, p->data, p->size);
    STAILQ_INSERT_TAIL(&c->late, l, link);
    c->late_size += size;
    return 0;
}

static struct vbc_late *next_late(struct vfb_client *c) {
    struct vbc_late *l = STAILQ_FIRST(&c->late);

    STAILQ_REMOVE_HEAD(&c->late, link);
    c->late_size -= sizeof *l + l->size;
    return l;
}

void vbc_event(struct vfb_client *c, const VfioBroker__Event *m, const struct vb_packet *p) {
    if (c->event_depth < VBC_EVENT_DEPTH && STAILQ_EMPTY(&c->late))
        deliver(c, m);
    else if (put_off(c, p) < 0)
        return;
    while (c->event_depth < VBC_EVENT_DEPTH && !STAILQ_EMPTY(&c->late)) {
        VB_FREE struct vbc_late *l = next_late(c);
        /* It fitted the arena when it came. */
        const VfioBroker__Reply *reply = vb_decode(&c->arena, &vfio_broker__reply__descriptor, l->data, l->size);

        if (reply)
            deliver(c, reply->event);
    }
}

void vbc_events_drop(struct vfb_client *c) {
    while (!STAILQ_EMPTY(&c->late))
        free(next_late(c));
}
