/* Devices of the type1 backend: see type1.h. A group is ours as long as we have a device of it open; then, until nobody has. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#include "backend/request-event.h"
#include "backend/type1-private.h"
#include "proto/cleanup.h"

static struct vb_type1_device *device_of(struct vb_backend *b, vb_handle device) {
    return &((struct vb_type1 *)b)->devices[device];
}

static void end_device(struct vb_type1 *t, struct vb_type1_device *d) {
    struct vb_type1_group *g = &t->groups[d->group];

    /* On the compatibility container somebody may still have it open, and only its object tells. */
    if (g->fd >= 0 && t->containers[g->container].iommufd && d->devid) {
        d->state = VB_TYPE1_ENDED;
        g->handles--;
        return;
    }
    *d = (struct vb_type1_device){.fd = -1, .event = -1};
    vb_type1_group_unref(t, g);
}

/* Is a device of the group open by us? */
static bool group_is_ours(const struct vb_type1 *t, uint32_t group) {
    uint32_t i;

    for (i = 0; i < VB_TYPE1_DEVICES; i++)
        if (t->devices[i].state == VB_TYPE1_OPEN && t->devices[i].group == group)
            return true;
    return false;
}

static int explain(const struct vb_device_desc *desc, int r, struct vb_error *e) {
    switch (r) {
    case -ENODEV: /* group.c, vfio_device_get_from_name */
        return vb_refuse(e, VB_NOT_FOUND,
                         "%s is not a VFIO device of group %" PRIu32 ": bind it to vfio-pci (vfio-brokerctl bind)",
                         desc->address, desc->group);
    case -EBUSY:
        return vb_refuse(e, VB_BUSY, "%s cannot be opened: it, or a device of its group, is in use elsewhere",
                         desc->address);
    case -EADDRINUSE: /* the compatibility container attaches now: io_pagetable.c, iopt_reserve_iova */
        return vb_refuse(e, VB_RESERVED,
                         "%s cannot share the container: a mapping in it lies in a region that the device reserves or "
                         "beyond what its IOMMU can address; unmap it first, or claim the device without a space",
                         desc->address);
    case -EPERM: /* the same: iommufd/device.c, iommufd_device_bind */
        return vb_refuse(e, VB_UNSUPPORTED,
                         "%s cannot be used: its interrupts are not isolated on this machine (no interrupt remapping)",
                         desc->address);
    default:
        return vb_fail(e, r, "VFIO_GROUP_GET_DEVICE_FD of %s", desc->address);
    }
}

/* Into an empty place; d->group is set. */
static int open_in_group(struct vb_type1 *t, struct vb_type1_device *d, const struct vb_device_desc *desc,
                         int *ret_client_fd, struct vb_error *e) {
    const struct vb_type1_group *g = &t->groups[d->group];
    const struct vb_type1_container *c = &t->containers[g->container];
    const uint32_t next = c->iommufd ? vb_type1_next_id(c->fd) : 0;
    int r = vb_type1_ioctl(g->fd, VFIO_GROUP_GET_DEVICE_FD, (void *)(uintptr_t)desc->address);
    VB_FD int fd = -1;
    int client_fd;

    if (r < 0)
        return explain(desc, r, e);
    fd = r;
    snprintf(d->address, sizeof(d->address), "%s", desc->address);
    d->software = desc->software;
    client_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (client_fd < 0)
        return vb_fail(e, -errno, "fd of %s for the client", desc->address);
    if (c->iommufd && !vb_type1_find_object(t, d, next)) {
        close(client_fd);
        return vb_refuse(e, VB_BUSY, "%s: its object in the iommufd cannot be told; try again", desc->address);
    }
    d->fd = vb_steal_fd(&fd);
    *ret_client_fd = client_fd;
    return 0;
}

