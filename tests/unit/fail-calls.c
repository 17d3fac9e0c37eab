#include "tests/unit/fail-calls.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* ---- the n-th system call ---- */

static unsigned calls, failing, way, failed; /* counted while `failing` is not 0 */
static bool onwards;

void fail_call(unsigned nth, unsigned the_way, bool all) {
    calls = failed = 0;
    failing = nth;
    way = the_way;
    onwards = all;
}

unsigned fail_call_end(void) {
    failing = 0;
    return failed;
}

/* With errors that the man pages, or the kernel's code, have for the call. */
static bool fails(const int (*errors)[FAIL_WAYS]) {
    if (!failing)
        return false;
    calls++;
    if (onwards ? calls < failing : calls != failing)
        return false;
    failed++;
    errno = (*errors)[way];
    return true;
}

static const int for_ioctl[FAIL_WAYS] = {ENOMEM, EINVAL, EBUSY, EFAULT, EIO, EINTR};
static const int for_fcntl[FAIL_WAYS] = {EMFILE, EINVAL, EBADF, EMFILE, EINVAL, EBADF};
static const int for_stat[FAIL_WAYS] = {ENOMEM, EIO, EBADF, EFAULT, EOVERFLOW, EINTR};
static const int for_lseek[FAIL_WAYS] = {EINVAL, ENXIO, ESPIPE, EOVERFLOW, EBADF, EINVAL};
static const int for_mmap[FAIL_WAYS] = {ENOMEM, EINVAL, EPERM, EACCES, EAGAIN, ENODEV};
static const int for_mlock[FAIL_WAYS] = {ENOMEM, EAGAIN, EPERM, EINVAL, ENOMEM, EAGAIN};

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);
int __real_fcntl(int fd, int command, long arg);
int __wrap_fcntl(int fd, int command, long arg);
int __real_fstat(int fd, struct stat *st);
int __wrap_fstat(int fd, struct stat *st);
int __real_fstatfs(int fd, struct statfs *st);
int __wrap_fstatfs(int fd, struct statfs *st);
off_t __real_lseek(int fd, off_t offset, int whence);
off_t __wrap_lseek(int fd, off_t offset, int whence);
void *__real_mmap(void *p, size_t size, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap(void *p, size_t size, int prot, int flags, int fd, off_t offset);
int __real_mlock(const void *p, size_t size);
int __wrap_mlock(const void *p, size_t size);
int __real_munlock(const void *p, size_t size);
int __wrap_munlock(const void *p, size_t size);
int __real_munmap(void *p, size_t size);
int __wrap_munmap(void *p, size_t size);

int __wrap_ioctl(int fd, unsigned long request, void *arg) {
    return fails(&for_ioctl) ? -1 : __real_ioctl(fd, request, arg);
}
int __wrap_fcntl(int fd, int command, long arg) {
    return fails(&for_fcntl) ? -1 : __real_fcntl(fd, command, arg);
}
int __wrap_fstat(int fd, struct stat *st) {
    return fails(&for_stat) ? -1 : __real_fstat(fd, st);
}
int __wrap_fstatfs(int fd, struct statfs *st) {
    return fails(&for_stat) ? -1 : __real_fstatfs(fd, st);
}
off_t __wrap_lseek(int fd, off_t offset, int whence) {
    return fails(&for_lseek) ? -1 : __real_lseek(fd, offset, whence);
}
void *__wrap_mmap(void *p, size_t size, int prot, int flags, int fd, off_t offset) {
    return fails(&for_mmap) ? MAP_FAILED : __real_mmap(p, size, prot, flags, fd, offset);
}
int __wrap_mlock(const void *p, size_t size) {
    return fails(&for_mlock) ? -1 : __real_mlock(p, size);
}
/* These two give back, and are tried again: they fail alone, not for ever. */
int __wrap_munlock(const void *p, size_t size) {
    return !onwards && fails(&for_mlock) ? -1 : __real_munlock(p, size);
}
int __wrap_munmap(void *p, size_t size) {
    return !onwards && fails(&for_mlock) ? -1 : __real_munmap(p, size);
}

/* ---- the kernel's own ---- */

static int fail_nth = -1;

static bool write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    if (fd >= 0)
        close(fd);
    return good;
}

/* Also those that may sleep, that are for user pages, and single pages; without a word in the kernel's log. As
 * tools/testing/selftests/iommu/iommufd_fail_nth.c does it. */
bool fail_kernel_prepare(void) {
    glob_t quiet;
    size_t i;

    if (glob("/sys/kernel/debug/fail*/verbose", 0, NULL, &quiet) != 0)
        return false;
    for (i = 0; i < quiet.gl_pathc; i++)
        write_file(quiet.gl_pathv[i], "0");
    globfree(&quiet);
    if (!write_file("/sys/kernel/debug/failslab/ignore-gfp-wait", "N") ||
        !write_file("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N") ||
        !write_file("/sys/kernel/debug/fail_page_alloc/ignore-gfp-highmem", "N") ||
        !write_file("/sys/kernel/debug/fail_page_alloc/min-order", "0"))
        return false;
    if (fail_nth < 0)
        fail_nth = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
    return fail_nth >= 0;
}

void fail_kernel(unsigned nth) {
    char text[16];
    int n = snprintf(text, sizeof(text), "%u", nth);

    if (pwrite(fail_nth, text, (size_t)n, 0) != n)
        abort();
}

/* Reading and writing the file copy too, and fail at last where nothing else did: EFAULT. */
bool fail_kernel_end(void) {
    char text[16] = "";
    ssize_t n = pread(fail_nth, text, sizeof(text) - 1, 0);

    while (pwrite(fail_nth, "0", 1, 0) < 0)
        if (errno != EFAULT)
            abort();
    return n > 0 && strtoul(text, NULL, 10) == 0;
}
