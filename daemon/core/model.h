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
#include "core/domain.h"
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
    uint64_t discarded;    /* mappings that a discard has taken out for now: pending */
    uint32_t devices;      /* attached */
    uint32_t n_pins;
    struct vb_pin_list pins;
    struct vb_domain_list domains; /* an eager backend's first is there from the beginning: see domain.h */
    struct vb_space_info info;     /* what every mapping has to fit: all domains but those that leave out */
    bool info_stale;               /* a device came or went: computed again before the next use */
    uint32_t n_needs;
    struct vb_range needs[VB_NEEDS_MAX]; /* IOVAs that devices may not reserve */
    bool dirty;                          /* dirty tracking is on, in all domains */
    struct vb_dirty_info dirty_info;     /* of all together, while it is on */
};

enum vb_device_state { VB_DEVICE_CLAIMED, VB_DEVICE_BOUND, VB_DEVICE_ATTACHED };

struct vb_device {
    uint32_t id;
    char address[VB_ADDRESS_MAX + 1];
    enum vb_device_state state;
    bool software;            /* an mdev */
    uint32_t meant;           /* id of the space that it was claimed for, or 0 */
    struct vb_space *space;   /* when attached */
    struct vb_domain *domain; /* when attached */
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
    bool shared;              /* FEATURE_SHARED_PINS: a page is pinned, and paid, once */
    uint32_t software;        /* software devices that may see every registered memory: model-memory.c */
    /* A replay takes long: how much is done. May be NULL. */
    void (*progress)(void *arg, const struct vb_device *d, uint64_t done, uint64_t total);
    void *progress_arg;
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
/* `fd` is consumed in every case; but dma_buf_size not 0, it is said to be a dma-buf of so many bytes: on success only, since
 * closing what is none may wait. A file that is registered already with this access is found again: `registered` of the
 * same memory is then more than 1, and it is unregistered as often. */
int vb_model_register(struct vb_model *m, int fd, bool writable, uint64_t dma_buf_size, const char *name,
                      struct vb_memory **ret_memory, struct vb_error *e);
int vb_model_unregister(struct vb_model *m, uint32_t memory, struct vb_error *e);

/* ---- spaces (model-space.c) ---- */
int vb_model_space_create(struct vb_model *m, const char *name, struct vb_space **ret_space, struct vb_error *e);
int vb_model_space_destroy(struct vb_model *m, uint32_t space, struct vb_error *e);
struct vb_space *vb_model_space(struct vb_model *m, uint32_t space, struct vb_error *e);
/* Asks the backend again what the space's devices can use. */
int vb_model_space_refresh(struct vb_model *m, struct vb_space *s, struct vb_error *e);
/* The IOVAs that the space will need, in place of those said before; n 0: none. VB_RESERVED: an attached device cannot use
 * them. */
int vb_model_space_need(struct vb_model *m, uint32_t space, const struct vb_range *ranges, size_t n,
                        struct vb_error *e);

/* ---- mappings (model-map.c) ---- */
int vb_model_map(struct vb_model *m, uint32_t space, const struct vb_map_entry *entries, size_t n, struct vb_error *e);
/* Each entry covers one or more whole mappings without pins (VB_BUSY: see core/pin.h). When the kernel fails in the middle, what was already unmapped is mapped
 * again; should even that fail, those mappings are gone, and the text says which. */
int vb_model_unmap(struct vb_model *m, uint32_t space, const struct vb_unmap_entry *entries, size_t n,
                   uint64_t *ret_mappings, uint64_t *ret_bytes, struct vb_error *e);
int vb_model_unmap_all(struct vb_model *m, uint32_t space, uint64_t *ret_mappings, uint64_t *ret_bytes,
                       struct vb_error *e);

/* ---- dirty tracking (model-dirty.c) ---- */
/* From a clean state, or off. On is refused with VB_UNSUPPORTED when a device's IOMMU has none, and when nothing is attached
 * yet (VB_STATE): the hardware tells, and there is none to ask. ret_info may be NULL. */
int vb_model_dirty_set(struct vb_model *m, uint32_t space, bool on, struct vb_dirty_info *ret_info, struct vb_error *e);
/* ORs into bitmap (VB_DIRTY_PAGES_MAX bits at most, as in backend.h) what was written in the range since it was cleared, of
 * all domains; clears it unless `keep`. The range cuts no mapping. On failure some bits may have been cleared: those are in
 * bitmap. */
int vb_model_dirty_read(struct vb_model *m, uint32_t space, struct vb_range range, uint64_t page, bool keep,
                        uint64_t *bitmap, struct vb_error *e);

/* ---- discard (model-discard.c) ---- */
/* Takes the mappings out of the domains, and keeps their ranges and what is paid, so that nothing can be lost to others while
 * the client punches. Each entry covers whole mappings without pins. One space has one discard at a time. */
int vb_model_discard(struct vb_model *m, uint32_t space, const struct vb_unmap_entry *entries, size_t n,
                     uint64_t *ret_mappings, uint64_t *ret_bytes, struct vb_error *e);
/* Maps them again, or (`again` false) forgets them. What cannot be mapped again is forgotten: the text says so. */
int vb_model_discard_end(struct vb_model *m, uint32_t space, bool again, struct vb_error *e);

/* ---- devices (model-device.c, model-attach.c) ---- */
struct vb_claim_desc {
    const char *address;
    uint32_t group;
    bool software;
    const struct vb_reserved *reserved;
    size_t n_reserved;
    int fds[2];     /* as in struct vb_device_desc; consumed in every case */
    uint32_t space; /* it is meant for, or 0: type1 shares that one's container */
};
/* Whose container would a device share that is claimed for this space? NULL: nobody's; it gets one of its own. */
const struct vb_device *vb_model_shares(struct vb_model *m, uint32_t space);
/* ret_client_fd: for the client; the caller closes it. */
int vb_model_claim(struct vb_model *m, const struct vb_claim_desc *c, struct vb_device **ret_device, int *ret_client_fd,
                   struct vb_error *e);
struct vb_device *vb_model_device(struct vb_model *m, uint32_t device, struct vb_error *e);
int vb_model_bind(struct vb_model *m, uint32_t device, struct vb_error *e);

struct vb_attached {
    uint64_t mappings, bytes;   /* replayed into a domain of its own; 0 when it joined one that is there */
    uint64_t left_out;          /* mappings that it cannot reach */
    struct vb_error *conflicts; /* set by the caller or NULL: the first of those go into its list */
};
/* Refused with the list of conflicts (VB_RESERVED) when it cannot reach a mapping of the space, or reserves what the space
 * needs; with `leave_out` it gets a domain of its own without those mappings, now and later. VB_LIMIT: where pins cannot be
 * shared, a further domain is paid anew. */
int vb_model_attach(struct vb_model *m, uint32_t device, uint32_t space, bool leave_out, struct vb_attached *ret,
                    struct vb_error *e);
int vb_model_detach(struct vb_model *m, uint32_t device, struct vb_error *e);
/* Detaches and closes; the id is dead afterwards. ret_handle: to ask the backend's in_use(). ret_software: nobody has it open
 * any more is to be told by vb_model_software_gone(). */
int vb_model_release(struct vb_model *m, uint32_t device, vb_handle *ret_handle, bool *ret_software,
                     struct vb_error *e);
/* Used by claims: one more of them, and what that costs. */
int vb_model_software_come(struct vb_model *m, struct vb_error *e);
void vb_model_software_gone(struct vb_model *m);

#endif
