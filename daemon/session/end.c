/* The end of a client: its memory is taken away from every device first, before anything that could wait. */
#include <stdio.h>
#include <string.h>

#include "session/session.h"

void vb_session_maybe_exit(struct vb_session *s) {
    if (s->holding && s->n_held == 0 && s->base)
        event_base_loopbreak(s->base);
}

void vb_session_end(struct vb_session *s) {
    struct vb_held devices[VB_DEVICES_MAX];
    uint32_t n = s->model->devices.n;

    if (s->holding)
        return;
    s->holding = true;
    for (uint32_t i = 0; i < n; i++) {
        const struct vb_device *d = s->model->devices.items[i];

        snprintf(devices[i].address, sizeof devices[i].address, "%s", d->address);
        devices[i].handle = d->handle;
        vb_unwatch_device(s, d->handle); /* as in op-device.c */
    }
    vb_model_unmap_kernel(s->model);
    vb_pins_stop(s);
    vb_model_empty(s->model);
    vb_client_stop(s);
    for (uint32_t i = 0; i < n; i++)
        vb_watch_device(s, devices[i].handle);
    for (uint32_t i = 0; i < n; i++)
        vb_held_add(s, devices[i].address, devices[i].handle, false);
    if (s->n_held)
        vb_control_holding(s);
    vb_session_maybe_exit(s);
}
