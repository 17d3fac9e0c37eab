/* A page table in memory: ranges that do not overlap, by IOVA. Nodes come from chunks and are used again, so a map and an
 * unmap cost no malloc. One pool of nodes serves all tables of a backend. */
#ifndef VB_BACKEND_EMULATED_TABLE_H
#define VB_BACKEND_EMULATED_TABLE_H

#include "core/backend-types.h"
#include "core/tree.h"

struct vb_emulated_entry {
    union {
        RB_ENTRY(vb_emulated_entry) node;
        struct vb_emulated_entry *next_free;
    };
    struct vb_range iova;
    uint64_t offset; /* bytes, in memory */
    uint64_t *dirty; /* owned: see emulated-dirty.c */
    uint16_t memory; /* slot */
    uint8_t prot;
};
RB_HEAD(vb_emulated_table, vb_emulated_entry);

struct vb_emulated_pool {
    struct vb_emulated_entry *free;
    struct vb_emulated_chunk *chunks;
};
void vb_emulated_pool_fini(struct vb_emulated_pool *p); /* tables that use it are dead then */

/* -EEXIST when something is mapped there; -ENOMEM. */
int vb_emulated_table_map(struct vb_emulated_table *t, struct vb_emulated_pool *p, const struct vb_emulated_entry *e);
/* Like IOMMU_IOAS_UNMAP: -ENOENT when nothing was there, or when `r` cuts an entry; then nothing is changed. */
int vb_emulated_table_unmap(struct vb_emulated_table *t, struct vb_emulated_pool *p, struct vb_range r);
/* First entry with a byte in `r`, or NULL. */
struct vb_emulated_entry *vb_emulated_table_first(struct vb_emulated_table *t, struct vb_range r);
struct vb_emulated_entry *vb_emulated_table_next(struct vb_emulated_entry *e);

#endif
