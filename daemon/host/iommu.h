/* Opening /dev/iommu for a session, with what only a privileged opener can set. */
#ifndef VB_HOST_IOMMU_H
#define VB_HOST_IOMMU_H

#include <stdbool.h>

/* A fresh iommufd context that charges the memory it pins to the process that maps (mm->locked_vm, against its own
 * RLIMIT_MEMLOCK), not to its uid. `dev` is "/dev". Fd, close-on-exec, or a negative errno. */
int vb_iommu_open(const char *dev);
/* Is this fd an iommufd of this machine? */
bool vb_iommu_is(const char *dev, int fd);

#endif
