/* The type1 backend: VFIO containers (/dev/vfio/vfio, drivers/vfio/vfio_iommu_type1.c), for kernels without iommufd, and the
 * iommufd compatibility container (drivers/iommu/iommufd/vfio_compat.c), which is an iommufd used as one.
 *
 *   group      its fd is the daemon's to open, and stays with us. From the claim of its first device on it is in a container
 *   container  a domain. By default each group has one of its own, since a group cannot move while one of its devices is open
 *              (VFIO_GROUP_UNSET_CONTAINER: EBUSY); a device that is claimed for the same space as another shares its container
 *   memory     one shared mapping of the file in our address space; MAP_DMA pins by address, anew for each mapping
 *   device     a fd by VFIO_GROUP_GET_DEVICE_FD; the client has a dup
 *
 * An unattached group's container is empty. The kernel drops all mappings when the last group leaves a container; the model
 * replays. Kernel facts were read in Linux 6.1 and 7.3 and are named where they are used. */
#ifndef VB_BACKEND_TYPE1_H
#define VB_BACKEND_TYPE1_H

#include "core/backend.h"

int vb_type1_new(struct vb_backend **ret, struct vb_error *e);

/* What a dead session left: take_over() empties all containers given so, devices_left() counts the groups of which somebody has
 * a device open. fds are consumed in every case. */
int vb_type1_hold_group(struct vb_backend *b, uint32_t group, int group_fd, int container_fd, struct vb_error *e);
/* Calls fn for each group that is in use, until it returns nonzero; returns that, or 0. fds stay the backend's. */
int vb_type1_each_group(struct vb_backend *b, int (*fn)(void *arg, uint32_t group, int group_fd, int container_fd),
                        void *arg);

#endif
