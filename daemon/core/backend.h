/* The contract between the model and what makes mappings real (daemon/backend/: iommufd, type1, emulated).
 *
 * Message-shaped: each call takes and gives plain numbers and arrays, knows no object of the model and calls nothing
 * back, so it could as well travel to another process. Handles are the backend's (an IOAS id, a slot of the pool).
 * The model has checked everything that can be checked without the kernel: alignment to the page size told by
 * domain_info, overlap, bounds, access, payment. The backend still reports what the kernel says, as a negative errno, or
 * as a vb_code where the kernel's answer has one clear meaning for a client.
 *
 * Calls that undo (remove, close) cannot fail: what the kernel will not give up yet is emptied and goes on the backend's
 * tombstone list, which tick() retries and leftovers() counts. One thread.
 *
 * The header lies in core so that core depends on nothing above it; implementations include it from there. */
#ifndef VB_CORE_BACKEND_H
#define VB_CORE_BACKEND_H

#include <stddef.h>

#include "core/backend-types.h"
#include "core/error.h"

struct vb_backend;

#define VB_NO_HANDLE UINT64_MAX

struct vb_memory_desc {
    int fd; /* borrowed during the call; the backend keeps a dup or mapping of its own if it must */
    uint64_t size;
    bool writable;
    bool
        dma_buf; /* said to be a vfio-pci dma-buf: nothing of the file has been looked at (only with FEATURE_DMA_BUF) */
};

/* What a domain's devices can use. */
struct vb_space_info {
    uint64_t page_sizes; /* bit n: 1<<n bytes can be mapped; never 0 */
    uint32_t n_usable;
    struct vb_range usable[VB_REGIONS_MAX]; /* ascending */
};

struct vb_backend_map {
    uint64_t iova, size; /* size > 0, iova+size-1 does not overflow */
    vb_handle memory;
    uint64_t offset;
    uint32_t prot;
};

struct vb_device_desc {
    const char *address;
    uint32_t group;
    bool software;  /* no DMA of its own (mdev): its driver in the kernel reaches what is mapped */
    int fds[2];     /* from the daemon, -1: none. iommufd: the cdev. type1: the group, and a container for it; none of
                       both for a further device of a group that is here; no container if it shares one */
    vb_handle with; /* type1: share the container of this device; else VB_NO_HANDLE */
};

struct vb_dirty_info {
    uint64_t page_size; /* smallest page that can be told apart */
    bool coarse;        /* the kernel calls every mapped page dirty: the IOMMU does not tell */
};

struct vb_backend_ops {
    const char *name; /* "iommufd", "type1", "emulated" */
    /* A space has a domain before it has a device (iommufd: an IOAS). Else domains belong to devices: domain_open() gives
     * the one that the device is in, and that may be a domain which is open already (type1: containers). */
    bool eager;
    /* Devices that are software may show themselves any registered memory (core/model-software.c). */
    bool software_sees_all;

    /* Unmaps everything that is left, releases every object, frees `b`. */
    void (*close)(struct vb_backend *b);
    /* FEATURE_* bits of the wire (proto/vfio-broker.proto) that hold for this backend on this kernel. */
    uint64_t (*features)(struct vb_backend *b);

    /* ---- memory ---- */
    int (*memory_add)(struct vb_backend *b, const struct vb_memory_desc *d, vb_handle *ret, struct vb_error *e);
    void (*memory_remove)(struct vb_backend *b, vb_handle memory); /* nothing is mapped from it any more */

    /* ---- domains ---- */
    /* device: that it is for, which attaches next; VB_NO_HANDLE (eager only): a space's first. */
    int (*domain_open)(struct vb_backend *b, vb_handle device, vb_handle *ret, struct vb_error *e);
    /* Not eager only: what domain_open() would give, without opening it. */
    vb_handle (*domain_of)(struct vb_backend *b, vb_handle device);
    /* No device of the model is attached. Unmaps what is left. */
    void (*domain_close)(struct vb_backend *b, vb_handle domain);
    int (*domain_info)(struct vb_backend *b, vb_handle domain, struct vb_space_info *ret, struct vb_error *e);
    /* "ioas 3, hwpt 5": the kernel objects behind it, for people. */
    void (*domain_text)(struct vb_backend *b, vb_handle domain, char *buf, size_t size);
    /* These IOVAs have to stay usable: devices that reserve any are refused from now on. Replaces what was said before; n 0:
     * nothing is needed. Optional (NULL: the model alone sees to it). */
    int (*domain_need)(struct vb_backend *b, vb_handle domain, const struct vb_range *ranges, size_t n,
                       struct vb_error *e);

