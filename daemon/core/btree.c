/* Both kinds of node look alike: n keys in order, n values. In a leaf they are the entries; above, values are children,
 * and a key is at most the first of its child and above all that come before it. The key of a node's first child does not
 * matter: it is never compared, since whoever came to the node is behind it. */
#include "core/btree.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FULL 63 /* the node has 1016 bytes, with malloc's header 1024 */

struct vb_btree_node {
    uint64_t n;
    uint64_t keys[FULL];
    uint64_t values[FULL];
};

static struct vb_btree_node *child(const struct vb_btree_node *p, unsigned i) {
    return (struct vb_btree_node *)(uintptr_t)p->values[i];
}

/* How many of n sorted keys are at most `key`. Without a branch that depends on them: none could be predicted. */
static unsigned count_to(const uint64_t *keys, uint64_t n, uint64_t key) {
    const uint64_t *p = keys;
    uint64_t half;

    if (n == 0)
        return 0;
    for (; n > 1; n -= half) {
        half = n / 2;
        p += half & -(uint64_t)(p[half - 1] <= key);
    }
    return (unsigned)(p - keys) + (*p <= key);
}

/* A whole node at once: search and change would wait for one line of it after the other. */
static void prefetch(const struct vb_btree_node *p) {
    unsigned i;

    for (i = 0; i < sizeof(*p); i += 64)
        __builtin_prefetch((const char *)p + i);
}

/* ---- nodes ---- */

/* Moves `count` entries of `from`, from index i on, to index k of `to`, whose room is there; closes no gap. */
static void copy(struct vb_btree_node *to, uint64_t k, const struct vb_btree_node *from, uint64_t i, uint64_t count) {
    memmove(to->keys + k, from->keys + i, count * sizeof(*to->keys));
    memmove(to->values + k, from->values + i, count * sizeof(*to->values));
}

static void put(struct vb_btree_node *p, unsigned i, uint64_t key, uint64_t value) {
    copy(p, i + 1, p, i, p->n - i);
    p->keys[i] = key;
    p->values[i] = value;
    p->n++;
}

static void drop(struct vb_btree_node *p, unsigned i) {
    p->n--;
    copy(p, i, p, i + 1, p->n - i);
}

static uint64_t both(const struct vb_btree_node *parent, unsigned i) {
    return child(parent, i)->n + child(parent, i + 1)->n;
}

/* Child i gets `left` of the entries that it and child i+1 have, that one the others: at least one. */
static void share(struct vb_btree_node *parent, unsigned i, uint64_t left) {
    struct vb_btree_node *a = child(parent, i), *b = child(parent, i + 1);
    const uint64_t right = both(parent, i) - left;

    if (a->n > left) {
        copy(b, a->n - left, b, 0, b->n);
        copy(b, 0, a, left, a->n - left);
    } else {
        copy(a, a->n, b, 0, left - a->n);
        copy(b, 0, b, left - a->n, right);
    }
    a->n = left;
    b->n = right;
    parent->keys[i + 1] = b->keys[0];
}

/* Child i gets all that child i+1 has; that one is freed. */
static void merge(struct vb_btree_node *parent, unsigned i) {
    struct vb_btree_node *a = child(parent, i), *b = child(parent, i + 1);

    copy(a, a->n, b, 0, b->n);
    a->n += b->n;
    free(b);
    drop(parent, i + 1);
}

static void free_node(struct vb_btree_node *p, unsigned level) {
    unsigned i;

    for (i = 0; level > 0 && i < p->n; i++)
        free_node(child(p, i), level - 1);
    free(p);
}

void vb_btree_clear(struct vb_btree *t) {
    if (t->root)
        free_node(t->root, t->levels - 1);
    *t = (struct vb_btree){.n = 0};
}

/* ---- the cursor ---- */

static void lose_path(struct vb_btree *t) {
    t->lo = 1;
    t->hi = 0;
}

/* The path goes through child at[level] of path[level] now. */
static void descend(struct vb_btree *t, unsigned level) {
    const struct vb_btree_node *p = t->path[level];
    const unsigned i = t->at[level];

    if (i > 0)
        t->lo = p->keys[i];
    if (i + 1 < p->n)
        t->hi = p->keys[i + 1] - 1;
    t->path[level - 1] = child(p, i);
}

/* Sets the path to the leaf where `key` belongs, which comes out of memory meanwhile. */
static void find_leaf(struct vb_btree *t, uint64_t key) {
    unsigned level;

    if (key >= t->lo && key <= t->hi)
        return;
    t->lo = 0;
    t->hi = UINT64_MAX;
    t->at[0] = 0;
    t->path[t->levels - 1] = t->root;
    for (level = t->levels - 1; level > 0; level--) {
        t->at[level] = (uint16_t)count_to(t->path[level]->keys + 1, t->path[level]->n - 1, key);
        descend(t, level);
        prefetch(t->path[level - 1]);
    }
}

/* The path as well, and how many entries of that leaf there are up to `key`. The tree is not empty. */
static unsigned locate(struct vb_btree *t, uint64_t key) {
    const struct vb_btree_node *leaf;
    unsigned i;

    find_leaf(t, key);
    leaf = t->path[0];
    i = t->at[0] + 1u;
    if (i <= leaf->n && leaf->keys[i - 1] <= key && (i == leaf->n || leaf->keys[i] > key))
        return i; /* again, or in order: right here */
    return count_to(leaf->keys, leaf->n, key);
}

