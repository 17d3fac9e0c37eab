/* Groups of the type1 backend: into a container and out of it. See type1.h. */
#include <errno.h>
#include <inttypes.h>

#include "backend/type1-private.h"
#include "proto/cleanup.h"

struct vb_type1_group *vb_type1_group_find(struct vb_type1 *t, uint32_t number) {
    uint32_t i;

    for (i = 0; i < VB_TYPE1_DEVICES; i++)
        if (t->groups[i].used && t->groups[i].fd >= 0 && t->groups[i].number == number)
            return &t->groups[i];
    return NULL;
}

static int check_viable(int fd, uint32_t number, struct vb_error *e) {
    struct vfio_group_status status = {.argsz = sizeof(status)};
    int r = vb_type1_ioctl(fd, VFIO_GROUP_GET_STATUS, &status);

    if (r < 0)
        return vb_fail(e, r, "VFIO_GROUP_GET_STATUS of group %" PRIu32, number);
    if (status.flags & VFIO_GROUP_FLAGS_CONTAINER_SET)
        return vb_refuse(e, VB_BUSY, "group %" PRIu32 " is in a container already; close all copies of its fd", number);
    if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE))
        return vb_refuse(e, VB_BUSY,
                         "group %" PRIu32 " cannot be used: a device of it is bound to a driver of the host or in use "
                         "elsewhere; bind all that /sys/kernel/iommu_groups/%" PRIu32
                         "/devices lists to vfio-pci (vfio-brokerctl bind), or to no driver",
                         number, number);
    return 0;
}

static int refuse_no_iommu(uint32_t number, struct vb_error *e) {
    return vb_refuse(e, VB_UNSUPPORTED,
                     "group %" PRIu32
                     " has no IOMMU (VFIO's no-IOMMU mode): its devices could write to all memory of the "
                     "machine, so they are always refused; switch the IOMMU on in firmware and kernel",
                     number);
}

static int refuse_interrupts(uint32_t number, struct vb_error *e) {
    return vb_refuse(e, VB_UNSUPPORTED,
                     "group %" PRIu32 " cannot be used: its interrupts are not isolated on this machine (no interrupt "
                     "remapping; vfio_iommu_type1's allow_unsafe_interrupts would lift that)",
                     number);
}

static int set_container(int fd, const struct vb_type1_container *c, uint32_t number, bool shared, struct vb_error *e) {
    int container = c->fd;
    int r = vb_type1_ioctl(fd, VFIO_GROUP_SET_CONTAINER, &container);

    switch (r) {
    case -EINVAL: /* vfio_iommu_type1.c, vfio_iommu_type1_attach_group */
        if (!shared)
            break;
        return vb_refuse(
            e, VB_RESERVED,
            "group %" PRIu32 " cannot share the container: a mapping in it lies in a region that the group "
            "reserves, or beyond what its IOMMU can address; unmap it first, or claim the device without a "
            "space",
            number);
    case -EPERM: /* container.c, vfio_container_attach_group: no-IOMMU without CAP_SYS_RAWIO, or mixed with real groups */
        return shared ? refuse_interrupts(number, e) : refuse_no_iommu(number, e);
    case -EBUSY: /* iommu.c, iommu_group_claim_dma_owner */
        return vb_refuse(e, VB_BUSY, "group %" PRIu32 " cannot be used: a device of it is in use elsewhere", number);
    }
    return r < 0 ? vb_fail(e, r, "putting group %" PRIu32 " into a VFIO container", number) : 0;
}

