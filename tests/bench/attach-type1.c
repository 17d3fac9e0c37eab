/* By hand on type1: each device's group in a container of its own, and attaching is MAP_DMA of every mapping into it, from one
 * shared mapping of the memfd, as a session replays. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/bench/attach.h"
#include "tests/bench/bench.h"
#include "tests/bench/direct.h"

struct hand {
    uint8_t *memory;
    uint64_t size;
    int container[2], group[2], device[2];
    const struct hand_map *maps;
    size_t n;
};

static int open_rw(const char *path) {
    int fd = open(path, O_RDWR | O_CLOEXEC);

    if (fd < 0)
        bench_die("%s: %s", path, strerror(errno));
    return fd;
}

/* /sys/bus/pci/devices/ADDRESS/iommu_group -> .../NUMBER */
static int open_group(const char *address) {
    char path[300], target[PATH_MAX];
    ssize_t n;

    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", address);
    n = readlink(path, target, sizeof(target) - 1);
    if (n < 0)
        bench_die("%s: %s", path, strerror(errno));
    target[n] = 0;
    snprintf(path, sizeof(path), "/dev/vfio/%s", strrchr(target, '/') + 1);
    return open_rw(path);
}

static void *hand_open(int memfd, uint64_t size, const char *const devices[2], const char *container) {
    struct hand *h = calloc(1, sizeof(*h));

    if (!h)
        bench_die("out of memory");
    h->size = size;
    h->memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memfd, 0);
    if (h->memory == MAP_FAILED)
        bench_die("mmap: %s", strerror(errno));
    for (unsigned i = 0; i < 2; i++) {
        h->container[i] = open_rw(container);
        h->group[i] = open_group(devices[i]);
        direct_call(h->group[i], VFIO_GROUP_SET_CONTAINER, &h->container[i], "VFIO_GROUP_SET_CONTAINER");
        if (ioctl(h->container[i], VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
            bench_die("VFIO_SET_IOMMU: %s", strerror(errno));
        h->device[i] = ioctl(h->group[i], VFIO_GROUP_GET_DEVICE_FD, devices[i]);
        if (h->device[i] < 0)
            bench_die("VFIO_GROUP_GET_DEVICE_FD of %s: %s", devices[i], strerror(errno));
    }
    return h;
}

static void hand_fill(void *hand, const struct hand_map *maps, size_t n) {
    struct hand *h = hand;

    h->maps = maps;
    h->n = n;
}

static void hand_attach(void *hand, unsigned device) {
    struct hand *h = hand;

    for (size_t i = 0; i < h->n; i++) {
        struct vfio_iommu_type1_dma_map m = {.argsz = sizeof(m),
                                             .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
                                             .vaddr = (uintptr_t)h->memory + h->maps[i].offset,
                                             .iova = h->maps[i].iova,
                                             .size = h->maps[i].size};

        direct_call(h->container[device], VFIO_IOMMU_MAP_DMA, &m, "VFIO_IOMMU_MAP_DMA");
    }
}

static void hand_detach(void *hand, unsigned device) {
    struct hand *h = hand;

    for (size_t i = 0; i < h->n; i++) {
        struct vfio_iommu_type1_dma_unmap u = {.argsz = sizeof(u), .iova = h->maps[i].iova, .size = h->maps[i].size};

        direct_call(h->container[device], VFIO_IOMMU_UNMAP_DMA, &u, "VFIO_IOMMU_UNMAP_DMA");
        if (u.size != h->maps[i].size)
            bench_die("VFIO_IOMMU_UNMAP_DMA unmapped %llu bytes", (unsigned long long)u.size);
    }
}

static void hand_close(void *hand) {
    struct hand *h = hand;

    for (unsigned i = 0; i < 2; i++) {
        close(h->device[i]);
        close(h->group[i]);
        close(h->container[i]);
    }
    munmap(h->memory, h->size);
    free(h);
}

const struct hand_ops hand_type1 = {
    .open = hand_open, .fill = hand_fill, .attach = hand_attach, .detach = hand_detach, .close = hand_close};
