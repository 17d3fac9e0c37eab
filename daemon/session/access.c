/* The pinner's end of a pin link: our client's accesses to spaces of others. Requests are passed on to the owner's session and
 * answered when it answers; what it says unasked becomes an event. While the client does not read, the link is not read. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/cleanup.h"
#include "session/pins.h"

/* An owner's session that does not answer in that time is taken for dead. It may be pinning much, for others too. */
#define PATIENCE_S 60
/* Beyond so many fds that are no memory, no access can be opened: those that are open can send 16 more each. */
#define FOREIGN_MAX 64u

static struct vb_pending *pending_of(struct vb_session *s, uint32_t access, uint64_t serial) {
    for (unsigned i = 0; i < VB_PARKED_MAX; i++)
        if (s->pending[i].request && s->pending[i].access == access && (serial == 0 || s->pending[i].serial == serial))
            return &s->pending[i];
    return NULL;
}

static void drop_pending(struct vb_pending *p) {
    free(p->ranges);
    free(p->ids);
    *p = (struct vb_pending){.request = 0};
}

static bool is_opening(const struct vb_access *a) {
    const struct vb_pending *p = pending_of(a->session, a->id, 0);

    return p && p->expect == VFIO_BROKER_INTERNAL__TO_PINNER__BODY_OPENED;
}

static struct vb_pending *free_pending(struct vb_session *s, struct vb_error *e) {
    for (unsigned i = 0; i < VB_PARKED_MAX; i++)
        if (!s->pending[i].request)
            return &s->pending[i];
    vb_refuse(e, VB_BUSY, "%u requests wait for owners of spaces already; wait for their answers", VB_PARKED_MAX);
    return NULL;
}

/* ---- to the client ---- */

static void reply_error(struct vb_session *s, struct vb_pending *p, const struct vb_error *e) {
    VfioBroker__Reply reply = VFIO_BROKER__REPLY__INIT;

    reply.id = p->request;
    reply.body_case = VFIO_BROKER__REPLY__BODY_ERROR;
    reply.error = vb_error_message(&s->client.arena, e);
    drop_pending(p);
    vb_client_send(s, &reply, NULL, 0);
}

static void event_lost(struct vb_session *s, uint32_t access, const char *reason) {
    VfioBroker__PinsLost lost = VFIO_BROKER__PINS_LOST__INIT;
    VfioBroker__Event event = VFIO_BROKER__EVENT__INIT;
    VfioBroker__Reply reply = VFIO_BROKER__REPLY__INIT;

    lost.access = access;
    lost.closed = true;
    lost.reason = (char *)reason;
    event.body_case = VFIO_BROKER__EVENT__BODY_PINS_LOST;
    event.pins_lost = &lost;
    reply.body_case = VFIO_BROKER__REPLY__BODY_EVENT;
    reply.event = &event;
    vb_client_send(s, &reply, NULL, 0);
}

/* ---- the end of an access ---- */

static void free_access(struct vb_access *a) {
    struct event *events[] = {a->readable, a->writable, a->patience};

    for (unsigned i = 0; i < sizeof events / sizeof events[0]; i++)
        if (events[i])
            event_free(events[i]);
    vb_outbox_clear(&a->out);
    free(a->pins);
    if (a->fd >= 0)
        close(a->fd);
    free(a);
}

/* Requests that wait are refused with `code` and `reason`; `told`: the client has heard of the end already, or asked for
 * it, or never had the access. */
static void end_access(struct vb_access *a, enum vb_code code, const char *reason, bool told) {
    struct vb_session *s = a->session;
    struct vb_pending *p;
    struct vb_error e = {.code = 0};
    uint32_t id = a->id;

    vb_table_remove(&s->accesses, id);
    free_access(a);
    vb_refuse(&e, code, "%s", reason);
    while ((p = pending_of(s, id, 0))) {
        told |= p->expect == VFIO_BROKER_INTERNAL__TO_PINNER__BODY_OPENED;
        reply_error(s, p, &e);
    }
    if (!told)
        event_lost(s, id, reason);
}

