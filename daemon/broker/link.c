#include "broker/link.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "broker/closer.h"
#include "broker/log.h"
#include "proto/cleanup.h"

int vb_link_buffers_init(struct vb_link_buffers *b) {
    b->in = malloc(VB_PACKET_MAX);
    b->out = malloc(VB_PACKET_MAX);
    if (!b->in || !b->out)
        return -ENOMEM;
    return vb_arena_init(&b->arena, VB_DECODE_MAX);
}

void vb_link_buffers_fini(struct vb_link_buffers *b) {
    free(b->in);
    free(b->out);
    vb_arena_fini(&b->arena);
}

/* ---- what may come ---- */

static bool address_ok(const char *a) {
    size_t n = strnlen(a, VB_ADDRESS_MAX + 1);

    return n > 0 && n <= VB_ADDRESS_MAX;
}

static bool addresses_ok(char *const *list, size_t n, size_t max) {
    if (n > max)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!address_ok(list[i]))
            return false;
    return true;
}

static bool adopt_ok(const VfioBrokerInternal__Adopt *a) { /* session/session.h */
    return addresses_ok(a->devices, a->n_devices, VB_DEVICES_MAX) &&
           addresses_ok(a->held, a->n_held, 2 * VB_DEVICES_MAX);
}

static bool call_ok(const VfioBrokerInternal__Call *c) {
    switch (c->body_case) {
    case VFIO_BROKER_INTERNAL__CALL__BODY_LEASE:
    case VFIO_BROKER_INTERNAL__CALL__BODY_INSPECT:
        return true;
    case VFIO_BROKER_INTERNAL__CALL__BODY_DEVICE_OPEN:
        return address_ok(c->device_open->address) &&
               strnlen(c->device_open->with, VB_ADDRESS_MAX + 1) <= VB_ADDRESS_MAX;
    case VFIO_BROKER_INTERNAL__CALL__BODY_DEVICE_CLOSE:
        return address_ok(c->device_close->address);
    case VFIO_BROKER_INTERNAL__CALL__BODY_ADOPT_GROUP:
        return c->adopt_group->group <= INT32_MAX;
    case VFIO_BROKER_INTERNAL__CALL__BODY_ADOPT:
        return adopt_ok(c->adopt);
    case VFIO_BROKER_INTERNAL__CALL__BODY_TOKEN_REDEEM:
        return c->token_redeem->secret.len == VB_TOKEN_SIZE;
    default:
        return false;
    }
}

const VfioBrokerInternal__ToDaemon *vb_link_decode(struct vb_arena *a, const void *data, size_t size, unsigned n_fds) {
    const VfioBrokerInternal__ToDaemon *m = vb_decode(a, &vfio_broker_internal__to_daemon__descriptor, data, size);
    unsigned least = 0, most = 0; /* fds */
    bool ok = false;

    if (!m)
        return NULL;
    switch (m->body_case) {
    case VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_CALL:
        ok = call_ok(m->call);
        if (m->call->body_case == VFIO_BROKER_INTERNAL__CALL__BODY_ADOPT)
            most = 2;
        if (m->call->body_case == VFIO_BROKER_INTERNAL__CALL__BODY_ADOPT_GROUP)
            least = most = 2;
        break;
    case VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_ASK_REPLY:
    case VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_HOLDING:
    case VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_LEASE_GIVE:
        ok = true;
        break;
    case VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_DEVICE_FREE:
        ok = address_ok(m->device_free->address);
        break;
    default:
        break;
    }
    return ok && n_fds >= least && n_fds <= most ? m : NULL;
}

/* ---- in ---- */

static void lost(struct vb_link *l, int error) {
    vb_link_close(l);
    l->on_lost(l, error);
}

/* True: this second's share is used up, and reading goes on in the next. */
static bool paused(struct vb_link *l) {
    uint64_t now = vb_now_ms();

    if (now / 1000 != l->second) { /* a costly call may have used up the shares of several */
        uint64_t share = (now / 1000 - l->second) * VB_CALLS_PER_SECOND;

        l->second = now / 1000;
        l->messages = l->messages > share ? l->messages - (unsigned)share : 0;
    }
    if (l->messages < VB_CALLS_PER_SECOND) {
        l->messages++;
        return false;
    }
    const struct timeval rest = {.tv_usec = (suseconds_t)(1000 - now % 1000) * 1000 - 1};
    event_del(l->readable);
    evtimer_add(l->resume, &rest);
    return true;
}

static void on_resume(evutil_socket_t fd, short what, void *arg) {
    struct vb_link *l = arg;

    (void)fd, (void)what;
    event_add(l->readable, NULL);
}

static void on_readable(evutil_socket_t fd, short what, void *arg) {
    struct vb_link *l = arg;
    VB_PACKET struct vb_packet p = VB_PACKET_INIT;

    (void)what;
    if (paused(l))
        return;
    int r = l->takes_fds ? vb_packet_recv(fd, l->buffers->in, VB_PACKET_MAX, MSG_DONTWAIT, &p)
                         : vb_packet_recv_no_fds(fd, l->buffers->in, VB_PACKET_MAX, MSG_DONTWAIT, &p);
    if (r == -EAGAIN)
        return;
    if (r <= 0) {
        vb_packet_abandon(&p);
        lost(l, r == -EMSGSIZE ? -EBADMSG : r);
        return;
    }
    const VfioBrokerInternal__ToDaemon *m = vb_link_decode(&l->buffers->arena, p.data, p.size, p.n_fds);
    if (m) {
        l->on_message(l, m, &p);
    } else {
        vb_packet_abandon(&p);
        lost(l, -EBADMSG);
    }
}

void vb_link_charge(struct vb_link *l, unsigned n) {
    l->messages += n;
}

/* ---- life ---- */

int vb_link_open(struct vb_link *l, struct event_base *base, struct vb_link_buffers *buffers, int fd,
                 vb_link_message_fn on_message, vb_link_lost_fn on_lost, void *owner) {
    *l = (struct vb_link){.fd = fd, .buffers = buffers, .on_message = on_message, .on_lost = on_lost, .owner = owner};
    l->readable = event_new(base, fd, EV_READ | EV_PERSIST, on_readable, l);
    l->resume = evtimer_new(base, on_resume, l);
    if (!l->readable || !l->resume || event_add(l->readable, NULL) < 0) {
        vb_link_close(l);
        return -ENOMEM;
    }
    return 0;
}

void vb_link_close(struct vb_link *l) {
    if (l->readable)
        event_free(l->readable);
    if (l->resume)
        event_free(l->resume);
    l->readable = l->resume = NULL;
    if (l->fd >= 0)
        vb_close_client(l->fd); /* a session that its client took over may have left it anything */
    l->fd = -1;
}

int vb_link_send(struct vb_link *l, const VfioBrokerInternal__ToSession *m, const int *fds, unsigned n_fds) {
    if (l->fd < 0)
        return -EPIPE;
    ssize_t n = vb_encode(&m->base, l->buffers->out, VB_PACKET_MAX);
    if (n < 0)
        return (int)n;
    return vb_packet_send(l->fd, l->buffers->out, (size_t)n, fds, n_fds, MSG_DONTWAIT);
}
