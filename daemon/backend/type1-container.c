/* Containers of the type1 backend: what they can do, and emptying them. See type1.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/type1-private.h"
#include "proto/cleanup.h"

/* Linux before 5.10 does not say how many entries are left (VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL): the default of dma_entry_limit. */
#define ENTRIES_DEFAULT 65535u

int vb_type1_container_new(struct vb_type1 *t, int fd, uint32_t *ret, struct vb_error *e) {
    uint32_t i;

    for (i = 0; i < VB_TYPE1_DEVICES && t->containers[i].fd >= 0; i++)
        ;
    if (i == VB_TYPE1_DEVICES) {
        close(fd);
        return vb_refuse(e, VB_LIMIT,
                         "no room for one more container: too many released devices are still open; "
                         "close all copies of their fds");
    }
    t->containers[i] = (struct vb_type1_container){
        .fd = fd, .iommufd = vb_type1_is_iommufd(fd), .limit = ENTRIES_DEFAULT, .avail = ENTRIES_DEFAULT};
    *ret = i;
    return 0;
}

void vb_type1_container_close(struct vb_type1_container *c) {
    vb_type1_runs_clear(c);
    free(c->ids);
    close(c->fd);
    *c = (struct vb_type1_container){.fd = -1};
}

/* ---- VFIO_IOMMU_GET_INFO ---- */

/* Capabilities need not be aligned: one lies behind the 12 bytes of another (seen with Linux 6.1; newer ones align them, vfio_main.c,
 * vfio_info_cap_add). */
static void read_ranges(const char *p, size_t room, struct vb_space_info *ret) {
    struct vfio_iommu_type1_info_cap_iova_range c;
    struct vfio_iova_range range;
    uint32_t i;

    if (room < sizeof(c))
        return;
    memcpy(&c, p, sizeof(c));
    for (i = 0; i < c.nr_iovas && i < VB_REGIONS_MAX; i++) { /* those beyond are not used */
        if (room - sizeof(c) < (i + 1) * sizeof(range))
            return;
        memcpy(&range, p + sizeof(c) + i * sizeof(range), sizeof(range));
        ret->usable[ret->n_usable++] = (struct vb_range){range.start, range.end};
    }
}

static void read_capability(const char *p, uint16_t id, size_t room, struct vb_type1_info *ret) {
    struct vfio_iommu_type1_info_cap_migration migration;
    struct vfio_iommu_type1_info_dma_avail avail;

    switch (id) {
    case VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE:
        ret->space.n_usable = 0;
        read_ranges(p, room, &ret->space);
        break;
    case VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL:
        if (room < sizeof(avail))
            break;
        memcpy(&avail, p, sizeof(avail));
        ret->has_avail = true;
        ret->avail = avail.avail;
        break;
    case VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION:
        if (room < sizeof(migration))
            break;
        memcpy(&migration, p, sizeof(migration));
        ret->has_dirty = migration.pgsize_bitmap != 0;
        ret->dirty_page = migration.pgsize_bitmap & -migration.pgsize_bitmap;
        ret->dirty_bytes_max = migration.max_dirty_bitmap_size;
        break;
    }
}

/* The chain of capabilities lies behind the structure; offsets count from its beginning. */
static int get_info(int fd, struct vfio_iommu_type1_info **ret) {
    uint32_t size = 4096;
    int r, i;

    for (i = 0; i < 3; i++) {
        VB_FREE struct vfio_iommu_type1_info *info = calloc(1, size);

        if (!info)
            return -ENOMEM;
        info->argsz = size;
        r = vb_type1_ioctl(fd, VFIO_IOMMU_GET_INFO, info);
        if (r < 0)
            return r;
        if (info->argsz <= size) {
            info->argsz = size;
            *ret = vb_steal_ptr(&info);
            return 0;
        }
        size = info->argsz;
    }
    return -E2BIG;
}

