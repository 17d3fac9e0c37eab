/* What a pinner asks of a space of ours, over a pin link: Pin and Unpin. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "session/pins.h"

static void send_error(struct vb_pin_link *l, uint64_t serial, const struct vb_error *e) {
    VfioBrokerInternal__ToPinner m = VFIO_BROKER_INTERNAL__TO_PINNER__INIT;

    m.serial = serial;
    m.body_case = VFIO_BROKER_INTERNAL__TO_PINNER__BODY_ERROR;
    m.error = vb_error_message(&l->session->client.arena, e);
    vb_pin_link_send(l, &m, NULL, 0);
}

static struct vb_pin *find_pin(struct vb_pin_link *l, uint32_t id) {
    struct vb_pin *p;

    TAILQ_FOREACH (p, &l->token->space->pins, entry)
        if (p->access == l && p->id == id)
            return p;
    return NULL;
}

static int check_entry(struct vb_pin_link *l, const VfioBroker__PinEntry *t, struct vb_range *ret, struct vb_error *e) {
    const struct vb_range allowed = l->token->range;

    if (!vb_range_from(t->iova, t->size, ret))
        return vb_refuse(e, VB_INVALID, "IOVA 0x%" PRIx64 " with size 0x%" PRIx64 " is no range", t->iova, t->size);
    if (!vb_range_contains(allowed, *ret))
        return vb_refuse(e, VB_DENIED,
                         "0x%" PRIx64 "-0x%" PRIx64 " is not within 0x%" PRIx64 "-0x%" PRIx64 ", which the token gives",
                         ret->first, ret->last, allowed.first, allowed.last);
    if (l->token->revoked)
        return vb_refuse(e, VB_DENIED, "the token was revoked");
    if (vb_park_covers(l->session, l->token->space, *ret))
        return vb_refuse(e, VB_BUSY, "0x%" PRIx64 "-0x%" PRIx64 " is being unmapped by its owner", ret->first,
                         ret->last);
    return 0;
}

static bool was_sent(const struct vb_pin_link *l, uint32_t memory) {
    for (uint32_t i = 0; i < l->n_sent; i++)
        if (l->sent[i] == memory)
            return true;
    return false;
}

/* What goes out with a PinReply: new_memories[] are recorded as sent only with it. */
struct pin_reply {
    VfioBroker__PinReply m;
    uint32_t memories[VB_PACKET_FDS];
    int fds[VB_PACKET_FDS];
};

static int add_memory(struct vb_pin_link *l, struct pin_reply *reply, const struct vb_memory *memory,
                      struct vb_error *e) {
    for (size_t i = 0; i < reply->m.n_memories; i++)
        if (reply->memories[i] == memory->id)
            return 0;
    if (was_sent(l, memory->id))
        return 0;
    if (reply->m.n_memories == VB_PACKET_FDS)
        return vb_refuse(e, VB_LIMIT, "more than %u new memories lie behind these ranges; pin them in parts",
                         VB_PACKET_FDS);
    if (l->n_sent + reply->m.n_memories == VB_MEMORIES_MAX)
        return vb_refuse(e, VB_LIMIT, "%u memories went out on this access already; open another one", VB_MEMORIES_MAX);
    reply->fds[reply->m.n_memories] = memory->fd;
    reply->memories[reply->m.n_memories++] = memory->id;
    return 0;
}

static int describe(struct vb_pin_link *l, struct pin_reply *reply, const struct vb_pin *p, struct vb_error *e) {
    struct vb_session *s = l->session;
    VfioBroker__Pinned *row = VB_NEW(s, VfioBroker__Pinned, VFIO_BROKER__PINNED__INIT, e);
    int r = 0;

    if (!row)
        return e->code;
    row->pin = p->id;
    row->segments = vb_arena_alloc(&s->client.arena, p->n_parts * sizeof row->segments[0]);
    for (uint32_t i = 0; row->segments && i < p->n_parts && r == 0; i++) {
        VfioBroker__PinSegment *g = VB_NEW(s, VfioBroker__PinSegment, VFIO_BROKER__PIN_SEGMENT__INIT, e);
        if (!g)
            return e->code;
        g->iova = p->parts[i].iova.first;
        g->size = vb_range_size(p->parts[i].iova);
        g->offset = p->parts[i].offset;
        g->memory = p->parts[i].memory->id;
        row->segments[row->n_segments++] = g;
        r = add_memory(l, reply, p->parts[i].memory, e);
    }
    reply->m.pins[reply->m.n_pins++] = row;
    return row->segments ? r : vb_fail(e, -ENOMEM, "the reply does not fit");
}

