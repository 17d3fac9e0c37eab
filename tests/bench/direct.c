#include "tests/bench/direct.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "backend/iommufd-abi.h"
#include "tests/bench/bench.h"

/* Where no hardware has an IOVA, as in the session's pool (backend/iommufd.c). */
#define POOL_IOVA (1ull << 63)
#define FLAGS     (VB_IOMMU_MAP_FIXED_IOVA | VB_IOMMU_MAP_READABLE | VB_IOMMU_MAP_WRITEABLE)

struct direct {
    int iommufd, device, memfd;
    uint32_t ioas, pool;
};

/* /sys/bus/pci/devices/ADDRESS/vfio-dev/vfioN */
int direct_cdev(const char *address) {
    char path[512];
    DIR *dir;
    struct dirent *entry;
    int fd = -1;

    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev", address);
    dir = opendir(path);
    if (!dir)
        bench_die("%s: %s (bound to vfio-pci?)", path, strerror(errno));
    while (fd < 0 && (entry = readdir(dir)))
        if (!strncmp(entry->d_name, "vfio", 4)) {
            snprintf(path, sizeof(path), "/dev/vfio/devices/%s", entry->d_name);
            fd = open(path, O_RDWR | O_CLOEXEC);
            if (fd < 0)
                bench_die("%s: %s", path, strerror(errno));
        }
    closedir(dir);
    if (fd < 0)
        bench_die("%s has no VFIO device", address);
    return fd;
}

void direct_call(int fd, unsigned long request, void *arg, const char *what) {
    if (ioctl(fd, request, arg))
        bench_die("%s: %s", what, strerror(errno));
}

static uint32_t new_ioas(struct direct *d) {
    struct vb_iommu_ioas_alloc a = {.size = sizeof(a)};

    direct_call(d->iommufd, IOMMU_IOAS_ALLOC, &a, "IOMMU_IOAS_ALLOC");
    return a.out_ioas_id;
}

static void map_file(struct direct *d, uint32_t ioas, uint64_t iova, uint64_t size) {
    struct vb_iommu_ioas_map_file m = {
        .size = sizeof(m), .flags = FLAGS, .ioas_id = ioas, .fd = d->memfd, .length = size, .iova = iova};

    direct_call(d->iommufd, IOMMU_IOAS_MAP_FILE, &m, "IOMMU_IOAS_MAP_FILE");
}

struct direct *direct_open(const char *address, int memfd, uint64_t size) {
    struct direct *d = calloc(1, sizeof(*d));

    if (!d)
        bench_die("out of memory");
    d->iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
    if (d->iommufd < 0)
        bench_die("/dev/iommu: %s", strerror(errno));
    d->device = direct_cdev(address);
    d->ioas = new_ioas(d);
    d->pool = new_ioas(d);
    struct vb_vfio_bind bind = {.argsz = sizeof(bind), .iommufd = d->iommufd};
    direct_call(d->device, VFIO_DEVICE_BIND_IOMMUFD, &bind, "VFIO_DEVICE_BIND_IOMMUFD");
    struct vb_vfio_attach attach = {.argsz = sizeof(attach), .pt_id = d->ioas};
    direct_call(d->device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach, "VFIO_DEVICE_ATTACH_IOMMUFD_PT");
    d->memfd = memfd;
    map_file(d, d->pool, POOL_IOVA, size);
    return d;
}

void direct_pair(struct direct *d, bool copy, uint64_t iova, uint64_t size) {
    if (copy) {
        struct vb_iommu_ioas_copy c = {.size = sizeof(c),
                                       .flags = FLAGS,
                                       .dst_ioas_id = d->ioas,
                                       .src_ioas_id = d->pool,
                                       .length = size,
                                       .dst_iova = iova,
                                       .src_iova = POOL_IOVA};
        direct_call(d->iommufd, IOMMU_IOAS_COPY, &c, "IOMMU_IOAS_COPY");
    } else
        map_file(d, d->ioas, iova, size);
    struct vb_iommu_ioas_unmap u = {.size = sizeof(u), .ioas_id = d->ioas, .iova = iova, .length = size};
    direct_call(d->iommufd, IOMMU_IOAS_UNMAP, &u, "IOMMU_IOAS_UNMAP");
}

void direct_close(struct direct *d) {
    close(d->device);
    close(d->iommufd);
    free(d);
}
