/* Inside libvfio-broker. One client is one connection; a call is one request that waits for its reply.
 *
 * Model: a request is packed into the client's send buffer and sent at once; what the socket does not take waits in the
 * send queue (a copy, with a dup of its fd). The call is linked into `calls` from the sending until its reply or the
 * loss of the connection, whichever comes first; either completes it exactly once. A blocking call lives on the stack of
 * the function that waits for it, an asynchronous one in one of the client's slots.
 *
 * Invariants:
 *   - calls' outputs are filled while the reply is decoded, before any callback runs, since a callback may make calls
 *     and so overwrite the receive buffer and the arena;
 *   - the broker is not trusted: whatever it sends ends in a result or in vbc_lose(), never in an abort;
 *   - the socket is in blocking mode: a blocking call costs sendmsg + recvmsg and no poll(2); everything else says
 *     MSG_DONTWAIT;
 *   - an access may end while a call on it waits, since a handler may close it: who waits holds it by `users`. */
#ifndef VB_CLIENT_PRIVATE_H
#define VB_CLIENT_PRIVATE_H

#include <sys/queue.h>
#include <sys/types.h>

#include "client/vfio-broker.h"
#include "proto/codec.h"
#include "proto/fdpass.h"
#include "proto/limits.h"
#include "proto/vfio-broker.pb-c.h"

#define VBC_HELLO_MS        10000u
#define VBC_ASYNC_MAX       64u /* unanswered asynchronous calls; the header tells it */
#define VBC_EVENT_DEPTH     63u /* event handlers inside each other, each in a call of the one before: see event.c */
#define VBC_LATE_MAX        (1u << 20) /* bytes of events that wait for a handler to return */
#define VBC_FDS_BY_TAKE     (~0u)      /* for vbc_call.fds */
#define VBC_PROCESS_PACKETS 128u /* received by one vfb_process(), so that a flood does not hold the caller's loop */

/* struct vfb_error with room for what it points to. Copy with vbc_error_copy(), which relinks. */
struct vbc_error {
    struct vfb_error pub;
    char text[VB_ERROR_TEXT];
    char whose[96];
    struct vfb_conflict conflicts[VB_CONFLICTS_MAX];
    char kind[VB_CONFLICTS_MAX][16];
    char device[VB_CONFLICTS_MAX][VB_ADDRESS_MAX + 1];
};

struct vbc_call;
/* Fills call->out from a reply of the expected kind. 0, or a code with call->error set; VFB_PROTOCOL ends the
 * connection. Fds of the packet that it does not steal are closed by the caller. */
typedef int (*vbc_take_fn)(struct vbc_call *call, const VfioBroker__Reply *reply, struct vb_packet *p);

struct vbc_call {
    TAILQ_ENTRY(vbc_call) link;
    uint64_t id;
    VfioBroker__Reply__BodyCase expect;
    unsigned fds;     /* that a successful reply brings; VBC_FDS_BY_TAKE: take() checks how many */
    vbc_take_fn take; /* NULL: nothing to take */
    void *out;
    struct vfb_client *client;
    struct vbc_error *error; /* blocking: the waiter's; asynchronous: the client's */
    int result;
    bool done;
    vfb_done_fn fn; /* NULL: blocking */
    void *arg;
};
TAILQ_HEAD(vbc_calls, vbc_call);

struct vbc_file {
    uint32_t memory; /* the owner's number */
    int fd;          /* owned */
};
/* An access to another client's space, in the client's list from the reply that opened it until it ends. */
struct vbc_access {
    TAILQ_ENTRY(vbc_access) link;
    uint32_t id;
    bool ended;     /* not in the list, no fds; freed by its last user */
    unsigned users; /* calls and events on the stack that look at it */
    size_t n_files;
    struct vbc_file files[VB_MEMORIES_MAX]; /* that pins have brought */
};
TAILQ_HEAD(vbc_accesses, vbc_access);

/* Into which the broker writes what is dirty. Sealed, so that it cannot be made shorter under our mapping. */
struct vbc_bitmap {
    int fd;      /* a memfd, or -1 */
    size_t size; /* bytes: whole pages, populated */
    uint64_t *words;
};

struct vbc_late;
STAILQ_HEAD(vbc_late_events, vbc_late);

struct vbc_queued;
STAILQ_HEAD(vbc_queue, vbc_queued);

enum vbc_state { VBC_NEW, VBC_CONNECTING, VBC_CONNECTED, VBC_LOST };

union vbc_entry {
    VfioBroker__MapEntry map;
    VfioBroker__UnmapEntry unmap;
    VfioBroker__PinEntry pin;
};

struct vfb_client {
    enum vbc_state state;
    int fd;    /* -1 in VBC_NEW; kept open in VBC_LOST, so that the number is not reused under the caller's loop */
    pid_t pid; /* that connected: a forked child must not shut the connection down */
    unsigned hello_ms;     /* how long vfb_connect() may take; tests shorten it */
    int64_t connect_until; /* CLOCK_MONOTONIC, ms; 0 unless connecting: other calls wait for ever */
    const char *path;      /* borrowed, while connecting */
    uint64_t last_id;
    struct vbc_calls calls;
    struct vbc_calls free_slots;
    struct vbc_call slots[VBC_ASYNC_MAX];
    struct vbc_queue queue;
    struct vbc_accesses accesses;
    unsigned n_accesses; /* listed, and those being opened: at most VB_ACCESSES_MAX */

