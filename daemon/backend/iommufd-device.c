/* Devices of the iommufd backend: see iommufd.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "backend/iommufd-private.h"
#include "backend/request-event.h"
#include "proto/cleanup.h"

static struct vb_iommufd_device *device_of(struct vb_backend *b, vb_handle device) {
    return &((struct vb_iommufd *)b)->devices[device];
}

int vb_iommufd_device_open(struct vb_backend *b, const struct vb_device_desc *desc, vb_handle *ret, int *ret_client_fd,
                           struct vb_error *e) {
    struct vb_iommufd *io = (struct vb_iommufd *)b;
    const char *address = desc->address;
    VB_FD int fd = desc->fds[0];
    VB_FD int none = desc->fds[1];
    struct vb_iommufd_device *d;
    int client_fd;
    vb_handle i;

    for (i = 0; i < VB_IOMMUFD_DEVICES && io->devices[i].state != VB_IOMMUFD_NONE; i++)
        ;
    if (i == VB_IOMMUFD_DEVICES)
        return vb_refuse(e, VB_LIMIT, "no room for %s: too many released devices are still open somewhere; close them",
                         address);
    (void)none;
    client_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (client_fd < 0)
        return vb_fail(e, -errno, "fd of %s for the client", address);
    d = &io->devices[i];
    *d = (struct vb_iommufd_device){
        .state = VB_IOMMUFD_OPEN, .fd = vb_steal_fd(&fd), .event_fd = -1, .software = desc->software};
    snprintf(d->address, sizeof(d->address), "%s", address);
    *ret = i;
    *ret_client_fd = client_fd;
    return 0;
}

int vb_iommufd_device_bind(struct vb_backend *b, vb_handle device, struct vb_error *e) {
    struct vb_iommufd *io = (struct vb_iommufd *)b;
    struct vb_iommufd_device *d = device_of(b, device);
    struct vb_vfio_bind bind = {.argsz = sizeof(bind), .iommufd = io->fd};
    struct vb_iommu_hw_info info;
    bool has_iommu;
    int r = vb_iommufd_ioctl(d->fd, VFIO_DEVICE_BIND_IOMMUFD, &bind);

    switch (r) {
    case 0:
        break;
    case -EBUSY: /* its VFIO group is open, or a device of its IOMMU group belongs to another context or driver:
                    drivers/vfio/device_cdev.c, vfio_device_block_group; iommu_device_claim_dma_owner */
        return vb_refuse(e, VB_BUSY,
                         "%s cannot be bound: it, its VFIO group or a device of its IOMMU group is in use elsewhere",
                         d->address);
    case -EINVAL: /* device_cdev.c: this fd is bound already; vfio_main.c, vfio_df_open: some other fd is */
        return vb_refuse(
            e, VB_BUSY,
            "%s cannot be bound: somebody still has it open and bound, or its IOMMU is not cache coherent; "
            "close all copies of its fd",
            d->address);
    case -EPERM: /* iommufd/device.c, iommufd_bind_iommu */
        return vb_refuse(e, VB_UNSUPPORTED,
                         "%s cannot be bound: its interrupts are not isolated on this machine (no interrupt remapping)",
                         d->address);
    default:
        return vb_fail(e, r, "BIND_IOMMUFD of %s", d->address);
    }
    vb_iommufd_id_taken(io, bind.out_devid);
    d->devid = bind.out_devid;
    has_iommu = vb_iommufd_has_device(io, d->devid, &info);
    /* A software device can be attached to the pool too, since it reserves no IOVAs: the model pays for all that is there, but
     * only if it was told. */
    if (!has_iommu && !d->software) {
        d->software = true;
        return vb_refuse(
            e, VB_UNSUPPORTED,
            "%s is a software device without an IOMMU, which its place in sysfs does not say; it cannot be "
            "used",
            d->address);
    }
    d->software = !has_iommu;
    d->dirty = info.out_capabilities & VB_IOMMU_HW_CAP_DIRTY;
    d->vtd = info.out_data_type == VB_IOMMU_HW_TYPE_INTEL_VTD;
    d->event_fd = vb_request_event_arm(d->fd); /* without it the client is not told when the host wants the device */
    return 0;
}

/* An access sees the IOAS itself: no HWPT. */
static int attach_software(struct vb_iommufd_device *d, const struct vb_iommufd_domain *dom, struct vb_error *e) {
    struct vb_vfio_attach a = {.argsz = sizeof(a), .pt_id = dom->ioas};
    int r;

    if (dom->dirty)
        return vb_refuse(e, VB_UNSUPPORTED,
                         "%s cannot be attached: dirty tracking of the space is on, and what a software device writes "
                         "is not tracked",
                         d->address);
    r = vb_iommufd_ioctl(d->fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &a);
    if (r < 0)
        return vb_iommufd_attach_error(d, dom->ioas, r, e);
    d->ioas = dom->ioas;
    return 0;
}

int vb_iommufd_device_attach(struct vb_backend *b, vb_handle device, vb_handle domain, struct vb_error *e) {
    struct vb_iommufd *io = (struct vb_iommufd *)b;
    struct vb_iommufd_device *d = device_of(b, device);
    const struct vb_iommufd_domain *dom = vb_iommufd_domain(io, domain);

    if (d->software)
        return attach_software(d, dom, e);
    if (dom->dirty && !d->dirty)
        return vb_refuse(e, VB_UNSUPPORTED,
                         "%s cannot be attached: dirty tracking of the space is on, and its IOMMU has none; switch it "
                         "off first",
                         d->address);
    return vb_iommufd_hwpt_attach(io, d, dom, e);
}

int vb_iommufd_device_detach(struct vb_backend *b, vb_handle device, struct vb_error *e) {
    struct vb_iommufd_device *d = device_of(b, device);
    struct vb_vfio_detach detach = {.argsz = sizeof(detach)};
    int r = vb_iommufd_ioctl(d->fd, VFIO_DEVICE_DETACH_IOMMUFD_PT, &detach);

    /* A device that the client has detached already is detached: the kernel says 0 (drivers/vfio/iommufd.c). */
    if (r < 0)
        return vb_fail(e, r, "detaching %s", d->address);
    vb_iommufd_hwpt_left((struct vb_iommufd *)b, d);
    return 0;
}

void vb_iommufd_device_close(struct vb_backend *b, vb_handle device) {
    struct vb_iommufd_device *d = device_of(b, device);
    struct vb_vfio_detach detach = {.argsz = sizeof(detach)};

    if (d->state != VB_IOMMUFD_OPEN)
        return;
    if (d->devid)
        vb_iommufd_ioctl(d->fd, VFIO_DEVICE_DETACH_IOMMUFD_PT, &detach);
    if (d->event_fd >= 0)
        close(d->event_fd);
    close(d->fd); /* the last close resets the device, which can take a second */
    d->fd = d->event_fd = -1;
    d->state = VB_IOMMUFD_CLOSED;
    vb_iommufd_hwpt_left((struct vb_iommufd *)b, d);
}

/* ---- events ---- */

int vb_iommufd_device_fd(struct vb_backend *b, vb_handle device) {
    return device_of(b, device)->event_fd;
}

int vb_iommufd_device_ready(struct vb_backend *b, vb_handle device) {
    const struct vb_iommufd_device *d = device_of(b, device);

    return d->event_fd >= 0 ? vb_request_event_ready(d->event_fd) : 0;
}
