/* Which parts of a memory are mapped, and how often: the unit of charge.
 *
 * The kernel pins a page of a registered memory once, however many spaces and IOVAs show it (COPY from the pool, see
 * backend/iommufd.c), so it is paid once: when the first mapping covers it. An extent is a run of offsets with one
 * mapping count; a boundary between two extents exists as long as some mapping begins or ends there. So removing a
 * mapping only merges: it never allocates and never fails. Cost follows extents, not pages: about 20 bytes for each.
 * Knows nothing of memories or ledgers. */
#ifndef VB_CORE_EXTENTS_H
#define VB_CORE_EXTENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/btree.h"
#include "core/range.h"
#include "proto/limits.h"

#define VB_EXTENTS_LIVE_MAX VB_MAPPINGS_MAX

struct vb_extents {
    struct vb_btree runs; /* key: where the run begins; it ends where the next one begins. See extents.c */
    uint64_t size;        /* bytes: offsets 0..size-1 */
    uint64_t covered;     /* bytes with a count above 0 */
    uint32_t live;        /* mappings: added, not yet taken back */
    uint32_t n;           /* extents */
};

/* -ENOMEM. size > 0. */
int vb_extents_init(struct vb_extents *x, uint64_t size);
void vb_extents_fini(struct vb_extents *x);

/* An add() or sub() at this offset follows soon: what it needs may come out of memory meanwhile. */
static inline void vb_extents_expect(struct vb_extents *x, uint64_t offset) {
    vb_btree_expect(&x->runs, offset);
}
/* One more mapping of `r` (within the size). ret_new: bytes that no mapping covered before. On failure nothing has
 * changed: -ENOMEM, or -EOVERFLOW with more than VB_EXTENTS_LIVE_MAX mappings. */
int vb_extents_add(struct vb_extents *x, struct vb_range r, uint64_t *ret_new);
/* One mapping of `r` less; it was added before with exactly this range. Returns the bytes that no mapping covers now. */
uint64_t vb_extents_sub(struct vb_extents *x, struct vb_range r);

/* The next run of offsets within `r`, from offset `from` on, that mappings cover equally often: its count, and *ret_run cut
 * to `r`. Where `from` is behind r.last: false. Neighbouring runs may have the same count. */
bool vb_extents_run(struct vb_extents *x, struct vb_range r, uint64_t from, struct vb_range *ret_run,
                    uint64_t *ret_count);

#endif
