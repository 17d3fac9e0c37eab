/* The emulated backend: page tables in memory and a software DMA engine, for tests, development without privilege and
 * for measuring our own overhead. It proves nothing about Linux.
 *
 * A space takes every IOVA below 1<<48; while a device is attached, 0xfee00000-0xfeefffff (the MSI window of VT-d) is not
 * usable, as on real hardware. Pages are 4 KiB.
 *
 * A client's device fd is one end of a SOCK_SEQPACKET pair. It sends struct vb_emulated_dma, and gets one reply for each
 * packet. The engine translates with the page table of the space that the device is attached to, all or nothing, and
 * moves the bytes by pread() and pwrite() on the memory's fd: client memory is never dereferenced. (hugetlbfs has no
 * write(2), so there the device can only read.) A client that does not take its replies loses them. */
#ifndef VB_BACKEND_EMULATED_H
#define VB_BACKEND_EMULATED_H

#include "core/backend.h"

/* ---- what travels on a device's socket, host byte order ---- */
enum vb_emulated_dma_op {
    VB_EMULATED_DMA_READ = 1,  /* the device reads memory: the reply carries the data */
    VB_EMULATED_DMA_WRITE = 2, /* the device writes the packet's data to memory */
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
    VB_EMULATED_MAP,
    VB_EMULATED_UNMAP,
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
struct vb_emulated_knobs {
    struct vb_emulated_fault fault[VB_EMULATED_CALLS];
};

/* `knobs` may be NULL. -ENOMEM. */
int vb_emulated_new(const struct vb_emulated_knobs *knobs, struct vb_backend **ret, struct vb_error *e);

/* ---- for tests ---- */
/* In force at once. */
struct vb_emulated_knobs *vb_emulated_knobs(struct vb_backend *b);
/* The page table of a space, in order of IOVA. Returns how many entries there are; fills at most `max`. */
size_t vb_emulated_dump(struct vb_backend *b, vb_handle space, struct vb_backend_map *maps, size_t max);
/* Memories, spaces and devices that exist; closed devices, which somebody else may have open, do not count. */
size_t vb_emulated_objects(struct vb_backend *b);

#endif
