/* HWPTs of the iommufd backend: the page tables that an IOAS is shown through, one for each kind of IOMMU under it. Allocated
 * by us, since those that the kernel makes for an ATTACH to the IOAS can never track dirty pages.
 *
 * Invariants: a device whose IOMMU can track is only in HWPTs that can, one whose cannot only in those that cannot, in whatever
 * order they came: so what can be tracked depends on who is attached, not on who was first. An HWPT without devices of ours
 * is destroyed; but while its domain is tracked it stays, since it may know of pages that nobody has read yet. A client that
 * attaches other devices of its own to it keeps it alive (EBUSY): it stays as a leftover, is tried again, and is used again
 * if a device of ours fits. It shows nothing but what its IOAS shows.
 *
 * NEST_PARENT is not asked for on Intel's IOMMU, though it may have it: read-only mappings fail on such an HWPT
 * (generic_pt/fmt/vtdss.h, VTDSS_FORCE_WRITEABLE, for ERRATA_772415_SPR17). Elsewhere it takes no mapping away: AMD makes the
 * same tables as for DIRTY_TRACKING (amd/iommu.c, amd_iommu_domain_alloc_paging_flags), SMMUv3 does not give both at once and
 * dirty tracking goes first (arm-smmu-v3.c, arm_smmu_domain_alloc_paging_flags). */
#include <errno.h>
#include <inttypes.h>

#include "backend/iommufd-private.h"

#define BOTH (VB_IOMMU_HWPT_DIRTY_TRACKING | VB_IOMMU_HWPT_NEST_PARENT)

bool vb_iommufd_has_hwpt(const struct vb_iommufd *io, uint32_t ioas) {
    uint32_t i;

    for (i = 0; i < io->n_hwpts; i++)
        if (io->hwpts[i].ioas == ioas)
            return true;
    return false;
}

static bool is_kept(const struct vb_iommufd *io, const struct vb_iommufd_hwpt *h) {
    const struct vb_iommufd_domain *dom = vb_iommufd_domain((struct vb_iommufd *)io, h->ioas);

    return h->devices > 0 || (dom && dom->dirty && h->dirty);
}

void vb_iommufd_hwpt_sweep(struct vb_iommufd *io) {
    uint32_t i = 0;
    int r;

    while (i < io->n_hwpts) {
        r = is_kept(io, &io->hwpts[i]) ? -EBUSY : vb_iommufd_destroy(io, io->hwpts[i].id);
        if (r == 0 || r == -ENOENT)
            io->hwpts[i] = io->hwpts[--io->n_hwpts];
        else
            i++;
    }
}

uint32_t vb_iommufd_hwpt_leftovers(const struct vb_iommufd *io) {
    uint32_t i, n = 0;

    for (i = 0; i < io->n_hwpts; i++)
        n += !is_kept(io, &io->hwpts[i]);
    return n;
}

void vb_iommufd_hwpt_left(struct vb_iommufd *io, struct vb_iommufd_device *d) {
    uint32_t i;

    for (i = 0; i < io->n_hwpts; i++)
        if (d->hwpt && io->hwpts[i].id == d->hwpt)
            io->hwpts[i].devices--;
    d->hwpt = d->ioas = 0;
    vb_iommufd_hwpt_sweep(io);
}

int vb_iommufd_attach_error(const struct vb_iommufd_device *d, uint32_t ioas, int r, struct vb_error *e) {
    switch (r) {
    case -ENOMEM: /* pages.c, iopt_pages... charge against RLIMIT_MEMLOCK; or no memory for page tables */
        return vb_fail(e, r,
                       "attaching %s to IOAS %" PRIu32
                       ": pinning the space's memory passes the session's RLIMIT_MEMLOCK, "
                       "or the kernel has no memory",
                       d->address, ioas);
    case -EADDRINUSE: /* io_pagetable.c, iopt_reserve_iova and iopt_check_iova_alignment */
        return vb_refuse(
            e, VB_RESERVED,
            "%s cannot be attached: a mapping of the space, or a range that it needs, lies in a region that "
            "the device reserves or beyond what its IOMMU can address, or is not aligned to its page size; "
            "unmap it first",
            d->address);
    case -EOPNOTSUPP:
    case -EINVAL: /* the device's IOMMU cannot use the domain, or a file has shrunk (mm/gup.c, memfd_pin_folios), for which
                     the model looks just before */
        return vb_refuse(
            e, VB_UNSUPPORTED,
            "%s cannot be attached: its IOMMU has no page tables that fit, or a device of its IOMMU group is "
            "attached elsewhere; use a space of its own, or detach that one",
            d->address);
    case -EFAULT: /* the same by address: mm/gup.c, pin_user_pages */
        return vb_refuse(e, VB_BAD_MEMORY,
                         "%s cannot be attached: memory of the space cannot be pinned; was its file truncated?",
                         d->address);
    default:
        return vb_fail(e, r, "attaching %s to IOAS %" PRIu32, d->address, ioas);
    }
}

/* Replaces what the client may have attached. */
static int attach(const struct vb_iommufd_device *d, uint32_t hwpt) {
    struct vb_vfio_attach a = {.argsz = sizeof(a), .pt_id = hwpt};

    return vb_iommufd_ioctl(d->fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &a);
}

