/* The owner's end of a pin link: pins of another client on a space of ours, asked for by its session. */
#include <errno.h>
#include <inttypes.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/cleanup.h"
#include "proto/clock.h"
#include "session/pins.h"

/* ---- to the pinner ---- */

static void close_link(struct vb_pin_link *l, const char *reason);

/* What the socket does not take now goes out later, and nothing is read until then. False: the link is gone. */
static bool flush(struct vb_pin_link *l) {
    int r = vb_outbox_flush(&l->out, l->fd);

    if (r == -EAGAIN) {
        event_del(l->readable);
        event_add(l->writable, NULL);
        return true;
    }
    if (r < 0)
        close_link(l, NULL);
    return r == 0;
}

static bool send_with_fds(struct vb_pin_link *l, const VfioBrokerInternal__ToPinner *m, const int *fds, unsigned n) {
    if (vb_outbox_put(&l->out, &m->base, fds, n) == 0)
        return flush(l);
    vb_session_log(l->session, "no memory to answer session %u: its access ends", l->pinner);
    close_link(l, NULL);
    return false;
}

static bool send_error(struct vb_pin_link *l, uint64_t serial, const struct vb_error *e) {
    VfioBrokerInternal__ToPinner m = VFIO_BROKER_INTERNAL__TO_PINNER__INIT;

    m.serial = serial;
    m.body_case = VFIO_BROKER_INTERNAL__TO_PINNER__BODY_ERROR;
    m.error = vb_error_message(&l->session->client.arena, e);
    return send_with_fds(l, &m, NULL, 0);
}

static bool send_lost(struct vb_pin_link *l, uint32_t *pins, size_t n, bool closed, const char *reason) {
    VfioBroker__PinsLost lost = VFIO_BROKER__PINS_LOST__INIT;
    VfioBrokerInternal__ToPinner m = VFIO_BROKER_INTERNAL__TO_PINNER__INIT;

    lost.pins = pins;
    lost.n_pins = n;
    lost.closed = closed;
    lost.reason = (char *)reason;
    m.body_case = VFIO_BROKER_INTERNAL__TO_PINNER__BODY_PINS_LOST;
    m.pins_lost = &lost;
    return send_with_fds(l, &m, NULL, 0);
}

/* ---- the end of a link ---- */

static void drop_pins(struct vb_pin_link *l) {
    struct vb_pin *p, *next;

    for (p = TAILQ_FIRST(&l->token->space->pins); p; p = next) {
        next = TAILQ_NEXT(p, entry);
        if (p->access == l)
            vb_model_unpin(l->session->model, p);
    }
    vb_park_poke(l->session);
}

static void free_link(struct vb_pin_link *l) {
    if (l->readable)
        event_free(l->readable);
    if (l->writable)
        event_free(l->writable);
    if (l->again)
        event_free(l->again);
    vb_outbox_clear(&l->out);
    close(l->fd);
    free(l);
}

/* With a reason the pinner is told, if its socket takes it. */
static void close_link(struct vb_pin_link *l, const char *reason) {
    struct vb_session *s = l->session;

    TAILQ_REMOVE(&s->pin_links, l, entry);
    s->n_pin_links--;
    drop_pins(l);
    if (reason) {
        VfioBroker__PinsLost lost = VFIO_BROKER__PINS_LOST__INIT;
        VfioBrokerInternal__ToPinner m = VFIO_BROKER_INTERNAL__TO_PINNER__INIT;

        lost.closed = true;
        lost.reason = (char *)reason;
        m.body_case = VFIO_BROKER_INTERNAL__TO_PINNER__BODY_PINS_LOST;
        m.pins_lost = &lost;
        if (vb_outbox_put(&l->out, &m.base, NULL, 0) == 0)
            vb_outbox_flush(&l->out, l->fd);
    }
    free_link(l);
}

void vb_pin_links_close(struct vb_session *s, const struct vb_token *token, const char *reason) {
    struct vb_pin_link *l, *next;

    for (l = TAILQ_FIRST(&s->pin_links); l; l = next) {
        next = TAILQ_NEXT(l, entry);
        if (!token || l->token == token)
            close_link(l, reason);
    }
}

