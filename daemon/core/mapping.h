/* The mappings of one space: a sorted map of ranges that do not overlap, ordered by IOVA.
 *
 * An entry is `pending` from the moment its range is taken until the backend has it; a pending one is never shown. */
#ifndef VB_CORE_MAPPING_H
#define VB_CORE_MAPPING_H

#include <stdbool.h>
#include <stdint.h>

#include "core/btree.h"
#include "core/mapping-pool.h"
#include "core/memory.h"
#include "core/range.h"

struct vb_mapping {
    struct vb_range iova;
    uint64_t offset; /* bytes, in memory */
    struct vb_memory *memory;
    uint8_t prot;   /* enum vb_prot */
    bool pending;   /* or taken out by a discard for now */
    bool leaving;   /* found by an entry of the unmap that runs now */
    uint8_t slot;   /* of core/mapping-pool.c; nobody else's */
    bool written;   /* its dirty bits were lost: all of it counts as written until it is read (model-dirty.c) */
    uint8_t copies; /* how often it is paid where pins are not shared: core/domain.h. 0 is 1 */
};

/* All zero: empty, owns no memory; so it does when its last mapping has been freed. Does not move. */
struct vb_mapping_tree {
    struct vb_mapping_pool pool;
    struct vb_btree by_iova; /* iova.first to struct vb_mapping */
};

/* For this tree, all zero, not in it yet; to be filled member by member (`slot` stays). NULL: no memory. */
struct vb_mapping *vb_mapping_new(struct vb_mapping_tree *t);
/* It is not, or no longer, in the tree. NULL is fine. */
void vb_mapping_free(struct vb_mapping *m);

/* First mapping (lowest IOVA) that has a byte in `r`, or NULL. */
struct vb_mapping *vb_mapping_first(struct vb_mapping_tree *t, struct vb_range r);
/* The next one by IOVA, or NULL. */
struct vb_mapping *vb_mapping_next(struct vb_mapping *m);
/* -EEXIST: it overlaps one that is there; -ENOMEM. */
int vb_mapping_insert(struct vb_mapping_tree *t, struct vb_mapping *m);
/* Never fails. */
void vb_mapping_remove(struct vb_mapping_tree *t, struct vb_mapping *m);
/* Inserts and counts: what it adds to pay, in its memory's charge and in tables. -EEXIST: it overlaps; -ENOMEM. */
int vb_mapping_charge(struct vb_mapping_tree *t, struct vb_mapping *m, struct vb_cost *ret_cost);
/* Takes both back. Never fails. */
struct vb_cost vb_mapping_uncharge(struct vb_mapping_tree *t, struct vb_mapping *m);

static inline struct vb_range vb_mapping_offsets(const struct vb_mapping *m) {
    return (struct vb_range){m->offset, m->offset + (m->iova.last - m->iova.first)};
}

#endif