int vb_access_close(struct vb_session *s, uint32_t access, struct vb_error *e) {
    struct vb_access *a = vb_table_find(&s->accesses, access);

    if (!a)
        return vb_refuse(e, VB_NOT_FOUND, "no access %" PRIu32, access);
    end_access(a, VB_STATE, "the access was closed", true);
    return 0;
}

void vb_accesses_stop(struct vb_session *s) {
    while (s->accesses.n) {
        struct vb_access *a = s->accesses.items[s->accesses.n - 1];

        vb_table_remove(&s->accesses, a->id);
        free_access(a);
    }
    for (unsigned i = 0; i < VB_PARKED_MAX; i++)
        drop_pending(&s->pending[i]);
}

/* ---- what the owner says ---- */

static void wait_for_owner(struct vb_access *a) {
    const struct timeval t = {PATIENCE_S, 0};

    if (pending_of(a->session, a->id, 0))
        evtimer_add(a->patience, &t);
    else
        evtimer_del(a->patience);
}

/* A reply to one of our client's requests. False: it makes no sense. */
static bool answer(struct vb_access *a, VfioBrokerInternal__ToPinner *m, struct vb_packet *packet) {
    struct vb_session *s = a->session;
    struct vb_pending *p = pending_of(s, a->id, m->serial);
    VfioBroker__Reply reply = VFIO_BROKER__REPLY__INIT;

    if (!p || !vb_access_reply_fits(a, p, m, packet->n_fds))
        return false;
    reply.id = p->request;
    switch (m->body_case) {
    case VFIO_BROKER_INTERNAL__TO_PINNER__BODY_ERROR:
        reply.body_case = VFIO_BROKER__REPLY__BODY_ERROR;
        reply.error = m->error;
        break;
    case VFIO_BROKER_INTERNAL__TO_PINNER__BODY_PIN:
        reply.body_case = VFIO_BROKER__REPLY__BODY_PIN;
        reply.pin = m->pin;
        break;
    case VFIO_BROKER_INTERNAL__TO_PINNER__BODY_OPENED:
        m->opened->access = a->id;
        reply.body_case = VFIO_BROKER__REPLY__BODY_ACCESS_OPEN;
        reply.access_open = m->opened;
        break;
    default:
        reply.body_case = VFIO_BROKER__REPLY__BODY_DONE;
        reply.done = m->done;
    }
    drop_pending(p);
    vb_client_send(s, &reply, packet->fds, packet->n_fds);
    wait_for_owner(a);
    return true;
}

/* What it says unasked. False: it makes no sense. */
static bool tell(struct vb_access *a, VfioBrokerInternal__ToPinner *m) {
    VfioBroker__Event event = VFIO_BROKER__EVENT__INIT;
    VfioBroker__Reply reply = VFIO_BROKER__REPLY__INIT;

    if (m->body_case == VFIO_BROKER_INTERNAL__TO_PINNER__BODY_INVALIDATE) {
        if (!vb_access_invalidate(a, m->invalidate))
            return true; /* unpinned in the meantime */
        m->invalidate->access = a->id;
        event.body_case = VFIO_BROKER__EVENT__BODY_INVALIDATE;
        event.invalidate = m->invalidate;
    } else if (m->body_case == VFIO_BROKER_INTERNAL__TO_PINNER__BODY_PINS_LOST) {
        if (!vb_access_lost(a, m->pins_lost))
            return true;
        m->pins_lost->access = a->id;
        event.body_case = VFIO_BROKER__EVENT__BODY_PINS_LOST;
        event.pins_lost = m->pins_lost;
    } else {
        return false;
    }
    reply.body_case = VFIO_BROKER__REPLY__BODY_EVENT;
    reply.event = &event;
    vb_client_send(a->session, &reply, NULL, 0);
    return true;
}

