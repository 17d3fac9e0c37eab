/* Shared by the files of the type1 backend only. */
#ifndef VB_BACKEND_TYPE1_PRIVATE_H
#define VB_BACKEND_TYPE1_PRIVATE_H

#include <linux/vfio.h>

#include "backend/type1.h"
#include "core/btree.h"

/* Released devices that somebody still has open keep their place until they are closed; so do their groups. */
#define VB_TYPE1_DEVICES (4 * VB_DEVICES_MAX)

/* One entry of the kernel for several mappings: type1-run.c. */
struct vb_type1_run {
    struct vb_range iova;
    vb_handle memory;
    uint64_t offset;
    uint32_t prot;
    bool absent; /* the kernel refused to map it again: tried again later */
};

struct vb_type1_container {
    int fd;          /* -1: this place is free */
    bool iommufd;    /* the compatibility container */
    bool full;       /* should be empty, and the kernel did not do it: a tombstone */
    bool dirty;      /* dirty tracking is on */
    bool dirty_used; /* and its bitmaps were read, up to: */
    uint64_t dirty_last;
    uint32_t groups; /* in it */
    /* Entries: the kernel's limit (dma_entry_limit; what was available at first), and a lower bound of those left. */
    uint32_t limit, avail;
    bool unmapped; /* since `avail` was asked: there may be more */
    uint64_t dirty_page, dirty_bytes_max;
    struct vb_btree runs; /* first IOVA -> struct vb_type1_run * */
    uint32_t absent;      /* runs that are */
    uint64_t *ids;        /* compat, after a take-over: bitmap of the objects that are left */
};

struct vb_type1_group {
    bool used;
    int fd; /* -1: it has left its container, and is closed; devices that we were not asked about yet refer to it */
    uint32_t number;
    uint32_t container;
    uint32_t handles; /* devices that refer to it */
};

enum vb_type1_device_state {
    VB_TYPE1_NONE,
    VB_TYPE1_OPEN,
    VB_TYPE1_CLOSED,
    VB_TYPE1_ENDED, /* in_use() has said no, since the group is ours; but its object may be there: type1-compat.c */
};

struct vb_type1_device {
    enum vb_type1_device_state state;
    bool software;
    bool attached;
    int fd, event; /* -1: none */
    uint32_t group;
    uint32_t devid; /* compat: its object; 0: none that we know */
    char address[VB_ADDRESS_MAX + 1];
};

struct vb_type1_memory {
    void *address; /* NULL: this place is free */
    uint64_t size;
    bool writable;
    bool tombstone; /* munmap() failed */
};

struct vb_type1 {
    struct vb_backend backend;
    struct vb_type1_container containers[VB_TYPE1_DEVICES];
    struct vb_type1_group groups[VB_TYPE1_DEVICES];
    struct vb_type1_device devices[VB_TYPE1_DEVICES];
    struct vb_type1_memory memories[VB_MEMORIES_MAX];
};

/* What VFIO_IOMMU_GET_INFO says. */
struct vb_type1_info {
    struct vb_space_info space;
    bool has_avail, has_dirty;
    uint32_t avail;
    uint64_t dirty_page, dirty_bytes_max;
};

/* ioctl without EINTR: 0, a negative errno, or what the kernel returned. */
int vb_type1_ioctl(int fd, unsigned long request, void *arg);

/* ---- type1-container.c ---- */
/* `fd` is consumed. Place of the container. */
int vb_type1_container_new(struct vb_type1 *t, int fd, uint32_t *ret, struct vb_error *e);
void vb_type1_container_close(struct vb_type1_container *c); /* no group is in it */
int vb_type1_container_info(struct vb_type1_container *c, struct vb_type1_info *ret, struct vb_error *e);
/* Asks how many entries are left. False: the kernel does not say (before Linux 5.10). */
bool vb_type1_container_ask(struct vb_type1_container *c);
/* Unmaps everything; that nothing was there is fine. */
int vb_type1_container_unmap(struct vb_type1_container *c);
/* For a domain's end: unmaps everything and ends dirty tracking. On failure it is a tombstone. */
int vb_type1_container_empty(struct vb_type1_container *c);
/* "0000:00:04.0, 0000:00:05.0": its devices. */
void vb_type1_container_devices(struct vb_type1 *t, const struct vb_type1_container *c, char *buf, size_t size);
void vb_type1_container_text(struct vb_type1 *t, const struct vb_type1_container *c, char *buf, size_t size);

/* ---- type1-group.c ---- */
struct vb_type1_group *vb_type1_group_find(struct vb_type1 *t, uint32_t number);
/* Puts it into a container, given or shared; d->fds are consumed. */
int vb_type1_group_new(struct vb_type1 *t, const struct vb_device_desc *d, uint32_t *ret, struct vb_error *e);
/* Takes it out of its container and closes both, if nobody has a device of it open. False: somebody has. */
bool vb_type1_group_leave(struct vb_type1 *t, struct vb_type1_group *g);
void vb_type1_group_unref(struct vb_type1 *t, struct vb_type1_group *g);