static int pin_all(struct vb_pin_link *l, const VfioBroker__Pin *q, struct vb_pin **pins, struct pin_reply *reply,
                   struct vb_error *e) {
    struct vb_session *s = l->session;
    struct vb_range range;
    uint64_t locked = 0;
    size_t i, n = 0;
    int r = 0;

    for (i = 0; i < q->n_entries && r == 0; i++) {
        r = check_entry(l, q->entries[i], &range, e);
        if (r == 0)
            r = vb_model_pin(s->model, l->token->space, range, q->entries[i]->prot, l, &pins[i], e);
        if (r == 0) {
            n++;
            locked += pins[i]->locked;
            r = describe(l, reply, pins[i], e);
        }
        if (r == 0 && locked > VB_PIN_BYTES)
            r = vb_refuse(e, VB_LIMIT, "one request pins at most %s that must be locked; send several",
                          VB_SIZE(VB_PIN_BYTES));
        if (r != 0)
            vb_error_entry(e, (uint32_t)i);
    }
    while (r != 0 && n > 0)
        vb_model_unpin(s->model, pins[--n]);
    return r;
}

static void handle_pin(struct vb_pin_link *l, uint64_t serial, const VfioBroker__Pin *q) {
    VfioBrokerInternal__ToPinner m = VFIO_BROKER_INTERNAL__TO_PINNER__INIT;
    struct pin_reply reply = {.m = VFIO_BROKER__PIN_REPLY__INIT};
    struct vb_pin *pins[VB_PIN_BATCH];
    struct vb_error e = {.code = 0};

    reply.m.memories = reply.memories;
    reply.m.pins = vb_arena_alloc(&l->session->client.arena, VB_PIN_BATCH * sizeof reply.m.pins[0]);
    if (q->n_entries == 0 || q->n_entries > VB_PIN_BATCH)
        vb_refuse(&e, VB_INVALID, "a Pin has 1 to %u entries, not %zu", VB_PIN_BATCH, q->n_entries);
    else if (!reply.m.pins)
        vb_fail(&e, -ENOMEM, "the reply does not fit");
    else
        e.code = pin_all(l, q, pins, &reply, &e);
    if (e.code != 0) {
        send_error(l, serial, &e);
        return;
    }
    for (size_t i = 0; i < reply.m.n_memories; i++)
        l->sent[l->n_sent++] = reply.memories[i];
    l->fds_out = reply.m.n_memories > 0;
    m.serial = serial;
    m.body_case = VFIO_BROKER_INTERNAL__TO_PINNER__BODY_PIN;
    m.pin = &reply.m;
    vb_pin_link_send(l, &m, reply.fds, (unsigned)reply.m.n_memories);
}

static void handle_unpin(struct vb_pin_link *l, uint64_t serial, const VfioBroker__Unpin *q) {
    VfioBrokerInternal__ToPinner m = VFIO_BROKER_INTERNAL__TO_PINNER__INIT;
    VfioBroker__Done done = VFIO_BROKER__DONE__INIT;
    struct vb_error e = {.code = 0};
    size_t found = 0;

    if (q->n_pins == 0 || q->n_pins > VB_PIN_BATCH) {
        vb_refuse(&e, VB_INVALID, "an Unpin has 1 to %u pins, not %zu", VB_PIN_BATCH, q->n_pins);
        send_error(l, serial, &e);
        return;
    }
    for (size_t i = 0; i < q->n_pins; i++) {
        struct vb_pin *p = find_pin(l, q->pins[i]);

        found += p != NULL;
        vb_model_unpin(l->session->model, p);
    }
    if (found == 0) {
        vb_refuse(&e, VB_NOT_FOUND, "pin %" PRIu32 " does not exist (any more)%s", q->pins[0],
                  q->n_pins > 1 ? ", and none of the others" : "");
        send_error(l, serial, &e);
        return;
    }
    vb_park_poke(l->session);
    m.serial = serial;
    m.body_case = VFIO_BROKER_INTERNAL__TO_PINNER__BODY_DONE;
    m.done = &done;
    vb_pin_link_send(l, &m, NULL, 0);
}

void vb_pin_link_request(struct vb_pin_link *l, const VfioBrokerInternal__ToOwner *m) {
    if (m && m->serial != 0 && m->body_case == VFIO_BROKER_INTERNAL__TO_OWNER__BODY_PIN)
        handle_pin(l, m->serial, m->pin);
    else if (m && m->serial != 0 && m->body_case == VFIO_BROKER_INTERNAL__TO_OWNER__BODY_UNPIN)
        handle_unpin(l, m->serial, m->unpin);
    else
        vb_pin_link_close(l, NULL);
}
