#include "broker/policy.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Administrator by being root; everything that needs a grant is refused. */
static const struct vb_grant root_grant = {
    .admin = true,
    .memory_max = VB_POLICY_NO_LIMIT,
    .own_mlock = true,
    .sessions = VB_SESSIONS_DEFAULT,
    .mappings = VB_MAPPINGS_DEFAULT,
};

struct vb_policy *vb_policy_empty(const char *path) {
    struct vb_policy *p = calloc(1, sizeof *p);

    if (!p)
        return NULL;
    p->refs = 1;
    p->path = strdup(path);
    if (!p->path) {
        free(p);
        return NULL;
    }
    return p;
}

struct vb_policy *vb_policy_ref(struct vb_policy *p) {
    p->refs++;
    return p;
}

struct vb_policy *vb_policy_unref(struct vb_policy *p) {
    if (p && --p->refs == 0) {
        for (uint32_t i = 0; i < p->n_grants; i++)
            free(p->grants[i].devices);
        free(p->grants);
        free(p->path);
        free(p);
    }
    return NULL;
}

static bool has_gid(uint32_t id, gid_t gid, const gid_t *groups, size_t n) {
    if (gid == id)
        return true;
    for (size_t i = 0; i < n; i++)
        if (groups[i] == id)
            return true;
    return false;
}

const struct vb_grant *vb_policy_find(const struct vb_policy *p, uid_t uid, gid_t gid, const gid_t *groups,
                                      size_t n_groups) {
    for (uint32_t i = 0; i < p->n_grants; i++) {
        const struct vb_grant *g = &p->grants[i];

        if (g->by_gid ? has_gid(g->id, gid, groups, n_groups) : g->id == uid)
            return g;
    }
    return uid == 0 ? &root_grant : NULL;
}

bool vb_grant_device(const struct vb_grant *g, const char *address) {
    for (uint32_t i = 0; i < g->n_devices; i++)
        if (strcmp(g->devices[i], address) == 0)
            return true;
    return false;
}

/* Page tables of 4 KiB pages are a 512th of what they map; a limit's worth of memory may be mapped in several spaces. */
uint64_t vb_grant_tables_max(const struct vb_grant *g, uint64_t limit) {
    if (!g)
        return 0;
    return g->tables_max > 0 ? g->tables_max : VB_TABLES_BASE + limit / 32;
}

uint64_t vb_grant_session_memory(const struct vb_grant *g, uint64_t limit) {
    static const uint64_t process = 64ull << 20;

    return g && g->session_memory > 0 ? g->session_memory : vb_grant_tables_max(g, limit) + process;
}

bool vb_size_parse(const char *text, uint64_t *ret) {
    static const struct {
        const char *name;
        unsigned shift;
    } units[] = {{"", 0}, {"bytes", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}};
    char *end;

    if (!isdigit((unsigned char)text[0]))
        return false;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (errno)
        return false;
    end += strspn(end, " ");
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (strcmp(end, units[i].name) == 0) {
            if (n > VB_POLICY_MEMORY_MAX >> units[i].shift)
                return false;
            *ret = (uint64_t)n << units[i].shift;
            return true;
        }
    return false;
}
