/* Binding and unbinding one PCI device, with a deadline.
 *
 * A write to a driver's `unbind` waits for ever while somebody has the device open, and cannot be interrupted
 * (drivers/vfio/vfio_main.c, vfio_unregister_group_dev()). So a forked child makes the writes and tells each step; the
 * parent shows progress and gives up at the deadline. The child then ends by itself once the kernel lets it go, and does
 * not begin another step: what was asked for but not done is asked for again. */
#ifndef CTL_BIND_JOB_H
#define CTL_BIND_JOB_H

#include <stdbool.h>

#include "client/ctl/pci.h"

struct bind_job {
    const char *sysfs;
    char address[PCI_ADDRESS_SIZE];
    bool bind;         /* to vfio-pci; else back to the host */
    unsigned deadline; /* seconds */
};

struct bind_result {
    bool ok;
    char driver[PCI_NAME_SIZE]; /* afterwards */
    char text[512];             /* what was done, or why not and what to do */
};

void bind_job_run(const struct bind_job *job, struct bind_result *ret);

#endif
