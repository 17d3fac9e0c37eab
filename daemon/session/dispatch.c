/* The table of requests. A row says how many fds a request brings and whether it may come before Hello; everything a row
 * can check is checked here, the rest by the op and the model. */
#include "session/dispatch.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

struct row {
    const char *name;
    vb_op_fn run;
    unsigned fds; /* exactly */
    bool before_hello;
};

/* By field number of Request.body. */
static const struct row rows[] = {
    [VFIO_BROKER__REQUEST__BODY_HELLO] = {"Hello", vb_op_hello, 0, true},
    [VFIO_BROKER__REQUEST__BODY_MEMORY_REGISTER] = {"MemoryRegister", vb_op_memory_register, 1, false},
    [VFIO_BROKER__REQUEST__BODY_MEMORY_UNREGISTER] = {"MemoryUnregister", vb_op_memory_unregister, 0, false},
    [VFIO_BROKER__REQUEST__BODY_SPACE_CREATE] = {"SpaceCreate", vb_op_space_create, 0, false},
    [VFIO_BROKER__REQUEST__BODY_SPACE_DESTROY] = {"SpaceDestroy", vb_op_space_destroy, 0, false},
    [VFIO_BROKER__REQUEST__BODY_SPACE_DESCRIBE] = {"SpaceDescribe", vb_op_space_describe, 0, false},
    [VFIO_BROKER__REQUEST__BODY_MAP] = {"Map", vb_op_map, 0, false},
    [VFIO_BROKER__REQUEST__BODY_UNMAP] = {"Unmap", vb_op_unmap, 0, false},
    [VFIO_BROKER__REQUEST__BODY_DEVICE_CLAIM] = {"DeviceClaim", vb_op_device_claim, 0, false},
    [VFIO_BROKER__REQUEST__BODY_DEVICE_BIND] = {"DeviceBind", vb_op_device_bind, 0, false},
    [VFIO_BROKER__REQUEST__BODY_DEVICE_ATTACH] = {"DeviceAttach", vb_op_device_attach, 0, false},
    [VFIO_BROKER__REQUEST__BODY_DEVICE_DETACH] = {"DeviceDetach", vb_op_device_detach, 0, false},
    [VFIO_BROKER__REQUEST__BODY_DEVICE_RELEASE] = {"DeviceRelease", vb_op_device_release, 0, false},
    [VFIO_BROKER__REQUEST__BODY_INSPECT] = {"Inspect", vb_op_inspect, 0, false},
    [VFIO_BROKER__REQUEST__BODY_TOKEN_CREATE] = {"TokenCreate", vb_op_token_create, 0, false},
    [VFIO_BROKER__REQUEST__BODY_TOKEN_REVOKE] = {"TokenRevoke", vb_op_token_revoke, 0, false},
    [VFIO_BROKER__REQUEST__BODY_ACCESS_OPEN] = {"AccessOpen", vb_op_access_open, 0, false},
    [VFIO_BROKER__REQUEST__BODY_ACCESS_CLOSE] = {"AccessClose", vb_op_access_close, 0, false},
    [VFIO_BROKER__REQUEST__BODY_PIN] = {"Pin", vb_op_pin, 0, false},
    [VFIO_BROKER__REQUEST__BODY_UNPIN] = {"Unpin", vb_op_unpin, 0, false},
    [VFIO_BROKER__REQUEST__BODY_SPACE_NEED] = {"SpaceNeed", vb_op_space_need, 0, false},
    [VFIO_BROKER__REQUEST__BODY_DIRTY_SET] = {"DirtySet", vb_op_dirty_set, 0, false},
    [VFIO_BROKER__REQUEST__BODY_DIRTY_READ] = {"DirtyRead", vb_op_dirty_read, 1, false},
    [VFIO_BROKER__REQUEST__BODY_DISCARD] = {"Discard", vb_op_discard, 0, false},
    [VFIO_BROKER__REQUEST__BODY_DISCARD_END] = {"DiscardEnd", vb_op_discard_end, 0, false},
};
#define N_ROWS (sizeof rows / sizeof rows[0])

static int violation(struct vb_request *rq) {
    rq->fatal = true;
    return VB_PROTOCOL;
}

static int run(struct vb_session *s, struct vb_packet *p, struct vb_request *rq, struct vb_error *e) {
    const VfioBroker__Request *m = rq->msg;
    rq->packet = p;

    if (m->id == 0)
        return vb_refuse(e, violation(rq), "request id 0 is reserved for events");
    unsigned number = (unsigned)m->body_case;
    if (number >= N_ROWS || !rows[number].run) {
        /* A newer client: its request is a field we do not know. It may have brought fds; the caller closes them. */
        unsigned tag = m->base.n_unknown_fields ? m->base.unknown_fields[0].tag : 0;
        return vb_refuse(e, VB_UNSUPPORTED, "request type %u is unknown here: this broker speaks protocol version %u",
                         tag, VB_PROTOCOL_VERSION);
    }
    const struct row *row = &rows[number];
    if (!s->client.hello_done && !row->before_hello)
        return vb_refuse(e, violation(rq), "%s before Hello", row->name);
    if (p->n_fds != row->fds)
        return vb_refuse(e, violation(rq), "%s came with %u file descriptors, %u belong to it", row->name, p->n_fds,
                         row->fds);
    if (row->fds == 1)
        rq->fd = vb_packet_steal_fd(p, 0);
    return row->run(s, rq, e);
}

void vb_dispatch(struct vb_session *s, struct vb_packet *p, struct vb_request *rq, struct vb_error *e) {
    int r = run(s, p, rq, e);

    if (rq->fd >= 0)
        close(rq->fd);
    rq->fd = -1;
    if (r == 0)
        return;
    e->code = r;
    if (rq->reply_fd >= 0)
        close(rq->reply_fd);
    rq->reply_fd = -1;
    rq->reply.body_case = VFIO_BROKER__REPLY__BODY_ERROR;
    rq->reply.error = vb_error_message(&s->client.arena, e);
}

int vb_check_name(const char *what, const char *name, struct vb_error *e) {
    size_t n = strlen(name);

    if (n > VB_NAME_MAX)
        return vb_refuse(e, VB_INVALID, "the name of a %s has at most %u characters, this one %zu", what, VB_NAME_MAX,
                         n);
    for (size_t i = 0; i < n; i++)
        if (name[i] < 0x20 || name[i] > 0x7e)
            return vb_refuse(e, VB_INVALID, "the name of a %s is printable ASCII; byte %zu is 0x%02x", what, i,
                             (unsigned char)name[i]);
    return 0;
}
