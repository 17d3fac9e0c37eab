/* vfb_inspect(): see inspect.h. The reply is decoded once more, into an arena of its own, so that it outlives the packet
 * even if callbacks make other calls meanwhile. */
#include "config.h"

#include <errno.h>

#include "client/client-private.h"
#include "client/inspect.h"

static int take_reply(struct vbc_call *call, const VfioBroker__Reply *reply, struct vb_packet *p) {
    struct vfb_client *c = call->client;
    (void)reply;

    const VfioBroker__Reply *kept = vb_decode(&c->inspect, &vfio_broker__reply__descriptor, p->data, p->size);
    if (!kept) /* it fitted a moment ago into an arena of that size */
        return vbc_error_set(call->error, VFB_PROTOCOL, "the broker's rows do not decode");
    *(const VfioBroker__InspectReply **)call->out = kept->inspect;
    return 0;
}

int vbc_inspect(struct vfb_client *c, VfioBroker__InspectKind kind, uint32_t session, uint64_t after, vbc_take_fn take,
                void *out) {
    VfioBroker__Inspect m = VFIO_BROKER__INSPECT__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;

    m.kind = kind;
    m.session = session;
    m.after = after;
    req.body_case = VFIO_BROKER__REQUEST__BODY_INSPECT;
    req.inspect = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_INSPECT, take, out, 0);
}

int vfb_inspect(struct vfb_client *c, VfioBroker__InspectKind kind, uint32_t session, uint64_t after,
                const VfioBroker__InspectReply **ret_reply) {
    if (!c->inspect.base && vb_arena_init(&c->inspect, VB_DECODE_MAX) < 0)
        return vbc_fail(c, -ENOMEM, "no memory for the reply");
    return vbc_inspect(c, kind, session, after, take_reply, ret_reply);
}
