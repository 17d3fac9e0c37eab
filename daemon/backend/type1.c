/* The table of the type1 backend, its domains, and housekeeping: see type1.h. */
#include "backend/type1.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "backend/type1-private.h"

static struct vb_type1 *type1(struct vb_backend *b) {
    return (struct vb_type1 *)b;
}

int vb_type1_ioctl(int fd, unsigned long request, void *arg) {
    int r;

    do
        r = ioctl(fd, request, arg);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : r;
}

static uint64_t t1_features(struct vb_backend *b) {
    (void)b;
    return 1 | 64; /* FEATURE_DMA, FEATURE_DOMAINS */
}

/* ---- domains: a domain is a container that is there already ---- */

static int t1_domain_open(struct vb_backend *b, vb_handle device, vb_handle *ret, struct vb_error *e) {
    struct vb_type1 *t = type1(b);
    const uint32_t i = t->groups[t->devices[device].group].container;
    int r;

    if (t->containers[i].full) {
        r = vb_type1_container_empty(&t->containers[i]);
        if (r < 0)
            return vb_fail(e, r, "emptying the container of %s, which was used before", t->devices[device].address);
    }
    *ret = i;
    return 0;
}

static vb_handle t1_domain_of(struct vb_backend *b, vb_handle device) {
    return type1(b)->groups[type1(b)->devices[device].group].container;
}

static void t1_domain_close(struct vb_backend *b, vb_handle domain) {
    vb_type1_container_empty(&type1(b)->containers[domain]);
}

static int t1_domain_info(struct vb_backend *b, vb_handle domain, struct vb_space_info *ret, struct vb_error *e) {
    struct vb_type1_info info;
    int r = vb_type1_container_info(&type1(b)->containers[domain], &info, e);

    if (r == 0)
        *ret = info.space;
    return r;
}

static void t1_domain_text(struct vb_backend *b, vb_handle domain, char *buf, size_t size) {
    vb_type1_container_text(type1(b), &type1(b)->containers[domain], buf, size);
}

/* ---- housekeeping ---- */

static void t1_tick(struct vb_backend *b) {
    struct vb_type1 *t = type1(b);
    uint32_t i;

    for (i = 0; i < VB_TYPE1_DEVICES; i++)
        if (t->containers[i].fd >= 0) {
            if (t->containers[i].full)
                vb_type1_container_empty(&t->containers[i]);
            vb_type1_runs_retry(t, &t->containers[i]);
        }
    vb_type1_memory_tick(t);
}

static uint32_t t1_leftovers(struct vb_backend *b) {
    struct vb_type1 *t = type1(b);
    uint32_t i, n = vb_type1_memory_leftovers(t);

    for (i = 0; i < VB_TYPE1_DEVICES; i++)
        if (t->containers[i].fd >= 0)
            n += t->containers[i].full + t->containers[i].absent;
    return n;
}

static void t1_close(struct vb_backend *b) {
    struct vb_type1 *t = type1(b);
    vb_handle i;

    /* Memory first: closing a device may take long. */
    for (i = 0; i < VB_TYPE1_DEVICES; i++)
        if (t->containers[i].fd >= 0)
            vb_type1_container_empty(&t->containers[i]);
    for (i = 0; i < VB_TYPE1_DEVICES; i++)
        vb_type1_device_close(b, i);
    for (i = 0; i < VB_TYPE1_DEVICES; i++) {
        struct vb_type1_group *g = &t->groups[i];

        /* Of whose devices somebody still has one open: the kernel keeps group and container until that is closed. */
        if (g->used && g->fd >= 0 && !vb_type1_group_leave(t, g)) {
            close(g->fd);
            g->fd = -1;
            t->containers[g->container].groups--;
        }
    }
    for (i = 0; i < VB_TYPE1_DEVICES; i++)
        if (t->containers[i].fd >= 0)
            vb_type1_container_close(&t->containers[i]);
    for (i = 0; i < VB_MEMORIES_MAX; i++)
        if (t->memories[i].address)
            vb_type1_memory_remove(b, i);
    free(t);
}

static const struct vb_backend_ops ops = {
    .name = "type1",
    .eager = false,
    .software_sees_all = false,
    .close = t1_close,
    .features = t1_features,
    .memory_add = vb_type1_memory_add,
    .memory_remove = vb_type1_memory_remove,
    .domain_open = t1_domain_open,
    .domain_of = t1_domain_of,
    .domain_close = t1_domain_close,
    .domain_info = t1_domain_info,
    .domain_text = t1_domain_text,
    .map = vb_type1_map,
    .unmap = vb_type1_unmap,
    .dirty_set = vb_type1_dirty_set,
    .dirty_read = vb_type1_dirty_read,
    .device_open = vb_type1_device_open,
    .device_bind = vb_type1_device_bind,
    .device_attach = vb_type1_device_attach,
    .device_detach = vb_type1_device_detach,
    .device_close = vb_type1_device_close,
    .in_use = vb_type1_in_use,
    .device_fd = vb_type1_device_fd,
    .device_ready = vb_type1_device_ready,
    .tick = t1_tick,
    .leftovers = t1_leftovers,
    .take_over = vb_type1_take_over,
    .devices_left = vb_type1_devices_left,
};

int vb_type1_new(struct vb_backend **ret, struct vb_error *e) {
    struct vb_type1 *t = calloc(1, sizeof(*t));
    uint32_t i;

    if (!t)
        return vb_fail(e, -ENOMEM, "type1 backend");
    t->backend.ops = &ops;
    for (i = 0; i < VB_TYPE1_DEVICES; i++) {
        t->containers[i].fd = t->groups[i].fd = -1;
        t->devices[i].fd = t->devices[i].event = -1;
    }
    *ret = &t->backend;
    return 0;
}
