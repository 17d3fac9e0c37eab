/* See memory.h. Kernel facts were read in Linux 7.3; the file is named at each. */
#include "core/memory.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "proto/cleanup.h"

const char *vb_memory_kind_name(enum vb_memory_kind kind) {
    static const char *const names[] = {
        [VB_MEMORY_SHMEM] = "shmem", [VB_MEMORY_HUGETLB] = "hugetlb", [VB_MEMORY_DMA_BUF] = "dma-buf"};

    return names[kind];
}

/* Is it a shmem or hugetlbfs file at all? F_GET_SEALS is answered from the struct file alone, and only for these two
 * (mm/memfd.c, memfd_file_seals_ptr; everything else is EINVAL). fstat and fstatfs come later: on a FUSE file they wait for
 * a server that the client controls (fs/fuse/dir.c, fuse_update_get_attr; fs/fuse/inode.c, fuse_statfs). */
static int check_kind(struct vb_memory *m, struct vb_error *e) {
    struct statfs fs;
    struct stat st;
    int flags;

    flags = fcntl(m->fd, F_GETFL);
    if (flags < 0)
        return vb_fail(e, -errno, "the memory's file descriptor");
    if (flags & O_PATH)
        return vb_refuse(e, VB_BAD_MEMORY, "the memory's fd is opened with O_PATH and gives no access; open it O_RDWR");
    if (fcntl(m->fd, F_GET_SEALS) < 0)
        return vb_refuse(
            e, VB_BAD_MEMORY,
            "the fd is not memory that can be registered: it must be a memfd or a file on tmpfs or hugetlbfs "
            "(memfd_secret, dma-buf, device, socket and disk files are none)");
    /* A network or stacking file system may borrow the page cache of a tmpfs file (fs/coda/file.c): its own calls again
     * are not the kernel's alone, but root has mounted it. */
    if (fstatfs(m->fd, &fs) < 0)
        return vb_fail(e, -errno, "file system of the memory's fd");
    if (fstat(m->fd, &st) < 0)
        return vb_fail(e, -errno, "state of the memory's fd");
    if (!S_ISREG(st.st_mode) || (fs.f_type != TMPFS_MAGIC && fs.f_type != HUGETLBFS_MAGIC))
        return vb_refuse(e, VB_BAD_MEMORY, "the fd is not a regular file on tmpfs or hugetlbfs (file system 0x%lx)",
                         (unsigned long)fs.f_type);
    m->kind = fs.f_type == HUGETLBFS_MAGIC ? VB_MEMORY_HUGETLB : VB_MEMORY_SHMEM;
    m->page_size = (uint64_t)fs.f_bsize; /* tmpfs: PAGE_SIZE; hugetlbfs: the huge page (fs/hugetlbfs/inode.c) */
    m->size = (uint64_t)st.st_size;
    m->present = (uint64_t)st.st_blocks * 512; /* st_blocks counts 512 bytes: stat(2) */
    m->dev = st.st_dev;
    m->ino = st.st_ino;

    /* The kernel pins for the device whatever the fd permits: MAP_FILE looks at no access mode
     * (drivers/iommu/iommufd/io_pagetable.c, iopt_map_file_pages). */
    if ((flags & O_ACCMODE) == O_WRONLY)
        return vb_refuse(e, VB_BAD_MEMORY,
                         "the memory's fd is write-only, a device would read through it; open it O_RDWR");
    if (m->writable && (flags & O_ACCMODE) != O_RDWR)
        return vb_refuse(e, VB_BAD_MEMORY, "the memory's fd is read-only; open it O_RDWR or register it read-only");
    return 0;
}

static int check_size(const struct vb_memory *m, struct vb_error *e) {
    if (m->size == 0)
        return vb_refuse(e, VB_BAD_MEMORY, "the memory's file is empty; ftruncate() and populate it first");
    if (m->size > VB_MEMORY_SIZE_MAX)
        return vb_refuse(e, VB_BAD_MEMORY, "the memory's file has %s, more than %s", VB_SIZE(m->size),
                         VB_SIZE(VB_MEMORY_SIZE_MAX));
    if (m->size % m->page_size != 0)
        return vb_refuse(e, VB_BAD_MEMORY, "the memory's size of %s is not a multiple of its page size, %s",
                         VB_SIZE(m->size), VB_SIZE(m->page_size));
    return 0;
}

/* While a shared mapping of a writable fd exists, F_SEAL_WRITE is EBUSY (mm/memfd.c, memfd_add_seals:
 * mapping_deny_writable); F_SEAL_EXEC, which implies it, too. MAP_NORESERVE: on hugetlbfs a mapping would else take pages
 * out of the pool for the holes of the file (fs/hugetlbfs/inode.c, hugetlbfs_file_mmap). */
