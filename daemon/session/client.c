/* The client's connection. One packet is read for each turn of the loop, carried out, and answered; when the socket does
 * not take the reply, nothing more is read until it does: a client that never reads stops only itself. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "session/pins.h"

static size_t pack(struct vb_session *s, const VfioBroker__Reply *reply) {
    ssize_t n = vb_encode(&reply->base, s->client.out, VB_PACKET_MAX);

    if (n >= 0)
        return (size_t)n;
    /* No op builds such a reply; should one, the client hears of it rather than waiting for ever. */
    VfioBroker__Error error = VFIO_BROKER__ERROR__INIT;
    VfioBroker__Reply small = VFIO_BROKER__REPLY__INIT;
    error.code = VFIO_BROKER__ERROR_CODE__ERROR_HOST;
    error.host_errno = EMSGSIZE;
    error.text = "the reply does not fit a packet";
    small.id = reply->id;
    small.body_case = VFIO_BROKER__REPLY__BODY_ERROR;
    small.error = &error;
    n = vb_encode(&small.base, s->client.out, VB_PACKET_MAX);
    return n < 0 ? 0 : (size_t)n;
}

static VfioBroker__Done done = VFIO_BROKER__DONE__INIT; /* never changes */

/* The reply refers to `e`, which has to live until it is packed. */
static void carry_out(struct vb_session *s, struct vb_packet *p, struct vb_request *rq, struct vb_error *e) {
    *rq = (struct vb_request){.fd = -1, .reply = VFIO_BROKER__REPLY__INIT, .reply_fd = -1};
    e->code = 0, e->text[0] = 0, e->has_entry = false, e->limit.set = false, e->n_conflicts = 0;
    rq->reply.body_case = VFIO_BROKER__REPLY__BODY_DONE;
    rq->reply.done = &done;
    rq->msg = vb_decode(&s->client.arena, &vfio_broker__request__descriptor, p->data, p->size);
    if (rq->msg) {
        rq->reply.id = rq->msg->id;
        vb_dispatch(s, p, rq, e);
    } else {
        s->client.arena.used = 0;
        vb_refuse(e, VB_PROTOCOL, "a packet of %zu bytes is not a request", p->size);
        rq->fatal = true;
        rq->reply.body_case = VFIO_BROKER__REPLY__BODY_ERROR;
        rq->reply.error = vb_error_message(&s->client.arena, e);
    }
    if (rq->fatal)
        vb_session_log(s, "client pid %u broke the protocol: %s", s->client_pid, e->text);
}

size_t vb_client_handle(struct vb_session *s, struct vb_packet *p, int *ret_fd, bool *ret_fatal) {
    struct vb_request rq;
    struct vb_error e;

    carry_out(s, p, &rq, &e);
    *ret_fd = rq.reply_fd;
    *ret_fatal = rq.fatal;
    return rq.deferred ? 0 : pack(s, &rq.reply);
}

bool vb_client_again(struct vb_session *s, struct vb_packet *p) {
    struct vb_request rq;
    struct vb_error e;

    carry_out(s, p, &rq, &e);
    if (rq.deferred)
        return false;
    vb_client_send(s, &rq.reply, NULL, 0); /* none of those that wait answers with a fd */
    return true;
}

/* Writes what waits, oldest first. 0: all written; -EAGAIN; or the connection is dead. */
static int flush(struct vb_session *s) {
    struct vb_client_link *c = &s->client;
    int r;

    if (c->out_size) {
        r = vb_packet_send(c->fd, c->out, c->out_size, &c->out_fd, c->out_fd >= 0 ? 1 : 0, MSG_DONTWAIT);
        if (r < 0)
            return r;
        c->out_size = 0;
        if (c->out_fd >= 0)
            close(c->out_fd);
        c->out_fd = -1;
    }
    return vb_outbox_flush(&c->later, c->fd);
}

bool vb_client_busy(const struct vb_session *s) {
    return s->client.out_size > 0 || !vb_outbox_empty(&s->client.later);
}

void vb_client_send(struct vb_session *s, const VfioBroker__Reply *reply, const int *fds, unsigned n_fds) {
    struct vb_client_link *c = &s->client;
    int r = c->fd < 0 ? 0 : vb_outbox_put(&c->later, &reply->base, fds, n_fds);

    if (r < 0) { /* it would wait for that answer for ever */
        vb_session_log(s, "no memory for an answer to client pid %u: disconnected", s->client_pid);
        shutdown(c->fd, SHUT_RDWR);
    } else if (c->fd >= 0 && s->base && flush(s) == -EAGAIN) {
        event_del(c->readable);
        event_add(c->writable, NULL);
    } /* a client that is gone is noticed by reading */
}

static void after_flush(struct vb_session *s, int r) {
    if (r == -EAGAIN || r == -ENOBUFS || r == -ETOOMANYREFS) {
        event_del(s->client.readable);
        event_add(s->client.writable, NULL);
    } else if (r < 0) {
        vb_session_end(s);
    }
}

static void on_writable(evutil_socket_t fd, short what, void *arg) {
    struct vb_session *s = arg;

    (void)fd, (void)what;
    int r = flush(s);
    if (r == 0) {
        event_del(s->client.writable);
        event_add(s->client.readable, NULL);
        vb_accesses_resume(s);
    } else {
        after_flush(s, r);
    }
}

/* ---- fds that are no memory ----
 * close(2) of what a client has sent may wait for as long as the client likes: a FUSE file is flushed by its server
 * (fs/fuse/file.c, fuse_flush), a TCP socket lingers. Only files of shmem and hugetlbfs and O_PATH fds never wait. All
 * others stay open until this process ends, where waiting harms nobody any more; in the packet -1 takes their place. */
