#include "host/vfio.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "host/files.h"
#include "host/iommu.h"
#include "proto/cleanup.h"

int vb_vfio_group_open(const char *dev, int group, dev_t rdev) {
    char path[PATH_MAX];

    if (!vb_path(path, sizeof path, "%s/vfio/%d", dev, group))
        return -ENAMETOOLONG;
    VB_FD int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    return vb_fd_is_rdev(fd, rdev) ? vb_steal_fd(&fd) : -ENXIO;
}

int vb_vfio_container_open(const char *dev, bool iommufd) {
    char path[PATH_MAX];

    if (iommufd)
        return vb_iommu_open(dev);
    if (!vb_path(path, sizeof path, "%s/vfio/vfio", dev))
        return -ENAMETOOLONG;
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

bool vb_vfio_container_is(const char *dev, bool iommufd, int fd) {
    char path[PATH_MAX];

    return vb_path(path, sizeof path, iommufd ? "%s/iommu" : "%s/vfio/vfio", dev) && vb_fd_is_node(fd, path);
}

/* statx with AT_STATX_DONT_SYNC asks no file system: the fd may be a FUSE file whose server does not answer. An O_PATH fd
 * has a device number too, but is good for nothing. */
bool vb_fd_is_rdev(int fd, dev_t rdev) {
    struct statx st;
    int flags = fcntl(fd, F_GETFL);

    return rdev != 0 && flags >= 0 && !(flags & O_PATH) &&
           statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) == 0 && S_ISCHR(st.stx_mode) &&
           makedev(st.stx_rdev_major, st.stx_rdev_minor) == rdev;
}

bool vb_fd_is_node(int fd, const char *path) {
    struct stat node;

    return stat(path, &node) == 0 && S_ISCHR(node.st_mode) && vb_fd_is_rdev(fd, node.st_rdev);
}

/* "vfio" is the number of groups, "vfio-dev" that of devices (drivers/vfio/group.c, device_cdev.c). */
bool vb_vfio_has_cdevs(const char *proc) {
    char path[PATH_MAX], text[8192];

    if (!vb_path(path, sizeof path, "%s/devices", proc) || vb_file_read(path, text, sizeof text) < 0)
        return true;
    return strstr(text, " vfio-dev\n") || !strstr(text, " vfio\n");
}

bool vb_fd_same(int a, int b) {
    return syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, (unsigned long)a, (unsigned long)b) == 0;
}
