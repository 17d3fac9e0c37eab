/* The daemon: one object, one event loop, one thread.
 *
 *   listener.c    broker.sock and session.sock
 *   peer.c        who connects              policy*.c   what he may have
 *   payer.c       who pays                  account.c   what for: leases; lease.c: of whom
 *   backend.c     by what devices are reached on this kernel
 *   register.c    who has which device      groups.c    and the groups and containers of type1
 *   supervisor.c  sessions: start, end      spawn.c     the process; uids.c: under which uid
 *   cgroup*.c     a memory cgroup for each
 *   hold.c        what a dead session leaves
 *   link.c        a session's control socket; calls.c: what it asks for
 *   adopt.c       sessions of an earlier daemon; strays.c: those that have not come yet
 *   inspect.c     what vfio-brokerctl shows; ask.c: rows that only another session has
 *   fdstore.c     systemd keeps iommufds, groups and containers
 *
 * Nothing that a client or a session does may block the daemon: it reads no client's socket, waits for no session, and
 * makes no ioctl on an object that a client can reach. */
#ifndef VB_BROKER_BROKER_H
#define VB_BROKER_BROKER_H

#include <bsd/sys/queue.h>
#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/un.h>
#include <time.h>

#include "broker/account.h"
#include "broker/cgroup.h"
#include "broker/link.h"
#include "broker/log.h"
#include "broker/options.h"
#include "broker/policy.h"
#include "broker/register.h"
#include "broker/uids.h"

struct vb_record;
struct vb_ask;
struct vb_stray;
struct vb_reopen;
struct vb_broker;

struct vb_listener {
    struct vb_broker *broker;
    int fd; /* owned */
    struct event *readable, *resume;
    void (*accepted)(struct vb_broker *b, int fd /* consumed */);
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

struct vb_broker {
    struct vb_options options;
    struct event_base *base;
    enum vb_backend_choice backend; /* never AUTO */
    time_t started;
    struct vb_policy *policy;
    struct vb_accounts accounts;
    struct vb_register devices;
    struct vb_uids uids;
    struct vb_cgroups cgroups;
    struct vb_link_buffers buffers;
    uint8_t *rows; /* VB_PACKET_MAX, for inspect.c */
    struct vb_listener clients, sessions;
    int reserve_fd; /* given up for a moment when fds run out; listener.c */

    LIST_HEAD(, vb_record) records;
    uint32_t n_sessions; /* records with a number */
    uint32_t last_id;
    LIST_HEAD(, vb_ask) asks;
    uint64_t last_token;
    LIST_HEAD(, vb_stray) strays;
    struct event *grace; /* pending: sessions of an earlier daemon may still come */
    bool stopping;       /* the records end, their processes do not */
    struct event *look;  /* at records whose process does not come to its end */

    struct event *signals[4];
    struct vb_log_limit refused, lost; /* for lines that clients can cause */
};

/* Reads the policy, opens the sockets, prepares everything. NULL: it has been logged why. */
struct vb_broker *vb_broker_new(const struct vb_options *o);
/* Runs until SIGTERM or SIGINT. The exit status. */
int vb_broker_run(struct vb_broker *b);
/* Frees everything; sessions run on. */
void vb_broker_free(struct vb_broker *b);

/* ---- backend.c ---- */
/* Decides by the options and by what the kernel has. 0 or a negative errno, logged. */
int vb_backend_choose(struct vb_broker *b);
/* As sessions and clients know it: "iommufd", "type1", "emulated". */
const char *vb_backend_name(const struct vb_broker *b);
/* The same for people: with the kind of container. */
const char *vb_backend_text(const struct vb_broker *b);
/* Does the kernel pin memory for sessions, and hold that against their RLIMIT_MEMLOCK? */
bool vb_backend_pins(const struct vb_broker *b);
bool vb_backend_type1(const struct vb_broker *b);

/* ---- listener.c ---- */
/* Opens broker.sock and session.sock, or takes them from systemd. 0 or a negative errno, logged. */
int vb_listeners_open(struct vb_broker *b);
/* Both sockets begin to accept. */
int vb_listeners_start(struct vb_broker *b);
void vb_listeners_close(struct vb_broker *b);

#endif
