/* A memory: one registered file (memfd, tmpfs, hugetlbfs) whose pages devices may reach.
 *
 * What is checked, and why, when a fd arrives from a client (DESIGN 1.2, 6, 8; kernel facts in comments of memory.c):
 * kind by fcntl(F_GET_SEALS), which no file system of a client's own can answer or delay, BEFORE any fstat, fstatfs,
 * mmap or ioctl, which a FUSE server could; then access mode and size. A memory that devices may write is mapped
 * MAP_SHARED for as long as it is registered, which makes a later F_SEAL_WRITE fail with EBUSY; only then seals are
 * read; then that no page is missing. At each map the file is looked at again: its size and blocks must not have shrunk,
 * and F_SEAL_FUTURE_WRITE must not have come.
 * A memory never reads or writes the pages. */
#ifndef VB_CORE_MEMORY_H
#define VB_CORE_MEMORY_H

#include <sys/types.h>

#include "core/backend-types.h"
#include "core/charge.h"
#include "core/error.h"

enum vb_memory_kind { VB_MEMORY_SHMEM, VB_MEMORY_HUGETLB, VB_MEMORY_DMA_BUF };

struct vb_memory {
    uint32_t id;
    enum vb_memory_kind kind;
    bool writable;
    int fd;             /* owned */
    void *resident;     /* PROT_READ MAP_SHARED mapping of the whole file, locked where pins are; NULL without pins */
    void *hold;         /* PROT_NONE MAP_SHARED mapping of the whole file, never touched; NULL when not writable */
    uint64_t size;      /* bytes; a multiple of page_size */
    uint64_t page_size; /* of the file system */
    uint64_t present;   /* st_blocks*512 at registration, at most size: fewer later means that pages were taken out */
    dev_t dev;
    ino_t ino;
    uint64_t mappings;   /* that refer to it, over all spaces, pending ones included */
    uint64_t checked;    /* when it was looked at last: see model-map.c */
    uint32_t registered; /* how often by the client: one unregisters as often */
    struct vb_charge charge;
    vb_handle handle; /* of the backend */
    char name[VB_NAME_MAX + 1];
};

/* Checks and takes a fd. `fd` is consumed in every case. ret_memory: without id and handle yet. */
int vb_memory_open(int fd, bool writable, const char *name, struct vb_memory **ret_memory, struct vb_error *e);
/* Takes a fd that is said to be a dma-buf of so many bytes; only the backend can tell, and nothing that could wait is asked of it
 * before. `fd` is consumed on success only: closing what is none may wait. */
int vb_memory_open_dma_buf(int fd, bool writable, uint64_t size, const char *name, struct vb_memory **ret_memory,
                           struct vb_error *e);
/* Still what was registered? Called once for each memory of a map batch. */
int vb_memory_recheck(const struct vb_memory *m, bool for_write, struct vb_error *e);
/* Keeps the pages of `r` (offsets, whole pages) in memory until unlocked; locking again changes nothing. It is paid
 * already. Hugetlb pages stay anyway, nothing is done then. A negative errno: part of it may be
 * locked, so that the caller has to unlock what no pin covers. */
int vb_memory_lock(struct vb_memory *m, struct vb_range r, struct vb_error *e);
/* Never fails. No pin covers `r`. */
void vb_memory_unlock(struct vb_memory *m, struct vb_range r);
/* NULL is fine. There are no mappings left, and the backend has let go of it. Returns NULL. */
struct vb_memory *vb_memory_free(struct vb_memory *m);
const char *vb_memory_kind_name(enum vb_memory_kind kind); /* "shmem", "hugetlb", "dma-buf" */

#endif
