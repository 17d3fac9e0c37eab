/* What the host has, and whether a client could use it as it is now. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/log.h"
#include "broker/register-private.h"

#define EMULATED "emulated:"

static int read_emulated(struct vb_register *r, const char *address, struct vb_host_device *ret) {
    const char *digits = address + strlen(EMULATED);
    char *end;

    if (strncmp(address, EMULATED, strlen(EMULATED)) != 0 || *digits < '0' || *digits > '9')
        return -ENODEV;
    unsigned long n = strtoul(digits, &end, 10);
    if (*end || n >= r->emulated || (digits[0] == '0' && digits[1]))
        return -ENODEV;
    *ret = (struct vb_host_device){.group = (int)n, .driver = "emulated"};
    snprintf(ret->address, sizeof ret->address, "%s", address);
    return 0;
}

int vb_register_read(struct vb_register *r, const char *address, struct vb_host_device *ret, struct vb_error *e) {
    int n = r->emulated ? read_emulated(r, address, ret) : vb_host_device_read(r->sys, address, ret);
    char clean[VB_ADDRESS_MAX + 1];

    if (n == -ENODEV)
        return vb_refuse(e, VB_NOT_FOUND, "there is no device %s", vb_log_clean(address, clean, sizeof clean));
    if (n < 0)
        return vb_fail(e, n, "cannot look at device %s", address);
    return 0;
}

struct group_check {
    struct vb_register *r;
    const char *address;
    int group;
    struct vb_error *e;
};

static int check_neighbour(const char *address, void *data) {
    const struct group_check *g = data;
    char clean[VB_ADDRESS_MAX + 1], bind[VB_ADDRESS_MAX + 32] = "";
    struct vb_host_device p;

    if (strcmp(address, g->address) == 0 || vb_group_member_read(g->r->sys, g->group, address, &p) < 0 ||
        vb_driver_harmless(&p))
        return 0;
    vb_log_clean(address, clean, sizeof clean);
    if (vb_address_valid(address))
        snprintf(bind, sizeof bind, "run `vfio-brokerctl bind %s`, or ", clean);
    return vb_refuse(g->e, VB_STATE,
                     "device %s cannot be used: %s of the same IOMMU group %d is on the host's driver %s: %sunbind it",
                     g->address, clean, g->group, p.driver, bind);
}

/* Has the kernel what it takes to open it? */
static int check_node(struct vb_register *r, const struct vb_host_device *p, struct vb_error *e) {
    if (r->type1 && !p->group_rdev)
        return vb_refuse(e, VB_STATE,
                         "device %s cannot be opened: its group %d has no node /dev/vfio/%d: the kernel needs "
                         "CONFIG_VFIO_GROUP, or run the daemon with --backend=iommufd",
                         p->address, p->group, p->group);
    if (!r->type1 && (!p->vfio[0] || !p->rdev))
        return vb_refuse(e, VB_STATE,
                         "device %s has no character device: the kernel needs CONFIG_VFIO_DEVICE_CDEV (Linux 6.6), or "
                         "run the daemon with --backend=type1",
                         p->address);
    return 0;
}

int vb_register_usable(struct vb_register *r, const struct vb_host_device *p, struct vb_error *e) {
    if (r->emulated)
        return 0;
    if (p->group < 0)
        return vb_refuse(e, VB_STATE,
                         "device %s is in no IOMMU group: this machine has no IOMMU for it, or it is switched off "
                         "(firmware, intel_iommu=on)",
                         p->address);
    if (p->noiommu)
        return vb_refuse(
            e, VB_STATE,
            "device %s is in a no-IOMMU group: nothing translates or checks its DMA, which would reach all "
            "memory of this machine, so it is never handed out: switch an IOMMU on (firmware, intel_iommu=on)",
            p->address);
    if (!p->vfio[0] && strncmp(p->driver, "vfio", 4) != 0)
        return p->software
                   ? vb_refuse(e, VB_STATE, "mdev %s is on no driver of VFIO (but on %s): load the one of its kind",
                               p->address, p->driver[0] ? p->driver : "none")
                   : vb_refuse(e, VB_STATE,
                               "device %s is not bound to vfio-pci but to %s: run `vfio-brokerctl bind %s`", p->address,
                               p->driver[0] ? p->driver : "no driver", p->address);
    if (check_node(r, p, e) != 0)
        return VB_STATE;
    struct group_check g = {.r = r, .address = p->address, .group = p->group, .e = e};
    return vb_group_each(r->sys, p->group, check_neighbour, &g) > 0 ? VB_STATE : 0;
}

/* ---- all of them ---- */

struct each {
    struct vb_register *r;
    vb_address_fn fn;
    void *data;
};

static int if_vfio(const char *address, void *data) {
    const struct each *e = data;
    struct vb_host_device p;

    if (vb_host_device_read(e->r->sys, address, &p) < 0 || (!p.vfio[0] && strncmp(p.driver, "vfio", 4) != 0))
        return 0;
    return e->fn(address, e->data);
}

int vb_register_each(struct vb_register *r, vb_address_fn fn, void *data) {
    struct each e = {.r = r, .fn = fn, .data = data};
    char address[VB_ADDRESS_MAX + 1];
    int n = 0;

    if (!r->emulated)
        return vb_host_device_each(r->sys, if_vfio, &e);
    for (unsigned i = 0; i < r->emulated && n == 0; i++) {
        snprintf(address, sizeof address, EMULATED "%u", i);
        n = fn(address, data);
    }
    return n;
}
