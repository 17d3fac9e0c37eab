/* Devices that this session has given back, but that somebody still has open: a copy of the fd in a child of the client
 * keeps a device (DESIGN 1.5). Its memory is gone; we look again until it is closed, and report it free. The same timer
 * retries what the kernel would not give up (tombstones). It looks soon at first, then less often: most fds are closed
 * at about the same time as the device is released. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "session/session.h"

static void arm(struct vb_session *s) {
    const struct timeval t = {s->held_poll_ms / 1000, s->held_poll_ms % 1000 * 1000};

    if (s->held_timer)
        evtimer_add(s->held_timer, &t);
    s->held_poll_ms = s->held_poll_ms * 2 < VB_HELD_POLL_MS ? s->held_poll_ms * 2 : VB_HELD_POLL_MS;
}

static bool still_open(struct vb_session *s, const struct vb_held *h) {
    const struct vb_backend_ops *ops = s->model->backend->ops;

    /* What a dead session left has no handle of ours: all of it is held until none is open. */
    if (s->taken_over)
        return ops->devices_left && ops->devices_left(s->model->backend) > 0;
    return ops->in_use(s->model->backend, h->handle);
}

static void is_free(struct vb_session *s, const struct vb_held *h) {
    if (!s->taken_over)
        vb_unwatch_device(s, h->handle);
    if (h->software)
        vb_model_software_gone(s->model);
    vb_control_device_free(s, h->address);
}

static void on_timer(evutil_socket_t fd, short what, void *arg) {
    struct vb_session *s = arg;
    unsigned kept = 0;

    (void)fd, (void)what;
    s->model->backend->ops->tick(s->model->backend);
    for (unsigned i = 0; i < s->n_held; i++) {
        if (still_open(s, &s->held[i])) {
            s->held[kept++] = s->held[i];
            continue;
        }
        is_free(s, &s->held[i]);
    }
    s->n_held = kept;
    if (kept || s->model->backend->ops->leftovers(s->model->backend))
        arm(s);
    vb_session_maybe_exit(s);
}

void vb_held_poll(struct vb_session *s) {
    if (!s->held_timer && s->base)
        s->held_timer = evtimer_new(s->base, on_timer, s);
    s->held_poll_ms = VB_HELD_POLL_FIRST_MS;
    if (s->n_held || s->model->backend->ops->leftovers(s->model->backend))
        arm(s);
}

void vb_held_add(struct vb_session *s, const char *address, vb_handle handle, bool software) {
    struct vb_held h = {.handle = handle, .software = software};

    snprintf(h.address, sizeof h.address, "%s", address);
    if (!still_open(s, &h)) {
        is_free(s, &h);
        return;
    }
    /* Bounded: a claim is refused while VB_DEVICES_MAX are held (op-device.c). */
    if (s->n_held < sizeof s->held / sizeof s->held[0])
        s->held[s->n_held++] = h;
    vb_control_device_held(s, address);
    vb_held_poll(s);
}

static void on_device(evutil_socket_t fd, short what, void *arg) {
    struct vb_device_watch *w = arg;
    struct vb_session *s = w->session;
    struct vb_backend *b = s->model->backend;
    const vb_handle handle = w->handle;

    (void)fd, (void)what;
    int r = b->ops->device_ready(b, handle);
    if (r < 0)
        vb_unwatch_device(s, handle); /* `w` is gone */
    if (r == 1)
        vb_device_requested(s, handle);
    else if (r == -ENODEV)
        vb_device_vanished(s, handle);
}

int vb_watch_device(struct vb_session *s, vb_handle handle) {
    struct vb_backend *b = s->model->backend;
    int fd = b->ops->device_fd ? b->ops->device_fd(b, handle) : -1;

    if (fd < 0 || !s->base)
        return 0;
    struct vb_device_watch *w = calloc(1, sizeof *w);
    if (!w)
        return -ENOMEM;
    w->session = s;
    w->handle = handle;
    w->event = event_new(s->base, fd, EV_READ | EV_PERSIST, on_device, w);
    if (!w->event || event_add(w->event, NULL) < 0) {
        if (w->event)
            event_free(w->event);
        free(w);
        return -ENOMEM;
    }
    LIST_INSERT_HEAD(&s->watches, w, link);
    return 0;
}

static void drop(struct vb_device_watch *w) {
    LIST_REMOVE(w, link);
    event_free(w->event);
    free(w);
}

void vb_unwatch_device(struct vb_session *s, vb_handle handle) {
    struct vb_device_watch *w;

    LIST_FOREACH (w, &s->watches, link) {
        if (w->handle == handle) {
            drop(w);
            return;
        }
    }
}

void vb_unwatch_all(struct vb_session *s) {
    while (!LIST_EMPTY(&s->watches))
        drop(LIST_FIRST(&s->watches));
}
