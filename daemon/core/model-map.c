/* Mapping in batches: see model.h.
 *
 * Every entry is checked and takes its range in the tree as a pending mapping, which also finds overlaps inside the
 * batch, and its bytes in the memory's charge; then all that is new is paid at once; then the backend is asked. A failure
 * anywhere gives everything back. Between batches, ledger.used is the sum of vb_charge_paid() of all memories. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "core/conflict.h"
#include "core/model.h"
#include "proto/cleanup.h"

struct batch {
    struct vb_model *m;
    struct vb_space *s;
    const struct vb_map_entry *entries;
    struct vb_mapping **taken; /* n_taken of them, in the tree and the extents */
    size_t n, n_taken;
    bool paid;
};

/* Names every reserved region of a device that it runs into, else the edge of what can be addressed. */
static int not_usable(struct vb_model *m, struct vb_space *s, struct vb_range r, uint64_t offset, struct vb_error *e) {
    const struct vb_domain *dom;
    bool known = false;
    uint32_t i;

    for (i = 0; i < m->devices.n; i++) {
        const struct vb_device *d = m->devices.items[i];

        if (d->space == s && !d->domain->leaves_out)
            known |= vb_conflict_reserved(e, r, d);
    }
    for (i = 0; !known && i < m->devices.n; i++) {
        const struct vb_device *d = m->devices.items[i];

        dom = d->space == s ? d->domain : NULL;
        if (dom && !dom->leaves_out) /* the edge of its domain: of one of the devices there */
            known |= vb_conflict_usable(e, r, offset, &dom->info, d->address);
    }
    if (!known)
        vb_conflict_usable(e, r, offset, &s->info, NULL);
    if (e && e->n_conflicts)
        return vb_refuse(e, VB_RESERVED,
                         "IOVAs 0x%" PRIx64 "-0x%" PRIx64 " run into 0x%" PRIx64 "-0x%" PRIx64
                         " (%s), which %s%s of space %" PRIu32
                         " cannot use; keep them free, or attach it leaving them out",
                         r.first, r.last, e->conflicts[0].with_first, e->conflicts[0].with_last, e->conflicts[0].kind,
                         e->conflicts[0].device[0] ? "device " : "the devices", e->conflicts[0].device, s->id);
    return vb_refuse(e, VB_RESERVED, "the devices of space %" PRIu32 " cannot use IOVAs 0x%" PRIx64 "-0x%" PRIx64,
                     s->id, r.first, r.last);
}

static int check_entry(struct vb_model *m, struct vb_space *s, const struct vb_map_entry *t, struct vb_range *ret_range,
                       struct vb_memory **ret_memory, struct vb_error *e) {
    const uint64_t page = s->info.page_sizes & -s->info.page_sizes;
    struct vb_memory *memory;
    struct vb_range r;
    uint32_t i;

    if (!vb_range_from(t->iova, t->size, &r))
        return vb_refuse(e, VB_INVALID,
                         t->size ? "IOVA 0x%" PRIx64 " + size 0x%" PRIx64 " passes 2^64"
                                 : "mapping at IOVA 0x%" PRIx64 " has size %" PRIu64,
                         t->iova, t->size);
    if ((t->iova | t->size | t->offset) & (page - 1))
        return vb_refuse(e, VB_INVALID,
                         "IOVA 0x%" PRIx64 ", size 0x%" PRIx64 " and offset 0x%" PRIx64 " must be multiples of %s",
                         t->iova, t->size, t->offset, VB_SIZE(page));
    if (!(t->prot & VB_PROT_READ) || (t->prot & ~(uint32_t)(VB_PROT_READ | VB_PROT_WRITE)))
        return vb_refuse(e, VB_INVALID, "prot %" PRIu32 " is neither READ (1) nor READ and WRITE (3)", t->prot);
    memory = vb_table_find(&m->memories, t->memory);
    if (!memory)
        return vb_refuse(e, VB_NOT_FOUND, "no memory %" PRIu32, t->memory);
    if (t->offset > memory->size || t->size > memory->size - t->offset)
        return vb_refuse(e, VB_INVALID,
                         "offset 0x%" PRIx64 " + size 0x%" PRIx64 " passes the end of memory %" PRIu32 " (%s)",
                         t->offset, t->size, t->memory, VB_SIZE(memory->size));
    if ((t->prot & VB_PROT_WRITE) && !memory->writable)
        return vb_refuse(e, VB_BAD_MEMORY,
                         "memory %" PRIu32 " is registered read-only; map it with READ alone, or register it writable",
                         t->memory);
    for (i = 0; i < s->info.n_usable; i++)
        if (vb_range_contains(s->info.usable[i], r))
            break;
    if (i == s->info.n_usable)
        return not_usable(m, s, r, t->offset, e);
    *ret_range = r;
    *ret_memory = memory;
    return 0;
}

