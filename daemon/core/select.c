#include "core/select.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/* Pins have to end before: session/park.c waits for them. */
int vb_select_unpinned(struct vb_space *s, struct vb_range r, struct vb_error *e) {
    const struct vb_pin *pin = vb_pin_overlapping(s, NULL, r);

    if (!pin)
        return 0;
    return vb_refuse(e, VB_BUSY, "0x%" PRIx64 "-0x%" PRIx64 " of space %" PRIu32 " is pinned (pin %" PRIu32 ")",
                     pin->iova.first, pin->iova.last, s->id, pin->id);
}

/* Which mappings does the range cover? It is narrowed to them, so that ranges overlap only where they share a mapping. */
static int find(struct vb_space *s, struct vb_range r, struct vb_range *ret_narrow, struct vb_error *e) {
    struct vb_mapping *mapping, *last = NULL, *first = vb_mapping_first(&s->tree, r);

    for (mapping = first; mapping && mapping->iova.first <= r.last; mapping = vb_mapping_next(mapping)) {
        if (mapping->leaving)
            return vb_refuse(e, VB_INVALID,
                             "0x%" PRIx64 "-0x%" PRIx64 " covers the mapping at 0x%" PRIx64
                             ", which another entry of the same request covers too",
                             r.first, r.last, mapping->iova.first);
        if (mapping->pending)
            return vb_refuse(e, VB_BUSY, "the mapping at 0x%" PRIx64 " of space %" PRIu32 " is being discarded",
                             mapping->iova.first, s->id);
        if (!vb_range_contains(r, mapping->iova)) {
            vb_error_conflict(e, r.first, r.last, mapping->iova.first, mapping->iova.last, "mapping", NULL);
            return vb_refuse(e, VB_INVALID,
                             "0x%" PRIx64 "-0x%" PRIx64 " cuts the mapping 0x%" PRIx64 "-0x%" PRIx64
                             " of space %" PRIu32 "; name whole mappings",
                             r.first, r.last, mapping->iova.first, mapping->iova.last, s->id);
        }
        last = mapping;
    }
    if (!last)
        return vb_refuse(e, VB_NOT_FOUND, "nothing is mapped at 0x%" PRIx64 "-0x%" PRIx64 " of space %" PRIu32, r.first,
                         r.last, s->id);
    *ret_narrow = (struct vb_range){first->iova.first, last->iova.last};
    return 0;
}

static void mark(struct vb_space *s, struct vb_range r, bool leaving) {
    struct vb_mapping *mapping;

    for (mapping = vb_mapping_first(&s->tree, r); mapping && mapping->iova.first <= r.last;
         mapping = vb_mapping_next(mapping))
        mapping->leaving = leaving;
}

void vb_selection_end(struct vb_space *s, struct vb_selection *sel) {
    while (sel->n)
        mark(s, sel->ranges[--sel->n], false);
    free(sel->ranges);
    sel->ranges = NULL;
}

int vb_select(struct vb_model *m, struct vb_space *s, const struct vb_unmap_entry *entries, size_t n,
              struct vb_selection *ret, struct vb_error *e) {
    struct vb_selection sel = {.n = 0};
    struct vb_range range;
    size_t i;
    int r = 0;

    (void)m;
    if (n == 0 || n > VB_BATCH_MAX)
        return vb_refuse(e, VB_INVALID, "a batch has 1 to %u entries, not %zu", VB_BATCH_MAX, n);
    sel.ranges = malloc(n * sizeof(*sel.ranges));
    if (!sel.ranges)
        return vb_fail(e, -ENOMEM, "batch of %zu ranges", n);
    for (i = 0; i < n && r == 0; i++) {
        if (!vb_range_from(entries[i].iova, entries[i].size, &range))
            r = vb_refuse(e, VB_INVALID, "IOVA 0x%" PRIx64 " with size 0x%" PRIx64 " is no range", entries[i].iova,
                          entries[i].size);
        else
            r = find(s, range, &sel.ranges[i], e);
        if (r != 0)
            vb_error_entry(e, (uint32_t)i);
        else
            mark(s, sel.ranges[sel.n++], true);
    }
    for (i = 0; i < n && r == 0 && s->n_pins; i++) { /* last: only what could be unmapped makes pinners give up pins */
        r = vb_select_unpinned(s, sel.ranges[i], e);
        if (r != 0)
            vb_error_entry(e, (uint32_t)i);
    }
    if (r != 0) {
        vb_selection_end(s, &sel);
        return r;
    }
    *ret = sel;
    return 0;
}
