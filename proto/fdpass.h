/* Packets with file descriptors over SOCK_SEQPACKET: the only code that touches SCM_RIGHTS. */
#ifndef VB_FDPASS_H
#define VB_FDPASS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/limits.h"

/* What one receive brings. Fds that nobody took are closed by vb_packet_close(). */
struct vb_packet {
    const uint8_t *data; /* in the caller's buffer */
    size_t size;         /* bytes */
    int fds[VB_PACKET_FDS];
    unsigned n_fds;
};
#define VB_PACKET_INIT                                                                                                 \
    { .n_fds = 0 }
#define VB_PACKET __attribute__((cleanup(vb_packet_close)))

/* Receives one packet into buf. 1: a packet; 0: the peer has closed (an empty packet counts as that); -EAGAIN: nothing
 * there (flags & MSG_DONTWAIT or a non-blocking socket); -EMSGSIZE: packet or fds were cut off: the peer broke the
 * protocol; or another negative errno. EINTR is handled. Every received fd is close-on-exec, and in ret_packet whatever
 * the return value is: the caller decides who closes it, since close(2) of a hostile fd may wait (session/client.c). */
int vb_packet_recv(int sock, void *buf, size_t size, int flags, struct vb_packet *ret_packet);
/* The same without taking fds: a packet that has some is -EMSGSIZE and stays in the queue. (To receive it without room for
 * fds would not do: the kernel then closes them in this process, net/core/scm.c.) */
int vb_packet_recv_no_fds(int sock, void *buf, size_t size, int flags, struct vb_packet *ret_packet);
/* Sends one packet, all or nothing, never raises SIGPIPE. fds stay the caller's. 0, -EAGAIN, -EPIPE, ... */
int vb_packet_send(int sock, const void *data, size_t size, const int *fds, unsigned n_fds, int flags);
/* The i-th fd becomes the caller's; -1 when there is none. */
int vb_packet_steal_fd(struct vb_packet *p, unsigned i);
void vb_packet_close(struct vb_packet *p);
/* The fds stay open for good: they may be anything, and closing them may wait. */
void vb_packet_abandon(struct vb_packet *p);

#endif
