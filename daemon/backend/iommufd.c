/* Domains and housekeeping of the iommufd backend: see iommufd.h. */
#include "backend/iommufd.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "backend/iommufd-private.h"

static struct vb_iommufd *iommufd(struct vb_backend *b) {
    return (struct vb_iommufd *)b;
}

int vb_iommufd_ioctl(int fd, unsigned long request, void *arg) {
    int r;

    do
        r = ioctl(fd, request, arg);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : r;
}

int vb_iommufd_unmap_all(struct vb_iommufd *io, uint32_t ioas) {
    struct vb_iommu_ioas_unmap u = {.size = sizeof(u), .ioas_id = ioas, .iova = 0, .length = UINT64_MAX};

    return vb_iommufd_ioctl(io->fd, IOMMU_IOAS_UNMAP, &u);
}

int vb_iommufd_destroy(struct vb_iommufd *io, uint32_t id) {
    struct vb_iommu_destroy d = {.size = sizeof(d), .id = id};

    return vb_iommufd_ioctl(io->fd, IOMMU_DESTROY, &d);
}

struct vb_iommufd_domain *vb_iommufd_domain(struct vb_iommufd *io, vb_handle domain) {
    uint32_t i;

    for (i = 0; i < io->n_domains; i++)
        if (io->domains[i].ioas == domain)
            return &io->domains[i];
    return NULL;
}

/* Whether MAP_FILE takes dma-bufs (6.19) can only be told with one: memory_add() does. */
static uint64_t io_features(struct vb_backend *b) {
    /* FEATURE_DMA, FEATURE_SHARED_PINS, FEATURE_DOMAINS; FEATURE_MAP_FILE, FEATURE_DMA_BUF */
    return 1 | 2 | 64 | (iommufd(b)->map_file ? 4 | 32 : 0);
}

/* ---- domains ---- */

/* The model has given up a domain, but the kernel did not detach one of its devices then. */
static void detach_again(struct vb_iommufd *io) {
    vb_handle i;

    for (i = 0; i < VB_IOMMUFD_DEVICES; i++) {
        const struct vb_iommufd_device *d = &io->devices[i];

        if (d->state == VB_IOMMUFD_OPEN && d->ioas && !vb_iommufd_domain(io, d->ioas))
            vb_iommufd_device_detach(&io->backend, i, NULL);
    }
}

/* HWPTs first: they refer to their IOAS (hw_pagetable.c), and devices to them. */
static void retry_tombstones(struct vb_iommufd *io) {
    uint32_t i, n = 0;

    detach_again(io);
    vb_iommufd_hwpt_sweep(io);
    for (i = 0; i < io->n_tombstones; i++)
        if (vb_iommufd_unmap_all(io, io->tombstones[i]) < 0 || vb_iommufd_destroy(io, io->tombstones[i]) < 0)
            io->tombstones[n++] = io->tombstones[i];
    io->n_tombstones = n;
}

/* A further domain of a space is one more IOAS: nothing of it is the device's that it is for. */
static int io_domain_open(struct vb_backend *b, vb_handle device, vb_handle *ret, struct vb_error *e) {
    struct vb_iommufd *io = iommufd(b);
    struct vb_iommu_ioas_alloc a = {.size = sizeof(a)};
    int r;

    (void)device;
    if (io->n_domains + io->n_tombstones >= VB_IOMMUFD_TOMBSTONES)
        retry_tombstones(io);
    /* Room for the tombstones that today's domains may become. */
    if (io->n_domains >= VB_IOMMUFD_DOMAINS || io->n_domains + io->n_tombstones >= VB_IOMMUFD_TOMBSTONES)
        return vb_refuse(e, VB_LIMIT,
                         "%" PRIu32 " domains exist and %" PRIu32 " closed ones are still held by attached devices",
                         io->n_domains, io->n_tombstones);
    r = vb_iommufd_ioctl(io->fd, IOMMU_IOAS_ALLOC, &a);
    if (r < 0)
        return vb_fail(e, r, "IOAS_ALLOC of a domain");
    vb_iommufd_id_taken(io, a.out_ioas_id);
    if (a.out_ioas_id > VB_IOMMUFD_IDS) { /* a holding session could not find it; ids are the lowest free ones */
        vb_iommufd_destroy(io, a.out_ioas_id);
        return vb_refuse(e, VB_LIMIT, "the iommufd context has more than %u objects", VB_IOMMUFD_IDS);
    }
    io->domains[io->n_domains++] = (struct vb_iommufd_domain){.ioas = a.out_ioas_id};
    *ret = a.out_ioas_id;
    return 0;
}

