/* Dirty tracking of the type1 backend (VFIO_IOMMU_DIRTY_PAGES, Linux 5.8 and later).
 *
 * The IOMMU tells nothing here: the kernel calls every mapped page dirty while a group is in the container whose driver does
 * not pin by itself (vfio_iommu_type1.c, update_user_bitmap), and again at each reading. So nothing can be lost, and `keep` needs
 * no trick. Where all devices are software the kernel knows exactly, and forgets by being asked; with `keep` we do not ask then,
 * and call everything dirty.
 *
 * A second reading of the same bitmaps would find bits behind mappings too: the kernel shifts an entry's bitmap to its place in the
 * answer, and clears only what it had before (the same function). So they are made anew in between, which costs a bit for each
 * page mapped; not for software, which would lose what was dirty.
 *
 * A range may not cut an entry of the kernel, so it is widened to whole runs, and what is too much is dropped. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "backend/type1-private.h"

static struct vb_type1_container *container_of(struct vb_backend *b, vb_handle domain) {
    return &((struct vb_type1 *)b)->containers[domain];
}

static int switch_to(struct vb_type1_container *c, uint32_t flag) {
    struct vfio_iommu_type1_dirty_bitmap d = {.argsz = sizeof(d), .flags = flag};

    return vb_type1_ioctl(c->fd, VFIO_IOMMU_DIRTY_PAGES, &d);
}

/* If the kernel should not do it, it goes on to keep bitmaps that nobody reads; a START then is none, which does no harm. */
void vb_type1_dirty_stop(struct vb_type1_container *c) {
    switch_to(c, VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP);
    c->dirty = false;
}

int vb_type1_dirty_set(struct vb_backend *b, vb_handle domain, bool on, struct vb_dirty_info *ret, struct vb_error *e) {
    struct vb_type1_container *c = container_of(b, domain);
    struct vb_type1_info info;
    char devices[160];
    int r;

    if (c->dirty)
        vb_type1_dirty_stop(c);
    if (!on)
        return 0;
    r = vb_type1_container_info(c, &info, e);
    if (r != 0)
        return r;
    if (info.has_dirty)
        r = switch_to(c, VFIO_IOMMU_DIRTY_PAGES_FLAG_START);
    if (!info.has_dirty || r == -ENOTTY || r == -EOPNOTSUPP) {
        vb_type1_container_devices((struct vb_type1 *)b, c, devices, sizeof(devices));
        return vb_refuse(e, VB_UNSUPPORTED, "the container of %s has no dirty tracking%s", devices,
                         c->iommufd ? ": iommufd's compatibility mode leaves it out" : "");
    }
    if (r < 0)
        return vb_fail(e, r, "starting dirty tracking%s",
                       r == -ENOMEM ? ": the kernel has no memory for its bitmaps, a bit for each page" : "");
    c->dirty = true;
    c->dirty_used = false;
    c->dirty_page = info.dirty_page;
    c->dirty_bytes_max = info.dirty_bytes_max;
    *ret = (struct vb_dirty_info){.page_size = info.dirty_page, .coarse = true};
    return 0;
}

/* Not when what is read lies behind all that was read since: renewing costs all bitmaps, and one pass over many mappings reads
 * upwards. */
static int renew_bitmaps(struct vb_type1_container *c, uint64_t first) {
    int r;

    if (!c->dirty_used || first > c->dirty_last)
        return 0;
    r = switch_to(c, VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP);
    if (r >= 0)
        r = switch_to(c, VFIO_IOMMU_DIRTY_PAGES_FLAG_START); /* if it fails, it is tried again by the next reading */
    if (r >= 0)
        c->dirty_used = false;
    return r;
}

static bool software_only(const struct vb_type1 *t, const struct vb_type1_container *c) {
    uint32_t i;

    for (i = 0; i < VB_TYPE1_DEVICES; i++)
        if (t->devices[i].state == VB_TYPE1_OPEN && !t->devices[i].software &&
            &t->containers[t->groups[t->devices[i].group].container] == c)
            return false;
    return true;
}

