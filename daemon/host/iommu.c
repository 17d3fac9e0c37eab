#include "host/iommu.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <sys/ioctl.h>

#include "host/files.h"
#include "host/vfio.h"
#include "proto/cleanup.h"

/* include/uapi/linux/iommufd.h, Linux 6.2; bookworm's linux-libc-dev has it not. */
#define ABI_IOMMU_OPTION             _IO(';', 0x87)
#define ABI_IOMMU_OPTION_RLIMIT_MODE 0u
#define ABI_IOMMU_OPTION_OP_SET      0u
struct abi_iommu_option {
    uint32_t size;
    uint32_t option_id;
    uint16_t op;
    uint16_t reserved;
    uint32_t object_id;
    uint64_t val64;
};

int vb_iommu_open(const char *dev) {
    struct abi_iommu_option option = {
        .size = sizeof option, .option_id = ABI_IOMMU_OPTION_RLIMIT_MODE, .op = ABI_IOMMU_OPTION_OP_SET, .val64 = 1};
    char path[PATH_MAX];

    if (!vb_path(path, sizeof path, "%s/iommu", dev))
        return -ENAMETOOLONG;
    VB_FD int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (ioctl(fd, ABI_IOMMU_OPTION, &option) < 0)
        return -errno;
    return vb_steal_fd(&fd);
}

bool vb_iommu_is(const char *dev, int fd) {
    char path[PATH_MAX];

    return vb_path(path, sizeof path, "%s/iommu", dev) && vb_fd_is_node(fd, path);
}
