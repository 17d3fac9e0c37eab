/* The emulated backend: page tables in memory and a software DMA engine, for tests, development without privilege and
 * for measuring our own overhead. It proves nothing about Linux.
 *
 * A domain is a page table. What it takes is what all its devices can use: a device reaches every IOVA below 1<<48 but
 * 0xfee00000-0xfeefffff (the MSI window of VT-d) in pages of 4 KiB, unless a test says of what kind it is. A domain without
 * devices takes what the widest kind does, without holes.
 *
 * A client's device fd is one end of a SOCK_SEQPACKET pair. It sends struct vb_emulated_dma, and gets one reply for each
 * packet. The engine translates with the page table of the domain that the device is attached to, all or nothing, and
 * moves the bytes by pread() and pwrite() on the memory's fd: client memory is never dereferenced. (hugetlbfs has no
 * write(2), so there the device can only read.) A client that does not take its replies loses them. What the host would do to
 * a device (want it back, lose it), a client can ask for, of its own devices alone. */
#ifndef VB_BACKEND_EMULATED_H
#define VB_BACKEND_EMULATED_H

#include "core/backend.h"

/* ---- what travels on a device's socket, host byte order ---- */
enum vb_emulated_dma_op {
    VB_EMULATED_DMA_READ = 1,      /* the device reads memory: the reply carries the data */
    VB_EMULATED_DMA_WRITE = 2,     /* the device writes the packet's data to memory */
    VB_EMULATED_HOST_WANTS = 0x10, /* no DMA, size 0: as if the host wanted the device back */
    VB_EMULATED_HOST_LOST = 0x11,  /* no DMA, size 0: as if the device had left the host; the last reply */
};
#define VB_EMULATED_DMA_MAX 32768u /* bytes of one transfer */

struct vb_emulated_dma {
    uint32_t op;
    uint32_t size; /* bytes to move */
    uint64_t iova;
    uint8_t data[]; /* size bytes with WRITE, none with READ */
};
struct vb_emulated_dma_reply {
    int32_t status; /* 0; -EFAULT: not mapped like that, or not attached; -EINVAL: no such packet */
    uint32_t size;  /* bytes moved: all or 0 */
    uint8_t data[]; /* of a READ */
};

/* ---- failures on purpose ---- */
/* What would be one system call of a real backend: each entry of a map or unmap counts. */
enum vb_emulated_call {
    VB_EMULATED_ANY,
    VB_EMULATED_MEMORY_ADD,
    VB_EMULATED_DOMAIN_OPEN,
    VB_EMULATED_DOMAIN_INFO,
    VB_EMULATED_DOMAIN_NEED,
    VB_EMULATED_MAP,
    VB_EMULATED_UNMAP,
    VB_EMULATED_DIRTY_SET, /* on; off cannot fail */
    VB_EMULATED_DIRTY_READ,
    VB_EMULATED_DEVICE_OPEN,
    VB_EMULATED_DEVICE_BIND,
    VB_EMULATED_DEVICE_ATTACH,
    VB_EMULATED_DEVICE_DETACH,
    VB_EMULATED_CALLS,
};
struct vb_emulated_fault {
    uint64_t nth;   /* this call fails, counted from 1; 0: none */
    uint64_t calls; /* counted so far */
    int error;      /* negative errno or enum vb_code */
    bool onwards;   /* and all later ones */
};

/* What a device can reach. */
#define VB_EMULATED_RESERVED 4u
struct vb_emulated_kind {
    const char *address; /* of the devices that are of this kind */
    uint64_t aperture_last;
    uint64_t page_size; /* a power of 2, 4096 at least */
    bool no_dirty;      /* its IOMMU does not tell what was written */
    uint32_t n_reserved;
    struct vb_reserved reserved[VB_EMULATED_RESERVED];
};
extern const struct vb_emulated_kind vb_emulated_default_kind;

struct vb_emulated_knobs {
    struct vb_emulated_fault fault[VB_EMULATED_CALLS];
    const struct vb_emulated_kind *kinds; /* borrowed; looked up when a device is opened */
    size_t n_kinds;
    /* As type1 does towards the model (only at vb_emulated_new()): domains belong to devices, each device that is opened has
     * one (or that of desc.with) and reaches what is mapped there from then on, and pins are not shared. */
    bool containers;
    bool coarse; /* dirty tracking calls every mapped page dirty */
};

/* `knobs` may be NULL. -ENOMEM. */
int vb_emulated_new(const struct vb_emulated_knobs *knobs, struct vb_backend **ret, struct vb_error *e);

/* ---- for tests ---- */
/* In force at once. */
struct vb_emulated_knobs *vb_emulated_knobs(struct vb_backend *b);
/* The page table of a domain, in order of IOVA. Returns how many entries there are; fills at most `max`. */
size_t vb_emulated_dump(struct vb_backend *b, vb_handle domain, struct vb_backend_map *maps, size_t max);
/* Would a device reach all of the range in whatever table it has now? Without DMA. */
bool vb_emulated_reaches(struct vb_backend *b, vb_handle device, struct vb_range r);
/* Is dirty tracking on? */
bool vb_emulated_tracks(struct vb_backend *b, vb_handle domain);
/* Memories, domains and devices that exist; closed devices, which somebody else may have open, do not count. */
size_t vb_emulated_objects(struct vb_backend *b);

#endif
