/* Packets that a socket did not take yet, in order, with their fds. Bounded by who puts them in: see each use. */
#ifndef VB_OUTBOX_H
#define VB_OUTBOX_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <sys/queue.h>

struct vb_outbox_packet;

struct vb_outbox {
    STAILQ_HEAD(, vb_outbox_packet) packets;
    unsigned n;
};

void vb_outbox_init(struct vb_outbox *o);
/* Packs the message; fds are duplicated. -ENOMEM, -EMSGSIZE (longer than a packet), -EMFILE: nothing was put in. */
int vb_outbox_put(struct vb_outbox *o, const ProtobufCMessage *m, const int *fds, unsigned n_fds);
/* Writes what the socket takes. 0: it is empty now; -EAGAIN; or another negative errno: the peer is gone. */
int vb_outbox_flush(struct vb_outbox *o, int sock);
void vb_outbox_clear(struct vb_outbox *o);

static inline bool vb_outbox_empty(const struct vb_outbox *o) {
    return o->n == 0;
}

#endif
