/* A session process: fork, become nobody, exec ourselves with --session.
 *
 * The child has fd 3 (the client's socket; absent when it holds) and fd 4 (the control socket), the limits below, a uid
 * of its own, no capability, no environment, and outlives us. What goes wrong before the exec comes through a pipe; the
 * daemon does not wait for it, but watches the pipe: end of file means that the exec has happened. */
#ifndef VB_BROKER_SPAWN_H
#define VB_BROKER_SPAWN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/error.h"

struct vb_spawn {
    int client_fd; /* -1: hold */
    int control_fd;
    int cgroup_fd;   /* cgroup.procs of its own cgroup; -1: it stays in ours */
    bool change_uid; /* become `uid`; else stay who we are (development) */
    uid_t uid;
    uint64_t lease; /* RLIMIT_MEMLOCK */
    bool pins;      /* the lease must be enforced by the kernel; else as far as our own limits go */
};

struct vb_spawned {
    pid_t pid;
    int pidfd;  /* the caller's */
    int status; /* read end of the pipe, non-blocking; the caller's */
};

/* What the pipe brings when the child failed. */
struct vb_spawn_failure {
    int error; /* positive errno */
    char step[24];
};

int vb_spawn(const struct vb_spawn *s, struct vb_spawned *ret, struct vb_error *e);

#endif
