/* policy.json -> struct vb_policy. Strict: what is not understood is an error that names file and key, never ignored,
 * since a misspelt limit would otherwise be no limit. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/log.h"
#include "broker/policy-json.h"
#include "broker/policy-parse.h"
#include "proto/cleanup.h"

int vb_policy_bad(const struct vb_policy_place *at, const char *key, const char *fmt, ...) {
    char path[96], clean[64], what[VB_ERROR_TEXT];
    va_list ap;

    vb_log_clean(key, clean, sizeof clean);
    if (at->in_grant)
        snprintf(path, sizeof path, "grants[%u]%s%s", at->grant, *clean ? "." : "", clean);
    else
        snprintf(path, sizeof path, "%s", *clean ? clean : "top level");
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return vb_refuse(at->e, VB_INVALID, "%s: %s %.160s", at->file, path, what);
}

int vb_policy_number(const struct vb_policy_place *at, const char *key, struct json_object *v, uint64_t min,
                     uint64_t max, uint64_t *ret) {
    if (!json_object_is_type(v, json_type_int))
        return vb_policy_bad(at, key, "must be a whole number");
    /* Negative numbers read as 0 with get_uint64, and as what they are with get_int64. */
    uint64_t n = json_object_get_uint64(v);
    if (json_object_get_int64(v) < 0 || n < min || n > max)
        return min == max ? vb_policy_bad(at, key, "is %s, but must be %llu", json_object_get_string(v),
                                          (unsigned long long)min)
                          : vb_policy_bad(at, key, "is %s, but must be between %llu and %llu",
                                          json_object_get_string(v), (unsigned long long)min, (unsigned long long)max);
    *ret = n;
    return 0;
}

/* ---- grants and the whole ---- */

static int get_grant(const struct vb_policy_place *at, struct json_object *v, struct vb_grant *g) {
    bool who[2] = {false, false};

    if (!json_object_is_type(v, json_type_object))
        return vb_policy_bad(at, "", "must be an object");
    json_object_object_foreach(v, key, value) {
        size_t i = 0;

        while (i < VB_POLICY_KEYS && strcmp(key, vb_policy_keys[i].key) != 0)
            i++;
        if (i == VB_POLICY_KEYS)
            return vb_policy_bad(at, key, "is not a key that a grant can have");
        if (i < 2)
            who[i] = true;
        int r = vb_policy_keys[i].get(at, key, value, g);
        if (r != 0)
            return r;
    }
    if (who[0] == who[1])
        return vb_policy_bad(at, "", who[0] ? "has both uid and gid" : "has neither uid nor gid");
    if (g->session_memory > 0 && g->session_memory < g->tables_max)
        return vb_policy_bad(at, "session_memory",
                             "is %s, less than tables_max (%s): a session would be killed before it is refused",
                             VB_SIZE(g->session_memory), VB_SIZE(g->tables_max));
    return 0;
}

static int get_grants(struct vb_policy_place *at, struct json_object *v, struct vb_policy *p) {
    if (!json_object_is_type(v, json_type_array))
        return vb_policy_bad(at, "grants", "must be an array");
    size_t n = json_object_array_length(v);
    if (n > VB_GRANTS_MAX)
        return vb_policy_bad(at, "grants", "has %zu entries, but at most %u are read", n, VB_GRANTS_MAX);
    if (n > 0 && !(p->grants = calloc(n, sizeof p->grants[0])))
        return vb_fail(at->e, -ENOMEM, "%s", at->file);
    at->in_grant = true;
    for (size_t i = 0; i < n; i++) {
        struct vb_grant *g = &p->grants[p->n_grants++];

        at->grant = (unsigned)i;
        *g = (struct vb_grant){.memory_max = VB_POLICY_NO_LIMIT,
                               .own_mlock = true,
                               .sessions = VB_SESSIONS_DEFAULT,
                               .mappings = VB_MAPPINGS_DEFAULT};
        int r = get_grant(at, json_object_array_get_idx(v, i), g);
        if (r != 0)
            return r;
        for (size_t j = 0; j < i; j++)
            if (p->grants[j].by_gid == g->by_gid && p->grants[j].id == g->id)
                return vb_policy_bad(at, g->by_gid ? "gid" : "uid", "%u has its grant in grants[%zu] already", g->id,
                                     j);
    }
    at->in_grant = false;
    return 0;
}

