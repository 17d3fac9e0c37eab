/* Who may have what: the grants of policy.json, and which of them holds for a peer.
 *
 * Default deny. The first grant in file order that names the peer's uid, or one of its gids, is the peer's only grant.
 * A policy is read once and never changed: a session keeps a reference to the one that was in force when it started.
 * uid 0 without a matching grant is an administrator without devices. */
#ifndef VB_BROKER_POLICY_H
#define VB_BROKER_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "broker/account.h"
#include "core/error.h"

#define VB_POLICY_NO_LIMIT UINT64_MAX
/* More bytes than any machine has; VB_SESSIONS_MAX times as much still fits 64 bits. */
#define VB_POLICY_MEMORY_MAX (1ull << 51)
/* With less a session process could be killed before it serves anything. */
#define VB_POLICY_SESSION_MIN (16ull << 20)

struct vb_grant {
    bool by_gid;
    uint32_t id;                  /* uid or gid */
    bool admin;                   /* may look at other sessions */
    uint64_t memory_max;          /* bytes, or VB_POLICY_NO_LIMIT */
    enum vb_account_kind account; /* whose limit its sessions share */
    bool own_mlock;               /* what clients mlock themselves counts against the limit: the default */
    uint32_t sessions;            /* of one uid at a time */
    uint64_t mappings;            /* of one session */
    uint64_t tables_max;          /* bytes of one session; 0: see vb_grant_tables_max() */
    uint64_t session_memory;      /* bytes, memory.max of a session's cgroup; 0: see vb_grant_session_memory() */
    uint32_t n_devices;
    char (*devices)[VB_ADDRESS_MAX + 1];
};

struct vb_policy {
    unsigned refs;
    char *path; /* for error texts */
    uint32_t n_grants;
    struct vb_grant *grants;
};

/* Reads and checks the file. 0; a negative errno (-ENOENT: there is none); VB_INVALID with a text that names file and
 * key. */
int vb_policy_load(const char *path, struct vb_policy **ret, struct vb_error *e);
/* The same from memory: `path` is only named. */
int vb_policy_parse(const char *path, const char *text, size_t size, struct vb_policy **ret, struct vb_error *e);
/* A policy without any grant. NULL: no memory. */
struct vb_policy *vb_policy_empty(const char *path);
struct vb_policy *vb_policy_ref(struct vb_policy *p);
struct vb_policy *vb_policy_unref(struct vb_policy *p); /* NULL is fine */

/* The peer's grant, or NULL. Lives as long as the policy. */
const struct vb_grant *vb_policy_find(const struct vb_policy *p, uid_t uid, gid_t gid, const gid_t *groups,
                                      size_t n_groups);
bool vb_grant_device(const struct vb_grant *g, const char *address);
/* What holds for a session whose account has this limit, as policy says or else automatically: a session may always have
 * page tables for what it may map. NULL: no grant any more, so nothing new can be mapped; 0. */
uint64_t vb_grant_tables_max(const struct vb_grant *g, uint64_t limit);
/* Room for those tables and kernel objects, and for the process itself. */
uint64_t vb_grant_session_memory(const struct vb_grant *g, uint64_t limit);
/* "64 MiB", "1024", "2 TiB" to bytes. False: not a size, or more than VB_POLICY_MEMORY_MAX. */
bool vb_size_parse(const char *text, uint64_t *ret);

#endif
