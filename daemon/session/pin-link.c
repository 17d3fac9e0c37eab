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

/* What the socket does not take now goes out later, and nothing is read until then. False: the link is gone. */
static bool flush(struct vb_pin_link *l) {
    int r = vb_outbox_flush(&l->out, l->fd);

    if (r == -EAGAIN) {
        event_del(l->readable);
        event_add(l->writable, NULL);
        return true;
    }
    if (r < 0)
        vb_pin_link_close(l, NULL);
    return r == 0;
}

bool vb_pin_link_send(struct vb_pin_link *l, const VfioBrokerInternal__ToPinner *m, const int *fds, unsigned n) {
    if (vb_outbox_put(&l->out, &m->base, fds, n) == 0)
        return flush(l);
    vb_session_log(l->session, "no memory to answer session %u: its access ends", l->pinner);
    vb_pin_link_close(l, NULL);
    return false;
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

void vb_pin_link_close(struct vb_pin_link *l, const char *reason) {
    struct vb_session *s = l->session;

    if (s->serving == l)
        s->serving = NULL;
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
            vb_pin_link_close(l, reason);
    }
}

/* ---- reading ----
 * A pinner's session that does not read must not use up our fds: those under way count against RLIMIT_NOFILE (net/core/scm.c,
 * too_many_unix_fds), beyond which nothing with a fd can be sent to anybody, our own client and the daemon included; and those
 * that the socket does not take wait in the outbox, duplicated. So each link has the fds of one reply under way, and its
 * socket has room for one.
 * Pinning takes time, and our own client and other pinners wait meanwhile. So a link rests after each request, the longer the
 * more that took and the more links there are, and all of them rest a little: together they have a quarter of our time. */
#define UNREAD_MAX  65536
#define AGAIN_MS    10
#define REST        3
#define REST_MAX_MS 5000 /* much less than access.c has patience for */
#define SHORT_MS    2    /* what takes no longer needs no rest: the timer would cost more */
#define DRAIN_MAX   16

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

static void pause_reading(struct vb_pin_link *l, uint64_t ms) {
    const struct timeval t = {(time_t)(ms / 1000), (suseconds_t)(ms % 1000 * 1000)};

    event_del(l->readable);
    evtimer_add(l->again, &t);
}

static void rest(struct vb_session *s, struct vb_pin_link *l, uint64_t begun, uint64_t ended) {
    const uint64_t took = ended - begun;

    if (took < SHORT_MS)
        return;
    l->rests_until = ended + (REST * took * s->n_pin_links < REST_MAX_MS ? REST * took * s->n_pin_links : REST_MAX_MS);
    s->links_rest_until = ended + REST * took;
}

/* One request. False: there is none, or the link is gone. */
static bool receive(struct vb_pin_link *l) {
    struct vb_session *s = l->session;
    VB_PACKET struct vb_packet p = VB_PACKET_INIT;
    const uint64_t begun = vb_now_ms();

    int r = vb_packet_recv_no_fds(l->fd, s->client.in, VB_PACKET_MAX, MSG_DONTWAIT, &p);
    if (r == -EAGAIN)
        return false;
    s->serving = l;
    vb_pin_link_request(
        l, r > 0 ? vb_decode(&s->client.arena, &vfio_broker_internal__to_owner__descriptor, p.data, p.size) : NULL);
    if (!s->serving) /* vb_pin_link_close() */
        return false;
    s->serving = NULL;
    rest(s, l, begun, vb_now_ms());
    return true;
}

static void on_readable(evutil_socket_t fd, short what, void *arg) {
    struct vb_pin_link *l = arg;
    const uint64_t now = vb_now_ms();
    uint64_t until = l->rests_until > l->session->links_rest_until ? l->rests_until : l->session->links_rest_until;

    (void)fd, (void)what;
    if (until > now)
        pause_reading(l, until - now);
    else if (has_to_read_first(l))
        pause_reading(l, AGAIN_MS);
    else
        receive(l);
}

bool vb_pin_link_drain(struct vb_pin_link *l) {
    struct vb_session *s = l->session;
    const struct vb_pin_link *i;

    for (unsigned n = 0; n < DRAIN_MAX && vb_outbox_empty(&l->out) && !has_to_read_first(l) && receive(l); n++)
        ;
    TAILQ_FOREACH (i, &s->pin_links, entry)
        if (i == l)
            return true;
    return false;
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
    vb_pin_link_send(l, &m, NULL, 0);
}