static int overlap(struct vb_space *s, struct vb_range r, struct vb_error *e) {
    struct vb_mapping *first = vb_mapping_first(&s->tree, r), *o;
    uint32_t i;

    for (i = 0, o = first; o && o->iova.first <= r.last && i < VB_CONFLICTS_MAX; i++, o = vb_mapping_next(o))
        vb_error_conflict(e, r.first, r.last, o->iova.first, o->iova.last, "mapping", NULL);
    return vb_refuse(e, VB_OVERLAP,
                     "IOVAs 0x%" PRIx64 "-0x%" PRIx64 " overlap %s 0x%" PRIx64 "-0x%" PRIx64 " of space %" PRIu32,
                     r.first, r.last,
                     !first->pending ? "the mapping"
                     : s->discarded  ? "what is being discarded, or another entry of the same request,"
                                     : "another entry of the same request,",
                     first->iova.first, first->iova.last, s->id);
}

static int take(struct batch *b, struct vb_range r, struct vb_memory *memory, const struct vb_map_entry *t,
                struct vb_cost *ret_cost, struct vb_error *e) {
    struct vb_mapping *mapping;
    int k;

    mapping = vb_mapping_new(&b->s->tree);
    if (!mapping)
        return vb_fail(e, -ENOMEM, "mapping");
    mapping->iova = r;
    mapping->offset = t->offset;
    mapping->memory = memory;
    mapping->prot = (uint8_t)t->prot;
    mapping->pending = true;
    mapping->copies = (uint8_t)vb_domains_copies(b->m, b->s, r, t->offset);
    k = vb_mapping_charge(&b->s->tree, mapping, ret_cost);
    if (k != 0)
        vb_mapping_free(mapping);
    if (k == -EEXIST)
        return overlap(b->s, r, e);
    if (k != 0)
        return vb_fail(e, k, "extents of memory %" PRIu32, memory->id);
    memory->mappings++;
    b->m->mappings++;
    b->taken[b->n_taken++] = mapping;
    return 0;
}

/* Gives a mapping back that the backend does not have (any more). */
static void give_back(struct vb_model *m, struct vb_space *s, struct vb_mapping *mapping, bool paid) {
    const struct vb_cost freed = vb_mapping_uncharge(&s->tree, mapping);

    if (paid)
        vb_ledger_release(&m->ledger, freed);
    mapping->memory->mappings--;
    m->mappings--;
    vb_mapping_free(mapping);
}

static void commit(struct vb_space *s, struct vb_mapping *mapping) {
    mapping->pending = false;
    s->mappings++;
    s->mapped_bytes += vb_range_size(mapping->iova);
    vb_domains_count(s, mapping, true);
}

static void undo(struct batch *b) {
    while (b->n_taken)
        give_back(b->m, b->s, b->taken[--b->n_taken], b->paid);
}

/* The file is looked at once for each memory of a batch, and again if a later entry wants to write. memory->checked is
 * twice the batch's number, plus 1 when writing was checked too. */
static int recheck(struct batch *b, size_t *ret_entry, struct vb_error *e) {
    const uint64_t stamp = 2 * ++b->m->batch;
    size_t i;
    int r;

    for (i = 0; i < b->n_taken; i++) {
        struct vb_memory *memory = b->taken[i]->memory;
        const bool write = b->taken[i]->prot & VB_PROT_WRITE;

        if (memory->checked >= stamp + write)
            continue;
        r = vb_memory_recheck(memory, write, e);
        if (r != 0) {
            *ret_entry = i;
            return r;
        }
        memory->checked = stamp + write;
    }
    return 0;
}

/* The backend has failed: whatever is there of the batch is taken out again. What the kernel will not unmap is mapped, so the
 * model keeps it, paid. */
static bool undo_mapped(struct batch *b, const struct vb_backend_map *maps, size_t done, struct vb_error *e) {
    const struct vb_domain *first = TAILQ_FIRST(&b->s->domains);
    const bool one = first && !TAILQ_NEXT(first, entry); /* what that refused is not there */
    size_t i, n, ignored, kept = 0;
    int r;

    for (i = 0; i < b->n; i += n) {
        /* Neighbours at once: a backend may have joined them, and cutting them off one by one would pin the rest each time. */
        struct vb_range range = b->taken[i]->iova;

        for (n = 1; i + n < (one ? done : b->n) && i + n < b->n && b->taken[i + n]->iova.first == range.last + 1; n++)
            range.last = b->taken[i + n]->iova.last;
        r = one && i >= done ? -ENOENT : vb_domains_unmap(b->m, b->s, &range, 1, &ignored, NULL);
        if (n > 1 && (r == 0 || r == -ENOENT)) {
            for (size_t k = 0; k < n; k++)
                give_back(b->m, b->s, b->taken[i + k], true);
            continue;
        }
        n = 1;
        if (range.last != b->taken[i]->iova.last)
            r = vb_domains_unmap(b->m, b->s, &b->taken[i]->iova, 1, &ignored, NULL);
        if (r == 0 || r == -ENOENT) {
            give_back(b->m, b->s, b->taken[i], true);
        } else {
            commit(b->s, b->taken[i]);
            vb_domains_map(b->m, b->s, &maps[i], 1, true, &ignored, NULL); /* in one domain, so in all */
            kept++;
        }
    }
    if (kept) /* has not been seen; nobody may think that these are not mapped */
        vb_refuse(e, VB_BUSY,
                  "the kernel refused this batch, and %zu entries of it could not be undone: they are mapped", kept);
    b->n_taken = 0;
    return kept == 0;
}

