/* Dirty tracking over all domains of a space: see model.h. A page that any device wrote is dirty. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/model.h"
#include "proto/cleanup.h"

static void all_off(struct vb_model *m, struct vb_space *s, const struct vb_domain *end) {
    struct vb_domain *dom;

    TAILQ_FOREACH (dom, &s->domains, entry) {
        if (dom == end)
            return;
        m->backend->ops->dirty_set(m->backend, dom->handle, false, NULL,
                                   NULL); /* without devices too: they may have gone */
        dom->tracked = false;
    }
}

int vb_model_dirty_set(struct vb_model *m, uint32_t space, bool on, struct vb_dirty_info *ret_info,
                       struct vb_error *e) {
    struct vb_space *s = vb_model_space(m, space, e);
    const struct vb_backend_ops *ops = m->backend->ops;
    struct vb_dirty_info sum = {0}, info;
    struct vb_domain *dom;
    int r;

    if (!s)
        return VB_NOT_FOUND;
    if (!on) {
        if (s->dirty)
            all_off(m, s, NULL);
        s->dirty = false;
        return 0;
    }
    if (!ops->dirty_set)
        return vb_refuse(e, VB_UNSUPPORTED, "the backend %s has no dirty tracking", ops->name);
    if (s->devices == 0)
        return vb_refuse(e, VB_STATE,
                         "space %" PRIu32 " has no devices, whose IOMMU would have to tell; attach them first", s->id);
    if (s->dirty)
        return vb_refuse(e, VB_STATE, "dirty tracking of space %" PRIu32 " is on; stop it first", s->id);
    TAILQ_FOREACH (dom, &s->domains, entry) {
        if (!dom->devices)
            continue;
        r = ops->dirty_set(m->backend, dom->handle, true, &info, e);
        if (r != 0) {
            all_off(m, s, dom);
            return r;
        }
        dom->tracked = true;
        if (info.page_size > sum.page_size)
            sum.page_size = info.page_size;
        sum.coarse |= info.coarse;
    }
    for (struct vb_mapping *p = vb_mapping_first(&s->tree, (struct vb_range){0, UINT64_MAX}); p; p = vb_mapping_next(p))
        p->written = false;
    s->dirty = true;
    s->dirty_info = sum;
    if (ret_info)
        *ret_info = sum;
    return 0;
}

/* Everything from `at` on. */
static void set_bits(uint64_t *to, uint64_t at, uint64_t n) {
    for (uint64_t i = at; i < at + n; i++)
        to[i / 64] |= (uint64_t)1 << (i % 64);
}

static void or_bits(uint64_t *to, uint64_t at, const uint64_t *from, uint64_t n) {
    for (uint64_t i = 0; i < n; i++)
        if (from[i / 64] >> (i % 64) & 1)
            to[(at + i) / 64] |= (uint64_t)1 << ((at + i) % 64);
}

/* Do the same domains have both? */
static bool same_domains(struct vb_space *s, const struct vb_mapping *a, const struct vb_mapping *b) {
    struct vb_domain *dom;

    TAILQ_FOREACH (dom, &s->domains, entry)
        if (dom->leaves_out &&
            vb_domain_fits(&dom->info, a->iova, a->offset) != vb_domain_fits(&dom->info, b->iova, b->offset))
            return false;
    return true;
}

/* A run of neighbouring mappings that the same domains have, `like` among them: where something is not mapped the kernel stops
 * without a word (backend/iommufd-dirty.c). Also where no device is any more: what it wrote before it left. `bits` is room. */
static int read_run(struct vb_model *m, struct vb_space *s, struct vb_range run, const struct vb_mapping *like,
                    uint64_t first, uint64_t page, bool keep, uint64_t *bits, uint64_t *bitmap, struct vb_error *e) {
    const uint64_t n = vb_range_size(run) / page;
    struct vb_domain *dom;
    int r = 0;

    memset(bits, 0, (n + 63) / 64 * sizeof(*bits));
    TAILQ_FOREACH (dom, &s->domains, entry) {
        if (dom->leaves_out && !vb_domain_fits(&dom->info, like->iova, like->offset))
            continue;
        r = m->backend->ops->dirty_read(m->backend, dom->handle, run, page, keep, bits, e);
        if (r != 0)
            break;
    }
    or_bits(bitmap, (run.first - first) / page, bits, n);
    return r;
}

