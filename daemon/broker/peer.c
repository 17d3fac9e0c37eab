#include "broker/peer.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5, include/uapi/asm-generic/socket.h */
#endif

static int read_groups(int sock, struct vb_peer *p) {
    socklen_t size = 64 * sizeof(gid_t);

    for (;;) {
        gid_t *groups = malloc(size);

        if (!groups)
            return -ENOMEM;
        if (getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, groups, &size) == 0) {
            p->groups = groups;
            p->n_groups = size / sizeof(gid_t);
            return 0;
        }
        free(groups);
        if (errno != ERANGE) /* size says now how much is needed */
            return -errno;
    }
}

static int read_pidfd(int sock, const char *proc, struct vb_peer *p) {
    struct vb_proc_status status;
    socklen_t size = sizeof p->pidfd;

    if (getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &p->pidfd, &size) == 0)
        return 0;
    p->pidfd = -1;
    if (errno != ENOPROTOOPT)
        return errno == EINVAL ? -ESRCH : -errno;
    int fd = vb_pidfd_open(p->pid);
    if (fd < 0)
        return fd;
    p->pidfd = fd;
    int r = vb_proc_status(proc, p->pid, &status);
    if (r < 0)
        return r == -ENOENT ? -ESRCH : r;
    return status.euid == p->uid || status.uid == p->uid ? 0 : -ESRCH;
}

int vb_peer_read(int sock, const char *proc, struct vb_peer *ret) {
    struct vb_peer p = VB_PEER_INIT;
    struct ucred cred;
    socklen_t size = sizeof cred;

    if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0)
        return -errno;
    if (cred.pid <= 0) /* a process outside our pid namespace has no limits that we could read */
        return -ESRCH;
    p.uid = cred.uid;
    p.gid = cred.gid;
    p.pid = cred.pid;
    int r = read_groups(sock, &p);
    if (r == 0)
        r = read_pidfd(sock, proc, &p);
    if (r == 0)
        r = vb_proc_start_time(proc, p.pid, &p.start);
    if (r == 0) {
        vb_proc_comm(proc, p.pid, p.comm);
        if (!vb_pidfd_alive(p.pidfd)) /* what was read may be another process's */
            r = -ESRCH;
    }
    if (r < 0) {
        vb_peer_fini(&p);
        return r == -ENOENT ? -ESRCH : r;
    }
    *ret = p;
    return 0;
}

void vb_peer_fini(struct vb_peer *p) {
    if (p->pidfd >= 0)
        close(p->pidfd);
    free(p->groups);
    *p = (struct vb_peer)VB_PEER_INIT;
}
