/* Discards: see model.h. Between begin and end the mappings are pending: they have their IOVAs, are counted and paid, so
 * that nobody else can take place or limit; but no domain has them. So the ledger is never below what the kernel has. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/select.h"
#include "proto/cleanup.h"

#define AGAIN_BATCH 256

static const struct vb_range everything = {0, UINT64_MAX};

static void take_out(struct vb_space *s, struct vb_mapping *mapping) {
    vb_domains_count(s, mapping, false);
    mapping->pending = true;
    s->mappings--;
    s->mapped_bytes -= vb_range_size(mapping->iova);
    s->discarded++;
}

static void put_back(struct vb_space *s, struct vb_mapping *mapping) {
    mapping->pending = false;
    mapping->written |= s->dirty;
    s->mappings++;
    s->mapped_bytes += vb_range_size(mapping->iova);
    s->discarded--;
    vb_domains_count(s, mapping, true);
}

int vb_model_discard(struct vb_model *m, uint32_t space, const struct vb_unmap_entry *entries, size_t n,
                     uint64_t *ret_mappings, uint64_t *ret_bytes, struct vb_error *e) {
    struct vb_space *s = vb_model_space(m, space, e);
    struct vb_selection sel;
    struct vb_mapping *p;
    size_t done = 0;
    int r;

    if (!s)
        return VB_NOT_FOUND;
    if (s->discarded)
        return vb_refuse(e, VB_BUSY, "a discard of space %" PRIu32 " is under way; end it first", s->id);
    r = vb_select(m, s, entries, n, &sel, e);
    if (r != 0)
        return r;
    r = vb_domains_unmap(m, s, sel.ranges, sel.n, &done, e);
    if (r != 0) {
        vb_error_entry(e, (uint32_t)done);
        return vb_unmap_failed(m, s, &sel, done, r, e);
    }
    *ret_mappings = *ret_bytes = 0;
    for (size_t i = 0; i < sel.n; i++)
        for (p = vb_mapping_first(&s->tree, sel.ranges[i]); p && p->iova.first <= sel.ranges[i].last;
             p = vb_mapping_next(p)) {
            take_out(s, p);
            ++*ret_mappings;
            *ret_bytes += vb_range_size(p->iova);
        }
    vb_selection_end(s, &sel);
    return 0;
}

/* ---- the end ---- */

static struct vb_mapping *next_out(struct vb_mapping *p) {
    while (p && !p->pending)
        p = vb_mapping_next(p);
    return p;
}

static struct vb_mapping *first_out(struct vb_space *s) {
    return next_out(vb_mapping_first(&s->tree, everything));
}

static int recheck(struct vb_model *m, struct vb_space *s, struct vb_error *e) {
    const uint64_t stamp = 2 * ++m->batch; /* as in model-map.c */
    struct vb_mapping *p;
    int r;

    for (p = first_out(s); p; p = next_out(vb_mapping_next(p))) {
        const bool write = p->prot & VB_PROT_WRITE;

        if (p->memory->checked >= stamp + write)
            continue;
        r = vb_memory_recheck(p->memory, write, e);
        if (r != 0)
            return r;
        p->memory->checked = stamp + write;
    }
    return 0;
}

/* All of them, in batches. `maps` is room for one. On failure those that were mapped are taken out again. */
static int map_again(struct vb_model *m, struct vb_space *s, struct vb_backend_map *maps, struct vb_error *e) {
    struct vb_mapping *p;
    size_t n = 0, done, ignored;
    int r = 0;

    for (p = first_out(s); p && r == 0;) {
        maps[n++] = (struct vb_backend_map){.iova = p->iova.first,
                                            .size = vb_range_size(p->iova),
                                            .memory = p->memory->handle,
                                            .offset = p->offset,
                                            .prot = p->prot};
        p = next_out(vb_mapping_next(p));
        if (n == AGAIN_BATCH || !p) {
            r = vb_domains_map(m, s, maps, n, false, &done, e);
            n = 0;
        }
    }
    if (r == 0)
        return 0;
    for (p = first_out(s); p; p = next_out(vb_mapping_next(p)))
        vb_domains_unmap(m, s, &p->iova, 1, &ignored, NULL);
    return r;
}

static void forget_all(struct vb_model *m, struct vb_space *s) {
    struct vb_mapping *p, *next;

    for (p = first_out(s); p; p = next) {
        next = next_out(vb_mapping_next(p));
        vb_unmap_forget(m, s, p);
    }
}

int vb_model_discard_end(struct vb_model *m, uint32_t space, bool again, struct vb_error *e) {
    VB_FREE struct vb_backend_map *maps = again ? malloc(AGAIN_BATCH * sizeof(*maps)) : NULL;
    struct vb_space *s = vb_model_space(m, space, e);
    struct vb_mapping *p;
    size_t length;
    int r = 0;

    if (!s)
        return VB_NOT_FOUND;
    if (!s->discarded)
        return vb_refuse(e, VB_STATE, "nothing of space %" PRIu32 " is being discarded", s->id);
    if (again && !maps)
        return vb_fail(e, -ENOMEM, "end of a discard");
    if (again)
        r = vb_domains_info(m, s, e);
    if (r == 0 && again)
        r = recheck(m, s, e);
    if (r == 0 && again)
        r = map_again(m, s, maps, e);
    if (r == 0 && again) {
        for (p = first_out(s); p; p = next_out(vb_mapping_next(p)))
            put_back(s, p);
        return 0;
    }
    if (r != 0 && e) {
        e->has_entry = false;
        length = strlen(e->text);
        snprintf(e->text + length, sizeof(e->text) - length, "; the %" PRIu64 " mappings of the discard are gone",
                 s->discarded);
    }
    forget_all(m, s);
    return r;
}
