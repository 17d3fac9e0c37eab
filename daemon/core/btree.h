/* A sorted map from 64-bit keys to 64-bit values, in memory: a B+-tree, whose nodes are sorted arrays of 1 KiB.
 *
 * Why not a red-black tree: a million of its nodes, each where malloc put it, cost a cache miss and a mispredicted branch
 * at each of twenty levels, and 32 bytes of pointers; here it is about three nodes, and 20 bytes an entry (16 used).
 *
 * There is one cursor, in the tree itself: seek() sets it, next() and prev() move it. It remembers the way to its leaf, so
 * what is near the last place costs no descent. Insertion allocates at most a few nodes, and changes no entry before it
 * has them. Removal allocates nothing and cannot fail; nodes that become less than half full join a neighbour where both
 * fit, so memory follows the number of entries. */
#ifndef VB_CORE_BTREE_H
#define VB_CORE_BTREE_H

#include <stdbool.h>
#include <stdint.h>

/* Nodes have at least two children, all but a few at least 15: that is enough for 2^32 entries. */
#define VB_BTREE_LEVELS 10

struct vb_btree_node;

/* All zero: empty. An empty tree owns no memory. */
struct vb_btree {
    struct vb_btree_node *root;
    uint32_t n;      /* entries */
    uint32_t levels; /* path[levels - 1] is the root, path[0] a leaf */
    struct vb_btree_node *path[VB_BTREE_LEVELS];
    uint16_t at[VB_BTREE_LEVELS]; /* the index taken in each of path; at[0] is the entry */
    uint64_t lo, hi;              /* keys that belong into path[0]; lo > hi: the path is not known */
};

void vb_btree_clear(struct vb_btree *t);

/* To the last entry whose key is at most `key`; where there is none: false, and the cursor is at the first entry, if any. */
bool vb_btree_seek(struct vb_btree *t, uint64_t key);
/* A seek() for `key` follows soon: what it needs comes out of memory while the caller does something else. The cursor is
 * nowhere meanwhile. */
void vb_btree_expect(struct vb_btree *t, uint64_t key);
/* False at the end or beginning: the cursor stays. */
bool vb_btree_next(struct vb_btree *t);
bool vb_btree_prev(struct vb_btree *t);
/* Of the entry at the cursor. */
uint64_t vb_btree_key(const struct vb_btree *t);
uint64_t *vb_btree_value(struct vb_btree *t);

/* -ENOMEM: no entry has changed. `key` is not there yet. The cursor is at the new entry, on failure nowhere. */
int vb_btree_insert(struct vb_btree *t, uint64_t key, uint64_t value);
/* The entry at the cursor, which is nowhere afterwards. */
void vb_btree_remove(struct vb_btree *t);

#endif
