/* By what devices are reached: the backend of all sessions of this daemon. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "broker/broker.h"
#include "host/iommu.h"
#include "host/vfio.h"
#include "proto/cleanup.h"

const char *vb_backend_name(const struct vb_broker *b) {
    return b->backend == VB_BACKEND_IOMMUFD ? "iommufd" : vb_backend_type1(b) ? "type1" : "emulated";
}

const char *vb_backend_text(const struct vb_broker *b) {
    return b->backend == VB_BACKEND_TYPE1_COMPAT ? "type1 (iommufd containers)" : vb_backend_name(b);
}

bool vb_backend_pins(const struct vb_broker *b) {
    return b->backend != VB_BACKEND_EMULATED;
}

bool vb_backend_type1(const struct vb_broker *b) {
    return b->backend == VB_BACKEND_TYPE1 || b->backend == VB_BACKEND_TYPE1_COMPAT;
}

/* 0, or the negative errno with which it cannot be opened. */
static int try_container(const struct vb_options *o, bool iommufd) {
    VB_FD int fd = vb_vfio_container_open(o->dev, iommufd);

    return fd < 0 ? fd : 0;
}

/* The first that this kernel has: newer before older. */
static int choose_auto(const struct vb_options *o, enum vb_backend_choice *ret) {
    int iommufd = try_container(o, true);

    if (iommufd == 0 && vb_vfio_has_cdevs(o->proc)) {
        *ret = VB_BACKEND_IOMMUFD;
        return 0;
    }
    int type1 = try_container(o, false);
    if (type1 == 0)
        *ret = VB_BACKEND_TYPE1;
    else if (iommufd == 0)
        *ret = VB_BACKEND_TYPE1_COMPAT;
    else
        vb_log(LOG_ERR,
               "cannot use %s/iommu (%s) nor %s/vfio/vfio (%s): the kernel needs CONFIG_VFIO with CONFIG_IOMMUFD or "
               "CONFIG_VFIO_IOMMU_TYPE1 (modprobe iommufd vfio-pci). For development without hardware: "
               "--backend=emulated",
               o->dev, strerror(-iommufd), o->dev, strerror(-type1));
    return type1 == 0 || iommufd == 0 ? 0 : type1;
}

static int check_wanted(const struct vb_options *o, enum vb_backend_choice choice) {
    bool iommufd = choice != VB_BACKEND_TYPE1;
    int r = try_container(o, iommufd);

    if (r == 0)
        return 0;
    vb_log(LOG_ERR, "cannot use %s/%s: %s; %s. For development without hardware: --backend=emulated", o->dev,
           iommufd ? "iommu" : "vfio/vfio", strerror(-r),
           iommufd ? "the kernel needs CONFIG_IOMMUFD (modprobe iommufd), or try --backend=type1"
                   : "the kernel needs CONFIG_VFIO_CONTAINER (modprobe vfio-pci)");
    return r;
}

int vb_backend_choose(struct vb_broker *b) {
    const struct vb_options *o = &b->options;
    enum vb_backend_choice choice = o->backend;
    int r = 0;

    if (o->uid_count == 0) {
        if (choice != VB_BACKEND_AUTO && choice != VB_BACKEND_EMULATED) {
            vb_log(LOG_ERR, "--session-uids=none is for development and goes with the emulated backend only");
            return -EPERM;
        }
        choice = VB_BACKEND_EMULATED;
        vb_log(LOG_WARNING,
               "DEVELOPMENT: sessions run under uid %u, our own: they are not separated from each other nor from us",
               getuid());
    } else if (geteuid() != 0) {
        vb_log(LOG_ERR, "not root: sessions cannot get uids of their own; for development use --session-uids=none");
        return -EPERM;
    }
    if (choice == VB_BACKEND_AUTO)
        r = choose_auto(o, &choice);
    else if (choice != VB_BACKEND_EMULATED)
        r = check_wanted(o, choice);
    if (r < 0)
        return r;
    b->backend = choice;
    b->devices.emulated = choice == VB_BACKEND_EMULATED ? o->emulated_devices : 0;
    b->devices.type1 = vb_backend_type1(b);
    b->devices.iommufd_containers = choice == VB_BACKEND_TYPE1_COMPAT;
    return 0;
}
