/* The model of one session: its memories, spaces, mappings and devices, its ledger, and the backend that makes them
 * real. This is the truth; kernel objects are derived from it.
 *
 * Every operation is all or nothing: when it fails, model, ledger and kernel are as they were, and `e` says why. The one
 * exception is told in vb_model_unmap(). One thread. Operations may call ledger.want, which may run the session's
 * inspection code: that sees a consistent model (pending mappings are not shown).
 *
 * Ids are given in increasing order and not used again, so a stale id of a client finds nothing. */
#ifndef VB_CORE_MODEL_H
#define VB_CORE_MODEL_H

#include "core/backend.h"
#include "core/error.h"
#include "core/ledger.h"
#include "core/mapping.h"
#include "core/memory.h"
#include "core/pin.h"
#include "core/table.h"

struct vb_space {
    uint32_t id;
    char name[VB_NAME_MAX + 1];
    struct vb_mapping_tree tree;
    uint64_t mappings;     /* without pending ones */
    uint64_t mapped_bytes; /* each alias counted */
    uint32_t devices;      /* attached */
    uint32_t n_pins;
    struct vb_pin_list pins;
    struct vb_space_info info; /* usable ranges and page sizes, asked again after each attach and detach */
    bool info_stale;           /* that asking failed: asked again before the next use */
    vb_handle handle;
};

enum vb_device_state { VB_DEVICE_CLAIMED, VB_DEVICE_BOUND, VB_DEVICE_ATTACHED };

struct vb_device {
    uint32_t id;
    char address[VB_ADDRESS_MAX + 1];
    enum vb_device_state state;
    struct vb_space *space; /* when attached */
    uint32_t group;
    uint32_t n_reserved;
    struct vb_reserved reserved[VB_REGIONS_MAX];
    vb_handle handle;
};

struct vb_model {
    struct vb_backend *backend; /* owned */
    struct vb_ledger ledger;
    uint64_t mappings;     /* of all spaces, pending ones included */
    uint64_t mappings_max; /* policy */
    uint32_t n_pins, pin_parts, last_pin;
    uint64_t batch;           /* number of the last look at memories: see model-map.c */
    struct vb_table memories; /* struct vb_memory */
    struct vb_table spaces;   /* struct vb_space */
    struct vb_table devices;  /* struct vb_device */
};

struct vb_map_entry {
    uint64_t iova, size, offset;
    uint32_t memory;
    uint32_t prot;
};
struct vb_unmap_entry {
    uint64_t iova, size;
};

/* `backend` is consumed. -ENOMEM. */
int vb_model_new(struct vb_backend *backend, uint64_t mappings_max, struct vb_model **ret_model);
/* Empties every space and the backend first, so that no device reaches memory any more even if somebody still has it
 * open, then releases everything. NULL is fine, half-built too. Devices that are still open elsewhere: see
 * vb_model_empty(). Returns NULL. */
struct vb_model *vb_model_free(struct vb_model *m);
/* Takes all memory away from devices, in the kernel only: the first thing to do when the client is gone. vb_model_empty()
 * has to follow. */
void vb_model_unmap_kernel(struct vb_model *m);
/* The client is gone: unmaps everything, detaches and closes all devices, forgets memories, spaces and devices. The
 * backend stays, to be asked with vb_backend.ops->in_use() which devices are still open elsewhere. */
void vb_model_empty(struct vb_model *m);

/* ---- memory (model-memory.c) ---- */
/* `fd` is consumed in every case. A file that is registered already with this access is found again: `registered` of the
 * same memory is then more than 1, and it is unregistered as often. */
int vb_model_register(struct vb_model *m, int fd, bool writable, const char *name, struct vb_memory **ret_memory,
                      struct vb_error *e);
int vb_model_unregister(struct vb_model *m, uint32_t memory, struct vb_error *e);

/* ---- spaces (model-space.c) ---- */
int vb_model_space_create(struct vb_model *m, const char *name, struct vb_space **ret_space, struct vb_error *e);
int vb_model_space_destroy(struct vb_model *m, uint32_t space, struct vb_error *e);
struct vb_space *vb_model_space(struct vb_model *m, uint32_t space, struct vb_error *e);
/* Refreshes space->info from the backend. */
int vb_model_space_refresh(struct vb_model *m, struct vb_space *s, struct vb_error *e);

/* ---- mappings (model-map.c) ---- */
int vb_model_map(struct vb_model *m, uint32_t space, const struct vb_map_entry *entries, size_t n, struct vb_error *e);
/* Each entry covers one or more whole mappings without pins (VB_BUSY: see core/pin.h). When the kernel fails in the middle, what was already unmapped is mapped
 * again; should even that fail, those mappings are gone, and the text says which. */
int vb_model_unmap(struct vb_model *m, uint32_t space, const struct vb_unmap_entry *entries, size_t n,
                   uint64_t *ret_mappings, uint64_t *ret_bytes, struct vb_error *e);
int vb_model_unmap_all(struct vb_model *m, uint32_t space, uint64_t *ret_mappings, uint64_t *ret_bytes,
                       struct vb_error *e);

/* ---- devices (model-device.c) ---- */
/* `fd` (-1 on the emulated backend) is consumed in every case. ret_client_fd: for the client; the caller closes it. */
int vb_model_claim(struct vb_model *m, const char *address, uint32_t group, const struct vb_reserved *reserved,
                   size_t n_reserved, int fd, struct vb_device **ret_device, int *ret_client_fd, struct vb_error *e);
struct vb_device *vb_model_device(struct vb_model *m, uint32_t device, struct vb_error *e);
int vb_model_bind(struct vb_model *m, uint32_t device, struct vb_error *e);
/* Refused with the list of conflicts (VB_RESERVED) when a mapping of the space lies in a reserved region. */
int vb_model_attach(struct vb_model *m, uint32_t device, uint32_t space, struct vb_error *e);
int vb_model_detach(struct vb_model *m, uint32_t device, struct vb_error *e);
/* Detaches and closes; the id is dead afterwards. ret_handle: to ask the backend's in_use(). */
int vb_model_release(struct vb_model *m, uint32_t device, vb_handle *ret_handle, struct vb_error *e);

#endif
