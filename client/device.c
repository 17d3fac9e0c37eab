/* Devices: claiming, binding, attaching, and giving back. */
#include "config.h"

#include "client/client-private.h"

static int take_device(struct vbc_call *call, const VfioBroker__Reply *reply, struct vb_packet *p) {
    *(struct vfb_device *)call->out =
        (struct vfb_device){.id = reply->device_claim->device, .fd = vb_packet_steal_fd(p, 0)};
    return 0;
}

int vfb_device_claim(struct vfb_client *c, const char *address, struct vfb_device *ret_device) {
    VfioBroker__DeviceClaim m = VFIO_BROKER__DEVICE_CLAIM__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;
    int r;

    if (!address)
        address = "";
    r = vbc_check_name(c, "device's address", address, VB_ADDRESS_MAX);
    if (r != 0)
        return r;
    m.address = (char *)address;
    req.body_case = VFIO_BROKER__REQUEST__BODY_DEVICE_CLAIM;
    req.device_claim = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_DEVICE_CLAIM, take_device, ret_device, 1);
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
