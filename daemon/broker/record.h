/* What the daemon knows of one session: the process, its control socket, its client, what it has been given.
 *
 * A record begins with a client's connection (STARTING, then SERVING), or with a session of an earlier daemon at
 * session.sock (KNOCKING, until it is adopted). When the client is gone but devices are still open it is HOLDING. When the
 * process died and left a context with devices it is LOST until another process has taken the context over (hold.c).
 * Invariants: id is 0 exactly while KNOCKING; a process that may live has its pidfd watched here and its uid taken; the
 * record ends when the process has ended and left nothing, and only from the event loop (see vb_record_kill()). */
#ifndef VB_BROKER_RECORD_H
#define VB_BROKER_RECORD_H

#include "broker/broker.h"
#include "broker/peer.h"
#include "broker/refusal.h"

enum vb_record_state { VB_RECORD_KNOCKING, VB_RECORD_STARTING, VB_RECORD_SERVING, VB_RECORD_HOLDING, VB_RECORD_LOST };

struct vb_record {
    LIST_ENTRY(vb_record) entry;
    struct vb_broker *broker;
    uint32_t id;
    enum vb_record_state state;
    time_t started;

    /* the process */
    pid_t pid; /* 0: none now */
    int pidfd;
    uid_t uid;
    bool has_uid; /* from broker->uids */
    bool ours;    /* our child: to be waited for */
    bool ends;    /* it has begun to, when last looked at */
    struct event *died;
    struct event *bereaved, *overdue; /* its client has died; and it should have ended since */
    struct vb_cgroup *cgroup;         /* NULL: none of its own */
    struct vb_link link;
    int status_fd; /* of the spawn; -1 when it has come to exec */
    struct event *status;
    int client_fd; /* the client's socket, until the process has died: its last close may wait (closer.c) */

    /* its process before, which was killed and does not end: see record.c */
    int lingering_pidfd; /* -1: there is none */
    uid_t lingering_uid;
    bool lingering_ours;
    struct event *lingered;

    /* the client; uid, pid and name stay for show when it is gone */
    struct vb_peer peer;
    struct vb_policy *policy;     /* in force when it started; owns `grant` */
    const struct vb_grant *grant; /* NULL: none any more */
    struct vb_lease lease;        /* without an account: pays nothing any more */
    unsigned n_asked;             /* questions that wait for its answer */

    /* what it leaves */
    int iommufd;                /* a dup of its context; -1: none. type1: its groups are in broker->devices */
    bool stored;                /* systemd has one too */
    struct vb_reopen *reopen;   /* a claim that is tried again: reopen.c */
    struct vb_group_list shown; /* KNOCKING: groups that it says it has */
    unsigned n_shown;
    bool opened;            /* a device was opened for it, and no fresh process has emptied the context since */
    bool fresh;             /* the process is one that has never spoken with a client: hold.c */
    uint64_t lost_at;       /* when its process died, monotonic ms; 0: it did not, or its memory is taken away */
    unsigned hold_failures; /* in a row */
    struct event *timer;    /* KNOCKING: patience; LOST: next try; link lost: patience */
};

/* ---- record.c ---- */
/* A record without process and number, in the list. NULL: no memory. */
struct vb_record *vb_record_new(struct vb_broker *b);
/* Gives everything back. No process of it may live, unless the daemon itself ends. */
struct vb_record *vb_record_free(struct vb_record *r);
/* It gets a number: `wanted`, if that is free. */
void vb_record_number(struct vb_record *r, uint32_t wanted);
/* Watches r->pidfd. 0 or -ENOMEM. */
int vb_record_watch(struct vb_record *r);
/* Watches r->peer.pidfd: a session whose client is dead and that does not come to its end (a call of the kernel's that the client
 * made wait) is killed, so that a fresh process takes the memory away. 0 or -ENOMEM. */
int vb_record_watch_client(struct vb_record *r);
/* Watches `fd` as the control socket. 0 or -ENOMEM. */
int vb_record_link(struct vb_record *r, int fd /* consumed */);
/* Everything that belongs to the process, not to what it may leave. */
void vb_record_forget_process(struct vb_record *r);
void vb_record_signal(struct vb_record *r, int sig);
/* Ends the process of a session that misbehaves; the rest follows when it has ended. */
void vb_record_kill(struct vb_record *r, const char *why);
struct vb_record *vb_record_by_id(struct vb_broker *b, uint32_t id);
struct vb_record *vb_record_by_pid(struct vb_broker *b, pid_t pid);
/* Arms the record's timer. */
void vb_record_timer(struct vb_record *r, unsigned ms, event_callback_fn fn);
/* Begins to look for processes that end and do not come to it. 0 or -ENOMEM. */
int vb_records_look(struct vb_broker *b);
/* No lease any more: the process that had it is gone. */
void vb_record_unlease(struct vb_record *r);

