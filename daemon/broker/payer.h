/* Who pays for a client, and what he may have: the account's key, and the limits of one client process, from /proc.
 *
 * A unit is systemd's: the first component of the client's cgroup v2 path that does not end in ".slice", as sd_pid_get_unit(3)
 * tells it. So all of user@1000.service is one unit, and a user gets no further account by making scopes in it. */
#ifndef VB_BROKER_PAYER_H
#define VB_BROKER_PAYER_H

#include "broker/account.h"
#include "broker/peer.h"

struct vb_grant;

/* The account that pays for this client. Where policy wants the unit and the client is in none, *ret has kind
 * VB_ACCOUNT_PROCESS. 0; -ESRCH: the client is gone; or another negative errno. grant may be NULL: the process. */
int vb_payer_find(const char *proc, const struct vb_peer *peer, const struct vb_grant *grant,
                  struct vb_account_key *ret);
/* The unit in the line "0::" of a /proc/PID/cgroup. False: none. */
bool vb_payer_unit(const char *cgroup, char ret[VB_UNIT_MAX + 1]);
/* Reads the limits that hold for a client process now; own is of this process alone. 0; -ESRCH: it is gone. */
int vb_limits_read(const char *proc, const struct vb_peer *peer, uint64_t memory_max, struct vb_limits *ret);

#endif
