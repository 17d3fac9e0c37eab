/* Shared by the files of the iommufd backend only. */
#ifndef VB_BACKEND_IOMMUFD_PRIVATE_H
#define VB_BACKEND_IOMMUFD_PRIVATE_H

#include "backend/iommufd-abi.h"
#include "backend/iommufd.h"

/* Released devices that somebody still has open keep their place until they are closed. */
#define VB_IOMMUFD_DEVICES (4 * VB_DEVICES_MAX)
/* Spaces that could not be destroyed. A device is attached to one IOAS at a time, so a client can hold at most as many as
 * it has devices; beyond, new spaces are refused. */
#define VB_IOMMUFD_TOMBSTONES (4 * VB_DEVICES_MAX)

enum vb_slot_state { VB_SLOT_FREE, VB_SLOT_USED, VB_SLOT_TOMBSTONE };

struct vb_iommufd_slot {
    enum vb_slot_state state;
    bool writable;
    uint64_t size;
    void *address; /* of our own mapping of the file, when mapped by address; else NULL */
};

enum vb_iommufd_device_state { VB_IOMMUFD_NONE, VB_IOMMUFD_OPEN, VB_IOMMUFD_CLOSED };

struct vb_iommufd_device {
    enum vb_iommufd_device_state state;
    int fd;         /* -1 when closed */
    uint32_t devid; /* object id in our context; 0: never bound */
    char address[VB_ADDRESS_MAX + 1];
};

struct vb_iommufd {
    struct vb_backend backend;
    int fd;
    bool map_file;
    struct vb_workers *workers; /* borrowed, may be NULL */
    uint32_t pool; /* IOAS id */
    uint32_t spaces[VB_SPACES_MAX];
    uint32_t n_spaces;
    uint32_t tombstones[VB_IOMMUFD_TOMBSTONES];
    uint32_t n_tombstones;
    struct vb_iommufd_slot slots[VB_MEMORIES_MAX];
    struct vb_iommufd_device devices[VB_IOMMUFD_DEVICES];
    uint32_t *left; /* ids of devices that take_over() found; n_left of them may still be open */
    uint32_t n_left;
};

/* ioctl without EINTR: 0, a negative errno, or what the kernel returned. */
int vb_iommufd_ioctl(int fd, unsigned long request, void *arg);
/* Empties an IOAS. */
int vb_iommufd_unmap_all(struct vb_iommufd *io, uint32_t ioas);
/* Is there a device object with this id? Never waits. */
bool vb_iommufd_has_device(struct vb_iommufd *io, uint32_t devid);

/* iommufd-pool.c */
int vb_iommufd_pool_init(struct vb_iommufd *io, struct vb_error *e);
uint64_t vb_iommufd_pool_iova(vb_handle slot);
int vb_iommufd_memory_add(struct vb_backend *b, const struct vb_memory_desc *d, vb_handle *ret, struct vb_error *e);
void vb_iommufd_memory_remove(struct vb_backend *b, vb_handle memory);
void vb_iommufd_pool_tick(struct vb_iommufd *io);
uint32_t vb_iommufd_pool_leftovers(const struct vb_iommufd *io);

/* iommufd-device.c */
int vb_iommufd_device_open(struct vb_backend *b, const struct vb_device_desc *desc, vb_handle *ret,
                            int *ret_client_fd, struct vb_error *e);
int vb_iommufd_device_bind(struct vb_backend *b, vb_handle device, struct vb_error *e);
int vb_iommufd_device_attach(struct vb_backend *b, vb_handle device, vb_handle space, struct vb_error *e);
int vb_iommufd_device_detach(struct vb_backend *b, vb_handle device, struct vb_error *e);
void vb_iommufd_device_close(struct vb_backend *b, vb_handle device);
bool vb_iommufd_in_use(struct vb_backend *b, vb_handle device);
uint32_t vb_iommufd_devices_left(struct vb_backend *b);

#endif
