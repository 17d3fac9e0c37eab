/* What the daemon itself can show: its state, devices, sessions. Others than administrators see what is theirs.
 *
 * Rows are packed into one InspectReply as long as they fit a packet; `next` says where the next page begins. Devices
 * are paged by their place in the sorted list of addresses, sessions by number. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/record.h"
#include "config.h"

/* Rows of a page may take this much packed; the rest is for the envelopes. */
#define ROWS_SIZE (VB_PACKET_MAX - 4096u)

struct page {
    struct vb_arena *arena; /* the rows' memory; the question lies in it too */
    VfioBroker__InspectReply reply;
    size_t size; /* packed, so far */
};

/* True: a row of this packed size, and its header, has room. */
static bool room(struct page *p, size_t n_rows, size_t packed) {
    if (n_rows >= VB_INSPECT_ROWS || p->size + packed + 8 > ROWS_SIZE)
        return false;
    p->size += packed + 8;
    return true;
}

static char *keep(struct page *p, const char *text) {
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

static int show_status(struct vb_record *r, const VfioBroker__Inspect *q, struct page *p, struct vb_error *e) {
    VfioBroker__StatusRow *s = vb_arena_alloc(p->arena, sizeof *s);
    struct vb_broker *b = r->broker;
    struct vb_account *a;
    uint32_t claimed, held;

    (void)q;
    if (!s)
        return vb_fail(e, -ENOMEM, "status");
    vfio_broker__status_row__init(s);
    s->version = (char *)PACKAGE_VERSION;
    s->backend = (char *)(b->iommufd ? "iommufd" : "emulated");
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
    s->policy = keep(p, b->policy->path);
    s->grants = b->policy->n_grants;
    p->reply.status = s;
    return 0;
}

/* ---- devices ---- */

struct address_list {
    char (*items)[VB_ADDRESS_MAX + 1];
    size_t n, room;
};

static int add_address(const char *address, void *data) {
    struct address_list *l = data;

    if (l->n == l->room) {
        size_t more = l->room ? 2 * l->room : 64;
        void *items = realloc(l->items, more * sizeof l->items[0]);

        if (!items)
            return -ENOMEM;
        l->items = items;
        l->room = more;
    }
    snprintf(l->items[l->n++], sizeof l->items[0], "%s", address);
    return 0;
}

static int compare(const void *a, const void *b) {
    return strcmp(a, b);
}

/* Sorted, without doubles: what this client may know of. */
static int list_addresses(struct vb_record *r, struct address_list *ret) {
    struct address_list l = {.items = NULL};
    const struct vb_policy *policy = r->broker->policy;
    size_t kept = 0;
    int n = 0;

    for (uint32_t i = 0; r->grant && i < r->grant->n_devices && n == 0; i++)
        n = add_address(r->grant->devices[i], &l);
    if (r->grant && r->grant->admin) {
        for (uint32_t i = 0; i < policy->n_grants; i++)
            for (uint32_t j = 0; j < policy->grants[i].n_devices && n == 0; j++)
                n = add_address(policy->grants[i].devices[j], &l);
        if (n == 0)
            n = vb_register_each(&r->broker->devices, add_address, &l);
    }
    if (n < 0 && n != -ENOENT) { /* a host without PCI has no such directory */
        free(l.items);
        return n;
    }
    if (l.n > 0)
        qsort(l.items, l.n, sizeof l.items[0], compare);
    for (size_t i = 0; i < l.n; i++)
        if (kept == 0 || strcmp(l.items[kept - 1], l.items[i]) != 0)
            memmove(l.items[kept++], l.items[i], sizeof l.items[0]);
    l.n = kept;
    *ret = l;
    return 0;
}

static VfioBroker__DeviceRow *device_row(struct vb_record *r, struct page *p, const char *address) {
    static const char *const states[] = {"free", "claimed", "held", "unusable"};
    VfioBroker__DeviceRow *d = vb_arena_alloc(p->arena, sizeof *d);
    struct vb_device_view v = {.pci.group = -1, .state = VB_REGISTER_UNUSABLE};
    struct vb_error e = {.code = 0};

    if (!d)
        return NULL;
    if (vb_register_look(&r->broker->devices, address, &v, &e) != 0)
        memcpy(v.reason, e.text, sizeof v.reason);
    vfio_broker__device_row__init(d);
    d->address = keep(p, address);
    d->driver = keep(p, v.pci.driver);
    d->vendor = v.pci.vendor;
    d->device = v.pci.device;
    d->pci_class = v.pci.pci_class;
    d->group = v.pci.group;
    d->state = (char *)states[v.state];
    d->reason = keep(p, v.reason);
    /* Whose session it is, is not everybody's to know; that it is taken is. */
    d->session = r->grant->admin || v.session == r->id ? v.session : 0;
    d->granted = vb_grant_device(r->grant, address);
    return d;
}

static int show_devices(struct vb_record *r, const VfioBroker__Inspect *q, struct page *p, struct vb_error *e) {
    struct address_list l;

    int n = list_addresses(r, &l);
    if (n < 0)
        return vb_fail(e, n, "cannot list devices");
    p->reply.devices = vb_arena_alloc(p->arena, VB_INSPECT_ROWS * sizeof p->reply.devices[0]);
    if (!p->reply.devices)
        n = vb_fail(e, -ENOMEM, "devices");
    for (size_t i = q->after < l.n ? q->after : l.n; n == 0 && i < l.n; i++) {
        VfioBroker__DeviceRow *row = device_row(r, p, l.items[i]);

        if (!row || !room(p, p->reply.n_devices, protobuf_c_message_get_packed_size(&row->base))) {
            p->reply.next = i;
            break;
        }
        p->reply.devices[p->reply.n_devices++] = row;
    }
    free(l.items);
    vb_link_charge(&r->link, 1 + (unsigned)p->reply.n_devices); /* some ten files of sysfs each */
    if (n == 0 && p->reply.next == q->after && p->reply.next != 0)
        return vb_fail(e, -ENOMEM, "devices");
    return n;
}

/* ---- sessions ---- */

static VfioBroker__SessionRow *session_row(struct vb_record *s, struct page *p) {
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
    row->client = keep(p, s->peer.comm);
    row->state = (char *)states[s->state];
    row->lease = s->lease.bytes;
    row->started = (uint64_t)s->started;
    row->admin = s->grant && s->grant->admin;
    size_t n = vb_register_of(&s->broker->devices, s->id, devices, sizeof devices / sizeof devices[0]);
    row->devices = vb_arena_alloc(p->arena, n * sizeof row->devices[0]);
    for (size_t i = 0; row->devices && i < n; i++)
        row->devices[row->n_devices++] = keep(p, devices[i]);
    return row;
}

/* An administrator sees all, others the sessions of their own uid. */
static bool may_see(const struct vb_record *asker, const struct vb_record *s) {
    return (asker->grant && asker->grant->admin) || s == asker || (s->id && s->peer.uid == asker->peer.uid);
}

static int refuse_sight(const struct vb_record *asker, uint32_t session, struct vb_error *e) {
    return asker->grant && asker->grant->admin
               ? vb_refuse(e, VB_NOT_FOUND, "there is no session %u", session)
               : vb_refuse(e, VB_DENIED,
                           "uid %u has no session %u, and only an administrator may look at those of others",
                           asker->peer.uid, session);
}

/* The session with the lowest number above `after` that the asker may see. */
static struct vb_record *next_session(struct vb_record *asker, uint32_t only, uint64_t after) {
    struct vb_record *s, *best = NULL;

    LIST_FOREACH (s, &asker->broker->records, entry) {
        if (s->id > after && (!best || s->id < best->id) && may_see(asker, s) && (only == 0 || s->id == only))
            best = s;
    }
    return best;
}

static int show_sessions(struct vb_record *r, const VfioBroker__Inspect *q, struct page *p, struct vb_error *e) {
    struct vb_record *s = NULL;

    if (q->session != 0 && !next_session(r, q->session, 0))
        return refuse_sight(r, q->session, e);
    p->reply.sessions = vb_arena_alloc(p->arena, VB_INSPECT_ROWS * sizeof p->reply.sessions[0]);
    if (!p->reply.sessions)
        return vb_fail(e, -ENOMEM, "sessions");
    uint64_t after = q->after;
    while ((s = next_session(r, q->session, after))) {
        VfioBroker__SessionRow *row = session_row(s, p);

        if (!row || !room(p, p->reply.n_sessions, protobuf_c_message_get_packed_size(&row->base))) {
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
    int (*show)(struct vb_record *r, const VfioBroker__Inspect *q, struct page *p, struct vb_error *e);
} kinds[] = {
    {VFIO_BROKER__INSPECT_KIND__INSPECT_STATUS, show_status},
    {VFIO_BROKER__INSPECT_KIND__INSPECT_DEVICES, show_devices},
    {VFIO_BROKER__INSPECT_KIND__INSPECT_SESSIONS, show_sessions},
};

static bool of_a_session(VfioBroker__InspectKind kind) {
    return kind == VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE || kind == VFIO_BROKER__INSPECT_KIND__INSPECT_SPACES ||
           kind == VFIO_BROKER__INSPECT_KIND__INSPECT_MAPPINGS || kind == VFIO_BROKER__INSPECT_KIND__INSPECT_MEMORY;
}

void vb_call_inspect(struct vb_record *r, const VfioBrokerInternal__Call *call) {
    VfioBrokerInternal__Answer answer = VFIO_BROKER_INTERNAL__ANSWER__INIT;
    const VfioBroker__Inspect *q = call->inspect;
    struct page p = {.arena = &r->broker->buffers.arena, .reply = VFIO_BROKER__INSPECT_REPLY__INIT};
    struct vb_error e = {.code = 0};
    int n = -1;

    vb_link_charge(&r->link, 3);
    if (of_a_session(q->kind)) {
        if (next_session(r, q->session, 0)) {
            vb_ask_session(r, call->serial, q);
            return;
        }
        refuse_sight(r, q->session, &e);
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