static void io_domain_close(struct vb_backend *b, vb_handle domain) {
    struct vb_iommufd *io = iommufd(b);
    struct vb_iommufd_domain *dom = vb_iommufd_domain(io, domain);
    const uint32_t id = (uint32_t)domain;
    int r;

    if (!dom)
        return;
    *dom = io->domains[--io->n_domains];
    r = vb_iommufd_unmap_all(io, id);
    detach_again(io);
    vb_iommufd_hwpt_sweep(io);
    if (r < 0 || vb_iommufd_destroy(io, id) < 0)
        io->tombstones[io->n_tombstones++] = id;
}

static int io_domain_info(struct vb_backend *b, vb_handle domain, struct vb_space_info *ret, struct vb_error *e) {
    struct vb_iommu_iova_range ranges[VB_REGIONS_MAX];
    struct vb_iommu_ioas_iova_ranges q = {.size = sizeof(q),
                                          .ioas_id = (uint32_t)domain,
                                          .num_iovas = VB_REGIONS_MAX,
                                          .allowed_iovas = (uintptr_t)ranges};
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint32_t i;
    int r;

    r = vb_iommufd_ioctl(iommufd(b)->fd, IOMMU_IOAS_IOVA_RANGES, &q);
    if (r < 0 && r != -EMSGSIZE) /* more ranges than we have room for: those beyond are not used */
        return vb_fail(e, r, "IOVA_RANGES of IOAS %" PRIu64, domain);
    ret->n_usable = q.num_iovas < VB_REGIONS_MAX ? q.num_iovas : VB_REGIONS_MAX;
    for (i = 0; i < ret->n_usable; i++)
        ret->usable[i] = (struct vb_range){ranges[i].start, ranges[i].last};
    /* The alignment is 1 as long as no device is attached (io_pagetable.c, iopt_init_table); we pay by pages. */
    if (q.out_iova_alignment > page)
        page = q.out_iova_alignment;
    ret->page_sizes = -page; /* that one and every greater power of 2 */
    return 0;
}

static void io_domain_text(struct vb_backend *b, vb_handle domain, char *buf, size_t size) {
    const struct vb_iommufd *io = iommufd(b);
    size_t at = (size_t)snprintf(buf, size, "ioas %" PRIu64, domain);
    uint32_t i;

    for (i = 0; i < io->n_hwpts && at < size; i++)
        if (io->hwpts[i].ioas == domain)
            at += (size_t)snprintf(buf + at, size - at, ", hwpt %" PRIu32, io->hwpts[i].id);
}

/* Ranges that are allowed cannot be reserved any more (io_pagetable.c, iopt_reserve_iova), by no device that attaches, also behind
 * our back. Mapping elsewhere stays possible: the kernel asks for them only where it chooses the IOVA itself. */
static int io_domain_need(struct vb_backend *b, vb_handle domain, const struct vb_range *ranges, size_t n,
                          struct vb_error *e) {
    struct vb_iommu_iova_range allowed[VB_NEEDS_MAX];
    struct vb_iommu_ioas_allow_iovas a = {
        .size = sizeof(a), .ioas_id = (uint32_t)domain, .num_iovas = (uint32_t)n, .allowed_iovas = (uintptr_t)allowed};
    size_t i;
    int r;

    if (n > VB_NEEDS_MAX)
        return vb_refuse(e, VB_LIMIT, "%zu ranges are more than %u", n, VB_NEEDS_MAX);
    for (i = 0; i < n; i++)
        allowed[i] = (struct vb_iommu_iova_range){ranges[i].first, ranges[i].last};
    r = vb_iommufd_ioctl(iommufd(b)->fd, IOMMU_IOAS_ALLOW_IOVAS, &a);
    if (r == -EADDRINUSE)
        return vb_refuse(e, VB_RESERVED, "an attached device reserves a part of the ranges, or its IOMMU ends before");
    if (r == -EINVAL)
        return vb_refuse(e, VB_INVALID, "ranges that are needed may not overlap, and have more than one byte");
    return r < 0 ? vb_fail(e, r, "ALLOW_IOVAS of IOAS %" PRIu64, domain) : 0;
}

