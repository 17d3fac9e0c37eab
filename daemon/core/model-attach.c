/* Attaching: which domain a device gets, and that the answer does not depend on what came first. See model.h and domain.h.
 *
 * A device either can reach every mapping of the space and all that it needs, or it is refused, or, leaving out, gets a
 * domain of its own without what it cannot reach. That is decided by comparing the device alone with the space alone; which
 * other devices are attached, and in which domains, decides only where it goes:
 *   an eager backend's first domain    if it leaves nothing out
 *   the domain of its container        type1, when it was claimed for the same space as another: that is there already
 *   a domain of its own                else: it is filled by replay, and paid if pins are not shared. Large spaces without
 *                                      devices too, since a replay can pin with several threads where the kernel's attach
 *                                      would with one: then it takes the place of the first one. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/attach.h"
#include "core/conflict.h"

#define REFILL_BYTES   (256ull << 20)
#define REFILL_AVERAGE (1ull << 20) /* bytes a mapping: each costs a call */

static const struct vb_range everything = {0, UINT64_MAX};

/* The kernel pins at attach, when a domain is filled: pages that were taken out since they were mapped would be
 * allocated at our expense, and a file that has shrunk would only give EINVAL (mm/gup.c, memfd_pin_folios). Seals against
 * writing that came since do not matter: what is mapped writable may stay so, as with mmap. */
static int check_memories(struct vb_model *m, struct vb_space *s, struct vb_error *e) {
    const uint64_t stamp = 2 * ++m->batch; /* as in model-map.c: each memory once */
    struct vb_mapping *mapping;
    uint32_t mapped = 0;
    int r;

    for (uint32_t i = 0; i < m->memories.n; i++)
        mapped += ((struct vb_memory *)m->memories.items[i])->mappings > 0;
    for (mapping = vb_mapping_first(&s->tree, everything); mapping && mapped; mapping = vb_mapping_next(mapping)) {
        if (mapping->memory->checked >= stamp)
            continue;
        r = vb_memory_recheck(mapping->memory, false, e);
        if (r != 0)
            return r;
        mapping->memory->checked = stamp;
        mapped--; /* often there is one memory, and this is the end */
    }
    return 0;
}

/* info: what the domain's devices can use, this one among them; NULL: not known yet. */
static int check_conflicts(struct vb_space *s, const struct vb_device *d, const struct vb_space_info *info,
                           struct vb_error *e) {
    struct vb_range first;
    uint64_t n = vb_conflict_mappings(e, s, d, info, &first);

    if (n == 0)
        return vb_conflict_needs(e, s, d, info);
    return vb_refuse(e, VB_RESERVED,
                     "%" PRIu64 " mappings of space %" PRIu32 " lie where device %s cannot go, the first is "
                     "0x%" PRIx64 "-0x%" PRIx64 " in 0x%" PRIx64 "-0x%" PRIx64
                     " (%s); unmap them, keep the IOVAs free, or attach it leaving them out",
                     n, s->id, d->address, first.first, first.last, e ? e->conflicts[0].with_first : 0,
                     e ? e->conflicts[0].with_last : 0, e ? e->conflicts[0].kind : "");
}

/* ---- payment where pins are not shared ---- */

/* Fewer are unpay_copies()'s to see to. */
static uint32_t more_copies(const struct vb_model *m, const struct vb_space *s, const struct vb_mapping *p) {
    const uint32_t copies = vb_domains_copies(m, s, p->iova, p->offset), had = p->copies ? p->copies : 1;

    return copies > had ? copies - had : 0;
}

/* More domains than before have mappings. */
static int pay_copies(struct vb_model *m, struct vb_space *s, struct vb_error *e) {
    struct vb_cost sum = {0};
    struct vb_mapping *p;
    size_t length;
    int r;

    if (m->shared)
        return 0;
    for (p = vb_mapping_first(&s->tree, everything); p; p = vb_mapping_next(p))
        if (!p->memory->charge.free)
            sum.paid += more_copies(m, s, p) * vb_range_size(p->iova);
    r = vb_ledger_reserve(&m->ledger, sum, e);
    if (r == VB_LIMIT && e) {
        length = strlen(e->text);
        snprintf(e->text + length, sizeof(e->text) - length,
                 "; a further container pins all of space %" PRIu32
                 " anew: release the device and claim it for the space (vfb_device_claim_for) to share one",
                 s->id);
    }
    if (r != 0)
        return r;
    for (p = vb_mapping_first(&s->tree, everything); p; p = vb_mapping_next(p)) {
        const uint32_t more = more_copies(m, s, p);

        vb_charge_copy(&p->memory->charge, more * vb_range_size(p->iova));
        p->copies = (uint8_t)((p->copies ? p->copies : 1) + more);
    }
    return 0;
}

