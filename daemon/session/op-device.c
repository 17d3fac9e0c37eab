/* Requests about devices. The daemon decides who may have which device and opens its node; everything after that is ours. */
#include <errno.h>
#include <string.h>

#include "proto/cleanup.h"
#include "session/dispatch.h"

/* Kinds are static strings in the model; the daemon's words are matched to ours. */
static const char *reserved_kind(const char *kind) {
    static const char *const known[] = {"msi", "direct", "direct-relaxable", "reserved"};

    for (unsigned i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(kind, known[i]) == 0)
            return known[i];
    return "reserved";
}

static void give_back(struct vb_session *s, const char *address) {
    VfioBrokerInternal__DeviceClose body = VFIO_BROKER_INTERNAL__DEVICE_CLOSE__INIT;
    VfioBrokerInternal__Call call = VFIO_BROKER_INTERNAL__CALL__INIT;
    VfioBrokerInternal__Answer *answer;
    struct vb_error ignored;

    memset(&ignored, 0, sizeof ignored);
    body.address = (char *)address;
    call.body_case = VFIO_BROKER_INTERNAL__CALL__BODY_DEVICE_CLOSE;
    call.device_close = &body;
    vb_control_call(s, &call, &answer, NULL, &ignored);
}

/* Fills in of the claim what the daemon knows and opens. `reserved` has room for VB_REGIONS_MAX. */
static int open_by_daemon(struct vb_session *s, struct vb_claim_desc *c, struct vb_reserved *reserved,
                          struct vb_error *e) {
    VfioBrokerInternal__DeviceOpen body = VFIO_BROKER_INTERNAL__DEVICE_OPEN__INIT;
    VfioBrokerInternal__Call call = VFIO_BROKER_INTERNAL__CALL__INIT;
    const struct vb_device *with = c->space ? vb_model_shares(s->model, c->space) : NULL;
    VfioBrokerInternal__Answer *answer;

    body.address = (char *)c->address;
    if (with)
        body.with = (char *)with->address;
    call.body_case = VFIO_BROKER_INTERNAL__CALL__BODY_DEVICE_OPEN;
    call.device_open = &body;
    int r = vb_control_call(s, &call, &answer, c->fds, e);
    if (r == -ETIMEDOUT) /* it may have been granted to us since */
        vb_control_device_free(s, c->address);
    if (r != 0)
        return r;
    if (answer->body_case != VFIO_BROKER_INTERNAL__ANSWER__BODY_DEVICE_OPEN) {
        vb_close_p(&c->fds[0]);
        vb_close_p(&c->fds[1]);
        return vb_fail(e, -EPROTO, "vfio-brokerd answered something else than a device");
    }
    const VfioBrokerInternal__DeviceOpened *m = answer->device_open;
    size_t n = m->n_reserved < VB_REGIONS_MAX ? m->n_reserved : VB_REGIONS_MAX;
    for (size_t i = 0; i < n; i++)
        reserved[i] =
            (struct vb_reserved){{m->reserved[i]->first, m->reserved[i]->last}, reserved_kind(m->reserved[i]->kind)};
    c->reserved = reserved;
    c->n_reserved = n;
    c->group = m->group;
    c->software = m->software;
    return 0;
}

static int check_claim(struct vb_session *s, const VfioBroker__DeviceClaim *q, struct vb_error *e) {
    if (q->address[0] == 0 || strlen(q->address) > VB_ADDRESS_MAX)
        return vb_refuse(e, VB_INVALID, "a device address has 1 to %u characters, such as 0000:00:04.0",
                         VB_ADDRESS_MAX);
    if (q->space && !vb_model_space(s->model, q->space, e))
        return e->code;
    if (s->model->devices.n + s->n_held >= VB_DEVICES_MAX) {
        vb_error_limit(e, 1, s->model->devices.n + s->n_held, VB_DEVICES_MAX, "devices of a session");
        return vb_refuse(e, VB_LIMIT, "a session has at most %u devices, those included that somebody still has open",
                         VB_DEVICES_MAX);
    }
    return 0;
}

