#include "broker/policy-json.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define DEPTH 8
#define KEYS  16

struct span {
    const char *s;
    size_t n;
};

struct level {
    bool object;
    bool value;     /* object: the next string is a value, not a key */
    unsigned index; /* array: of the current element */
    unsigned n_keys;
    struct span keys[KEYS]; /* the last is the current one */
};

static void write_path(const struct level *levels, unsigned depth, char *buf, size_t size) {
    size_t used = 0;

    buf[0] = 0;
    for (unsigned i = 0; i < depth && used < size; i++) {
        const struct level *l = &levels[i];
        int n = 0;

        if (!l->object)
            n = snprintf(buf + used, size - used, "[%u]", l->index);
        else if (l->n_keys > 0)
            n = snprintf(buf + used, size - used, "%s%.*s", used ? "." : "", (int)l->keys[l->n_keys - 1].n,
                         l->keys[l->n_keys - 1].s);
        used += (size_t)n;
    }
}

/* Notes a key of the object l. NULL, or what is wrong with it. */
static const char *add_key(struct level *l, struct span key) {
    const char *why = NULL;

    for (unsigned i = 0; i < l->n_keys; i++)
        if (l->keys[i].n == key.n && memcmp(l->keys[i].s, key.s, key.n) == 0)
            why = "is there twice";
    if (memchr(key.s, '\\', key.n))
        why = "has an escape in the key";
    if (l->n_keys == KEYS)
        return "comes after too many keys";
    l->keys[l->n_keys++] = key;
    return why;
}

bool vb_json_keys_unique(const char *text, size_t size, char *ret_path, size_t path_size, const char **ret_why) {
    struct level levels[DEPTH];
    unsigned depth = 0;

    *ret_why = NULL;
    for (size_t i = 0; i < size && !*ret_why; i++) {
        struct level *l = depth > 0 ? &levels[depth - 1] : NULL;
        size_t start = i + 1;

        switch (text[i]) {
        case '{':
        case '[':
            if (depth == DEPTH)
                *ret_why = "is nested too deep";
            else
                levels[depth++] = (struct level){.object = text[i] == '{'};
            break;
        case '}':
        case ']':
            if (depth > 0)
                depth--;
            break;
        case ':':
            if (l)
                l->value = true;
            break;
        case ',':
            if (l) {
                l->value = false;
                l->index++;
            }
            break;
        case '\'': /* json-c takes them around keys, even when strict */
            *ret_why = "has single quotes";
            break;
        case '"':
            for (i++; i < size && text[i] != '"'; i++)
                if (text[i] == '\\')
                    i++;
            if (l && l->object && !l->value && i < size)
                *ret_why = add_key(l, (struct span){text + start, i - start});
            break;
        }
    }
    if (*ret_why)
        write_path(levels, depth, ret_path, path_size);
    return !*ret_why;
}
