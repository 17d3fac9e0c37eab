#include "host/files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "proto/cleanup.h"

int vb_file_read_at(int dir, const char *path, char *buf, size_t size) {
    VB_FD int fd = openat(dir, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    size_t used = 0;

    if (fd < 0)
        return -errno;
    while (used < size) {
        ssize_t n = read(fd, buf + used, size - used);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        used += (size_t)n;
    }
    if (used == size)
        return -EFBIG;
    buf[used] = 0;
    return (int)used;
}

int vb_file_read(const char *path, char *buf, size_t size) {
    return vb_file_read_at(AT_FDCWD, path, buf, size);
}

int vb_file_line(const char *path, char *buf, size_t size) {
    int r = vb_file_read(path, buf, size);

    if (r < 0)
        return r;
    buf[strcspn(buf, "\n")] = 0;
    return (int)strlen(buf);
}

int vb_link_name(const char *path, char *buf, size_t size) {
    char target[PATH_MAX];
    ssize_t n = readlink(path, target, sizeof target - 1);

    if (n < 0)
        return -errno;
    target[n] = 0;
    const char *slash = strrchr(target, '/'), *name = slash ? slash + 1 : target;
    if (strlen(name) >= size)
        return -ENAMETOOLONG;
    strcpy(buf, name);
    return 0;
}

bool vb_path(char *buf, size_t size, const char *fmt, ...) {
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(buf, size, fmt, ap);
    va_end(ap);
    return n >= 0 && (size_t)n < size;
}
