/* Who has a device open: processes that /proc shows with its VFIO node or device file. */
#ifndef CTL_HOLDERS_H
#define CTL_HOLDERS_H

#include <stddef.h>
#include <sys/types.h>

#define HOLDERS_NODES 4 /* a cdev and a group node, and room */

struct holders {
    const char *address;
    dev_t nodes[HOLDERS_NODES];
    unsigned n_nodes;
};

/* To be done before the device is taken from vfio-pci: that begins with removing the nodes from sysfs. */
void holders_prepare(struct holders *h, const char *sysfs, const char *address);
/* "pid 812 (qemu), pid 900 (spdk_tgt)", or "" when nobody is seen (only root sees other users' processes). */
void holders_find(const struct holders *h, char *ret_text, size_t size);

#endif
