/* Shared by the files of the iommufd backend only. */
#ifndef VB_BACKEND_IOMMUFD_PRIVATE_H
#define VB_BACKEND_IOMMUFD_PRIVATE_H

#include "backend/iommufd-abi.h"
#include "backend/iommufd.h"

/* Released devices that somebody still has open keep their place until they are closed. */
#define VB_IOMMUFD_DEVICES (4 * VB_DEVICES_MAX)
/* A space's first, and a further one for each device at most. */
#define VB_IOMMUFD_DOMAINS (VB_SPACES_MAX + VB_DEVICES_MAX)
/* IOASs that could not be destroyed. A device is attached to one at a time, so a client can hold at most as many as
 * it has devices; beyond, new ones are refused. */
#define VB_IOMMUFD_TOMBSTONES (4 * VB_DEVICES_MAX)
/* One for each attached device at most, and what devices left behind: see iommufd-hwpt.c. */
#define VB_IOMMUFD_HWPTS (4 * VB_DEVICES_MAX)

_Static_assert(VB_IOMMUFD_DOMAINS < VB_IOMMUFD_TOMBSTONES, "each domain may become a tombstone");
_Static_assert(1 + VB_IOMMUFD_TOMBSTONES + VB_IOMMUFD_HWPTS + VB_IOMMUFD_DEVICES < VB_IOMMUFD_IDS,
               "all objects of ours have ids that a holding session looks at");

enum vb_slot_state { VB_SLOT_FREE, VB_SLOT_USED, VB_SLOT_TOMBSTONE };

struct vb_iommufd_slot {
    enum vb_slot_state state;
    bool writable, dma_buf;
    uint64_t size;
    uint64_t piece; /* mapped into the pool in pieces of so many bytes, the last one may be smaller */
    void *address;  /* of our own mapping of the file, when mapped by address; else NULL */
};

enum vb_iommufd_device_state { VB_IOMMUFD_NONE, VB_IOMMUFD_OPEN, VB_IOMMUFD_CLOSED };

struct vb_iommufd_device {
    enum vb_iommufd_device_state state;
    int fd;         /* -1 when closed */
    int event_fd;   /* request-event.h; -1: none */
    uint32_t devid; /* object id in our context; 0: never bound, or closed and somebody else's by now */
    bool software;  /* the object is an access, not a device: drivers/vfio/iommufd.c, vfio_iommufd_emulated_bind */
    bool dirty;     /* its IOMMU can track */
    bool vtd;       /* its IOMMU is Intel's */
    uint32_t ioas;  /* attached, or 0 */
    uint32_t hwpt;  /* attached, or 0; software: 0 */
    char address[VB_ADDRESS_MAX + 1];
};

struct vb_iommufd_domain {
    uint32_t ioas;
    bool dirty; /* tracking is on, in each HWPT that has a device of ours */
};

struct vb_iommufd_hwpt {
    uint32_t id, ioas;
    bool dirty;       /* can track */
    uint32_t devices; /* of ours, attached by us */
};

struct vb_iommufd {
    struct vb_backend backend;
    int fd;
    bool map_file;
    struct vb_workers *workers; /* borrowed, may be NULL */
    uint32_t pool;              /* IOAS id */
    struct vb_iommufd_domain domains[VB_IOMMUFD_DOMAINS];
    uint32_t n_domains;
    uint32_t tombstones[VB_IOMMUFD_TOMBSTONES]; /* IOAS ids */
    uint32_t n_tombstones;
    struct vb_iommufd_hwpt hwpts[VB_IOMMUFD_HWPTS];
    uint32_t n_hwpts;
    struct vb_iommufd_slot slots[VB_MEMORIES_MAX];
    struct vb_iommufd_device devices[VB_IOMMUFD_DEVICES];
    uint32_t *left; /* ids of devices that take_over() found; n_left of them may still be open */
    uint32_t n_left;
};

/* ioctl without EINTR: 0, a negative errno, or what the kernel returned. */
int vb_iommufd_ioctl(int fd, unsigned long request, void *arg);
/* Empties an IOAS. */
int vb_iommufd_unmap_all(struct vb_iommufd *io, uint32_t ioas);
/* -EBUSY while another object or a driver refers to it. */
int vb_iommufd_destroy(struct vb_iommufd *io, uint32_t id);
/* NULL: there is none. */
struct vb_iommufd_domain *vb_iommufd_domain(struct vb_iommufd *io, vb_handle domain);