static int hold_writable(struct vb_memory *m, struct vb_error *e) {
    void *p;

    if (!m->writable)
        return 0;
    p = mmap(NULL, m->size, PROT_NONE, MAP_SHARED | MAP_NORESERVE, m->fd, 0);
    if (p == MAP_FAILED && errno == EPERM) /* F_SEAL_WRITE is being added this moment: mapping_map_writable() */
        return vb_refuse(e, VB_BAD_MEMORY, "the memory is sealed against writing; devices can only read it");
    if (p == MAP_FAILED)
        return vb_fail(e, -errno, "hold on %s of memory", VB_SIZE(m->size));
    m->hold = p;
    return 0;
}

static int check_seals(const struct vb_memory *m, bool for_write, struct vb_error *e) {
    int seals = fcntl(m->fd, F_GET_SEALS);

    if (seals < 0)
        return vb_fail(e, -errno, "seals of the memory");
    if (for_write && (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)))
        return vb_refuse(e, VB_BAD_MEMORY, "the memory is sealed against writing (%s); devices can only read it",
                         seals & F_SEAL_WRITE ? "F_SEAL_WRITE" : "F_SEAL_FUTURE_WRITE");
    return 0;
}

/* Pinning a hole would allocate the page in the memory cgroup of this process instead of the client's. SEEK_HOLE counts
 * swapped pages as data and fallocated but never written ones as holes (mm/filemap.c, folio_seek_hole_data). hugetlbfs
 * has no SEEK_HOLE of its own, it answers with the file's end (default_llseek): there the blocks tell. */
static int check_populated(const struct vb_memory *m, struct vb_error *e) {
    off_t before, hole;

    if (m->kind == VB_MEMORY_HUGETLB) {
        if (m->present >= m->size)
            return 0;
        return vb_refuse(e, VB_BAD_MEMORY,
                         "the memory has missing pages: %s of %s are present; populate it with MADV_POPULATE_WRITE",
                         VB_SIZE(m->present), VB_SIZE(m->size));
    }
    before = lseek(m->fd, 0, SEEK_CUR); /* the file position is the client's too */
    if (before < 0)
        return vb_fail(e, -errno, "file position of the memory");
    hole = lseek(m->fd, 0, SEEK_HOLE);
    if (hole < 0)
        return vb_fail(e, -errno, "looking for holes in the memory");
    if (before != hole && lseek(m->fd, before, SEEK_SET) < 0)
        return vb_fail(e, -errno, "file position of the memory");
    if ((uint64_t)hole >= m->size)
        return 0;
    return vb_refuse(e, VB_BAD_MEMORY,
                     "the memory has missing pages: the first at offset 0x%" PRIx64
                     ", %s of %s are allocated; populate it "
                     "with MADV_POPULATE_WRITE (fallocate is not enough)",
                     (uint64_t)hole, VB_SIZE(m->present), VB_SIZE(m->size));
}

/* What gives back has nobody to tell that it failed. Whole mappings, and a bounded number of VMAs (VB_PIN_PARTS_MAX): the kernel
 * can only lack memory for its own tree of them (mm/vma.c, do_vmi_align_munmap), which is over the next moment. */
#define TRIES 3

static bool unmap(void *p, uint64_t size) {
    int i, r = -1;

    for (i = 0; i < TRIES && r < 0; i++)
        r = munmap(p, size);
    return r == 0;
}

static bool unlock(const void *p, uint64_t size) {
    int i, r = -1;

    for (i = 0; i < TRIES && r < 0; i++)
        r = munlock(p, size);
    return r == 0;
}

int vb_memory_open(int fd_consumed, bool writable, const char *name, struct vb_memory **ret_memory,
                   struct vb_error *e) {
    VB_FD int fd = fd_consumed;
    struct vb_memory *m;
    int r;

    m = calloc(1, sizeof(*m));
    if (!m)
        return vb_fail(e, -ENOMEM, "memory");
    m->fd = vb_steal_fd(&fd);
    m->writable = writable;
    snprintf(m->name, sizeof(m->name), "%s", name ? name : "");

    /* The hold comes before the seals are read: a seal that came in between would be missed. */
    if ((r = check_kind(m, e)) == 0 && (r = check_size(m, e)) == 0 && (r = hold_writable(m, e)) == 0 &&
        (r = check_seals(m, writable, e)) == 0 && (r = check_populated(m, e)) == 0) {
        /* A huge page of shmem may reach behind the file's end, and may be split there later. */
        if (m->present > m->size)
            m->present = m->size;
        r = vb_charge_init(&m->charge, m->size);
        m->charge.locks = m->kind == VB_MEMORY_SHMEM;
        if (r < 0)
            vb_fail(e, r, "memory");
    }
    if (r != 0) {
        vb_memory_free(m);
        return r;
    }
    *ret_memory = m;
    return 0;
}

