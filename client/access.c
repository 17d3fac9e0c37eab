/* Tokens and accesses: how one client lets another pin its memory, and the fds that the pinner has been sent.
 *
 * An access holds each memory's fd that came with a PinReply: the broker sends it once, and later pins name its number
 * alone. It is reserved before the broker is asked, so that what the broker opened can always be kept. A call that waits
 * keeps its access from being freed (`users`), since a handler may close it, or the broker end it, meanwhile. */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/client-private.h"

_Static_assert(VFB_TOKEN_SIZE == VB_TOKEN_SIZE, "the header's size of a secret is the wire's");
_Static_assert(sizeof((struct vfb_token *)NULL)->warning == VB_ERROR_TEXT, "room for any sentence");
_Static_assert(sizeof((struct vfb_access *)NULL)->name == VB_NAME_MAX + 1, "room for any name");

/* ---- the table of accesses ------------------------------------------------------------------------------------- */

struct vbc_access *vbc_access_find(struct vfb_client *c, uint32_t id) {
    struct vbc_access *a;

    TAILQ_FOREACH (a, &c->accesses, link)
        if (a->id == id)
            return a;
    return NULL;
}

void vbc_access_unuse(struct vbc_access *a) {
    if (--a->users == 0 && a->ended)
        free(a);
}

void vbc_access_end(struct vfb_client *c, struct vbc_access *a) {
    TAILQ_REMOVE(&c->accesses, a, link);
    c->n_accesses--;
    for (size_t i = 0; i < a->n_files; i++)
        close(a->files[i].fd);
    a->n_files = 0;
    a->ended = true;
    if (a->users == 0)
        free(a);
}

void vbc_access_end_all(struct vfb_client *c) {
    struct vbc_access *a;

    while ((a = TAILQ_FIRST(&c->accesses)))
        vbc_access_end(c, a);
}

/* ---- tokens ---------------------------------------------------------------------------------------------------- */

static int take_token(struct vbc_call *call, const VfioBroker__Reply *reply, struct vb_packet *p) {
    const VfioBroker__TokenCreateReply *m = reply->token_create;
    struct vfb_token *token = call->out;
    (void)p;

    if (m->secret.len != VFB_TOKEN_SIZE)
        return vbc_error_set(call->error, VFB_PROTOCOL, "the broker's token has %zu bytes instead of %d", m->secret.len,
                             VFB_TOKEN_SIZE);
    *token = (struct vfb_token){.id = m->token};
    memcpy(token->secret, m->secret.data, VFB_TOKEN_SIZE);
    vbc_text(token->warning, sizeof token->warning, m->warning);
    return 0;
}

int vfb_token_create(struct vfb_client *c, uint32_t space, uint64_t first, uint64_t last, const char *name,
                     struct vfb_token *ret_token) {
    VfioBroker__TokenCreate m = VFIO_BROKER__TOKEN_CREATE__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;
    int r;

    if (!name)
        name = "";
    r = vbc_check_name(c, "token's name", name, VB_NAME_MAX);
    if (r != 0)
        return r;
    m.space = space;
    m.first = first;
    m.last = last;
    m.name = (char *)name;
    req.body_case = VFIO_BROKER__REQUEST__BODY_TOKEN_CREATE;
    req.token_create = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_TOKEN_CREATE, take_token, ret_token, 0);
}

int vfb_token_revoke(struct vfb_client *c, uint32_t token) {
    VfioBroker__TokenRevoke m = VFIO_BROKER__TOKEN_REVOKE__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;

    m.token = token;
    req.body_case = VFIO_BROKER__REQUEST__BODY_TOKEN_REVOKE;
    req.token_revoke = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_DONE, NULL, NULL, 0);
}

/* ---- accesses -------------------------------------------------------------------------------------------------- */

struct opening {
    struct vbc_access *access; /* reserved; in the table once the reply has been taken */
    struct vfb_access told;
};

static int take_access(struct vbc_call *call, const VfioBroker__Reply *reply, struct vb_packet *p) {
    const VfioBroker__AccessOpenReply *m = reply->access_open;
    struct vfb_client *c = call->client;
    struct opening *o = call->out;
    (void)p;

    if (m->first > m->last)
        return vbc_error_set(call->error, VFB_PROTOCOL, "the broker's access has the range 0x%" PRIx64 " to 0x%" PRIx64,
                             m->first, m->last);
    if (vbc_access_find(c, m->access))
        return vbc_error_set(call->error, VFB_PROTOCOL, "the broker opened access %u, which is open already",
                             m->access);
    o->told = (struct vfb_access){.id = m->access, .range = {m->first, m->last}};
    vbc_text(o->told.name, sizeof o->told.name, m->name);
    vbc_text(o->told.warning, sizeof o->told.warning, m->warning);
    o->access->id = m->access;
    TAILQ_INSERT_TAIL(&c->accesses, o->access, link);
    return 0;
}

int vfb_access_open(struct vfb_client *c, const uint8_t secret[VFB_TOKEN_SIZE], struct vfb_access *ret_access) {
    VfioBroker__AccessOpen m = VFIO_BROKER__ACCESS_OPEN__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;
    struct opening o = {.access = NULL};
    int r = vbc_check_connected(c);

    if (r != 0)
        return r;
    if (c->n_accesses >= VB_ACCESSES_MAX)
        return vbc_fail(c, VFB_LIMIT, "this client has %u accesses open, as many as it may: close one", c->n_accesses);
    o.access = calloc(1, sizeof *o.access);
    if (!o.access)
        return vbc_fail(c, -ENOMEM, "no memory for an access");
    o.access->users = 1;
    c->n_accesses++;
    m.secret = (ProtobufCBinaryData){.len = VFB_TOKEN_SIZE, .data = (uint8_t *)secret};
    req.body_case = VFIO_BROKER__REQUEST__BODY_ACCESS_OPEN;
    req.access_open = &m;
    r = vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_ACCESS_OPEN, take_access, &o, 0);
    if (r != 0) {
        c->n_accesses--;
        free(o.access);
        return r;
    }
    /* Only if a handler made calls between the reply and here. */
    if (o.access->ended)
        r = vbc_fail(c, VFB_DENIED,
                     "access %u ended as soon as it was open: its token was revoked, or its owner is gone", o.told.id);
    else
        *ret_access = o.told;
    vbc_access_unuse(o.access);
    return r;
}

/* Here and not where the caller waits: from the reply on, the number may come again. */
static int take_closed(struct vbc_call *call, const VfioBroker__Reply *reply, struct vb_packet *p) {
    struct vbc_access *a = vbc_access_find(call->client, *(const uint32_t *)call->out);
    (void)reply, (void)p;

    if (a)
        vbc_access_end(call->client, a);
    return 0;
}

int vfb_access_close(struct vfb_client *c, uint32_t access) {
    VfioBroker__AccessClose m = VFIO_BROKER__ACCESS_CLOSE__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;

    m.access = access;
    req.body_case = VFIO_BROKER__REQUEST__BODY_ACCESS_CLOSE;
    req.access_close = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_DONE, take_closed, &access, 0);
}
