/* The session's ledger: how many bytes it may have pinned, and how many it has paid.
 *
 * paid     what the kernel will pin if a device attaches: pages under mappings or pins, each once where the kernel can
 *          share (core/charge.h). Invariant: used <= lease whenever a reservation has been made.
 * doubled  pages that are both mapped and mlocked for pins. They are paid once, but mm->locked_vm has them twice
 *          (drivers/iommu/iommufd/pages.c adds to what mm/mlock.c counts), so RLIMIT_MEMLOCK is lease + doubled.
 * tables   an estimate of page tables and kernel objects (core/tables.h), with a bound of its own: it is no locked memory
 *          and does not count against the account's limit.
 *
 * The lease is the account's to give (broker/account.h). It grows by want(); what is idle is given back. A limit that was
 * lowered below `used` tears nothing down, it only grants nothing more. Order: reserve, then fill the IOAS; empty it, then
 * release. */
#ifndef VB_CORE_LEDGER_H
#define VB_CORE_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"

struct vb_cost {
    uint64_t paid, doubled, tables; /* bytes */
};

/* At most the sizes of all memories, 2^8 * 2^50, and VB_MAPPINGS_MAX times what one mapping may need: no overflow. */
static inline void vb_cost_add(struct vb_cost *sum, struct vb_cost c) {
    sum->paid += c.paid;
    sum->doubled += c.doubled;
    sum->tables += c.tables;
}

struct vb_ledger {
    uint64_t lease;           /* bytes */
    uint64_t used;            /* bytes paid */
    uint64_t doubled;         /* bytes */
    uint64_t doubled_granted; /* bytes: in RLIMIT_MEMLOCK */
    uint64_t tables, tables_max;
    uint64_t waiting; /* lease that a reservation in progress asks for: nothing is idle below it */
    uint64_t limit;   /* of the account at the last grant, for messages */
    char whose[96];   /* whose limit that is */
    /* Asks the account for `need` bytes more lease (may be 0) and for `doubled` to be in RLIMIT_MEMLOCK; on 0 it has added
     * what was granted to `lease` and set doubled_granted. Others may have reclaimed part of the lease meanwhile. May be
     * NULL: the lease is what it is. */
    int (*want)(struct vb_ledger *l, uint64_t need, uint64_t doubled, struct vb_error *e);
    /* Something was released: idle lease may be given back. May be NULL. */
    void (*released)(struct vb_ledger *l);
    void *arg;
};

/* VB_LIMIT with wanted, used, limit and whose, when the lease is too small and cannot grow, or tables_max is passed. On
 * failure nothing is reserved. */
int vb_ledger_reserve(struct vb_ledger *l, struct vb_cost c, struct vb_error *e);
void vb_ledger_release(struct vb_ledger *l, struct vb_cost c);
/* Lease beyond what is used or waited for, less `slack` bytes. */
uint64_t vb_ledger_idle(const struct vb_ledger *l, uint64_t slack);

#endif
