/* What emulated devices can reach, and what a domain of several can: see emulated.h. */
#include <inttypes.h>
#include <string.h>

#include "backend/emulated-private.h"

const struct vb_emulated_kind vb_emulated_default_kind = {
    .aperture_last = (1ull << 48) - 1,
    .page_size = VB_EMULATED_PAGE,
    .n_reserved = 1,
    .reserved = {{{0xfee00000, 0xfeefffff}, "msi"}},
};

const struct vb_emulated_kind *vb_emulated_kind_of(const struct vb_emulated *em, const char *address) {
    size_t i;

    for (i = 0; i < em->knobs.n_kinds; i++)
        if (strcmp(em->knobs.kinds[i].address, address) == 0)
            return &em->knobs.kinds[i];
    return &vb_emulated_default_kind;
}

/* Takes [r] out of the ranges. Those that find no room any more are not usable. */
static void subtract(struct vb_space_info *info, struct vb_range r) {
    struct vb_space_info old = *info;
    uint32_t i;

    info->n_usable = 0;
    for (i = 0; i < old.n_usable; i++) {
        const struct vb_range u = old.usable[i];

        if (!vb_range_overlaps(u, r)) {
            if (info->n_usable < VB_REGIONS_MAX)
                info->usable[info->n_usable++] = u;
            continue;
        }
        if (u.first < r.first && info->n_usable < VB_REGIONS_MAX)
            info->usable[info->n_usable++] = (struct vb_range){u.first, r.first - 1};
        if (u.last > r.last && info->n_usable < VB_REGIONS_MAX)
            info->usable[info->n_usable++] = (struct vb_range){r.last + 1, u.last};
    }
}

void vb_emulated_info(const struct vb_emulated *em, struct vb_emulated_domain *d) {
    uint64_t last = vb_emulated_default_kind.aperture_last, page = VB_EMULATED_PAGE;
    size_t i;
    uint32_t k;

    for (i = 0; i < em->knobs.n_kinds; i++)
        if (em->knobs.kinds[i].aperture_last > last)
            last = em->knobs.kinds[i].aperture_last;
    d->info = (struct vb_space_info){.n_usable = 1, .usable[0] = {0, last}};
    for (i = 0; i < VB_EMULATED_DEVICES; i++) {
        const struct vb_emulated_device *dev = em->devices[i];

        if (!dev || dev->domain != d)
            continue;
        if (dev->kind.aperture_last < UINT64_MAX)
            subtract(&d->info, (struct vb_range){dev->kind.aperture_last + 1, UINT64_MAX});
        for (k = 0; k < dev->kind.n_reserved; k++)
            subtract(&d->info, dev->kind.reserved[k].range);
        if (dev->kind.page_size > page)
            page = dev->kind.page_size;
    }
    d->info.page_sizes = ~(page - 1);
}

/* No list of conflicts: the kernel has none either. */
static int out_of_reach(const struct vb_emulated_device *d, struct vb_range what, struct vb_range with,
                        const char *kind, struct vb_error *e) {
    return vb_refuse(e, VB_RESERVED, "0x%" PRIx64 "-0x%" PRIx64 " runs into 0x%" PRIx64 "-0x%" PRIx64 " (%s) of %s",
                     what.first, what.last, with.first, with.last, kind, d->address);
}

static int check_gap(struct vb_emulated_domain *to, const struct vb_emulated_device *d, struct vb_range gap,
                     const char *kind, struct vb_error *e) {
    const struct vb_emulated_entry *hit = vb_emulated_table_first(&to->table, gap);
    uint32_t i;

    if (hit)
        return out_of_reach(d, hit->iova, gap, kind, e);
    for (i = 0; i < to->n_needs; i++)
        if (vb_range_overlaps(to->needs[i], gap))
            return out_of_reach(d, to->needs[i], gap, kind, e);
    return 0;
}

int vb_emulated_kind_check(struct vb_emulated_domain *to, const struct vb_emulated_device *d, struct vb_error *e) {
    const struct vb_emulated_kind *k = &d->kind;
    const uint64_t mask = k->page_size - 1;
    struct vb_emulated_entry *p = NULL;
    uint32_t i;
    int r = 0;

    if (to->dirty && k->no_dirty)
        return vb_refuse(e, VB_UNSUPPORTED, "the IOMMU of %s does not tell what was written", d->address);
    if (k->aperture_last < UINT64_MAX)
        r = check_gap(to, d, (struct vb_range){k->aperture_last + 1, UINT64_MAX}, "aperture", e);
    for (i = 0; i < k->n_reserved && r == 0; i++)
        r = check_gap(to, d, k->reserved[i].range, k->reserved[i].kind, e);
    if (mask >= VB_EMULATED_PAGE && r == 0)
        p = vb_emulated_table_first(&to->table, (struct vb_range){0, UINT64_MAX});
    for (; p && r == 0; p = vb_emulated_table_next(p))
        if ((p->iova.first | (p->iova.last + 1) | p->offset) & mask)
            r = vb_refuse(e, VB_RESERVED,
                          "the mapping 0x%" PRIx64 "-0x%" PRIx64 " is not made of the pages of %s that %s has",
                          p->iova.first, p->iova.last, VB_SIZE(k->page_size), d->address);
    return r;
}
