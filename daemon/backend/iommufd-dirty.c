/* Dirty tracking of the iommufd backend: each HWPT of the domain tracks what its devices write, and a page is dirty if any of
 * them says so. Only the hardware's own bits count, so nothing is coarse; but neighbouring pages of memory may have one entry in
 * the page tables, and then are dirty together.
 *
 * Not tracked is what a client does behind our back: its device attached to the IOAS instead (the kernel then makes an HWPT that
 * cannot). That is its own loss. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/iommufd-private.h"
#include "proto/cleanup.h"

/* On clears what was dirty: io_pagetable.c, iopt_set_dirty_tracking. */
int vb_iommufd_dirty_track(struct vb_iommufd *io, uint32_t hwpt, bool on) {
    struct vb_iommu_set_dirty_tracking t = {
        .size = sizeof(t), .flags = on ? VB_IOMMU_DIRTY_ENABLE : 0, .hwpt_id = hwpt};

    return vb_iommufd_ioctl(io->fd, IOMMU_HWPT_SET_DIRTY_TRACKING, &t);
}

/* The last one is tried again: an HWPT that goes on tracking is only slower. */
static void all_off(struct vb_iommufd *io, struct vb_iommufd_domain *dom) {
    uint32_t i;

    for (i = 0; i < io->n_hwpts; i++)
        if (io->hwpts[i].ioas == dom->ioas && io->hwpts[i].dirty && vb_iommufd_dirty_track(io, io->hwpts[i].id, false))
            vb_iommufd_dirty_track(io, io->hwpts[i].id, false);
    dom->dirty = false;
    vb_iommufd_hwpt_sweep(io);
}

static int check_devices(const struct vb_iommufd *io, uint32_t ioas, struct vb_error *e) {
    vb_handle i;

    for (i = 0; i < VB_IOMMUFD_DEVICES; i++) {
        const struct vb_iommufd_device *d = &io->devices[i];

        if (d->state != VB_IOMMUFD_OPEN || d->ioas != ioas || d->dirty)
            continue;
        if (d->software)
            return vb_refuse(e, VB_UNSUPPORTED,
                             "%s is a software device, and what it writes is not tracked; detach it first", d->address);
        return vb_refuse(e, VB_UNSUPPORTED,
                         "the IOMMU of %s has no dirty tracking (or the kernel knows of none); detach it first, or "
                         "or treat every page as written",
                         d->address);
    }
    return 0;
}

int vb_iommufd_dirty_set(struct vb_backend *b, vb_handle domain, bool on, struct vb_dirty_info *ret,
                         struct vb_error *e) {
    struct vb_iommufd *io = (struct vb_iommufd *)b;
    struct vb_iommufd_domain *dom = vb_iommufd_domain(io, domain);
    uint32_t i;
    int r;

    if (!on) {
        all_off(io, dom);
        return 0;
    }
    r = check_devices(io, dom->ioas, e);
    /* On already: all track, and may know of pages that nobody has read yet, which on would clear. */
    for (i = 0; i < io->n_hwpts && r == 0 && !dom->dirty; i++) {
        const struct vb_iommufd_hwpt *h = &io->hwpts[i];

        if (h->ioas != dom->ioas ||
            (!h->dirty && h->devices == 0)) /* a leftover that can has to: it may be used again */
            continue;
        r = h->dirty ? vb_iommufd_dirty_track(io, h->id, true) : -EOPNOTSUPP;
        if (r < 0)
            r = vb_fail(e, r, "dirty tracking of HWPT %" PRIu32 " of IOAS %" PRIu32, h->id, dom->ioas);
    }
    if (r != 0) {
        if (!dom->dirty)
            all_off(io, dom);
        return r;
    }
    dom->dirty = true;
    /* IOMMU pages are never larger than the host's (io_pagetable.c, iopt_table_add_domain), and mappings are of host pages. */
    if (ret)
        *ret = (struct vb_dirty_info){.page_size = (uint64_t)sysconf(_SC_PAGESIZE)};
    return 0;
}

/* Into memory of our own that is there already: the kernel ignores it when it cannot reach the bitmap, and the bits that it has
 * cleared by then are lost; and when it meets what is not mapped it stops without a word (io_pagetable.c,
 * iommu_read_and_clear_dirty), so a range has no gaps. The kernel ORs too (iova_bitmap.c, iova_bitmap_set). */
int vb_iommufd_dirty_read(struct vb_backend *b, vb_handle domain, struct vb_range range, uint64_t page, bool keep,
                          uint64_t *bitmap, struct vb_error *e) {
    struct vb_iommufd *io = (struct vb_iommufd *)b;
    const struct vb_iommufd_domain *dom = vb_iommufd_domain(io, domain);
    const uint64_t words = (vb_range_size(range) / page + 63) / 64;
    VB_FREE uint64_t *bits = malloc(words * sizeof(*bits));
    uint64_t k;
    uint32_t i;
    int r = 0;

    if (!bits)
        return vb_fail(e, -ENOMEM, "bitmap of 0x%" PRIx64 "-0x%" PRIx64, range.first, range.last);
    explicit_bzero(bits, words * sizeof(*bits)); /* which no compiler makes a calloc() of */
    for (i = 0; i < io->n_hwpts && r == 0; i++) {
        struct vb_iommu_get_dirty_bitmap g = {.size = sizeof(g),
                                              .hwpt_id = io->hwpts[i].id,
                                              .flags = keep ? VB_IOMMU_DIRTY_NO_CLEAR : 0,
                                              .iova = range.first,
                                              .length = vb_range_size(range),
                                              .page_size = page,
                                              .data = (uintptr_t)bits};

        if (io->hwpts[i].ioas != dom->ioas || !io->hwpts[i].dirty)
            continue;
        r = vb_iommufd_ioctl(io->fd, IOMMU_HWPT_GET_DIRTY_BITMAP, &g);
        if (r < 0)
            vb_fail(e, r, "GET_DIRTY_BITMAP of 0x%" PRIx64 "-0x%" PRIx64 " in HWPT %" PRIu32, range.first, range.last,
                    io->hwpts[i].id);
    }
    for (k = 0; k < words; k++) /* after a failure too: what was read is cleared */
        bitmap[k] |= bits[k];
    return r;
}
