#include "core/conflict.h"

#include <inttypes.h>
#include <unistd.h>

#include "core/domain.h"

bool vb_conflict_reserved(struct vb_error *e, struct vb_range r, const struct vb_device *d) {
    bool any = false;

    for (uint32_t i = 0; i < d->n_reserved; i++)
        if (vb_range_overlaps(d->reserved[i].range, r)) {
            any = true;
            vb_error_conflict(e, r.first, r.last, d->reserved[i].range.first, d->reserved[i].range.last,
                              d->reserved[i].kind, d->address);
        }
    return any;
}

/* The gaps before, between and behind the usable ranges. */
static bool aperture(struct vb_error *e, struct vb_range r, const struct vb_space_info *info, const char *device) {
    uint64_t gap = 0;
    bool any = false;

    for (uint32_t i = 0; i <= info->n_usable; i++) {
        const bool behind = i == info->n_usable;

        if (behind || info->usable[i].first > gap) {
            const struct vb_range hole = {gap, behind ? UINT64_MAX : info->usable[i].first - 1};

            if (vb_range_overlaps(hole, r)) {
                any = true;
                vb_error_conflict(e, r.first, r.last, hole.first, hole.last, "aperture", device);
            }
        }
        if (behind || info->usable[i].last == UINT64_MAX)
            break;
        gap = info->usable[i].last + 1;
    }
    return any;
}

bool vb_conflict_usable(struct vb_error *e, struct vb_range r, uint64_t offset, const struct vb_space_info *info,
                        const char *device) {
    const uint64_t page = info->page_sizes & -info->page_sizes;

    if (vb_domain_fits(info, r, offset))
        return false;
    if (!aperture(e, r, info, device)) /* adjacent usable ranges, which the kernel does not join, or its alignment */
        vb_error_conflict(e, r.first, r.last, 0, page - 1, "alignment", device);
    return true;
}

/* Is there any mapping that the device cannot reach? Asked of the tree for each range that it cannot, since spaces have many
 * mappings and nearly never a conflict. Pending ones may be found too. */
static bool any_conflict(struct vb_space *s, const struct vb_device *d, const struct vb_space_info *info) {
    uint64_t gap = 0;

    for (uint32_t i = 0; i < d->n_reserved; i++)
        if (vb_mapping_first(&s->tree, d->reserved[i].range))
            return true;
    if (!info)
        return false;
    if ((info->page_sizes & -info->page_sizes) > (uint64_t)sysconf(_SC_PAGESIZE)) /* mappings are of host pages */
        return true;
    for (uint32_t i = 0; i < info->n_usable; i++) {
        const struct vb_range r = info->usable[i];

        if (r.first > gap && vb_mapping_first(&s->tree, (struct vb_range){gap, r.first - 1}))
            return true;
        if (r.last == UINT64_MAX)
            return false;
        gap = r.last + 1;
        if (i + 1 < info->n_usable && info->usable[i + 1].first == gap) /* one that lies across is in neither */
            return true;
    }
    return vb_mapping_first(&s->tree, (struct vb_range){gap, UINT64_MAX});
}

uint64_t vb_conflict_mappings(struct vb_error *e, struct vb_space *s, const struct vb_device *d,
                              const struct vb_space_info *info, struct vb_range *ret_first) {
    struct vb_mapping *m;
    uint64_t n = 0;

    if (!any_conflict(s, d, info))
        return 0;

    for (m = vb_mapping_first(&s->tree, (struct vb_range){0, UINT64_MAX}); m; m = vb_mapping_next(m)) {
        if (m->pending || (!vb_conflict_reserved(e, m->iova, d) &&
                           (!info || !vb_conflict_usable(e, m->iova, m->offset, info, d->address))))
            continue;
        if (n++ == 0)
            *ret_first = m->iova;
    }
    return n;
}

int vb_conflict_needs(struct vb_error *e, const struct vb_space *s, const struct vb_device *d,
                      const struct vb_space_info *info) {
    const uint64_t page = info ? info->page_sizes & -info->page_sizes : 1; /* what is needed is mapped in whole pages */

    for (uint32_t i = 0; i < s->n_needs; i++) {
        const struct vb_range r = {s->needs[i].first & ~(page - 1), s->needs[i].last | (page - 1)};

        if (vb_conflict_reserved(e, s->needs[i], d) || (info && vb_conflict_usable(e, r, 0, info, d->address)))
            return vb_refuse(e, VB_RESERVED,
                             "space %" PRIu32 " needs 0x%" PRIx64 "-0x%" PRIx64
                             ", of which device %s cannot use all; attach it leaving out, or need less",
                             s->id, s->needs[i].first, s->needs[i].last, d->address);
    }
    return 0;
}