/* Everything of the IOAS is mapped in it, and so pinned, before it is ours to see (hw_pagetable.c, iommufd_hwpt_paging_alloc). */
static int alloc(struct vb_iommufd *io, const struct vb_iommufd_device *d, uint32_t ioas, struct vb_iommufd_hwpt *ret) {
    static const uint32_t tries[] = {BOTH, VB_IOMMU_HWPT_DIRTY_TRACKING, VB_IOMMU_HWPT_NEST_PARENT, 0};
    int r = -EOPNOTSUPP;
    size_t i;

    for (i = 0; i < sizeof(tries) / sizeof(*tries) && (r == -EOPNOTSUPP || r == -EINVAL); i++) {
        struct vb_iommu_hwpt_alloc a = {.size = sizeof(a), .flags = tries[i], .dev_id = d->devid, .pt_id = ioas};

        if ((tries[i] & VB_IOMMU_HWPT_DIRTY_TRACKING && !d->dirty) || (tries[i] & VB_IOMMU_HWPT_NEST_PARENT && d->vtd))
            continue;
        r = vb_iommufd_ioctl(io->fd, IOMMU_HWPT_ALLOC, &a);
        if (r == 0)
            *ret = (struct vb_iommufd_hwpt){
                .id = a.out_hwpt_id, .ioas = ioas, .dirty = tries[i] & VB_IOMMU_HWPT_DIRTY_TRACKING};
    }
    return r;
}

static void drop(struct vb_iommufd *io, uint32_t id) {
    uint32_t i;

    for (i = 0; i < io->n_hwpts; i++)
        if (io->hwpts[i].id == id && vb_iommufd_destroy(io, id) == 0) {
            io->hwpts[i] = io->hwpts[--io->n_hwpts];
            return;
        }
}

/* On the list, also on failure if *ret is set. */
static int make(struct vb_iommufd *io, const struct vb_iommufd_device *d, const struct vb_iommufd_domain *dom,
                struct vb_iommufd_hwpt **ret, struct vb_error *e) {
    struct vb_iommufd_hwpt h = {0};
    int r;

    if (io->n_hwpts == VB_IOMMUFD_HWPTS)
        vb_iommufd_hwpt_sweep(io);
    if (io->n_hwpts == VB_IOMMUFD_HWPTS)
        return vb_refuse(e, VB_LIMIT, "%u HWPTs exist, and devices that were attached to them hold them",
                         VB_IOMMUFD_HWPTS);
    r = alloc(io, d, dom->ioas, &h);
    if (r < 0)
        return vb_iommufd_attach_error(d, dom->ioas, r, e);
    vb_iommufd_id_taken(io, h.id);
    *ret = &io->hwpts[io->n_hwpts++];
    **ret = h;
    if (h.id > VB_IOMMUFD_IDS) /* a holding session could not find it; ids are the lowest free ones */
        return vb_refuse(e, VB_LIMIT, "the iommufd context has more than %u objects", VB_IOMMUFD_IDS);
    if (!dom->dirty)
        return 0;
    r = h.dirty ? vb_iommufd_dirty_track(io, h.id, true) : -EOPNOTSUPP;
    return r < 0 ? vb_fail(e, r, "dirty tracking of HWPT %" PRIu32 " for %s", h.id, d->address) : 0;
}

static int attach_new(struct vb_iommufd *io, struct vb_iommufd_device *d, const struct vb_iommufd_domain *dom,
                      struct vb_iommufd_hwpt **ret, struct vb_error *e) {
    int r;

    *ret = NULL;
    r = make(io, d, dom, ret, e);
    if (r == 0) {
        r = attach(d, (*ret)->id);
        if (r < 0)
            r = vb_iommufd_attach_error(d, dom->ioas, r, e);
    }
    if (r != 0 && *ret)
        drop(io, (*ret)->id);
    return r;
}

int vb_iommufd_hwpt_attach(struct vb_iommufd *io, struct vb_iommufd_device *d, const struct vb_iommufd_domain *dom,
                           struct vb_error *e) {
    struct vb_iommufd_hwpt *h = NULL;
    const uint32_t before = d->hwpt;
    uint32_t i;
    int r = -EINVAL; /* device.c, iommufd_device_auto_get_domain: this domain is not for this device */

    for (i = 0; i < io->n_hwpts && r == -EINVAL; i++) {
        if (io->hwpts[i].ioas != dom->ioas || io->hwpts[i].dirty != d->dirty)
            continue;
        r = attach(d, io->hwpts[i].id);
        h = &io->hwpts[i];
    }
    if (r == -EINVAL)
        r = attach_new(io, d, dom, &h, e);
    else if (r < 0)
        r = vb_iommufd_attach_error(d, dom->ioas, r, e);
    if (r != 0) {
        vb_iommufd_hwpt_sweep(io);
        return r;
    }
    h->devices++;
    for (i = 0; i < io->n_hwpts; i++) /* the one that this replaces */
        if (before && io->hwpts[i].id == before)
            io->hwpts[i].devices--;
    d->hwpt = h->id;
    d->ioas = dom->ioas;
    vb_iommufd_hwpt_sweep(io);
    return 0;
}
