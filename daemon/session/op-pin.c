/* Requests about tokens, accesses and pins. */
#include <inttypes.h>

#include "session/pins.h"

int vb_op_token_create(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    const VfioBroker__TokenCreate *q = rq->msg->token_create;
    struct vb_space *space = vb_model_space(s->model, q->space, e);
    struct vb_token *t;

    if (!space)
        return e->code;
    int r = vb_check_name("token", q->name, e);
    if (r != 0)
        return r;
    if (q->first > q->last)
        return vb_refuse(e, VB_INVALID, "a token's IOVAs end at 0x%" PRIx64 ", before they begin at 0x%" PRIx64,
                         q->last, q->first);
    VfioBroker__TokenCreateReply *m = VB_NEW(s, VfioBroker__TokenCreateReply, VFIO_BROKER__TOKEN_CREATE_REPLY__INIT, e);
    if (!m)
        return e->code;
    r = vb_token_create(s, space, (struct vb_range){q->first, q->last}, q->name, &t, e);
    if (r != 0)
        return r;
    m->token = t->id;
    m->secret = (ProtobufCBinaryData){.len = VB_TOKEN_SIZE, .data = t->secret};
    m->warning = (char *)VB_TOKEN_WARNING;
    rq->reply.body_case = VFIO_BROKER__REPLY__BODY_TOKEN_CREATE;
    rq->reply.token_create = m;
    return 0;
}

int vb_op_token_revoke(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    struct vb_token *t = vb_table_find(&s->tokens, rq->msg->token_revoke->token);

    if (!t)
        return vb_refuse(e, VB_NOT_FOUND, "no token %" PRIu32, rq->msg->token_revoke->token);
    const struct vb_pin_filter its = {.space = t->space, .token = t};
    int r = vb_park(s, rq, &its, true, e);
    if (r != 0)
        return r;
    t->revoked = true;
    if (!rq->deferred)
        vb_token_remove(s, t);
    return 0;
}

int vb_op_access_open(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    return vb_access_open(s, rq, &rq->msg->access_open->secret, e);
}

int vb_op_access_close(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    return vb_access_close(s, rq->msg->access_close->access, e);
}

int vb_op_pin(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    VfioBrokerInternal__ToOwner m = VFIO_BROKER_INTERNAL__TO_OWNER__INIT;

    m.body_case = VFIO_BROKER_INTERNAL__TO_OWNER__BODY_PIN;
    m.pin = rq->msg->pin;
    return vb_access_ask(s, rq, rq->msg->pin->access, &m, VFIO_BROKER_INTERNAL__TO_PINNER__BODY_PIN, e);
}

int vb_op_unpin(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    VfioBrokerInternal__ToOwner m = VFIO_BROKER_INTERNAL__TO_OWNER__INIT;

    m.body_case = VFIO_BROKER_INTERNAL__TO_OWNER__BODY_UNPIN;
    m.unpin = rq->msg->unpin;
    return vb_access_ask(s, rq, rq->msg->unpin->access, &m, VFIO_BROKER_INTERNAL__TO_PINNER__BODY_DONE, e);
}
