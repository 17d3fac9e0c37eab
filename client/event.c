/* Events: what the broker tells unasked. Kinds that this library does not know are dropped: a newer broker sends them. */
#include "config.h"

#include "client/client-private.h"

void vfb_set_event_handler(struct vfb_client *c, vfb_event_fn fn, void *arg) {
    c->event_fn = fn;
    c->event_arg = arg;
}

void vbc_event(struct vfb_client *c, const VfioBroker__Event *m) {
    struct vfb_event e = {.text = ""};
    char text[VB_ERROR_TEXT]; /* not the arena's: the handler may make calls */

    switch ((int)m->body_case) {
    case VFIO_BROKER__EVENT__BODY_DEVICE_GONE:
        e.kind = VFB_EVENT_DEVICE_GONE;
        e.device = m->device_gone->device;
        break;
    case VFIO_BROKER__EVENT__BODY_CLOSING:
        vbc_text(text, sizeof text, m->closing->reason);
        vbc_text(c->closing, sizeof c->closing, text[0] ? text : "no reason given");
        e.kind = VFB_EVENT_CLOSING;
        e.text = text;
        break;
    default:
        return;
    }
    if (c->event_fn)
        c->event_fn(c, &e, c->event_arg);
}