int vb_memory_open_dma_buf(int fd, bool writable, uint64_t size, const char *name, struct vb_memory **ret_memory,
                           struct vb_error *e) {
    struct vb_memory *m;
    int flags, r;

    flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return vb_fail(e, -errno, "the dma-buf's file descriptor");
    if ((flags & O_PATH) || (flags & O_ACCMODE) == O_WRONLY || (writable && (flags & O_ACCMODE) != O_RDWR))
        return vb_refuse(e, VB_BAD_MEMORY, "the dma-buf's fd does not permit the access; export it with O_RDWR");
    m = calloc(1, sizeof(*m));
    if (!m)
        return vb_fail(e, -ENOMEM, "memory");
    *m = (struct vb_memory){.kind = VB_MEMORY_DMA_BUF,
                            .writable = writable,
                            .fd = -1,
                            .size = size,
                            .page_size = (uint64_t)sysconf(_SC_PAGESIZE)};
    snprintf(m->name, sizeof(m->name), "%s", name ? name : "");
    r = check_size(m, e);
    if (r == 0 && (r = vb_charge_init(&m->charge, m->size)) < 0)
        vb_fail(e, r, "memory");
    if (r != 0) {
        vb_memory_free(m);
        return r;
    }
    m->charge.free = true;
    m->fd = fd;
    *ret_memory = m;
    return 0;
}

int vb_memory_recheck(const struct vb_memory *m, bool for_write, struct vb_error *e) {
    uint64_t present;
    struct stat st;

    if (m->kind == VB_MEMORY_DMA_BUF) /* its device may take it back, which the kernel does by itself */
        return 0;
    if (fstat(m->fd, &st) < 0)
        return vb_fail(e, -errno, "state of memory %" PRIu32, m->id);
    if ((uint64_t)st.st_size < m->size)
        return vb_refuse(e, VB_BAD_MEMORY, "memory %" PRIu32 " has shrunk to %s since it was registered with %s", m->id,
                         VB_SIZE((uint64_t)st.st_size), VB_SIZE(m->size));
    present = (uint64_t)st.st_blocks * 512;
    if (present < m->present)
        return vb_refuse(e, VB_BAD_MEMORY,
                         "pages were taken out of memory %" PRIu32
                         " since it was registered: %s of %s are left; populate "
                         "it again with MADV_POPULATE_WRITE",
                         m->id, VB_SIZE(present), VB_SIZE(m->present));
    return for_write ? check_seals(m, true, e) : 0;
}

/* A mapping of its own, since mlock of the PROT_NONE hold would lock without bringing the pages in (mm/gup.c). mlock counts
 * in mm->locked_vm and is checked against RLIMIT_MEMLOCK there, without what is locked already (mm/mlock.c, do_mlock). */
int vb_memory_lock(struct vb_memory *m, struct vb_range r, struct vb_error *e) {
    void *p;
    int err;

    if (m->kind == VB_MEMORY_HUGETLB)
        return 0;
    if (!m->resident) {
        p = mmap(NULL, m->size, PROT_READ, MAP_SHARED | MAP_NORESERVE, m->fd, 0);
        if (p == MAP_FAILED)
            return vb_fail(e, -errno, "mapping %s of memory %" PRIu32 " to keep it resident", VB_SIZE(m->size), m->id);
        m->resident = p;
    }
    if (mlock((char *)m->resident + r.first, vb_range_size(r)) == 0)
        return 0;
    err = errno; /* what is new may be locked without being present: the caller unlocks it */
    return vb_fail(
        e, -err, "keeping 0x%" PRIx64 "-0x%" PRIx64 " of memory %" PRIu32 " resident%s", r.first, r.last, m->id,
        err == ENOMEM || err == EAGAIN ? " (the session's RLIMIT_MEMLOCK, missing pages, or no memory)" : "");
}

void vb_memory_unlock(struct vb_memory *m, struct vb_range r) {
    if (!m->resident)
        return;
    if (m->charge.pinned.covered == 0) {
        if (unmap(m->resident, m->size))
            m->resident = NULL;
        return;
    }
    /* Our page tables of the range go too: the last munmap would take long else. */
    if (unlock((char *)m->resident + r.first, vb_range_size(r)))
        madvise((char *)m->resident + r.first, vb_range_size(r), MADV_DONTNEED);
}

struct vb_memory *vb_memory_free(struct vb_memory *m) {
    if (!m)
        return NULL;
    assert(m->mappings == 0);
    if (m->resident)
        unmap(m->resident, m->size);
    if (m->hold)
        unmap(m->hold, m->size);
    if (m->fd >= 0)
        close(m->fd);
    vb_charge_fini(&m->charge);
    free(m);
    return NULL;
}
