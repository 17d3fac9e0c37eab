#include "core/extents.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* Neighbours meet without a gap and cover 0..size-1; so neighbours may have equal counts, but only where an edge is. */
struct vb_extent {
    RB_ENTRY(vb_extent) node;
    struct vb_range r;
    uint64_t count; /* mappings that cover it */
    uint64_t edges; /* mappings that begin at r.first or end just before it; 0 only for the extent at offset 0 */
};

static int compare(const struct vb_extent *a, const struct vb_extent *b) {
    if (a->r.last < b->r.first)
        return -1;
    return a->r.first > b->r.last;
}

VB_TREE_GENERATE(vb_extent_tree, vb_extent, node, compare)

int vb_extents_init(struct vb_extents *x, uint64_t size) {
    struct vb_extent *all = calloc(1, sizeof(*all));

    assert(size > 0);
    if (!all)
        return -ENOMEM;
    all->r = (struct vb_range){0, size - 1};
    *x = (struct vb_extents){.size = size, .n = 1};
    RB_INIT(&x->tree);
    RB_INSERT(vb_extent_tree, &x->tree, all);
    return 0;
}

void vb_extents_fini(struct vb_extents *x) {
    struct vb_extent *e;

    while ((e = RB_ROOT(&x->tree))) {
        RB_REMOVE(vb_extent_tree, &x->tree, e);
        free(e);
    }
    x->n = 0;
}

static struct vb_extent *at(struct vb_extents *x, uint64_t offset) {
    return RB_FIND(vb_extent_tree, &x->tree, (&(struct vb_extent){.r = {offset, offset}}));
}

/* Cuts `e` so that `upper`, the caller's allocation, begins at `offset`, which lies inside. */
static struct vb_extent *split(struct vb_extents *x, struct vb_extent *e, uint64_t offset, struct vb_extent *upper) {
    *upper = (struct vb_extent){.r = {offset, e->r.last}, .count = e->count};
    e->r.last = offset - 1;
    RB_INSERT(vb_extent_tree, &x->tree, upper);
    x->n++;
    return upper;
}

/* One edge less at `e->r.first`; an extent that no edge separates any more joins the one before it. */
static void drop_edge(struct vb_extents *x, struct vb_extent *e) {
    struct vb_extent *before;

    assert(e->edges > 0);
    if (--e->edges > 0 || e->r.first == 0)
        return;
    before = RB_PREV(vb_extent_tree, &x->tree, e);
    assert(before->count == e->count);
    RB_REMOVE(vb_extent_tree, &x->tree, e);
    before->r.last = e->r.last;
    x->n--;
    free(e);
}

int vb_extents_add(struct vb_extents *x, struct vb_range r, uint64_t *ret_new) {
    struct vb_extent *first, *last, *e, *lower = NULL, *upper = NULL;
    uint64_t fresh = 0;

    assert(r.first <= r.last && r.last < x->size);
    first = at(x, r.first);
    last = r.last <= first->r.last ? first : at(x, r.last);
    /* Both allocations before any change. */
    if (first->r.first != r.first && !(lower = malloc(sizeof(*lower))))
        return -ENOMEM;
    if (last->r.last != r.last && !(upper = malloc(sizeof(*upper)))) {
        free(lower);
        return -ENOMEM;
    }

    if (lower) {
        e = split(x, first, r.first, lower);
        if (last == first)
            last = e;
        first = e;
    }
    if (upper)
        split(x, last, r.last + 1, upper);
    first->edges++;
    for (e = first;; e = RB_NEXT(vb_extent_tree, &x->tree, e)) {
        if (e->count++ == 0)
            fresh += vb_range_size(e->r);
        if (e->r.last == r.last)
            break;
    }
    e = RB_NEXT(vb_extent_tree, &x->tree, e);
    if (e)
        e->edges++;
    x->covered += fresh;
    *ret_new = fresh;
    return 0;
}

uint64_t vb_extents_sub(struct vb_extents *x, struct vb_range r) {
    struct vb_extent *first, *e, *behind;
    uint64_t freed = 0;

    first = at(x, r.first);
    assert(first && first->r.first == r.first);
    for (e = first;; e = RB_NEXT(vb_extent_tree, &x->tree, e)) {
        assert(e && e->count > 0 && e->r.last <= r.last);
        if (--e->count == 0)
            freed += vb_range_size(e->r);
        if (e->r.last == r.last)
            break;
    }
    behind = RB_NEXT(vb_extent_tree, &x->tree, e);
    if (behind) /* this first: it may join `e`, and `e` is needed no more when `first` joins what is before it */
        drop_edge(x, behind);
    drop_edge(x, first);
    x->covered -= freed;
    return freed;
}

bool vb_extents_run(struct vb_extents *x, struct vb_range r, uint64_t from, struct vb_range *ret_run,
                    uint64_t *ret_count) {
    struct vb_extent *e = from <= r.last ? at(x, from) : NULL;

    if (!e)
        return false;
    *ret_run = (struct vb_range){from, e->r.last < r.last ? e->r.last : r.last};
    *ret_count = e->count;
    return true;
}
