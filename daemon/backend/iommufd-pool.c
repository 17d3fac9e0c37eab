/* The pool of the iommufd backend: see iommufd.h. Nothing here pins: pages are pinned while a domain or an access exists
 * on an IOAS that shows them (drivers/iommu/iommufd/pages.c, iopt_area_fill_domains), and the pool never has one. */
#include <errno.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/iommufd-private.h"
#include "backend/workers.h"

#define POOL_BASE  ((uint64_t)1 << 63)
#define SLOT_SHIFT 55 /* 256 slots end at 2^64-1 */
/* Each MAP has a page set and a mutex of its own (struct iopt_pages), so pins of different pieces can run in parallel. A memory
 * that is worth it has a piece for each thread, whose borders cut no huge page of 2 MiB. */
#define PIECE_MAX     ((uint64_t)16 << 30)
#define PIECE_ALIGN   ((uint64_t)2 << 20)
#define PARALLEL_FROM ((uint64_t)128 << 20)
/* Behind the end of any file, and no memory of ours. */
#define NOWHERE ((uint64_t)1 << 62)

_Static_assert(VB_MEMORIES_MAX <= 256, "slots of the pool");
_Static_assert(VB_MEMORY_SIZE_MAX <= (uint64_t)1 << SLOT_SHIFT, "size of a slot");

uint64_t vb_iommufd_pool_iova(vb_handle slot) {
    return POOL_BASE + ((uint64_t)slot << SLOT_SHIFT);
}

/* Against a client that attaches its device to the pool, where memory is that nobody paid for: ALLOW_IOVAS of everything
 * refuses each device that reserves any IOVA (io_pagetable.c, iopt_reserve_iova: EADDRINUSE), also while the pool is empty.
 * The place helps, but is not enough: most IOMMUs do not translate 1<<63, virtio's has all 64 bits (seen). Neither stops
 * software (mdev) devices, which reserve nothing: the model pays for all that is here while there is one (software_sees_all). */
int vb_iommufd_pool_init(struct vb_iommufd *io, struct vb_error *e) {
    struct vb_iommu_iova_range all = {.start = 0, .last = UINT64_MAX - 1};
    struct vb_iommu_ioas_alloc alloc = {.size = sizeof(alloc)};
    struct vb_iommu_ioas_allow_iovas allow = {.size = sizeof(allow), .num_iovas = 1, .allowed_iovas = (uintptr_t)&all};
    struct vb_iommu_ioas_map_file probe = {
        .size = sizeof(probe), .flags = VB_IOMMU_MAP_FIXED_IOVA | VB_IOMMU_MAP_READABLE, .fd = -1, .length = 4096};
    int r;

    r = vb_iommufd_ioctl(io->fd, IOMMU_IOAS_ALLOC, &alloc);
    if (r < 0)
        return vb_fail(e, r, "IOAS_ALLOC of the memory pool (is this fd an iommufd?)");
    io->pool = allow.ioas_id = probe.ioas_id = alloc.out_ioas_id;
    r = vb_iommufd_ioctl(io->fd, IOMMU_IOAS_ALLOW_IOVAS, &allow);
    if (r < 0)
        return vb_fail(e, r, "ALLOW_IOVAS of the memory pool");
    /* EBADF from a kernel that knows MAP_FILE (6.13), ENOTTY from one that does not (main.c, iommufd_fops_ioctl). */
    if (io->map_file && vb_iommufd_ioctl(io->fd, IOMMU_IOAS_MAP_FILE, &probe) == -ENOTTY)
        io->map_file = false;
    return 0;
}

