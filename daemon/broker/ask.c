/* Questions that another session answers: spaces, mappings, memory and use are known to the session that has them. The
 * daemon passes the question on, and the answer back unread. An asker has one question at a time (it waits for the
 * answer); a session is asked little at once; either may end meanwhile. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/record.h"

#define ASKED_AT_ONCE 4u

struct vb_ask {
    LIST_ENTRY(vb_ask) entry;
    uint64_t token, serial;
    struct vb_record *asker, *target;
    struct event *timeout;
};

static void drop(struct vb_ask *a) {
    if (a->timeout)
        event_free(a->timeout);
    a->target->n_asked--;
    LIST_REMOVE(a, entry);
    free(a);
}

/* Ends the question with a refusal. */
static void give_up(struct vb_ask *a, const char *why) {
    struct vb_record *asker = a->asker;
    struct vb_error e = {.code = 0};
    uint64_t serial = a->serial;

    vb_refuse(&e, VB_UNAVAILABLE, "session %u %s", a->target->id, why);
    drop(a);
    vb_answer_error(asker, serial, &e);
}

static void on_timeout(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    give_up(arg, "does not answer");
}

static struct vb_ask *find(struct vb_broker *b, const struct vb_record *asker) {
    struct vb_ask *a;

    LIST_FOREACH (a, &b->asks, entry) {
        if (a->asker == asker)
            return a;
    }
    return NULL;
}

static int pass_on(struct vb_record *asker, struct vb_record *target, uint64_t serial, const VfioBroker__Inspect *q,
                   struct vb_error *e) {
    static const struct timeval patience = {VB_ASK_MS / 1000, VB_ASK_MS % 1000 * 1000};
    VfioBrokerInternal__ToSession m = VFIO_BROKER_INTERNAL__TO_SESSION__INIT;
    VfioBrokerInternal__Ask ask = VFIO_BROKER_INTERNAL__ASK__INIT;
    struct vb_broker *b = asker->broker;
    struct vb_ask *a = calloc(1, sizeof *a);

    if (!a)
        return vb_fail(e, -ENOMEM, "question to session %u", target->id);
    *a = (struct vb_ask){.token = ++b->last_token, .serial = serial, .asker = asker, .target = target};
    target->n_asked++;
    LIST_INSERT_HEAD(&b->asks, a, entry);
    ask.token = a->token;
    ask.inspect = (VfioBroker__Inspect *)q;
    m.body_case = VFIO_BROKER_INTERNAL__TO_SESSION__BODY_ASK;
    m.ask = &ask;
    a->timeout = evtimer_new(b->base, on_timeout, a);
    int n = a->timeout && evtimer_add(a->timeout, &patience) == 0 ? vb_link_send(&target->link, &m, NULL, 0) : -ENOMEM;
    if (n == 0)
        return 0;
    drop(a);
    return n == -EAGAIN ? vb_refuse(e, VB_UNAVAILABLE, "session %u does not answer", target->id)
                        : vb_fail(e, n, "cannot ask session %u", target->id);
}

void vb_ask_session(struct vb_record *asker, uint64_t serial, const VfioBroker__Inspect *q) {
    struct vb_record *target = vb_record_by_id(asker->broker, q->session);
    struct vb_error e = {.code = 0};
    int n;

    if (!target)
        n = vb_refuse(&e, VB_NOT_FOUND, "there is no session %u", q->session);
    else if (target == asker)
        n = vb_refuse(&e, VB_INVALID, "session %u asks itself", q->session);
    else if (target->link.fd < 0)
        n = vb_refuse(&e, VB_UNAVAILABLE, "session %u has ended", q->session);
    else if (find(asker->broker, asker))
        n = vb_refuse(&e, VB_BUSY, "the question before is not answered yet");
    else if (target->n_asked >= ASKED_AT_ONCE)
        n = vb_refuse(&e, VB_BUSY, "session %u is asked by %u others: try again", q->session, target->n_asked);
    else
        n = pass_on(asker, target, serial, q, &e);
    if (n != 0)
        vb_answer_error(asker, serial, &e);
}

void vb_ask_replied(struct vb_record *from, const VfioBrokerInternal__AskReply *reply) {
    VfioBrokerInternal__Answer answer = VFIO_BROKER_INTERNAL__ANSWER__INIT;
    struct vb_ask *a;

    LIST_FOREACH (a, &from->broker->asks, entry) {
        if (a->token == reply->token && a->target == from)
            break;
    }
    if (!a) /* too late */
        return;
    /* Its own envelope is a little larger than the one it came in. */
    if (reply->inspect.len > VB_PACKET_MAX - 64) {
        give_up(a, "answers with too much");
        return;
    }
    struct vb_record *asker = a->asker;
    answer.serial = a->serial;
    answer.body_case = VFIO_BROKER_INTERNAL__ANSWER__BODY_INSPECT;
    answer.inspect = reply->inspect;
    drop(a);
    vb_answer(asker, &answer, NULL, 0);
}

void vb_asks_drop(struct vb_record *r) {
    struct vb_ask *a, *next;

    LIST_FOREACH_SAFE(a, &r->broker->asks, entry, next) {
        if (a->asker == r)
            drop(a);
        else if (a->target == r)
            give_up(a, "has ended");
    }
}
