/* Devices: see model.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/model.h"
#include "proto/cleanup.h"

struct vb_device *vb_model_device(struct vb_model *m, uint32_t id, struct vb_error *e) {
    struct vb_device *d = vb_table_find(&m->devices, id);

    if (!d)
        vb_refuse(e, VB_NOT_FOUND, "no device %" PRIu32, id);
    return d;
}

int vb_model_claim(struct vb_model *m, const char *address, uint32_t group, const struct vb_reserved *reserved,
                   size_t n_reserved, int fd_consumed, struct vb_device **ret_device, int *ret_client_fd,
                   struct vb_error *e) {
    VB_FD int fd = fd_consumed;
    struct vb_device *d;
    uint32_t i;
    int r;

    for (i = 0; i < m->devices.n; i++) {
        d = m->devices.items[i];
        if (strcmp(d->address, address) == 0)
            return vb_refuse(e, VB_BUSY, "%s is claimed already as device %" PRIu32, address, d->id);
    }
    if (n_reserved > VB_REGIONS_MAX)
        return vb_refuse(e, VB_UNSUPPORTED, "%s has %zu reserved regions, more than %u", address, n_reserved,
                         VB_REGIONS_MAX);
    if (strlen(address) > VB_ADDRESS_MAX)
        return vb_refuse(e, VB_INVALID, "a device address has at most %u characters", VB_ADDRESS_MAX);
    r = vb_table_reserve(&m->devices);
    if (r == -ENOSPC) {
        vb_error_limit(e, 1, m->devices.n, VB_DEVICES_MAX, "devices of a session");
        return vb_refuse(e, VB_LIMIT, "a session claims at most %u devices; release one", VB_DEVICES_MAX);
    }
    if (r < 0)
        return vb_fail(e, r, "device table");
    d = calloc(1, sizeof(*d));
    if (!d)
        return vb_fail(e, -ENOMEM, "device");
    snprintf(d->address, sizeof(d->address), "%s", address);
    d->state = VB_DEVICE_CLAIMED;
    d->group = group;
    d->n_reserved = (uint32_t)n_reserved;
    if (n_reserved)
        memcpy(d->reserved, reserved, n_reserved * sizeof(*reserved));
    r = m->backend->ops->device_open(m->backend, address, vb_steal_fd(&fd), &d->handle, ret_client_fd, e);
    if (r != 0) {
        free(d);
        return r;
    }
    vb_table_add(&m->devices, d);
    *ret_device = d;
    return 0;
}

int vb_model_bind(struct vb_model *m, uint32_t id, struct vb_error *e) {
    struct vb_device *d = vb_model_device(m, id, e);
    int r;

    if (!d)
        return VB_NOT_FOUND;
    if (d->state != VB_DEVICE_CLAIMED)
        return vb_refuse(e, VB_STATE, "device %" PRIu32 " (%s) is bound already", id, d->address);
    r = m->backend->ops->device_bind(m->backend, d->handle, e);
    if (r == 0)
        d->state = VB_DEVICE_BOUND;
    return r;
}

/* Mappings in regions that the device reserves; the kernel would only say EADDRINUSE. */
static int check_reserved(struct vb_space *s, const struct vb_device *d, struct vb_error *e) {
    struct vb_mapping *first = NULL;
    struct vb_range where = {0, 0};
    uint64_t conflicts = 0;
    uint32_t i;

    for (i = 0; i < d->n_reserved; i++) {
        const struct vb_range r = d->reserved[i].range;
        struct vb_mapping *mapping;

        for (mapping = vb_mapping_first(&s->tree, r); mapping && mapping->iova.first <= r.last;
             mapping = vb_mapping_next(mapping)) {
            if (!first) {
                first = mapping;
                where = r;
            }
            conflicts++;
            vb_error_conflict(e, mapping->iova.first, mapping->iova.last, r.first, r.last, d->reserved[i].kind,
                              d->address);
        }
    }
    if (!first)
        return 0;
    return vb_refuse(e, VB_RESERVED,
                     "%" PRIu64 " mappings of space %" PRIu32 " lie where device %s cannot go, the first is "
                     "0x%" PRIx64 "-0x%" PRIx64 " in 0x%" PRIx64 "-0x%" PRIx64 "; unmap them or keep the IOVAs free",
                     conflicts, s->id, d->address, first->iova.first, first->iova.last, where.first, where.last);
}

