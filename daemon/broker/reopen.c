/* A group that was given back can be claimed again only when its last fd is closed, and one of those may be systemd's, which
 * closes it when it comes to our FDSTOREREMOVE. So for a moment after that a claim which finds the group open is tried again
 * before it is refused. One for each session at a time: a session waits for its answer. */
#include <stdlib.h>
#include <string.h>

#include "broker/record.h"

#define FIRST_MS    5u
#define LAST_MS     100u
#define PATIENCE_MS 1000u /* well below VB_CALL_MS, so that somebody still waits for the answer */

struct vb_reopen {
    uint64_t serial, until;
    unsigned ms;
    char address[VB_ADDRESS_MAX + 1], with[VB_ADDRESS_MAX + 1];
    struct event *timer;
};

struct vb_reopen *vb_reopen_free(struct vb_reopen *o) {
    if (!o)
        return NULL;
    if (o->timer)
        event_free(o->timer);
    free(o);
    return NULL;
}

static void arm(struct vb_reopen *o) {
    const struct timeval t = {0, (suseconds_t)o->ms * 1000};

    evtimer_add(o->timer, &t);
    o->ms = 2 * o->ms < LAST_MS ? 2 * o->ms : LAST_MS;
}

static void on_timer(evutil_socket_t fd, short what, void *arg) {
    struct vb_record *r = arg;
    struct vb_reopen *o = r->reopen;

    (void)fd, (void)what;
    if (vb_call_open(r, o->serial, o->address, o->with, vb_now_ms() >= o->until))
        r->reopen = vb_reopen_free(o);
    else
        arm(o);
}

bool vb_reopen_start(struct vb_record *r, uint64_t serial, const char *address, const char *with) {
    struct vb_reopen *o;

    if (r->reopen || vb_now_ms() - vb_fdstore_gave_up_at() >= PATIENCE_MS || !(o = calloc(1, sizeof *o)))
        return false;
    o->serial = serial;
    o->until = vb_now_ms() + PATIENCE_MS;
    o->ms = FIRST_MS;
    strcpy(o->address, address); /* link.c has looked at their lengths */
    strcpy(o->with, with);
    o->timer = evtimer_new(r->broker->base, on_timer, r);
    if (!o->timer) {
        vb_reopen_free(o);
        return false;
    }
    r->reopen = o;
    arm(o);
    return true;
}
