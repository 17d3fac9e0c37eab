/* Small reads below a root directory ("/sys", "/proc", or a test's copy of them). Lowest part of host/. */
#ifndef VB_HOST_FILES_H
#define VB_HOST_FILES_H

#include <stdbool.h>
#include <stddef.h>

/* Reads a whole small file, 0-terminated, into buf. Bytes read, -EFBIG when it does not fit, or a negative errno. */
int vb_file_read(const char *path, char *buf, size_t size);
/* The same below a directory's fd (openat(2)). */
int vb_file_read_at(int dir, const char *path, char *buf, size_t size);
/* The same, for one line without its newline. */
int vb_file_line(const char *path, char *buf, size_t size);
/* Last component of what a link points to. 0, -ENAMETOOLONG, or a negative errno. */
int vb_link_name(const char *path, char *buf, size_t size);
/* Joins with snprintf. False: longer than `size`. */
bool vb_path(char *buf, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
