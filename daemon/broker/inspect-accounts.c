/* The rows of accounts: who pays, as /proc says at this moment. An account is seen by whoever sees one of its sessions, with
 * those of its sessions that he sees. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "broker/inspect.h"
#include "broker/lease.h"

static struct vb_record *owner(struct vb_lease *l) {
    return (struct vb_record *)((char *)l - offsetof(struct vb_record, lease));
}

static bool visible(const struct vb_record *asker, struct vb_lease *l) {
    const struct vb_record *s = owner(l);

    return s->id != 0 && vb_inspect_may_see(asker, s);
}

/* The lowest number of the account's sessions that the asker sees; 0: none. */
static uint32_t lowest(const struct vb_record *asker, const struct vb_account *a) {
    struct vb_lease *l;
    uint32_t n = 0;

    LIST_FOREACH (l, &a->leases, entry) {
        if (visible(asker, l) && (n == 0 || owner(l)->id < n))
            n = owner(l)->id;
    }
    return n;
}

static struct vb_account *next_account(struct vb_record *asker, uint64_t after, uint32_t *ret_number) {
    struct vb_account *a, *best = NULL;

    LIST_FOREACH (a, &asker->broker->accounts.list, entry) {
        uint32_t n = lowest(asker, a);

        if (n > after && (!best || n < *ret_number)) {
            best = a;
            *ret_number = n;
        }
    }
    return best;
}

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

/* False: no memory. */
static bool add_sessions(struct vb_record *asker, const struct vb_account *a, struct vb_page *p,
                         VfioBroker__AccountRow *row) {
    struct vb_lease *l;
    size_t n = 0;

    LIST_FOREACH (l, &a->leases, entry) {
        n += visible(asker, l);
    }
    row->sessions = vb_arena_alloc(p->arena, n * sizeof row->sessions[0]);
    if (!row->sessions)
        return false;
    LIST_FOREACH (l, &a->leases, entry) {
        if (visible(asker, l))
            row->sessions[row->n_sessions++] = owner(l)->id;
    }
    qsort(row->sessions, n, sizeof row->sessions[0], compare);
    return true;
}

static VfioBroker__AccountRow *account_row(struct vb_record *asker, const struct vb_account *a, struct vb_page *p) {
    static const char *const kinds[] = {
        [VB_ACCOUNT_PROCESS] = "process", [VB_ACCOUNT_UID] = "uid", [VB_ACCOUNT_UNIT] = "unit"};
    VfioBroker__AccountRow *row = vb_arena_alloc(p->arena, sizeof *row);
    struct vb_account_view v;

    if (!row)
        return NULL;
    vfio_broker__account_row__init(row);
    if (!add_sessions(asker, a, p, row))
        return NULL;
    vb_account_look(a, &asker->lease, &v);
    row->name = vb_page_keep(p, a->name);
    row->kind = (char *)kinds[a->key.kind];
    row->uid = a->key.uid;
    row->limit = v.limits.limit;
    row->limit_whose = vb_page_keep(p, v.limits.whose);
    row->leased = v.leased;
    row->own = v.limits.own;
    row->over = v.over;
    row->state = vb_page_keep(p, v.state);
    /* Some files of /proc for each of its clients. */
    vb_link_charge(&asker->link, 1 + (unsigned)row->n_sessions);
    return row;
}

/* With a session: the account that pays for it, or none. */
static int show_one(struct vb_record *asker, uint32_t session, struct vb_page *p, struct vb_error *e) {
    struct vb_record *s = vb_inspect_next(asker, session, 0);

    if (!s)
        return vb_inspect_refuse(asker, session, e);
    if (!s->lease.account)
        return 0;
    VfioBroker__AccountRow *row = account_row(asker, s->lease.account, p);
    if (!row || !vb_page_room(p, 0, protobuf_c_message_get_packed_size(&row->base)))
        return vb_fail(e, -ENOMEM, "account of session %u", session);
    p->reply.accounts[p->reply.n_accounts++] = row;
    return 0;
}

int vb_show_accounts(struct vb_record *r, const VfioBroker__Inspect *q, struct vb_page *p, struct vb_error *e) {
    uint64_t after = q->after;
    uint32_t number = 0;
    struct vb_account *a;

    p->reply.accounts = vb_arena_alloc(p->arena, VB_INSPECT_ROWS * sizeof p->reply.accounts[0]);
    if (!p->reply.accounts)
        return vb_fail(e, -ENOMEM, "accounts");
    if (q->session != 0)
        return show_one(r, q->session, p, e);
    while ((a = next_account(r, after, &number))) {
        VfioBroker__AccountRow *row = account_row(r, a, p);

        if (!row || !vb_page_room(p, p->reply.n_accounts, protobuf_c_message_get_packed_size(&row->base))) {
            if (p->reply.n_accounts == 0)
                return vb_fail(e, -ENOMEM, "accounts");
            p->reply.next = after;
            break;
        }
        p->reply.accounts[p->reply.n_accounts++] = row;
        after = number;
    }
    return 0;
}
