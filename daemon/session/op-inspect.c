/* Looking: rows about this session are made here (rows.c), for its client; everything else is asked of the daemon, which
 * checks who may see it. */
#include <errno.h>

#include "session/dispatch.h"

/* The daemon's own are the accounts, and the first kinds. */
static bool about_this_session(const struct vb_session *s, const VfioBroker__Inspect *q) {
    return q->kind >= VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE &&
           q->kind != VFIO_BROKER__INSPECT_KIND__INSPECT_ACCOUNTS && (q->session == 0 || q->session == s->id);
}

int vb_op_inspect(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    VfioBroker__Inspect *q = rq->msg->inspect;
    VfioBrokerInternal__Call call = VFIO_BROKER_INTERNAL__CALL__INIT;
    VfioBrokerInternal__Answer *answer;
    VfioBroker__InspectReply *m;
    int r;

    if (about_this_session(s, q)) {
        m = VB_NEW(s, VfioBroker__InspectReply, VFIO_BROKER__INSPECT_REPLY__INIT, e);
        if (!m)
            return e->code;
        r = vb_inspect_rows(s, &s->client.arena, q, m, e);
    } else {
        call.body_case = VFIO_BROKER_INTERNAL__CALL__BODY_INSPECT;
        call.inspect = q;
        r = vb_control_call(s, &call, &answer, NULL, e);
        if (r != 0)
            return r;
        m = answer->body_case == VFIO_BROKER_INTERNAL__ANSWER__BODY_INSPECT
                ? vb_decode_more(&s->client.arena, &vfio_broker__inspect_reply__descriptor, answer->inspect.data,
                                 answer->inspect.len)
                : NULL;
        if (!m)
            r = vb_fail(e, -EPROTO, "vfio-brokerd answered something else than rows");
    }
    if (r != 0)
        return r;
    rq->reply.body_case = VFIO_BROKER__REPLY__BODY_INSPECT;
    rq->reply.inspect = m;
    return 0;
}