/* ---- requests ---- */

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

static bool handle_pin(struct vb_pin_link *l, uint64_t serial, const VfioBroker__Pin *q) {
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
    if (e.code != 0)
        return send_error(l, serial, &e);
    for (size_t i = 0; i < reply.m.n_memories; i++)
        l->sent[l->n_sent++] = reply.memories[i];
    l->fds_out = reply.m.n_memories > 0;
    m.serial = serial;
    m.body_case = VFIO_BROKER_INTERNAL__TO_PINNER__BODY_PIN;
    m.pin = &reply.m;
    return send_with_fds(l, &m, reply.fds, (unsigned)reply.m.n_memories);
}

static bool handle_unpin(struct vb_pin_link *l, uint64_t serial, const VfioBroker__Unpin *q) {
    VfioBrokerInternal__ToPinner m = VFIO_BROKER_INTERNAL__TO_PINNER__INIT;
    VfioBroker__Done done = VFIO_BROKER__DONE__INIT;
    struct vb_pin *pins[VB_PIN_BATCH];
    struct vb_error e = {.code = 0};

    if (q->n_pins == 0 || q->n_pins > VB_PIN_BATCH)
        vb_refuse(&e, VB_INVALID, "an Unpin has 1 to %u pins, not %zu", VB_PIN_BATCH, q->n_pins);
    for (size_t i = 0; e.code == 0 && i < q->n_pins; i++) {
        pins[i] = find_pin(l, q->pins[i]);
        for (size_t k = 0; pins[i] && k < i; k++)
            if (pins[k] == pins[i])
                pins[i] = NULL;
        if (!pins[i]) {
            vb_refuse(&e, VB_NOT_FOUND, "pin %" PRIu32 " does not exist (any more)", q->pins[i]);
            vb_error_entry(&e, (uint32_t)i);
        }
    }
    if (e.code != 0)
        return send_error(l, serial, &e);
    for (size_t i = 0; i < q->n_pins; i++)
        vb_model_unpin(l->session->model, pins[i]);
    vb_park_poke(l->session);
    m.serial = serial;
    m.body_case = VFIO_BROKER_INTERNAL__TO_PINNER__BODY_DONE;
    m.done = &done;
    return send_with_fds(l, &m, NULL, 0);
}

/* A pinner's session that does not read must not use up our fds: those under way count against RLIMIT_NOFILE (net/core/scm.c,
 * too_many_unix_fds), beyond which nothing with a fd can be sent to anybody, our own client and the daemon included; and those that the socket
 * does not take wait in the outbox, duplicated. So each link has the fds of one reply under way, and its socket has room for one. */
#define UNREAD_MAX 65536
#define AGAIN_MS   10

static bool has_to_read_first(struct vb_pin_link *l) {
    int bytes = 0;

    if (ioctl(l->fd, SIOCOUTQ, &bytes) < 0 ||
        bytes == 0) /* what is not received yet: net/unix/af_unix.c, unix_outq_len() */
        l->fds_out = false;
    return l->fds_out || bytes > UNREAD_MAX;
}

static void on_again(evutil_socket_t fd, short what, void *arg) {
    struct vb_pin_link *l = arg;

    (void)fd, (void)what;
    if (vb_outbox_empty(&l->out))
        event_add(l->readable, NULL);
}

static void on_readable(evutil_socket_t fd, short what, void *arg) {
    static const struct timeval again = {.tv_usec = AGAIN_MS * 1000};
    struct vb_pin_link *l = arg;
    struct vb_session *s = l->session;
    VB_PACKET struct vb_packet p = VB_PACKET_INIT;

    (void)what;
    if (has_to_read_first(l)) {
        event_del(l->readable);
        evtimer_add(l->again, &again);
        return;
    }
    int r = vb_packet_recv_no_fds(fd, s->client.in, VB_PACKET_MAX, MSG_DONTWAIT, &p);
    if (r == -EAGAIN)
        return;
    const VfioBrokerInternal__ToOwner *m =
        r > 0 ? vb_decode(&s->client.arena, &vfio_broker_internal__to_owner__descriptor, p.data, p.size) : NULL;
    if (m && m->serial != 0 && m->body_case == VFIO_BROKER_INTERNAL__TO_OWNER__BODY_PIN)
        handle_pin(l, m->serial, m->pin);
    else if (m && m->serial != 0 && m->body_case == VFIO_BROKER_INTERNAL__TO_OWNER__BODY_UNPIN)
        handle_unpin(l, m->serial, m->unpin);
    else
        close_link(l, NULL);
}

