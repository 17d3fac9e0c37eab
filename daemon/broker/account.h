/* Accounts: several sessions share one limit, by leases that are granted, grown, given back and reclaimed.
 *
 * An account's limit is read anew at each grant: the smaller of the policy's memory_max and the asking client's soft
 * RLIMIT_MEMLOCK. What is used are the leases of all its sessions and what its clients have locked themselves; the rest is
 * left. A grant never makes `used` pass the limit. A limit that was lowered, or a later mlock by a client, takes nothing back:
 * then nothing more is granted.
 *
 * A request that needs more than is left waits, first come first served, while the other sessions of the account are asked
 * for their idle lease (LeaseReclaim). It is tried again at each give-back, and refused when all have answered that they have
 * nothing, or the time for it is over (VB_RECLAIM_MS). A session that let that time pass is not waited for again until it answers. No account
 * ever waits for another.
 *
 * Order, so that what a session can pin is never more than what is booked: book, raise RLIMIT_MEMLOCK, answer; and on the way
 * back the session empties and gives, RLIMIT_MEMLOCK is lowered, what the kernel says to be locked still is kept booked, and
 * only then is the rest there for others.
 *
 * Pure: what touches the host or the wire is behind vb_account_ops (broker/lease.c; tests/unit/test-interleave.c). An account
 * lives as long as a lease or a caller refers to it. */
#ifndef VB_BROKER_ACCOUNT_H
#define VB_BROKER_ACCOUNT_H

#include <bsd/sys/queue.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/error.h"

#define VB_UNIT_MAX 255 /* bytes of a unit's name: UNIT_NAME_MAX of systemd */

/* Whose limit a client's sessions share; policy: "account". */
enum vb_account_kind {
    VB_ACCOUNT_PROCESS, /* the default */
    VB_ACCOUNT_UID,
    VB_ACCOUNT_UNIT, /* systemd's */
};

/* What tells accounts apart: by kind pid and start, or uid, or unit. The rest is of the client that came first, for show. */
struct vb_account_key {
    enum vb_account_kind kind;
    uid_t uid;
    pid_t pid;
    uint64_t start; /* of the process, ticks since boot */
    char unit[VB_UNIT_MAX + 1];
    char comm[16];
};

struct vb_lease;

struct vb_account {
    LIST_ENTRY(vb_account) entry;
    struct vb_accounts *all;
    struct vb_account_key key;
    char name[VB_UNIT_MAX + 8]; /* for people: "pid 812 (qemu)", "uid 1000", "unit vm@3.service" */
    unsigned refs;
    uint64_t leased; /* bytes booked, over all sessions */
    LIST_HEAD(, vb_lease) leases;
    TAILQ_HEAD(, vb_lease) queue; /* requests that wait */
    void *timer;                  /* of ops->arm() */
};

/* What a session has of its account. */
struct vb_lease {
    LIST_ENTRY(vb_lease) entry;
    struct vb_account *account; /* NULL: none, or none any more */
    uint64_t bytes;             /* as the session knows it when nothing is under way */
    uint64_t doubled;           /* bytes more in RLIMIT_MEMLOCK: internal.proto */
    uint64_t booked;            /* bytes; more than `bytes` if the kernel says that it has more locked */
    uint64_t asked, answered;   /* LeaseReclaim */
    bool deaf;                  /* it did not answer in time */
    struct {
        TAILQ_ENTRY(vb_lease) entry;
        bool waits;
        uint64_t serial, need, wish, doubled;
        bool asked;    /* the others have been */
        bool gave;     /* one of them gave something since */
        bool over;     /* the time for answers is */
        uint64_t room; /* bytes that the account may lease, as the limits said at the last try */
    } request;
};

/* What a client may have, at this moment. */
struct vb_limits {
    uint64_t limit; /* bytes */
    char whose[96];
    uint64_t own; /* bytes, locked by the clients of the account themselves */
};

struct vb_account_ops {
    /* Limits that hold now for the client of this lease. 0, or an error for the session. */
    int (*limits)(struct vb_lease *l, struct vb_limits *ret, struct vb_error *e);
    /* Makes RLIMIT_MEMLOCK of the session this. ret_locked (may be NULL): bytes that it has locked then, by the kernel. */
    int (*set_memlock)(struct vb_lease *l, uint64_t bytes, uint64_t *ret_locked, struct vb_error *e);
    /* Asks for idle lease; vb_account_give() follows, or the end of the session, or neither. */
    void (*reclaim)(struct vb_lease *l);
    /* Answers a request: what was granted; or e (not NULL) says why nothing was. Ends no lease. */
    void (*answer)(struct vb_lease *l, uint64_t serial, uint64_t granted, const struct vb_limits *limits,
                   const struct vb_error *e);
    /* Calls vb_account_timeout() once in so many ms; 0: not any more, and `timer` is let go. */
    void (*arm)(struct vb_account *a, unsigned ms);
};

struct vb_accounts {
    LIST_HEAD(, vb_account) list;
    const struct vb_account_ops *ops;
    bool ends; /* the daemon does, and sessions run on: nothing is granted any more */
};

/* Finds or makes the account, with a reference. NULL: no memory. */
struct vb_account *vb_account_get(struct vb_accounts *all, const struct vb_account_key *key);
/* Gives the reference back. NULL is fine. */
struct vb_account *vb_account_put(struct vb_account *a);
/* Bytes that are neither leased nor locked. */
uint64_t vb_account_left(const struct vb_account *a, const struct vb_limits *limits);

/* A session begins; the lease takes a reference. It gets up to `wish` bytes of what is left; the caller starts it with
 * RLIMIT_MEMLOCK of l->bytes. 0, or the error of ops->limits() and no lease. */
int vb_account_join(struct vb_account *a, struct vb_lease *l, uint64_t wish, struct vb_limits *ret, struct vb_error *e);
/* A session of an earlier daemon: unchecked, leases are what they are. */
void vb_account_adopt(struct vb_account *a, struct vb_lease *l, uint64_t bytes, uint64_t doubled, uint64_t locked);
/* LeaseWant: is answered at once or later, by ops->answer(). */
void vb_account_want(struct vb_lease *l, uint64_t serial, uint64_t need, uint64_t wish, uint64_t doubled);
/* LeaseGive. 0; VB_PROTOCOL: the session gives what it has not, or answers what nobody asked, and nothing was changed. */
int vb_account_give(struct vb_lease *l, uint64_t bytes, uint64_t doubled, bool asked);
/* The session has nothing any more: all is given back. */
void vb_account_leave(struct vb_lease *l);
/* The time for answers is over. */
void vb_account_timeout(struct vb_account *a);

/* RLIMIT_MEMLOCK of a session. */
uint64_t vb_lease_memlock(uint64_t bytes, uint64_t doubled);
/* The most of `bytes` that an RLIMIT_MEMLOCK allows with so much doubled. */
uint64_t vb_lease_within(uint64_t memlock, uint64_t bytes, uint64_t doubled);

#endif
