/* Leases of session processes: joins accounts (account.c), which are pure, to records, processes and the wire. */
#ifndef VB_BROKER_LEASE_H
#define VB_BROKER_LEASE_H

#include "broker/record.h"

/* For vb_accounts.ops. */
extern const struct vb_account_ops vb_lease_ops;

/* The client of a new session gets its account, and a first lease. */
int vb_lease_first(struct vb_record *r, struct vb_limits *ret, struct vb_error *e);
/* A session of an earlier daemon says what it has: it is given that, if its RLIMIT_MEMLOCK allows it, and what it has locked
 * is booked in any case. */
int vb_lease_adopt(struct vb_record *r, uint64_t bytes, uint64_t doubled, struct vb_error *e);
void vb_call_lease(struct vb_record *r, const VfioBrokerInternal__Call *call);
void vb_lease_given(struct vb_record *r, const VfioBrokerInternal__LeaseGive *m);

/* An account as it is now, for people. */
struct vb_account_view {
    struct vb_limits limits;        /* of that of its clients which may have least; all 0 if none lives */
    uint64_t leased, over;          /* bytes; over: leased and own pass the limit by so much */
    char state[VB_ERROR_TEXT + 96]; /* "", or why nothing more is granted, and the way out */
};
/* looker: the lease of whoever looks (vfio-brokerctl), whose limit counts only if no other session has the account. */
void vb_account_look(const struct vb_account *a, const struct vb_lease *looker, struct vb_account_view *ret);

#endif