/* True: the access goes on. */
static bool received(struct vb_access *a, struct vb_packet *p) {
    VfioBrokerInternal__ToPinner *m =
        vb_decode(&a->session->client.arena, &vfio_broker_internal__to_pinner__descriptor, p->data, p->size);
    const bool opening = is_opening(a);

    if (!m || (p->n_fds && m->serial == 0)) {
        end_access(a, VB_UNAVAILABLE, "the owner's session talks nonsense", false);
        return false;
    }
    if (opening) { /* Opened or Error, with serial 0, which is that of the request too */
        const bool refused = m->body_case == VFIO_BROKER_INTERNAL__TO_PINNER__BODY_ERROR;
        if (m->serial == 0 && answer(a, m, p)) {
            if (refused)
                end_access(a, VB_DENIED, "refused", true);
            return !refused;
        }
    } else if (m->serial ? answer(a, m, p) : tell(a, m)) {
        if (m->body_case != VFIO_BROKER_INTERNAL__TO_PINNER__BODY_PINS_LOST || !m->pins_lost->closed)
            return true;
        end_access(a, VB_UNAVAILABLE, "the owner has ended the access", true);
        return false;
    }
    end_access(a, VB_UNAVAILABLE, "the owner's session talks nonsense", false);
    return false;
}

/* An O_PATH fd closes at once, and is no memory all the same. */
static bool all_memory(const struct vb_packet *p) {
    for (unsigned i = 0; i < p->n_fds; i++)
        if (fcntl(p->fds[i], F_GET_SEALS) < 0)
            return false;
    return true;
}

static void on_readable(evutil_socket_t fd, short what, void *arg) {
    struct vb_access *a = arg;
    struct vb_session *s = a->session;
    VB_PACKET struct vb_packet p = VB_PACKET_INIT;

    (void)what;
    if (vb_client_busy(s)) { /* vb_accesses_resume() */
        event_del(a->readable);
        return;
    }
    int r = vb_packet_recv(fd, s->client.in, VB_PACKET_MAX, MSG_DONTWAIT, &p);
    if (r == -EAGAIN)
        return;
    /* They are memory if the owner's session is sane. If not, closing them may wait. */
    const unsigned foreign = vb_foreign_set_aside(&p);
    s->n_foreign_owners += foreign;
    if (foreign > 0 || !all_memory(&p))
        end_access(a, VB_UNAVAILABLE, "the owner's session sent fds that are no memory", false);
    else if (r <= 0)
        end_access(a, VB_UNAVAILABLE, "the owner of the space is gone", false);
    else
        received(a, &p);
}

static void on_writable(evutil_socket_t fd, short what, void *arg) {
    struct vb_access *a = arg;

    (void)what;
    if (vb_outbox_flush(&a->out, fd) != -EAGAIN) /* if the owner is gone, reading tells */
        event_del(a->writable);
}

static void on_impatience(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    end_access(arg, VB_UNAVAILABLE, "the owner's session does not answer", false);
}

void vb_accesses_resume(struct vb_session *s) {
    for (uint32_t i = 0; i < s->accesses.n; i++)
        event_add(((struct vb_access *)s->accesses.items[i])->readable, NULL);
}

/* ---- requests ---- */

static void wait_for_answer(struct vb_access *a, struct vb_pending *p, uint64_t request, uint64_t serial,
                            VfioBrokerInternal__ToPinner__BodyCase expect) {
    p->request = request;
    p->serial = serial;
    p->access = a->id;
    p->expect = expect;
    wait_for_owner(a);
}

