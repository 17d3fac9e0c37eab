/* Cgroup v2 as a file system: directories by fd, small files in them. See Documentation/admin-guide/cgroup-v2.rst.
 *
 * Every function works on any directory that looks like a cgroup, so that tests can bring their own. 0 or more on success, or a
 * negative errno. */
#ifndef VB_HOST_CGROUPFS_H
#define VB_HOST_CGROUPFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The cgroup of a process (0: our own) as /proc shows it: "/system.slice/x.service". -ENODATA: it has none of version 2,
 * -ESRCH: it is gone, or so is the cgroup. */
int vb_cgroupfs_path(const char *proc, pid_t pid, char *buf, size_t size);
/* Opens a cgroup. Fd. */
int vb_cgroupfs_open(const char *path);
int vb_cgroupfs_open_at(int dir, const char *name);
/* Has systemd left it to us (man systemd.resource-control, Delegate=)? */
bool vb_cgroupfs_delegated(int dir);
/* Can its children have this controller? */
bool vb_cgroupfs_has(int dir, const char *controller);
/* One write(2), as the kernel wants it. */
int vb_cgroupfs_write(int dir, const char *file, const char *text);
int vb_cgroupfs_write_number(int dir, const char *file, uint64_t n);
/* Reads a file with a single number; "max" is UINT64_MAX. */
int vb_cgroupfs_number(int dir, const char *file, uint64_t *ret);
/* Reads "key N" from a file with a line for each key. -ENOENT: no such key. */
int vb_cgroupfs_keyed(int dir, const char *file, const char *key, uint64_t *ret);
/* Calls fn for each process in it until that returns nonzero; returns that, 0, or a negative errno. */
int vb_cgroupfs_each(int dir, int (*fn)(pid_t pid, void *data), void *data);

#endif
