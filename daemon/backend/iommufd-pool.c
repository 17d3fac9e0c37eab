/* The pool of the iommufd backend: see iommufd.h. Nothing here pins: pages are pinned while a domain or an access exists
 * on an IOAS that shows them (drivers/iommu/iommufd/pages.c, iopt_area_fill_domains), and the pool never has one. */
#include <errno.h>
#include <inttypes.h>
#include <sys/mman.h>

#include "backend/iommufd-private.h"

#define POOL_BASE  ((uint64_t)1 << 63)
#define SLOT_SHIFT 55 /* 256 slots end at 2^64-1 */
/* Each MAP has a page set and a mutex of its own (struct iopt_pages), so pins of different pieces can run in parallel. */
#define PIECE_SIZE ((uint64_t)16 << 30)

_Static_assert(VB_MEMORIES_MAX <= 256, "slots of the pool");
_Static_assert(VB_MEMORY_SIZE_MAX <= (uint64_t)1 << SLOT_SHIFT, "size of a slot");

uint64_t vb_iommufd_pool_iova(vb_handle slot) {
    return POOL_BASE + ((uint64_t)slot << SLOT_SHIFT);
}

/* Against a client that attaches its device to the pool, where memory is that nobody paid for: ALLOW_IOVAS of everything
 * refuses each device that reserves any IOVA (io_pagetable.c, iopt_reserve_iova: EADDRINUSE), also while the pool is empty.
 * The place helps, but is not enough: most IOMMUs do not translate 1<<63, virtio's has all 64 bits (seen). Neither stops
 * software (mdev) devices, which reserve nothing: those are refused at bind. */
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

int vb_iommufd_memory_add(struct vb_backend *b, const struct vb_memory_desc *d, vb_handle *ret, struct vb_error *e) {
    struct vb_iommufd *io = (struct vb_iommufd *)b;
    uint64_t offset, size;
    vb_handle slot;
    int r;

    for (slot = 0; slot < VB_MEMORIES_MAX && io->slots[slot].state != VB_SLOT_FREE; slot++)
        ;
    if (slot == VB_MEMORIES_MAX)
        return vb_refuse(e, VB_LIMIT, "no slot of the pool is free for one more memory");
    io->slots[slot] = (struct vb_iommufd_slot){.state = VB_SLOT_USED, .writable = d->writable, .size = d->size};
    if (!io->map_file) {
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
        size = d->size - offset < PIECE_SIZE ? d->size - offset : PIECE_SIZE;
        r = map_piece(io, &io->slots[slot], d->fd, vb_iommufd_pool_iova(slot), offset, size);
        if (r < 0) {
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
