#include "broker/account.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/limits.h"

/* ---- accounts ---- */

static bool same(const struct vb_account_key *a, const struct vb_account_key *b) {
    if (a->kind != b->kind)
        return false;
    if (a->kind == VB_ACCOUNT_UID)
        return a->uid == b->uid;
    if (a->kind == VB_ACCOUNT_UNIT)
        return strcmp(a->unit, b->unit) == 0;
    return a->pid == b->pid && a->start == b->start;
}

struct vb_account *vb_account_get(struct vb_accounts *all, const struct vb_account_key *key) {
    struct vb_account *a;

    LIST_FOREACH (a, &all->list, entry) {
        if (same(&a->key, key)) {
            a->refs++;
            return a;
        }
    }
    a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    *a = (struct vb_account){.all = all, .key = *key, .refs = 1};
    TAILQ_INIT(&a->queue);
    if (key->kind == VB_ACCOUNT_UID)
        snprintf(a->name, sizeof a->name, "uid %u", key->uid);
    else if (key->kind == VB_ACCOUNT_UNIT)
        snprintf(a->name, sizeof a->name, "unit %s", key->unit);
    else
        snprintf(a->name, sizeof a->name, "pid %d (%s)", (int)key->pid, key->comm);
    LIST_INSERT_HEAD(&all->list, a, entry);
    return a;
}

struct vb_account *vb_account_put(struct vb_account *a) {
    if (a && --a->refs == 0) {
        assert(a->leased == 0 && LIST_EMPTY(&a->leases) && TAILQ_EMPTY(&a->queue));
        if (a->timer)
            a->all->ops->arm(a, 0);
        LIST_REMOVE(a, entry);
        free(a);
    }
    return NULL;
}

