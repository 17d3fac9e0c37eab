/* The control socket of one session, as the daemon sees it: packets in, checked and counted; packets out, never waiting.
 *
 * A session is not trusted. A packet that does not decode, lacks its body, has too long an address or fds that its kind
 * does not carry is malformed. Sending never blocks: whoever does not read is lost. A link reads at most
 * VB_CALLS_PER_SECOND messages a second and then pauses; a costly call counts as several (vb_link_charge()). */
#ifndef VB_BROKER_LINK_H
#define VB_BROKER_LINK_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "internal.pb-c.h"
#include "proto/codec.h"
#include "proto/fdpass.h"

struct vb_link;

/* One message, in the arena until the next; fds that are not taken out of the packet are closed. The link, and its
 * owner, may be gone when this returns. */
typedef void (*vb_link_message_fn)(struct vb_link *l, const VfioBrokerInternal__ToDaemon *m, struct vb_packet *p);
/* 0: the session closed it; -EBADMSG: malformed; or another negative errno. Called at most once. */
typedef void (*vb_link_lost_fn)(struct vb_link *l, int error);

/* Shared by all links of a daemon: one message is dealt with at a time. */
struct vb_link_buffers {
    struct vb_arena arena;
    uint8_t *in, *out; /* VB_PACKET_MAX each; owned */
};

struct vb_link {
    int fd; /* owned; -1: closed */
    struct vb_link_buffers *buffers;
    struct event *readable, *resume;
    bool takes_fds;    /* only to be adopted: closing an fd that a client has made may wait */
    uint64_t second;   /* monotonic */
    unsigned messages; /* in this second */
    vb_link_message_fn on_message;
    vb_link_lost_fn on_lost;
    void *owner;
};

int vb_link_buffers_init(struct vb_link_buffers *b);
void vb_link_buffers_fini(struct vb_link_buffers *b);

/* Takes over `fd` in every case and watches it. 0 or -ENOMEM. */
int vb_link_open(struct vb_link *l, struct event_base *base, struct vb_link_buffers *buffers, int fd /* consumed */,
                 vb_link_message_fn on_message, vb_link_lost_fn on_lost, void *owner);
void vb_link_close(struct vb_link *l);
/* Counts the message in progress as `n` more. */
void vb_link_charge(struct vb_link *l, unsigned n);
/* Sends one message. 0, -EAGAIN when the session does not read, -EMSGSIZE, or another negative errno. */
int vb_link_send(struct vb_link *l, const VfioBrokerInternal__ToSession *m, const int *fds, unsigned n_fds);

/* Decodes and checks what a session sent. NULL: malformed. Pure, for tests and fuzzers. */
const VfioBrokerInternal__ToDaemon *vb_link_decode(struct vb_arena *a, const void *data, size_t size, unsigned n_fds);

#endif
