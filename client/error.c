/* What vfb_error() shows: filled by the library's own refusals and from the Errors that the broker sends. */
#include "config.h"

#include <errno.h>
#include <features.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "client/client-private.h"

#define SAME(a, b) _Static_assert((int)VFB_##a == (int)VFIO_BROKER__ERROR_CODE__ERROR_##b, #a)
SAME(PROTOCOL, PROTOCOL);
SAME(UNSUPPORTED, UNSUPPORTED);
SAME(INVALID, INVALID);
SAME(DENIED, DENIED);
SAME(NOT_FOUND, NOT_FOUND);
SAME(LIMIT, LIMIT);
SAME(OVERLAP, OVERLAP);
SAME(RESERVED, RESERVED);
SAME(BUSY, BUSY);
SAME(BAD_MEMORY, BAD_MEMORY);
SAME(STATE, STATE);
SAME(UNAVAILABLE, UNAVAILABLE);

static const char *const code_names[] = {
    [0] = "success",
    [VFB_PROTOCOL] = "VFB_PROTOCOL",
    [VFB_UNSUPPORTED] = "VFB_UNSUPPORTED",
    [VFB_INVALID] = "VFB_INVALID",
    [VFB_DENIED] = "VFB_DENIED",
    [VFB_NOT_FOUND] = "VFB_NOT_FOUND",
    [VFB_LIMIT] = "VFB_LIMIT",
    [VFB_OVERLAP] = "VFB_OVERLAP",
    [VFB_RESERVED] = "VFB_RESERVED",
    [VFB_BUSY] = "VFB_BUSY",
    [VFB_BAD_MEMORY] = "VFB_BAD_MEMORY",
    [VFB_STATE] = "VFB_STATE",
    [VFB_UNAVAILABLE] = "VFB_UNAVAILABLE",
};

static const char *errno_name(int e) {
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 32)
    return strerrorname_np(e);
#else
    return e == EPIPE ? "EPIPE" : e == ENOMEM ? "ENOMEM" : e == EAGAIN ? "EAGAIN" : "errno";
#endif
}

const char *vfb_code_name(int code) {
    const char *name = NULL;

    if (code < 0 && code >= -4095)
        name = errno_name(-code);
    else if (code >= 0 && (size_t)code < sizeof code_names / sizeof *code_names)
        name = code_names[code];
    return name ? name : "unknown";
}

void vbc_text(char *to, size_t size, const char *from) {
    size_t i = 0;

    for (; from && from[i] && i + 1 < size; i++)
        to[i] = (unsigned char)from[i] < 0x20 || from[i] == 0x7f ? '?' : from[i];
    to[i] = 0;
}

/* The pointers of e->pub, to what e itself holds. */
static void relink(struct vbc_error *e) {
    e->pub.text = e->text;
    e->pub.limit_whose = e->whose;
    e->pub.conflicts = e->conflicts;
    for (size_t i = 0; i < e->pub.n_conflicts; i++) {
        e->conflicts[i].kind = e->kind[i];
        e->conflicts[i].device = e->device[i];
    }
}

static void reset(struct vbc_error *e, int code) {
    e->pub = (struct vfb_error){.code = code, .entry = -1};
    e->text[0] = e->whose[0] = 0;
    relink(e);
}

void vbc_error_copy(struct vbc_error *to, const struct vbc_error *from) {
    *to = *from;
    relink(to);
}

static int vset(struct vbc_error *e, int code, const char *fmt, va_list ap) {
    reset(e, code);
    vsnprintf(e->text, sizeof e->text, fmt, ap);
    return code;
}

int vbc_error_set(struct vbc_error *e, int code, const char *fmt, ...) {
    va_list ap;

    va_start(ap, fmt);
    vset(e, code, fmt, ap);
    va_end(ap);
    return code;
}

int vbc_fail(struct vfb_client *c, int code, const char *fmt, ...) {
    va_list ap;

    va_start(ap, fmt);
    vset(&c->error, code, fmt, ap);
    va_end(ap);
    return code;
}

void vbc_error_conflicts(struct vbc_error *e, VfioBroker__Conflict *const *conflicts, size_t n) {
    e->pub.n_conflicts = n < VB_CONFLICTS_MAX ? n : VB_CONFLICTS_MAX;
    for (size_t i = 0; i < e->pub.n_conflicts; i++) {
        const VfioBroker__Conflict *k = conflicts[i];

        e->conflicts[i] = (struct vfb_conflict){
            .first = k->first, .last = k->last, .with_first = k->with_first, .with_last = k->with_last};
        vbc_text(e->kind[i], sizeof e->kind[i], k->kind);
        vbc_text(e->device[i], sizeof e->device[i], k->device);
    }
    relink(e);
}

int vbc_error_decode(struct vbc_error *e, const VfioBroker__Error *m) {
    int code = (int)m->code, host = 0;

    if (code == (int)VFIO_BROKER__ERROR_CODE__ERROR_HOST) {
        /* Linux's errnos end at 4095 (include/linux/err.h, MAX_ERRNO). */
        host = m->host_errno > 0 && m->host_errno <= 4095 ? m->host_errno : EIO;
        code = -host;
    } else if (code < VFB_PROTOCOL) {
        return vbc_error_set(e, VFB_PROTOCOL, "the broker sent an error with the impossible code %d", code);
    }
    reset(e, code);
    e->pub.host_errno = host;
    vbc_text(e->text, sizeof e->text, m->text);
    if (m->has_entry && m->entry <= INT32_MAX)
        e->pub.entry = (long)m->entry;
    if (m->limit) {
        e->pub.wanted = m->limit->wanted;
        e->pub.used = m->limit->used;
        e->pub.limit = m->limit->limit;
        vbc_text(e->whose, sizeof e->whose, m->limit->whose);
    }
    vbc_error_conflicts(e, m->conflicts, m->n_conflicts);
    return code;
}

const struct vfb_error *vfb_error(const struct vfb_client *c) {
    static const struct vfb_error none = {.text = "", .entry = -1, .limit_whose = ""};

    return c && c->error.pub.text ? &c->error.pub : &none;
}
