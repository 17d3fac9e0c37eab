/* A session: the process that serves one client. It runs without privilege under a uid of its own (see broker/spawn.c),
 * holds the model of the client's memory, spaces and devices, and makes the mapping ioctls on objects that the daemon
 * opened for it.
 *
 *   client.c    the client's connection: packets in, replies out, back pressure
 *   dispatch.c  the table of requests; op-*.c: one file for each family
 *   outbox.c    packets that a socket did not take yet
 *   pins.h      tokens, accesses, pins: token.c, pin-link.c, park.c, access.c
 *   reply.c     model errors and results to protobuf
 *   control.c   the link to the daemon: calls, questions, finding the next daemon
 *   lease.c     more lease for the ledger, and less
 *   held.c      devices that somebody still has open after release
 *   end.c       the client is gone: memory first, then the rest
 *   sandbox.c   what this process may ask of the kernel
 *
 * One thread, one event loop; a request is carried out whole before the next is read. Only a call to the daemon waits,
 * and while it waits the daemon's questions are answered. */
#ifndef VB_SESSION_H
#define VB_SESSION_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "core/model.h"
#include "internal.pb-c.h"
#include "proto/codec.h"
#include "proto/fdpass.h"
#include "session/outbox.h"

struct vb_workers;  /* backend/workers.h */
struct vb_parked;   /* park.c */
struct vb_pin_link; /* pins.h */

/* The client's connection. Invariant: while a reply waits to be written, nothing is read. */
struct vb_client_link {
    int fd; /* -1 once the client is gone */
    struct event *readable, *writable, *hello_timer, *died;
    bool hello_done;
    struct vb_arena arena;  /* the request in progress, and its reply */
    uint8_t *in, *out;      /* VB_PACKET_MAX each */
    size_t out_size;        /* a reply that the socket did not take yet, or 0 */
    int out_fd;             /* its fd, or -1 */
    struct vb_outbox later; /* behind the reply: events, answers to requests that had to wait */
    unsigned n_foreign;     /* fds that are no memory, left open: closing them may wait */
    int set_aside;          /* such a one of the packet that is carried out now, its first fd; or -1 */
};

enum vb_link_state { VB_LINK_DOWN, VB_LINK_ADOPTING, VB_LINK_UP };

struct vb_control_link {
    int fd;
    enum vb_link_state state;
    struct event *readable, *timer; /* timer: next try to reconnect, or patience with an adoption */
    unsigned retry_ms;
    uint64_t serial; /* of the last call */
    struct vb_arena arena;
    uint8_t *in, *out;
    char socket_path[108];
};

/* A device that this session gave back, or whose client died, and that somebody still has open. */
struct vb_held {
    char address[VB_ADDRESS_MAX + 1];
    vb_handle handle;
    bool software; /* to be told to the model when it is free */
};

/* The loop's watch on a device's fd (backend ops->device_fd). */
struct vb_device_watch {
    LIST_ENTRY(vb_device_watch) link;
    struct vb_session *session;
    struct event *event;
    vb_handle handle;
};

/* A request of our client that waits for the answer of a space's owner (access.c). */
struct vb_pending {
    uint64_t request; /* the client's id; 0: free */
    uint64_t serial;
    uint32_t access;
    VfioBrokerInternal__ToPinner__BodyCase expect;
    size_t n;
    struct vb_unmap_entry *ranges; /* of a Pin; owned */
    uint32_t *ids;                 /* of an Unpin; owned */
};

/* Requests that wait for pins to end (park.c). */
struct vb_park_list {
    STAILQ_HEAD(, vb_parked) list;
    unsigned n;
    struct vb_parked *current; /* is being tried again */
    struct event *retry, *deadline;
};

struct vb_session {
    struct event_base *base;
    uint32_t id;
    uint32_t client_pid, client_uid;
    int client_pidfd; /* -1 when holding */
    int iommufd;      /* to show to the next daemon; -1 on other backends */
    bool admin;
    bool holding;               /* the client is gone; only held devices keep us */
    bool taken_over;            /* started to hold what a dead session left: addresses without handles */
    char name[VB_NAME_MAX + 1]; /* the client's own, from Hello */
    struct vb_model *model;
    struct vb_workers *workers; /* NULL: none */
    struct vb_client_link client;
    struct vb_control_link control;
    struct vb_held held[2 * VB_DEVICES_MAX];
    unsigned n_held;
    struct event *lease_timer, *lease_low;
    uint64_t low_again_ms; /* lease.c */

    bool lies; /* --test-lie; no #ifdef here: not every file that has this structure includes config.h */
    struct event *held_timer;
    unsigned held_poll_ms; /* until it fires next */
    LIST_HEAD(, vb_device_watch) watches;
    uint32_t asked_back[VB_DEVICES_MAX]; /* devices whose DeviceRequested may not be written yet: device-events.c */
    unsigned n_asked_back;
    unsigned n_requests;                 /* of the host for devices, so far */
    struct vb_table tokens;              /* struct vb_token */
    TAILQ_HEAD(, vb_pin_link) pin_links; /* others' accesses to our spaces */
    uint32_t n_pin_links, n_refused, n_opened;
    struct vb_pin_link *serving; /* whose request is carried out now */
    uint64_t links_rest_until;   /* monotonic ms: pin-link.c */
    struct vb_table accesses;    /* struct vb_access */
    unsigned n_foreign_owners;   /* as client.n_foreign, from the sessions of spaces' owners: not our client's fault */
    struct vb_pending pending[VB_PARKED_MAX];
    uint64_t last_serial;
    struct vb_park_list park;
};