static int map_piece(struct vb_iommufd *io, const struct vb_iommufd_slot *s, int fd, uint64_t iova, uint64_t offset,
                     uint64_t size) {
    const uint32_t flags = VB_IOMMU_MAP_FIXED_IOVA | VB_IOMMU_MAP_READABLE | (s->writable ? VB_IOMMU_MAP_WRITEABLE : 0);

    if (s->address) {
        struct vb_iommu_ioas_map m = {.size = sizeof(m),
                                      .flags = flags,
                                      .ioas_id = io->pool,
                                      .user_va = (uintptr_t)s->address + offset,
                                      .length = size,
                                      .iova = iova + offset};

        return vb_iommufd_ioctl(io->fd, IOMMU_IOAS_MAP, &m);
    }
    struct vb_iommu_ioas_map_file m = {.size = sizeof(m),
                                       .flags = flags,
                                       .ioas_id = io->pool,
                                       .fd = fd,
                                       .start = offset,
                                       .length = size,
                                       .iova = iova + offset};

    return vb_iommufd_ioctl(io->fd, IOMMU_IOAS_MAP_FILE, &m);
}

/* Whatever lies in a slot, in as many pieces as there are. */
static int empty_slot(struct vb_iommufd *io, vb_handle slot) {
    struct vb_iommu_ioas_unmap u = {.size = sizeof(u),
                                    .ioas_id = io->pool,
                                    .iova = vb_iommufd_pool_iova(slot),
                                    .length = (uint64_t)1 << SLOT_SHIFT};
    int r = vb_iommufd_ioctl(io->fd, IOMMU_IOAS_UNMAP, &u);

    return r == -ENOENT ? 0 : r; /* nothing there */
}

static void release_slot(struct vb_iommufd *io, vb_handle slot) {
    struct vb_iommufd_slot *s = &io->slots[slot];

    /* Our mapping stays until the slot is empty: the kernel may still take pages by that address. */
    if (empty_slot(io, slot) < 0 || (s->address && munmap(s->address, s->size) < 0)) {
        s->state = VB_SLOT_TOMBSTONE;
        return;
    }
    *s = (struct vb_iommufd_slot){.state = VB_SLOT_FREE};
}

static uint64_t piece_size(const struct vb_iommufd *io, const struct vb_memory_desc *d) {
    uint64_t piece;

    if (d->dma_buf)
        return d->size; /* nothing of it is pinned */
    if (d->size < PARALLEL_FROM)
        return PIECE_MAX;
    piece = d->size / (vb_workers_count(io->workers) + 1);
    piece = (piece + PIECE_ALIGN - 1) / PIECE_ALIGN * PIECE_ALIGN;
    return piece < PIECE_MAX ? piece : PIECE_MAX;
}

/* Device memory is neither pinned nor paid, so what is said to be a dma-buf has to be one. MAP_FILE looks only at which file
 * operations a file has (dma-buf.c, dma_buf_get), which no file system of a client's can answer or delay, but takes any
 * other file too, and asks what it is when it pins (pages.c, iopt_alloc_file_pages). What tells: only for a dma-buf it
 * compares with the size at once (pages.c, iopt_alloc_dmabuf_pages), so a page behind the end of everything is EINVAL.
 *
 * The exporter revokes it when the device is reset, loses its memory enable bit or is closed: the kernel takes it out of all
 * page tables at once (pages.c, iopt_revoke_notify), for good, also if the exporter's device comes back. Our mappings of it stay
 * where they are, can be mapped again and unmapped, and show nothing any more. */
static int check_dma_buf(struct vb_iommufd *io, const struct vb_memory_desc *d, vb_handle slot, struct vb_error *e) {
    const uint64_t iova = vb_iommufd_pool_iova(slot);
    struct vb_iommu_ioas_map_file probe = {.size = sizeof(probe),
                                           .flags = VB_IOMMU_MAP_FIXED_IOVA | VB_IOMMU_MAP_READABLE,
                                           .ioas_id = io->pool,
                                           .fd = d->fd,
                                           .start = NOWHERE,
                                           .length = (uint64_t)sysconf(_SC_PAGESIZE),
                                           .iova = iova};
    int r;

    if (!io->map_file)
        return vb_refuse(e, VB_UNSUPPORTED, "this kernel does not map dma-bufs: Linux 6.19 does");
    r = vb_iommufd_ioctl(io->fd, IOMMU_IOAS_MAP_FILE, &probe);
    if (r == -EINVAL)
        return 0;
    if (r == 0)
        return vb_refuse(e, VB_BAD_MEMORY,
                         "this is no dma-buf, or this kernel does not map them (Linux 6.19 does); other files are "
                         "registered without a dma-buf's size");
    return vb_fail(e, r, "MAP_FILE of a dma-buf");
}

