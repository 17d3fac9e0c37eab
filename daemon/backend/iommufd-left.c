/* What of the iommufd backend's devices is left when we have closed them, or when the session that had them is dead: somebody
 * else may still have them open.
 *
 * The device object lives from BIND until the last fd of the device is closed (drivers/vfio/vfio_main.c,
 * vfio_device_fops_release; iommufd/device.c, iommufd_device_unbind), so asking for it tells. A device that was never
 * bound is bound by nobody else either: a client has no iommufd.
 *
 * A software device has an access object instead, which no request asks for. But IOMMU_DESTROY of it is EBUSY for as long as its
 * driver refers to it, from BIND to the last close (device.c, __iommufd_access_create), and ENOENT then. Ids are the lowest free
 * ones, so a later object may have the same: each object that we make ends what we remember of the id
 * (vb_iommufd_id_taken()), and what the kernel makes for a client's ATTACH is EBUSY until it takes it away itself: that client
 * holds a device anyway. */
#include <errno.h>

#include "backend/iommufd-private.h"

static bool has_access(struct vb_iommufd *io, uint32_t id) {
    int r = vb_iommufd_destroy(io, id);

    return r != -ENOENT && r != 0;
}

bool vb_iommufd_has_device(struct vb_iommufd *io, uint32_t devid, struct vb_iommu_hw_info *ret) {
    /* device.c, iommufd_get_hw_info: takes no lock that an attach or a pin could hold. */
    struct vb_iommu_hw_info info = {.size = sizeof(info), .dev_id = devid};
    int r = vb_iommufd_ioctl(io->fd, IOMMU_GET_HW_INFO, &info);

    if (r < 0)
        info.out_capabilities = info.out_data_type = 0;
    if (ret)
        *ret = info;
    return r != -ENOENT;
}

void vb_iommufd_id_taken(struct vb_iommufd *io, uint32_t id) {
    vb_handle i;

    for (i = 0; i < VB_IOMMUFD_DEVICES; i++)
        if (io->devices[i].state == VB_IOMMUFD_CLOSED && io->devices[i].devid == id)
            io->devices[i].devid = 0;
}

bool vb_iommufd_in_use(struct vb_backend *b, vb_handle device) {
    struct vb_iommufd *io = (struct vb_iommufd *)b;
    struct vb_iommufd_device *d = &io->devices[device];

    if (d->state == VB_IOMMUFD_NONE)
        return false;
    if (d->devid && (d->software ? has_access(io, d->devid) : vb_iommufd_has_device(io, d->devid, NULL)))
        return true;
    if (d->state == VB_IOMMUFD_CLOSED)
        *d = (struct vb_iommufd_device){.state = VB_IOMMUFD_NONE, .fd = -1, .event_fd = -1};
    return false;
}

/* ---- of a dead session ---- */

static bool is_hwpt(struct vb_iommufd *io, uint32_t id) {
    struct vb_iommu_get_dirty_bitmap g = {.size = sizeof(g), .hwpt_id = id}; /* of no bytes: never done */

    int r = vb_iommufd_ioctl(io->fd, IOMMU_HWPT_GET_DIRTY_BITMAP, &g);

    /* ENOTTY before 6.7: then one that is attached counts as a device more, for as long as that. */
    return r != -ENOENT && r != -ENOTTY;
}

/* A device of either kind; of an IOAS or HWPT of the dead session's we want nothing. */
static bool is_open_device(struct vb_iommufd *io, uint32_t id) {
    if (vb_iommufd_has_device(io, id, NULL))
        return true;
    return id != io->pool && vb_iommufd_unmap_all(io, id) == -ENOENT && !is_hwpt(io, id) && has_access(io, id);
}

/* The session that made these objects is dead; a client may still have its devices open and attach them to any IOAS, but
 * nobody can map any more. What a killed process was in the middle of comes to its end first (COPY and pinning do not
 * stop for a signal): until then UNMAP says EBUSY (io_pagetable.c, iopt_unmap_iova_range) and it is not done. */
bool vb_iommufd_take_over(struct vb_backend *b) {
    struct vb_iommufd *io = (struct vb_iommufd *)b;
    bool empty = true;
    uint32_t id, pass;

    io->n_left = 0;
    for (pass = 0; pass < 2; pass++)
        for (id = 1; id <= VB_IOMMUFD_IDS; id++)
            if (vb_iommufd_unmap_all(io, id) == -EBUSY) /* ENOENT for whatever is no IOAS */
                empty = false;
    for (id = 1; id <= VB_IOMMUFD_IDS; id++)
        if (is_open_device(io, id))
            io->left[io->n_left++] = id;
    return empty;
}

uint32_t vb_iommufd_devices_left(struct vb_backend *b) {
    struct vb_iommufd *io = (struct vb_iommufd *)b;
    uint32_t i, n = 0;

    for (i = 0; i < io->n_left; i++)
        if (is_open_device(io, io->left[i]))
            io->left[n++] = io->left[i];
    io->n_left = n; /* nothing is bound in a context that was taken over, so the others do not come back */
    return n;
}