/* ---- supervisor.c ---- */
/* Serves a client: policy, limits, process. Whatever goes wrong is told to the client. */
void vb_sessions_connect(struct vb_broker *b, int client_fd /* consumed */);
/* Starts a process for the record and sends it Start. client_fd -1: to hold. 0, or an error for the client. */
int vb_record_spawn(struct vb_record *r, int client_fd, const struct vb_limits *limits, struct vb_error *e);

/* ---- hold.c ---- */
/* The process is gone. True: something is left, and the record stays for it. */
bool vb_hold_needed(struct vb_record *r);
void vb_hold_start(struct vb_record *r);
/* The session says that only open devices keep it. */
void vb_hold_reported(struct vb_record *r);
/* What systemd kept of a session that no longer lives: its context, or (iommufd -1) its groups. */
void vb_hold_orphan(struct vb_broker *b, uid_t uid, int iommufd /* consumed */,
                    struct vb_group_list *groups /* emptied */);

/* ---- calls.c ---- */
void vb_calls_message(struct vb_link *l, const VfioBrokerInternal__ToDaemon *m, struct vb_packet *p);
/* Sends an answer; a session that does not take it is killed. */
void vb_answer(struct vb_record *r, VfioBrokerInternal__Answer *a, const int *fds, unsigned n_fds);
void vb_answer_error(struct vb_record *r, uint64_t serial, const struct vb_error *e);
void vb_answer_ok(struct vb_record *r, uint64_t serial);

/* Answers a DeviceOpen. False: it did not, since the group is open somewhere; `last`: then it is refused. */
bool vb_call_open(struct vb_record *r, uint64_t serial, const char *address, const char *with, bool last);

/* ---- reopen.c ---- */
/* Will it be tried again, and answered? */
bool vb_reopen_start(struct vb_record *r, uint64_t serial, const char *address, const char *with);
/* NULL is fine. Returns NULL. */
struct vb_reopen *vb_reopen_free(struct vb_reopen *o);

/* ---- adopt.c ---- */
void vb_sessions_knock(struct vb_broker *b, int fd /* consumed */);
void vb_call_adopt_group(struct vb_record *r, const VfioBrokerInternal__Call *call, struct vb_packet *p);
void vb_call_adopt(struct vb_record *r, const VfioBrokerInternal__Call *call, struct vb_packet *p);

/* ---- strays.c ---- */
/* Looks for sessions of an earlier daemon, and takes the contexts that systemd kept. */
int vb_strays_find(struct vb_broker *b);
/* This process has come. What systemd's store had of it is dropped: it brings its own. */
void vb_strays_came(struct vb_broker *b, pid_t pid);
/* Are some still expected? Then claims have to wait. */
bool vb_strays_expected(const struct vb_broker *b);
void vb_strays_free(struct vb_broker *b);

/* ---- redeem.c ---- */
void vb_call_redeem(struct vb_record *r, const VfioBrokerInternal__Call *call, struct vb_packet *p);

/* ---- inspect.c, ask.c ---- */
void vb_call_inspect(struct vb_record *r, const VfioBrokerInternal__Call *call);
/* Passes a question on to another session; answers when that one does, or not in time. */
void vb_ask_session(struct vb_record *asker, uint64_t serial, const VfioBroker__Inspect *q);
void vb_ask_replied(struct vb_record *from, const VfioBrokerInternal__AskReply *reply);
/* The record ends, or its process has. */
void vb_asks_drop(struct vb_record *r);

/* ---- fdstore.c ---- */
/* What of the session systemd does not have yet. */
void vb_fdstore_put(struct vb_record *r);
void vb_fdstore_remove(struct vb_record *r);
/* systemd gives it up; vb_register.forget. */
void vb_fdstore_forget_group(struct vb_group_list *l, struct vb_group *g);

/* When systemd was told last to close a group, monotonic ms. */
uint64_t vb_fdstore_gave_up_at(void);

/* A stored fd by its name. */
enum vb_stored_kind { VB_STORED_IOMMUFD, VB_STORED_GROUP, VB_STORED_CONTAINER };
struct vb_stored {
    enum vb_stored_kind kind;
    uid_t uid;
    int group;             /* of GROUP */
    uint32_t container_id; /* of GROUP: of its container; of CONTAINER */
};
/* Is the name one of ours? */
bool vb_fdstore_name(const char *name, struct vb_stored *ret);
void vb_fdstore_remove_name(const char *name);

#endif
