/* Devices: see model.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/attach.h"
#include "core/conflict.h"
#include "proto/cleanup.h"

struct vb_device *vb_model_device(struct vb_model *m, uint32_t id, struct vb_error *e) {
    struct vb_device *d = vb_table_find(&m->devices, id);

    if (!d)
        vb_refuse(e, VB_NOT_FOUND, "no device %" PRIu32, id);
    return d;
}

/* The domain that the device's container is, if it is one now, and whose; else NULL. */
static struct vb_domain *domain_of(struct vb_model *m, const struct vb_device *d, struct vb_space **ret_space) {
    return vb_domain_find(m, m->backend->ops->domain_of(m->backend, d->handle), ret_space);
}

const struct vb_device *vb_model_shares(struct vb_model *m, uint32_t space) {
    for (uint32_t i = 0; !m->backend->ops->eager && i < m->devices.n; i++) {
        const struct vb_device *d = m->devices.items[i];
        struct vb_domain *dom;
        struct vb_space *owner;

        if (d->space ? d->space->id != space : d->meant != space)
            continue;
        dom = domain_of(m, d, &owner);
        if (!dom || (owner->id == space && !dom->leaves_out)) /* nobody's yet, or this space's, with all that it has */
            return d;
    }
    return NULL;
}

static int check_claim(struct vb_model *m, const struct vb_claim_desc *c, struct vb_error *e) {
    struct vb_device *d;
    int r;

    for (uint32_t i = 0; i < m->devices.n; i++) {
        d = m->devices.items[i];
        if (strcmp(d->address, c->address) == 0)
            return vb_refuse(e, VB_BUSY, "%s is claimed already as device %" PRIu32, c->address, d->id);
    }
    if (c->n_reserved > VB_REGIONS_MAX)
        return vb_refuse(e, VB_UNSUPPORTED, "%s has %zu reserved regions, more than %u", c->address, c->n_reserved,
                         VB_REGIONS_MAX);
    if (strlen(c->address) > VB_ADDRESS_MAX)
        return vb_refuse(e, VB_INVALID, "a device address has at most %u characters", VB_ADDRESS_MAX);
    if (c->space && !vb_model_space(m, c->space, e))
        return VB_NOT_FOUND;
    r = vb_table_reserve(&m->devices);
    if (r == -ENOSPC) {
        vb_error_limit(e, 1, m->devices.n, VB_DEVICES_MAX, "devices of a session");
        return vb_refuse(e, VB_LIMIT, "a session claims at most %u devices; release one", VB_DEVICES_MAX);
    }
    return r < 0 ? vb_fail(e, r, "device table") : 0;
}

/* A container that it joins has mappings already; the kernel would only say EINVAL. */
static int check_shared(struct vb_space *s, const struct vb_device *d, struct vb_error *e) {
    struct vb_range first;
    uint64_t n;

    if (!s)
        return 0;
    n = vb_conflict_mappings(e, s, d, NULL, &first);
    if (n)
        return vb_refuse(
            e, VB_RESERVED,
            "%" PRIu64 " mappings of space %" PRIu32 ", the first 0x%" PRIx64 "-0x%" PRIx64
            ", lie where device %s cannot go; unmap them, or claim it without a space and attach it leaving "
            "them out",
            n, s->id, first.first, first.last, d->address);
    return vb_conflict_needs(e, s, d, NULL);
}

int vb_model_claim(struct vb_model *m, const struct vb_claim_desc *c, struct vb_device **ret_device, int *ret_client_fd,
                   struct vb_error *e) {
    VB_FD int fd0 = c->fds[0];
    VB_FD int fd1 = c->fds[1];
    const struct vb_device *with = c->space ? vb_model_shares(m, c->space) : NULL;
    const bool seen = c->software && m->backend->ops->software_sees_all;
    VB_FREE struct vb_device *d = NULL;
    struct vb_domain *joined = NULL;
    struct vb_space *s = NULL;
    int r;

    r = check_claim(m, c, e);
    if (r != 0)
        return r;
    d = calloc(1, sizeof(*d));
    if (!d)
        return vb_fail(e, -ENOMEM, "device");
    snprintf(d->address, sizeof(d->address), "%s", c->address);
    d->state = VB_DEVICE_CLAIMED;
    d->software = c->software;
    d->meant = c->space;
    d->group = c->group;
    d->n_reserved = (uint32_t)c->n_reserved;
    if (c->n_reserved)
        memcpy(d->reserved, c->reserved, c->n_reserved * sizeof(*c->reserved));
    if (with)
        joined = domain_of(m, with, &s);
    r = check_shared(joined ? s : NULL, d, e);
    if (r == 0 && seen)
        r = vb_model_software_come(m, e);
    if (r != 0)
        return r;
    const struct vb_device_desc desc = {.address = c->address,
                                        .group = c->group,
                                        .software = c->software,
                                        .fds = {vb_steal_fd(&fd0), vb_steal_fd(&fd1)},
                                        .with = with ? with->handle : VB_NO_HANDLE};
    r = m->backend->ops->device_open(m->backend, &desc, &d->handle, ret_client_fd, e);
    if (r != 0) {
        if (seen)
            vb_model_software_gone(m);
        return r;
    }
    if (joined) /* it narrows what the others can use */
        vb_domain_changed(s, joined);
    vb_table_add(&m->devices, d);
    *ret_device = vb_steal_ptr(&d);
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

int vb_model_release(struct vb_model *m, uint32_t id, vb_handle *ret_handle, bool *ret_software, struct vb_error *e) {
    struct vb_device *d = vb_model_device(m, id, e);

    if (!d)
        return VB_NOT_FOUND;
    m->backend->ops->device_close(m->backend, d->handle);
    if (d->state == VB_DEVICE_ATTACHED)
        vb_model_detached(m, d);
    vb_table_remove(&m->devices, id);
    *ret_handle = d->handle;
    *ret_software = d->software && m->backend->ops->software_sees_all;
    free(d);
    return 0;
}
