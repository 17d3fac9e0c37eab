/* Map and unmap, in batches. */
#include "session/dispatch.h"

#include <errno.h>

static int batch_size(size_t n, struct vb_error *e) {
    if (n == 0)
        return vb_refuse(e, VB_INVALID, "the batch is empty");
    if (n > VB_BATCH_MAX) {
        vb_error_limit(e, n, 0, VB_BATCH_MAX, "one batch");
        return vb_refuse(e, VB_LIMIT, "a batch has at most %u entries, this one %zu: send several", VB_BATCH_MAX, n);
    }
    return 0;
}

int vb_op_map(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    const VfioBroker__Map *q = rq->msg->map;

    int r = batch_size(q->n_entries, e);
    if (r != 0)
        return r;
    struct vb_map_entry *entries = vb_arena_alloc(&s->client.arena, q->n_entries * sizeof *entries);
    if (!entries)
        return vb_fail(e, -ENOMEM, "a batch of %zu", q->n_entries);
    for (size_t i = 0; i < q->n_entries; i++) {
        const VfioBroker__MapEntry *m = q->entries[i];

        entries[i] = (struct vb_map_entry){m->iova, m->size, m->offset, m->memory, m->prot};
    }
    return vb_model_map(s->model, q->space, entries, q->n_entries, e);
}

int vb_op_unmap(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    const VfioBroker__Unmap *q = rq->msg->unmap;
    VfioBroker__UnmapReply *m = VB_NEW(s, VfioBroker__UnmapReply, VFIO_BROKER__UNMAP_REPLY__INIT, e);
    int r;

    if (!m)
        return e->code;
    if (q->all) {
        if (q->n_entries)
            return vb_refuse(e, VB_INVALID, "unmap everything, or %zu entries: not both", q->n_entries);
        r = vb_model_unmap_all(s->model, q->space, &m->mappings, &m->bytes, e);
    } else {
        r = batch_size(q->n_entries, e);
        if (r != 0)
            return r;
        struct vb_unmap_entry *entries = vb_arena_alloc(&s->client.arena, q->n_entries * sizeof *entries);
        if (!entries)
            return vb_fail(e, -ENOMEM, "a batch of %zu", q->n_entries);
        for (size_t i = 0; i < q->n_entries; i++)
            entries[i] = (struct vb_unmap_entry){q->entries[i]->iova, q->entries[i]->size};
        r = vb_model_unmap(s->model, q->space, entries, q->n_entries, &m->mappings, &m->bytes, e);
    }
    if (r != 0)
        return r;
    rq->reply.body_case = VFIO_BROKER__REPLY__BODY_UNMAP;
    rq->reply.unmap = m;
    return 0;
}