/* To the leaf before or behind this one: its last or first entry. */
static bool step(struct vb_btree *t, bool forward) {
    unsigned level = 1, i;

    while (level < t->levels && (forward ? t->at[level] + 1u == t->path[level]->n : t->at[level] == 0))
        level++;
    if (level >= t->levels)
        return false;
    t->at[level] = (uint16_t)(forward ? t->at[level] + 1 : t->at[level] - 1);
    t->lo = 0;
    t->hi = UINT64_MAX;
    for (i = t->levels - 1; i > 0; i--) {
        if (i < level)
            t->at[i] = (uint16_t)(forward ? 0 : t->path[i]->n - 1);
        descend(t, i);
    }
    t->at[0] = (uint16_t)(forward ? 0 : t->path[0]->n - 1);
    return true;
}

bool vb_btree_next(struct vb_btree *t) {
    if (t->at[0] + 1u == t->path[0]->n)
        return step(t, true);
    t->at[0]++;
    return true;
}

bool vb_btree_prev(struct vb_btree *t) {
    if (t->at[0] == 0)
        return step(t, false);
    t->at[0]--;
    return true;
}

bool vb_btree_seek(struct vb_btree *t, uint64_t key) {
    unsigned before;

    if (!t->root)
        return false;
    before = locate(t, key);
    t->at[0] = (uint16_t)(before ? before - 1 : 0);
    /* What a leaf may hold can begin below its first entry: then the one that is asked for ends the leaf before. */
    return before > 0 || step(t, false);
}

void vb_btree_expect(struct vb_btree *t, uint64_t key) {
    if (t->root)
        find_leaf(t, key);
}

uint64_t vb_btree_key(const struct vb_btree *t) {
    return t->path[0]->keys[t->at[0]];
}

uint64_t *vb_btree_value(struct vb_btree *t) {
    return &t->path[0]->values[t->at[0]];
}

/* ---- insertion ---- */

/* Cuts the node at `level` of the path in two; there is room above. At the end of all keys they are likely to come in
 * order: there the left one stays nearly full. */
static int split(struct vb_btree *t, unsigned level) {
    struct vb_btree_node *p = t->path[level], *right, *top = NULL;
    const bool is_root = level + 1 == t->levels;

    if (is_root && t->levels == VB_BTREE_LEVELS)
        return -ENOMEM;
    right = malloc(sizeof(*right));
    if (right && is_root && !(top = malloc(sizeof(*top)))) {
        free(right);
        right = NULL;
    }
    if (!right)
        return -ENOMEM;
    right->n = 0;
    if (is_root) {
        top->n = 1;
        top->keys[0] = 0;
        top->values[0] = (uintptr_t)p;
        t->root = t->path[level + 1] = top;
        t->at[level + 1] = 0;
        t->levels++;
    }
    put(t->path[level + 1], t->at[level + 1] + 1u, 0, (uintptr_t)right);
    share(t->path[level + 1], t->at[level + 1], t->hi == UINT64_MAX ? FULL - 2 : FULL / 2);
    return 0;
}

/* The leaf of the path is full: makes room in it, or in the lowest node above that needs it first. No entry changes. */
static int make_room(struct vb_btree *t) {
    struct vb_btree_node *parent;
    unsigned level, i;
    int r = 0;

    for (level = 0;; level++) {
        parent = level + 1 < t->levels ? t->path[level + 1] : NULL;
        i = parent ? t->at[level + 1] : 0;
        /* A neighbour that has some room takes some: so leaves are four fifths full, not two thirds. */
        if (parent && i > 0 && child(parent, i - 1)->n < FULL - FULL / 8) {
            share(parent, i - 1, both(parent, i - 1) / 2);
            break;
        }
        if (parent && i + 1 < parent->n && child(parent, i + 1)->n < FULL - FULL / 8) {
            share(parent, i, both(parent, i) / 2);
            break;
        }
        if (!parent || parent->n < FULL) {
            r = split(t, level);
            break;
        }
    }
    lose_path(t);
    return r;
}

int vb_btree_insert(struct vb_btree *t, uint64_t key, uint64_t value) {
    unsigned i;
    int r;

    if (!t->root) {
        t->root = malloc(sizeof(*t->root));
        if (!t->root)
            return -ENOMEM;
        t->root->n = 0;
        t->levels = 1;
        lose_path(t);
    }
    while (i = locate(t, key), t->path[0]->n == FULL) {
        r = make_room(t);
        if (r < 0)
            return r;
    }
    assert(i == 0 || t->path[0]->keys[i - 1] != key);
    put(t->path[0], i, key, value);
    t->at[0] = (uint16_t)i;
    t->n++;
    return 0;
}

/* ---- removal ---- */

/* The node at `level` has lost an entry. True when its parent has lost one then, because two have become one. */
static bool join(struct vb_btree *t, unsigned level) {
    struct vb_btree_node *p = t->path[level], *parent = t->path[level + 1];
    const unsigned i = t->at[level + 1];

    if (p->n >= FULL / 2)
        return false;
    if (i > 0 && both(parent, i - 1) <= FULL * 3 / 4) {
        merge(parent, i - 1);
    } else if (i + 1 < parent->n && both(parent, i) <= FULL * 3 / 4) {
        merge(parent, i);
    } else {
        if (p->n < FULL / 4) { /* so that no node becomes empty, or a single child */
            share(parent, i > 0 ? i - 1 : i, both(parent, i > 0 ? i - 1 : i) / 2);
            lose_path(t);
        }
        return false;
    }
    lose_path(t);
    return true;
}

void vb_btree_remove(struct vb_btree *t) {
    struct vb_btree_node *p;
    unsigned level = 0;

    drop(t->path[0], t->at[0]);
    t->n--;
    while (level + 1 < t->levels && join(t, level))
        level++;
    while (t->levels > 1 ? t->root->n == 1 : t->root->n == 0) {
        p = t->root;
        t->root = t->levels > 1 ? child(p, 0) : NULL;
        free(p);
        t->levels--;
        lose_path(t);
        if (!t->root)
            break;
    }
}
