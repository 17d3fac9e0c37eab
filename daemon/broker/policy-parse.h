/* Between policy-parse.c, which knows the file, and policy-keys.c, which knows what a grant has. */
#ifndef VB_BROKER_POLICY_PARSE_H
#define VB_BROKER_POLICY_PARSE_H

#include "broker/policy.h"

struct json_object;

/* Where the reader is, for error texts. */
struct vb_policy_place {
    const char *file;
    unsigned grant; /* index */
    bool in_grant;
    struct vb_error *e;
};

/* VB_INVALID: names the file, the key and what is wrong. key: "" for the whole. */
int vb_policy_bad(const struct vb_policy_place *at, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
int vb_policy_number(const struct vb_policy_place *at, const char *key, struct json_object *v, uint64_t min,
                     uint64_t max, uint64_t *ret);

/* Reads the value of one key into the grant. */
struct vb_policy_key {
    const char *key;
    int (*get)(const struct vb_policy_place *at, const char *key, struct json_object *v, struct vb_grant *g);
};
#define VB_POLICY_KEYS 11
/* The first two are uid and gid: a grant has exactly one of them. */
extern const struct vb_policy_key vb_policy_keys[VB_POLICY_KEYS];

#endif
