/* Devices of the emulated backend: see emulated.h. */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/emulated-private.h"

static struct vb_emulated_device *device_of(struct vb_backend *b, vb_handle device) {
    return ((struct vb_emulated *)b)->devices[device];
}

/* All copies of the client's end are closed, or shut down. */
static bool client_gone(const struct vb_emulated_device *d) {
    struct pollfd p = {.fd = d->fd};

    return poll(&p, 1, 0) == 1 && (p.revents & POLLHUP);
}

int vb_emulated_device_open(struct vb_backend *b, const struct vb_device_desc *desc, vb_handle *ret, int *ret_client_fd,
                            struct vb_error *e) {
    struct vb_emulated *em = (struct vb_emulated *)b;
    struct vb_emulated_device *d;
    struct vb_emulated_domain *container = NULL;
    int pair[2], r;
    vb_handle i, own;

    for (unsigned k = 0; k < 2; k++)
        if (desc->fds[k] >= 0) /* nothing of the host is behind an emulated device */
            close(desc->fds[k]);
    r = vb_emulated_count(em, VB_EMULATED_DEVICE_OPEN, e);
    if (r != 0)
        return r;
    for (i = 0; i < VB_EMULATED_DEVICES && em->devices[i]; i++)
        ;
    if (i == VB_EMULATED_DEVICES)
        return vb_refuse(e, VB_LIMIT, "no room for %s: too many released devices are still open", desc->address);
    d = calloc(1, sizeof(*d));
    if (!d)
        return vb_fail(e, -ENOMEM, "device %s", desc->address);
    snprintf(d->address, sizeof(d->address), "%s", desc->address);
    d->kind = *vb_emulated_kind_of(em, desc->address);
    if (em->knobs.containers && desc->with != VB_NO_HANDLE) { /* as VFIO_GROUP_SET_CONTAINER would check */
        container = em->devices[desc->with]->domain;
        r = vb_emulated_kind_check(container, d, e);
        if (r != 0) {
            free(d);
            return r;
        }
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        r = vb_fail(e, -errno, "socket of device %s", desc->address);
        free(d);
        return r;
    }
    d->fd = pair[0]; /* non-blocking by MSG_DONTWAIT: the client's end is blocking */
    if (em->knobs.containers && !container) {
        r = vb_emulated_domain_new(em, &own, e);
        if (r != 0) {
            close(pair[0]);
            close(pair[1]);
            free(d);
            return r;
        }
        container = em->domains[own];
    }
    em->devices[i] = d;
    if (container)
        vb_emulated_join(em, d, container);
    *ret = i;
    *ret_client_fd = pair[1];
    return 0;
}

int vb_emulated_device_bind(struct vb_backend *b, vb_handle device, struct vb_error *e) {
    int r = vb_emulated_count((struct vb_emulated *)b, VB_EMULATED_DEVICE_BIND, e);

    if (r == 0)
        device_of(b, device)->bound = true;
    return r;
}

int vb_emulated_device_attach(struct vb_backend *b, vb_handle device, vb_handle domain, struct vb_error *e) {
    struct vb_emulated *em = (struct vb_emulated *)b;
    struct vb_emulated_device *d = em->devices[device];
    int r = vb_emulated_count(em, VB_EMULATED_DEVICE_ATTACH, e);

    if (r != 0)
        return r;
    if (!d->bound || d->attached)
        return vb_refuse(e, VB_STATE, "%s is %s", d->address, d->bound ? "attached" : "not bound");
    if (em->knobs.containers) {
        if (d->domain != em->domains[domain])
            return vb_refuse(e, VB_STATE, "%s is in another container", d->address);
    } else {
        r = vb_emulated_kind_check(em->domains[domain], d, e);
        if (r != 0)
            return r;
        vb_emulated_join(em, d, em->domains[domain]);
    }
    d->attached = true;
    return 0;
}

/* A container keeps its devices: it only is not asked for any more. */
static void detach(struct vb_emulated *em, struct vb_emulated_device *d) {
    if (em->knobs.containers)
        d->attached = false;
    else
        vb_emulated_leave(em, d);
}

int vb_emulated_device_detach(struct vb_backend *b, vb_handle device, struct vb_error *e) {
    int r = vb_emulated_count((struct vb_emulated *)b, VB_EMULATED_DEVICE_DETACH, e);

    if (r == 0)
        detach((struct vb_emulated *)b, device_of(b, device));
    return r;
}

void vb_emulated_device_free(struct vb_emulated *em, vb_handle device) {
    close(em->devices[device]->fd);
    vb_emulated_leave(em, em->devices[device]);
    free(em->devices[device]);
    em->devices[device] = NULL;
}

void vb_emulated_device_close(struct vb_backend *b, vb_handle device) {
    struct vb_emulated_device *d = device_of(b, device);

    detach((struct vb_emulated *)b, d);
    d->closed = true; /* our end stays open, so that in_use() can ask about the other one */
}

bool vb_emulated_in_use(struct vb_backend *b, vb_handle device) {
    struct vb_emulated_device *d = device_of(b, device);

    if (!d)
        return false;
    if (d->bound && !d->lost && !client_gone(d))
        return true;
    vb_emulated_device_free((struct vb_emulated *)b, device);
    return false;
}

int vb_emulated_device_fd(struct vb_backend *b, vb_handle device) {
    return device_of(b, device)->fd;
}

uint32_t vb_emulated_devices_left(struct vb_backend *b) {
    struct vb_emulated *em = (struct vb_emulated *)b;
    uint32_t n = 0;
    vb_handle i;

    for (i = 0; i < VB_EMULATED_DEVICES; i++)
        if (em->devices[i] && em->devices[i]->closed)
            n += vb_emulated_in_use(b, i);
    return n;
}
