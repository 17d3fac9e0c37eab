/* Pins between sessions (DESIGN 9): what the session of a space's owner and that of a pinner say to each other on a pin link,
 * a socket pair that the daemon makes when a token is redeemed. Neither trusts the other.
 *
 *   token.c     the owner's tokens
 *   pin-link.c  the owner's end: a link of another session to a space of ours; pin-request.c: what it asks;
 *               pin-ask.c: Invalidate and the deadline, for the pins of all links
 *   park.c      requests of our client that wait until pins have ended
 *   access.c    the pinner's end: our client's accesses to spaces of others; access-check.c: what their owners may say
 *   op-pin.c    the requests
 *
 * Nothing here waits: a request that needs the other side is answered when that has answered; one that waits for pins is
 * parked, and carried out again when they are gone. */
#ifndef VB_SESSION_PINS_H
#define VB_SESSION_PINS_H

#include "session/dispatch.h"

#define VB_TOKEN_WARNING                                                                                               \
    "a token gives the memories' file descriptors, with the access that they were opened with and for the whole "      \
    "files: "                                                                                                          \
    "that cannot be taken back; pins and the access can"

/* ---- token.c ---- */
struct vb_token {
    uint32_t id;
    bool revoked; /* no new access, no new pin */
    struct vb_space *space;
    struct vb_range range; /* IOVAs */
    char name[VB_NAME_MAX + 1];
    uint8_t secret[VB_TOKEN_SIZE];
};
int vb_token_create(struct vb_session *s, struct vb_space *space, struct vb_range range, const char *name,
                    struct vb_token **ret_token, struct vb_error *e);
/* The token of this session with that secret, or NULL. Compares in constant time. */
struct vb_token *vb_token_find(struct vb_session *s, const uint8_t *secret, size_t size);
/* Ends it, and every access that was opened with it. */
void vb_token_remove(struct vb_session *s, struct vb_token *t);
/* The space is about to go. */
void vb_tokens_of_space_remove(struct vb_session *s, const struct vb_space *space);

/* ---- pin-link.c ---- */
struct vb_pin_link {
    TAILQ_ENTRY(vb_pin_link) entry;
    struct vb_session *session;
    struct vb_token *token;
    uint32_t pinner, client_pid, client_uid; /* as the daemon says */
    int fd;
    struct event *readable, *writable;
    struct event *again;  /* when it may be read */
    uint64_t rests_until; /* monotonic ms */
    bool fds_out;         /* a reply with fds may not have been received yet */
    /* A reply, and for each pin at most Invalidate and PinsLost; nothing is read while it is not empty. */
    struct vb_outbox out;
    uint32_t n_sent, sent[VB_MEMORIES_MAX]; /* memories whose fds the pinner has */
};
/* Somebody shows a secret. The fd is consumed. May be called while a request of our client is being carried out. */
void vb_pin_link_offered(struct vb_session *s, const VfioBrokerInternal__PinLink *m, int fd);
/* False: the link is gone. */
bool vb_pin_link_send(struct vb_pin_link *l, const VfioBrokerInternal__ToPinner *m, const int *fds, unsigned n);
/* Ends it, with its pins. With a reason the pinner is told, if its socket takes it. */
void vb_pin_link_close(struct vb_pin_link *l, const char *reason);
/* Those of a token (NULL: all). */
void vb_pin_links_close(struct vb_session *s, const struct vb_token *token, const char *reason);
/* Carries out what waits to be read, some of it. False: the link is gone. */
bool vb_pin_link_drain(struct vb_pin_link *l);

/* ---- pin-request.c ---- */
/* Carries out and answers one request. NULL, or nonsense: the link ends. */
void vb_pin_link_request(struct vb_pin_link *l, const VfioBrokerInternal__ToOwner *m);

/* ---- pin-ask.c ---- */
/* Which pins: in any of the ranges of a space (0 ranges: anywhere), of one token or (NULL) of all. */
struct vb_pin_filter {
    struct vb_space *space;
    const struct vb_range *ranges;
    size_t n;
    const struct vb_token *token;
};
bool vb_pins_exist(const struct vb_pin_filter *f);
/* Writes Invalidate for those that have not been asked yet. */
void vb_pins_ask(struct vb_session *s, const struct vb_pin_filter *f);
/* Takes away those whose deadline has come. Returns when the next one comes (monotonic ms), or 0. */
uint64_t vb_pins_expire(struct vb_session *s, uint64_t now_ms);

/* ---- park.c ---- */
/* Has the request to wait for earlier parked ones on these ranges, or (unless pins_matter is false) for pins? Then it is
 * kept, rq->deferred is set, and it is carried out again later. VB_BUSY: too many wait. */
int vb_park(struct vb_session *s, struct vb_request *rq, const struct vb_pin_filter *f, bool pins_matter,
            struct vb_error *e);
/* A parked request is going to change this range. */
bool vb_park_covers(struct vb_session *s, const struct vb_space *space, struct vb_range r);
/* Pins have ended: parked requests are tried again, from the loop. */
void vb_park_poke(struct vb_session *s);

/* ---- access.c ---- */
struct vb_access {
    uint32_t id;
    struct vb_session *session;
    int fd;
    struct event *readable, *writable, *patience;
    struct vb_outbox out;      /* requests: at most VB_PARKED_MAX are unanswered */
    struct vb_known_pin *pins; /* that our client has; owned */
    uint32_t n_pins;
    uint32_t n_memories, memories[VB_MEMORIES_MAX]; /* whose fds it has had */
};
/* Redeems a token: rq->deferred until the owner has answered. */
int vb_access_open(struct vb_session *s, struct vb_request *rq, const ProtobufCBinaryData *secret, struct vb_error *e);
/* Passes a request on: rq->deferred until it is answered. */
int vb_access_ask(struct vb_session *s, struct vb_request *rq, uint32_t access, VfioBrokerInternal__ToOwner *m,
                  VfioBrokerInternal__ToPinner__BodyCase expect, struct vb_error *e);
int vb_access_close(struct vb_session *s, uint32_t access, struct vb_error *e);
/* The client's socket takes packets again. */
void vb_accesses_resume(struct vb_session *s);
void vb_accesses_stop(struct vb_session *s);

/* ---- access-check.c ---- */
/* Notes what is asked, so that the reply can be checked. -ENOMEM. */
int vb_access_expect(struct vb_pending *p, const VfioBrokerInternal__ToOwner *m);
/* Is this an answer to `p`? Counts what the client has by it. */
bool vb_access_reply_fits(struct vb_access *a, struct vb_pending *p, VfioBrokerInternal__ToPinner *m, unsigned n_fds);
/* Leaves in the event what is about pins that the client has. False: nothing. */
bool vb_access_invalidate(struct vb_access *a, VfioBroker__Invalidate *m);
bool vb_access_lost(struct vb_access *a, VfioBroker__PinsLost *m);

#endif
