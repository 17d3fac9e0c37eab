/* Requests about devices. The daemon decides who may have which device and opens its node; everything after that is ours. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

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

static int open_by_daemon(struct vb_session *s, const char *address, struct vb_reserved *reserved, size_t *ret_n,
                          uint32_t *ret_group, int *ret_fd, struct vb_error *e) {
    VfioBrokerInternal__DeviceOpen body = VFIO_BROKER_INTERNAL__DEVICE_OPEN__INIT;
    VfioBrokerInternal__Call call = VFIO_BROKER_INTERNAL__CALL__INIT;
    VfioBrokerInternal__Answer *answer;

    body.address = (char *)address;
    call.body_case = VFIO_BROKER_INTERNAL__CALL__BODY_DEVICE_OPEN;
    call.device_open = &body;
    int r = vb_control_call(s, &call, &answer, ret_fd, e);
    if (r == -ETIMEDOUT) /* it may have been granted to us since */
        vb_control_device_free(s, address);
    if (r != 0)
        return r;
    if (answer->body_case != VFIO_BROKER_INTERNAL__ANSWER__BODY_DEVICE_OPEN)
        return vb_fail(e, -EPROTO, "vfio-brokerd answered something else than a device");
    const VfioBrokerInternal__DeviceOpened *m = answer->device_open;
    size_t n = m->n_reserved < VB_REGIONS_MAX ? m->n_reserved : VB_REGIONS_MAX;
    for (size_t i = 0; i < n; i++)
        reserved[i] =
            (struct vb_reserved){{m->reserved[i]->first, m->reserved[i]->last}, reserved_kind(m->reserved[i]->kind)};
    *ret_n = n;
    *ret_group = m->group;
    return 0;
}

int vb_op_device_claim(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    const char *address = rq->msg->device_claim->address;
    struct vb_reserved reserved[VB_REGIONS_MAX];
    struct vb_device *device;
    size_t n = 0;
    uint32_t group = 0;
    int fd = -1, client_fd = -1;

    if (address[0] == 0 || strlen(address) > VB_ADDRESS_MAX)
        return vb_refuse(e, VB_INVALID, "a device address has 1 to %u characters, such as 0000:00:04.0",
                         VB_ADDRESS_MAX);
    if (s->model->devices.n + s->n_held >= VB_DEVICES_MAX) {
        vb_error_limit(e, 1, s->model->devices.n + s->n_held, VB_DEVICES_MAX, "devices of a session");
        return vb_refuse(e, VB_LIMIT, "a session has at most %u devices, those included that somebody still has open",
                         VB_DEVICES_MAX);
    }
    VfioBroker__DeviceClaimReply *m = VB_NEW(s, VfioBroker__DeviceClaimReply, VFIO_BROKER__DEVICE_CLAIM_REPLY__INIT, e);
    if (!m)
        return e->code;
    int r = open_by_daemon(s, address, reserved, &n, &group, &fd, e);
    if (r != 0)
        return r;
    r = vb_model_claim(s->model, address, group, reserved, n, fd, &device, &client_fd, e);
    if (r != 0) {
        give_back(s, address);
        return r;
    }
    r = vb_watch_device(s, device->handle);
    if (r != 0) {
        vb_handle handle;

        close(client_fd);
        if (vb_model_release(s->model, device->id, &handle, e) == 0)
            vb_held_add(s, address, handle);
        return vb_fail(e, r, "device %s", address);
    }
    m->device = device->id;
    rq->reply.body_case = VFIO_BROKER__REPLY__BODY_DEVICE_CLAIM;
    rq->reply.device_claim = m;
    rq->reply_fd = client_fd;
    return 0;
}

int vb_op_device_bind(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    return vb_model_bind(s->model, rq->msg->device_bind->device, e);
}

int vb_op_device_attach(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    return vb_model_attach(s->model, rq->msg->device_attach->device, rq->msg->device_attach->space, e);
}

int vb_op_device_detach(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    return vb_model_detach(s->model, rq->msg->device_detach->device, e);
}

int vb_op_device_release(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    struct vb_device *d = vb_model_device(s->model, rq->msg->device_release->device, e);
    char address[VB_ADDRESS_MAX + 1];
    vb_handle handle;

    if (!d)
        return e->code;
    memcpy(address, d->address, sizeof address);
    int r = vb_model_release(s->model, d->id, &handle, e);
    if (r == 0)
        vb_held_add(s, address, handle);
    return r;
}
