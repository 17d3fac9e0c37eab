/* Looking: rows about this session are made here, for its client and for the daemon's questions; everything else is asked
 * of the daemon, which checks who may see it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "session/dispatch.h"

/* A cursor in the mapping list: the next IOVA's page, and in the 12 bits below it the space's place in the table, plus 1. */
static uint64_t cursor(uint32_t index, uint64_t iova) {
    return (iova & ~(uint64_t)0xfff) | (index + 1);
}

static VfioBroker__MappingRow *mapping_row(struct vb_arena *a, const struct vb_space *space,
                                           const struct vb_mapping *m) {
    VfioBroker__MappingRow *row = vb_arena_alloc(a, sizeof *row);

    if (!row)
        return NULL;
    vfio_broker__mapping_row__init(row);
    row->space = space->id;
    row->iova = m->iova.first;
    row->size = vb_range_size(m->iova);
    row->memory = m->memory->id;
    row->offset = m->offset;
    row->prot = m->prot;
    return row;
}

static int mappings(struct vb_session *s, struct vb_arena *a, uint64_t after, VfioBroker__InspectReply *ret) {
    uint32_t index = after ? (uint32_t)(after & 0xfff) - 1 : 0;
    uint64_t iova = after & ~(uint64_t)0xfff;

    ret->mappings = vb_arena_alloc(a, VB_INSPECT_ROWS * sizeof *ret->mappings);
    if (!ret->mappings)
        return -ENOMEM;
    for (; index < s->model->spaces.n; index++, iova = 0) {
        struct vb_space *space = s->model->spaces.items[index];
        struct vb_mapping *m = vb_mapping_first(&space->tree, (struct vb_range){iova, UINT64_MAX});

        for (; m; m = vb_mapping_next(m)) {
            if (m->pending)
                continue;
            if (ret->n_mappings == VB_INSPECT_ROWS) {
                ret->next = cursor(index, m->iova.first);
                return 0;
            }
            VfioBroker__MappingRow *row = mapping_row(a, space, m);
            if (!row)
                return -ENOMEM;
            ret->mappings[ret->n_mappings++] = row;
        }
    }
    return 0;
}

static int spaces(struct vb_session *s, struct vb_arena *a, VfioBroker__InspectReply *ret) {
    const struct vb_table *t = &s->model->spaces;

    ret->spaces = vb_arena_alloc(a, t->n * sizeof *ret->spaces);
    for (uint32_t i = 0; ret->spaces && i < t->n; i++) {
        const struct vb_space *space = t->items[i];
        VfioBroker__SpaceRow *row = vb_arena_alloc(a, sizeof *row);
        char *domains = vb_arena_alloc(a, 64);
        char **devices = vb_arena_alloc(a, s->model->devices.n * sizeof *devices + 1);

        if (!row || !domains || !devices)
            return -ENOMEM;
        vfio_broker__space_row__init(row);
        row->space = space->id;
        row->name = (char *)space->name;
        row->mappings = space->mappings;
        row->mapped_bytes = space->mapped_bytes;
        s->model->backend->ops->space_text(s->model->backend, space->handle, domains, 64);
        row->domains = domains;
        row->devices = devices;
        for (uint32_t k = 0; k < s->model->devices.n; k++) {
            struct vb_device *d = s->model->devices.items[k];
            if (d->space == space)
                row->devices[row->n_devices++] = d->address;
        }
        ret->spaces[ret->n_spaces++] = row;
    }
    return ret->spaces ? 0 : -ENOMEM;
}

static int memories(struct vb_session *s, struct vb_arena *a, VfioBroker__InspectReply *ret) {
    const struct vb_table *t = &s->model->memories;

    ret->memories = vb_arena_alloc(a, t->n * sizeof *ret->memories);
    for (uint32_t i = 0; ret->memories && i < t->n; i++) {
        const struct vb_memory *m = t->items[i];
        VfioBroker__MemoryRow *row = vb_arena_alloc(a, sizeof *row);

        if (!row)
            return -ENOMEM;
        vfio_broker__memory_row__init(row);
        row->memory = m->id;
        row->name = (char *)m->name;
        row->kind = (char *)vb_memory_kind_name(m->kind);
        row->size = m->size;
        row->page_size = m->page_size;
        row->writable = m->writable;
        row->mappings = m->mappings;
        row->paid = vb_charge_paid(&m->charge);
        ret->memories[ret->n_memories++] = row;
    }
    return ret->memories ? 0 : -ENOMEM;
}

static int usage(struct vb_session *s, struct vb_arena *a, VfioBroker__InspectReply *ret) {
    const struct vb_model *m = s->model;
    VfioBroker__UsageRow *row = vb_arena_alloc(a, sizeof *row);

    if (!row)
        return -ENOMEM;
    vfio_broker__usage_row__init(row);
    row->limit = m->ledger.limit;
    row->limit_whose = (char *)m->ledger.whose;
    row->lease = m->ledger.lease;
    row->used = m->ledger.used;
    row->memories = m->memories.n;
    row->spaces = m->spaces.n;
    row->devices = m->devices.n;
    row->mappings_max = m->mappings_max;
    row->leftovers = m->backend->ops->leftovers(m->backend);
    row->name = s->name;
    for (uint32_t i = 0; i < m->spaces.n; i++) {
        row->mappings += ((struct vb_space *)m->spaces.items[i])->mappings;
        row->mapped += ((struct vb_space *)m->spaces.items[i])->mapped_bytes;
    }
    ret->usage = row;
    return 0;
}

int vb_inspect_rows(struct vb_session *s, struct vb_arena *a, const VfioBroker__Inspect *q,
                    VfioBroker__InspectReply *ret, struct vb_error *e) {
    int r;

    switch (q->kind) {
    case VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE:
        r = usage(s, a, ret);
        break;
    case VFIO_BROKER__INSPECT_KIND__INSPECT_SPACES:
        r = spaces(s, a, ret);
        break;
    case VFIO_BROKER__INSPECT_KIND__INSPECT_MAPPINGS:
        r = mappings(s, a, q->after, ret);
        break;
    case VFIO_BROKER__INSPECT_KIND__INSPECT_MEMORY:
        r = memories(s, a, ret);
        break;
    default:
        return vb_refuse(e, VB_UNSUPPORTED, "kind %d of rows is unknown here", (int)q->kind);
    }
    return r < 0 ? vb_fail(e, r, "the rows do not fit") : 0;
}

static bool about_this_session(const struct vb_session *s, const VfioBroker__Inspect *q) {
    return q->kind >= VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE && (q->session == 0 || q->session == s->id);
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
