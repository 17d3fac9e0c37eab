#include "backend/emulated-table.h"

#include <errno.h>
#include <stdlib.h>

#define CHUNK_ENTRIES 256

struct vb_emulated_chunk {
    struct vb_emulated_chunk *next;
    struct vb_emulated_entry entries[CHUNK_ENTRIES];
};

/* Ranges that overlap compare as equal. */
static int compare(const struct vb_emulated_entry *a, const struct vb_emulated_entry *b) {
    if (a->iova.last < b->iova.first)
        return -1;
    return a->iova.first > b->iova.last;
}

VB_TREE_GENERATE(vb_emulated_table, vb_emulated_entry, node, compare)

static struct vb_emulated_entry *get(struct vb_emulated_pool *p) {
    struct vb_emulated_entry *e;
    unsigned i;

    if (!p->free) {
        struct vb_emulated_chunk *c = malloc(sizeof(*c));

        if (!c)
            return NULL;
        c->next = p->chunks;
        p->chunks = c;
        for (i = 0; i < CHUNK_ENTRIES; i++) {
            c->entries[i].next_free = p->free;
            p->free = &c->entries[i];
        }
    }
    e = p->free;
    p->free = e->next_free;
    return e;
}

static void put(struct vb_emulated_pool *p, struct vb_emulated_entry *e) {
    free(e->dirty);
    e->next_free = p->free;
    p->free = e;
}

void vb_emulated_pool_fini(struct vb_emulated_pool *p) {
    struct vb_emulated_chunk *c;

    while ((c = p->chunks)) {
        p->chunks = c->next;
        free(c);
    }
    p->free = NULL;
}

int vb_emulated_table_map(struct vb_emulated_table *t, struct vb_emulated_pool *p, const struct vb_emulated_entry *e) {
    struct vb_emulated_entry *mine = get(p);

    if (!mine)
        return -ENOMEM;
    *mine = *e;
    if (RB_INSERT(vb_emulated_table, t, mine)) {
        put(p, mine);
        return -EEXIST;
    }
    return 0;
}

int vb_emulated_table_unmap(struct vb_emulated_table *t, struct vb_emulated_pool *p, struct vb_range r) {
    struct vb_emulated_entry *e, *next, *first = vb_emulated_table_first(t, r);

    for (e = first; e && e->iova.first <= r.last; e = vb_emulated_table_next(e))
        if (!vb_range_contains(r, e->iova))
            return -ENOENT;
    if (!first)
        return -ENOENT;
    for (e = first; e && e->iova.first <= r.last; e = next) {
        next = vb_emulated_table_next(e);
        RB_REMOVE(vb_emulated_table, t, e);
        put(p, e);
    }
    return 0;
}

struct vb_emulated_entry *vb_emulated_table_first(struct vb_emulated_table *t, struct vb_range r) {
    struct vb_emulated_entry *e = RB_ROOT(t), *found = NULL;

    while (e) {
        if (e->iova.last < r.first) {
            e = RB_RIGHT(e, node);
        } else {
            found = e;
            e = RB_LEFT(e, node);
        }
    }
    return found && found->iova.first <= r.last ? found : NULL;
}

struct vb_emulated_entry *vb_emulated_table_next(struct vb_emulated_entry *e) {
    return RB_NEXT(vb_emulated_table, NULL, e);
}
