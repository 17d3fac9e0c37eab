/* The contract between the model and what makes mappings real (daemon/backend/: iommufd, emulated).
 *
 * Message-shaped: each call takes and gives plain numbers and arrays, knows no object of the model and calls nothing
 * back, so it could as well travel to another process. Handles are the backend's (an IOAS id, a slot of the pool).
 * The model has checked everything that can be checked without the kernel: alignment to the page size told by
 * space_info, overlap, bounds, access, payment. The backend still reports what the kernel says, as a negative errno, or
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

struct vb_memory_desc {
    int fd; /* borrowed during the call; the backend keeps a dup or mapping of its own if it must */
    uint64_t size;
    bool writable;
};

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

struct vb_backend_ops {
    const char *name; /* "iommufd", "emulated" */

    /* Unmaps everything that is left, releases every object, frees `b`. */
    void (*close)(struct vb_backend *b);
    /* FEATURE_* bits of the wire (proto/vfio-broker.proto) that hold for this backend on this kernel. */
    uint64_t (*features)(struct vb_backend *b);

    /* ---- memory ---- */
    int (*memory_add)(struct vb_backend *b, const struct vb_memory_desc *d, vb_handle *ret, struct vb_error *e);
    void (*memory_remove)(struct vb_backend *b, vb_handle memory); /* nothing is mapped from it any more */

    /* ---- spaces ---- */
    int (*space_add)(struct vb_backend *b, vb_handle *ret, struct vb_error *e);
    void (*space_remove)(struct vb_backend *b, vb_handle space); /* unmaps what is left */
    int (*space_info)(struct vb_backend *b, vb_handle space, struct vb_space_info *ret, struct vb_error *e);
    /* "ioas 3": the kernel objects behind a space, for people. */
    void (*space_text)(struct vb_backend *b, vb_handle space, char *buf, size_t size);

    /* ---- mappings ---- ret_done: entries done, in order, when it fails; the model undoes those. */
    int (*map)(struct vb_backend *b, vb_handle space, const struct vb_backend_map *maps, size_t n, size_t *ret_done,
               struct vb_error *e);
    /* Each range covers whole mappings, at least one; ranges are ascending or not, never overlapping. */
    int (*unmap)(struct vb_backend *b, vb_handle space, const struct vb_range *ranges, size_t n, size_t *ret_done,
                 struct vb_error *e);

    /* ---- devices ---- */
    /* `fd` from the daemon (-1: emulated) is consumed in every case. ret_client_fd is the caller's. Not bound yet. */
    int (*device_open)(struct vb_backend *b, const char *address, int fd, vb_handle *ret, int *ret_client_fd,
                       struct vb_error *e);
    int (*device_bind)(struct vb_backend *b, vb_handle device, struct vb_error *e);
    int (*device_attach)(struct vb_backend *b, vb_handle device, vb_handle space, struct vb_error *e);
    int (*device_detach)(struct vb_backend *b, vb_handle device, struct vb_error *e);
    /* Detaches, and closes our own fd of it. If the kernel did not detach it, it stays attached until others have closed theirs,
     * as if they had attached it again themselves. The handle stays good for in_use() only, until that says no. */
    void (*device_close)(struct vb_backend *b, vb_handle device);
    /* After device_close: does somebody else still have it open and bound to our context? On "no" the handle ends. */
    bool (*in_use)(struct vb_backend *b, vb_handle device);

    /* ---- events of devices: optional group, may be NULL ---- */
    /* Fd that the session's loop watches for reading, -1 for none; readable: call device_ready. */
    int (*device_fd)(struct vb_backend *b, vb_handle device);
    /* 0: go on watching; -EPIPE: all client copies of the device are closed, stop watching. Never blocks. */
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