static void on_writable(evutil_socket_t fd, short what, void *arg) {
    struct vb_pin_link *l = arg;

    (void)fd, (void)what;
    if (flush(l) && vb_outbox_empty(&l->out)) {
        event_del(l->writable);
        event_add(l->readable, NULL);
    }
}

/* ---- a new link ---- */

static void refuse(struct vb_session *s, int fd, const char *text) {
    VfioBrokerInternal__ToPinner m = VFIO_BROKER_INTERNAL__TO_PINNER__INIT;
    VfioBroker__Error error = VFIO_BROKER__ERROR__INIT;
    struct vb_outbox out;

    s->n_refused++;
    if ((s->n_refused & (s->n_refused - 1)) == 0) /* others can cause this line */
        vb_session_log(s, "an access was refused (the %u. time): %s", s->n_refused, text);
    error.code = VFIO_BROKER__ERROR_CODE__ERROR_DENIED;
    error.text = (char *)text;
    m.body_case = VFIO_BROKER_INTERNAL__TO_PINNER__BODY_ERROR;
    m.error = &error;
    vb_outbox_init(&out);
    if (vb_outbox_put(&out, &m.base, NULL, 0) == 0)
        vb_outbox_flush(&out, fd);
    vb_outbox_clear(&out);
}

static int open_link(struct vb_session *s, struct vb_token *t, const VfioBrokerInternal__PinLink *m, int *fd,
                     struct vb_pin_link **ret) {
    struct vb_pin_link *l = calloc(1, sizeof *l);

    if (!l)
        return -ENOMEM;
    l->session = s;
    l->token = t;
    l->pinner = m->session;
    l->client_pid = m->client_pid;
    l->client_uid = m->client_uid;
    vb_outbox_init(&l->out);
    l->fd = vb_steal_fd(fd);
    l->readable = event_new(s->base, l->fd, EV_READ | EV_PERSIST, on_readable, l);
    l->writable = event_new(s->base, l->fd, EV_WRITE | EV_PERSIST, on_writable, l);
    l->again = evtimer_new(s->base, on_again, l);
    if (!l->readable || !l->writable || !l->again || event_add(l->readable, NULL) < 0) {
        free_link(l);
        return -ENOMEM;
    }
    TAILQ_INSERT_TAIL(&s->pin_links, l, entry);
    s->n_pin_links++;
    *ret = l;
    return 0;
}

void vb_pin_link_offered(struct vb_session *s, const VfioBrokerInternal__PinLink *offer, int fd_consumed) {
    VfioBrokerInternal__ToPinner m = VFIO_BROKER_INTERNAL__TO_PINNER__INIT;
    VfioBroker__AccessOpenReply opened = VFIO_BROKER__ACCESS_OPEN_REPLY__INIT;
    VB_FD int fd = fd_consumed;
    struct vb_pin_link *l;

    if (fd < 0)
        return;
    struct vb_token *t = s->holding ? NULL : vb_token_find(s, offer->secret.data, offer->secret.len);
    if (!t) {
        refuse(s, fd, "no such token: it was revoked, or its owner is gone");
        return;
    }
    if (s->n_pin_links >= VB_ACCESSES_MAX) {
        refuse(s, fd, "the owner's session has as many accesses as it may have");
        return;
    }
    if (open_link(s, t, offer, &fd, &l) < 0) {
        refuse(s, fd, "the owner's session has no memory for another access");
        return;
    }
    if (++s->n_opened < 32 || (s->n_opened & (s->n_opened - 1)) == 0) /* others can cause this line */
        vb_session_log(
            s, "session %u (client pid %u) has access to 0x%" PRIx64 "-0x%" PRIx64 " of space %u by token %u%s%s",
            l->pinner, l->client_pid, t->range.first, t->range.last, t->space->id, t->id, t->name[0] ? " " : "",
            t->name);
    opened.first = t->range.first;
    opened.last = t->range.last;
    opened.name = t->name;
    opened.warning = (char *)VB_TOKEN_WARNING;
    m.body_case = VFIO_BROKER_INTERNAL__TO_PINNER__BODY_OPENED;
    m.opened = &opened;
    send_with_fds(l, &m, NULL, 0);
}

