/* Devices of the iommufd backend: see iommufd.h. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "backend/iommufd-private.h"
#include "proto/cleanup.h"

static struct vb_iommufd_device *device_of(struct vb_backend *b, vb_handle device) {
    return &((struct vb_iommufd *)b)->devices[device];
}

int vb_iommufd_device_open(struct vb_backend *b, const struct vb_device_desc *desc, vb_handle *ret,
                           int *ret_client_fd, struct vb_error *e) {
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
    *d = (struct vb_iommufd_device){.state = VB_IOMMUFD_OPEN, .fd = vb_steal_fd(&fd)};
    snprintf(d->address, sizeof(d->address), "%s", address);
    *ret = i;
    *ret_client_fd = client_fd;
    return 0;
}

/* An id that the kernel has given to a new device cannot be that of a released one any more. */
static void forget_closed(struct vb_iommufd *io, uint32_t devid) {
    vb_handle i;

    for (i = 0; i < VB_IOMMUFD_DEVICES; i++)
        if (io->devices[i].state == VB_IOMMUFD_CLOSED && io->devices[i].devid == devid)
            io->devices[i].devid = 0;
}

int vb_iommufd_device_bind(struct vb_backend *b, vb_handle device, struct vb_error *e) {
    struct vb_iommufd *io = (struct vb_iommufd *)b;
    struct vb_iommufd_device *d = device_of(b, device);
    struct vb_vfio_bind bind = {.argsz = sizeof(bind), .iommufd = io->fd};
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
    forget_closed(io, bind.out_devid);
    d->devid = bind.out_devid;
    /* The id of a software (mdev) device is that of an access object. It reserves no IOVAs, so the client could attach
     * it to the pool (drivers/vfio/iommufd.c, vfio_iommufd_emulated_bind). */
    if (!vb_iommufd_has_device(io, d->devid))
        return vb_refuse(e, VB_UNSUPPORTED, "%s is a software device without an IOMMU; those are not supported",
                         d->address);
    return 0;
}

int vb_iommufd_device_attach(struct vb_backend *b, vb_handle device, vb_handle space, struct vb_error *e) {
    struct vb_iommufd_device *d = device_of(b, device);
    struct vb_vfio_attach attach = {.argsz = sizeof(attach), .pt_id = (uint32_t)space};
    int r = vb_iommufd_ioctl(d->fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT,
                             &attach); /* replaces what the client may have attached */

    switch (r) {
    case -ENOMEM: /* pages.c, iopt_pages... charge against RLIMIT_MEMLOCK; or no memory for page tables */
        return vb_fail(e, r,
                       "attaching %s to IOAS %" PRIu64
                       ": pinning the space's memory passes the session's RLIMIT_MEMLOCK, "
                       "or the kernel has no memory",
                       d->address, space);
    case -EADDRINUSE: /* io_pagetable.c, iopt_reserve_iova and iopt_check_iova_alignment */
        return vb_refuse(e, VB_RESERVED,
                         "%s cannot be attached: a mapping of the space lies in a region that the device reserves or "
                         "beyond what its IOMMU can address, or is not aligned to its page size; unmap it first",
                         d->address);
    case -EINVAL: /* the device's IOMMU cannot use the domain, or a file has shrunk (mm/gup.c, memfd_pin_folios), for which
                     the model looks just before */
        return vb_refuse(e, VB_UNSUPPORTED,
                         "%s cannot be attached: its IOMMU is not compatible with the devices already there; use a "
                         "space of its own",
                         d->address);
    case -EFAULT: /* the same by address: mm/gup.c, pin_user_pages */
        return vb_refuse(e, VB_BAD_MEMORY,
                         "%s cannot be attached: memory of the space cannot be pinned; was its file truncated?",
                         d->address);
    default:
        return r < 0 ? vb_fail(e, r, "attaching %s to IOAS %" PRIu64, d->address, space) : 0;
    }
}

int vb_iommufd_device_detach(struct vb_backend *b, vb_handle device, struct vb_error *e) {
    struct vb_iommufd_device *d = device_of(b, device);
    struct vb_vfio_detach detach = {.argsz = sizeof(detach)};
    int r = vb_iommufd_ioctl(d->fd, VFIO_DEVICE_DETACH_IOMMUFD_PT, &detach);

    /* A device that the client has detached already is detached: the kernel says 0 (drivers/vfio/iommufd.c). */
    return r < 0 ? vb_fail(e, r, "detaching %s", d->address) : 0;
}

void vb_iommufd_device_close(struct vb_backend *b, vb_handle device) {
    struct vb_iommufd_device *d = device_of(b, device);
    struct vb_vfio_detach detach = {.argsz = sizeof(detach)};

    if (d->state != VB_IOMMUFD_OPEN)
        return;
    if (d->devid)
        vb_iommufd_ioctl(d->fd, VFIO_DEVICE_DETACH_IOMMUFD_PT, &detach);
    close(d->fd); /* the last close resets the device, which can take a second */
    d->fd = -1;
    d->state = VB_IOMMUFD_CLOSED;
}

/* The device object lives from BIND until the last fd of the device is closed (drivers/vfio/vfio_main.c,
 * vfio_device_fops_release; iommufd/device.c, iommufd_device_unbind), so asking for it tells. A device that was never
 * bound is bound by nobody else either: a client has no iommufd. */
bool vb_iommufd_in_use(struct vb_backend *b, vb_handle device) {
    struct vb_iommufd *io = (struct vb_iommufd *)b;
    struct vb_iommufd_device *d = device_of(b, device);

    if (d->state == VB_IOMMUFD_NONE)
        return false;
    if (d->devid && vb_iommufd_has_device(io, d->devid))
        return true;
    if (d->state == VB_IOMMUFD_CLOSED)
        *d = (struct vb_iommufd_device){.state = VB_IOMMUFD_NONE, .fd = -1};
    return false;
}

uint32_t vb_iommufd_devices_left(struct vb_backend *b) {
    struct vb_iommufd *io = (struct vb_iommufd *)b;
    uint32_t i, n = 0;

    for (i = 0; i < io->n_left; i++)
        if (vb_iommufd_has_device(io, io->left[i]))
            io->left[n++] = io->left[i];
    io->n_left = n; /* nothing is bound in a context that was taken over, so the others do not come back */
    return n;
}
