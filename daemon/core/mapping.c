#include "core/mapping.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>

#include "core/tables.h"

static struct vb_mapping_tree *tree_of(const struct vb_mapping *m) {
    return (struct vb_mapping_tree *)((char *)vb_mapping_pool_of(m) - offsetof(struct vb_mapping_tree, pool));
}

/* At the cursor. */
static struct vb_mapping *here(struct vb_mapping_tree *t) {
    return (struct vb_mapping *)(uintptr_t)*vb_btree_value(&t->by_iova);
}

struct vb_mapping *vb_mapping_new(struct vb_mapping_tree *t) {
    return vb_mapping_pool_new(&t->pool);
}

void vb_mapping_free(struct vb_mapping *m) {
    if (m)
        vb_mapping_pool_free(m);
}

struct vb_mapping *vb_mapping_first(struct vb_mapping_tree *t, struct vb_range r) {
    struct vb_mapping *m;

    if (t->by_iova.n == 0)
        return NULL;
    if (vb_btree_seek(&t->by_iova, r.first) && here(t)->iova.last < r.first && !vb_btree_next(&t->by_iova))
        return NULL;
    m = here(t);
    return m->iova.first <= r.last ? m : NULL;
}

static void seek(struct vb_mapping_tree *t, const struct vb_mapping *m) {
    bool found = vb_btree_seek(&t->by_iova, m->iova.first);

    assert(found && here(t) == m);
    (void)found;
}

struct vb_mapping *vb_mapping_next(struct vb_mapping *m) {
    struct vb_mapping_tree *t = tree_of(m);

    seek(t, m);
    return vb_btree_next(&t->by_iova) ? here(t) : NULL;
}

int vb_mapping_insert(struct vb_mapping_tree *t, struct vb_mapping *m) {
    /* The last one that begins before the end of `m`: if that one does not reach into it, none does. */
    if (vb_btree_seek(&t->by_iova, m->iova.last) && here(t)->iova.last >= m->iova.first)
        return -EEXIST;
    return vb_btree_insert(&t->by_iova, m->iova.first, (uintptr_t)m);
}

void vb_mapping_remove(struct vb_mapping_tree *t, struct vb_mapping *m) {
    seek(t, m);
    vb_btree_remove(&t->by_iova);
}

/* The cursor is at `m`, and will be again. */
static uint64_t tables(struct vb_mapping_tree *t, const struct vb_mapping *m, const struct vb_mapping *before) {
    uint64_t above;

    if (!vb_btree_next(&t->by_iova))
        return vb_tables_cost(m, before ? &before->iova.last : NULL, NULL);
    above = vb_btree_key(&t->by_iova);
    vb_btree_prev(&t->by_iova);
    return vb_tables_cost(m, before ? &before->iova.last : NULL, &above);
}

static const struct vb_mapping *before(struct vb_mapping_tree *t) {
    const struct vb_mapping *m;

    if (!vb_btree_prev(&t->by_iova))
        return NULL;
    m = here(t);
    vb_btree_next(&t->by_iova);
    return m;
}

/* Two trees far apart in memory, of which both come slowly, and neither has to wait for the other. */
int vb_mapping_charge(struct vb_mapping_tree *t, struct vb_mapping *m, struct vb_cost *ret_cost) {
    struct vb_cost c;
    uint64_t n;
    int r;

    vb_extents_expect(&m->memory->charge.mapped, m->offset);
    r = vb_mapping_insert(t, m);
    if (r < 0)
        return r;
    n = tables(t, m, before(t));
    r = vb_charge_add(&m->memory->charge, VB_BY_MAPPING, vb_mapping_offsets(m), &c);
    if (r < 0) {
        vb_mapping_remove(t, m);
        return r;
    }
    if (m->copies > 1)
        vb_cost_add(&c, vb_charge_copy(&m->memory->charge, (m->copies - 1u) * vb_range_size(m->iova)));
    c.tables = n;
    *ret_cost = c;
    return 0;
}

struct vb_cost vb_mapping_uncharge(struct vb_mapping_tree *t, struct vb_mapping *m) {
    const struct vb_mapping *b;
    struct vb_cost c;

    vb_extents_expect(&m->memory->charge.mapped, m->offset);
    seek(t, m);
    b = before(t);
    __builtin_prefetch(b);
    c = vb_charge_sub(&m->memory->charge, VB_BY_MAPPING, vb_mapping_offsets(m));
    if (m->copies > 1)
        vb_cost_add(&c, vb_charge_uncopy(&m->memory->charge, (m->copies - 1u) * vb_range_size(m->iova)));
    c.tables = tables(t, m, b);
    vb_btree_remove(&t->by_iova);
    return c;
}
