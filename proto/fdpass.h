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
#define VB_PACKET_INIT {.n_fds = 0}
#define VB_PACKET __attribute__((cleanup(vb_packet_close)))

/* Receives one packet into buf. 1: a packet; 0: the peer has closed (an empty packet counts as that); -EAGAIN: nothing
 * there (flags & MSG_DONTWAIT or a non-blocking socket); -EMSGSIZE: packet or fds were cut off, nothing was kept: the
 * peer broke the protocol; or another negative errno. EINTR is handled. Every received fd is close-on-exec. */
int vb_packet_recv(int sock, void *buf, size_t size, int flags, struct vb_packet *ret_packet);
/* The same, for a receiver that must not wait: close(2) of a fd that the peer chose may take as long as the peer likes (a FUSE
 * file is flushed, a TCP socket lingers). `drop` gets the fds that are not kept; those that are in ret_packet have to be
 * looked at before vb_packet_close(). */
int vb_packet_recv_dropping(int sock, void *buf, size_t size, int flags, struct vb_packet *ret_packet,
                            void (*drop)(int fd));
/* Sends one packet, all or nothing, never raises SIGPIPE. fds stay the caller's. 0, -EAGAIN, -EPIPE, ... */
int vb_packet_send(int sock, const void *data, size_t size, const int *fds, unsigned n_fds, int flags);
/* The i-th fd becomes the caller's; -1 when there is none. */
int vb_packet_steal_fd(struct vb_packet *p, unsigned i);
void vb_packet_close(struct vb_packet *p);

#endif
