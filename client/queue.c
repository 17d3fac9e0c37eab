/* The send queue: requests that the socket did not take at once, in order. Only asynchronous calls by a caller who does
 * not wait can fill it, so it is bounded by VBC_ASYNC_MAX packets, and one for each blocking call on the stack. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "client/client-private.h"
#include "proto/cleanup.h"

struct vbc_queued {
    STAILQ_ENTRY(vbc_queued) link;
    int fd; /* owned, or -1 */
    size_t size;
    uint8_t data[];
};

static int put(struct vfb_client *c, const void *data, size_t size, int fd) {
    struct vbc_queued *q = malloc(sizeof *q + size);
    VB_FREE void *owner = q;

    if (!q)
        return -ENOMEM;
    q->fd = -1;
    q->size = size;
    memcpy(q->data, data, size);
    if (fd >= 0 && (q->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0)) < 0)
        return -errno;
    STAILQ_INSERT_TAIL(&c->queue, q, link);
    vb_steal_ptr(&owner);
    return 0;
}

static bool gone(int r) {
    return r == -EPIPE || r == -ECONNRESET || r == -ENOTCONN;
}

int vbc_queue_send(struct vfb_client *c, const void *data, size_t size, int fd, bool *ret_gone) {
    int r = -EAGAIN;

    *ret_gone = false;
    if (STAILQ_EMPTY(&c->queue))
        r = vb_packet_send(c->fd, data, size, &fd, fd >= 0, MSG_DONTWAIT);
    if (r == -EAGAIN)
        return put(c, data, size, fd);
    if (gone(r)) {
        *ret_gone = true;
        return 0;
    }
    return r;
}

void vbc_queue_flush(struct vfb_client *c) {
    struct vbc_queued *q;

    while ((q = STAILQ_FIRST(&c->queue))) {
        int r = vb_packet_send(c->fd, q->data, q->size, &q->fd, q->fd >= 0, MSG_DONTWAIT);

        if (r == -EAGAIN)
            return;
        if (r < 0 && !gone(r)) {
            /* ENOBUFS, ENOMEM, ETOOMANYREFS: the request was accepted from the caller, so its order and its promise can
             * no longer be kept any other way. */
            vbc_lose(c, r, "cannot send a queued request: %s", strerror(-r));
            return;
        }
        if (gone(r)) {
            vbc_queue_drop(c); /* the receiving side will tell why */
            return;
        }
        STAILQ_REMOVE_HEAD(&c->queue, link);
        if (q->fd >= 0)
            close(q->fd);
        free(q);
    }
}

void vbc_queue_drop(struct vfb_client *c) {
    struct vbc_queued *q;

    while ((q = STAILQ_FIRST(&c->queue))) {
        STAILQ_REMOVE_HEAD(&c->queue, link);
        if (q->fd >= 0)
            close(q->fd);
        free(q);
    }
}
