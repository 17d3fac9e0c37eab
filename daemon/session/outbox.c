#include "session/outbox.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/fdpass.h"

struct vb_outbox_packet {
    STAILQ_ENTRY(vb_outbox_packet) link;
    int fds[VB_PACKET_FDS]; /* owned */
    unsigned n_fds;
    size_t size;
    uint8_t data[];
};

void vb_outbox_init(struct vb_outbox *o) {
    STAILQ_INIT(&o->packets);
    o->n = 0;
}

static void drop(struct vb_outbox_packet *p) {
    for (unsigned i = 0; i < p->n_fds; i++)
        close(p->fds[i]);
    free(p);
}

int vb_outbox_put(struct vb_outbox *o, const ProtobufCMessage *m, const int *fds, unsigned n_fds) {
    size_t size = protobuf_c_message_get_packed_size(m);

    if (size > VB_PACKET_MAX || n_fds > VB_PACKET_FDS)
        return -EMSGSIZE;
    struct vb_outbox_packet *p = malloc(sizeof *p + size);
    if (!p)
        return -ENOMEM;
    p->size = protobuf_c_message_pack(m, p->data);
    for (p->n_fds = 0; p->n_fds < n_fds; p->n_fds++) {
        p->fds[p->n_fds] = fcntl(fds[p->n_fds], F_DUPFD_CLOEXEC, 0);
        if (p->fds[p->n_fds] < 0) {
            drop(p);
            return -EMFILE;
        }
    }
    STAILQ_INSERT_TAIL(&o->packets, p, link);
    o->n++;
    return 0;
}

int vb_outbox_flush(struct vb_outbox *o, int sock) {
    struct vb_outbox_packet *p;

    while ((p = STAILQ_FIRST(&o->packets))) {
        int r = vb_packet_send(sock, p->data, p->size, p->fds, p->n_fds, MSG_DONTWAIT);
        if (r == -ENOBUFS || r == -ETOOMANYREFS) /* as a full socket: net/unix/af_unix.c, net/core/scm.c */
            r = -EAGAIN;
        if (r < 0)
            return r;
        STAILQ_REMOVE_HEAD(&o->packets, link);
        o->n--;
        drop(p);
    }
    return 0;
}

void vb_outbox_clear(struct vb_outbox *o) {
    struct vb_outbox_packet *p;

    while ((p = STAILQ_FIRST(&o->packets))) {
        STAILQ_REMOVE_HEAD(&o->packets, link);
        drop(p);
    }
    o->n = 0;
}
