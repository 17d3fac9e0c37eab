/* Devices: claiming, binding, attaching, and giving back. */
#include "config.h"

#include "client/client-private.h"

static int take_device(struct vbc_call *call, const VfioBroker__Reply *reply, struct vb_packet *p) {
    *(struct vfb_device *)call->out =
        (struct vfb_device){.id = reply->device_claim->device, .fd = vb_packet_steal_fd(p, 0)};
    return 0;
}

/* space: that it is meant for, or 0. */
static int claim(struct vfb_client *c, const char *address, uint32_t space, struct vfb_device *ret_device) {
    VfioBroker__DeviceClaim m = VFIO_BROKER__DEVICE_CLAIM__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;
    int r;

    if (!address)
        address = "";
    r = vbc_check_name(c, "device's address", address, VB_ADDRESS_MAX);
    if (r != 0)
        return r;
    m.address = (char *)address;
    m.space = space;
    req.body_case = VFIO_BROKER__REQUEST__BODY_DEVICE_CLAIM;
    req.device_claim = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_DEVICE_CLAIM, take_device, ret_device, 1);
}

int vfb_device_claim(struct vfb_client *c, const char *address, struct vfb_device *ret_device) {
    return claim(c, address, 0, ret_device);
}

int vfb_device_claim_for(struct vfb_client *c, const char *address, uint32_t space, struct vfb_device *ret_device) {
    int r = vbc_check_feature(c, VFB_FEATURE_DOMAINS, "a claim that is meant for a space");

    if (r != 0)
        return r;
    if (space == 0) /* on the wire: for none */
        return vbc_fail(c, VFB_NOT_FOUND, "there is no space 0");
    return claim(c, address, space, ret_device);
}

int vfb_device_bind(struct vfb_client *c, uint32_t device) {
    VfioBroker__DeviceBind m = VFIO_BROKER__DEVICE_BIND__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;

    m.device = device;
    req.body_case = VFIO_BROKER__REQUEST__BODY_DEVICE_BIND;
    req.device_bind = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_DONE, NULL, NULL, 0);
}

int vfb_device_attach(struct vfb_client *c, uint32_t device, uint32_t space) {
    VfioBroker__DeviceAttach m = VFIO_BROKER__DEVICE_ATTACH__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;

    m.device = device;
    m.space = space;
    req.body_case = VFIO_BROKER__REQUEST__BODY_DEVICE_ATTACH;
    req.device_attach = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_DONE, NULL, NULL, 0);
}

struct attached {
    uint64_t left_out;
    struct vbc_error list; /* its conflicts alone */
};

static int take_attached(struct vbc_call *call, const VfioBroker__Reply *reply, struct vb_packet *p) {
    const VfioBroker__DeviceAttachReply *m = reply->device_attach;
    struct attached *a = call->out;
    (void)p;

    a->left_out = m->left_out;
    vbc_error_conflicts(&a->list, m->conflicts, m->n_conflicts);
    return 0;
}

int vfb_device_attach_leaving_out(struct vfb_client *c, uint32_t device, uint32_t space, uint64_t *ret_left_out,
                                  struct vfb_conflict *conflicts, size_t max, size_t *ret_n) {
    VfioBroker__DeviceAttach m = VFIO_BROKER__DEVICE_ATTACH__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;
    struct attached a = {.left_out = 0}; /* not the client's: handlers that run meanwhile may attach as well */
    int r = vbc_check_feature(c, VFB_FEATURE_DOMAINS, "leaving mappings out");

    if (r != 0)
        return r;
    m.device = device;
    m.space = space;
    m.leave_out = 1;
    req.body_case = VFIO_BROKER__REQUEST__BODY_DEVICE_ATTACH;
    req.device_attach = &m;
    r = vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_DEVICE_ATTACH, take_attached, &a, 0);
    if (r != 0)
        return r;
    vbc_error_copy(&c->left_out, &a.list);
    size_t n = !conflicts ? 0 : max < c->left_out.pub.n_conflicts ? max : c->left_out.pub.n_conflicts;
    for (size_t i = 0; i < n; i++)
        conflicts[i] = c->left_out.conflicts[i];
    if (ret_left_out)
        *ret_left_out = a.left_out;
    if (ret_n)
        *ret_n = n;
    return 0;
}

int vfb_device_attach_async(struct vfb_client *c, uint32_t device, uint32_t space, vfb_done_fn done, void *arg) {
    VfioBroker__DeviceAttach m = VFIO_BROKER__DEVICE_ATTACH__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;

    m.device = device;
    m.space = space;
    req.body_case = VFIO_BROKER__REQUEST__BODY_DEVICE_ATTACH;
    req.device_attach = &m;
    return vbc_async(c, &req, VFIO_BROKER__REPLY__BODY_DONE, done, arg);
}

int vfb_device_detach(struct vfb_client *c, uint32_t device) {
    VfioBroker__DeviceDetach m = VFIO_BROKER__DEVICE_DETACH__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;

    m.device = device;
    req.body_case = VFIO_BROKER__REQUEST__BODY_DEVICE_DETACH;
    req.device_detach = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_DONE, NULL, NULL, 0);
}

int vfb_device_detach_async(struct vfb_client *c, uint32_t device, vfb_done_fn done, void *arg) {
    VfioBroker__DeviceDetach m = VFIO_BROKER__DEVICE_DETACH__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;

    m.device = device;
    req.body_case = VFIO_BROKER__REQUEST__BODY_DEVICE_DETACH;
    req.device_detach = &m;
    return vbc_async(c, &req, VFIO_BROKER__REPLY__BODY_DONE, done, arg);
}

int vfb_device_release(struct vfb_client *c, uint32_t device) {
    VfioBroker__DeviceRelease m = VFIO_BROKER__DEVICE_RELEASE__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;

    m.device = device;
    req.body_case = VFIO_BROKER__REQUEST__BODY_DEVICE_RELEASE;
    req.device_release = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_DONE, NULL, NULL, 0);
}