/* Fewer. */
static void unpay_copies(struct vb_model *m, struct vb_space *s) {
    struct vb_cost sum = {0};
    struct vb_mapping *p;

    if (m->shared)
        return;
    for (p = vb_mapping_first(&s->tree, everything); p; p = vb_mapping_next(p)) {
        const uint32_t copies = vb_domains_copies(m, s, p->iova, p->offset);

        if (p->copies <= copies)
            continue;
        vb_cost_add(&sum, vb_charge_uncopy(&p->memory->charge, (p->copies - copies) * vb_range_size(p->iova)));
        p->copies = (uint8_t)copies;
    }
    vb_ledger_release(&m->ledger, sum);
}

/* ---- where it goes ---- */

static void attached(struct vb_space *s, struct vb_domain *dom, struct vb_device *d) {
    d->state = VB_DEVICE_ATTACHED;
    d->space = s;
    d->domain = dom;
    dom->devices++;
    s->devices++;
    vb_domain_changed(s, dom);
}

/* The kernel found a conflict that the device's reserved regions do not show: what its IOMMU can address. In a domain by itself
 * the kernel tells. */
static int explain(struct vb_model *m, struct vb_space *s, const struct vb_device *d, int r, struct vb_error *e) {
    const struct vb_backend_ops *ops = m->backend->ops;
    struct vb_space_info info;
    struct vb_domain *probe;
    bool known = false;
    int k;

    if (r != VB_RESERVED || vb_domain_open(m, d->handle, &probe, NULL) != 0)
        return r;
    if (ops->device_attach(m->backend, d->handle, probe->handle, NULL) == 0) {
        known = ops->domain_info(m->backend, probe->handle, &info, NULL) == 0;
        ops->device_detach(m->backend, d->handle, NULL);
    }
    vb_domain_close(m, probe);
    k = known ? check_conflicts(s, d, &info, e) : 0;
    return k ? k : r;
}

static int join(struct vb_model *m, struct vb_space *s, struct vb_domain *dom, struct vb_device *d,
                struct vb_error *e) {
    const struct vb_backend_ops *ops = m->backend->ops;
    const bool track = s->dirty && !dom->tracked; /* on anew, it would forget what a device that is gone has written */
    struct vb_dirty_info ignored;
    int r = track ? ops->dirty_set(m->backend, dom->handle, true, &ignored, e) : 0;

    if (r != 0)
        return r;
    r = ops->device_attach(m->backend, d->handle, dom->handle, e);
    if (r != 0 && track)
        ops->dirty_set(m->backend, dom->handle, false, NULL, NULL);
    if (r != 0)
        return ops->eager ? explain(m, s, d, r, e) : r;
    dom->tracked |= track;
    attached(s, dom, d);
    return 0;
}

/* The device is attached to a domain that has no mappings, and that is in the list. */
static int fill(struct vb_model *m, struct vb_space *s, struct vb_domain *dom, const struct vb_device *d,
                struct vb_attached *ret, struct vb_error *e) {
    const struct vb_backend_ops *ops = m->backend->ops;
    struct vb_dirty_info dirty;
    struct vb_range first;
    int r;

    r = ops->domain_info(m->backend, dom->handle, &dom->info, e);
    if (r == 0 && !dom->leaves_out)
        r = check_conflicts(s, d, &dom->info, e);
    if (r == 0 && !dom->leaves_out && ops->domain_need && s->n_needs)
        r = ops->domain_need(m->backend, dom->handle, s->needs, s->n_needs, e);
    if (r == 0 && s->dirty)
        r = ops->dirty_set(m->backend, dom->handle, true, &dirty, e);
    dom->tracked = r == 0 && s->dirty;
    if (r == 0)
        r = pay_copies(m, s, e);
    if (r != 0)
        return r;
    r = vb_domain_replay(m, s, dom, d, &ret->mappings, &ret->bytes, e);
    if (r == 0 && dom->left_out)
        ret->left_out = vb_conflict_mappings(ret->conflicts, s, d, &dom->info, &first);
    return r;
}

/* `fresh` is not in the list yet, and is closed on failure. replace: it takes the place of that one, which has no devices. */
static int attach_alone(struct vb_model *m, struct vb_space *s, struct vb_domain *fresh, struct vb_domain *replace,
                        struct vb_device *d, struct vb_attached *ret, struct vb_error *e) {
    const struct vb_backend_ops *ops = m->backend->ops;
    int r;

    r = ops->device_attach(m->backend, d->handle, fresh->handle, e);
    if (r != 0) {
        vb_domain_close(m, fresh);
        return r;
    }
    if (replace)
        TAILQ_REMOVE(&s->domains, replace, entry);
    TAILQ_INSERT_TAIL(&s->domains, fresh, entry);
    r = fill(m, s, fresh, d, ret, e);
    if (r != 0) {
        TAILQ_REMOVE(&s->domains, fresh, entry);
        if (replace)
            TAILQ_INSERT_HEAD(&s->domains, replace, entry);
        unpay_copies(m, s);
        ops->device_detach(m->backend, d->handle, NULL);
        vb_domain_close(m, fresh);
        return r;
    }
    if (replace) {
        vb_domain_dirty_lost(s, replace);
        vb_domain_close(m, replace);
        TAILQ_REMOVE(&s->domains, fresh, entry);
        TAILQ_INSERT_HEAD(&s->domains, fresh, entry);
    }
    attached(s, fresh, d);
    return 0;
}

