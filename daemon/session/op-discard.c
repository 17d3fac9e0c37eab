/* Discard and its end: mappings are out of the domains while the client punches its file. Taking them out waits for pins as
 * an Unmap does. */
#include "session/pins.h"

int vb_op_discard(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    const VfioBroker__Discard *q = rq->msg->discard;
    VfioBroker__UnmapReply *m = VB_NEW(s, VfioBroker__UnmapReply, VFIO_BROKER__UNMAP_REPLY__INIT, e);
    const struct vb_unmap_entry *entries;

    if (!m)
        return e->code;
    int r = vb_unmap_batch(s, q->entries, q->n_entries, &entries, e);
    if (r == 0)
        r = vb_when_unpinned(s, rq, q->space, entries, q->n_entries, vb_model_discard, m, e);
    rq->reply.body_case = VFIO_BROKER__REPLY__BODY_UNMAP;
    rq->reply.unmap = m;
    return r;
}

int vb_op_discard_end(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    const VfioBroker__DiscardEnd *q = rq->msg->discard_end;
    struct vb_space *space = vb_model_space(s->model, q->space, e);

    if (!space)
        return e->code;
    if (space->discarded == 0) { /* the Discard that it ends may be parked: it stays behind that */
        const struct vb_pin_filter its = {.space = space};
        int r = vb_park(s, rq, &its, false, e);
        if (r != 0 || rq->deferred)
            return r;
    }
    return vb_model_discard_end(s->model, q->space, !q->forget, e);
}
