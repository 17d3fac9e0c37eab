/* Mappings of the iommufd backend: each is an IOAS_COPY of a part of the pool.
 *
 * COPY takes any part that is contiguous there, across pieces too (io_pagetable.c, iopt_get_pages), as one area for each
 * piece; an unmap of the whole range takes them all. A large mapping that crosses pieces is copied piece by piece at the same
 * time when there is a device: each piece has a mutex of its own, which the kernel holds while it pins (pages.c,
 * iopt_area_fill_domains). The areas are the same either way. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "backend/iommufd-private.h"
#include "backend/workers.h"
#include "proto/cleanup.h"

/* As in iommufd-pool.c: smaller memories have one piece. */
#define PARALLEL_FROM ((uint64_t)128 << 20)

static int unmap_range(struct vb_iommufd *io, vb_handle domain, struct vb_range range) {
    struct vb_iommu_ioas_unmap u = {
        .size = sizeof(u), .ioas_id = (uint32_t)domain, .iova = range.first, .length = vb_range_size(range)};

    if (range.first == 0 && range.last == UINT64_MAX)
        u.length = UINT64_MAX; /* the kernel's word for everything; nothing there is fine then */
    return vb_iommufd_ioctl(io->fd, IOMMU_IOAS_UNMAP, &u);
}

static int copy(struct vb_iommufd *io, vb_handle domain, const struct vb_backend_map *m) {
    struct vb_iommu_ioas_copy c = {.size = sizeof(c),
                                   .flags = VB_IOMMU_MAP_FIXED_IOVA |
                                            (m->prot & VB_PROT_READ ? VB_IOMMU_MAP_READABLE : 0) |
                                            (m->prot & VB_PROT_WRITE ? VB_IOMMU_MAP_WRITEABLE : 0),
                                   .dst_ioas_id = (uint32_t)domain,
                                   .src_ioas_id = io->pool,
                                   .length = m->size,
                                   .dst_iova = m->iova,
                                   .src_iova = vb_iommufd_pool_iova(m->memory) + m->offset};
    int r = vb_iommufd_ioctl(io->fd, IOMMU_IOAS_COPY, &c);

    /* EFAULT comes also when it is mapped, and only the answer could not be written (ioas.c, iommufd_ioas_copy). */
    if (r == -EFAULT)
        unmap_range(io, domain, (struct vb_range){m->iova, m->iova + (m->size - 1)});
    return r;
}

struct split {
    struct vb_iommufd *io;
    vb_handle domain;
    const struct vb_backend_map *map;
    uint64_t piece;
    int *results; /* of each part */
};

/* Part i of a mapping: what of it lies in the i-th piece that it touches. */
static struct vb_backend_map part_of(const struct split *s, size_t i) {
    struct vb_backend_map part = *s->map;
    const uint64_t end = s->map->offset + s->map->size; /* a memory has at most 2^50 bytes */
    const uint64_t piece = s->map->offset / s->piece + i;
    const uint64_t last = (piece + 1) * s->piece < end ? (piece + 1) * s->piece : end;

    if (i > 0)
        part.offset = piece * s->piece;
    part.iova += part.offset - s->map->offset;
    part.size = last - part.offset;
    return part;
}

static void copy_part(void *arg, size_t i) {
    const struct split *s = arg;
    const struct vb_backend_map part = part_of(s, i);

    s->results[i] = copy(s->io, s->domain, &part);
}

/* All parts or none. Where all that fails is there already (a mapping that is restored) the others stay: now it is whole. */
static int copy_parts(struct split *s, size_t n) {
    size_t i;
    int r = 0;

    vb_workers_run(s->io->workers, n, copy_part, s);
    for (i = 0; i < n; i++)
        if (s->results[i] < 0 && (r == 0 || r == -EEXIST))
            r = s->results[i];
    if (r == 0 || r == -EEXIST)
        return r;
    for (i = 0; i < n; i++) {
        const struct vb_backend_map part = part_of(s, i);

        if (s->results[i] == 0)
            unmap_range(s->io, s->domain, (struct vb_range){part.iova, part.iova + (part.size - 1)});
    }
    return r;
}

static int map_one(struct vb_iommufd *io, vb_handle domain, bool pins, const struct vb_backend_map *m) {
    struct split s = {.io = io, .domain = domain, .map = m, .piece = io->slots[m->memory].piece};
    const size_t n = (m->offset + m->size - 1) / s.piece - m->offset / s.piece + 1;
    VB_FREE int *results = NULL;

    if (pins && n > 1 && m->size >= PARALLEL_FROM && vb_workers_count(io->workers) > 0)
        results = calloc(n, sizeof(*results));
    if (!results) /* no memory: one after another */
        return copy(io, domain, m);
    s.results = results;
    return copy_parts(&s, n);
}

int vb_iommufd_map(struct vb_backend *b, vb_handle domain, const struct vb_backend_map *maps, size_t n,
                   size_t *ret_done, struct vb_error *e) {
    struct vb_iommufd *io = (struct vb_iommufd *)b;
    const bool pins = vb_iommufd_has_hwpt(io, (uint32_t)domain);
    size_t i;
    int r;

    for (i = 0; i < n; i++) {
        r = map_one(io, domain, pins, &maps[i]);
        if (r < 0) {
            *ret_done = i;
            return vb_fail(e, r, "mapping 0x%" PRIx64 " of 0x%" PRIx64 " bytes into IOAS %" PRIu64 "%s", maps[i].iova,
                           maps[i].size, domain,
                           r == -ENOMEM ? ": pinning it passes the session's RLIMIT_MEMLOCK, or no memory" : "");
        }
    }
    return 0;
}

int vb_iommufd_unmap(struct vb_backend *b, vb_handle domain, const struct vb_range *ranges, size_t n, size_t *ret_done,
                     struct vb_error *e) {
    struct vb_iommufd *io = (struct vb_iommufd *)b;
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