/* The whole life of a session process: fds inherited from the daemon, exit status returned. client_fd is -1 when it only
 * holds what a dead session left. Both fds are consumed. */
int vb_session_main(int client_fd, int control_fd);

void vb_session_log(const struct vb_session *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- client.c ---- */
int vb_client_start(struct vb_session *s, int fd /* consumed */);
void vb_client_stop(struct vb_session *s);
/* Carries out one packet and leaves the packed reply in client.out; for client.c, tests and fuzzers. Fds of the packet
 * that no request took are closed by the caller. Returns the reply's size; *ret_fd: to go with it (caller closes), or
 * -1; *ret_fatal: the connection must end after this reply. */
size_t vb_client_handle(struct vb_session *s, struct vb_packet *p, int *ret_fd, bool *ret_fatal);
/* Carries out a packet again that had to wait, and answers it. False: it has to wait on. */
bool vb_client_again(struct vb_session *s, struct vb_packet *p);
/* Sends an event, or the answer to a request that had to wait; what the socket does not take goes out later. fds stay the
 * caller's. Callers bound how many can wait (VB_EVENTS_MAX, VB_PARKED_MAX, or they look at vb_client_busy() first). */
void vb_client_send(struct vb_session *s, const VfioBroker__Reply *reply, const int *fds, unsigned n_fds);
/* Something waits to be written to the client. */
bool vb_client_busy(const struct vb_session *s);
/* Takes fds out of the packet that are no memory and leaves them open, with -1 in their places: closing them could wait.
 * Returns how many. */
unsigned vb_foreign_set_aside(struct vb_packet *p);
/* The session ends after this event, if the client takes it. */
void vb_client_event_closing(struct vb_session *s, const char *reason);

/* ---- park.c, token.c, pin-link.c, access.c: more in pins.h ---- */
int vb_pins_start(struct vb_session *s);
void vb_pins_stop(struct vb_session *s);

/* ---- control.c ---- */
int vb_control_start(struct vb_session *s, int fd /* consumed */);
void vb_control_stop(struct vb_session *s);
/* Calls the daemon and waits, answering its questions meanwhile. On 0 ret_answer lives in control.arena until the next
 * message; ret_fds (may be NULL) are fds that came with it, the caller's, or -1. VB_UNAVAILABLE: no daemon; or its refusal. */
int vb_control_call(struct vb_session *s, VfioBrokerInternal__Call *call, VfioBrokerInternal__Answer **ret_answer,
                    int ret_fds[2], struct vb_error *e);
/* One-way messages; lost when there is no daemon: the next one learns the state by Adopt. */
void vb_control_device_free(struct vb_session *s, const char *address);
/* Given back, but somebody has it open still: for people who wait for it. */
void vb_control_device_held(struct vb_session *s, const char *address);
void vb_control_holding(struct vb_session *s);
/* Lease that is given back; asked: the daemon wanted it. */
void vb_control_give(struct vb_session *s, const struct vb_give *g, bool asked);

/* ---- lease.c ---- */
/* The ledger's want() and released(). 0 or -ENOMEM. */
int vb_lease_start(struct vb_session *s);
void vb_lease_stop(struct vb_session *s);
/* Something was reserved: more is asked for if little is left, from the loop. */
void vb_lease_used(struct vb_session *s);
/* Something may be idle from now on. */
void vb_lease_idle(struct vb_session *s);
/* The daemon wants what is idle. */
void vb_lease_reclaimed(struct vb_session *s);
/* A grant whose call had lost patience. */
void vb_lease_came_late(struct vb_session *s, uint64_t granted);

/* ---- held.c ---- */
/* The backend has closed `handle`: report the device free, now or when nobody has it open any more. */
void vb_held_add(struct vb_session *s, const char *address, vb_handle handle, bool software);
/* The kernel may have refused to give something up: look again, soon at first. */
void vb_held_poll(struct vb_session *s);
int vb_watch_device(struct vb_session *s, vb_handle handle);
void vb_unwatch_device(struct vb_session *s, vb_handle handle);
void vb_unwatch_all(struct vb_session *s);

/* ---- device-events.c ---- */
/* The host wants the device back: the client is told. */
void vb_device_requested(struct vb_session *s, vb_handle handle);
/* It has left the host: it is released as if the client had done so, and the client is told. */
void vb_device_vanished(struct vb_session *s, vb_handle handle);

/* ---- end.c ---- */
/* The client is gone or sent away: takes the memory away from its devices, gives back what can be given back; the
 * process ends at once, or when the last held device is closed. */
void vb_session_end(struct vb_session *s);
/* The loop ends when nothing is left to do. */
void vb_session_maybe_exit(struct vb_session *s);

/* ---- sandbox.c ---- */
/* Not dumpable, no new privileges, seccomp filter. 0 or a negative errno. */
int vb_sandbox_enter(bool emulated);

#endif
