#include "core/charge.h"

#include <assert.h>

int vb_charge_init(struct vb_charge *c, uint64_t size) {
    *c = (struct vb_charge){.locks = true};
    return vb_extents_init(&c->mapped, size);
}

void vb_charge_fini(struct vb_charge *c) {
    vb_extents_fini(&c->mapped);
    if (c->has_pinned)
        vb_extents_fini(&c->pinned);
    c->has_pinned = false;
}

uint64_t vb_charge_mapped(const struct vb_charge *c) {
    if (c->free)
        return 0;
    return c->each ? c->sum : c->mapped.covered;
}

uint64_t vb_charge_paid(const struct vb_charge *c) {
    if (c->free)
        return 0;
    return vb_charge_mapped(c) + (c->has_pinned ? c->pinned.covered : 0) - c->both;
}

struct vb_cost vb_charge_copy(struct vb_charge *c, uint64_t bytes) {
    c->sum += bytes;
    return (struct vb_cost){.paid = c->each && !c->free ? bytes : 0};
}

struct vb_cost vb_charge_uncopy(struct vb_charge *c, uint64_t bytes) {
    assert(bytes <= c->sum);
    c->sum -= bytes;
    return (struct vb_cost){.paid = c->each && !c->free ? bytes : 0};
}

/* Bytes of `r` that are under mappings and pins. Pins are few, so their runs lead. */
static uint64_t both_in(struct vb_charge *c, struct vb_range r) {
    struct vb_range pinned, mapped;
    uint64_t at, inner, pins, maps, sum = 0;

    if (!c->has_pinned || c->pinned.covered == 0)
        return 0;
    for (at = r.first; vb_extents_run(&c->pinned, r, at, &pinned, &pins); at = pinned.last + 1)
        for (inner = pinned.first; pins > 0 && vb_extents_run(&c->mapped, pinned, inner, &mapped, &maps);
             inner = mapped.last + 1)
            sum += maps > 0 ? vb_range_size(mapped) : 0;
    return sum;
}

int vb_charge_add(struct vb_charge *c, enum vb_charge_by by, struct vb_range r, struct vb_cost *ret_cost) {
    const uint64_t paid = vb_charge_paid(c);
    uint64_t both, fresh;
    int k;

    if (by == VB_BY_PIN && !c->has_pinned) {
        k = vb_extents_init(&c->pinned, c->mapped.size);
        if (k < 0)
            return k;
        c->has_pinned = true;
    }
    both = both_in(c, r);
    k = vb_extents_add(by == VB_BY_PIN ? &c->pinned : &c->mapped, r, &fresh);
    if (k < 0)
        return k;
    both = both_in(c, r) - both;
    c->both += both;
    c->sum += by == VB_BY_MAPPING ? vb_range_size(r) : 0;
    *ret_cost = (struct vb_cost){.paid = vb_charge_paid(c) - paid, .doubled = c->locks ? both : 0};
    return 0;
}

struct vb_cost vb_charge_sub(struct vb_charge *c, enum vb_charge_by by, struct vb_range r) {
    const uint64_t paid = vb_charge_paid(c);
    uint64_t both = both_in(c, r);

    assert(by == VB_BY_MAPPING || c->has_pinned);
    vb_extents_sub(by == VB_BY_PIN ? &c->pinned : &c->mapped, r);
    both -= both_in(c, r);
    c->both -= both;
    c->sum -= by == VB_BY_MAPPING ? vb_range_size(r) : 0;
    return (struct vb_cost){.paid = paid - vb_charge_paid(c), .doubled = c->locks ? both : 0};
}