/* ---- type1-compat.c ---- */
bool vb_type1_is_iommufd(int fd);
/* The id that the next object of the context will have, 0: not known. */
uint32_t vb_type1_next_id(int iommufd);
bool vb_type1_has_object(int iommufd, uint32_t id, bool software);
/* What object does the device have that was just opened, `next` being what vb_type1_next_id() said before? False: none that we
 * can find. */
bool vb_type1_find_object(struct vb_type1 *t, struct vb_type1_device *d, uint32_t next);
/* Does somebody have one open of the group's devices that we have closed? */
bool vb_type1_group_has_objects(struct vb_type1 *t, const struct vb_type1_group *g);
/* After a take-over: destroys what can be, and is anything left? */
bool vb_type1_objects_left(struct vb_type1_container *c);

/* ---- type1-device.c ---- */
int vb_type1_device_open(struct vb_backend *b, const struct vb_device_desc *desc, vb_handle *ret, int *ret_client_fd,
                         struct vb_error *e);
int vb_type1_device_bind(struct vb_backend *b, vb_handle device, struct vb_error *e);
int vb_type1_device_attach(struct vb_backend *b, vb_handle device, vb_handle domain, struct vb_error *e);
int vb_type1_device_detach(struct vb_backend *b, vb_handle device, struct vb_error *e);
void vb_type1_device_close(struct vb_backend *b, vb_handle device);
bool vb_type1_in_use(struct vb_backend *b, vb_handle device);
int vb_type1_device_fd(struct vb_backend *b, vb_handle device);
int vb_type1_device_ready(struct vb_backend *b, vb_handle device);

/* ---- type1-memory.c ---- */
int vb_type1_memory_add(struct vb_backend *b, const struct vb_memory_desc *d, vb_handle *ret, struct vb_error *e);
void vb_type1_memory_remove(struct vb_backend *b, vb_handle memory);
void vb_type1_memory_tick(struct vb_type1 *t);
uint32_t vb_type1_memory_leftovers(const struct vb_type1 *t);

/* ---- type1-map.c ---- */
/* One entry of the kernel. */
int vb_type1_map_dma(struct vb_type1 *t, struct vb_type1_container *c, struct vb_range iova, vb_handle memory,
                     uint64_t offset, uint32_t prot);
/* -ENOENT: nothing was there. */
int vb_type1_unmap_dma(struct vb_type1_container *c, struct vb_range iova);
int vb_type1_map(struct vb_backend *b, vb_handle domain, const struct vb_backend_map *maps, size_t n, size_t *ret_done,
                 struct vb_error *e);
int vb_type1_unmap(struct vb_backend *b, vb_handle domain, const struct vb_range *ranges, size_t n, size_t *ret_done,
                   struct vb_error *e);

/* ---- type1-run.c ---- */
/* The run with this IOVA, or NULL. */
struct vb_type1_run *vb_type1_run_at(struct vb_type1_container *c, uint64_t iova);
/* How many of the entries, from the first on, can be one run? At least 1. */
size_t vb_type1_run_length(const struct vb_backend_map *maps, size_t n);
int vb_type1_run_map(struct vb_type1 *t, struct vb_type1_container *c, const struct vb_backend_map *maps, size_t n);
/* Are there entries for what these ranges cut out of runs? VB_LIMIT: the first that does. */
int vb_type1_runs_can_be_cut(struct vb_type1_container *c, const struct vb_range *ranges, size_t n, size_t *ret_entry,
                             struct vb_error *e);
/* Unmaps the range, and maps again what of runs lies outside of it. */
int vb_type1_run_unmap(struct vb_type1 *t, struct vb_type1_container *c, struct vb_range range, struct vb_error *e);
/* Tries to map those again that are absent. */
void vb_type1_runs_retry(struct vb_type1 *t, struct vb_type1_container *c);
void vb_type1_runs_clear(struct vb_type1_container *c);

/* ---- type1-dirty.c ---- */
int vb_type1_dirty_set(struct vb_backend *b, vb_handle domain, bool on, struct vb_dirty_info *ret, struct vb_error *e);
void vb_type1_dirty_stop(struct vb_type1_container *c);
int vb_type1_dirty_read(struct vb_backend *b, vb_handle domain, struct vb_range range, uint64_t page, bool keep,
                        uint64_t *bitmap, struct vb_error *e);

/* ---- type1-hold.c ---- */
bool vb_type1_take_over(struct vb_backend *b);
uint32_t vb_type1_devices_left(struct vb_backend *b);

#endif
