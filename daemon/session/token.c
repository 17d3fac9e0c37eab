/* Tokens: who shows the secret gets an access to a range of a space. The daemon finds us by the first bytes of the secret,
 * and keeps nothing of it. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "session/pins.h"

static void put_u32(uint8_t *p, uint32_t n) {
    p[0] = (uint8_t)(n >> 24), p[1] = (uint8_t)(n >> 16), p[2] = (uint8_t)(n >> 8), p[3] = (uint8_t)n;
}

int vb_token_create(struct vb_session *s, struct vb_space *space, struct vb_range range, const char *name,
                    struct vb_token **ret_token, struct vb_error *e) {
    int r = vb_table_reserve(&s->tokens);

    if (r == -ENOSPC) {
        vb_error_limit(e, 1, s->tokens.n, VB_TOKENS_MAX, "tokens of a session");
        return vb_refuse(e, VB_LIMIT, "a session has at most %u tokens; revoke one", VB_TOKENS_MAX);
    }
    struct vb_token *t = r == 0 ? calloc(1, sizeof *t) : NULL;
    if (!t)
        return vb_fail(e, -ENOMEM, "token");
    if (getrandom(t->secret, sizeof t->secret, 0) != (ssize_t)sizeof t->secret) {
        r = vb_fail(e, -errno, "a random secret");
        free(t);
        return r;
    }
    t->space = space;
    t->range = range;
    snprintf(t->name, sizeof t->name, "%s", name);
    vb_table_add(&s->tokens, t);
    put_u32(t->secret, s->id);
    put_u32(t->secret + 4, t->id);
    *ret_token = t;
    return 0;
}

struct vb_token *vb_token_find(struct vb_session *s, const uint8_t *secret, size_t size) {
    struct vb_token *found = NULL;

    for (uint32_t i = 0; size == VB_TOKEN_SIZE && i < s->tokens.n; i++) {
        struct vb_token *t = s->tokens.items[i];
        unsigned different = 0;

        for (size_t k = 0; k < VB_TOKEN_SIZE; k++)
            different |= t->secret[k] ^ secret[k];
        if (!different && !t->revoked)
            found = t;
    }
    return found;
}

void vb_token_remove(struct vb_session *s, struct vb_token *t) {
    vb_pin_links_close(s, t, "the token was revoked");
    vb_table_remove(&s->tokens, t->id);
    free(t);
}

void vb_tokens_of_space_remove(struct vb_session *s, const struct vb_space *space) {
    for (uint32_t i = s->tokens.n; i-- > 0;) {
        struct vb_token *t = s->tokens.items[i];

        if (t->space == space)
            vb_token_remove(s, t);
    }
}
