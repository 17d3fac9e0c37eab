/* Populating a memory fd: piece by piece through a temporary shared mapping, so that the pages are charged to this
 * process's memory cgroup. fallocate(2) is not enough: it neither charges nor zeroes what it reserves on every file
 * system, and the kernel would still fault each page when pinning. */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "client/client-private.h"
#include "client/populate.h"

/* Large enough that the system calls do not count, small enough for a 32-bit address space. Bytes. */
#define PIECE (256ull << 20)

/* Linux 5.14, include/uapi/asm-generic/mman-common.h; older libc headers do not have them. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

/* For kernels without MADV_POPULATE_*. Others may use the memory meanwhile, so a write must not change anything. */
static void touch(uint8_t *p, uint64_t size, uint64_t step, bool writable) {
    for (uint64_t at = 0; at < size; at += step) {
        if (writable)
            __atomic_fetch_or(p + at, 0, __ATOMIC_RELAXED);
        else
            (void)__atomic_load_n(p + at, __ATOMIC_RELAXED);
    }
}

/* 0 or negative errno. */
static int populate_piece(uint8_t *p, uint64_t size, uint64_t step, bool writable) {
    int r;

    do
        r = madvise(p, (size_t)size, writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
    while (r < 0 && (errno == EINTR || errno == EAGAIN));
    if (r == 0)
        return 0;
    if (errno != EINVAL)
        return -errno;
    touch(p, size, step, writable);
    return 0;
}

static int failed(struct vfb_client *c, int r, uint64_t at, uint64_t size) {
    if (r == -EFAULT) /* the fault ended in SIGBUS: mm/gup.c, faultin_page_range() */
        return vbc_fail(c, -ENOSPC,
                        "cannot populate the memory at offset 0x%" PRIx64 " of 0x%" PRIx64
                        ": its file system is full, or no huge page is free",
                        at, size);
    return vbc_fail(c, r, "cannot populate the memory at offset 0x%" PRIx64 " of 0x%" PRIx64 ": %s", at, size,
                    strerror(-r));
}

int vbc_populate(struct vfb_client *c, int fd, bool writable) {
    int prot = PROT_READ | (writable ? PROT_WRITE : 0);
    uint64_t size, page, piece;
    struct statfs fs;
    struct stat st;

    if (fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0)
        return vbc_fail(c, -errno, "cannot look at the memory's fd: %s", strerror(errno));
    /* f_type is signed on some architectures: compare the 32 bits that magic numbers have. */
    if (!S_ISREG(st.st_mode) || st.st_size <= 0 ||
        ((uint32_t)fs.f_type != TMPFS_MAGIC && (uint32_t)fs.f_type != HUGETLBFS_MAGIC))
        return 0;
    size = (uint64_t)st.st_size;
    page = (uint32_t)fs.f_type == HUGETLBFS_MAGIC ? (uint64_t)fs.f_bsize : (uint64_t)sysconf(_SC_PAGESIZE);
    piece = page > PIECE ? page : PIECE / page * page; /* hugetlbfs maps whole huge pages only */
    for (uint64_t at = 0; at < size; at += piece) {
        uint64_t n = size - at < piece ? (size - at + page - 1) / page * page : piece;
        void *p;
        int r;

        if (n > SIZE_MAX)
            return vbc_fail(c, -EFBIG, "a page of the memory is larger than the address space");
        p = mmap(NULL, (size_t)n, prot, MAP_SHARED, fd, (off_t)at);
        if (p == MAP_FAILED) {
            if (errno == EACCES || errno == EPERM || errno == EBADF) /* read-only, write-only, sealed, O_PATH */
                return 0;
            return failed(c, -errno, at, size);
        }
        r = populate_piece(p, n, page, writable);
        munmap(p, (size_t)n);
        if (r < 0)
            return failed(c, r, at, size);
    }
    return 0;
}
