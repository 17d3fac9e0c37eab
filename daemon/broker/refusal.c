#include "broker/refusal.h"

#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/codec.h"
#include "proto/fdpass.h"

/* Packets dropped from a refused client's queue. */
#define DRAIN_MAX 16

void vb_wire_error_fill(struct vb_wire_error *ret, const struct vb_error *e) {
    vfio_broker__error__init(&ret->error);
    ret->error.code = e->code < 0 ? VFIO_BROKER__ERROR_CODE__ERROR_HOST : (VfioBroker__ErrorCode)e->code;
    ret->error.host_errno = e->code < 0 ? -e->code : 0;
    ret->error.text = (char *)e->text;
    if (!e->limit.set)
        return;
    vfio_broker__limit_detail__init(&ret->limit);
    ret->limit.wanted = e->limit.wanted;
    ret->limit.used = e->limit.used;
    ret->limit.limit = e->limit.limit;
    ret->limit.whose = (char *)e->limit.whose;
    ret->error.limit = &ret->limit;
}

/* A unix socket that is closed with unread packets gives its peer ECONNRESET before what we wrote. So what the client has
 * sent is dropped unread: nothing is copied, fds in it are never installed here. Its own further sends fail already. */
static void drain(int fd) {
    struct msghdr h = {.msg_iov = NULL};

    shutdown(fd, SHUT_RDWR);
    for (int i = 0; i < DRAIN_MAX && recvmsg(fd, &h, MSG_DONTWAIT | MSG_TRUNC) > 0; i++)
        h = (struct msghdr){.msg_iov = NULL};
}

void vb_refuse_client(int fd, const struct vb_error *e) {
    VfioBroker__Reply reply = VFIO_BROKER__REPLY__INIT;
    struct vb_wire_error w;
    uint8_t buf[1024];

    vb_wire_error_fill(&w, e);
    reply.body_case = VFIO_BROKER__REPLY__BODY_ERROR;
    reply.error = &w.error;
    ssize_t n = vb_encode(&reply.base, buf, sizeof buf);
    if (n > 0 && vb_packet_send(fd, buf, (size_t)n, NULL, 0, MSG_DONTWAIT) == 0)
        drain(fd);
    close(fd);
}
