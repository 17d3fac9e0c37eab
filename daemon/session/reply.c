/* Errors of the model as messages, and back. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "session/dispatch.h"

_Static_assert((int)VB_PROTOCOL == VFIO_BROKER__ERROR_CODE__ERROR_PROTOCOL, "codes differ from the wire");
_Static_assert((int)VB_UNSUPPORTED == VFIO_BROKER__ERROR_CODE__ERROR_UNSUPPORTED, "codes differ from the wire");
_Static_assert((int)VB_INVALID == VFIO_BROKER__ERROR_CODE__ERROR_INVALID, "codes differ from the wire");
_Static_assert((int)VB_DENIED == VFIO_BROKER__ERROR_CODE__ERROR_DENIED, "codes differ from the wire");
_Static_assert((int)VB_NOT_FOUND == VFIO_BROKER__ERROR_CODE__ERROR_NOT_FOUND, "codes differ from the wire");
_Static_assert((int)VB_LIMIT == VFIO_BROKER__ERROR_CODE__ERROR_LIMIT, "codes differ from the wire");
_Static_assert((int)VB_OVERLAP == VFIO_BROKER__ERROR_CODE__ERROR_OVERLAP, "codes differ from the wire");
_Static_assert((int)VB_RESERVED == VFIO_BROKER__ERROR_CODE__ERROR_RESERVED, "codes differ from the wire");
_Static_assert((int)VB_BUSY == VFIO_BROKER__ERROR_CODE__ERROR_BUSY, "codes differ from the wire");
_Static_assert((int)VB_BAD_MEMORY == VFIO_BROKER__ERROR_CODE__ERROR_BAD_MEMORY, "codes differ from the wire");
_Static_assert((int)VB_STATE == VFIO_BROKER__ERROR_CODE__ERROR_STATE, "codes differ from the wire");
_Static_assert((int)VB_UNAVAILABLE == VFIO_BROKER__ERROR_CODE__ERROR_UNAVAILABLE, "codes differ from the wire");

VfioBroker__Conflict **vb_conflict_messages(struct vb_arena *a, const struct vb_error *e, size_t *ret_n) {
    VfioBroker__Conflict **list = vb_arena_alloc(a, e->n_conflicts * sizeof *list + 1);
    size_t n = 0;

    while (list && n < e->n_conflicts) {
        const struct vb_conflict *c = &e->conflicts[n];
        VfioBroker__Conflict *m = vb_arena_alloc(a, sizeof *m);

        if (!m)
            break;
        vfio_broker__conflict__init(m);
        m->first = c->first;
        m->last = c->last;
        m->with_first = c->with_first;
        m->with_last = c->with_last;
        m->kind = (char *)c->kind;
        m->device = (char *)c->device;
        list[n++] = m;
    }
    *ret_n = n;
    return list;
}

VfioBroker__Error *vb_error_message(struct vb_arena *a, const struct vb_error *e) {
    /* For an arena without room for even this; its text never changes. */
    static VfioBroker__Error full = VFIO_BROKER__ERROR__INIT;
    VfioBroker__Error *m = vb_arena_alloc(a, sizeof *m);

    if (!m) {
        full.code = VFIO_BROKER__ERROR_CODE__ERROR_HOST;
        full.host_errno = ENOMEM;
        return &full;
    }
    vfio_broker__error__init(m);
    m->code = e->code < 0 ? VFIO_BROKER__ERROR_CODE__ERROR_HOST : (VfioBroker__ErrorCode)e->code;
    m->host_errno = e->code < 0 ? -e->code : 0;
    m->text = (char *)e->text;
    m->has_entry = e->has_entry;
    m->entry = e->entry;
    if (e->n_conflicts)
        m->conflicts = vb_conflict_messages(a, e, &m->n_conflicts);
    if (e->limit.set) {
        m->limit = vb_arena_alloc(a, sizeof *m->limit);
        if (m->limit) {
            vfio_broker__limit_detail__init(m->limit);
            m->limit->wanted = e->limit.wanted;
            m->limit->used = e->limit.used;
            m->limit->limit = e->limit.limit;
            m->limit->whose = (char *)e->limit.whose;
        }
    }
    return m;
}

int vb_error_from_message(struct vb_error *e, const VfioBroker__Error *m) {
    if (m->limit)
        vb_error_limit(e, m->limit->wanted, m->limit->used, m->limit->limit, m->limit->whose);
    if (m->code == VFIO_BROKER__ERROR_CODE__ERROR_HOST) {
        e->code = m->host_errno > 0 ? -m->host_errno : -EIO;
        snprintf(e->text, sizeof e->text, "%s", m->text);
        return e->code;
    }
    return vb_refuse(e, (enum vb_code)m->code, "%s", m->text);
}
