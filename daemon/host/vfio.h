/* Opening what type1 needs: the node of a group, and a container; and telling what a fd is. `dev` is "/dev".
 *
 * The kernel lets one open file description of a group exist (drivers/vfio/group.c), and an open device of the group keeps it
 * alive: who has just opened it knows that nobody else reaches the group or any of its devices. */
#ifndef VB_HOST_VFIO_H
#define VB_HOST_VFIO_H

#include <stdbool.h>
#include <sys/types.h>

/* /dev/vfio/N, which must have this device number. The no-IOMMU nodes have other names. Fd, close-on-exec; -EBUSY: somebody has it
 * open, or a device of the group; -ENXIO: it is another node; or another negative errno. */
int vb_vfio_group_open(const char *dev, int group, dev_t rdev);
/* A fresh container: /dev/vfio/vfio, or (iommufd) a fresh iommufd that is used as one. */
int vb_vfio_container_open(const char *dev, bool iommufd);
/* Is this fd such a container of this machine? */
bool vb_vfio_container_is(const char *dev, bool iommufd, int fd);
/* Is this fd an open character device with this number, or that of the node at `path`? No file system is asked. */
bool vb_fd_is_rdev(int fd, dev_t rdev);
bool vb_fd_is_node(int fd, const char *path);
/* Can devices be opened without their groups on this kernel (CONFIG_VFIO_DEVICE_CDEV)? Also "yes" when VFIO is not loaded. */
bool vb_vfio_has_cdevs(const char *proc);
/* Do these two fds share one open file description? "No" where the kernel does not tell (CONFIG_KCMP). */
bool vb_fd_same(int a, int b);

#endif
