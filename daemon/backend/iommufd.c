/* Spaces, mappings and housekeeping of the iommufd backend: see iommufd.h. */
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

bool vb_iommufd_has_device(struct vb_iommufd *io, uint32_t devid) {
    /* device.c, iommufd_get_hw_info: takes no lock that an attach or a pin could hold. */
    struct vb_iommu_hw_info info = {.size = sizeof(info), .dev_id = devid};

    return vb_iommufd_ioctl(io->fd, IOMMU_GET_HW_INFO, &info) != -ENOENT;
}

static uint64_t io_features(struct vb_backend *b) {
    /* FEATURE_DMA, FEATURE_SHARED_PINS, FEATURE_MAP_FILE */
    return 1 | 2 | (iommufd(b)->map_file ? 4 : 0);
}

/* ---- spaces ---- */

/* -EBUSY while a device is attached: its HWPT refers to the IOAS (hw_pagetable.c). */
static int destroy(struct vb_iommufd *io, uint32_t id) {
    struct vb_iommu_destroy d = {.size = sizeof(d), .id = id};

    return vb_iommufd_ioctl(io->fd, IOMMU_DESTROY, &d);
}

static void retry_tombstones(struct vb_iommufd *io) {
    uint32_t i, n = 0;

    for (i = 0; i < io->n_tombstones; i++)
        if (vb_iommufd_unmap_all(io, io->tombstones[i]) < 0 || destroy(io, io->tombstones[i]) < 0)
            io->tombstones[n++] = io->tombstones[i];
    io->n_tombstones = n;
}

static int io_domain_open(struct vb_backend *b, vb_handle device, vb_handle *ret, struct vb_error *e) {
    struct vb_iommufd *io = iommufd(b);
    struct vb_iommu_ioas_alloc a = {.size = sizeof(a)};
    int r;

    (void)device;
    if (io->n_spaces + io->n_tombstones >= VB_IOMMUFD_TOMBSTONES)
        retry_tombstones(io);
    /* Room for the tombstones that today's spaces may become. */
    if (io->n_spaces >= VB_SPACES_MAX || io->n_spaces + io->n_tombstones >= VB_IOMMUFD_TOMBSTONES)
        return vb_refuse(e, VB_LIMIT,
                         "%" PRIu32 " spaces exist and %" PRIu32 " destroyed ones are still held by attached devices",
                         io->n_spaces, io->n_tombstones);
    r = vb_iommufd_ioctl(io->fd, IOMMU_IOAS_ALLOC, &a);
    if (r < 0)
        return vb_fail(e, r, "IOAS_ALLOC of a space");
    if (a.out_ioas_id > VB_IOMMUFD_IDS) { /* a holding session could not find it; ids are the lowest free ones */
        destroy(io, a.out_ioas_id);
        return vb_refuse(e, VB_LIMIT, "the iommufd context has more than %u objects", VB_IOMMUFD_IDS);
    }
    io->spaces[io->n_spaces++] = a.out_ioas_id;
    *ret = a.out_ioas_id;
    return 0;
}

static void io_domain_close(struct vb_backend *b, vb_handle domain) {
    struct vb_iommufd *io = iommufd(b);
    const uint32_t id = (uint32_t)domain;
    uint32_t i;

    for (i = 0; i < io->n_spaces && io->spaces[i] != id; i++)
        ;
    if (i == io->n_spaces)
        return;
    io->spaces[i] = io->spaces[--io->n_spaces];
    if (vb_iommufd_unmap_all(io, id) < 0 || destroy(io, id) < 0)
        io->tombstones[io->n_tombstones++] = id;
}

static int io_domain_info(struct vb_backend *b, vb_handle domain, struct vb_space_info *ret, struct vb_error *e) {
    struct vb_iommu_iova_range ranges[VB_REGIONS_MAX];
    struct vb_iommu_ioas_iova_ranges q = {
        .size = sizeof(q), .ioas_id = (uint32_t)domain, .num_iovas = VB_REGIONS_MAX, .allowed_iovas = (uintptr_t)ranges};
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
    (void)b;
    snprintf(buf, size, "ioas %" PRIu64, domain);
}

/* ---- mappings ---- */

static int unmap_range(struct vb_iommufd *io, vb_handle domain, struct vb_range range) {
    struct vb_iommu_ioas_unmap u = {
        .size = sizeof(u), .ioas_id = (uint32_t)domain, .iova = range.first, .length = vb_range_size(range)};

    if (range.first == 0 && range.last == UINT64_MAX)
        u.length = UINT64_MAX; /* the kernel's word for everything; nothing there is fine then */
    return vb_iommufd_ioctl(io->fd, IOMMU_IOAS_UNMAP, &u);
}

/* COPY takes any part of the pool that is contiguous there, across pieces too (io_pagetable.c, iopt_get_pages), as one
 * area for each piece; an unmap of the whole range takes them all. */