/* Why did the backend refuse an entry that we thought good? Devices may have been changed behind our back, and the file
 * may have shrunk after it was looked at. Returns the code to reply. */
static int explain(struct batch *b, const struct vb_map_entry *t, int r, struct vb_error *e) {
    struct vb_memory *memory;
    struct vb_range range;
    int k;

    if (vb_model_space_refresh(b->m, b->s, NULL) == 0) {
        k = check_entry(b->m, b->s, t, &range, &memory, e);
        if (k == 0)
            k = vb_memory_recheck(memory, t->prot & VB_PROT_WRITE, e);
        if (k != 0)
            return k;
    }
    return r;
}

static int map_taken(struct batch *b, struct vb_error *e) {
    VB_FREE struct vb_backend_map *maps = malloc(b->n * sizeof(*maps));
    size_t i, done = 0;
    int r;

    if (!maps) {
        undo(b);
        return vb_fail(e, -ENOMEM, "batch of %zu mappings", b->n);
    }
    for (i = 0; i < b->n; i++)
        maps[i] = (struct vb_backend_map){.iova = b->entries[i].iova,
                                          .size = b->entries[i].size,
                                          .memory = b->taken[i]->memory->handle,
                                          .offset = b->entries[i].offset,
                                          .prot = b->entries[i].prot};
    r = vb_domains_map(b->m, b->s, maps, b->n, false, &done, e);
    if (r == 0) {
        for (i = 0; i < b->n; i++)
            commit(b->s, b->taken[i]);
        return 0;
    }
    vb_error_entry(e, (uint32_t)done);
    if (e && e->has_entry && e->entry < b->n)
        done = e->entry;
    /* What the model does not know of: nobody may reach it, and parts of a large entry may be there by now. */
    if (r == -EEXIST)
        vb_domains_unmap(b->m, b->s, &b->taken[done]->iova, 1, &(size_t){0}, NULL);
    if (r == -EINVAL || r == -EADDRINUSE || r == -EFAULT || r == VB_RESERVED)
        r = explain(b, &b->entries[done], r, e);
    return undo_mapped(b, maps, done, e) ? r : VB_BUSY;
}

int vb_model_map(struct vb_model *m, uint32_t space, const struct vb_map_entry *entries, size_t n, struct vb_error *e) {
    struct vb_space *s = vb_model_space(m, space, e);
    VB_FREE struct vb_mapping **taken = NULL;
    struct batch b = {.m = m, .s = s, .entries = entries, .n = n};
    struct vb_cost cost, total = {0};
    struct vb_memory *memory;
    struct vb_range range;
    size_t i;
    int r = 0;

    if (!s)
        return VB_NOT_FOUND;
    if (n == 0 || n > VB_BATCH_MAX)
        return vb_refuse(e, VB_INVALID, "a batch has 1 to %u entries, not %zu", VB_BATCH_MAX, n);
    if (m->mappings + n > m->mappings_max) {
        vb_error_limit(e, n, m->mappings, m->mappings_max, "mappings of a session");
        return vb_refuse(e, VB_LIMIT,
                         "%zu more mappings are too many: the session has %" PRIu64 " of %" PRIu64
                         " (policy: mappings); map "
                         "larger ranges, unmap something, or have policy grant more",
                         n, m->mappings, m->mappings_max);
    }
    r = vb_domains_info(m, s, e); /* where it is stale */
    if (r != 0)
        return r;
    b.taken = taken = malloc(n * sizeof(*taken));
    if (!taken)
        return vb_fail(e, -ENOMEM, "batch of %zu mappings", n);

    for (i = 0; i < n && r == 0; i++) {
        r = check_entry(m, s, &entries[i], &range, &memory, e);
        if (r == 0)
            r = take(&b, range, memory, &entries[i], &cost, e);
        if (r == 0)
            vb_cost_add(&total, cost);
        else
            vb_error_entry(e, (uint32_t)i);
    }
    if (r == 0) {
        r = vb_ledger_reserve(&m->ledger, total, e);
        b.paid = r == 0;
    }
    if (r == 0) {
        r = recheck(&b, &i, e);
        if (r != 0)
            vb_error_entry(e, (uint32_t)i);
    }
    if (r != 0) {
        undo(&b);
        return r;
    }
    return map_taken(&b, e);
}
