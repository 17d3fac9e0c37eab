/* What /proc says of other processes. `proc` is "/proc", or a directory that looks like it.
 *
 * A pid may be somebody else's by the time it is read: whoever has a pidfd checks after reading that the process still
 * lives (vb_pidfd_alive()); then what was read was its own. */
#ifndef VB_HOST_PROC_H
#define VB_HOST_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#define VB_COMM_SIZE 16

struct vb_proc_status {
    uint64_t locked; /* VmLck, bytes; 0 for a process that has no memory any more */
    uid_t uid, euid;
    pid_t parent;
};

/* 0, -ENOENT or -ESRCH when there is no such process, -EBADMSG when a line is missing. */
int vb_proc_status(const char *proc, pid_t pid, struct vb_proc_status *ret);
/* Field 22 of /proc/PID/stat, clock ticks since boot: with the pid it names a process for all time. */
int vb_proc_start_time(const char *proc, pid_t pid, uint64_t *ret);
/* Has it begun to end? It runs no code of its own any more, but may wait in the kernel for as long as it likes. */
bool vb_proc_exiting(const char *proc, pid_t pid);
/* Soft RLIMIT_MEMLOCK in bytes; UINT64_MAX: unlimited. */
int vb_proc_memlock(const char *proc, pid_t pid, uint64_t *ret);
/* Name of the program, printable ASCII only; "?" when it cannot be read. */
void vb_proc_comm(const char *proc, pid_t pid, char ret[VB_COMM_SIZE]);
/* When a process with this start time began, seconds since the epoch. */
time_t vb_proc_started(uint64_t start);
/* Calls fn for each process until it returns nonzero; returns that, 0, or a negative errno. */
int vb_proc_each(const char *proc, int (*fn)(pid_t pid, void *data), void *data);
/* Processes that have `path` open. Looks at no more than `budget` fds and `max` processes; the count found. What may
 * not be read is left out. Links only: fdinfo of a hostile process can wait for ever (fs/eventpoll.c, ep_show_fdinfo, takes a lock
 * that the process may hold while it faults). */
size_t vb_proc_holders(const char *proc, const char *path, unsigned budget, pid_t *ret, size_t max);
bool vb_pidfd_alive(int pidfd);
/* pidfd_open(2). Fd or negative errno. */
int vb_pidfd_open(pid_t pid);

#endif