static int redeem(struct vb_session *s, const ProtobufCBinaryData *secret, int *ret_fd, struct vb_error *e) {
    VfioBrokerInternal__TokenRedeem body = VFIO_BROKER_INTERNAL__TOKEN_REDEEM__INIT;
    VfioBrokerInternal__Call call = VFIO_BROKER_INTERNAL__CALL__INIT;
    VfioBrokerInternal__Answer *answer;
    int fds[2] = {-1, -1};

    body.secret = *secret;
    call.body_case = VFIO_BROKER_INTERNAL__CALL__BODY_TOKEN_REDEEM;
    call.token_redeem = &body;
    int r = vb_control_call(s, &call, &answer, fds, e);
    vb_close_p(&fds[1]);
    *ret_fd = fds[0];
    if (r == 0 && *ret_fd < 0)
        return vb_fail(e, -EPROTO, "vfio-brokerd answered something else than an access");
    return r;
}

int vb_access_open(struct vb_session *s, struct vb_request *rq, const ProtobufCBinaryData *secret, struct vb_error *e) {
    struct vb_pending *p = free_pending(s, e);
    struct vb_access *a;
    VB_FD int fd = -1;

    if (!p)
        return e->code;
    if (s->n_foreign_owners > FOREIGN_MAX)
        return vb_refuse(
            e, VB_LIMIT,
            "owners' sessions have sent %u fds that are no memory, and which this session has to keep open; connect "
            "anew to open an access",
            s->n_foreign_owners);
    if (secret->len != VB_TOKEN_SIZE)
        return vb_refuse(e, VB_DENIED, "a token's secret has %u bytes, this one %zu", VB_TOKEN_SIZE, secret->len);
    int r = vb_table_reserve(&s->accesses);
    if (r == -ENOSPC) {
        vb_error_limit(e, 1, s->accesses.n, VB_ACCESSES_MAX, "accesses of a session");
        return vb_refuse(e, VB_LIMIT, "a session has at most %u accesses; close one", VB_ACCESSES_MAX);
    }
    if (r < 0)
        return vb_fail(e, r, "access");
    r = redeem(s, secret, &fd, e);
    if (r != 0)
        return r;
    a = calloc(1, sizeof *a);
    if (!a)
        return vb_fail(e, -ENOMEM, "access");
    a->session = s;
    a->fd = vb_steal_fd(&fd);
    vb_outbox_init(&a->out);
    a->readable = event_new(s->base, a->fd, EV_READ | EV_PERSIST, on_readable, a);
    a->writable = event_new(s->base, a->fd, EV_WRITE | EV_PERSIST, on_writable, a);
    a->patience = evtimer_new(s->base, on_impatience, a);
    if (!a->readable || !a->writable || !a->patience || event_add(a->readable, NULL) < 0) {
        free_access(a);
        return vb_fail(e, -ENOMEM, "access");
    }
    vb_table_add(&s->accesses, a);
    wait_for_answer(a, p, rq->msg->id, 0, VFIO_BROKER_INTERNAL__TO_PINNER__BODY_OPENED);
    rq->deferred = true;
    return 0;
}

int vb_access_ask(struct vb_session *s, struct vb_request *rq, uint32_t access, VfioBrokerInternal__ToOwner *m,
                  VfioBrokerInternal__ToPinner__BodyCase expect, struct vb_error *e) {
    struct vb_access *a = vb_table_find(&s->accesses, access);
    struct vb_pending *p = free_pending(s, e);

    if (!a || is_opening(a))
        return vb_refuse(e, VB_NOT_FOUND, "no access %" PRIu32 " (its owner may be gone)", access);
    if (!p)
        return e->code;
    m->serial = ++s->last_serial;
    int r = vb_access_expect(p, m);
    if (r == 0)
        r = vb_outbox_put(&a->out, &m->base, NULL, 0);
    if (r < 0) {
        drop_pending(p);
        return vb_fail(e, r, "asking the owner's session");
    }
    if (vb_outbox_flush(&a->out, a->fd) == -EAGAIN)
        event_add(a->writable, NULL);
    wait_for_answer(a, p, rq->msg->id, m->serial, expect);
    rq->deferred = true;
    return 0;
}
