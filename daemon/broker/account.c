#include "broker/account.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/policy.h"

struct vb_account *vb_account_get(struct vb_accounts *accounts, pid_t pid, uint64_t start) {
    struct vb_account *a;

    LIST_FOREACH (a, &accounts->list, entry) {
        if (a->pid == pid && a->start == start) {
            a->refs++;
            return a;
        }
    }
    a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    *a = (struct vb_account){.pid = pid, .start = start, .refs = 1};
    LIST_INSERT_HEAD(&accounts->list, a, entry);
    return a;
}

struct vb_account *vb_account_put(struct vb_account *a) {
    if (a && --a->refs == 0) {
        assert(a->leased == 0);
        LIST_REMOVE(a, entry);
        free(a);
    }
    return NULL;
}

int vb_limits_read(const char *proc, const struct vb_peer *peer, uint64_t memory_max, struct vb_limits *ret) {
    struct vb_proc_status status;
    struct vb_limits l;

    if (peer->pidfd < 0)
        return -ESRCH;
    int r = vb_proc_memlock(proc, peer->pid, &l.limit);
    if (r == 0)
        r = vb_proc_status(proc, peer->pid, &status);
    if (r < 0)
        return r == -ENOENT ? -ESRCH : r;
    if (!vb_pidfd_alive(peer->pidfd)) /* else the pid, and what was read, may be another's by now */
        return -ESRCH;
    l.own = status.locked;
    snprintf(l.whose, sizeof l.whose, "RLIMIT_MEMLOCK of pid %d", (int)peer->pid);
    if (memory_max < l.limit) {
        l.limit = memory_max;
        snprintf(l.whose, sizeof l.whose, "policy memory_max of uid %u", peer->uid);
    }
    if (l.limit > VB_POLICY_MEMORY_MAX)
        l.limit = VB_POLICY_MEMORY_MAX;
    *ret = l;
    return 0;
}

static uint64_t used(const struct vb_account *a, const struct vb_limits *l) {
    uint64_t sum;

    return __builtin_add_overflow(a->leased, l->own, &sum) ? UINT64_MAX : sum;
}

uint64_t vb_account_left(const struct vb_account *a, const struct vb_limits *l) {
    uint64_t u = used(a, l);

    return u >= l->limit ? 0 : l->limit - u;
}

int vb_account_check(const struct vb_account *a, const struct vb_limits *l, uint64_t old, uint64_t new_lease,
                     struct vb_error *e) {
    uint64_t left = vb_account_left(a, l);

    if (new_lease <= old || new_lease - old <= left)
        return 0;
    vb_refuse(e, VB_LIMIT, "memory limit: %s more wanted, %s left of %s (%s)", VB_SIZE(new_lease - old), VB_SIZE(left),
              VB_SIZE(l->limit), l->whose);
    vb_error_limit(e, new_lease - old, used(a, l), l->limit, l->whose);
    return VB_LIMIT;
}

void vb_account_book(struct vb_account *a, uint64_t old, uint64_t new_lease) {
    assert(a->leased >= old);
    a->leased = a->leased - old + new_lease;
}
