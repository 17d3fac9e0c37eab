/* The session's ledger: how many bytes it may have pinned, and how many it has paid.
 *
 * paid     what the kernel will pin if a device attaches: pages under mappings or pins, each once where the kernel can
 *          share (core/charge.h). Invariant: used <= lease whenever a reservation has been made.
 * doubled  pages that are both mapped and mlocked for pins. They are paid once, but mm->locked_vm has them twice
 *          (drivers/iommu/iommufd/pages.c adds to what mm/mlock.c counts), so RLIMIT_MEMLOCK is lease + doubled.
 * tables   an estimate of page tables and kernel objects (core/tables.h), with a bound of its own: it is no locked memory
 *          and does not count against the account's limit.
 *
 * The lease is the account's to give (broker/account.h). It grows by want(); what is idle is given back: after a while, or at
 * once when another session of the account needs it, also while a reservation of ours waits for more, which then waits for
 * that too. So requests of an account are served one after the other, and none is refused for what another only waits for. A limit that was
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
    uint64_t doubled_slack;   /* bytes: asked for beyond doubled, this or an eighth; 0: nothing */
    uint64_t tables, tables_max;
    uint64_t waiting, waiting_doubled; /* lease and doubled that a reservation in progress asks for */
    uint64_t most;                     /* used, at most, since vb_ledger_watch() */
    uint64_t limit;                    /* of the account at the last grant, for messages */
    char whose[96];                    /* whose limit that is */
    /* Asks the account for `need` bytes more lease (may be 0) and for `doubled` to be in RLIMIT_MEMLOCK; on 0 it has noted
     * what was granted by vb_ledger_granted(). VB_LIMIT comes with numbers, and a text without what was wanted. Others may have reclaimed part of the lease meanwhile. May be
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
/* More lease has come, and so much doubled is in RLIMIT_MEMLOCK now. */
void vb_ledger_granted(struct vb_ledger *l, uint64_t bytes, uint64_t doubled);

/* Lease that is not used, less `slack` bytes. What a reservation waits for is used if the lease is large enough for it
 * already. */
uint64_t vb_ledger_idle(const struct vb_ledger *l, uint64_t slack);
struct vb_give {
    uint64_t bytes, doubled; /* doubled: from now on */
};
/* Takes all idle lease out, to be given back. */
struct vb_give vb_ledger_give(struct vb_ledger *l);
/* Is there anything that could be given back if it stays idle? Then its idleness is watched from now on. */
bool vb_ledger_watch(struct vb_ledger *l, uint64_t slack);
/* Takes out what has been idle since. False: nothing. */
bool vb_ledger_give_watched(struct vb_ledger *l, uint64_t slack, struct vb_give *ret);

#endif