static void set_bits(uint64_t *bitmap, uint64_t first, uint64_t last) {
    uint64_t i;

    for (i = first; i <= last; i++)
        bitmap[i / 64] |= (uint64_t)1 << (i % 64);
}

/* found: a bit for each of the kernel's pages, from `at` on. */
static void take(const uint64_t *found, uint64_t words, uint64_t at, uint64_t kernel_page, struct vb_range range,
                 uint64_t page, uint64_t *bitmap) {
    uint64_t i, bits;

    for (i = 0; i < words; i++) {
        if (page == kernel_page && at == range.first) {
            bitmap[i] |= found[i];
            continue;
        }
        for (bits = found[i]; bits; bits &= bits - 1) {
            const uint64_t iova = at + (i * 64 + (uint64_t)__builtin_ctzll(bits)) * kernel_page;

            if (iova >= range.first && iova <= range.last)
                bitmap[(iova - range.first) / page / 64] |= (uint64_t)1 << ((iova - range.first) / page % 64);
        }
    }
}

int vb_type1_dirty_read(struct vb_backend *b, vb_handle domain, struct vb_range range, uint64_t page, bool keep,
                        uint64_t *bitmap, struct vb_error *e) {
    struct vb_type1_container *c = container_of(b, domain);
    union { /* what is asked follows the structure */
        struct vfio_iommu_type1_dirty_bitmap head;
        char bytes[sizeof(struct vfio_iommu_type1_dirty_bitmap) + sizeof(struct vfio_iommu_type1_dirty_bitmap_get)];
    } request = {.head = {.argsz = sizeof(request.bytes), .flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP}};
    const struct vb_type1_run *left = vb_type1_run_at(c, range.first), *right = vb_type1_run_at(c, range.last);
    struct vb_range whole = {left ? left->iova.first : range.first, right ? right->iova.last : range.last};
    const bool software = software_only((struct vb_type1 *)b, c);
    uint64_t pages, bytes, *found;
    int r;

    if (!c->dirty)
        return 0;
    if (keep && software) {
        set_bits(bitmap, 0, (range.last - range.first) / page);
        return 0;
    }
    pages = (whole.last - whole.first) / c->dirty_page + 1;
    bytes = (pages + 63) / 64 * 8;
    if (bytes > c->dirty_bytes_max || vb_range_size(whole) == 0)
        return vb_refuse(e, VB_LIMIT,
                         "0x%" PRIx64 "-0x%" PRIx64 " takes a bitmap of %s, and the kernel's limit for VFIO type1 is "
                         "%s at %s a page; read it in smaller ranges",
                         range.first, range.last, VB_SIZE(bytes), VB_SIZE(c->dirty_bytes_max), VB_SIZE(c->dirty_page));
    found = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED)
        return vb_fail(e, -errno, "dirty bitmap of %s", VB_SIZE(bytes));
    const struct vfio_iommu_type1_dirty_bitmap_get get = {
        .iova = whole.first,
        .size = vb_range_size(whole),
        .bitmap = {.pgsize = c->dirty_page, .size = bytes, .data = (void *)found}};
    memcpy(request.bytes + sizeof(request.head), &get, sizeof(get));
    r = software ? 0 : renew_bitmaps(c, whole.first);
    if (r >= 0) {
        c->dirty_used = true;
        c->dirty_last = whole.last;
        r = vb_type1_ioctl(c->fd, VFIO_IOMMU_DIRTY_PAGES, &request);
    }
    if (r >= 0)
        take(found, bytes / 8, whole.first, c->dirty_page, range, page, bitmap);
    munmap(found, bytes);
    return r < 0 ? vb_fail(e, r, "reading what is dirty of 0x%" PRIx64 "-0x%" PRIx64, range.first, range.last) : 0;
}
