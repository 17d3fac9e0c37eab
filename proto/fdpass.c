#include "proto/fdpass.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* CMSG_SPACE is padded, so a buffer for one int can hold two fds: count what arrived, not what was expected. */
union control {
    struct cmsghdr align;
    char room[CMSG_SPACE(VB_PACKET_FDS * sizeof(int))];
};

static void take_fds(struct msghdr *h, struct vb_packet *p) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        /* The kernel cuts off what does not fit (MSG_CTRUNC), so there are never more than VB_PACKET_FDS. */
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n && p->n_fds < VB_PACKET_FDS; i++)
            memcpy(&p->fds[p->n_fds++], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
    }
}

static int receive(int sock, void *buf, size_t size, int flags, bool with_fds, struct vb_packet *ret_packet) {
    union control control;
    struct iovec iov = {.iov_base = buf, .iov_len = size};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    if (with_fds) {
        h.msg_control = control.room;
        h.msg_controllen = sizeof control.room;
    }

    *ret_packet = (struct vb_packet)VB_PACKET_INIT;
    do
        n = recvmsg(sock, &h, flags | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EWOULDBLOCK ? -EAGAIN : -errno;
    take_fds(&h, ret_packet);
    if (h.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
        return -EMSGSIZE;
    ret_packet->data = buf;
    ret_packet->size = (size_t)n;
    return n > 0;
}

int vb_packet_recv(int sock, void *buf, size_t size, int flags, struct vb_packet *ret_packet) {
    return receive(sock, buf, size, flags, true, ret_packet);
}

int vb_packet_recv_no_fds(int sock, void *buf, size_t size, int flags, struct vb_packet *ret_packet) {
    struct msghdr h = {.msg_iov = NULL};
    ssize_t n;

    *ret_packet = (struct vb_packet)VB_PACKET_INIT;
    do
        n = recvmsg(sock, &h, flags | MSG_PEEK);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EWOULDBLOCK ? -EAGAIN : -errno;
    if (h.msg_flags & MSG_CTRUNC)
        return -EMSGSIZE;
    return receive(sock, buf, size, flags, false, ret_packet);
}

int vb_packet_send(int sock, const void *data, size_t size, const int *fds, unsigned n_fds, int flags) {
    union control control;
    struct iovec iov = {.iov_base = (void *)data, .iov_len = size};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    if (n_fds > VB_PACKET_FDS)
        return -EINVAL;
    if (n_fds > 0) {
        memset(&control, 0, sizeof control);
        h.msg_control = control.room;
        h.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&h);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
    }
    do
        n = sendmsg(sock, &h, flags | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EWOULDBLOCK ? -EAGAIN : -errno;
    return (size_t)n == size ? 0 : -EMSGSIZE;
}

int vb_packet_steal_fd(struct vb_packet *p, unsigned i) {
    if (i >= p->n_fds)
        return -1;
    int fd = p->fds[i];
    p->fds[i] = -1;
    return fd;
}

void vb_packet_abandon(struct vb_packet *p) {
    p->n_fds = 0;
}

void vb_packet_close(struct vb_packet *p) {
    for (unsigned i = 0; i < p->n_fds; i++)
        if (p->fds[i] >= 0)
            close(p->fds[i]);
    p->n_fds = 0;
}
