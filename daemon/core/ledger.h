/* The session's ledger: how many bytes it may have pinned, and how many it has paid.
 *
 * Invariant: used <= lease whenever a reservation is made; RLIMIT_MEMLOCK of the process is the lease, so the kernel
 * says the same (iommufd charges mm->locked_vm, drivers/iommu/iommufd/pages.c). A lease that was lowered below `used`
 * tears nothing down: it only grants nothing more. Order: reserve, then fill the IOAS; empty it, then release. */
#ifndef VB_CORE_LEDGER_H
#define VB_CORE_LEDGER_H

#include <stdint.h>

#include "core/error.h"

struct vb_ledger {
    uint64_t lease; /* bytes */
    uint64_t used;  /* bytes */
    uint64_t limit; /* of the account when the lease was granted, for messages */
    char whose[96]; /* whose limit that is */
    /* Asks the account for a lease of `total` bytes; on 0 it has raised `lease` and RLIMIT_MEMLOCK. May be NULL. */
    int (*want)(struct vb_ledger *l, uint64_t total, struct vb_error *e);
    void *want_arg;
};

/* VB_LIMIT with wanted, used, limit and whose, when the lease is too small and cannot grow. */
int vb_ledger_reserve(struct vb_ledger *l, uint64_t bytes, struct vb_error *e);
void vb_ledger_release(struct vb_ledger *l, uint64_t bytes);

#endif
