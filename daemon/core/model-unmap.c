/* Unmapping in batches: see model.h. The kernel empties first, then the model forgets and the ledger is released. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/select.h"

static const struct vb_range everything = {0, UINT64_MAX};

void vb_unmap_forget(struct vb_model *m, struct vb_space *s, struct vb_mapping *mapping) {
    if (mapping->pending) {
        s->discarded--;
    } else {
        s->mappings--;
        s->mapped_bytes -= vb_range_size(mapping->iova);
        vb_domains_count(s, mapping, false);
    }
    m->mappings--;
    mapping->memory->mappings--;
    vb_ledger_release(&m->ledger, vb_mapping_uncharge(&s->tree, mapping));
    vb_mapping_free(mapping);
}

/* Maps again what the kernel has unmapped of `r`; with `probe` it is not known which those are, since the kernel failed
 * somewhere inside. What cannot be mapped again is gone, so the model forgets it. Returns how many, ret_first: the first. */
static uint64_t restore(struct vb_model *m, struct vb_space *s, struct vb_range r, bool probe, uint64_t *ret_first) {
    struct vb_mapping *mapping, *next;
    uint64_t lost = 0;
    size_t ignored;
    int k;

    for (mapping = vb_mapping_first(&s->tree, r); mapping && mapping->iova.first <= r.last; mapping = next) {
        const struct vb_backend_map again = {.iova = mapping->iova.first,
                                             .size = vb_range_size(mapping->iova),
                                             .memory = mapping->memory->handle,
                                             .offset = mapping->offset,
                                             .prot = mapping->prot};

        next = vb_mapping_next(mapping);
        if (probe) {
            k = vb_domains_unmap(m, s, &mapping->iova, 1, &ignored, NULL);
            if (k != 0 && k != -ENOENT) { /* still there, in one domain at least: then in all */
                vb_domains_map(m, s, &again, 1, true, &ignored, NULL);
                continue;
            }
        }
        k = vb_domains_map(m, s, &again, 1, true, &ignored, NULL);
        mapping->written |= s->dirty;
        if (k == 0)
            continue;
        vb_domains_unmap(m, s, &mapping->iova, 1, &ignored, NULL);
        if (lost++ == 0)
            *ret_first = mapping->iova.first;
        vb_unmap_forget(m, s, mapping);
    }
    return lost;
}

int vb_unmap_failed(struct vb_model *m, struct vb_space *s, struct vb_selection *sel, size_t done, int r,
                    struct vb_error *e) {
    uint64_t first = 0, lost = 0, here;
    size_t i, length;

    for (i = 0; i <= done && i < sel->n; i++) {
        here = first;
        lost += restore(m, s, sel->ranges[i], i == done, lost ? &here : &first);
    }
    vb_selection_end(s, sel);
    if (e && lost) {
        length = strlen(e->text);
        snprintf(e->text + length, sizeof(e->text) - length,
                 "; %" PRIu64 " mappings of space %" PRIu32 ", the first at 0x%" PRIx64
                 ", could not be restored and are gone",
                 lost, s->id, first);
    }
    return r;
}

static int unmap_selected(struct vb_model *m, struct vb_space *s, struct vb_selection *sel, uint64_t *ret_mappings,
                          uint64_t *ret_bytes, struct vb_error *e) {
    struct vb_mapping *mapping, *next;
    uint64_t mappings = 0, bytes = 0;
    size_t i, done = 0;
    int r;

    r = vb_domains_unmap(m, s, sel->ranges, sel->n, &done, e);
    if (r != 0) {
        vb_error_entry(e, (uint32_t)done);
        return vb_unmap_failed(m, s, sel, done, r, e);
    }
    for (i = 0; i < sel->n; i++)
        for (mapping = vb_mapping_first(&s->tree, sel->ranges[i]);
             mapping && mapping->iova.first <= sel->ranges[i].last; mapping = next) {
            next = vb_mapping_next(mapping);
            mappings++;
            bytes += vb_range_size(mapping->iova);
            vb_unmap_forget(m, s, mapping);
        }
    vb_selection_end(s, sel);
    *ret_mappings = mappings;
    *ret_bytes = bytes;
    return 0;
}

int vb_model_unmap(struct vb_model *m, uint32_t space, const struct vb_unmap_entry *entries, size_t n,
                   uint64_t *ret_mappings, uint64_t *ret_bytes, struct vb_error *e) {
    struct vb_space *s = vb_model_space(m, space, e);
    struct vb_selection sel;
    int r;

    if (!s)
        return VB_NOT_FOUND;
    r = vb_select(m, s, entries, n, &sel, e);
    return r == 0 ? unmap_selected(m, s, &sel, ret_mappings, ret_bytes, e) : r;
}

int vb_model_unmap_all(struct vb_model *m, uint32_t space, uint64_t *ret_mappings, uint64_t *ret_bytes,
                       struct vb_error *e) {
    struct vb_space *s = vb_model_space(m, space, e);
    struct vb_selection sel = {.n = 1};
    int r;

    if (!s)
        return VB_NOT_FOUND;
    if (s->discarded)
        return vb_refuse(e, VB_BUSY, "%" PRIu64 " mappings of space %" PRIu32 " are being discarded; end that first",
                         s->discarded, s->id);
    if (!s->mappings) {
        *ret_mappings = *ret_bytes = 0;
        return 0;
    }
    r = vb_select_unpinned(s, everything, e);
    if (r != 0)
        return r;
    sel.ranges = malloc(sizeof(*sel.ranges));
    if (!sel.ranges)
        return vb_fail(e, -ENOMEM, "unmapping space %" PRIu32, s->id);
    sel.ranges[0] = everything;
    r = unmap_selected(m, s, &sel, ret_mappings, ret_bytes, e);
    if (r != 0 && e)
        e->has_entry = false;
    return r;
}
