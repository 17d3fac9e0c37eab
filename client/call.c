/* Calls: sending a request, receiving its reply, and what happens when the other side is gone or talks nonsense.
 *
 * Everything that arrives goes through receive_one(), from vfb_process() and from blocking calls alike, so callbacks and
 * events are dispatched in both. It may nest: a callback makes a blocking call, which receives the reply that an outer
 * blocking call waits for; that call is then completed from within. */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "client/client-private.h"

int vbc_check_connected(struct vfb_client *c) {
    if (c->state == VBC_LOST) {
        vbc_error_copy(&c->error, &c->lost);
        return c->error.pub.code = -EPIPE;
    }
    if (c->state == VBC_NEW)
        return vbc_fail(c, VFB_STATE, "not connected: call vfb_connect() first");
    return 0;
}

int vbc_check_feature(struct vfb_client *c, uint64_t feature, const char *what) {
    int r = vbc_check_connected(c);

    if (r != 0 || (c->info.features & feature))
        return r;
    if (feature != VFB_FEATURE_DOMAINS)
        return vbc_fail(c, VFB_UNSUPPORTED, "the broker's backend %s has no %s on this kernel", c->backend, what);
    return vbc_fail(
        c, VFB_UNSUPPORTED,
        "the broker (version %s) is too old for %s: upgrade vfio-brokerd, then connect anew, since a session "
        "stays what it was",
        c->broker, what);
}

int vbc_check_name(struct vfb_client *c, const char *what, const char *name, size_t max) {
    size_t n = strnlen(name, max + 1);

    if (n > max)
        return vbc_fail(c, VFB_INVALID, "the %s is longer than %zu characters", what, max);
    for (size_t i = 0; i < n; i++)
        if (name[i] < 0x20 || name[i] > 0x7e)
            return vbc_fail(c, VFB_INVALID, "the %s has a character that is not printable ASCII, at %zu", what, i);
    return 0;
}