/* ---- housekeeping ---- */

static void io_tick(struct vb_backend *b) {
    retry_tombstones(iommufd(b));
    vb_iommufd_pool_tick(iommufd(b));
}

static uint32_t io_leftovers(struct vb_backend *b) {
    const struct vb_iommufd *io = iommufd(b);

    return io->n_tombstones + vb_iommufd_hwpt_leftovers(io) + vb_iommufd_pool_leftovers(io);
}

static void io_close(struct vb_backend *b) {
    struct vb_iommufd *io = iommufd(b);
    vb_handle i;

    /* Memory first: closing a device may take long. */
    for (i = 0; i < io->n_domains; i++)
        vb_iommufd_unmap_all(io, io->domains[i].ioas);
    for (i = 0; i < VB_IOMMUFD_DEVICES; i++)
        vb_iommufd_device_close(b, i);
    while (io->n_domains)
        io_domain_close(b, io->domains[io->n_domains - 1].ioas);
    retry_tombstones(io);
    for (i = 0; i < VB_MEMORIES_MAX; i++)
        if (io->slots[i].state != VB_SLOT_FREE)
            vb_iommufd_memory_remove(b, i);
    if (io->pool)
        vb_iommufd_destroy(io, io->pool);
    close(io->fd);
    free(io->left);
    free(io);
}

static const struct vb_backend_ops ops = {
    .name = "iommufd",
    .eager = true,
    .software_sees_all = true,
    .close = io_close,
    .features = io_features,
    .memory_add = vb_iommufd_memory_add,
    .memory_remove = vb_iommufd_memory_remove,
    .domain_open = io_domain_open,
    .domain_close = io_domain_close,
    .domain_info = io_domain_info,
    .domain_text = io_domain_text,
    .domain_need = io_domain_need,
    .map = vb_iommufd_map,
    .unmap = vb_iommufd_unmap,
    .dirty_set = vb_iommufd_dirty_set,
    .dirty_read = vb_iommufd_dirty_read,
    .device_open = vb_iommufd_device_open,
    .device_bind = vb_iommufd_device_bind,
    .device_attach = vb_iommufd_device_attach,
    .device_detach = vb_iommufd_device_detach,
    .device_close = vb_iommufd_device_close,
    .in_use = vb_iommufd_in_use,
    .device_fd = vb_iommufd_device_fd,
    .device_ready = vb_iommufd_device_ready,
    .tick = io_tick,
    .leftovers = io_leftovers,
    .take_over = vb_iommufd_take_over,
    .devices_left = vb_iommufd_devices_left,
};

int vb_iommufd_new(int fd, bool no_map_file, struct vb_workers *workers, struct vb_backend **ret, struct vb_error *e) {
    struct vb_iommufd *io = calloc(1, sizeof(*io));
    int r;

    if (!io) {
        close(fd);
        return vb_fail(e, -ENOMEM, "iommufd backend");
    }
    io->backend.ops = &ops;
    io->fd = fd;
    io->map_file = !no_map_file;
    io->workers = workers;
    io->left = calloc(VB_IOMMUFD_IDS, sizeof(*io->left)); /* here, so that take_over() cannot fail */
    r = io->left ? vb_iommufd_pool_init(io, e) : vb_fail(e, -ENOMEM, "iommufd backend");
    if (r != 0) {
        io_close(&io->backend);
        return r;
    }
    *ret = &io->backend;
    return 0;
}
