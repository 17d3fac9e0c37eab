/* The keys of a grant, one function each: struct json_object -> a field of struct vb_grant. */
#include <errno.h>
#include <grp.h>
#include <json-c/json.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

#include "broker/log.h"
#include "broker/policy-parse.h"
#include "host/sysfs.h"

static int get_id(const struct vb_policy_place *at, const char *key, struct json_object *v, struct vb_grant *g) {
    uint64_t n;

    if (json_object_is_type(v, json_type_string)) {
        const char *name = json_object_get_string(v);
        const struct passwd *pw = g->by_gid ? NULL : getpwnam(name);
        const struct group *gr = g->by_gid ? getgrnam(name) : NULL;
        char clean[64];

        if (!pw && !gr)
            return vb_policy_bad(at, key, "names \"%s\", which this system does not know",
                                 vb_log_clean(name, clean, sizeof clean));
        g->id = pw ? pw->pw_uid : gr->gr_gid;
        return 0;
    }
    if (!json_object_is_type(v, json_type_int))
        return vb_policy_bad(at, key, "must be a number or a name");
    int r = vb_policy_number(at, key, v, 0, UINT32_MAX - 1, &n);
    if (r == 0)
        g->id = (uint32_t)n;
    return r;
}

static int get_uid(const struct vb_policy_place *at, const char *key, struct json_object *v, struct vb_grant *g) {
    return get_id(at, key, v, g);
}

static int get_gid(const struct vb_policy_place *at, const char *key, struct json_object *v, struct vb_grant *g) {
    g->by_gid = true;
    return get_id(at, key, v, g);
}

static bool emulated_address(const char *s) {
    static const char prefix[] = "emulated:";
    size_t n = strlen(prefix), digits = strspn(s, "0123456789:emulatd");

    if (strncmp(s, prefix, n) != 0 || !s[n] || s[digits])
        return false;
    return strlen(s + n) <= 5 && strspn(s + n, "0123456789") == strlen(s + n);
}

static int get_devices(const struct vb_policy_place *at, const char *key, struct json_object *v, struct vb_grant *g) {
    char clean[VB_ADDRESS_MAX + 1];

    if (!json_object_is_type(v, json_type_array))
        return vb_policy_bad(at, key, "must be an array of device addresses");
    size_t n = json_object_array_length(v);
    if (n > VB_GRANT_DEVICES_MAX)
        return vb_policy_bad(at, key, "has %zu devices, but at most %u can be granted", n, VB_GRANT_DEVICES_MAX);
    if (n > 0 && !(g->devices = calloc(n, sizeof g->devices[0])))
        return vb_fail(at->e, -ENOMEM, "%s", at->file);
    for (size_t i = 0; i < n; i++) {
        struct json_object *d = json_object_array_get_idx(v, i);
        const char *s = json_object_is_type(d, json_type_string) ? json_object_get_string(d) : "";

        if (!vb_address_valid(s) && !emulated_address(s))
            return vb_policy_bad(at, key,
                                 "has \"%s\" at %zu: must be a PCI address like \"0000:00:04.0\" or the UUID of an "
                                 "mdev (lower case), or "
                                 "\"emulated:0\"",
                                 vb_log_clean(s, clean, sizeof clean), i);
        if (vb_grant_device(g, s))
            return vb_policy_bad(at, key, "has %s twice", s);
        strcpy(g->devices[g->n_devices++], s);
    }
    return 0;
}

static int get_size(const struct vb_policy_place *at, const char *key, struct json_object *v, uint64_t *ret) {
    if (json_object_is_type(v, json_type_string)) {
        char clean[64];

        if (!vb_size_parse(json_object_get_string(v), ret))
            return vb_policy_bad(
                at, key,
                "is \"%s\": must be bytes as a number, or text: a whole number and KiB, MiB, GiB or TiB, at most "
                "2048 TiB",
                vb_log_clean(json_object_get_string(v), clean, sizeof clean));
        return 0;
    }
    return vb_policy_number(at, key, v, 0, VB_POLICY_MEMORY_MAX, ret);
}

static int get_memory_max(const struct vb_policy_place *at, const char *key, struct json_object *v,
                          struct vb_grant *g) {
    return get_size(at, key, v, &g->memory_max);
}

static int get_tables_max(const struct vb_policy_place *at, const char *key, struct json_object *v,
                          struct vb_grant *g) {
    return get_size(at, key, v, &g->tables_max);
}

static int get_session_memory(const struct vb_policy_place *at, const char *key, struct json_object *v,
                              struct vb_grant *g) {
    int r = get_size(at, key, v, &g->session_memory);

    if (r == 0 && g->session_memory > 0 && g->session_memory < VB_POLICY_SESSION_MIN)
        return vb_policy_bad(at, key, "is %s, but a session process needs %s (0: automatic)",
                             VB_SIZE(g->session_memory), VB_SIZE(VB_POLICY_SESSION_MIN));
    return r;
}

static int get_account(const struct vb_policy_place *at, const char *key, struct json_object *v, struct vb_grant *g) {
    static const char *const kinds[] = {
        [VB_ACCOUNT_PROCESS] = "process", [VB_ACCOUNT_UID] = "uid", [VB_ACCOUNT_UNIT] = "unit"};
    const char *s = json_object_is_type(v, json_type_string) ? json_object_get_string(v) : "";

    for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(s, kinds[i]) == 0) {
            g->account = (enum vb_account_kind)i;
            return 0;
        }
    return vb_policy_bad(at, key, "must be \"process\", \"uid\" or \"unit\"");
}

static int get_sessions(const struct vb_policy_place *at, const char *key, struct json_object *v, struct vb_grant *g) {
    uint64_t n;
    int r = vb_policy_number(at, key, v, 1, VB_SESSIONS_MAX, &n);

    if (r == 0)
        g->sessions = (uint32_t)n;
    return r;
}

static int get_mappings(const struct vb_policy_place *at, const char *key, struct json_object *v, struct vb_grant *g) {
    return vb_policy_number(at, key, v, 1, VB_MAPPINGS_MAX, &g->mappings);
}

static int get_flag(const struct vb_policy_place *at, const char *key, struct json_object *v, bool *ret) {
    if (!json_object_is_type(v, json_type_boolean))
        return vb_policy_bad(at, key, "must be true or false");
    *ret = json_object_get_boolean(v);
    return 0;
}

static int get_admin(const struct vb_policy_place *at, const char *key, struct json_object *v, struct vb_grant *g) {
    return get_flag(at, key, v, &g->admin);
}

static int get_own_mlock(const struct vb_policy_place *at, const char *key, struct json_object *v, struct vb_grant *g) {
    return get_flag(at, key, v, &g->own_mlock);
}

const struct vb_policy_key vb_policy_keys[VB_POLICY_KEYS] = {
    {"uid", get_uid},
    {"gid", get_gid},
    {"devices", get_devices},
    {"memory_max", get_memory_max},
    {"sessions", get_sessions},
    {"mappings", get_mappings},
    {"admin", get_admin},
    {"account", get_account},
    {"own_mlock", get_own_mlock},
    {"tables_max", get_tables_max},
    {"session_memory", get_session_memory},
};