int64_t vbc_now_ms(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int vbc_fail_silent(struct vfb_client *c) {
    return vbc_fail(c, -ETIMEDOUT, "the broker at %s accepts but does not answer (is it stopped, or overloaded?)",
                    c->path);
}

/* ---- completion ----------------------------------------------------------------------------------------------- */

/* The call's outcome is known and in call->error if it failed. Runs the callback. */
static void complete(struct vfb_client *c, struct vbc_call *call, int result) {
    vfb_done_fn fn = call->fn;
    void *arg = call->arg;

    TAILQ_REMOVE(&c->calls, call, link);
    call->result = result;
    call->done = true;
    if (!fn)
        return;
    TAILQ_INSERT_HEAD(&c->free_slots, call, link);
    fn(c, result, arg);
}

/* c->lost says why. */
static void end(struct vfb_client *c) {
    struct vbc_call *call;

    c->state = VBC_LOST;
    /* The broker sees the end; the caller's loop sees POLLHUP on a number that stays ours. */
    shutdown(c->fd, SHUT_RDWR);
    vbc_queue_drop(c);
    /* No callback can add to the list any more. */
    while ((call = TAILQ_FIRST(&c->calls))) {
        vbc_error_copy(call->error, &c->lost);
        complete(c, call, c->lost.pub.code);
    }
    vbc_error_copy(&c->error, &c->lost);
}

void vbc_lose(struct vfb_client *c, int code, const char *fmt, ...) {
    char text[VB_ERROR_TEXT];
    va_list ap;

    if (c->state == VBC_LOST)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    vbc_error_set(&c->lost, code, "%s", text);
    end(c);
}

/* ---- receiving ------------------------------------------------------------------------------------------------ */

static void unsolicited(struct vfb_client *c, const VfioBroker__Reply *reply, const struct vb_packet *p) {
    switch (reply->body_case) {
    case VFIO_BROKER__REPLY__BODY_EVENT:
        vbc_event(c, reply->event, p);
        break;
    case VFIO_BROKER__REPLY__BODY_ERROR: /* with its numbers: a limit of sessions is told so */
        if (c->state != VBC_LOST) {
            vbc_error_decode(&c->lost, reply->error);
            end(c);
        }
        break;
    default:
        vbc_lose(c, VFB_PROTOCOL, "the broker sent something unasked that is neither an event nor a refusal (kind %d)",
                 (int)reply->body_case);
    }
}

static void answered(struct vfb_client *c, struct vbc_call *call, const VfioBroker__Reply *reply, struct vb_packet *p) {
    bool failed = reply->body_case == VFIO_BROKER__REPLY__BODY_ERROR;
    unsigned fds = failed ? 0 : call->fds;
    struct vbc_error *error = call->error;
    int r = 0;

    if (!failed && reply->body_case != call->expect) {
        vbc_lose(c, VFB_PROTOCOL, "the broker answered request %" PRIu64 " with a reply of kind %d instead of %d",
                 call->id, (int)reply->body_case, (int)call->expect);
        return;
    }
    if (fds != VBC_FDS_BY_TAKE && p->n_fds != fds) {
        vbc_lose(c, VFB_PROTOCOL, "the broker's reply to request %" PRIu64 " came with %u fds instead of %u", call->id,
                 p->n_fds, fds);
        return;
    }
    if (failed)
        r = vbc_error_decode(error, reply->error);
    else if (call->take)
        r = call->take(call, reply, p);
    if (r == VFB_PROTOCOL) { /* said by the broker, or found by us: either way the connection is over */
        vbc_lose(c, r, "%s", error->text);
        return;
    }
    complete(c, call, r);
}

static void dispatch(struct vfb_client *c, struct vb_packet *p) {
    const VfioBroker__Reply *reply = vb_decode(&c->arena, &vfio_broker__reply__descriptor, p->data, p->size);
    struct vbc_call *call;

    if (!reply) {
        vbc_lose(c, VFB_PROTOCOL, "the broker sent a packet of %zu bytes that is not a Reply", p->size);
        return;
    }
    if (reply->id == 0) {
        unsolicited(c, reply, p);
        return;
    }
    TAILQ_FOREACH (call, &c->calls, link) {
        if (call->id == reply->id) {
            answered(c, call, reply, p);
            return;
        }
    }
    vbc_lose(c, VFB_PROTOCOL, "the broker answered request %" PRIu64 ", which is not waiting for an answer", reply->id);
}

/* 1: one packet dispatched; 0: nothing there; -EPIPE: the connection is lost. */
static int receive_one(struct vfb_client *c, int flags) {
    VB_PACKET struct vb_packet p = VB_PACKET_INIT;
    int r;

    /* When the peer closes with our request unread, the socket says ECONNRESET once, before it gives out what the peer
     * sent last: net/unix/af_unix.c, unix_release_sock(). That may be a refusal, so look again. */
    r = vb_packet_recv(c->fd, c->recvbuf, sizeof c->recvbuf, flags, &p);
    if (r == -ECONNRESET)
        r = vb_packet_recv(c->fd, c->recvbuf, sizeof c->recvbuf, flags, &p);
    if (r == -EAGAIN)
        return 0;
    if (r > 0)
        dispatch(c, &p);
    else if (r == -EMSGSIZE)
        vbc_lose(c, VFB_PROTOCOL, "the broker sent a packet larger than %u bytes, or too many fds", VB_PACKET_MAX);
    else if (r < 0 && r != -ECONNRESET)
        vbc_lose(c, -EPIPE, "cannot receive from the broker: %s", strerror(-r));
    else if (c->closing[0])
        vbc_lose(c, -EPIPE, "the broker closed the connection: %s", c->closing);
    else
        vbc_lose(c, -EPIPE, "the broker closed the connection");
    return c->state == VBC_LOST ? -EPIPE : 1;
}

/* ---- sending -------------------------------------------------------------------------------------------------- */

/* Sends and links the call. On failure the call was never made and c->error is set. */
static int submit(struct vfb_client *c, struct vbc_call *call, VfioBroker__Request *req, int fd, bool *ret_gone) {
    ssize_t size;
    int r;

    req->id = call->id = c->last_id + 1;
    size = vb_encode(&req->base, c->sendbuf, sizeof c->sendbuf);
    if (size < 0)
        return vbc_fail(c, VFB_INVALID, "the request is larger than a packet (%u bytes)", VB_PACKET_MAX);
    r = vbc_queue_send(c, c->sendbuf, (size_t)size, fd, ret_gone);
    if (r < 0)
        return vbc_fail(c, r, "cannot send the request: %s", strerror(-r));
    c->last_id++;
    call->client = c;
    call->done = false;
    TAILQ_INSERT_TAIL(&c->calls, call, link);
    return 0;
}

/* Until the socket has something to do. While connecting, for as long as there is time: then the connection is lost. */
static void wait_for_broker(struct vfb_client *c) {
    struct pollfd p = {.fd = c->fd, .events = vfb_events(c)};
    int64_t left = c->connect_until ? c->connect_until - vbc_now_ms() : -1;

    if (c->connect_until && left < 0)
        left = 0;
    if (poll(&p, 1, (int)left) == 0) {
        vbc_fail_silent(c);
        vbc_lose(c, -ETIMEDOUT, "%s", c->error.text);
    }
}

int vbc_blocking(struct vfb_client *c, VfioBroker__Request *req, int fd, VfioBroker__Reply__BodyCase expect,
                 vbc_take_fn take, void *out, unsigned fds) {
    struct vbc_error error;
    struct vbc_call call = {.expect = expect, .take = take, .out = out, .fds = fds, .error = &error};
    bool gone;
    int r = vbc_check_connected(c);

    if (r == 0)
        r = submit(c, &call, req, fd, &gone);
    if (r != 0)
        return r;
    /* If the peer is gone the call is completed all the same, by what it said last or by the end of the stream. */
    while (!call.done) {
        if (STAILQ_EMPTY(&c->queue) && !c->connect_until) {
            receive_one(c, 0);
            continue;
        }
        wait_for_broker(c);
        vbc_queue_flush(c);
        if (!call.done)
            receive_one(c, MSG_DONTWAIT);
    }
    if (call.result != 0)
        vbc_error_copy(&c->error, &error);
    return call.result;
}

int vbc_async(struct vfb_client *c, VfioBroker__Request *req, VfioBroker__Reply__BodyCase expect, vfb_done_fn done,
              void *arg) {
    struct vbc_call *call = TAILQ_FIRST(&c->free_slots);
    bool gone;
    int r = vbc_check_connected(c);

    if (r != 0)
        return r;
    if (!done)
        return vbc_fail(c, VFB_INVALID, "an asynchronous call needs a callback");
    if (!call)
        return vbc_fail(c, -EAGAIN, "%u asynchronous calls are unanswered: let vfb_process() run first", VBC_ASYNC_MAX);
    TAILQ_REMOVE(&c->free_slots, call, link);
    *call = (struct vbc_call){.expect = expect, .error = &c->error, .fn = done, .arg = arg};
    /* A peer that is gone is noticed by vfb_process(), which then calls this callback too: callbacks never run here. */
    r = submit(c, call, req, -1, &gone);
    if (r != 0)
        TAILQ_INSERT_HEAD(&c->free_slots, call, link);
    return r;
}

/* ---- event loops ---------------------------------------------------------------------------------------------- */

int vfb_fd(const struct vfb_client *c) {
    return c->fd;
}

short vfb_events(const struct vfb_client *c) {
    return STAILQ_EMPTY(&c->queue) ? POLLIN : POLLIN | POLLOUT;
}

int vfb_process(struct vfb_client *c) {
    int r = vbc_check_connected(c);

    if (r != 0)
        return r;
    vbc_queue_flush(c);
    for (unsigned i = 0; i < VBC_PROCESS_PACKETS && c->state == VBC_CONNECTED; i++)
        if (receive_one(c, MSG_DONTWAIT) <= 0)
            break;
    return c->state == VBC_LOST ? vbc_check_connected(c) : 0;
}
