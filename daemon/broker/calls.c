/* What a session asks of the daemon. Each call is answered exactly once, at once, except questions for another session
 * (ask.c) and lease that others may have to give back first (account.c). */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "broker/lease.h"

void vb_answer(struct vb_record *r, VfioBrokerInternal__Answer *a, const int *fds, unsigned n_fds) {
    VfioBrokerInternal__ToSession m = VFIO_BROKER_INTERNAL__TO_SESSION__INIT;

    if (r->link.fd < 0)
        return;
    m.body_case = VFIO_BROKER_INTERNAL__TO_SESSION__BODY_ANSWER;
    m.answer = a;
    int n = vb_link_send(&r->link, &m, fds, n_fds);
    if (n == -EAGAIN || n == -ETOOMANYREFS)
        vb_record_kill(r, "it does not read its answers");
    else if (n == -EMSGSIZE || n == -EINVAL)
        vb_record_kill(r, "an answer is too large for it");
    /* Anything else: it is gone, and on_link_lost follows. */
}

void vb_answer_error(struct vb_record *r, uint64_t serial, const struct vb_error *e) {
    VfioBrokerInternal__Answer a = VFIO_BROKER_INTERNAL__ANSWER__INIT;
    struct vb_wire_error w;

    vb_wire_error_fill(&w, e);
    a.serial = serial;
    a.body_case = VFIO_BROKER_INTERNAL__ANSWER__BODY_ERROR;
    a.error = &w.error;
    vb_answer(r, &a, NULL, 0);
}

void vb_answer_ok(struct vb_record *r, uint64_t serial) {
    VfioBrokerInternal__Answer a = VFIO_BROKER_INTERNAL__ANSWER__INIT;
    VfioBrokerInternal__Ok ok = VFIO_BROKER_INTERNAL__OK__INIT;

    a.serial = serial;
    a.body_case = VFIO_BROKER_INTERNAL__ANSWER__BODY_OK;
    a.ok = &ok;
    vb_answer(r, &a, NULL, 0);
}

static void call_lease(struct vb_record *r, const VfioBrokerInternal__Call *call, struct vb_packet *p) {
    (void)p;
    vb_call_lease(r, call);
}

/* ---- devices ---- */

static void answer_opened(struct vb_record *r, uint64_t serial, const struct vb_opened *o) {
    VfioBrokerInternal__Answer a = VFIO_BROKER_INTERNAL__ANSWER__INIT;
    VfioBrokerInternal__DeviceOpened opened = VFIO_BROKER_INTERNAL__DEVICE_OPENED__INIT;
    VfioBrokerInternal__Reserved rows[VB_REGIONS_MAX], *list[VB_REGIONS_MAX];

    for (uint32_t i = 0; i < o->n_reserved; i++) {
        vfio_broker_internal__reserved__init(&rows[i]);
        rows[i].first = o->reserved[i].range.first;
        rows[i].last = o->reserved[i].range.last;
        rows[i].kind = (char *)o->reserved[i].kind;
        list[i] = &rows[i];
    }
    opened.reserved = list;
    opened.n_reserved = o->n_reserved;
    opened.group = (uint32_t)o->group;
    a.serial = serial;
    a.body_case = VFIO_BROKER_INTERNAL__ANSWER__BODY_DEVICE_OPEN;
    a.device_open = &opened;
    opened.software = o->software;
    vb_answer(r, &a, o->fds, (o->fds[0] >= 0) + (o->fds[1] >= 0)); /* no second one without a first */
}

static int may_claim(struct vb_record *r, struct vb_error *e) {
    struct vb_broker *b = r->broker;
    const char *list[2 * VB_DEVICES_MAX];

    if (r->state == VB_RECORD_HOLDING || r->state == VB_RECORD_LOST)
        return vb_refuse(e, VB_STATE, "session %u has no client any more: it gets no device", r->id);
    if (!r->grant)
        return vb_refuse(e, VB_DENIED, "policy %.100s grants nothing to uid %u any more", b->policy->path, r->peer.uid);
    if (vb_register_of(&b->devices, r->id, list, 2 * VB_DEVICES_MAX) == 2 * VB_DEVICES_MAX)
        return vb_refuse(e, VB_LIMIT, "session %u has %u devices already", r->id, 2 * VB_DEVICES_MAX);
    if (vb_strays_expected(b))
        return vb_refuse(e, VB_UNAVAILABLE,
                         "vfio-brokerd has just started and waits for sessions that may have devices: try again in %u "
                         "seconds",
                         VB_ADOPT_GRACE_MS / 1000);
    return 0;
}