    struct vfb_info info;
    char backend[32], broker[64];
    char closing[VB_ERROR_TEXT]; /* the reason that a Closing event gave */
    struct vbc_error lost;       /* why the connection is lost */
    struct vbc_error error;      /* what vfb_error() shows */

    vfb_event_fn event_fn;
    void *event_arg;
    unsigned event_depth;        /* handlers that run, each inside the one before */
    struct vbc_late_events late; /* empty when none runs */
    size_t late_size;            /* bytes, at most VBC_LATE_MAX */

    struct vbc_bitmap bitmap;  /* of the last vfb_dirty_read(); a call that reads has it for itself */
    struct vbc_error left_out; /* its conflicts are those of the last vfb_device_attach_leaving_out() */
    bool discarding;           /* a vfb_discard() is on the stack */

    struct vb_arena arena;   /* of the reply in hand */
    struct vb_arena inspect; /* of the last vfb_inspect(); made when first needed */
    union vbc_entry entries[VB_BATCH_MAX];
    void *entry_ptrs[VB_BATCH_MAX]; /* entry_ptrs[i] == &entries[i], as protobuf-c wants it */
    uint8_t sendbuf[VB_PACKET_MAX];
    uint8_t recvbuf[VB_PACKET_MAX];
};

/* ---- error.c ---- */
/* Sets c->error; returns code. A negative errno gets its sentence appended by the caller, if at all. */
int vbc_fail(struct vfb_client *c, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The same on any box. */
int vbc_error_set(struct vbc_error *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void vbc_error_copy(struct vbc_error *to, const struct vbc_error *from);
/* Its list of conflicts, in place of the one that it has: the first VB_CONFLICTS_MAX of them. */
void vbc_error_conflicts(struct vbc_error *e, VfioBroker__Conflict *const *conflicts, size_t n);
/* What an Error of the broker says, as a result; VFB_PROTOCOL when it says nothing that is an error. */
int vbc_error_decode(struct vbc_error *e, const VfioBroker__Error *m);
/* Copies what a peer said: cut to size, control characters replaced. NULL is "". */
void vbc_text(char *to, size_t size, const char *from);

/* ---- call.c ---- */
/* Sends req (its id is set here) and waits. The result; on failure c->error is set. fd: -1 or borrowed. `fds` as in
 * struct vbc_call. */
int vbc_blocking(struct vfb_client *c, VfioBroker__Request *req, int fd, VfioBroker__Reply__BodyCase expect,
                 vbc_take_fn take, void *out, unsigned fds);
/* Sends or queues; `done` comes later. 0, -EAGAIN, -EPIPE, ... with c->error set; `done` is not called then. */
int vbc_async(struct vfb_client *c, VfioBroker__Request *req, VfioBroker__Reply__BodyCase expect, vfb_done_fn done,
              void *arg);
/* Ends the connection and completes every call with `code`, in order; callbacks run. */
void vbc_lose(struct vfb_client *c, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* VFB_STATE or -EPIPE, with c->error, unless connected. */
int vbc_check_connected(struct vfb_client *c);
/* The same, or VFB_UNSUPPORTED from a broker that does not have `feature`, which is not asked then. what: "dirty tracking". */
int vbc_check_feature(struct vfb_client *c, uint64_t feature, const char *what);
/* CLOCK_MONOTONIC, in milliseconds. */
int64_t vbc_now_ms(void);
/* The broker let vfb_connect()'s time pass. Returns -ETIMEDOUT with c->error set. */
int vbc_fail_silent(struct vfb_client *c);
int vbc_check_name(struct vfb_client *c, const char *what, const char *name, size_t max);

/* ---- queue.c: packets that the socket did not take yet ---- */
/* Sends now if nothing waits, else queues. 0 also when the peer is gone: the receiving side tells why. -ENOMEM, ... */
int vbc_queue_send(struct vfb_client *c, const void *data, size_t size, int fd, bool *ret_gone);
/* Sends what the socket takes now. */
void vbc_queue_flush(struct vfb_client *c);
void vbc_queue_drop(struct vfb_client *c);

/* ---- map.c ---- */
/* A batch that the broker takes? And its entries, in the client's own arrays until the next call. */
int vbc_check_batch(struct vfb_client *c, const void *entries, size_t n);
VfioBroker__UnmapEntry **vbc_unmap_entries(struct vfb_client *c, const struct vfb_unmap *entries, size_t n);

/* ---- dirty.c ---- */
/* -1 and nothing mapped: none. */
void vbc_bitmap_fini(struct vbc_bitmap *b);

/* ---- inspect.c ---- */
int vbc_inspect(struct vfb_client *c, VfioBroker__InspectKind kind, uint32_t session, uint64_t after, vbc_take_fn take,
                void *out);

/* ---- access.c ---- */
struct vbc_access *vbc_access_find(struct vfb_client *c, uint32_t id); /* or NULL */
/* Takes it off the list and closes its fds. Who has raised `users` may look at it until vbc_access_unuse(). */
void vbc_access_end(struct vfb_client *c, struct vbc_access *a);
void vbc_access_end_all(struct vfb_client *c);
void vbc_access_unuse(struct vbc_access *a);

/* ---- event.c ---- */
/* m was decoded from p, which is kept (copied) if the handler cannot be called now. */
void vbc_event(struct vfb_client *c, const VfioBroker__Event *m, const struct vb_packet *p);
void vbc_events_drop(struct vfb_client *c);

#endif
