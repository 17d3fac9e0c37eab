/* See bitmap.h. Kernel facts were read in Linux 7.3; the file is named at each. */
#include "session/bitmap.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* As core/memory.c, check_kind: F_GET_SEALS comes before everything that a file system of the client's own could delay. */
static int check_kind(int fd, struct vb_error *e) {
    struct statfs fs;

    const int flags = fd < 0 ? -1 : fcntl(fd, F_GETFL);
    const int seals = flags < 0 || flags & O_PATH ? -1 : fcntl(fd, F_GET_SEALS);
    if (seals < 0)
        return vb_refuse(e, VB_BAD_MEMORY, "the bitmap's fd must be a memfd that is open for reading and writing");
    if ((flags & O_ACCMODE) != O_RDWR)
        return vb_refuse(e, VB_BAD_MEMORY, "the bitmap's fd is not open for reading and writing; open it O_RDWR");
    if (flags & O_APPEND) /* pwrite(2) would write at the end: mm/filemap.c, generic_write_checks */
        return vb_refuse(e, VB_BAD_MEMORY, "the bitmap's fd is open with O_APPEND; open it without");
    if (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))
        return vb_refuse(e, VB_BAD_MEMORY, "the bitmap's memfd is sealed against writing");
    if (fstatfs(fd, &fs) < 0)
        return vb_fail(e, -errno, "file system of the bitmap's fd");
    if (fs.f_type != TMPFS_MAGIC) /* hugetlbfs has no write(2): fs/hugetlbfs/inode.c, hugetlbfs_file_operations */
        return vb_refuse(e, VB_BAD_MEMORY, "the bitmap's fd must be a memfd of small pages, without MFD_HUGETLB");
    return 0;
}

/* Writing into a hole would allocate its pages in the memory cgroup of this process: see core/memory.c, check_populated. */
static int check_range(const struct vb_bitmap *b, uint64_t need, struct vb_error *e) {
    struct stat st;
    uint64_t end;

    if (fstat(b->fd, &st) < 0)
        return vb_fail(e, -errno, "state of the bitmap's fd");
    if (__builtin_add_overflow(b->offset, need, &end) || end > (uint64_t)st.st_size)
        return vb_refuse(e, VB_BAD_MEMORY,
                         "the bitmap has %" PRIu64 " bytes at offset 0x%" PRIx64 ", its file only %" PRIu64
                         "; ftruncate() and populate it first",
                         need, b->offset, (uint64_t)st.st_size);
    const off_t before = lseek(b->fd, 0, SEEK_CUR); /* the file position is the client's too */
    const off_t hole = before < 0 ? -1 : lseek(b->fd, (off_t)b->offset, SEEK_HOLE);
    if (hole < 0 || lseek(b->fd, before, SEEK_SET) < 0)
        return vb_fail(e, -errno, "looking for holes in the bitmap");
    if ((uint64_t)hole < end)
        return vb_refuse(e, VB_BAD_MEMORY,
                         "the bitmap has missing pages: the first at offset 0x%" PRIx64
                         "; populate it with MADV_POPULATE_WRITE, or write zeros",
                         (uint64_t)hole);
    return 0;
}

static uint64_t bytes_of(const struct vb_bitmap *b) {
    return (b->bits + 7) / 8;
}

static int move(const struct vb_bitmap *b, bool write, struct vb_error *e) {
    uint64_t done = 0;

    while (done < bytes_of(b)) {
        uint8_t *p = (uint8_t *)b->bytes + done;
        const size_t left = bytes_of(b) - done;
        const off_t at = (off_t)(b->offset + done);
        ssize_t n = write ? pwrite(b->fd, p, left, at) : pread(b->fd, p, left, at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EPERM) /* mm/shmem.c, shmem_write_begin */
            return vb_refuse(e, VB_BAD_MEMORY, "the bitmap's memfd is sealed against writing");
        if (n < 0)
            return vb_fail(e, -errno, "%s the bitmap at offset 0x%" PRIx64, write ? "writing" : "reading",
                           (uint64_t)at);
        if (n == 0)
            return vb_refuse(e, VB_BAD_MEMORY, "the bitmap's file has shrunk to 0x%" PRIx64 " bytes", (uint64_t)at);
        done += (uint64_t)n;
    }
    return 0;
}

int vb_bitmap_open(struct vb_bitmap *b, int fd, uint64_t offset, uint64_t bits, struct vb_error *e) {
    struct vb_bitmap new = {.fd = fd, .offset = offset, .bits = bits, .size = (bits + 63) / 64 * 8};
    int r;

    if (offset % 8 != 0)
        return vb_refuse(e, VB_INVALID, "the bitmap's offset 0x%" PRIx64 " is not a multiple of 8", offset);
    r = check_kind(fd, e);
    if (r == 0)
        r = check_range(&new, bytes_of(&new), e);
    if (r != 0)
        return r;
    new.bytes = calloc(1, new.size);
    if (!new.bytes)
        return vb_fail(e, -ENOMEM, "a bitmap of %" PRIu64 " pages", bits);
    r = move(&new, false, e);
    if (r == 0)
        r = move(&new, true, e);
    if (r != 0)
        vb_bitmap_close(&new);
    else
        *b = new;
    return r;
}

int vb_bitmap_add(struct vb_bitmap *b, const uint64_t *words, uint64_t *ret_set, struct vb_error *e) {
    uint64_t set = 0;

    for (uint64_t i = 0; i < b->size / 8; i++) {
        const uint64_t left = b->bits - i * 64;

        b->bytes[i] |= htole64(words[i]);
        set += (uint64_t)__builtin_popcountll(le64toh(b->bytes[i]) & (left < 64 ? ((uint64_t)1 << left) - 1 : ~0ull));
    }
    int r = move(b, true, e);
    if (r == 0)
        *ret_set = set;
    return r;
}

void vb_bitmap_close(struct vb_bitmap *b) {
    free(b->bytes);
    b->bytes = NULL;
}
