/* A PCI device in sysfs: what `bind` and `unbind` read and write. `sysfs` is "/sys", or a copy of it in tests. */
#ifndef CTL_PCI_H
#define CTL_PCI_H

#include <stdbool.h>
#include <stddef.h>

#include "client/ctl/grid.h"

#define PCI_SYSFS        "/sys"
#define PCI_ADDRESS_SIZE 17 /* "10000:00:04.0" and more: up to 8 digits of domain, and the final 0 */
#define PCI_NAME_SIZE    64 /* a driver's name */

/* Strictly domain:bus:device.function in hexadecimal digits, as `lspci -D` prints it; the copy is in small letters, as
 * sysfs has it. Nothing else gets into a path. */
bool pci_address_parse(const char *text, char ret_address[PCI_ADDRESS_SIZE]);

bool pci_exists(const char *sysfs, const char *address);
/* "" when there is none. 0 or negative errno. */
int pci_driver(const char *sysfs, const char *address, char ret_driver[PCI_NAME_SIZE]);
/* A driver is still being taken from the device: its `driver` link goes first, its uevent tells it to the end. May wait
 * for the device's lock, as long as the taking lasts. */
bool pci_unbinding(const char *sysfs, const char *address);
/* IOMMU group; -1: none. */
int pci_group(const char *sysfs, const char *address);
bool pci_vfio_loaded(const char *sysfs);

/* The steps. Each is one write; 0 or negative errno. `driver` "" clears the override. */
int pci_override(const char *sysfs, const char *address, const char *driver);
/* Waits while somebody has the device open, for ever if need be. */
int pci_unbind(const char *sysfs, const char *address, const char *driver);
int pci_probe(const char *sysfs, const char *address);

/* Devices of the same IOMMU group that a host driver has, which keeps the whole group from being claimed: says so. */
void pci_warn_group(const char *sysfs, const char *address);

#endif
