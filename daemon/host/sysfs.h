/* Devices, their drivers and IOMMU groups as sysfs shows them. `sys` is "/sys", or a directory that looks like it.
 *
 * Only reads. An address names a device on its bus: "0000:00:04.0" on PCI, a UUID for an mdev. It is canonical, in
 * lower-case hexadecimal, so that it can stand in a path. */
#ifndef VB_HOST_SYSFS_H
#define VB_HOST_SYSFS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/backend-types.h"

struct vb_host_device {
    char address[VB_ADDRESS_MAX + 1];
    char driver[32];                    /* "" when none */
    uint32_t vendor, device, pci_class; /* 0 when it is not on PCI */
    int group;                          /* IOMMU group, -1 when none */
    bool noiommu;                       /* the group is a make-believe one without translation */
    bool software;                      /* an mdev: no DMA of its own. Its group is make-believe too, and harmless */
    char vfio[16];                      /* "vfio3": the VFIO device; "" when no driver of that family has it */
    dev_t rdev;                         /* of its character device; 0 when it has none */
    dev_t group_rdev;                   /* of the group's, /dev/vfio/N; 0 when it has none */
};

/* Is this text an address in its canonical form, of any bus that we know? */
bool vb_address_valid(const char *address);
/* 0; -ENODEV: no such device; or another negative errno. */
int vb_host_device_read(const char *sys, const char *address, struct vb_host_device *ret);
/* The same for a member of a group, which may be on any bus: `name` as in the group's devices/. */
int vb_group_member_read(const char *sys, int group, const char *name, struct vb_host_device *ret);
/* Would VFIO accept this driver in the group of an assigned device? (drivers with driver_managed_dma in the kernel) */
bool vb_driver_harmless(const struct vb_host_device *p);
/* Calls fn with the name of each device of a group, or with the address of each device of the buses that we know, until it
 * returns nonzero; returns that, 0, or a negative errno. */
typedef int (*vb_address_fn)(const char *address, void *data);
int vb_group_each(const char *sys, int group, vb_address_fn fn, void *data);
int vb_host_device_each(const char *sys, vb_address_fn fn, void *data);
/* Device number of the node of a group, from /sys/class/vfio: 0 when it has none. */
dev_t vb_group_rdev(const char *sys, int group);
/* Parses /sys/kernel/iommu_groups/N/reserved_regions, without the relaxable ones, which neither VFIO nor iommufd
 * reserve. 0, -E2BIG when there are more than `max`, -EBADMSG, or another negative errno. */
int vb_group_reserved(const char *sys, int group, struct vb_reserved *ret, uint32_t max, uint32_t *ret_n);

#endif