static int check(struct vb_space *s, struct vb_range range, uint64_t page, struct vb_error *e) {
    struct vb_mapping *p;

    if (!s->dirty)
        return vb_refuse(e, VB_STATE, "dirty tracking of space %" PRIu32 " is not on", s->id);
    if (page < s->dirty_info.page_size || (page & (page - 1)) != 0)
        return vb_refuse(e, VB_INVALID, "dirty pages of %" PRIu64 " bytes cannot be told: a power of 2, %s or more",
                         page, VB_SIZE(s->dirty_info.page_size));
    if ((range.first | (range.last + 1)) & (page - 1))
        return vb_refuse(e, VB_INVALID, "0x%" PRIx64 "-0x%" PRIx64 " must be a multiple of %s", range.first, range.last,
                         VB_SIZE(page));
    if ((range.last - range.first) / page >= VB_DIRTY_PAGES_MAX)
        return vb_refuse(e, VB_LIMIT, "0x%" PRIx64 "-0x%" PRIx64 " has more than %u pages; read it in parts",
                         range.first, range.last, VB_DIRTY_PAGES_MAX);
    for (p = vb_mapping_first(&s->tree, range); p && p->iova.first <= range.last; p = vb_mapping_next(p)) {
        if (p->pending)
            return vb_refuse(e, VB_BUSY, "the mapping at 0x%" PRIx64 " is being discarded", p->iova.first);
        if (!vb_range_contains(range, p->iova) || (p->iova.first | (p->iova.last + 1)) & (page - 1)) {
            vb_error_conflict(e, range.first, range.last, p->iova.first, p->iova.last, "mapping", NULL);
            return vb_refuse(e, VB_INVALID,
                             "0x%" PRIx64 "-0x%" PRIx64 " in pages of %s cuts the mapping 0x%" PRIx64 "-0x%" PRIx64
                             "; name whole mappings",
                             range.first, range.last, VB_SIZE(page), p->iova.first, p->iova.last);
        }
    }
    return 0;
}

int vb_model_dirty_read(struct vb_model *m, uint32_t space, struct vb_range range, uint64_t page, bool keep,
                        uint64_t *bitmap, struct vb_error *e) {
    struct vb_space *s = vb_model_space(m, space, e);
    VB_FREE uint64_t *bits = NULL;
    struct vb_mapping *p;
    int r;

    if (!s)
        return VB_NOT_FOUND;
    r = check(s, range, page, e);
    if (r != 0)
        return r;
    bits = malloc((vb_range_size(range) / page + 63) / 64 * sizeof(*bits));
    if (!bits)
        return vb_fail(e, -ENOMEM, "bitmap of 0x%" PRIx64 "-0x%" PRIx64, range.first, range.last);
    for (p = vb_mapping_first(&s->tree, range); p && p->iova.first <= range.last && r == 0;) {
        const struct vb_mapping *like = p;
        struct vb_range run = p->iova;

        for (p = vb_mapping_next(p);
             p && p->iova.first == run.last + 1 && p->iova.first <= range.last && same_domains(s, like, p);
             p = vb_mapping_next(p))
            run.last = p->iova.last;
        r = read_run(m, s, run, like, range.first, page, keep, bits, bitmap, e);
    }
    for (p = vb_mapping_first(&s->tree, range); p && p->iova.first <= range.last && r == 0; p = vb_mapping_next(p)) {
        if (!p->written)
            continue;
        set_bits(bitmap, (p->iova.first - range.first) / page, vb_range_size(p->iova) / page);
        p->written = keep;
    }
    return r;
}
