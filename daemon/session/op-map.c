/* Map and unmap, in batches; and what else takes mappings away has to wait for. */
#include "session/pins.h"

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

/* Only a request on ranges that a parked one is about, or (pins) on pinned ranges, has to wait. n 0: the whole space. A space
 * or a range that does not exist is the model's to refuse. */
static int wait_for(struct vb_session *s, struct vb_request *rq, uint32_t space, const struct vb_unmap_entry *entries,
                    size_t n, bool pins, struct vb_error *e) {
    struct vb_pin_filter f = {.space = vb_table_find(&s->model->spaces, space), .n = n};
    struct vb_range *ranges;

    if (!f.space || (s->park.n == 0 && !pins))
        return 0;
    f.ranges = ranges = vb_arena_alloc(&s->client.arena, n * sizeof *ranges + 1);
    if (!ranges)
        return vb_fail(e, -ENOMEM, "a batch of %zu", n);
    for (size_t i = 0; i < n; i++)
        if (!vb_range_from(entries[i].iova, entries[i].size, &ranges[i]))
            ranges[i] = (struct vb_range){entries[i].iova, entries[i].iova};
    return vb_park(s, rq, &f, pins, e);
}

static int map_waits(struct vb_session *s, struct vb_request *rq, const struct vb_map_entry *entries,
                     struct vb_error *e) {
    const VfioBroker__Map *q = rq->msg->map;

    if (s->park.n == 0)
        return 0;
    struct vb_unmap_entry *where = vb_arena_alloc(&s->client.arena, q->n_entries * sizeof *where);
    if (!where)
        return vb_fail(e, -ENOMEM, "a batch of %zu", q->n_entries);
    for (size_t i = 0; i < q->n_entries; i++)
        where[i] = (struct vb_unmap_entry){entries[i].iova, entries[i].size};
    return wait_for(s, rq, q->space, where, q->n_entries, false, e);
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
    r = map_waits(s, rq, entries, e);
    if (r != 0 || rq->deferred)
        return r;
    r = vb_model_map(s->model, q->space, entries, q->n_entries, e);
    if (r == 0)
        vb_lease_used(s);
    return r;
}

int vb_when_unpinned(struct vb_session *s, struct vb_request *rq, uint32_t space, const struct vb_unmap_entry *entries,
                     size_t n, vb_ranges_fn run, VfioBroker__UnmapReply *m, struct vb_error *e) {
    int r = wait_for(s, rq, space, entries, n, false, e);
    if (r != 0 || rq->deferred)
        return r;
    r = run(s->model, space, entries, n, &m->mappings, &m->bytes, e);
    /* Busy by pins: it waits. By a discard that has not ended: refused, since only the client itself can end that; no pinner
     * gives up anything for it. */
    if (r != VB_BUSY || (n == 0 && vb_model_space(s->model, space, NULL)->discarded))
        return r;
    int waits = wait_for(s, rq, space, entries, n, true, e);
    if (waits != 0)
        return waits;
    return rq->deferred ? 0 : r;
}

int vb_unmap_batch(struct vb_session *s, VfioBroker__UnmapEntry *const *list, size_t n,
                   const struct vb_unmap_entry **ret_entries, struct vb_error *e) {
    int r = batch_size(n, e);
    if (r != 0)
        return r;
    struct vb_unmap_entry *entries = vb_arena_alloc(&s->client.arena, n * sizeof *entries);
    if (!entries)
        return vb_fail(e, -ENOMEM, "a batch of %zu", n);
    for (size_t i = 0; i < n; i++)
        entries[i] = (struct vb_unmap_entry){list[i]->iova, list[i]->size};
    *ret_entries = entries;
    return 0;
}

int vb_unmap_everything(struct vb_model *m, uint32_t space, const struct vb_unmap_entry *entries, size_t n,
                        uint64_t *ret_mappings, uint64_t *ret_bytes, struct vb_error *e) {
    (void)entries, (void)n;
    return vb_model_unmap_all(m, space, ret_mappings, ret_bytes, e);
}

int vb_op_unmap(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    const VfioBroker__Unmap *q = rq->msg->unmap;
    VfioBroker__UnmapReply *m = VB_NEW(s, VfioBroker__UnmapReply, VFIO_BROKER__UNMAP_REPLY__INIT, e);
    const struct vb_unmap_entry *entries = NULL;

    if (!m)
        return e->code;
    if (q->all && q->n_entries)
        return vb_refuse(e, VB_INVALID, "unmap everything, or %zu entries: not both", q->n_entries);
    int r = q->all ? 0 : vb_unmap_batch(s, q->entries, q->n_entries, &entries, e);
    if (r == 0)
        r = vb_when_unpinned(s, rq, q->space, entries, q->n_entries, q->all ? vb_unmap_everything : vb_model_unmap, m,
                             e);
    rq->reply.body_case = VFIO_BROKER__REPLY__BODY_UNMAP;
    rq->reply.unmap = m;
    return r;
}
