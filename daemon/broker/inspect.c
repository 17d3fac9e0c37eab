/* What the daemon itself can show: its state, and sessions; devices and accounts are in files of their own. Others than
 * administrators see what is theirs. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "broker/inspect.h"
#include "config.h"

/* Rows of a page may take this much packed; the rest is for the envelopes. */
#define ROWS_SIZE (VB_PACKET_MAX - 4096u)

bool vb_page_room(struct vb_page *p, size_t n_rows, size_t packed) {
    if (n_rows >= VB_INSPECT_ROWS || p->size + packed + 8 > ROWS_SIZE)
        return false;
    p->size += packed + 8;
    return true;
}

char *vb_page_keep(struct vb_page *p, const char *text) {
    size_t n = strlen(text) + 1;
    char *copy = vb_arena_alloc(p->arena, n);

    return copy ? memcpy(copy, text, n) : (char *)"";
}

/* ---- status ---- */

static int count(const char *address, void *data) {
    (void)address;
    ++*(uint32_t *)data;
    return 0;
}

static int show_status(struct vb_record *r, const VfioBroker__Inspect *q, struct vb_page *p, struct vb_error *e) {
    VfioBroker__StatusRow *s = vb_arena_alloc(p->arena, sizeof *s);
    struct vb_broker *b = r->broker;
    struct vb_account *a;
    uint32_t claimed, held;

    (void)q;
    if (!s)
        return vb_fail(e, -ENOMEM, "status");
    vfio_broker__status_row__init(s);
    s->version = (char *)PACKAGE_VERSION;
    s->backend = (char *)vb_backend_text(b);
    s->pid = (uint32_t)getpid();
    s->started = (uint64_t)b->started;
    s->sessions = b->n_sessions;
    s->sessions_max = VB_SESSIONS_MAX;
    vb_register_count(&b->devices, &claimed, &held);
    vb_register_each(&b->devices, count, &s->devices);
    s->devices_claimed = claimed;
    s->devices_held = held;
    LIST_FOREACH (a, &b->accounts.list, entry) {
        s->leased_bytes += a->leased;
    }
    s->policy = vb_page_keep(p, b->policy->path);
    s->grants = b->policy->n_grants;
    p->reply.status = s;
    return 0;
}

/* ---- sessions ---- */

static VfioBroker__SessionRow *session_row(struct vb_record *s, struct vb_page *p) {
    static const char *const states[] = {"knocking", "starting", "serving", "holding", "lost"};
    VfioBroker__SessionRow *row = vb_arena_alloc(p->arena, sizeof *row);
    const char *devices[3 * VB_DEVICES_MAX];

    if (!row)
        return NULL;
    vfio_broker__session_row__init(row);
    row->session = s->id;
    row->pid = (uint32_t)s->pid;
    row->uid = s->uid;
    row->client_pid = (uint32_t)s->peer.pid;
    row->client_uid = s->peer.uid;
    row->client = vb_page_keep(p, s->peer.comm);
    row->state = (char *)states[s->state];
    row->lease = s->lease.bytes;
    row->started = (uint64_t)s->started;
    row->admin = s->grant && s->grant->admin;
    size_t n = vb_register_of(&s->broker->devices, s->id, devices, sizeof devices / sizeof devices[0]);
    row->devices = vb_arena_alloc(p->arena, n * sizeof row->devices[0]);
    for (size_t i = 0; row->devices && i < n; i++)
        row->devices[row->n_devices++] = vb_page_keep(p, devices[i]);
    return row;
}

bool vb_inspect_may_see(const struct vb_record *asker, const struct vb_record *s) {
    return (asker->grant && asker->grant->admin) || s == asker || (s->id && s->peer.uid == asker->peer.uid);
}

int vb_inspect_refuse(const struct vb_record *asker, uint32_t session, struct vb_error *e) {
    return asker->grant && asker->grant->admin
               ? vb_refuse(e, VB_NOT_FOUND, "there is no session %u", session)
               : vb_refuse(e, VB_DENIED,
                           "uid %u has no session %u, and only an administrator may look at those of others",
                           asker->peer.uid, session);
}