int vb_type1_device_open(struct vb_backend *b, const struct vb_device_desc *desc, vb_handle *ret, int *ret_client_fd,
                         struct vb_error *e) {
    struct vb_type1 *t = (struct vb_type1 *)b;
    struct vb_type1_group *g = vb_type1_group_find(t, desc->group);
    struct vb_type1_device *d;
    uint32_t i, group;
    int r;

    for (i = 0; i < VB_TYPE1_DEVICES && t->devices[i].state != VB_TYPE1_NONE; i++)
        ;
    if (g || i == VB_TYPE1_DEVICES) { /* a group that is here needs no fds */
        vb_close_p(&(int){desc->fds[0]});
        vb_close_p(&(int){desc->fds[1]});
    }
    if (i == VB_TYPE1_DEVICES)
        return vb_refuse(e, VB_LIMIT, "no room for %s: too many released devices are still open somewhere; close them",
                         desc->address);
    if (g) {
        group = (uint32_t)(g - t->groups);
    } else {
        r = vb_type1_group_new(t, desc, &group, e);
        if (r != 0)
            return r;
        g = &t->groups[group];
    }
    d = &t->devices[i];
    *d = (struct vb_type1_device){.fd = -1, .event = -1, .group = group};
    r = open_in_group(t, d, desc, ret_client_fd, e);
    if (r != 0) {
        *d = (struct vb_type1_device){.fd = -1, .event = -1};
        if (g->handles == 0) /* of nobody's: it came with this device */
            vb_type1_group_leave(t, g);
        return r;
    }
    d->state = VB_TYPE1_OPEN;
    g->handles++;
    *ret = i;
    return 0;
}

int vb_type1_device_bind(struct vb_backend *b, vb_handle device, struct vb_error *e) {
    struct vb_type1_device *d = device_of(b, device);

    (void)e;
    if (d->event < 0) {
        d->event = vb_request_event_arm(d->fd);
        if (d->event < 0)
            d->event = -1; /* a device that has none */
    }
    return 0;
}

int vb_type1_device_attach(struct vb_backend *b, vb_handle device, vb_handle domain, struct vb_error *e) {
    struct vb_type1_device *d = device_of(b, device);

    if (((struct vb_type1 *)b)->groups[d->group].container != domain)
        return vb_refuse(e, VB_BUSY,
                         "%s cannot be attached there: its group is in another container; release its devices, and "
                         "claim it for that space",
                         d->address);
    d->attached = true;
    return 0;
}

int vb_type1_device_detach(struct vb_backend *b, vb_handle device, struct vb_error *e) {
    (void)e;
    device_of(b, device)->attached = false;
    return 0;
}

void vb_type1_device_close(struct vb_backend *b, vb_handle device) {
    struct vb_type1_device *d = device_of(b, device);

    if (d->state != VB_TYPE1_OPEN)
        return;
    if (d->event >= 0)
        close(d->event);
    close(d->fd); /* the last close resets the device, which can take a second */
    d->fd = d->event = -1;
    d->attached = false;
    d->state = VB_TYPE1_CLOSED;
}

bool vb_type1_in_use(struct vb_backend *b, vb_handle device) {
    struct vb_type1 *t = (struct vb_type1 *)b;
    struct vb_type1_device *d = device_of(b, device);
    struct vb_type1_group *g = &t->groups[d->group];

    if (d->state == VB_TYPE1_OPEN)
        return true;
    if (d->state != VB_TYPE1_CLOSED)
        return false;
    /* Somebody who still has this one open can do no more with it than with those that are ours: they share what is mapped. */
    if (g->fd >= 0 && !group_is_ours(t, d->group) && !vb_type1_group_leave(t, g))
        return true;
    end_device(t, d);
    return false;
}

int vb_type1_device_fd(struct vb_backend *b, vb_handle device) {
    return device_of(b, device)->event;
}

int vb_type1_device_ready(struct vb_backend *b, vb_handle device) {
    return vb_request_event_ready(device_of(b, device)->event);
}
