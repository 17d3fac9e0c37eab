/* Memories of the type1 backend: see type1.h. MAP_DMA takes pages by address, so each memory is mapped here once, whole, and
 * never touched by us: what the kernel pins it takes through this mapping (vfio_iommu_type1.c, vaddr_get_pfns). */
#include <errno.h>
#include <inttypes.h>
#include <sys/mman.h>

#include "backend/type1-private.h"

int vb_type1_memory_add(struct vb_backend *b, const struct vb_memory_desc *d, vb_handle *ret, struct vb_error *e) {
    struct vb_type1 *t = (struct vb_type1 *)b;
    struct vb_type1_memory *m;
    vb_handle i;
    void *p;

    if (d->dma_buf)
        return vb_refuse(
            e, VB_UNSUPPORTED,
            "a dma-buf cannot be mapped here: VFIO type1 maps by address, and has no way for device memory; "
            "it takes iommufd on Linux 6.19 or later");
    for (i = 0; i < VB_MEMORIES_MAX && t->memories[i].address; i++)
        ;
    if (i == VB_MEMORIES_MAX)
        return vb_refuse(e, VB_LIMIT, "no room for one more memory, there are %u", VB_MEMORIES_MAX);
    p = mmap(NULL, d->size, d->writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | MAP_NORESERVE, d->fd, 0);
    if (p == MAP_FAILED)
        return vb_fail(e, -errno, "mmap of %s of memory", VB_SIZE(d->size));
    m = &t->memories[i];
    *m = (struct vb_type1_memory){.address = p, .size = d->size, .writable = d->writable};
    *ret = i;
    return 0;
}

void vb_type1_memory_remove(struct vb_backend *b, vb_handle memory) {
    struct vb_type1_memory *m = &((struct vb_type1 *)b)->memories[memory];

    if (munmap(m->address, m->size) < 0) { /* ENOMEM */
        m->tombstone = true;
        return;
    }
    *m = (struct vb_type1_memory){.address = NULL};
}

void vb_type1_memory_tick(struct vb_type1 *t) {
    vb_handle i;

    for (i = 0; i < VB_MEMORIES_MAX; i++)
        if (t->memories[i].tombstone)
            vb_type1_memory_remove(&t->backend, i);
}

uint32_t vb_type1_memory_leftovers(const struct vb_type1 *t) {
    uint32_t i, n = 0;

    for (i = 0; i < VB_MEMORIES_MAX; i++)
        n += t->memories[i].tombstone;
    return n;
}