struct vb_record *vb_inspect_next(struct vb_record *asker, uint32_t only, uint64_t after) {
    struct vb_record *s, *best = NULL;

    LIST_FOREACH (s, &asker->broker->records, entry) {
        if (s->id > after && (!best || s->id < best->id) && vb_inspect_may_see(asker, s) &&
            (only == 0 || s->id == only))
            best = s;
    }
    return best;
}

static int show_sessions(struct vb_record *r, const VfioBroker__Inspect *q, struct vb_page *p, struct vb_error *e) {
    struct vb_record *s = NULL;

    if (q->session != 0 && !vb_inspect_next(r, q->session, 0))
        return vb_inspect_refuse(r, q->session, e);
    p->reply.sessions = vb_arena_alloc(p->arena, VB_INSPECT_ROWS * sizeof p->reply.sessions[0]);
    if (!p->reply.sessions)
        return vb_fail(e, -ENOMEM, "sessions");
    uint64_t after = q->after;
    while ((s = vb_inspect_next(r, q->session, after))) {
        VfioBroker__SessionRow *row = session_row(s, p);

        if (!row || !vb_page_room(p, p->reply.n_sessions, protobuf_c_message_get_packed_size(&row->base))) {
            p->reply.next = after;
            break;
        }
        p->reply.sessions[p->reply.n_sessions++] = row;
        after = s->id;
    }
    return 0;
}

/* ---- the call ---- */

static const struct {
    VfioBroker__InspectKind kind;
    int (*show)(struct vb_record *r, const VfioBroker__Inspect *q, struct vb_page *p, struct vb_error *e);
} kinds[] = {
    {VFIO_BROKER__INSPECT_KIND__INSPECT_STATUS, show_status},
    {VFIO_BROKER__INSPECT_KIND__INSPECT_DEVICES, vb_show_devices},
    {VFIO_BROKER__INSPECT_KIND__INSPECT_SESSIONS, show_sessions},
    {VFIO_BROKER__INSPECT_KIND__INSPECT_ACCOUNTS, vb_show_accounts},
};

static bool of_a_session(VfioBroker__InspectKind kind) {
    return kind == VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE || kind == VFIO_BROKER__INSPECT_KIND__INSPECT_SPACES ||
           kind == VFIO_BROKER__INSPECT_KIND__INSPECT_MAPPINGS || kind == VFIO_BROKER__INSPECT_KIND__INSPECT_MEMORY ||
           kind == VFIO_BROKER__INSPECT_KIND__INSPECT_PINS;
}

void vb_call_inspect(struct vb_record *r, const VfioBrokerInternal__Call *call) {
    VfioBrokerInternal__Answer answer = VFIO_BROKER_INTERNAL__ANSWER__INIT;
    const VfioBroker__Inspect *q = call->inspect;
    struct vb_page p = {.arena = &r->broker->buffers.arena, .reply = VFIO_BROKER__INSPECT_REPLY__INIT};
    struct vb_error e = {.code = 0};
    int n = -1;

    vb_link_charge(&r->link, 3);
    if (of_a_session(q->kind)) {
        if (vb_inspect_next(r, q->session, 0)) {
            vb_ask_session(r, call->serial, q);
            return;
        }
        vb_inspect_refuse(r, q->session, &e);
        vb_answer_error(r, call->serial, &e);
        return;
    }
    n = vb_refuse(&e, VB_UNSUPPORTED, "this broker cannot show kind %d", (int)q->kind);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (kinds[i].kind == q->kind)
            n = kinds[i].show(r, q, &p, &e);
    ssize_t size = n == 0 ? vb_encode(&p.reply.base, r->broker->rows, VB_PACKET_MAX) : -1;
    if (n == 0 && size < 0)
        n = vb_fail(&e, (int)size, "rows");
    if (n != 0) {
        vb_answer_error(r, call->serial, &e);
        return;
    }
    answer.serial = call->serial;
    answer.body_case = VFIO_BROKER_INTERNAL__ANSWER__BODY_INSPECT;
    answer.inspect = (ProtobufCBinaryData){.data = r->broker->rows, .len = (size_t)size};
    vb_answer(r, &answer, NULL, 0);
}
