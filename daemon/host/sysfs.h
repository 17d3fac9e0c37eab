/* PCI devices, their drivers and IOMMU groups as sysfs shows them. `sys` is "/sys", or a directory that looks like it.
 *
 * Only reads. An address is "0000:00:04.0": lower-case hexadecimal, so that it can stand in a path. */
#ifndef VB_HOST_SYSFS_H
#define VB_HOST_SYSFS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/backend-types.h"

struct vb_pci {
    char address[VB_ADDRESS_MAX + 1];
    char driver[32]; /* "" when none */
    uint32_t vendor, device, pci_class;
    int group;     /* IOMMU group, -1 when none */
    bool noiommu;  /* the group is a make-believe one without translation */
    char vfio[16]; /* "vfio3": name of its character device; "" when none */
    dev_t rdev;    /* of that character device */
};

/* Is this text a PCI address in its canonical form? */
bool vb_pci_address_valid(const char *address);
/* 0; -ENODEV: no such device; or another negative errno. */
int vb_pci_read(const char *sys, const char *address, struct vb_pci *ret);
/* Would VFIO accept this driver in the group of an assigned device? (drivers with driver_managed_dma in the kernel) */
bool vb_pci_driver_harmless(const struct vb_pci *p);
/* Calls fn with the address of each device of a group, or of each PCI device, until it returns nonzero; returns that,
 * 0, or a negative errno. */
typedef int (*vb_pci_fn)(const char *address, void *data);
int vb_pci_each_in_group(const char *sys, int group, vb_pci_fn fn, void *data);
int vb_pci_each(const char *sys, vb_pci_fn fn, void *data);
/* Parses /sys/kernel/iommu_groups/N/reserved_regions, without the relaxable ones, which neither VFIO nor iommufd
 * reserve. 0, -E2BIG when there are more than `max`, -EBADMSG, or another negative errno. */
int vb_group_reserved(const char *sys, int group, struct vb_reserved *ret, uint32_t max, uint32_t *ret_n);

#endif
