/* Requests about spaces. */
#include <errno.h>
#include <inttypes.h>

#include "session/pins.h"

int vb_op_space_create(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    struct vb_space *space;

    int r = vb_check_name("space", rq->msg->space_create->name, e);
    if (r != 0)
        return r;
    VfioBroker__SpaceCreateReply *m = VB_NEW(s, VfioBroker__SpaceCreateReply, VFIO_BROKER__SPACE_CREATE_REPLY__INIT, e);
    if (!m)
        return e->code;
    r = vb_model_space_create(s->model, rq->msg->space_create->name, &space, e);
    if (r != 0)
        return r;
    m->space = space->id;
    rq->reply.body_case = VFIO_BROKER__REPLY__BODY_SPACE_CREATE;
    rq->reply.space_create = m;
    return 0;
}

/* Pins have to end first; tokens and accesses end with their space. */
static int empty_space(struct vb_session *s, struct vb_request *rq, struct vb_space *space, struct vb_error *e) {
    VfioBroker__UnmapReply ignored = VFIO_BROKER__UNMAP_REPLY__INIT;

    int r = vb_when_unpinned(s, rq, space->id, NULL, 0, vb_unmap_everything, &ignored, e);
    if (r == 0 && !rq->deferred)
        vb_tokens_of_space_remove(s, space);
    return r;
}

int vb_op_space_destroy(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    struct vb_space *space = vb_model_space(s->model, rq->msg->space_destroy->space, e);
    int r = 0;

    if (!space)
        return e->code;
    if (space->devices == 0) /* else it is refused */
        r = empty_space(s, rq, space, e);
    if (r != 0 || rq->deferred)
        return r;
    r = vb_model_space_destroy(s->model, space->id, e);
    if (r == 0)
        vb_held_poll(s); /* the client may have attached a device to it by itself */
    return r;
}

static int usable_ranges(struct vb_session *s, const struct vb_space_info *info, VfioBroker__SpaceDescribeReply *m,
                         struct vb_error *e) {
    struct vb_arena *a = &s->client.arena;

    m->usable = vb_arena_alloc(a, info->n_usable * sizeof *m->usable);
    if (!m->usable)
        return vb_fail(e, -ENOMEM, "the reply does not fit");
    for (uint32_t i = 0; i < info->n_usable; i++) {
        VfioBroker__IovaRange *r = VB_NEW(s, VfioBroker__IovaRange, VFIO_BROKER__IOVA_RANGE__INIT, e);
        if (!r)
            return e->code;
        r->first = info->usable[i].first;
        r->last = info->usable[i].last;
        m->usable[m->n_usable++] = r;
    }
    return 0;
}

int vb_op_space_need(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    const VfioBroker__SpaceNeed *q = rq->msg->space_need;
    struct vb_range ranges[VB_NEEDS_MAX];

    if (q->n_ranges > VB_NEEDS_MAX) {
        vb_error_limit(e, q->n_ranges, 0, VB_NEEDS_MAX, "ranges that a space needs");
        return vb_refuse(e, VB_LIMIT, "a space says of at most %u ranges that it needs them, not of %zu: join some",
                         VB_NEEDS_MAX, q->n_ranges);
    }
    for (size_t i = 0; i < q->n_ranges; i++) {
        if (q->ranges[i]->first > q->ranges[i]->last) {
            vb_error_entry(e, (uint32_t)i);
            return vb_refuse(e, VB_INVALID, "a range ends at 0x%" PRIx64 ", before it begins at 0x%" PRIx64,
                             q->ranges[i]->last, q->ranges[i]->first);
        }
        ranges[i] = (struct vb_range){q->ranges[i]->first, q->ranges[i]->last};
    }
    return vb_model_space_need(s->model, q->space, ranges, q->n_ranges, e);
}

int vb_op_space_describe(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    struct vb_space *space = vb_model_space(s->model, rq->msg->space_describe->space, e);

    if (!space)
        return e->code;
    int r = vb_model_space_refresh(s->model, space, e);
    if (r != 0)
        return r;
    VfioBroker__SpaceDescribeReply *m =
        VB_NEW(s, VfioBroker__SpaceDescribeReply, VFIO_BROKER__SPACE_DESCRIBE_REPLY__INIT, e);
    if (!m)
        return e->code;
    r = usable_ranges(s, &space->info, m, e);
    if (r != 0)
        return r;
    m->page_sizes = space->info.page_sizes;
    m->mappings = space->mappings;
    m->mappings_max = s->model->mappings_max;
    m->mapped_bytes = space->mapped_bytes;
    m->dirty = space->dirty;
    if (vb_domain_rows(s, &s->client.arena, space, &m->domains, &m->n_domains) < 0)
        return vb_fail(e, -ENOMEM, "the reply does not fit");
    m->devices = vb_arena_alloc(&s->client.arena, VB_DEVICES_MAX * sizeof *m->devices);
    for (uint32_t i = 0; m->devices && i < s->model->devices.n; i++) {
        const struct vb_device *d = s->model->devices.items[i];

        if (d->space == space)
            m->devices[m->n_devices++] = d->id;
    }
    rq->reply.body_case = VFIO_BROKER__REPLY__BODY_SPACE_DESCRIBE;
    rq->reply.space_describe = m;
    return 0;
}