/* ---- pins of all links ---- */

static bool matches(const struct vb_pin_filter *f, const struct vb_pin *p) {
    const struct vb_pin_link *l = p->access;

    if (f->token && l->token != f->token)
        return false;
    for (size_t i = 0; i < f->n; i++)
        if (vb_range_overlaps(f->ranges[i], p->iova))
            return true;
    return f->n == 0;
}

bool vb_pins_exist(const struct vb_pin_filter *f) {
    const struct vb_pin *p;

    TAILQ_FOREACH (p, &f->space->pins, entry)
        if (matches(f, p))
            return true;
    return false;
}

/* One Invalidate for each link, with all its pins that have to go. */
void vb_pins_ask(struct vb_session *s, const struct vb_pin_filter *f) {
    VB_FREE uint32_t *ids = malloc(VB_PINS_MAX * sizeof *ids);
    uint64_t deadline = vb_now_ms() + VB_INVALIDATE_MS;
    struct vb_pin_link *l, *next;
    struct vb_pin *p;

    for (l = TAILQ_FIRST(&s->pin_links); l; l = next) {
        VfioBroker__Invalidate ask = VFIO_BROKER__INVALIDATE__INIT;
        VfioBrokerInternal__ToPinner m = VFIO_BROKER_INTERNAL__TO_PINNER__INIT;

        next = TAILQ_NEXT(l, entry);
        TAILQ_FOREACH (p, &f->space->pins, entry)
            if (p->access == l && p->deadline_ms == 0 && matches(f, p)) {
                p->deadline_ms = deadline;
                if (ids)
                    ids[ask.n_pins++] = p->id;
            }
        if (ask.n_pins == 0)
            continue;
        ask.pins = ids;
        ask.deadline_ms = VB_INVALIDATE_MS;
        m.body_case = VFIO_BROKER_INTERNAL__TO_PINNER__BODY_INVALIDATE;
        m.invalidate = &ask;
        send_with_fds(l, &m, NULL, 0);
    }
}

static uint64_t earlier(uint64_t a, uint64_t b) {
    return a == 0 || b < a ? b : a;
}

/* Pins of one link in a space. */
static void expire(struct vb_session *s, struct vb_pin_link *l, uint64_t now_ms, uint32_t *ids, uint64_t *next) {
    struct vb_pin *p, *after;
    size_t n = 0;

    for (p = TAILQ_FIRST(&l->token->space->pins); p; p = after) {
        after = TAILQ_NEXT(p, entry);
        if (p->access != l || p->deadline_ms == 0)
            continue;
        if (p->deadline_ms > now_ms) {
            *next = earlier(*next, p->deadline_ms);
            continue;
        }
        if (ids)
            ids[n++] = p->id;
        vb_model_unpin(s->model, p);
    }
    if (n == 0)
        return;
    vb_session_log(s, "session %u (client pid %u) has not given up %zu pins in %u ms: taken away", l->pinner,
                   l->client_pid, n, VB_INVALIDATE_MS);
    send_lost(l, ids, n, false, "the owner unmaps, and the pins were not given up in time");
}

uint64_t vb_pins_expire(struct vb_session *s, uint64_t now_ms) {
    VB_FREE uint32_t *ids = malloc(VB_PINS_MAX * sizeof *ids);
    struct vb_pin_link *l, *after;
    uint64_t next = 0;

    for (l = TAILQ_FIRST(&s->pin_links); l; l = after) {
        after = TAILQ_NEXT(l, entry);
        expire(s, l, now_ms, ids, &next);
    }
    return next;
}
