#include "core/mapping.h"

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