    /* ---- mappings ---- ret_done: entries done, in order, when it fails; the model undoes those. */
    int (*map)(struct vb_backend *b, vb_handle domain, const struct vb_backend_map *maps, size_t n, size_t *ret_done,
               struct vb_error *e);
    /* Each range covers whole mappings, at least one (0 to UINT64_MAX: any number of them); ranges are ascending or not, never
     * overlapping. */
    int (*unmap)(struct vb_backend *b, vb_handle domain, const struct vb_range *ranges, size_t n, size_t *ret_done,
                 struct vb_error *e);

    /* ---- dirty tracking: optional group, may be NULL (dirty_set NULL: none of it) ---- */
    /* On: from a clean state; VB_UNSUPPORTED names the device whose IOMMU has none. ret: with `on`. Devices that attach while
     * it is on must be able to take part. Off cannot fail. */
    int (*dirty_set)(struct vb_backend *b, vb_handle domain, bool on, struct vb_dirty_info *ret, struct vb_error *e);
    /* ORs into bitmap a bit for each `page` bytes of `range` that were written since they were cleared last; bit 0 is
     * range.first, in the CPU's order of uint64_t words, bit n of word n/64 being n%64. Clears them in the domain unless `keep`.
     * range is a multiple of page, cuts no mapping and has no gaps. A domain that is not
     * tracked has no bits: 0. */
    int (*dirty_read)(struct vb_backend *b, vb_handle domain, struct vb_range range, uint64_t page, bool keep,
                      uint64_t *bitmap, struct vb_error *e);

    /* ---- devices ---- */
    /* d->fds are consumed in every case. ret_client_fd is the caller's. Not bound yet (type1: it is, to its container). */
    int (*device_open)(struct vb_backend *b, const struct vb_device_desc *d, vb_handle *ret, int *ret_client_fd,
                       struct vb_error *e);
    int (*device_bind)(struct vb_backend *b, vb_handle device, struct vb_error *e);
    /* VB_RESERVED: a mapping that is in the domain is out of its reach. */
    int (*device_attach)(struct vb_backend *b, vb_handle device, vb_handle domain, struct vb_error *e);
    int (*device_detach)(struct vb_backend *b, vb_handle device, struct vb_error *e);
    /* Detaches, and closes our own fd of it. If the kernel did not detach it, it stays attached until others have closed theirs,
     * as if they had attached it again themselves. The handle stays good for in_use() only, until that says no. */
    void (*device_close)(struct vb_backend *b, vb_handle device);
    /* After device_close: does somebody else still have it open and bound to our context? On "no" the handle ends. */
    bool (*in_use)(struct vb_backend *b, vb_handle device);

    /* ---- events of devices: optional group, may be NULL ---- */
    /* Fd that the session's loop watches for reading, -1 for none; readable: call device_ready. */
    int (*device_fd)(struct vb_backend *b, vb_handle device);
    /* 0: go on watching; 1: the host wants the device back, go on watching; -EPIPE: all client copies of the device are closed,
     * stop watching; -ENODEV: it has left the host, stop watching. Never blocks. */
    int (*device_ready)(struct vb_backend *b, vb_handle device);

    /* ---- housekeeping ---- */
    void (*tick)(struct vb_backend *b);          /* retries tombstones */
    uint32_t (*leftovers)(struct vb_backend *b); /* tombstones */
    /* Takes over the objects of a dead session: empties every IOAS of the context. True: all are empty; false: something
     * that the dead one began is not finished, call it again. Then devices_left() counts the devices that somebody still
     * has open. Optional (NULL: nothing outlives a session of this backend). */
    bool (*take_over)(struct vb_backend *b);
    uint32_t (*devices_left)(struct vb_backend *b);
};

/* Implementations embed this as their first member. */
struct vb_backend {
    const struct vb_backend_ops *ops;
};

#endif
