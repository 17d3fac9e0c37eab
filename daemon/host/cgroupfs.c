#include "host/cgroupfs.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "host/files.h"
#include "proto/cleanup.h"

int vb_cgroupfs_path(const char *proc, pid_t pid, char *buf, size_t size) {
    static const char deleted[] = " (deleted)";
    char path[PATH_MAX], text[2 * PATH_MAX];
    bool fits = pid == 0 ? vb_path(path, sizeof path, "%s/self/cgroup", proc)
                         : vb_path(path, sizeof path, "%s/%d/cgroup", proc, (int)pid);

    int r = fits ? vb_file_read(path, text, sizeof text) : -ENAMETOOLONG;
    if (r < 0)
        return r == -ENOENT ? -ESRCH : r;
    for (char *rest = text, *line; (line = strsep(&rest, "\n"));) {
        if (strncmp(line, "0::/", 4) != 0)
            continue;
        line += 3;
        size_t n = strlen(line);
        if (n >= sizeof deleted && strcmp(line + n - (sizeof deleted - 1), deleted) == 0)
            return -ESRCH;
        if (n >= size)
            return -ENAMETOOLONG;
        memcpy(buf, line, n + 1);
        return 0;
    }
    return -ENODATA;
}

int vb_cgroupfs_open(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

int vb_cgroupfs_open_at(int dir, const char *name) {
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

/* systemd sets both; "trusted." can be read with CAP_SYS_ADMIN only, which we do not have as a service. */
bool vb_cgroupfs_delegated(int dir) {
    static const char *const names[] = {"user.delegate", "trusted.delegate"};
    char value[2];

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (fgetxattr(dir, names[i], value, sizeof value) == 1 && value[0] == '1')
            return true;
    return false;
}

bool vb_cgroupfs_has(int dir, const char *controller) {
    char text[512];

    if (vb_file_read_at(dir, "cgroup.controllers", text, sizeof text) < 0)
        return false;
    for (char *rest = text, *word; (word = strsep(&rest, " \n"));)
        if (strcmp(word, controller) == 0)
            return true;
    return false;
}

int vb_cgroupfs_write(int dir, const char *file, const char *text) {
    VB_FD int fd = openat(dir, file, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, text, strlen(text));
    if (n < 0)
        return -errno;
    return (size_t)n == strlen(text) ? 0 : -EIO;
}

int vb_cgroupfs_write_number(int dir, const char *file, uint64_t n) {
    char text[24];

    snprintf(text, sizeof text, "%" PRIu64, n);
    return vb_cgroupfs_write(dir, file, text);
}

static int parse(const char *text, uint64_t *ret) {
    char *end;

    if (strncmp(text, "max", 3) == 0 && (text[3] == '\n' || !text[3])) {
        *ret = UINT64_MAX;
        return 0;
    }
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (end == text || (*end && *end != '\n') || errno)
        return -EBADMSG;
    *ret = n;
    return 0;
}

int vb_cgroupfs_number(int dir, const char *file, uint64_t *ret) {
    char text[32];
    int r = vb_file_read_at(dir, file, text, sizeof text);

    return r < 0 ? r : parse(text, ret);
}

int vb_cgroupfs_keyed(int dir, const char *file, const char *key, uint64_t *ret) {
    char text[1024];
    size_t n = strlen(key);

    int r = vb_file_read_at(dir, file, text, sizeof text);
    if (r < 0)
        return r;
    for (char *rest = text, *line; (line = strsep(&rest, "\n"));)
        if (strncmp(line, key, n) == 0 && line[n] == ' ')
            return parse(line + n + 1, ret);
    return -ENOENT;
}

int vb_cgroupfs_each(int dir, int (*fn)(pid_t pid, void *data), void *data) {
    char line[32];
    int r = 0;

    int fd = openat(dir, "cgroup.procs", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    FILE *f = fdopen(fd, "re");
    if (!f) {
        close(fd);
        return -ENOMEM;
    }
    while (r == 0 && fgets(line, sizeof line, f)) {
        long pid = strtol(line, NULL, 10);

        if (pid > 0 && pid <= INT_MAX) /* 0: of another pid namespace */
            r = fn((pid_t)pid, data);
    }
    fclose(f);
    return r;
}
