/* What the host does to a device becomes an event for the client: it wants the device back, or it has left.
 *
 * Bounded for a client that does not read: of each device at most one DeviceRequested waits to be written (the kernel says
 * it again every 10 s: drivers/vfio/vfio_main.c, vfio_unregister_group_dev), and one DeviceGone. New devices cannot come
 * meanwhile, since a client that does not read is not read from. */
#include <stdio.h>
#include <string.h>

#include "session/dispatch.h"

static struct vb_device *by_handle(struct vb_session *s, vb_handle handle) {
    for (uint32_t i = 0; i < s->model->devices.n; i++) {
        struct vb_device *d = s->model->devices.items[i];

        if (d->handle == handle)
            return d;
    }
    return NULL;
}

static void send_event(struct vb_session *s, VfioBroker__Event *event) {
    VfioBroker__Reply reply = VFIO_BROKER__REPLY__INIT;

    reply.body_case = VFIO_BROKER__REPLY__BODY_EVENT;
    reply.event = event;
    vb_client_send(s, &reply, NULL, 0);
}

static bool waits_already(struct vb_session *s, uint32_t device) {
    if (!vb_client_busy(s)) /* all have been written */
        s->n_asked_back = 0;
    for (unsigned i = 0; i < s->n_asked_back; i++)
        if (s->asked_back[i] == device)
            return true;
    return s->n_asked_back == VB_DEVICES_MAX;
}

/* A client can make its device say so as often as it likes (VFIO_DEVICE_SET_IRQS with VFIO_IRQ_SET_DATA_NONE): the log is not its to
 * fill. */
static bool worth_a_line(struct vb_session *s) {
    s->n_requests++;
    return s->n_requests < 8 || (s->n_requests & (s->n_requests - 1)) == 0;
}

void vb_device_requested(struct vb_session *s, vb_handle handle) {
    VfioBroker__DeviceRequested requested = VFIO_BROKER__DEVICE_REQUESTED__INIT;
    VfioBroker__Event event = VFIO_BROKER__EVENT__INIT;
    const struct vb_device *d = by_handle(s, handle);
    const bool log = worth_a_line(s);

    if (!d && log) /* the client has given it back; who has it open does not talk to us */
        vb_session_log(s, "the host wants a device back that was released, and that somebody still has open");
    if (d && log)
        vb_session_log(s, "the host wants device %s back from client pid %u", d->address, s->client_pid);
    if (!d || waits_already(s, d->id))
        return;
    requested.device = d->id;
    event.body_case = VFIO_BROKER__EVENT__BODY_DEVICE_REQUESTED;
    event.device_requested = &requested;
    send_event(s, &event);
    if (vb_client_busy(s))
        s->asked_back[s->n_asked_back++] = d->id;
}

void vb_device_vanished(struct vb_session *s, vb_handle handle) {
    VfioBroker__DeviceGone gone = VFIO_BROKER__DEVICE_GONE__INIT;
    VfioBroker__Event event = VFIO_BROKER__EVENT__INIT;
    const struct vb_device *d = by_handle(s, handle);
    char address[VB_ADDRESS_MAX + 1];
    struct vb_error e = {.code = 0};
    bool software;

    if (!d) /* released already: held.c sees when it is closed */
        return;
    gone.device = d->id;
    memcpy(address, d->address, sizeof address);
    vb_unwatch_device(s, handle); /* before its fd is closed, whose number the next one gets */
    int r = vb_model_release(s->model, d->id, &handle, &software, &e);
    if (r != 0) {
        vb_session_log(s, "device %s has left the host and cannot be released: %s", address, e.text);
        return;
    }
    vb_session_log(s, "device %s has left the host: taken from client pid %u", address, s->client_pid);
    vb_held_add(s, address, handle, software);
    event.body_case = VFIO_BROKER__EVENT__BODY_DEVICE_GONE;
    event.device_gone = &gone;
    send_event(s, &event);
}
