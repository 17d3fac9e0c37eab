/* Who pays: one account for each client process, named by pid and start time.
 *
 * An account's limit is read anew at each grant: the smaller of the policy's memory_max and the client's soft
 * RLIMIT_MEMLOCK. What the client has locked itself (VmLck) and the leases of its sessions are used; the rest is left.
 * Invariant: a grant never makes the leases pass what is left; a limit that was lowered takes nothing back. An account
 * lives as long as a session refers to it, and has no lease when it ends. */
#ifndef VB_BROKER_ACCOUNT_H
#define VB_BROKER_ACCOUNT_H

#include <bsd/sys/queue.h>
#include <stdint.h>

#include "broker/peer.h"
#include "core/error.h"

/* Whose limit a client's sessions share; policy: "account". */
enum vb_account_kind {
    VB_ACCOUNT_PROCESS, /* the default */
    VB_ACCOUNT_UID,
    VB_ACCOUNT_UNIT, /* systemd's */
};

struct vb_account {
    LIST_ENTRY(vb_account) entry;
    pid_t pid;
    uint64_t start;
    unsigned refs;
    uint64_t leased; /* bytes, over all sessions */
};

struct vb_accounts {
    LIST_HEAD(, vb_account) list;
};

/* What a client may have, at this moment. */
struct vb_limits {
    uint64_t limit; /* bytes */
    char whose[96];
    uint64_t own; /* locked by the client itself */
};

/* Finds or makes the account of a client process, with a reference. NULL: no memory. */
struct vb_account *vb_account_get(struct vb_accounts *a, pid_t pid, uint64_t start);
/* Gives the reference back. */
struct vb_account *vb_account_put(struct vb_account *a);

/* Reads the limits that hold for a client process now. 0; -ESRCH: it is gone. */
int vb_limits_read(const char *proc, const struct vb_peer *peer, uint64_t memory_max, struct vb_limits *ret);
/* Bytes that a new lease could have. */
uint64_t vb_account_left(const struct vb_account *a, const struct vb_limits *l);
/* May a lease of `old` bytes become `new_lease`? 0, or VB_LIMIT with text and numbers. Changes nothing. */
int vb_account_check(const struct vb_account *a, const struct vb_limits *l, uint64_t old, uint64_t new_lease,
                     struct vb_error *e);
/* Books it. Unchecked: adopted leases are what they are. */
void vb_account_book(struct vb_account *a, uint64_t old, uint64_t new_lease);

#endif