/* The kernel pins at attach, when a space gets its first domain: pages that were taken out since they were mapped would be
 * allocated at our expense, and a file that has shrunk would only give EINVAL (mm/gup.c, memfd_pin_folios). Seals against
 * writing that came since do not matter: what is mapped writable may stay so, as with mmap. */
static int check_memories(struct vb_model *m, struct vb_space *s, struct vb_error *e) {
    const uint64_t stamp = 2 * ++m->batch; /* as in model-map.c: each memory once */
    struct vb_mapping *mapping;
    int r;

    for (mapping = vb_mapping_first(&s->tree, (struct vb_range){0, UINT64_MAX}); mapping;
         mapping = vb_mapping_next(mapping)) {
        if (mapping->memory->checked >= stamp)
            continue;
        r = vb_memory_recheck(mapping->memory, false, e);
        if (r != 0)
            return r;
        mapping->memory->checked = stamp;
    }
    return 0;
}

/* What devices can use has changed. If the backend cannot say now, it is asked again before the next use. */
static void devices_changed(struct vb_model *m, struct vb_space *s) {
    s->info_stale = true;
    vb_model_space_refresh(m, s, NULL);
}

int vb_model_attach(struct vb_model *m, uint32_t id, uint32_t space, struct vb_error *e) {
    struct vb_device *d = vb_model_device(m, id, e);
    struct vb_space *s = d ? vb_model_space(m, space, e) : NULL;
    int r;

    if (!s)
        return VB_NOT_FOUND;
    if (d->state == VB_DEVICE_CLAIMED)
        return vb_refuse(e, VB_STATE, "device %" PRIu32 " (%s) is not bound; bind it first", id, d->address);
    if (d->state == VB_DEVICE_ATTACHED)
        return vb_refuse(e, VB_STATE, "device %" PRIu32 " (%s) is attached to space %" PRIu32 "; detach it first", id,
                         d->address, d->space->id);
    r = check_reserved(s, d, e);
    if (r == 0)
        r = check_memories(m, s, e);
    if (r != 0)
        return r;
    r = m->backend->ops->device_attach(m->backend, d->handle, s->handle, e);
    if (r != 0)
        return r;
    d->state = VB_DEVICE_ATTACHED;
    d->space = s;
    s->devices++;
    devices_changed(m, s);
    return 0;
}

static void detached(struct vb_model *m, struct vb_device *d) {
    struct vb_space *s = d->space;

    d->state = VB_DEVICE_BOUND;
    d->space = NULL;
    s->devices--;
    devices_changed(m, s);
}

int vb_model_detach(struct vb_model *m, uint32_t id, struct vb_error *e) {
    struct vb_device *d = vb_model_device(m, id, e);
    int r;

    if (!d)
        return VB_NOT_FOUND;
    if (d->state != VB_DEVICE_ATTACHED)
        return vb_refuse(e, VB_STATE, "device %" PRIu32 " (%s) is not attached", id, d->address);
    r = m->backend->ops->device_detach(m->backend, d->handle, e);
    if (r == 0)
        detached(m, d);
    return r;
}

int vb_model_release(struct vb_model *m, uint32_t id, vb_handle *ret_handle, struct vb_error *e) {
    struct vb_device *d = vb_model_device(m, id, e);

    if (!d)
        return VB_NOT_FOUND;
    m->backend->ops->device_close(m->backend, d->handle);
    if (d->state == VB_DEVICE_ATTACHED)
        detached(m, d);
    vb_table_remove(&m->devices, id);
    *ret_handle = d->handle;
    free(d);
    return 0;
}
