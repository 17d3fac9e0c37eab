/* Mappings of the type1 backend: see type1.h.
 *
 * A mapping is an entry of the kernel (struct vfio_dma), as long as there are enough: the normal case has no surprises. Below
 * SCARCE left, mappings of a request that can become runs: type1-run.c. How many are left is counted from below (each map takes
 * one, an unmap gives back nobody knows how many), and asked only when that comes near the limit. */
#include <errno.h>
#include <inttypes.h>

#include "backend/type1-private.h"

#define SCARCE 8192u /* or an eighth of the limit, if that is less */

int vb_type1_map_dma(struct vb_type1 *t, struct vb_type1_container *c, struct vb_range iova, vb_handle memory,
                     uint64_t offset, uint32_t prot) {
    struct vfio_iommu_type1_dma_map m = {.argsz = sizeof(m),
                                         .flags = (prot & VB_PROT_READ ? VFIO_DMA_MAP_FLAG_READ : 0) |
                                                  (prot & VB_PROT_WRITE ? VFIO_DMA_MAP_FLAG_WRITE : 0),
                                         .vaddr = (uintptr_t)t->memories[memory].address + offset,
                                         .iova = iova.first,
                                         .size = vb_range_size(iova)};
    int r;

    if ((prot & VB_PROT_WRITE) && !t->memories[memory].writable)
        return -EPERM;
    r = vb_type1_ioctl(c->fd, VFIO_IOMMU_MAP_DMA, &m);
    if (r >= 0 && c->avail)
        c->avail--;
    return r;
}

int vb_type1_unmap_dma(struct vb_type1_container *c, struct vb_range iova) {
    const struct vfio_iommu_type1_dma_unmap request = {
        .argsz = sizeof(request), .iova = iova.first, .size = vb_range_size(iova)};
    struct vfio_iommu_type1_dma_unmap u = request;
    int r = vb_type1_ioctl(c->fd, VFIO_IOMMU_UNMAP_DMA, &u);

    c->unmapped = true;
    if (r == -EFAULT) { /* done, or not: only the answer could not be written. Then nothing is there the second time */
        u = request;
        r = vb_type1_ioctl(c->fd, VFIO_IOMMU_UNMAP_DMA, &u);
        return r == -ENOENT ? 0 : r;
    }
    /* v2 says 0 and unmaps 0 bytes where nothing is; the compatibility container says ENOENT. */
    return r < 0 ? r : u.size == 0 ? -ENOENT : 0;
}

static bool scarce(struct vb_type1_container *c, size_t n) {
    const uint32_t few = c->limit / 8 < SCARCE ? c->limit / 8 : SCARCE;

    if (c->avail >= few + n)
        return false;
    if (c->unmapped)
        vb_type1_container_ask(c);
    return c->avail < few + n;
}

static int refuse_entries(struct vb_type1 *t, struct vb_type1_container *c, size_t n, struct vb_error *e) {
    char devices[160];
    uint32_t left = 0;

    if (vb_type1_container_ask(c))
        left = c->avail;
    vb_type1_container_devices(t, c, devices, sizeof(devices));
    vb_error_limit(e, n, c->limit - left, c->limit, "entries of a VFIO container");
    return vb_refuse(
        e, VB_LIMIT,
        "the VFIO container of %s has room for %" PRIu32 " mappings, and %" PRIu32
        " are there: map larger ranges, or adjacent ones of a memory in one request; use another space; or "
        "a kernel with iommufd, which has no such limit",
        devices, c->limit, c->limit - left);
}

static int explain(struct vb_type1 *t, struct vb_type1_container *c, const struct vb_backend_map *m, size_t n, int r,
                   struct vb_error *e) {
    switch (r) {
    case -ENOSPC:
        return refuse_entries(t, c, n, e);
    case -EFAULT: /* mm/gup.c: the page is not there and cannot be made */
        return vb_refuse(e, VB_BAD_MEMORY,
                         "memory for IOVA 0x%" PRIx64 "-0x%" PRIx64 " cannot be pinned; was its file truncated?",
                         m->iova, m->iova + (m->size - 1));
    default:
        return vb_fail(e, r, "mapping 0x%" PRIx64 " of 0x%" PRIx64 " bytes into a VFIO container%s", m->iova, m->size,
                       r == -ENOMEM ? ": pinning it passes the session's RLIMIT_MEMLOCK, or no memory" : "");
    }
}

int vb_type1_map(struct vb_backend *b, vb_handle domain, const struct vb_backend_map *maps, size_t n, size_t *ret_done,
                 struct vb_error *e) {
    struct vb_type1 *t = (struct vb_type1 *)b;
    struct vb_type1_container *c = &t->containers[domain];
    size_t i, k, singly = 0; /* entries before `singly` are not joined: as one they failed, which of them? */
    bool join = scarce(c, n);
    int r;

    *ret_done = 0;
    if (c->full) {
        r = vb_type1_container_empty(c);
        if (r < 0)
            return vb_fail(e, r, "emptying a VFIO container that was used before");
    }
    vb_type1_runs_retry(t, c);
    for (i = 0; i < n; i += k) {
        const struct vb_range iova = {maps[i].iova, maps[i].iova + (maps[i].size - 1)};

        k = join && i >= singly ? vb_type1_run_length(maps + i, n - i) : 1;
        r = k > 1 ? vb_type1_run_map(t, c, maps + i, k)
                  : vb_type1_map_dma(t, c, iova, maps[i].memory, maps[i].offset, maps[i].prot);
        if (r >= 0)
            continue;
        if (k > 1 && r != -ENOSPC)
            singly = i + k;
        else if (r == -ENOSPC && !join && vb_type1_run_length(maps + i, n - i) > 1)
            join = true; /* a kernel that does not say how many are left */
        else {
            *ret_done = i;
            return explain(t, c, &maps[i], n - i, r, e);
        }
        k = 0; /* again */
    }
    return 0;
}

int vb_type1_unmap(struct vb_backend *b, vb_handle domain, const struct vb_range *ranges, size_t n, size_t *ret_done,
                   struct vb_error *e) {
    struct vb_type1 *t = (struct vb_type1 *)b;
    struct vb_type1_container *c = &t->containers[domain];
    size_t i;
    int r = 0;

    vb_type1_runs_retry(t, c);
    r = vb_type1_runs_can_be_cut(c, ranges, n, ret_done, e);
    for (i = 0; i < n && r == 0; i++) {
        *ret_done = i;
        if (ranges[i].first == 0 && ranges[i].last == UINT64_MAX) {
            r = vb_type1_container_unmap(c);
            if (r < 0)
                return vb_fail(e, r, "unmapping all of a VFIO container");
        } else if (c->runs.n) {
            r = vb_type1_run_unmap(t, c, ranges[i], e);
            if (r != 0)
                return r;
        } else {
            r = vb_type1_unmap_dma(c, ranges[i]);
            if (r < 0)
                return vb_fail(e, r, "unmapping 0x%" PRIx64 "-0x%" PRIx64 " of a VFIO container", ranges[i].first,
                               ranges[i].last);
        }
    }
    return r;
}