static bool worth_refilling(const struct vb_space *s, const struct vb_domain *dom) {
    return dom->devices == 0 && s->mapped_bytes >= REFILL_BYTES && s->mapped_bytes / s->mappings >= REFILL_AVERAGE;
}

static int attach_eager(struct vb_model *m, struct vb_space *s, struct vb_device *d, bool leave_out,
                        struct vb_attached *ret, struct vb_error *e) {
    struct vb_domain *main = TAILQ_FIRST(&s->domains), *fresh;
    int r;

    if (leave_out) {
        r = vb_domain_open(m, d->handle, &fresh, e);
        if (r != 0)
            return r;
        fresh->leaves_out = true;
        return attach_alone(m, s, fresh, NULL, d, ret, e);
    }
    r = check_conflicts(s, d, NULL, e);
    if (r != 0)
        return r;
    if (!d->software && worth_refilling(s, main) && vb_domain_open(m, d->handle, &fresh, NULL) == 0)
        return attach_alone(m, s, fresh, main, d, ret, e);
    return join(m, s, main, d, e);
}

static int attach_container(struct vb_model *m, struct vb_space *s, struct vb_device *d, bool leave_out,
                            struct vb_attached *ret, struct vb_error *e) {
    struct vb_domain *fresh, *there;
    struct vb_space *owner = NULL;
    int r;

    r = vb_domain_open(m, d->handle, &fresh, e);
    if (r != 0)
        return r;
    there = vb_domain_find(m, fresh->handle, &owner);
    if (!there) {
        fresh->leaves_out = leave_out;
        return attach_alone(m, s, fresh, NULL, d, ret, e);
    }
    free(fresh);
    if (owner != s)
        return vb_refuse(e, VB_BUSY,
                         "device %s shares its container, by its group or its claim, with a device of space %" PRIu32
                         "; attach it there, or release it and claim it anew",
                         d->address, owner->id);
    if (there->leaves_out != leave_out)
        return vb_refuse(e, VB_STATE,
                         "device %s shares its container with a device of space %" PRIu32
                         " that was attached %s; attach it likewise, or release it and claim it without a space",
                         d->address, s->id, leave_out ? "without leaving out" : "leaving out");
    r = leave_out ? 0 : check_conflicts(s, d, NULL, e);
    return r == 0 ? join(m, s, there, d, e) : r;
}

int vb_model_attach(struct vb_model *m, uint32_t id, uint32_t space, bool leave_out, struct vb_attached *ret,
                    struct vb_error *e) {
    struct vb_device *d = vb_model_device(m, id, e);
    struct vb_space *s = d ? vb_model_space(m, space, e) : NULL;
    struct vb_attached ignored = {0};
    int r;

    if (!s)
        return VB_NOT_FOUND;
    if (!ret)
        ret = &ignored;
    if (d->state == VB_DEVICE_CLAIMED)
        return vb_refuse(e, VB_STATE, "device %" PRIu32 " (%s) is not bound; bind it first", id, d->address);
    if (d->state == VB_DEVICE_ATTACHED)
        return vb_refuse(e, VB_STATE, "device %" PRIu32 " (%s) is attached to space %" PRIu32 "; detach it first", id,
                         d->address, d->space->id);
    if (s->discarded)
        return vb_refuse(e, VB_BUSY, "%" PRIu64 " mappings of space %" PRIu32 " are being discarded; end that first",
                         s->discarded, s->id);
    r = check_memories(m, s, e);
    if (r == 0)
        r = m->backend->ops->eager ? attach_eager(m, s, d, leave_out, ret, e)
                                   : attach_container(m, s, d, leave_out, ret, e);
    if (r == 0)
        vb_domains_info(m, s, NULL); /* if the backend cannot say now, it is asked again before the next use */
    return r;
}

void vb_model_detached(struct vb_model *m, struct vb_device *d) {
    struct vb_space *s = d->space;
    struct vb_domain *dom = d->domain;

    d->state = VB_DEVICE_BOUND;
    d->space = NULL;
    d->domain = NULL;
    s->devices--;
    dom->devices--;
    vb_domain_changed(s, dom);
    if (dom->devices == 0 && !(m->backend->ops->eager && dom == TAILQ_FIRST(&s->domains))) {
        TAILQ_REMOVE(&s->domains, dom, entry);
        vb_domain_dirty_lost(s, dom);
        vb_domain_close(m, dom);
        unpay_copies(m, s);
    }
    vb_domains_info(m, s, NULL);
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
        vb_model_detached(m, d);
    return r;
}
