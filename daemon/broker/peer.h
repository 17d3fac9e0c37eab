/* Who is at the other end of a socket, as the kernel says, asked once when the connection is accepted.
 *
 * uid, gid, pid are those of the process that called connect(2); policy depends on uid, gid and groups only. pid, start
 * time and pidfd name the process whose limits count. Where the kernel has no SO_PEERPIDFD (before 6.5) the pid could
 * have been given to another process between connect and accept; that one is accepted only when it has the uid of the
 * peer, so the worst that a client can do is to be charged to another process of its own. */
#ifndef VB_BROKER_PEER_H
#define VB_BROKER_PEER_H

#include <stdint.h>
#include <sys/types.h>

#include "host/proc.h"

struct vb_peer {
    uid_t uid;
    gid_t gid;
    pid_t pid;
    uint64_t start;          /* of the process, ticks since boot */
    int pidfd;               /* owned; -1 when unknown */
    char comm[VB_COMM_SIZE]; /* printable */
    size_t n_groups;
    gid_t *groups; /* owned */
};
#define VB_PEER_INIT                                                                                                   \
    { .pidfd = -1, .comm = "?" }
#define VB_PEER __attribute__((cleanup(vb_peer_fini)))

/* 0; -ESRCH: the process is gone already; or another negative errno. */
int vb_peer_read(int sock, const char *proc, struct vb_peer *ret);
void vb_peer_fini(struct vb_peer *p);

#endif