static uint64_t add(uint64_t a, uint64_t b) {
    uint64_t sum;

    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static uint64_t used(const struct vb_account *a, const struct vb_limits *l) {
    return add(a->leased, l->own);
}

uint64_t vb_account_left(const struct vb_account *a, const struct vb_limits *l) {
    uint64_t u = used(a, l);

    return u >= l->limit ? 0 : l->limit - u;
}

uint64_t vb_lease_memlock(uint64_t bytes, uint64_t doubled) {
    return bytes + (doubled < bytes ? doubled : bytes);
}

uint64_t vb_lease_within(uint64_t memlock, uint64_t bytes, uint64_t doubled) {
    uint64_t most = memlock / 2 >= doubled ? memlock - doubled : memlock / 2;

    return bytes < most ? bytes : most;
}

static void book(struct vb_lease *l, uint64_t booked) {
    struct vb_account *a = l->account;

    assert(a->leased >= l->booked);
    a->leased = a->leased - l->booked + booked;
    l->booked = booked;
}

/* ---- requests ---- */

static void stop_waiting(struct vb_lease *l) {
    if (l->request.waits)
        TAILQ_REMOVE(&l->account->queue, l, request.entry);
    l->request.waits = false;
}

static void refuse(struct vb_lease *l, const struct vb_error *e) {
    stop_waiting(l);
    l->account->all->ops->answer(l, l->request.serial, 0, NULL, e);
}

/* Who else uses the limit, and the way out. The session puts before this what it wants, and what is left: core/ledger.c. */
static int too_little(struct vb_lease *l, const struct vb_limits *limits, struct vb_error *e) {
    const struct vb_account *a = l->account;
    const uint64_t others = a->leased - l->booked;
    char leased[128] = "", own[80] = "";

    if (others)
        snprintf(leased, sizeof leased, "other sessions of %.60s have %s", a->name, VB_SIZE(others));
    if (limits->own)
        snprintf(own, sizeof own, "%s%s %s locked", others ? ", " : "",
                 a->key.kind == VB_ACCOUNT_PROCESS ? "the client itself has" : "its processes themselves have",
                 VB_SIZE(limits->own));
    vb_error_limit(e, l->request.need, used(a, limits), limits->limit, limits->whose);
    return vb_refuse(e, VB_LIMIT, "%s%s%sraise the limit or unmap%s something", leased, own,
                     others || limits->own ? "; " : "", limits->own ? " or unlock" : "");
}

enum verdict { SERVED, TOO_LITTLE, NEVER };

/* What a lease of `bytes` more costs, since the kernel may have said that the session has more than its lease. */
static uint64_t cost(const struct vb_lease *l, uint64_t bytes) {
    const uint64_t total = add(l->bytes, bytes);

    return total > l->booked ? total - l->booked : 0;
}

/* Grants what is needed, and what is wished if nobody else waits for it. */
static int grant(struct vb_lease *l, const struct vb_limits *limits, struct vb_error *e) {
    struct vb_account *a = l->account;
    const uint64_t before = l->booked, left = vb_account_left(a, limits);
    const bool others_wait = l->request.waits ? TAILQ_NEXT(l, request.entry) != NULL : !TAILQ_EMPTY(&a->queue);
    uint64_t n = l->request.need, most = l->booked - l->bytes + left;
    int r;

    if (!others_wait && l->request.wish > n)
        n = l->request.wish < most ? l->request.wish : most;
    book(l, l->booked + cost(l, n));
    r = a->all->ops->set_memlock(l, vb_lease_memlock(l->bytes + n, l->request.doubled), NULL, e);
    if (r != 0) {
        book(l, before);
        return r;
    }
    l->bytes += n;
    l->doubled = l->request.doubled;
    stop_waiting(l);
    a->all->ops->answer(l, l->request.serial, n, limits, NULL);
    return 0;
}

/* Serves a request if that can be. Whatever is no matter of waiting is answered here. */
static enum verdict serve(struct vb_lease *l, struct vb_error *e) {
    struct vb_account *a = l->account;
    struct vb_limits limits;
    int r;

    r = a->all->ops->limits(l, &limits, e);
    if (r != 0) {
        refuse(l, e);
        return SERVED;
    }
    l->request.room = limits.own >= limits.limit ? 0 : limits.limit - limits.own;
    if (cost(l, l->request.need) <= vb_account_left(a, &limits)) {
        if (grant(l, &limits, e) != 0)
            refuse(l, e);
        return SERVED;
    }
    too_little(l, &limits, e);
    /* More than there would be if all others gave back everything? */
    return add(add(l->booked, cost(l, l->request.need)), limits.own) > limits.limit ? NEVER : TOO_LITTLE;
}

/* Asks the others: what they have answered to a request before may have changed. One who gave something is asked again, so that
 * a request is refused only when at some moment there was nothing for it. */
static void ask_others(struct vb_lease *l) {
    struct vb_account *a = l->account;
    struct vb_lease *o;

    if (!l->request.asked)
        a->all->ops->arm(a, VB_RECLAIM_MS);
    l->request.asked = true;
    l->request.gave = false;
    LIST_FOREACH (o, &a->leases, entry) {
        if (o == l || o->booked == 0 || o->deaf)
            continue;
        o->asked++;
        a->all->ops->reclaim(o);
    }
}

static bool answers_missing(const struct vb_lease *l) {
    const struct vb_lease *o;

    LIST_FOREACH (o, &l->account->leases, entry) {
        if (o != l && !o->deaf && o->answered < o->asked)
            return true;
    }
    return false;
}

/* True: it is worth while to wait on. */
static bool wait_on(struct vb_lease *l) {
    if (l->request.over)
        return false;
    if (!l->request.asked)
        ask_others(l);
    if (!answers_missing(l) && l->request.gave)
        ask_others(l);
    return answers_missing(l);
}

/* Answers are missing, and by the limits of the last try there is too little still: reading them, files of /proc for each client of the
 * account, at the answer of each of its sessions would keep the daemon from everybody else. */
static bool no_use(const struct vb_lease *l) {
    return l->request.asked && !l->request.over && answers_missing(l) &&
           add(l->account->leased, cost(l, l->request.need)) > l->request.room;
}

/* Deals with the queue until its first request has to wait. */
static void pump(struct vb_account *a) {
    struct vb_lease *l;

    while (!a->all->ends && (l = TAILQ_FIRST(&a->queue))) {
        struct vb_error e = {.code = 0};
        enum verdict v;

        if (no_use(l))
            return;
        v = serve(l, &e);
        if (v == TOO_LITTLE && wait_on(l))
            return;
        if (v != SERVED)
            refuse(l, &e);
    }
    if (a->timer)
        a->all->ops->arm(a, 0);
}

static void tell_gave(struct vb_account *a, const struct vb_lease *by) {
    struct vb_lease *first = TAILQ_FIRST(&a->queue);

    if (first && first != by)
        first->request.gave = true;
}

void vb_account_timeout(struct vb_account *a) {
    struct vb_lease *o;

    LIST_FOREACH (o, &a->leases, entry) {
        o->deaf = o->answered < o->asked;
    }
    if (!TAILQ_EMPTY(&a->queue))
        TAILQ_FIRST(&a->queue)->request.over = true;
    pump(a);
}

/* ---- what sessions do ---- */

static void enter(struct vb_account *a, struct vb_lease *l) {
    *l = (struct vb_lease){.account = a};
    a->refs++;
    LIST_INSERT_HEAD(&a->leases, l, entry);
}

int vb_account_join(struct vb_account *a, struct vb_lease *l, uint64_t wish, struct vb_limits *ret,
                    struct vb_error *e) {
    uint64_t left;
    int r;

    enter(a, l);
    r = a->all->ops->limits(l, ret, e);
    if (r != 0) {
        vb_account_leave(l);
        return r;
    }
    left = TAILQ_EMPTY(&a->queue) ? vb_account_left(a, ret) : 0;
    l->bytes = wish < left ? wish : left;
    book(l, l->bytes);
    return 0;
}

void vb_account_adopt(struct vb_account *a, struct vb_lease *l, uint64_t bytes, uint64_t doubled, uint64_t locked) {
    enter(a, l);
    l->bytes = bytes;
    l->doubled = doubled;
    book(l, locked > vb_lease_memlock(bytes, doubled) ? locked : bytes);
}

void vb_account_want(struct vb_lease *l, uint64_t serial, uint64_t need, uint64_t wish, uint64_t doubled) {
    struct vb_account *a = l->account;
    struct vb_error e = {.code = 0};

    if (l->request.waits) { /* it has lost patience with that one */
        vb_refuse(&e, VB_BUSY, "asked again");
        refuse(l, &e);
    }
    l->request.serial = serial;
    l->request.need = need;
    l->request.wish = wish;
    l->request.doubled = doubled;
    l->request.asked = l->request.gave = l->request.over = false;
    if (need == 0) {
        serve(l, &e);
    } else {
        l->request.waits = true;
        TAILQ_INSERT_TAIL(&a->queue, l, request.entry);
    }
    pump(a);
}

int vb_account_give(struct vb_lease *l, uint64_t bytes, uint64_t doubled, bool asked) {
    struct vb_account *a = l->account;
    struct vb_error e = {.code = 0};
    uint64_t locked = 0, memlock;

    if (bytes > l->bytes || (asked && l->answered == l->asked))
        return VB_PROTOCOL;
    if (asked && ++l->answered == l->asked)
        l->deaf = false;
    if (bytes != 0 || doubled != l->doubled || l->booked != l->bytes) {
        l->bytes -= bytes;
        l->doubled = doubled;
        memlock = vb_lease_memlock(l->bytes, doubled);
        /* If that fails the process is gone, and all is given back when its memory is taken away. */
        if (a->all->ops->set_memlock(l, memlock, &locked, &e) == 0)
            book(l, locked > memlock ? locked : l->bytes);
    }
    if (bytes != 0)
        tell_gave(a, l);
    if (l->request.waits) { /* it counts on what it has just given */
        l->request.need = add(l->request.need, bytes);
        l->request.wish = add(l->request.wish, bytes);
    }
    pump(a);
    return 0;
}

void vb_account_leave(struct vb_lease *l) {
    struct vb_account *a = l->account;

    if (!a)
        return;
    stop_waiting(l);
    if (l->booked != 0)
        tell_gave(a, l);
    book(l, 0);
    LIST_REMOVE(l, entry);
    *l = (struct vb_lease){.account = NULL};
    pump(a);
    vb_account_put(a);
}
