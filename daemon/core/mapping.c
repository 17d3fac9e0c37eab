#include "core/mapping.h"

#include <errno.h>

#include "core/tables.h"

/* Ranges that overlap compare as equal, so an insertion finds the overlap on its way down the tree. */
static int compare(const struct vb_mapping *a, const struct vb_mapping *b) {
    if (a->iova.last < b->iova.first)
        return -1;
    return a->iova.first > b->iova.last;
}

VB_TREE_GENERATE(vb_mapping_tree, vb_mapping, node, compare)

struct vb_mapping *vb_mapping_first(struct vb_mapping_tree *t, struct vb_range r) {
    struct vb_mapping *m = RB_ROOT(t), *found = NULL;

    while (m) {
        if (m->iova.last < r.first) {
            m = RB_RIGHT(m, node);
        } else { /* ends in or behind `r`: this one, or one to its left */
            found = m;
            m = RB_LEFT(m, node);
        }
    }
    return found && found->iova.first <= r.last ? found : NULL;
}

struct vb_mapping *vb_mapping_next(struct vb_mapping *m) {
    return RB_NEXT(vb_mapping_tree, NULL, m);
}

struct vb_mapping *vb_mapping_insert(struct vb_mapping_tree *t, struct vb_mapping *m) {
    return RB_INSERT(vb_mapping_tree, t, m);
}

void vb_mapping_remove(struct vb_mapping_tree *t, struct vb_mapping *m) {
    RB_REMOVE(vb_mapping_tree, t, m);
}

static uint64_t tables(struct vb_mapping *m) {
    return vb_tables_cost(RB_PREV(vb_mapping_tree, NULL, m), m, RB_NEXT(vb_mapping_tree, NULL, m));
}

int vb_mapping_charge(struct vb_mapping_tree *t, struct vb_mapping *m, struct vb_cost *ret_cost) {
    int r;

    if (vb_mapping_insert(t, m))
        return -EEXIST;
    r = vb_charge_add(&m->memory->charge, VB_BY_MAPPING, vb_mapping_offsets(m), ret_cost);
    if (r < 0) {
        vb_mapping_remove(t, m);
        return r;
    }
    ret_cost->tables = tables(m);
    return 0;
}

struct vb_cost vb_mapping_uncharge(struct vb_mapping_tree *t, struct vb_mapping *m) {
    struct vb_cost c = vb_charge_sub(&m->memory->charge, VB_BY_MAPPING, vb_mapping_offsets(m));

    c.tables = tables(m);
    vb_mapping_remove(t, m);
    return c;
}
