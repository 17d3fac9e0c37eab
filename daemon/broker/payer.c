#include "broker/payer.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "broker/policy.h"
#include "host/files.h"

static bool ends_in(const char *s, size_t n, const char *suffix) {
    size_t m = strlen(suffix);

    return n > m && memcmp(s + n - m, suffix, m) == 0;
}

/* Kinds of units that have processes: systemd.unit(5). */
static bool is_unit(const char *s, size_t n) {
    static const char *const suffixes[] = {".service", ".scope", ".socket", ".mount", ".swap"};

    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++)
        if (ends_in(s, n, suffixes[i]))
            return true;
    return false;
}

bool vb_payer_unit(const char *cgroup, char ret[VB_UNIT_MAX + 1]) {
    const char *p = strncmp(cgroup, "0::/", 4) == 0 ? cgroup + 3 : strstr(cgroup, "\n0::/");
    size_t n;

    if (!p)
        return false;
    for (p += strcspn(p, "/"); *p == '/'; p += n) {
        p++;
        n = strcspn(p, "/\n");
        if (ends_in(p, n, ".slice"))
            continue;
        if (n > 0 && *p == '_') /* systemd's escape for names that the kernel uses: cg_escape() */
            p++, n--;
        if (n > VB_UNIT_MAX || !is_unit(p, n))
            return false;
        memcpy(ret, p, n);
        ret[n] = 0;
        return true;
    }
    return false;
}

/* 0, 1: it is in no unit, or a negative errno. */
static int read_unit(const char *proc, const struct vb_peer *peer, char ret[VB_UNIT_MAX + 1]) {
    char path[PATH_MAX], text[PATH_MAX + 1024];

    if (!vb_path(path, sizeof path, "%s/%d/cgroup", proc, (int)peer->pid))
        return -ENAMETOOLONG;
    int r = vb_file_read(path, text, sizeof text);
    if (peer->pidfd < 0 || !vb_pidfd_alive(peer->pidfd)) /* else what was read may be another process's */
        return -ESRCH;
    if (r < 0)
        return r == -ENOENT ? 1 : r; /* a kernel without cgroups */
    return vb_payer_unit(text, ret) ? 0 : 1;
}

int vb_payer_find(const char *proc, const struct vb_peer *peer, const struct vb_grant *grant,
                  struct vb_account_key *ret) {
    struct vb_account_key k = {
        .kind = grant ? grant->account : VB_ACCOUNT_PROCESS, .uid = peer->uid, .pid = peer->pid, .start = peer->start};
    int r = 0;

    snprintf(k.comm, sizeof k.comm, "%s", peer->comm);
    if (k.kind == VB_ACCOUNT_UNIT)
        r = read_unit(proc, peer, k.unit);
    if (r < 0)
        return r;
    if (r > 0)
        k.kind = VB_ACCOUNT_PROCESS;
    *ret = k;
    return 0;
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
