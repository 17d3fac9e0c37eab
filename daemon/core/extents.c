/* Runs meet without a gap and cover 0..size-1; so neighbours may have equal counts, but only where an edge is. A value has
 * the count in its lower half: the mappings that cover the run; and the edges in its upper half: mappings that begin at the
 * run's first offset or end just before it. Edges are 0 only for the run at offset 0 (and may be 0 there).
 * The last offset of a mapping may be the memory's last: there is no run behind it, and no edge. */
#include "core/extents.h"

#include <assert.h>
#include <errno.h>

#define EDGE (1ull << 32)

_Static_assert(2ull * VB_EXTENTS_LIVE_MAX < EDGE, "edges and counts fit: a mapping has one count and two edges");

static uint32_t count_of(uint64_t value) {
    return (uint32_t)value;
}

int vb_extents_init(struct vb_extents *x, uint64_t size) {
    assert(size > 0);
    *x = (struct vb_extents){.size = size};
    if (vb_btree_insert(&x->runs, 0, 0) < 0)
        return -ENOMEM;
    x->n = 1;
    return 0;
}

void vb_extents_fini(struct vb_extents *x) {
    vb_btree_clear(&x->runs);
    x->n = 0;
}

/* To the run that has `offset`. */
static void seek(struct vb_extents *x, uint64_t offset) {
    bool found = vb_btree_seek(&x->runs, offset);

    assert(found);
    (void)found;
}

/* A run begins at `offset`, without an edge where it is new; ret_new: it is. -ENOMEM. */
static int cut(struct vb_extents *x, uint64_t offset, bool *ret_new) {
    seek(x, offset);
    *ret_new = vb_btree_key(&x->runs) != offset;
    return *ret_new ? vb_btree_insert(&x->runs, offset, count_of(*vb_btree_value(&x->runs))) : 0;
}

/* One edge less where the cursor's run begins; a run that no edge keeps apart joins the one before it. */
static void drop_edge(struct vb_extents *x) {
    uint64_t *value = vb_btree_value(&x->runs);

    assert(*value >= EDGE);
    *value -= EDGE;
    if (*value < EDGE && vb_btree_key(&x->runs) != 0)
        vb_btree_remove(&x->runs);
}

int vb_extents_add(struct vb_extents *x, struct vb_range r, uint64_t *ret_new) {
    uint64_t *value, begin = r.first, end, fresh = 0;
    bool new_behind = false, new_first, more;
    int k = 0;

    assert(r.first <= r.last && r.last < x->size);
    if (x->live == VB_EXTENTS_LIVE_MAX)
        return -EOVERFLOW;
    if (r.last + 1 < x->size)
        k = cut(x, r.last + 1, &new_behind);
    if (k == 0) {
        k = cut(x, r.first, &new_first);
        if (k < 0 && new_behind) {
            seek(x, r.last + 1);
            vb_btree_remove(&x->runs);
        }
    }
    if (k < 0)
        return k;

    value = vb_btree_value(&x->runs);
    *value += EDGE;
    do {
        bool was_free = count_of((*value)++) == 0;

        more = vb_btree_next(&x->runs);
        end = more ? vb_btree_key(&x->runs) : x->size;
        value = vb_btree_value(&x->runs);
        fresh += was_free ? end - begin : 0;
        begin = end;
    } while (end <= r.last);
    if (more)
        *value += EDGE;
    x->live++;
    x->n = x->runs.n;
    x->covered += fresh;
    *ret_new = fresh;
    return 0;
}

uint64_t vb_extents_sub(struct vb_extents *x, struct vb_range r) {
    uint64_t *value, begin = r.first, end, freed = 0;
    bool more;

    seek(x, r.first);
    assert(vb_btree_key(&x->runs) == r.first && x->live > 0);
    do {
        value = vb_btree_value(&x->runs);
        assert(count_of(*value) > 0);
        --*value;
        more = vb_btree_next(&x->runs);
        end = more ? vb_btree_key(&x->runs) : x->size;
        freed += count_of(*value) == 0 ? end - begin : 0;
        begin = end;
    } while (end <= r.last);
    assert(end == r.last + 1);
    if (more)
        drop_edge(x);
    seek(x, r.first);
    drop_edge(x);
    x->live--;
    x->n = x->runs.n;
    x->covered -= freed;
    return freed;
}

bool vb_extents_run(struct vb_extents *x, struct vb_range r, uint64_t from, struct vb_range *ret_run,
                    uint64_t *ret_count) {
    if (from > r.last)
        return false;
    seek(x, from);
    *ret_count = count_of(*vb_btree_value(&x->runs));
    *ret_run = (struct vb_range){from, r.last};
    if (vb_btree_next(&x->runs) && vb_btree_key(&x->runs) <= r.last)
        ret_run->last = vb_btree_key(&x->runs) - 1;
    return true;
}
