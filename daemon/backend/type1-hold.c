/* What a dead session left behind, and what a live one would leave: see type1.h. */
#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

#include "backend/type1-private.h"

/* Each group with a place for its container: that the dead one may have put several into one does no harm here, where nothing is
 * mapped any more. */
int vb_type1_hold_group(struct vb_backend *b, uint32_t group, int group_fd, int container_fd, struct vb_error *e) {
    struct vb_type1 *t = (struct vb_type1 *)b;
    uint32_t i, container;
    int r;

    for (i = 0; i < VB_TYPE1_DEVICES && t->groups[i].used; i++)
        ;
    if (i == VB_TYPE1_DEVICES) {
        close(group_fd);
        close(container_fd);
        return vb_refuse(e, VB_LIMIT, "no room for group %" PRIu32, group);
    }
    r = vb_type1_container_new(t, container_fd, &container, e);
    if (r != 0) {
        close(group_fd);
        return r;
    }
    t->containers[container].groups = 1;
    t->groups[i] = (struct vb_type1_group){.used = true, .fd = group_fd, .number = group, .container = container};
    return 0;
}

int vb_type1_each_group(struct vb_backend *b, int (*fn)(void *arg, uint32_t group, int group_fd, int container_fd),
                        void *arg) {
    struct vb_type1 *t = (struct vb_type1 *)b;
    uint32_t i;
    int r = 0;

    for (i = 0; i < VB_TYPE1_DEVICES && r == 0; i++)
        if (t->groups[i].used && t->groups[i].fd >= 0)
            r = fn(arg, t->groups[i].number, t->groups[i].fd, t->containers[t->groups[i].container].fd);
    return r;
}

/* Mappings that the dead one made by its own address can be unmapped by anybody who has the container. A MAP_DMA of its that is
 * under way has the lock (vfio_iommu_type1.c, iommu->lock), so the first pass waits for it; on the compatibility container it is
 * EBUSY. EINVAL, ENODEV: no group was in it yet, or none is any more. */
bool vb_type1_take_over(struct vb_backend *b) {
    struct vb_type1 *t = (struct vb_type1 *)b;
    bool empty = true;
    uint32_t i, pass;
    int r;

    for (pass = 0; pass < 2; pass++)
        for (i = 0; i < VB_TYPE1_DEVICES; i++) {
            if (t->containers[i].fd < 0)
                continue;
            t->containers[i].dirty = true; /* may be on */
            r = vb_type1_container_empty(&t->containers[i]);
            if (r < 0 && r != -EINVAL && r != -ENODEV)
                empty = false;
            else
                t->containers[i].full = false;
        }
    return empty;
}

uint32_t vb_type1_devices_left(struct vb_backend *b) {
    struct vb_type1 *t = (struct vb_type1 *)b;
    uint32_t i, n = 0;

    for (i = 0; i < VB_TYPE1_DEVICES; i++) {
        struct vb_type1_group *g = &t->groups[i];

        if (!g->used || g->fd < 0)
            continue;
        n += (t->containers[g->container].iommufd && vb_type1_objects_left(&t->containers[g->container])) ||
             !vb_type1_group_leave(t, g);
    }
    return n;
}
