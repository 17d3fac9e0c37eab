/* Dirty tracking of the emulated backend: the DMA engine knows exactly what it wrote. Each entry of a page table has bits of
 * its own, a bit for 4 KiB, from its first write on; they go with it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backend/emulated-private.h"

static uint64_t pages_of(const struct vb_emulated_entry *p) {
    return vb_range_size(p->iova) / VB_EMULATED_PAGE;
}

static size_t words_of(const struct vb_emulated_entry *p) {
    return (size_t)((pages_of(p) + 63) / 64);
}

int vb_emulated_dirty_room(struct vb_emulated_entry *p) {
    if (!p->dirty)
        p->dirty = calloc(words_of(p), sizeof(*p->dirty));
    return p->dirty ? 0 : -ENOMEM;
}

void vb_emulated_dirty_mark(struct vb_emulated_entry *p, struct vb_range written) {
    uint64_t i = (written.first - p->iova.first) / VB_EMULATED_PAGE;
    const uint64_t last = (written.last - p->iova.first) / VB_EMULATED_PAGE;

    for (; i <= last; i++)
        p->dirty[i / 64] |= 1ull << (i % 64);
}

static struct vb_emulated_entry *first_of(struct vb_emulated_domain *d) {
    return vb_emulated_table_first(&d->table, (struct vb_range){0, UINT64_MAX});
}

int vb_emulated_dirty_set(struct vb_backend *b, vb_handle domain, bool on, struct vb_dirty_info *ret,
                          struct vb_error *e) {
    struct vb_emulated *em = (struct vb_emulated *)b;
    struct vb_emulated_domain *d = em->domains[domain];
    struct vb_emulated_entry *p;
    size_t i;
    int r;

    if (on) {
        r = vb_emulated_count(em, VB_EMULATED_DIRTY_SET, e);
        if (r != 0)
            return r;
        for (i = 0; i < VB_EMULATED_DEVICES; i++)
            if (em->devices[i] && em->devices[i]->domain == d && em->devices[i]->kind.no_dirty)
                return vb_refuse(e, VB_UNSUPPORTED, "the IOMMU of %s does not tell what was written",
                                 em->devices[i]->address);
        *ret = (struct vb_dirty_info){.page_size = VB_EMULATED_PAGE, .coarse = em->knobs.coarse};
    }
    for (p = first_of(d); p; p = vb_emulated_table_next(p)) {
        free(p->dirty);
        p->dirty = NULL;
    }
    d->dirty = on;
    return 0;
}

int vb_emulated_dirty_read(struct vb_backend *b, vb_handle domain, struct vb_range range, uint64_t page, bool keep,
                           uint64_t *bitmap, struct vb_error *e) {
    struct vb_emulated *em = (struct vb_emulated *)b;
    struct vb_emulated_domain *d = em->domains[domain];
    struct vb_emulated_entry *p;
    uint64_t i, n;
    int r = vb_emulated_count(em, VB_EMULATED_DIRTY_READ, e);

    if (r != 0)
        return r;
    if (!d->dirty)
        return 0;
    for (p = vb_emulated_table_first(&d->table, range); p && p->iova.first <= range.last;
         p = vb_emulated_table_next(p)) {
        if (!vb_range_contains(range, p->iova))
            return vb_refuse(e, VB_INVALID, "the range cuts a mapping");
        if (!p->dirty && !em->knobs.coarse)
            continue;
        for (i = 0; i < pages_of(p); i++) {
            if (!em->knobs.coarse && !(p->dirty[i / 64] & 1ull << (i % 64)))
                continue;
            n = (p->iova.first - range.first + i * VB_EMULATED_PAGE) / page;
            bitmap[n / 64] |= 1ull << (n % 64);
        }
        if (!keep && p->dirty)
            memset(p->dirty, 0, words_of(p) * sizeof(*p->dirty));
    }
    return 0;
}