static int release(struct vb_session *s, const struct vb_device *d, struct vb_error *e) {
    char address[VB_ADDRESS_MAX + 1];
    vb_handle handle;
    bool software;

    memcpy(address, d->address, sizeof address);
    handle = d->handle;
    vb_unwatch_device(s, handle); /* before its fd is closed: another fd may get the number */
    int r = vb_model_release(s->model, d->id, &handle, &software, e);
    vb_watch_device(s, handle); /* if there is a fd still (emulated) */
    if (r == 0)
        vb_held_add(s, address, handle, software);
    return r;
}

int vb_op_device_claim(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    const VfioBroker__DeviceClaim *q = rq->msg->device_claim;
    struct vb_claim_desc claim = {.address = q->address, .fds = {-1, -1}, .space = q->space};
    struct vb_reserved reserved[VB_REGIONS_MAX];
    struct vb_device *device;
    VB_FD int client_fd = -1;

    int r = check_claim(s, q, e);
    if (r != 0)
        return r;
    VfioBroker__DeviceClaimReply *m = VB_NEW(s, VfioBroker__DeviceClaimReply, VFIO_BROKER__DEVICE_CLAIM_REPLY__INIT, e);
    if (!m)
        return e->code;
    r = open_by_daemon(s, &claim, reserved, e);
    if (r != 0)
        return r;
    r = vb_model_claim(s->model, &claim, &device, &client_fd, e);
    if (r != 0) {
        give_back(s, q->address);
        return r;
    }
    r = vb_watch_device(s, device->handle);
    if (r != 0) {
        release(s, device, e);
        return vb_fail(e, r, "device %s", q->address);
    }
    m->device = device->id;
    rq->reply.body_case = VFIO_BROKER__REPLY__BODY_DEVICE_CLAIM;
    rq->reply.device_claim = m;
    rq->reply_fd = vb_steal_fd(&client_fd);
    return 0;
}

int vb_op_device_bind(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    const uint32_t id = rq->msg->device_bind->device;
    struct vb_device *d;
    int r = vb_model_bind(s->model, id, e);

    if (r != 0)
        return r;
    /* What tells of the host's wishes is there from now on (backend/request-event.c); an emulated device had it before. */
    d = vb_model_device(s->model, id, e);
    vb_unwatch_device(s, d->handle);
    if (vb_watch_device(s, d->handle) < 0)
        vb_session_log(s, "no memory to watch %s: its client is not told when the host wants it back", d->address);
    return 0;
}

int vb_op_device_attach(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    const VfioBroker__DeviceAttach *q = rq->msg->device_attach;
    VfioBroker__DeviceAttachReply *m =
        VB_NEW(s, VfioBroker__DeviceAttachReply, VFIO_BROKER__DEVICE_ATTACH_REPLY__INIT, e);
    struct vb_attached attached = {.left_out = 0};
    struct vb_progress progress;

    if (!m)
        return e->code;
    if (q->leave_out) { /* in the arena: the reply refers to it */
        attached.conflicts = vb_arena_alloc(&s->client.arena, sizeof *attached.conflicts);
        if (!attached.conflicts)
            return vb_fail(e, -ENOMEM, "the reply does not fit");
    }
    vb_progress_begin(&progress, s);
    int r = vb_model_attach(s->model, q->device, q->space, q->leave_out, &attached, e);
    vb_progress_end(&progress);
    if (r != 0)
        return r;
    vb_lease_used(s); /* a further domain is paid anew where pins are not shared */
    if (!q->leave_out)
        return 0;
    m->left_out = attached.left_out;
    m->conflicts = vb_conflict_messages(&s->client.arena, attached.conflicts, &m->n_conflicts);
    rq->reply.body_case = VFIO_BROKER__REPLY__BODY_DEVICE_ATTACH;
    rq->reply.device_attach = m;
    return 0;
}

int vb_op_device_detach(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    return vb_model_detach(s->model, rq->msg->device_detach->device, e);
}

int vb_op_device_release(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    const struct vb_device *d = vb_model_device(s->model, rq->msg->device_release->device, e);

    return d ? release(s, d, e) : e->code;
}
