/* One request on its way: what dispatch.c hands to an op-*.c function, and what that leaves for the reply. */
#ifndef VB_SESSION_DISPATCH_H
#define VB_SESSION_DISPATCH_H

#include "session/session.h"
#include "vfio-broker.pb-c.h"

struct vb_request {
    const VfioBroker__Request *msg;
    const struct vb_packet *packet; /* it came in */
    int fd;                         /* the one that came with it, if its row wants one: the op takes it (sets -1) */
    VfioBroker__Reply reply;        /* body set by the op; everything in it lives in session->client.arena */
    int reply_fd;                   /* to go with the reply, owned by the request, or -1 */
    bool deferred;                  /* it is answered later: see pins.h */
    bool fatal;                     /* the connection ends after the reply */
};

/* 0, negative errno or vb_code with `e` filled in. An op that has nothing to tell leaves the reply at Done. */
typedef int (*vb_op_fn)(struct vb_session *s, struct vb_request *rq, struct vb_error *e);

void vb_dispatch(struct vb_session *s, struct vb_packet *p, struct vb_request *rq, struct vb_error *e);

/* Allocates a reply body in the arena, or fails with -ENOMEM. */
#define VB_NEW(s, type, init, e)                                                                                       \
    ({                                                                                                                 \
        type *_p = vb_arena_alloc(&(s)->client.arena, sizeof(type));                                                   \
        if (_p)                                                                                                        \
            *_p = (type)init;                                                                                          \
        else                                                                                                           \
            vb_fail(e, -ENOMEM, "the reply does not fit");                                                             \
        _p;                                                                                                            \
    })

/* Names that clients give to things: printable ASCII, bounded. */
int vb_check_name(const char *what, const char *name, struct vb_error *e);

/* ---- op-*.c ---- */
int vb_op_hello(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_memory_register(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_memory_unregister(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_space_create(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_space_destroy(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_space_describe(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_map(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_unmap(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_device_claim(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_device_bind(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_device_attach(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_device_detach(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_device_release(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_token_create(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_token_revoke(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_access_open(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_access_close(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_pin(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_unpin(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_inspect(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_space_need(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_dirty_set(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_dirty_read(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_discard(struct vb_session *s, struct vb_request *rq, struct vb_error *e);
int vb_op_discard_end(struct vb_session *s, struct vb_request *rq, struct vb_error *e);

/* ---- op-map.c: what takes mappings away (vb_model_unmap(), vb_model_discard()) ---- */
typedef int (*vb_ranges_fn)(struct vb_model *m, uint32_t space, const struct vb_unmap_entry *entries, size_t n,
                            uint64_t *ret_mappings, uint64_t *ret_bytes, struct vb_error *e);
/* `run` on the ranges (n 0: the whole space), when nothing that was asked earlier waits on them and no pin is in them; else
 * rq->deferred is set. */
int vb_when_unpinned(struct vb_session *s, struct vb_request *rq, uint32_t space, const struct vb_unmap_entry *entries,
                     size_t n, vb_ranges_fn run, VfioBroker__UnmapReply *m, struct vb_error *e);
/* A batch off the wire, in the arena. */
int vb_unmap_batch(struct vb_session *s, VfioBroker__UnmapEntry *const *list, size_t n,
                   const struct vb_unmap_entry **ret_entries, struct vb_error *e);
/* vb_model_unmap_all() as one of those. */
int vb_unmap_everything(struct vb_model *m, uint32_t space, const struct vb_unmap_entry *entries, size_t n,
                        uint64_t *ret_mappings, uint64_t *ret_bytes, struct vb_error *e);

/* ---- progress.c ---- */
struct vb_progress {
    struct vb_session *session;
    uint64_t next_ms; /* monotonic: nothing is told before */
};
/* From now on the client is told how far a replay is; `p` has to live until the end. */
void vb_progress_begin(struct vb_progress *p, struct vb_session *s);
void vb_progress_end(struct vb_progress *p);

/* ---- rows.c ---- */
/* The domains of a space, into `a`. -ENOMEM. */
int vb_domain_rows(struct vb_session *s, struct vb_arena *a, const struct vb_space *space,
                   VfioBroker__DomainRow ***ret_rows, size_t *ret_n);

/* Rows about this session, into `a`; for the client itself, and for the daemon's questions (control.c). */
int vb_inspect_rows(struct vb_session *s, struct vb_arena *a, const VfioBroker__Inspect *q,
                    VfioBroker__InspectReply *ret, struct vb_error *e);

/* ---- reply.c ---- */
/* `e` as a message in arena `a`; never NULL (falls back to a static one when the arena is full). */
VfioBroker__Error *vb_error_message(struct vb_arena *a, const struct vb_error *e);
/* Those of `e`, in arena `a`; as many as there is room for. */
VfioBroker__Conflict **vb_conflict_messages(struct vb_arena *a, const struct vb_error *e, size_t *ret_n);
/* The daemon's refusal, passed on. Returns the code. */
int vb_error_from_message(struct vb_error *e, const VfioBroker__Error *m);

#endif