#define FOREIGN_MAX 64u

static bool closes_at_once(int fd) {
    int flags = fcntl(fd, F_GETFL);

    return flags < 0 || flags & O_PATH || fcntl(fd, F_GET_SEALS) >= 0;
}

unsigned vb_foreign_set_aside(struct vb_packet *p) {
    unsigned n = 0;

    for (unsigned i = 0; i < p->n_fds; i++)
        if (!closes_at_once(p->fds[i])) {
            p->fds[i] = -1;
            n++;
        }
    return n;
}

static void on_readable(evutil_socket_t fd, short what, void *arg) {
    struct vb_session *s = arg;
    struct vb_client_link *c = &s->client;
    VB_PACKET struct vb_packet p = VB_PACKET_INIT;
    bool fatal;

    (void)what;
    int r = vb_packet_recv(fd, c->in, VB_PACKET_MAX, MSG_DONTWAIT, &p);
    const int first = p.n_fds ? p.fds[0] : -1;
    c->n_foreign += vb_foreign_set_aside(&p);
    c->set_aside = p.n_fds && p.fds[0] < 0 ? first : -1;
    if (r == -EAGAIN)
        return;
    if (r == -EMSGSIZE) {
        vb_session_log(s, "client pid %u sent more than %u bytes or %u fds in one packet", s->client_pid, VB_PACKET_MAX,
                       VB_PACKET_FDS);
        vb_client_event_closing(s, "a packet was too large, or had too many file descriptors");
        flush(s);
    }
    if (r <= 0) {
        vb_session_end(s);
        return;
    }
    c->out_size = vb_client_handle(s, &p, &c->out_fd, &fatal);
    c->set_aside = -1;
    r = flush(s);
    if (!fatal && c->n_foreign > FOREIGN_MAX) {
        vb_client_event_closing(s, "too many file descriptors came that are no memory");
        fatal = true;
    }
    if (fatal)
        vb_session_end(s);
    else if (r < 0)
        after_flush(s, r);
}

static void on_hello_timeout(evutil_socket_t fd, short what, void *arg) {
    struct vb_session *s = arg;

    (void)fd, (void)what;
    if (s->client.hello_done)
        return;
    vb_client_event_closing(s, "no Hello came");
    vb_session_end(s);
}

/* The connection belongs to the process that made it: when that ends, a child that kept the socket does not go on. */
static void on_client_died(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    vb_session_end(arg);
}

void vb_client_event_closing(struct vb_session *s, const char *reason) {
    VfioBroker__Closing closing = VFIO_BROKER__CLOSING__INIT;
    VfioBroker__Event event = VFIO_BROKER__EVENT__INIT;
    VfioBroker__Reply reply = VFIO_BROKER__REPLY__INIT;

    closing.reason = (char *)reason;
    event.body_case = VFIO_BROKER__EVENT__BODY_CLOSING;
    event.closing = &closing;
    reply.body_case = VFIO_BROKER__REPLY__BODY_EVENT;
    reply.event = &event;
    vb_client_send(s, &reply, NULL, 0);
}

static void *buffer(size_t size) {
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

int vb_client_start(struct vb_session *s, int fd) {
    struct vb_client_link *c = &s->client;
    const struct timeval patience = {VB_HELLO_MS / 1000, VB_HELLO_MS % 1000 * 1000};

    c->fd = fd;
    c->out_fd = c->set_aside = -1;
    vb_outbox_init(&c->later);
    c->in = buffer(VB_PACKET_MAX);
    c->out = buffer(VB_PACKET_MAX);
    if (!c->in || !c->out || vb_arena_init(&c->arena, VB_DECODE_MAX) < 0 || vb_pins_start(s) < 0)
        return -ENOMEM;
    if (fd < 0 || !s->base)
        return 0; /* tests and fuzzers call vb_client_handle() themselves */
    c->readable = event_new(s->base, fd, EV_READ | EV_PERSIST, on_readable, s);
    c->writable = event_new(s->base, fd, EV_WRITE | EV_PERSIST, on_writable, s);
    c->hello_timer = evtimer_new(s->base, on_hello_timeout, s);
    c->died = s->client_pidfd < 0 ? NULL : event_new(s->base, s->client_pidfd, EV_READ, on_client_died, s);
    if (!c->readable || !c->writable || !c->hello_timer || (s->client_pidfd >= 0 && !c->died))
        return -ENOMEM;
    if (event_add(c->readable, NULL) < 0 || evtimer_add(c->hello_timer, &patience) < 0 ||
        (c->died && event_add(c->died, NULL) < 0))
        return -ENOMEM;
    return 0;
}

static void free_event(struct event **ev) {
    if (*ev)
        event_free(*ev);
    *ev = NULL;
}

void vb_client_stop(struct vb_session *s) {
    struct vb_client_link *c = &s->client;

    free_event(&c->readable);
    free_event(&c->writable);
    free_event(&c->hello_timer);
    free_event(&c->died);
    vb_outbox_clear(&c->later);
    if (c->out_fd >= 0)
        close(c->out_fd);
    c->out_fd = -1;
    c->out_size = 0;
    if (c->fd >= 0) {
        shutdown(c->fd, SHUT_RDWR); /* the daemon has it too: its last close may wait (broker/closer.c) */
        close(c->fd);
    }
    c->fd = -1;
    if (c->in)
        munmap(c->in, VB_PACKET_MAX);
    if (c->out)
        munmap(c->out, VB_PACKET_MAX);
    c->in = c->out = NULL;
    vb_arena_fini(&c->arena);
}
