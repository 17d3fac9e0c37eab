/* What mappings cost beside the pages that they show: an estimate of page tables and kernel objects.
 *
 * Counted as for tables of 4 KiB with 512 entries, in three levels (2 MiB, 1 GiB and 512 GiB a table), as most IOMMUs have
 * them; a table that neighbours share is counted once, so the sum over a space is exact for such tables and depends on
 * the set of mappings alone, not on the order in which they came. To each mapping goes what it takes here and in the kernel
 * (iopt_area, its interval trees and page set references: about 195 bytes of slab, seen on Linux 7.2). */
#ifndef VB_CORE_TABLES_H
#define VB_CORE_TABLES_H

#include <stdint.h>

struct vb_mapping;

/* Bytes that `m` adds between its neighbours in the space: the last IOVA of the one below, the first of the one above (NULL:
 * there is none). */
uint64_t vb_tables_cost(const struct vb_mapping *m, const uint64_t *below, const uint64_t *above);

#endif
