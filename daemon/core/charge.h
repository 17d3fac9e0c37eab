/* What is paid of one memory: each page once, whether mappings show it, pins need it, or both; or, where the kernel cannot
 * share what it pins (`each`), once for each mapping in each domain.
 *
 * iommufd pins a page of a registered memory once, however many spaces and IOVAs show it (COPY from the pool, see
 * backend/iommufd.c); type1 pins it for each mapping of each container (backend/type1.c). A page that only pins need is kept
 * resident by mlock instead. So what is paid is what mappings cost and pins need without what lies under both: `both`, which
 * the kernel has locked twice all the same: see core/ledger.h. Knows nothing of spaces or ledgers. */
#ifndef VB_CORE_CHARGE_H
#define VB_CORE_CHARGE_H

#include <stdbool.h>

#include "core/extents.h"
#include "core/ledger.h"

enum vb_charge_by { VB_BY_MAPPING, VB_BY_PIN };

struct vb_charge {
    struct vb_extents mapped;
    struct vb_extents pinned; /* initialised at the first pin */
    bool has_pinned;
    uint64_t both; /* bytes under mappings and pins */
    uint64_t sum;  /* bytes of all mappings, in each domain: what they cost with `each` */
    bool each;     /* pins are not shared */
    bool free;     /* device memory: nothing is pinned */
    bool locks;    /* pins are mlocked; hugetlb needs that not, and mlock would not count it (mm/mlock.c) */
};

/* -ENOMEM. size: of the memory. */
int vb_charge_init(struct vb_charge *c, uint64_t size);
void vb_charge_fini(struct vb_charge *c);
/* One more mapping or pin of these offsets. ret_cost: what it adds. -ENOMEM changes nothing. */
int vb_charge_add(struct vb_charge *c, enum vb_charge_by by, struct vb_range r, struct vb_cost *ret_cost);
/* One less; it was added with exactly this range. Returns what is given back. Never fails. */
struct vb_cost vb_charge_sub(struct vb_charge *c, enum vb_charge_by by, struct vb_range r);
/* Mappings are in more domains than before, or fewer: `bytes` over all of them. Returns what that costs, or gives back. */
struct vb_cost vb_charge_copy(struct vb_charge *c, uint64_t bytes);
struct vb_cost vb_charge_uncopy(struct vb_charge *c, uint64_t bytes);
/* Bytes that mappings cost, without pins. */
uint64_t vb_charge_mapped(const struct vb_charge *c);
/* Bytes paid: under mappings, pins, or both. */
uint64_t vb_charge_paid(const struct vb_charge *c);

#endif
