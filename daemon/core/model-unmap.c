/* Unmapping in batches: see model.h. The kernel empties first, then the model forgets and the ledger is released. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/model.h"
#include "proto/cleanup.h"

static const struct vb_range everything = {0, UINT64_MAX};

static void forget(struct vb_model *m, struct vb_space *s, struct vb_mapping *mapping) {
    s->mappings--;
    s->mapped_bytes -= vb_range_size(mapping->iova);
    m->mappings--;
    mapping->memory->mappings--;
    vb_ledger_release(&m->ledger, vb_mapping_uncharge(&s->tree, mapping));
    vb_mapping_free(mapping);
}

/* Pins have to end before: session/park.c waits for them. */
static int no_pins(struct vb_space *s, struct vb_range r, struct vb_error *e) {
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
        if (!vb_range_contains(r, mapping->iova)) {
            vb_error_conflict(e, r.first, r.last, mapping->iova.first, mapping->iova.last, "mapping", NULL);
            return vb_refuse(e, VB_INVALID,
                             "0x%" PRIx64 "-0x%" PRIx64 " cuts the mapping 0x%" PRIx64 "-0x%" PRIx64
                             " of space %" PRIu32 "; unmap whole mappings",
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

/* Maps again what the kernel has unmapped of `r`; with `probe` it is not known which those are, since the kernel failed
 * somewhere inside. What cannot be mapped again is gone, so the model forgets it. Returns how many, ret_first: the first. */
static uint64_t restore(struct vb_model *m, struct vb_space *s, struct vb_range r, bool probe, uint64_t *ret_first) {
    const struct vb_backend_ops *ops = m->backend->ops;
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
            k = ops->unmap(m->backend, s->handle, &mapping->iova, 1, &ignored, NULL);
            if (k != 0 && k != -ENOENT)
                continue; /* still there */
        }
        k = ops->map(m->backend, s->handle, &again, 1, &ignored, NULL);
        if (k == 0 || k == -EEXIST)
            continue;
        if (lost++ == 0)
            *ret_first = mapping->iova.first;
        forget(m, s, mapping);
    }
    return lost;
}

static int failed(struct vb_model *m, struct vb_space *s, const struct vb_range *ranges, size_t n, size_t done, int r,
                  struct vb_error *e) {
    uint64_t first = 0, lost = 0, here;
    size_t i, length;

    for (i = 0; i < n; i++)
        mark(s, ranges[i], false);
    for (i = 0; i <= done && i < n; i++) {
        here = first;
        lost += restore(m, s, ranges[i], i == done, lost ? &here : &first);
    }
    if (e && lost) {
        length = strlen(e->text);
        snprintf(e->text + length, sizeof(e->text) - length,
                 "; %" PRIu64 " mappings of space %" PRIu32 ", the first at 0x%" PRIx64
                 ", could not be restored and are gone",
                 lost, s->id, first);
    }
    return r;
}

static int unmap_ranges(struct vb_model *m, struct vb_space *s, const struct vb_range *ranges, size_t n,
                        uint64_t *ret_mappings, uint64_t *ret_bytes, struct vb_error *e) {
    struct vb_mapping *mapping, *next;
    uint64_t mappings = 0, bytes = 0;
    size_t i, done = 0;
    int r;

    r = m->backend->ops->unmap(m->backend, s->handle, ranges, n, &done, e);
    if (r != 0) {
        if (ranges != &everything)
            vb_error_entry(e, (uint32_t)done);
        return failed(m, s, ranges, n, done, r, e);
    }
    for (i = 0; i < n; i++)
        for (mapping = vb_mapping_first(&s->tree, ranges[i]); mapping && mapping->iova.first <= ranges[i].last;
             mapping = next) {
            next = vb_mapping_next(mapping);
            mappings++;
            bytes += vb_range_size(mapping->iova);
            forget(m, s, mapping);
        }
    *ret_mappings = mappings;
    *ret_bytes = bytes;
    return 0;
}

int vb_model_unmap(struct vb_model *m, uint32_t space, const struct vb_unmap_entry *entries, size_t n,
                   uint64_t *ret_mappings, uint64_t *ret_bytes, struct vb_error *e) {
    struct vb_space *s = vb_model_space(m, space, e);
    VB_FREE struct vb_range *ranges = NULL;
    struct vb_range range;
    size_t i, found = 0;
    int r = 0;

    if (!s)
        return VB_NOT_FOUND;
    if (n == 0 || n > VB_BATCH_MAX)
        return vb_refuse(e, VB_INVALID, "a batch has 1 to %u entries, not %zu", VB_BATCH_MAX, n);
    ranges = malloc(n * sizeof(*ranges));
    if (!ranges)
        return vb_fail(e, -ENOMEM, "batch of %zu ranges", n);
    for (i = 0; i < n && r == 0; i++) {
        if (!vb_range_from(entries[i].iova, entries[i].size, &range))
            r = vb_refuse(e, VB_INVALID, "IOVA 0x%" PRIx64 " with size 0x%" PRIx64 " is no range", entries[i].iova,
                          entries[i].size);
        else
            r = find(s, range, &ranges[i], e);
        if (r != 0) {
            vb_error_entry(e, (uint32_t)i);
        } else {
            mark(s, ranges[i], true);
            found++;
        }
    }
    for (i = 0; i < n && r == 0 && s->n_pins; i++) { /* last: only what could be unmapped makes pinners give up pins */
        r = no_pins(s, ranges[i], e);
        if (r != 0)
            vb_error_entry(e, (uint32_t)i);
    }
    if (r == 0)
        return unmap_ranges(m, s, ranges, n, ret_mappings, ret_bytes, e);
    while (found)
        mark(s, ranges[--found], false);
    return r;
}

int vb_model_unmap_all(struct vb_model *m, uint32_t space, uint64_t *ret_mappings, uint64_t *ret_bytes,
                       struct vb_error *e) {
    struct vb_space *s = vb_model_space(m, space, e);
    int r;

    if (!s)
        return VB_NOT_FOUND;
    if (!s->mappings) {
        *ret_mappings = *ret_bytes = 0;
        return 0;
    }
    r = no_pins(s, everything, e);
    if (r != 0)
        return r;
    return unmap_ranges(m, s, &everything, 1, ret_mappings, ret_bytes, e);
}
