/* The iommufd compatibility container: an iommufd that takes the ioctls of a container (drivers/iommu/iommufd/vfio_compat.c).
 *
 * Differences that matter here: VFIO_GROUP_UNSET_CONTAINER succeeds while devices of the group are open (drivers/vfio/group.c), and
 * a group's fd does not live as long as its devices. So we look for the device's object in the context, which is there until its
 * last fd is closed: a device for what has DMA of its own, an access for software. Nobody tells its id, but ids are the lowest
 * free ones (main.c, _iommufd_object_alloc), so an object made and destroyed just before has the one that comes next.
 *
 * DESTROY tells by id whether an object is there without harm, as a driver's device or access refers to its object: EBUSY
 * (main.c, iommufd_object_remove). For devices GET_HW_INFO is exact (since Linux 6.8): an id can be used again by a HWPT. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backend/iommufd-abi.h"
#include "backend/type1-private.h"

static int destroy(int fd, uint32_t id) {
    struct vb_iommu_destroy d = {.size = sizeof(d), .id = id};

    return vb_type1_ioctl(fd, IOMMU_DESTROY, &d);
}

/* There is no object 0: ENOENT. A container says EINVAL or ENOTTY. */
bool vb_type1_is_iommufd(int fd) {
    return destroy(fd, 0) == -ENOENT;
}

uint32_t vb_type1_next_id(int fd) {
    struct vb_iommu_ioas_alloc a = {.size = sizeof(a)};

    if (vb_type1_ioctl(fd, IOMMU_IOAS_ALLOC, &a) < 0 || destroy(fd, a.out_ioas_id) < 0)
        return 0;
    return a.out_ioas_id;
}

bool vb_type1_has_object(int fd, uint32_t id, bool software) {
    struct vb_iommu_hw_info info = {.size = sizeof(info), .dev_id = id};
    int r = software ? -ENOTTY : vb_type1_ioctl(fd, IOMMU_GET_HW_INFO, &info);

    if (r == -ENOTTY) {
        r = destroy(fd, id);
        return r != 0 && r != -ENOENT;
    }
    return r != -ENOENT;
}

bool vb_type1_find_object(struct vb_type1 *t, struct vb_type1_device *d, uint32_t next) {
    const struct vb_type1_group *g = &t->groups[d->group];
    const int fd = t->containers[g->container].fd;
    uint32_t i;

    /* Open already, by somebody who has an older fd of it: it still has that object. */
    for (i = 0; i < VB_TYPE1_DEVICES && !d->devid; i++) {
        const struct vb_type1_device *o = &t->devices[i];

        if (o != d && o->state != VB_TYPE1_NONE && o->devid && o->group == d->group &&
            strcmp(o->address, d->address) == 0 && vb_type1_has_object(fd, o->devid, d->software))
            d->devid = o->devid;
    }
    if (!d->devid && next && vb_type1_has_object(fd, next, d->software))
        d->devid = next;
    if (!d->devid)
        return false;
    /* What has been released and had this id is gone, or is the same device: this one stands for it from now on. */
    for (i = 0; i < VB_TYPE1_DEVICES; i++) {
        struct vb_type1_device *o = &t->devices[i];

        if (o == d || (o->state != VB_TYPE1_CLOSED && o->state != VB_TYPE1_ENDED) || o->devid != d->devid ||
            t->groups[o->group].container != g->container)
            continue;
        o->devid = 0;
        if (o->state == VB_TYPE1_ENDED)
            *o = (struct vb_type1_device){.fd = -1, .event = -1};
    }
    return true;
}

bool vb_type1_group_has_objects(struct vb_type1 *t, const struct vb_type1_group *g) {
    const int fd = t->containers[g->container].fd;
    bool some = false;
    uint32_t i;

    for (i = 0; i < VB_TYPE1_DEVICES; i++) {
        struct vb_type1_device *d = &t->devices[i];

        if ((d->state != VB_TYPE1_CLOSED && d->state != VB_TYPE1_ENDED) || &t->groups[d->group] != g)
            continue;
        if (d->devid && vb_type1_has_object(fd, d->devid, d->software))
            some = true;
        else if (d->state == VB_TYPE1_ENDED)
            *d = (struct vb_type1_device){.fd = -1, .event = -1};
    }
    return some;
}

/* What a dead session left: destroys what nobody uses, its IOAS too when the last device is closed. What is EBUSY is a device or an
 * access, or what those use. */
bool vb_type1_objects_left(struct vb_type1_container *c) {
    const bool first = !c->ids;
    bool left = false;
    uint32_t id;

    if (first)
        c->ids = calloc(VB_IOMMUFD_IDS / 64 + 1, sizeof(*c->ids));
    for (id = 1; id <= VB_IOMMUFD_IDS; id++) {
        const uint64_t bit = (uint64_t)1 << (id % 64);
        bool there;

        if (!first && c->ids && !(c->ids[id / 64] & bit))
            continue;
        there = destroy(c->fd, id) == -EBUSY;
        left |= there;
        if (c->ids)
            c->ids[id / 64] = there ? c->ids[id / 64] | bit : c->ids[id / 64] & ~bit;
    }
    return left;
}
