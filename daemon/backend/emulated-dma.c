/* The software DMA engine of the emulated backend: see emulated.h. Every packet comes from a hostile client. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/emulated-private.h"

#define PACKETS_AT_ONCE 8 /* then others have their turn */

union request {
    struct vb_emulated_dma dma;
    uint8_t bytes[sizeof(struct vb_emulated_dma) + VB_EMULATED_DMA_MAX];
};
union reply {
    struct vb_emulated_dma_reply reply;
    uint8_t bytes[sizeof(struct vb_emulated_dma_reply) + VB_EMULATED_DMA_MAX];
};

/* The part of a transfer that lies in one entry. False: short, or the file has shrunk; it must not grow by a DMA. */
static bool move(const struct vb_emulated_memory *m, uint64_t offset, uint8_t *data, size_t size, bool write) {
    struct stat st;
    ssize_t n;

    if (fstat(m->fd, &st) < 0 || (uint64_t)st.st_size < offset + size)
        return false;
    do
        n = write ? pwrite(m->fd, data, size, (off_t)offset) : pread(m->fd, data, size, (off_t)offset);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)size;
}

/* Two walks: the first only looks, so that a transfer which hits a hole moves nothing. */
static int transfer(struct vb_emulated *em, struct vb_emulated_domain *s, struct vb_range r, uint8_t *data,
                    bool write) {
    const uint8_t need = write ? VB_PROT_WRITE : VB_PROT_READ;
    struct vb_emulated_entry *p;
    int moving;

    for (moving = 0; moving < 2; moving++) {
        uint64_t at = r.first, last;

        for (p = vb_emulated_table_first(&s->table, r);; p = vb_emulated_table_next(p)) {
            if (!p || p->iova.first > at || !(p->prot & need))
                return -EFAULT;
            if (write && s->dirty && vb_emulated_dirty_room(p) < 0)
                return -EFAULT;
            last = p->iova.last < r.last ? p->iova.last : r.last;
            if (moving && write && s->dirty)
                vb_emulated_dirty_mark(p, (struct vb_range){at, last});
            if (moving && !move(&em->memories[p->memory], p->offset + (at - p->iova.first), data + (at - r.first),
                                last - at + 1, write))
                return -EFAULT;
            if (last == r.last)
                break;
            at = last + 1;
        }
    }
    return 0;
}

static int32_t run(struct vb_emulated *em, struct vb_emulated_device *d, union request *q, size_t n, union reply *a) {
    const bool write = n >= sizeof(q->dma) && q->dma.op == VB_EMULATED_DMA_WRITE;
    const bool host =
        n >= sizeof(q->dma) && (q->dma.op == VB_EMULATED_HOST_WANTS || q->dma.op == VB_EMULATED_HOST_LOST);
    struct vb_range r;

    if (host)
        return n == sizeof(q->dma) && q->dma.size == 0 ? 0 : -EINVAL;
    if (n < sizeof(q->dma) || n > sizeof(q->bytes) || (!write && q->dma.op != VB_EMULATED_DMA_READ) ||
        q->dma.size > VB_EMULATED_DMA_MAX || n - sizeof(q->dma) != (write ? q->dma.size : 0) ||
        !vb_range_from(q->dma.iova, q->dma.size, &r))
        return -EINVAL;
    if (!d->domain)
        return -EFAULT;
    return transfer(em, d->domain, r, write ? q->dma.data : a->reply.data, write);
}

int vb_emulated_device_ready(struct vb_backend *b, vb_handle device) {
    struct vb_emulated *em = (struct vb_emulated *)b;
    struct vb_emulated_device *d = em->devices[device];
    union request q;
    union reply a;
    ssize_t n;
    int i, wanted = 0;

    for (i = 0; i < PACKETS_AT_ONCE; i++) {
        size_t size = sizeof(a.reply);
        struct pollfd p = {.fd = d->fd};

        /* Without a control buffer the kernel closes fds that come along (net/unix/af_unix.c). MSG_TRUNC: the true size. */
        n = recv(d->fd, q.bytes, sizeof(q.bytes), MSG_DONTWAIT | MSG_TRUNC);
        if (n < 0)
            return errno == EAGAIN || errno == EINTR ? wanted : -EPIPE;
        /* 0 is the end, or an empty packet: a client may send those. */
        if (n == 0 && (poll(&p, 1, 0) < 0 || (p.revents & POLLHUP)))
            return -EPIPE;
        a.reply.status = run(em, d, &q, (size_t)n, &a);
        a.reply.size = a.reply.status == 0 ? q.dma.size : 0;
        if (a.reply.status == 0 && q.dma.op == VB_EMULATED_DMA_READ)
            size += a.reply.size;
        if (send(d->fd, a.bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == EPIPE)
            return -EPIPE;
        if (a.reply.status == 0 && q.dma.op == VB_EMULATED_HOST_WANTS)
            wanted = 1;
        if (a.reply.status == 0 && q.dma.op == VB_EMULATED_HOST_LOST) {
            d->lost = true;
            shutdown(d->fd, SHUT_RDWR);
            return -ENODEV;
        }
    }
    return wanted;
}