static int dma_buf_error(const struct vb_memory_desc *d, int r, struct vb_error *e) {
    switch (r) {
    case -EOPNOTSUPP: /* vfio_pci_dmabuf.c, vfio_pci_dma_buf_iommufd_map */
        return vb_refuse(e, VB_UNSUPPORTED,
                         "this dma-buf was not exported by vfio-pci, or consists of several ranges; one range of one "
                         "BAR can be mapped");
    case -ENODEV:
        return vb_refuse(e, VB_BAD_MEMORY,
                         "this dma-buf is revoked: its device was reset or closed, or its memory is switched off");
    case -EINVAL:
        return vb_refuse(e, VB_BAD_MEMORY, "this dma-buf has fewer than %s", VB_SIZE(d->size));
    default:
        return r;
    }
}

int vb_iommufd_memory_add(struct vb_backend *b, const struct vb_memory_desc *d, vb_handle *ret, struct vb_error *e) {
    struct vb_iommufd *io = (struct vb_iommufd *)b;
    uint64_t offset, size;
    vb_handle slot;
    int r;

    for (slot = 0; slot < VB_MEMORIES_MAX && io->slots[slot].state != VB_SLOT_FREE; slot++)
        ;
    if (slot == VB_MEMORIES_MAX)
        return vb_refuse(e, VB_LIMIT, "no slot of the pool is free for one more memory");
    io->slots[slot] = (struct vb_iommufd_slot){.state = VB_SLOT_USED,
                                               .writable = d->writable,
                                               .dma_buf = d->dma_buf,
                                               .size = d->size,
                                               .piece = piece_size(io, d)};
    if (d->dma_buf) {
        r = check_dma_buf(io, d, slot, e);
        if (r != 0) {
            release_slot(io, slot);
            return r;
        }
    } else if (!io->map_file) {
        /* Never touched by us: the kernel takes the pages through it (pages.c, pin_user_pages_remote). */
        void *p =
            mmap(NULL, d->size, d->writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | MAP_NORESERVE, d->fd, 0);

        if (p == MAP_FAILED) {
            r = vb_fail(e, -errno, "mmap of %s of memory", VB_SIZE(d->size));
            io->slots[slot].state = VB_SLOT_FREE;
            return r;
        }
        io->slots[slot].address = p;
    }
    for (offset = 0; offset < d->size; offset += size) {
        size = d->size - offset < io->slots[slot].piece ? d->size - offset : io->slots[slot].piece;
        r = map_piece(io, &io->slots[slot], d->fd, vb_iommufd_pool_iova(slot), offset, size);
        if (r < 0 && d->dma_buf)
            r = dma_buf_error(d, r, e);
        if (r != 0) {
            if (r < 0)
                vb_fail(e, r, "%s of %s at offset 0x%" PRIx64 " into the pool, slot %" PRIu64,
                        io->map_file ? "MAP_FILE" : "IOAS_MAP", VB_SIZE(size), offset, slot);
            release_slot(io, slot);
            return r;
        }
    }
    *ret = slot;
    return 0;
}

void vb_iommufd_memory_remove(struct vb_backend *b, vb_handle memory) {
    release_slot((struct vb_iommufd *)b, memory);
}

void vb_iommufd_pool_tick(struct vb_iommufd *io) {
    vb_handle slot;

    for (slot = 0; slot < VB_MEMORIES_MAX; slot++)
        if (io->slots[slot].state == VB_SLOT_TOMBSTONE)
            release_slot(io, slot);
}

uint32_t vb_iommufd_pool_leftovers(const struct vb_iommufd *io) {
    uint32_t n = 0;
    vb_handle slot;

    for (slot = 0; slot < VB_MEMORIES_MAX; slot++)
        n += io->slots[slot].state == VB_SLOT_TOMBSTONE;
    return n;
}