/* A container has to have a group before it can be asked (container.c, vfio_ioctl_set_iommu). */
static int start_container(struct vb_type1_container *c, uint32_t number, struct vb_error *e) {
    struct vb_type1_info info;
    int r = vb_type1_ioctl(c->fd, VFIO_GET_API_VERSION, NULL);

    if (r != VFIO_API_VERSION)
        return vb_fail(e, r < 0 ? r : -EPROTO, "the VFIO container's API version is not %d", VFIO_API_VERSION);
    r = vb_type1_ioctl(c->fd, VFIO_CHECK_EXTENSION, (void *)(uintptr_t)VFIO_TYPE1v2_IOMMU);
    if (r < 0)
        return vb_fail(e, r, "VFIO_CHECK_EXTENSION");
    if (r == 0) { /* for a no-IOMMU group no other driver is asked (container.c, vfio_iommu_driver_allowed) */
        r = vb_type1_ioctl(c->fd, VFIO_CHECK_EXTENSION, (void *)(uintptr_t)VFIO_NOIOMMU_IOMMU);
        return r > 0 ? refuse_no_iommu(number, e)
                     : vb_refuse(e, VB_UNSUPPORTED,
                                 "this kernel's VFIO has no type1v2 IOMMU; load the module vfio_iommu_type1");
    }
    r = vb_type1_ioctl(c->fd, VFIO_SET_IOMMU, (void *)(uintptr_t)VFIO_TYPE1v2_IOMMU);
    if (r == -EPERM)
        return refuse_interrupts(number, e);
    if (r < 0)
        return vb_fail(e, r, "VFIO_SET_IOMMU for group %" PRIu32, number);
    r = vb_type1_container_info(c, &info, e);
    if (r == 0 && info.has_avail)
        c->limit = c->avail = info.avail;
    return r;
}

int vb_type1_group_new(struct vb_type1 *t, const struct vb_device_desc *d, uint32_t *ret, struct vb_error *e) {
    VB_FD int fd = d->fds[0];
    VB_FD int container_fd = d->fds[1];
    const bool shared = d->with != VB_NO_HANDLE;
    struct vb_type1_container *c;
    uint32_t i, container;
    int r;

    for (i = 0; i < VB_TYPE1_DEVICES && t->groups[i].used; i++)
        ;
    if (i == VB_TYPE1_DEVICES)
        return vb_refuse(e, VB_LIMIT, "no room for %s: too many released devices are still open somewhere; close them",
                         d->address);
    if (fd < 0 || (!shared && container_fd < 0))
        return vb_fail(e, -EBADF, "claiming %s: its group came without %s", d->address,
                       fd < 0 ? "a fd" : "a container");
    r = check_viable(fd, d->group, e);
    if (r != 0)
        return r;
    if (shared) {
        container = t->groups[t->devices[d->with].group].container;
    } else {
        r = vb_type1_container_new(t, vb_steal_fd(&container_fd), &container, e);
        if (r != 0)
            return r;
    }
    c = &t->containers[container];
    r = set_container(fd, c, d->group, shared, e);
    if (r == 0 && !shared) {
        r = start_container(c, d->group, e);
        if (r != 0)
            vb_type1_ioctl(fd, VFIO_GROUP_UNSET_CONTAINER, NULL); /* the group's close does it as well */
    }
    if (r != 0) {
        if (!shared)
            vb_type1_container_close(c);
        return r;
    }
    c->groups++;
    t->groups[i] =
        (struct vb_type1_group){.used = true, .fd = vb_steal_fd(&fd), .number = d->group, .container = container};
    *ret = i;
    return 0;
}

bool vb_type1_group_leave(struct vb_type1 *t, struct vb_type1_group *g) {
    struct vb_type1_container *c = &t->containers[g->container];

    /* First: whoever has a device open shall reach nothing. The last group would take all mappings with it, but not out of the
     * compatibility container. */
    if (c->groups == 1)
        vb_type1_container_empty(c);
    if (c->iommufd && vb_type1_group_has_objects(t, g))
        return false;
    if (vb_type1_ioctl(g->fd, VFIO_GROUP_UNSET_CONTAINER, NULL) == -EBUSY)
        return false;
    close(g->fd); /* for whatever else it said: a group that nobody uses leaves its container now at the latest */
    g->fd = -1;
    if (--c->groups == 0)
        vb_type1_container_close(c);
    if (g->handles == 0)
        *g = (struct vb_type1_group){.fd = -1};
    return true;
}

void vb_type1_group_unref(struct vb_type1 *t, struct vb_type1_group *g) {
    (void)t;
    if (--g->handles == 0 && g->fd < 0)
        *g = (struct vb_type1_group){.fd = -1};
}