int vb_type1_container_info(struct vb_type1_container *c, struct vb_type1_info *ret, struct vb_error *e) {
    VB_FREE struct vfio_iommu_type1_info *info = NULL;
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    struct vfio_info_cap_header header;
    uint32_t at;
    int r = get_info(c->fd, &info);

    if (r < 0)
        return vb_fail(e, r, "VFIO_IOMMU_GET_INFO");
    memset(ret, 0, sizeof(*ret));
    /* We pay by pages, so what is smaller is not offered. */
    ret->space.page_sizes = info->flags & VFIO_IOMMU_INFO_PGSIZES ? info->iova_pgsizes & -page : 0;
    if (!ret->space.page_sizes)
        ret->space.page_sizes = -page;
    at = info->flags & VFIO_IOMMU_INFO_CAPS ? info->cap_offset : 0;
    while (at >= sizeof(*info) && at <= info->argsz - sizeof(header)) {
        memcpy(&header, (const char *)info + at, sizeof(header));
        read_capability((const char *)info + at, header.id, info->argsz - at, ret);
        if (header.next <= at) /* 0: the last one */
            break;
        at = header.next;
    }
    /* A container with software devices only has no ranges (vfio_iommu_type1.c, vfio_iommu_iova_build_caps). */
    if (!ret->space.n_usable)
        ret->space.usable[ret->space.n_usable++] = (struct vb_range){0, UINT64_MAX};
    return 0;
}

bool vb_type1_container_ask(struct vb_type1_container *c) {
    struct vb_type1_info info;

    if (vb_type1_container_info(c, &info, NULL) != 0 || !info.has_avail)
        return false;
    c->avail = info.avail;
    c->unmapped = false;
    return true;
}

/* ---- emptying ---- */

/* VFIO_DMA_UNMAP_FLAG_ALL is there since 5.12. Without it all but the last page, and that: nothing lies across (an unmap that
 * cuts an entry is refused), since no IOMMU of such a kernel translates the end of 64 bits. */
static int unmap_everything(int fd) {
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    struct vfio_iommu_type1_dma_unmap u = {.argsz = sizeof(u), .flags = VFIO_DMA_UNMAP_FLAG_ALL};
    int r = vb_type1_ioctl(fd, VFIO_IOMMU_UNMAP_DMA, &u);

    if (r == -EFAULT) { /* done, or not: only the answer could not be written. It does no harm twice */
        u = (struct vfio_iommu_type1_dma_unmap){.argsz = sizeof(u), .flags = VFIO_DMA_UNMAP_FLAG_ALL};
        r = vb_type1_ioctl(fd, VFIO_IOMMU_UNMAP_DMA, &u);
    }
    if (r != -EINVAL)
        return r;
    u = (struct vfio_iommu_type1_dma_unmap){.argsz = sizeof(u), .size = -page};
    r = vb_type1_ioctl(fd, VFIO_IOMMU_UNMAP_DMA, &u);
    if (r < 0 && r != -ENOENT)
        return r;
    u = (struct vfio_iommu_type1_dma_unmap){.argsz = sizeof(u), .iova = -page, .size = page};
    r = vb_type1_ioctl(fd, VFIO_IOMMU_UNMAP_DMA, &u);
    return r == -ENOENT ? 0 : r; /* the compatibility container: nothing was there */
}

int vb_type1_container_unmap(struct vb_type1_container *c) {
    int r = unmap_everything(c->fd);

    if (r < 0)
        return r;
    vb_type1_runs_clear(c);
    c->unmapped = true;
    return 0;
}

int vb_type1_container_empty(struct vb_type1_container *c) {
    int r;

    if (c->dirty)
        vb_type1_dirty_stop(c);
    r = vb_type1_container_unmap(c);
    c->full = r < 0;
    return r;
}

/* ---- for people ---- */

void vb_type1_container_devices(struct vb_type1 *t, const struct vb_type1_container *c, char *buf, size_t size) {
    size_t used = 0;
    uint32_t i;

    buf[0] = 0;
    for (i = 0; i < VB_TYPE1_DEVICES; i++) {
        const struct vb_type1_device *d = &t->devices[i];

        if (d->state == VB_TYPE1_OPEN && &t->containers[t->groups[d->group].container] == c && used < size)
            used += (size_t)snprintf(buf + used, size - used, "%s%s", used ? ", " : "", d->address);
    }
}

void vb_type1_container_text(struct vb_type1 *t, const struct vb_type1_container *c, char *buf, size_t size) {
    size_t used = (size_t)snprintf(buf, size, "container of group%s", c->groups > 1 ? "s" : "");
    bool first = true;
    uint32_t i;

    for (i = 0; i < VB_TYPE1_DEVICES && used < size; i++) {
        const struct vb_type1_group *g = &t->groups[i];

        if (g->used && g->fd >= 0 && &t->containers[g->container] == c) {
            used += (size_t)snprintf(buf + used, size - used, "%s %" PRIu32, first ? "" : ",", g->number);
            first = false;
        }
    }
    if (c->iommufd && used < size)
        snprintf(buf + used, size - used, " (iommufd)");
}