static int io_map(struct vb_backend *b, vb_handle domain, const struct vb_backend_map *maps, size_t n, size_t *ret_done,
                  struct vb_error *e) {
    struct vb_iommufd *io = iommufd(b);
    size_t i;
    int r;

    for (i = 0; i < n; i++) {
        struct vb_iommu_ioas_copy c = {.size = sizeof(c),
                                       .flags = VB_IOMMU_MAP_FIXED_IOVA |
                                                (maps[i].prot & VB_PROT_READ ? VB_IOMMU_MAP_READABLE : 0) |
                                                (maps[i].prot & VB_PROT_WRITE ? VB_IOMMU_MAP_WRITEABLE : 0),
                                       .dst_ioas_id = (uint32_t)domain,
                                       .src_ioas_id = io->pool,
                                       .length = maps[i].size,
                                       .dst_iova = maps[i].iova,
                                       .src_iova = vb_iommufd_pool_iova(maps[i].memory) + maps[i].offset};

        r = vb_iommufd_ioctl(io->fd, IOMMU_IOAS_COPY, &c);
        if (r < 0) {
            /* EFAULT comes also when it is mapped, and only the answer could not be written (ioas.c, iommufd_ioas_copy). */
            if (r == -EFAULT)
                unmap_range(io, domain, (struct vb_range){maps[i].iova, maps[i].iova + (maps[i].size - 1)});
            *ret_done = i;
            return vb_fail(e, r, "mapping 0x%" PRIx64 " of 0x%" PRIx64 " bytes into IOAS %" PRIu64 "%s", maps[i].iova,
                           maps[i].size, domain,
                           r == -ENOMEM ? ": pinning it passes the session's RLIMIT_MEMLOCK, or no memory" : "");
        }
    }
    return 0;
}

static int io_unmap(struct vb_backend *b, vb_handle domain, const struct vb_range *ranges, size_t n, size_t *ret_done,
                    struct vb_error *e) {
    struct vb_iommufd *io = iommufd(b);
    size_t i;
    int r;

    for (i = 0; i < n; i++) {
        r = unmap_range(io, domain, ranges[i]);
        if (r < 0) {
            *ret_done = i;
            return vb_fail(e, r, "unmapping 0x%" PRIx64 "-0x%" PRIx64 " of IOAS %" PRIu64, ranges[i].first,
                           ranges[i].last, domain);
        }
    }
    return 0;
}

/* ---- housekeeping ---- */

static void io_tick(struct vb_backend *b) {
    retry_tombstones(iommufd(b));
    vb_iommufd_pool_tick(iommufd(b));
}

static uint32_t io_leftovers(struct vb_backend *b) {
    return iommufd(b)->n_tombstones + vb_iommufd_pool_leftovers(iommufd(b));
}

/* The session that made these objects is dead; a client may still have its devices open and attach them to any IOAS, but
 * nobody can map any more. What a killed process was in the middle of comes to its end first (COPY and pinning do not
 * stop for a signal): until then UNMAP says EBUSY (io_pagetable.c, iopt_unmap_iova_range) and it is not done. */
static bool io_take_over(struct vb_backend *b) {
    bool empty = true;
    struct vb_iommufd *io = iommufd(b);
    uint32_t id, pass;

    io->n_left = 0;
    for (pass = 0; pass < 2; pass++)
        for (id = 1; id <= VB_IOMMUFD_IDS; id++)
            if (vb_iommufd_unmap_all(io, id) == -EBUSY) /* ENOENT for whatever is no IOAS */
                empty = false;
    for (id = 1; id <= VB_IOMMUFD_IDS; id++)
        if (vb_iommufd_has_device(io, id))
            io->left[io->n_left++] = id;
    return empty;
}

static void io_close(struct vb_backend *b) {
    struct vb_iommufd *io = iommufd(b);
    vb_handle i;

    /* Memory first: closing a device may take long. */
    for (i = 0; i < io->n_spaces; i++)
        vb_iommufd_unmap_all(io, io->spaces[i]);
    for (i = 0; i < VB_IOMMUFD_DEVICES; i++)
        vb_iommufd_device_close(b, i);
    while (io->n_spaces)
        io_domain_close(b, io->spaces[io->n_spaces - 1]);
    retry_tombstones(io);
    for (i = 0; i < VB_MEMORIES_MAX; i++)
        if (io->slots[i].state != VB_SLOT_FREE)
            vb_iommufd_memory_remove(b, i);
    if (io->pool)
        destroy(io, io->pool);
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
    .map = io_map,
    .unmap = io_unmap,
    .device_open = vb_iommufd_device_open,
    .device_bind = vb_iommufd_device_bind,
    .device_attach = vb_iommufd_device_attach,
    .device_detach = vb_iommufd_device_detach,
    .device_close = vb_iommufd_device_close,
    .in_use = vb_iommufd_in_use,
    .tick = io_tick,
    .leftovers = io_leftovers,
    .take_over = io_take_over,
    .devices_left = vb_iommufd_devices_left,
};

int vb_iommufd_new(int fd, bool no_map_file, struct vb_workers *workers, struct vb_backend **ret,
                   struct vb_error *e) {
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
