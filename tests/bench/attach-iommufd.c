/* By hand on iommufd: the memfd in a pool IOAS, COPY from there into the IOAS of the space, devices attached to that. Attaching
 * the first one makes the kernel's domain and pins everything (io_pagetable.c, iopt_table_add_domain); a second one joins it.
 *
 * For pins by two threads there is a second pool, with the memfd in two pieces: each MAP_FILE has a page set and a mutex of its
 * own. A pool pins nothing. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/iommufd-abi.h"
#include "tests/bench/attach.h"
#include "tests/bench/bench.h"
#include "tests/bench/direct.h"

#define POOL_IOVA (1ull << 63)
#define FLAGS     (VB_IOMMU_MAP_FIXED_IOVA | VB_IOMMU_MAP_READABLE | VB_IOMMU_MAP_WRITEABLE)
#define THREADS   2u

struct hand {
    int iommufd, device[2];
    uint32_t ioas, pool[THREADS]; /* pool[n]: the memfd in n + 1 pieces */
    uint64_t size;
};

static uint32_t new_ioas(struct hand *h) {
    struct vb_iommu_ioas_alloc a = {.size = sizeof(a)};

    direct_call(h->iommufd, IOMMU_IOAS_ALLOC, &a, "IOMMU_IOAS_ALLOC");
    return a.out_ioas_id;
}

static void *hand_open(int memfd, uint64_t size, const char *const devices[2], const char *container) {
    struct hand *h = calloc(1, sizeof(*h));

    (void)container;
    if (!h)
        bench_die("out of memory");
    h->size = size;
    h->iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
    if (h->iommufd < 0)
        bench_die("/dev/iommu: %s", strerror(errno));
    h->ioas = new_ioas(h);
    for (unsigned n = 1; n <= THREADS; n++) {
        h->pool[n - 1] = new_ioas(h);
        for (unsigned piece = 0; piece < n; piece++) {
            struct vb_iommu_ioas_map_file m = {.size = sizeof(m),
                                               .flags = FLAGS,
                                               .ioas_id = h->pool[n - 1],
                                               .fd = memfd,
                                               .start = piece * (size / n),
                                               .length = size / n,
                                               .iova = POOL_IOVA + piece * (size / n)};
            direct_call(h->iommufd, IOMMU_IOAS_MAP_FILE, &m, "IOMMU_IOAS_MAP_FILE");
        }
    }
    for (unsigned i = 0; i < 2; i++) {
        struct vb_vfio_bind bind = {.argsz = sizeof(bind), .iommufd = h->iommufd};

        h->device[i] = direct_cdev(devices[i]);
        direct_call(h->device[i], VFIO_DEVICE_BIND_IOMMUFD, &bind, "VFIO_DEVICE_BIND_IOMMUFD");
    }
    return h;
}

static void copy(const struct hand *h, uint32_t pool, uint64_t iova, uint64_t size, uint64_t offset) {
    struct vb_iommu_ioas_copy c = {.size = sizeof(c),
                                   .flags = FLAGS,
                                   .dst_ioas_id = h->ioas,
                                   .src_ioas_id = pool,
                                   .length = size,
                                   .dst_iova = iova,
                                   .src_iova = POOL_IOVA + offset};

    direct_call(h->iommufd, IOMMU_IOAS_COPY, &c, "IOMMU_IOAS_COPY");
}

static void unmap(const struct hand *h, uint64_t iova, uint64_t size) {
    struct vb_iommu_ioas_unmap u = {.size = sizeof(u), .ioas_id = h->ioas, .iova = iova, .length = size};

    direct_call(h->iommufd, IOMMU_IOAS_UNMAP, &u, "IOMMU_IOAS_UNMAP");
}

static void hand_fill(void *hand, const struct hand_map *maps, size_t n) {
    struct hand *h = hand;

    unmap(h, 0, UINT64_MAX);
    for (size_t i = 0; i < n; i++)
        copy(h, h->pool[0], maps[i].iova, maps[i].size, maps[i].offset);
}

static void hand_attach(void *hand, unsigned device) {
    struct hand *h = hand;
    struct vb_vfio_attach attach = {.argsz = sizeof(attach), .pt_id = h->ioas};

    direct_call(h->device[device], VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach, "VFIO_DEVICE_ATTACH_IOMMUFD_PT");
}

static void hand_detach(void *hand, unsigned device) {
    struct hand *h = hand;
    struct vb_vfio_detach detach = {.argsz = sizeof(detach)};

    direct_call(h->device[device], VFIO_DEVICE_DETACH_IOMMUFD_PT, &detach, "VFIO_DEVICE_DETACH_IOMMUFD_PT");
}

struct part {
    const struct hand *h;
    uint64_t iova, size, offset;
};

static void *copy_part(void *arg) {
    const struct part *p = arg;

    copy(p->h, p->h->pool[THREADS - 1], p->iova, p->size, p->offset);
    return NULL;
}

static void hand_pin(void *hand, uint64_t iova, unsigned threads) {
    struct hand *h = hand;
    uint64_t half = h->size / THREADS;
    struct part first = {h, iova, half, 0}, second = {h, iova + half, half, half};
    pthread_t helper;

    if (threads == 1) {
        copy(h, h->pool[0], iova, h->size, 0);
        return;
    }
    if (pthread_create(&helper, NULL, copy_part, &second))
        bench_die("no thread");
    copy_part(&first);
    pthread_join(helper, NULL);
}

static void hand_unpin(void *hand, uint64_t iova) {
    struct hand *h = hand;

    unmap(h, iova, h->size);
}

static void hand_close(void *hand) {
    struct hand *h = hand;

    close(h->device[0]);
    close(h->device[1]);
    close(h->iommufd);
    free(h);
}

const struct hand_ops hand_iommufd = {.open = hand_open,
                                      .fill = hand_fill,
                                      .attach = hand_attach,
                                      .detach = hand_detach,
                                      .pin = hand_pin,
                                      .unpin = hand_unpin,
                                      .close = hand_close};