/* iommufd-hwpt.c */
/* Device and domain, both ours; the device has an IOMMU. On success counts the device. */
int vb_iommufd_hwpt_attach(struct vb_iommufd *io, struct vb_iommufd_device *d, const struct vb_iommufd_domain *dom,
                           struct vb_error *e);
/* The device has left its HWPT, which may end with that. */
void vb_iommufd_hwpt_left(struct vb_iommufd *io, struct vb_iommufd_device *d);
/* Destroys those that no device of ours uses. */
void vb_iommufd_hwpt_sweep(struct vb_iommufd *io);
/* Those that should be gone and are not. */
uint32_t vb_iommufd_hwpt_leftovers(const struct vb_iommufd *io);
bool vb_iommufd_has_hwpt(const struct vb_iommufd *io, uint32_t ioas);
/* What an ATTACH or an HWPT_ALLOC that failed means. */
int vb_iommufd_attach_error(const struct vb_iommufd_device *d, uint32_t ioas, int r, struct vb_error *e);

/* iommufd-dirty.c */
int vb_iommufd_dirty_set(struct vb_backend *b, vb_handle domain, bool on, struct vb_dirty_info *ret,
                         struct vb_error *e);
int vb_iommufd_dirty_read(struct vb_backend *b, vb_handle domain, struct vb_range range, uint64_t page, bool keep,
                          uint64_t *bitmap, struct vb_error *e);
int vb_iommufd_dirty_track(struct vb_iommufd *io, uint32_t hwpt, bool on);

/* iommufd-map.c */
int vb_iommufd_map(struct vb_backend *b, vb_handle domain, const struct vb_backend_map *maps, size_t n,
                   size_t *ret_done, struct vb_error *e);
int vb_iommufd_unmap(struct vb_backend *b, vb_handle domain, const struct vb_range *ranges, size_t n, size_t *ret_done,
                     struct vb_error *e);

/* iommufd-pool.c */
int vb_iommufd_pool_init(struct vb_iommufd *io, struct vb_error *e);
uint64_t vb_iommufd_pool_iova(vb_handle slot);
int vb_iommufd_memory_add(struct vb_backend *b, const struct vb_memory_desc *d, vb_handle *ret, struct vb_error *e);
void vb_iommufd_memory_remove(struct vb_backend *b, vb_handle memory);
void vb_iommufd_pool_tick(struct vb_iommufd *io);
uint32_t vb_iommufd_pool_leftovers(const struct vb_iommufd *io);

/* iommufd-device.c */
int vb_iommufd_device_open(struct vb_backend *b, const struct vb_device_desc *desc, vb_handle *ret, int *ret_client_fd,
                           struct vb_error *e);
int vb_iommufd_device_bind(struct vb_backend *b, vb_handle device, struct vb_error *e);
int vb_iommufd_device_attach(struct vb_backend *b, vb_handle device, vb_handle domain, struct vb_error *e);
int vb_iommufd_device_detach(struct vb_backend *b, vb_handle device, struct vb_error *e);
void vb_iommufd_device_close(struct vb_backend *b, vb_handle device);
int vb_iommufd_device_fd(struct vb_backend *b, vb_handle device);
int vb_iommufd_device_ready(struct vb_backend *b, vb_handle device);

/* iommufd-left.c: what is still there of a device that somebody else has open. */
bool vb_iommufd_in_use(struct vb_backend *b, vb_handle device);
/* The kernel has given this id to a new object, so it is no released device's any more. Has to be called for each. */
void vb_iommufd_id_taken(struct vb_iommufd *io, uint32_t id);
/* Is there a device object (which software devices have not) with this id, and what does it say of its IOMMU? Never waits. ret
 * may be NULL. */
bool vb_iommufd_has_device(struct vb_iommufd *io, uint32_t devid, struct vb_iommu_hw_info *ret);
bool vb_iommufd_take_over(struct vb_backend *b);
uint32_t vb_iommufd_devices_left(struct vb_backend *b);

#endif
