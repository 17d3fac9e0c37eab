/* Hello: versions, features, limits. */
#include <stdio.h>

#include "config.h"
#include "session/dispatch.h"

int vb_op_hello(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    const VfioBroker__Hello *q = rq->msg->hello;
    const struct vb_backend_ops *ops = s->model->backend->ops;

    if (s->client.hello_done)
        return vb_refuse(e, VB_STATE, "Hello was said already: this is session %u", s->id);
    if (q->version == 0)
        return vb_refuse(e, VB_INVALID, "protocol version 0 does not exist: this broker speaks 1 to %u",
                         VB_PROTOCOL_VERSION);
    int r = vb_check_name("client", q->name, e);
    if (r != 0)
        return r;
    VfioBroker__HelloReply *m = VB_NEW(s, VfioBroker__HelloReply, VFIO_BROKER__HELLO_REPLY__INIT, e);
    VfioBroker__Limits *l = VB_NEW(s, VfioBroker__Limits, VFIO_BROKER__LIMITS__INIT, e);
    if (!m || !l)
        return e->code;
    l->packet_size = VB_PACKET_MAX;
    l->batch = VB_BATCH_MAX;
    l->memories = VB_MEMORIES_MAX;
    l->spaces = VB_SPACES_MAX;
    l->devices = VB_DEVICES_MAX;
    l->mappings = s->model->mappings_max;
    l->memory_bytes = s->model->ledger.limit;
    m->version = q->version < VB_PROTOCOL_VERSION ? q->version : VB_PROTOCOL_VERSION;
    m->features = ops->features(s->model->backend) | VFIO_BROKER__FEATURE__FEATURE_PINS |
                  VFIO_BROKER__FEATURE__FEATURE_DOMAINS | (s->admin ? VFIO_BROKER__FEATURE__FEATURE_ADMIN : 0);
    m->session = s->id;
    m->backend = (char *)ops->name;
    m->broker = PACKAGE_VERSION;
    m->limits = l;
    snprintf(s->name, sizeof s->name, "%s", q->name);
    s->client.hello_done = true;
    if (s->client.hello_timer)
        evtimer_del(s->client.hello_timer);
    rq->reply.body_case = VFIO_BROKER__REPLY__BODY_HELLO;
    rq->reply.hello = m;
    return 0;
}