bool vb_call_open(struct vb_record *r, uint64_t serial, const char *address, const char *with, bool last) {
    struct vb_register *devices = &r->broker->devices;
    struct vb_error e = {.code = 0};
    struct vb_opened o;

    devices->busy_node = false;
    if (may_claim(r, &e) != 0 ||
        vb_register_claim(devices, r->grant, r->peer.uid, r->id, r->peer.pid, address, with, &o, &e) != 0) {
        if (devices->busy_node && !last)
            return false;
        vb_answer_error(r, serial, &e);
        return true;
    }
    r->opened |= o.fds[0] >= 0;
    vb_fdstore_put(r);
    answer_opened(r, serial, &o);
    vb_opened_close(&o);
    return true;
}

static void call_device_open(struct vb_record *r, const VfioBrokerInternal__Call *call, struct vb_packet *p) {
    const VfioBrokerInternal__DeviceOpen *m = call->device_open;
    struct vb_error e = {.code = 0};

    (void)p;
    vb_link_charge(&r->link, 8); /* some ten files of sysfs */
    if (r->reopen) {
        vb_refuse(&e, VB_BUSY, "session %u has a claim under way", r->id);
        vb_answer_error(r, call->serial, &e);
        return;
    }
    if (!vb_call_open(r, call->serial, m->address, m->with, false) &&
        !vb_reopen_start(r, call->serial, m->address, m->with))
        vb_call_open(r, call->serial, m->address, m->with, true);
}

static void call_device_close(struct vb_record *r, const VfioBrokerInternal__Call *call, struct vb_packet *p) {
    struct vb_claim *c = vb_register_find(&r->broker->devices, r->id, call->device_close->address);
    char clean[VB_ADDRESS_MAX + 1];
    struct vb_error e = {.code = 0};

    (void)p;
    if (!c) {
        vb_refuse(&e, VB_NOT_FOUND, "session %u has no device %s", r->id,
                  vb_log_clean(call->device_close->address, clean, sizeof clean));
        vb_answer_error(r, call->serial, &e);
        return;
    }
    vb_register_release(&r->broker->devices, c);
    vb_answer_ok(r, call->serial);
}

static void call_inspect(struct vb_record *r, const VfioBrokerInternal__Call *call, struct vb_packet *p) {
    (void)p;
    vb_call_inspect(r, call);
}

/* ---- dispatch ---- */

static const struct {
    VfioBrokerInternal__Call__BodyCase body;
    bool knocking; /* the only calls of a session that is not adopted yet, and of no other */
    void (*handle)(struct vb_record *r, const VfioBrokerInternal__Call *call, struct vb_packet *p);
} calls[] = {
    {VFIO_BROKER_INTERNAL__CALL__BODY_LEASE, false, call_lease},
    {VFIO_BROKER_INTERNAL__CALL__BODY_DEVICE_OPEN, false, call_device_open},
    {VFIO_BROKER_INTERNAL__CALL__BODY_DEVICE_CLOSE, false, call_device_close},
    {VFIO_BROKER_INTERNAL__CALL__BODY_INSPECT, false, call_inspect},
    {VFIO_BROKER_INTERNAL__CALL__BODY_ADOPT_GROUP, true, vb_call_adopt_group},
    {VFIO_BROKER_INTERNAL__CALL__BODY_ADOPT, true, vb_call_adopt},
    {VFIO_BROKER_INTERNAL__CALL__BODY_TOKEN_REDEEM, false, vb_call_redeem},
};

static void wrong(struct vb_record *r, const char *why) {
    if (r->state == VB_RECORD_KNOCKING)
        vb_record_free(r);
    else
        vb_record_kill(r, why);
}

static void handle_call(struct vb_record *r, const VfioBrokerInternal__Call *call, struct vb_packet *p) {
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        if (calls[i].body != call->body_case)
            continue;
        if (calls[i].knocking == (r->state == VB_RECORD_KNOCKING))
            calls[i].handle(r, call, p);
        else
            wrong(r, "call out of order");
        return;
    }
    wrong(r, "unknown call");
}

static void handle_free(struct vb_record *r, const VfioBrokerInternal__DeviceFree *m) {
    struct vb_claim *c = vb_register_find(&r->broker->devices, r->id, m->address);

    if (c && m->held)
        c->held = true;
    else if (c)
        vb_register_release(&r->broker->devices, c);
    /* Else it was not booked: its claim was refused after the session had lost patience, or it left the host. */
}

void vb_calls_message(struct vb_link *l, const VfioBrokerInternal__ToDaemon *m, struct vb_packet *p) {
    struct vb_record *r = l->owner;

    if (m->body_case == VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_CALL)
        handle_call(r, m->call, p);
    else if (r->state == VB_RECORD_KNOCKING)
        wrong(r, "message out of order");
    else if (m->body_case == VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_ASK_REPLY)
        vb_ask_replied(r, m->ask_reply);
    else if (m->body_case == VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_LEASE_GIVE)
        vb_lease_given(r, m->lease_give);
    else if (m->body_case == VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_DEVICE_FREE)
        handle_free(r, m->device_free);
    else
        vb_hold_reported(r);
}