static int get_policy(struct vb_policy_place *at, struct json_object *root, struct vb_policy *p) {
    struct json_object *grants = NULL;
    bool version = false;
    uint64_t n;

    if (!json_object_is_type(root, json_type_object))
        return vb_policy_bad(at, "", "must be an object");
    json_object_object_foreach(root, key, value) {
        if (strcmp(key, "version") == 0) {
            int r = vb_policy_number(at, key, value, 1, 1, &n);
            if (r != 0)
                return r;
            version = true;
        } else if (strcmp(key, "grants") == 0) {
            grants = value;
            if (!value)
                return vb_policy_bad(at, key, "must be an array");
        } else {
            return vb_policy_bad(at, key, "is not a key that a policy can have");
        }
    }
    if (!version)
        return vb_policy_bad(at, "version", "is missing: must be 1");
    if (!grants)
        return vb_policy_bad(at, "grants", "is missing");
    return get_grants(at, grants, p);
}

static struct json_object *parse_json(const struct vb_policy_place *at, const char *text, size_t size) {
    struct json_tokener *t = json_tokener_new_ex(8);

    if (!t) {
        vb_fail(at->e, -ENOMEM, "%s", at->file);
        return NULL;
    }
    json_tokener_set_flags(t, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    struct json_object *root = json_tokener_parse_ex(t, text, (int)size);
    enum json_tokener_error error = json_tokener_get_error(t);
    size_t end = json_tokener_get_parse_end(t), line = 1;
    json_tokener_free(t);
    while (error == json_tokener_success && end < size && strchr(" \t\r\n", text[end]))
        end++;
    if (root && error == json_tokener_success && end == size)
        return root;
    /* What ends too early does so on its last line, not on the one that a newline at its end would begin. */
    while (error == json_tokener_continue && end > 0 && strchr(" \t\r\n", text[end - 1]))
        end--;
    for (size_t i = 0; i < end && i < size; i++)
        line += text[i] == '\n';
    json_object_put(root);
    vb_refuse(at->e, VB_INVALID, "%s: line %zu: not JSON: %s", at->file, line,
              error == json_tokener_success    ? "text after the end"
              : error == json_tokener_continue ? "it ends too early"
                                               : json_tokener_error_desc(error));
    return NULL;
}

int vb_policy_parse(const char *path, const char *text, size_t size, struct vb_policy **ret, struct vb_error *e) {
    struct vb_policy_place at = {.file = path, .e = e};
    struct vb_policy *p;
    char where[96];
    const char *why;

    if (size > VB_POLICY_SIZE_MAX)
        return vb_refuse(e, VB_INVALID, "%s: larger than %s", path, VB_SIZE(VB_POLICY_SIZE_MAX));
    if (memchr(text, 0, size))
        return vb_refuse(e, VB_INVALID, "%s: not JSON: has a zero byte", path);
    struct json_object *root = parse_json(&at, text, size);
    if (!root)
        return e ? e->code : VB_INVALID;
    p = vb_policy_empty(path);
    int r = p ? get_policy(&at, root, p) : vb_fail(e, -ENOMEM, "%s", path);
    json_object_put(root);
    if (r == 0 && !vb_json_keys_unique(text, size, where, sizeof where, &why)) {
        at.in_grant = false;
        r = vb_policy_bad(&at, where, "%s", why);
    }
    if (r != 0) {
        vb_policy_unref(p);
        return r;
    }
    *ret = p;
    return 0;
}

int vb_policy_load(const char *path, struct vb_policy **ret, struct vb_error *e) {
    VB_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    VB_FREE char *text = NULL;
    struct stat st;
    size_t size = 0;

    if (fd < 0 || fstat(fd, &st) < 0)
        return vb_fail(e, -errno, "%s", path);
    if (!S_ISREG(st.st_mode))
        return vb_refuse(e, VB_INVALID, "%s: not a regular file", path);
    if (st.st_mode & S_IWOTH)
        return vb_refuse(e, VB_INVALID, "%s: everybody may write it (mode %04o): chmod o-w", path, st.st_mode & 07777);
    if (!(text = malloc(VB_POLICY_SIZE_MAX + 1)))
        return vb_fail(e, -ENOMEM, "%s", path);
    while (size <= VB_POLICY_SIZE_MAX) {
        ssize_t n = read(fd, text + size, VB_POLICY_SIZE_MAX + 1 - size);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vb_fail(e, -errno, "%s", path);
        if (n == 0)
            break;
        size += (size_t)n;
    }
    return vb_policy_parse(path, text, size, ret, e);
}
