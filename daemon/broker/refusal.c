#include "broker/refusal.h"

#include <stddef.h>
#include <sys/socket.h>

#include "broker/closer.h"
#include "proto/codec.h"
#include "proto/fdpass.h"

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

void vb_refuse_client(int fd, const struct vb_error *e) {
    VfioBroker__Reply reply = VFIO_BROKER__REPLY__INIT;
    struct vb_wire_error w;
    uint8_t buf[1024];

    vb_wire_error_fill(&w, e);
    reply.body_case = VFIO_BROKER__REPLY__BODY_ERROR;
    reply.error = &w.error;
    ssize_t n = vb_encode(&reply.base, buf, sizeof buf);
    if (n > 0)
        vb_packet_send(fd, buf, (size_t)n, NULL, 0, MSG_DONTWAIT); /* a client that does not read is not waited for */
    vb_close_client(fd);
}
