/* Two sessions of one account, the daemon, the kernel and the client, in every order.
 *
 * What is tested is the code itself: core/ledger.c on the sessions' side, broker/account.c on the daemon's. Around it is a
 * model: messages are in queues; the kernel has for each session a number of pinned pages and an RLIMIT_MEMLOCK, and refuses
 * what passes it. A session pauses before and after each step (reserve, fill, commit; empty, release) and while it waits for
 * the daemon; the daemon pauses wherever it touches the world. Units are pages.
 *
 * After each step, whoever took it: what the sessions may pin never grows beyond the limit that was read for the grant; each
 * pins no more than its RLIMIT_MEMLOCK, and may do what it believes that it may; what is booked is never less than what the
 * session believes to have, nor than what it may pin. A request is refused only if at some moment while it waited there was no
 * room for it. In the end everything is given back, and nobody waits.
 *
 * Seeded bugs show that this finds something. */
#include "tests/unit/interleave.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "broker/account.h"
#include "core/ledger.h"

enum { QUEUE = 16, MAPPINGS = 8 };

enum bug {
    NO_BUG,
    RELEASE_BEFORE_EMPTY,
    CREDIT_BEFORE_LOWER,
    ANSWER_BEFORE_RAISE,
    GRANT_WITHOUT_BOOK,
    GIVE_AND_KEEP,
    DEAF_WHILE_WAITING,
};

/* m<n> map; u unmap what was mapped last; d mlock all of it too; e no more; w look what is idle; g give back what was since; a ask
 * for more lease before it is needed (session/lease.c). */
struct scripts {
    const char *name;
    uint64_t limit, slack;
    const char *script[2];
    const char *client; /* l<n> its limit is now n; k<n> it has locked n itself */
    bool time;          /* VB_RECLAIM_MS may pass at any moment */
    bool death;         /* the second may be killed at any moment */
};

enum kind { WANT, GIVE, END, GRANT, REFUSAL, RECLAIM };
struct message {
    enum kind kind;
    bool asked;
    uint64_t n, wish, doubled;
};
struct queue {
    struct message m[QUEUE];
    unsigned n;
};

struct session {
    struct vb_ledger ledger;
    struct vb_lease lease; /* the daemon's */
    struct co *co;
    const char *next; /* of the script */
    struct queue in, out;
    uint64_t pinned, locked, memlock; /* the kernel's */
    uint64_t mapping[MAPPINGS], doubled[MAPPINGS];
    unsigned n_mappings;
    uint64_t paid; /* by the reservation in progress */
    uint64_t granted_doubled;
    bool in_step, waits, dead, finished;
    bool could; /* the request in progress could have been served at each moment since it was made */
    struct hash memory;
};

static const struct scripts *now;
static enum bug bug;
static struct session s[2];
static struct vb_accounts accounts;
static struct vb_account *account;
static struct {
    struct co *co;
    unsigned whose;
    struct message m;
    struct hash memory;
    bool late; /* seeded bugs: this is still to be done */
    struct session *late_session;
    uint64_t late_memlock;
} daemon_;
static const char *client_next;
static uint64_t client_limit, client_locked, read_limit, read_locked, sum_before;
static bool armed;
static const char *wrong;
static char wrong_text[256];

static void breach(const char *what) {
    if (!wrong)
        wrong = what;
}

static void remember(struct hash *h, uint64_t a, uint64_t b) {
    const uint64_t both[2] = {a, b};

    hash_add(h, both, sizeof both);
}

static void push(struct queue *q, struct message m) {
    if (q->n == QUEUE)
        breach("a queue is full");
    else
        q->m[q->n++] = m;
}

static struct message pop(struct queue *q) {
    struct message m = q->m[0];

    memmove(q->m, q->m + 1, --q->n * sizeof m);
    return m;
}

/* ---- sessions ---- */

static uint64_t busy(const struct session *x) {
    const struct vb_ledger *l = &x->ledger;

    return l->waiting > l->used && l->waiting <= l->lease ? l->waiting : l->used;
}

static void look_whether_possible(void) {
    uint64_t used = busy(&s[0]) + busy(&s[1]) + client_locked;

    for (unsigned i = 0; i < 2; i++)
        s[i].could = s[i].could && used - busy(&s[i]) + s[i].ledger.used + s[i].paid <= client_limit;
}

static void answer_reclaim(struct session *x) {
    struct vb_give g = vb_ledger_give(&x->ledger);

    if (bug == GIVE_AND_KEEP)
        x->ledger.lease += g.bytes;
    push(&x->out, (struct message){.kind = GIVE, .n = g.bytes, .doubled = g.doubled, .asked = true});
}

static int want(struct vb_ledger *l, uint64_t need, uint64_t doubled, struct vb_error *e) {
    struct session *x = l->arg;
    struct message m;

    push(&x->out, (struct message){.kind = WANT, .n = need, .wish = need + now->slack, .doubled = doubled});
    x->waits = true;
    do {
        co_pause();
        m = pop(&x->in);
        remember(&x->memory, m.kind, m.n);
        if (m.kind == RECLAIM && bug == DEAF_WHILE_WAITING)
            push(&x->in, m); /* after the answer, if that comes */
        else if (m.kind == RECLAIM)
            answer_reclaim(x);
    } while (m.kind == RECLAIM);
    x->waits = false;
    if (m.kind == REFUSAL)
        return vb_refuse(e, VB_LIMIT, "refused");
    vb_ledger_granted(l, m.n, doubled);
    return 0;
}

static void kernel_pins(struct session *x, uint64_t pinned, uint64_t locked) {
    if (x->pinned + x->locked + pinned + locked > x->memlock)
        breach("the kernel refuses a session that keeps to its ledger");
    x->pinned += pinned;
    x->locked += locked;
}

static bool reserve(struct session *x, struct vb_cost c) {
    struct vb_error e = {.code = 0};

    x->paid = c.paid;
    x->could = true;
    look_whether_possible();
    int r = vb_ledger_reserve(&x->ledger, c, &e);
    x->paid = 0;
    x->could = false;
    if (r != 0 && strcmp(e.text, "refused") != 0)
        breach("a session gave up though nobody refused");
    return r == 0;
}

static void map(struct session *x, uint64_t n) {
    if (!reserve(x, (struct vb_cost){.paid = n}))
        return;
    co_pause();
    kernel_pins(x, n, 0);
    co_pause();
    x->doubled[x->n_mappings] = 0;
    x->mapping[x->n_mappings++] = n;
}

static void undouble(struct session *x) {
    unsigned i = x->n_mappings - 1;

    if (x->n_mappings == 0 || x->doubled[i] == 0)
        return;
    x->locked -= x->doubled[i];
    co_pause();
    vb_ledger_release(&x->ledger, (struct vb_cost){.doubled = x->doubled[i]});
    x->doubled[i] = 0;
}

static void unmap(struct session *x) {
    if (x->n_mappings == 0)
        return;
    undouble(x);
    uint64_t n = x->mapping[x->n_mappings - 1];
    if (bug == RELEASE_BEFORE_EMPTY) {
        vb_ledger_release(&x->ledger, (struct vb_cost){.paid = n});
        x->in_step = false; /* and listens */
        co_pause();
        x->in_step = true;
        x->pinned -= n;
    } else {
        x->pinned -= n;
        co_pause();
        vb_ledger_release(&x->ledger, (struct vb_cost){.paid = n});
    }
    x->n_mappings--;
}

static void double_it(struct session *x) {
    unsigned i = x->n_mappings - 1;

    if (x->n_mappings == 0 || !reserve(x, (struct vb_cost){.doubled = x->mapping[i]}))
        return;
    co_pause();
    kernel_pins(x, 0, x->mapping[i]);
    x->doubled[i] = x->mapping[i];
}

static void give(struct session *x, bool all) {
    struct vb_give g = {.bytes = 0};

    if (all)
        g = vb_ledger_give(&x->ledger);
    else if (!vb_ledger_give_watched(&x->ledger, now->slack, &g))
        return;
    push(&x->out, (struct message){.kind = GIVE, .n = g.bytes, .doubled = g.doubled});
}

static void one_step(struct session *x) {
    uint64_t n;

    switch (*x->next++) {
    case 'm':
        n = strtoull(x->next, (char **)&x->next, 10);
        map(x, n);
        break;
    case 'u':
        unmap(x);
        break;
    case 'd':
        double_it(x);
        break;
    case 'e':
        undouble(x);
        break;
    case 'w':
        vb_ledger_watch(&x->ledger, now->slack);
        break;
    case 'g':
        give(x, false);
        break;
    case 'a':
        if (want(&x->ledger, 0, x->ledger.doubled_granted, &(struct vb_error){.code = 0}) != 0)
            breach("more lease before it is needed is refused, not just not given");
        break;
    default:
        breach("no such step");
    }
}

static void session_step(void *arg) {
    struct session *x = arg;

    hash_init(&x->memory);
    remember(&x->memory, x->ledger.lease, x->ledger.used);
    x->in_step = true;
    if (*x->next) {
        one_step(x);
    } else if (x->n_mappings) {
        unmap(x);
    } else {
        give(x, true);
        x->finished = true;
    }
    x->in_step = false;
}

/* The kernel takes everything away; the daemon learns of it later. */
static void die(struct session *x) {
    co_stop(x->co);
    x->dead = true;
    x->waits = x->could = false;
    x->pinned = x->locked = x->memlock = x->paid = 0;
    x->n_mappings = 0;
    memset(&x->ledger, 0, sizeof x->ledger);
    push(&x->out, (struct message){.kind = END});
}

static bool can_go(const struct session *x) {
    if (x->dead || (x->waits && x->in.n == 0))
        return false;
    if (x->waits && bug == DEAF_WHILE_WAITING && x->in.n == 1 && x->in.m[0].kind == RECLAIM)
        return false;
    return !co_ended(x->co) || !x->finished;
}

static void go(struct session *x) {
    if (co_ended(x->co))
        co_start(x->co, session_step, x);
    co_run(x->co);
}

/* ---- the daemon ---- */

static struct session *owner(struct vb_lease *l) {
    return l == &s[0].lease ? &s[0] : &s[1];
}

static int limits(struct vb_lease *l, struct vb_limits *ret, struct vb_error *e) {
    (void)l, (void)e;
    if (daemon_.co) /* not at the beginning */
        co_pause();
    read_limit = client_limit;
    read_locked = client_locked;
    remember(&daemon_.memory, read_limit, read_locked);
    *ret = (struct vb_limits){.limit = read_limit, .own = read_locked};
    return 0;
}

static int set_memlock(struct vb_lease *l, uint64_t bytes, uint64_t *ret_locked, struct vb_error *e) {
    struct session *x = owner(l);

    co_pause();
    remember(&daemon_.memory, bytes, x->dead);
    if (x->dead)
        return vb_fail(e, -ESRCH, "dead");
    x->granted_doubled = ret_locked ? l->doubled : l->request.doubled;
    if (bug == (ret_locked ? CREDIT_BEFORE_LOWER : ANSWER_BEFORE_RAISE)) {
        daemon_.late = true;
        daemon_.late_session = x;
        daemon_.late_memlock = bytes;
        return 0;
    }
    x->memlock = bytes;
    co_pause();
    if (ret_locked) {
        *ret_locked = x->pinned + x->locked;
        remember(&daemon_.memory, *ret_locked, 0);
    }
    return 0;
}

static void reclaim(struct vb_lease *l) {
    remember(&daemon_.memory, 1, owner(l) == &s[1]);
    co_pause();
    push(&owner(l)->in, (struct message){.kind = RECLAIM});
}

static void answer(struct vb_lease *l, uint64_t serial, uint64_t granted, const struct vb_limits *limits,
                   const struct vb_error *e) {
    struct session *x = owner(l);

    (void)serial, (void)limits;
    remember(&daemon_.memory, 2, granted);
    if (e && e->code == VB_LIMIT && x->could && !now->time)
        breach("a request was refused that could have been served all the time");
    if (bug == GRANT_WITHOUT_BOOK) {
        l->booked -= granted;
        account->leased -= granted;
    }
    push(&x->in, (struct message){.kind = e ? REFUSAL : GRANT, .n = granted});
    co_pause();
}

static void arm(struct vb_account *a, unsigned ms) {
    armed = ms != 0;
    a->timer = ms ? &armed : NULL;
}

static const struct vb_account_ops ops = {
    .limits = limits, .set_memlock = set_memlock, .reclaim = reclaim, .answer = answer, .arm = arm};

static void handle(void *arg) {
    struct vb_lease *l = &s[daemon_.whose].lease;
    const struct message *m = &daemon_.m;

    (void)arg;
    if (m->kind == WANT)
        vb_account_want(l, 1, m->n, m->wish, m->doubled);
    else if (m->kind == END)
        vb_account_leave(l);
    else if (vb_account_give(l, m->n, m->doubled, m->asked) != 0)
        breach("a give was taken for a lie");
    if (daemon_.late) {
        co_pause();
        daemon_.late = false;
        daemon_.late_session->memlock = daemon_.late_memlock;
    }
}

static void time_passes(void *arg) {
    (void)arg;
    armed = false;
    vb_account_timeout(account);
}

static void hash_account(struct hash *h) {
    for (unsigned i = 0; i < 2; i++) {
        const struct vb_lease *l = &s[i].lease;
        const uint64_t v[] = {l->bytes,
                              l->doubled,
                              l->booked,
                              l->asked - l->answered,
                              l->request.waits,
                              l->request.asked,
                              l->account != NULL,
                              TAILQ_FIRST(&account->queue) == l,
                              l->request.gave,
                              l->request.over,
                              l->deaf};

        hash_add(h, v, sizeof v);
        if (l->request.waits) {
            remember(h, l->request.need, l->request.wish);
            remember(h, l->request.doubled, 0);
        }
    }
    remember(h, account->leased, armed);
}

static void begin(void (*fn)(void *), unsigned whose, bool message) {
    hash_init(&daemon_.memory);
    remember(&daemon_.memory, whose, message);
    hash_account(&daemon_.memory);
    daemon_.whose = whose;
    if (message)
        daemon_.m = pop(&s[whose].out);
    hash_add(&daemon_.memory, &daemon_.m.kind, sizeof daemon_.m.kind);
    remember(&daemon_.memory, daemon_.m.n, daemon_.m.doubled);
    co_start(daemon_.co, fn, NULL);
    co_run(daemon_.co);
}

/* ---- who can do what ---- */

enum actor { GO_0, GO_1, LISTEN_0, LISTEN_1, DAEMON, DAEMON_0, DAEMON_1, CLIENT, TIME, DEATH, ACTORS };
static enum actor can[ACTORS];

static unsigned enabled(void) {
    const bool idle = co_ended(daemon_.co);
    unsigned n = 0;

    for (unsigned i = 0; i < 2; i++) {
        if (can_go(&s[i]))
            can[n++] = GO_0 + i;
        if (!s[i].in_step && !s[i].dead && s[i].in.n > 0)
            can[n++] = LISTEN_0 + i;
        if (idle && s[i].out.n > 0)
            can[n++] = DAEMON_0 + i;
    }
    if (!idle)
        can[n++] = DAEMON;
    if (*client_next)
        can[n++] = CLIENT;
    if (idle && armed && now->time)
        can[n++] = TIME;
    if (now->death && !s[1].dead)
        can[n++] = DEATH;
    return n;
}

static void client_step(void) {
    char what = *client_next++;
    uint64_t n = strtoull(client_next, (char **)&client_next, 10);

    if (what == 'l')
        client_limit = n;
    else
        client_locked = n;
}

static bool check(void) {
    uint64_t sum = 0;

    for (unsigned i = 0; i < 2; i++) {
        const struct session *x = &s[i];
        const struct vb_ledger *l = &x->ledger;

        const uint64_t may = vb_lease_within(x->memlock, UINT64_MAX, x->granted_doubled);

        sum += may;
        if (x->lease.booked < may)
            breach("less is booked than a session may pin");
        if (x->pinned + x->locked > x->memlock)
            breach("more is pinned than RLIMIT_MEMLOCK allows");
        if (l->used > l->lease)
            breach("more is used than leased");
        if (!x->dead && vb_lease_memlock(l->lease, l->doubled_granted) > x->memlock)
            breach("a session believes in more than the kernel will allow");
        if (x->lease.booked < l->lease)
            breach("less is booked than a session has");
    }
    if (account->leased != s[0].lease.booked + s[1].lease.booked)
        breach("the book does not add up");
    if (sum > sum_before && sum + read_locked > read_limit)
        breach("more may be pinned than the limit that was read");
    sum_before = sum;
    look_whether_possible();
    return !wrong;
}

static bool step(unsigned n) {
    switch (can[n]) {
    case GO_0:
    case GO_1:
        go(&s[can[n] - GO_0]);
        break;
    case LISTEN_0:
    case LISTEN_1: {
        struct session *x = &s[can[n] - LISTEN_0];

        if (pop(&x->in).kind == RECLAIM)
            answer_reclaim(x);
        else
            breach("an answer that nobody waits for");
        break;
    }
    case DAEMON:
        co_run(daemon_.co);
        break;
    case DAEMON_0:
    case DAEMON_1:
        begin(handle, can[n] - DAEMON_0, true);
        break;
    case CLIENT:
        client_step();
        break;
    case DEATH:
        die(&s[1]);
        break;
    default:
        begin(time_passes, 0, false);
        break;
    }
    return check();
}

static bool end(void) {
    for (unsigned i = 0; i < 2; i++) {
        if (!s[i].dead && (!s[i].finished || s[i].waits))
            breach("somebody waits for ever");
        if (s[i].lease.booked || s[i].memlock || s[i].pinned || s[i].ledger.used)
            breach("not everything was given back");
    }
    if (account->leased || !TAILQ_EMPTY(&account->queue) || armed)
        breach("the account is not at rest");
    return !wrong;
}

static void reset(void) {
    static const struct vb_account_key key = {.kind = VB_ACCOUNT_PROCESS, .pid = 812, .start = 1, .comm = "model"};
    struct vb_limits ignored;

    free(account); /* of a run that was left in the middle */
    accounts = (struct vb_accounts){.ops = &ops};
    armed = false;
    wrong = NULL;
    client_next = now->client ? now->client : "";
    client_limit = now->limit;
    client_locked = sum_before = 0;
    struct co *co = daemon_.co;
    memset(&daemon_, 0, sizeof daemon_);
    account = vb_account_get(&accounts, &key);
    for (unsigned i = 0; i < 2; i++) {
        struct co *own = s[i].co;

        memset(&s[i], 0, sizeof s[i]);
        vb_account_join(account, &s[i].lease, now->slack, &ignored, NULL);
        s[i].co = own;
        co_stop(own);
        s[i].next = now->script[i];
        s[i].ledger.lease = s[i].memlock = s[i].lease.bytes;
        s[i].ledger.tables_max = UINT64_MAX;
        s[i].ledger.want = want;
        s[i].ledger.arg = &s[i];
        sum_before += s[i].memlock;
    }
    daemon_.co = co;
    co_stop(co);
}

static void state(struct hash *h) {
    for (unsigned i = 0; i < 2; i++) {
        const struct session *x = &s[i];
        const struct vb_ledger *l = &x->ledger;
        const uint64_t v[] = {l->lease,
                              l->used,
                              l->doubled,
                              l->doubled_granted,
                              l->waiting,
                              l->waiting_doubled,
                              l->most,
                              x->pinned,
                              x->locked,
                              x->memlock,
                              x->granted_doubled,
                              x->paid,
                              (uint64_t)(x->next - now->script[i]),
                              x->n_mappings,
                              x->in.n,
                              x->out.n,
                              (uint64_t)x->in_step | x->waits << 1 | x->dead << 2 | x->finished << 3 | x->could << 4 |
                                  co_ended(x->co) << 5};

        hash_add(h, v, sizeof v);
        for (unsigned k = 0; k < x->n_mappings; k++)
            remember(h, x->mapping[k], x->doubled[k]);
        for (unsigned k = 0; k < x->in.n; k++)
            remember(h, x->in.m[k].kind, x->in.m[k].n);
        for (unsigned k = 0; k < x->out.n; k++) {
            remember(h, x->out.m[k].kind, x->out.m[k].n);
            remember(h, x->out.m[k].asked, x->out.m[k].doubled);
        }
        if (!co_ended(x->co))
            hash_add(h, &x->memory, sizeof x->memory);
    }
    hash_account(h);
    remember(h, (uint64_t)(*client_next ? strlen(client_next) : 0), client_limit);
    remember(h, client_locked, read_limit);
    remember(h, read_locked, daemon_.late);
    if (!co_ended(daemon_.co))
        hash_add(h, &daemon_.memory, sizeof daemon_.memory);
    remember(h, co_ended(daemon_.co), 0);
}

static const struct model model = {.reset = reset, .enabled = enabled, .step = step, .end = end, .state = state};

static const struct scripts all[] = {
    {"both fit", 8, 1, {"m3u", "m3u"}, NULL, false, false},
    {"what one has idle, the other gets", 8, 4, {"m4um2", "m4u"}, NULL, false, false},
    {"all, in turn", 6, 0, {"m6u", "m6u"}, NULL, false, false},
    {"more than there is, both", 8, 2, {"m5m2uu", "m4um5"}, NULL, false, false},
    {"grow while the other shrinks", 8, 1, {"m2m2m2", "m4wugm2"}, NULL, false, false},
    {"idle lease goes back by itself", 8, 1, {"m4wugm3", "m4wugm3"}, NULL, false, false},
    {"mapped and mlocked", 8, 1, {"m3deum4", "m4du"}, NULL, false, false},
    {"mapped and mlocked, and short of lease", 6, 1, {"m3deum4d", "m4dum2du"}, NULL, false, false},
    {"many of them", 8, 2, {"m5m2uum3", "m4um5um2"}, NULL, false, false},
    {"more is asked for before it is needed", 8, 3, {"m2am3u", "m3um2a"}, NULL, false, false},
    {"the limit is lowered, and raised", 8, 1, {"m3um4", "m4um2"}, "l4l8", false, false},
    {"the client locks memory itself", 8, 1, {"m3um4", "m4um2"}, "k3k0", false, false},
    {"time passes", 8, 2, {"m5um3", "m4um5"}, NULL, true, false},
    {"one is killed", 8, 2, {"m5um3", "m4um5"}, NULL, false, true},
};

static double seconds(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static struct explored one(const struct scripts *scripts, enum bug seeded, bool known) {
    now = scripts;
    bug = seeded;
    struct explored x = explore(&model, known);
    snprintf(wrong_text, sizeof wrong_text, "%s", wrong ? wrong : "");
    return x;
}

static void test_all_interleavings(void **unused) {
    (void)unused;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        double before = seconds();
        struct explored x = one(&all[i], NO_BUG, true);

        print_message(
            "# %s | %s%s%s, limit %u, slack %u (%s): %.4g interleavings of at most %u steps, %llu states, %llu "
            "runs, %.1f s\n",
            all[i].script[0], all[i].script[1], all[i].client ? " | client " : "", all[i].client ? all[i].client : "",
            (unsigned)all[i].limit, (unsigned)all[i].slack, all[i].name, x.interleavings, x.longest,
            (unsigned long long)x.states, (unsigned long long)x.runs, seconds() - before);
        if (!x.ok)
            fail_msg("%s: %s", all[i].name, wrong_text);
    }
}

/* States that count as known are the same: without that, there are as many interleavings. */
static void test_known_states(void **unused) {
    static const struct scripts small[] = {{"small", 2, 1, {"m1", "m1"}, NULL, false, false},
                                           {"small, one is refused", 1, 0, {"m2", "m1"}, NULL, false, false}};

    (void)unused;
    for (size_t i = 0; i < sizeof small / sizeof small[0]; i++) {
        struct explored a = one(&small[i], NO_BUG, true), b = one(&small[i], NO_BUG, false);

        print_message("# %s: %.0f interleavings, %llu runs with known states, %llu without\n", small[i].name,
                      b.interleavings, (unsigned long long)a.runs, (unsigned long long)b.runs);
        assert_true(a.ok && b.ok);
        assert_true(a.interleavings == b.interleavings && (uint64_t)b.interleavings == b.runs);
    }
}

static void test_seeded_bugs_are_found(void **unused) {
    static const struct {
        enum bug bug;
        const char *name;
    } bugs[] = {
        {RELEASE_BEFORE_EMPTY, "a session releases before it empties"},
        {CREDIT_BEFORE_LOWER, "the book is credited before RLIMIT_MEMLOCK is lowered"},
        {ANSWER_BEFORE_RAISE, "a grant is answered before RLIMIT_MEMLOCK is raised"},
        {GRANT_WITHOUT_BOOK, "a grant is not booked"},
        {GIVE_AND_KEEP, "a session gives back and goes on counting on it"},
        {DEAF_WHILE_WAITING, "a session does not listen while it waits"},
    };

    (void)unused;
    for (size_t i = 0; i < sizeof bugs / sizeof bugs[0]; i++) {
        unsigned found = 0;

        for (size_t k = 0; k < sizeof all / sizeof all[0]; k++) {
            struct explored x = one(&all[k], bugs[i].bug, true);

            found += !x.ok;
            if (!x.ok && found == 1)
                print_message("# %s: \"%s\" in run %llu of %s\n", bugs[i].name, wrong_text, (unsigned long long)x.runs,
                              all[k].name);
            if (found)
                break;
        }
        if (!found)
            fail_msg("not found: %s", bugs[i].name);
    }
}

static int set_up(void **unused) {
    (void)unused;
    s[0].co = co_new();
    s[1].co = co_new();
    daemon_.co = co_new();
    return 0;
}

static int tear_down(void **unused) {
    (void)unused;
    co_free(s[0].co);
    co_free(s[1].co);
    co_free(daemon_.co);
    free(account);
    account = NULL;
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_states),
        cmocka_unit_test(test_all_interleavings),
        cmocka_unit_test(test_seeded_bugs_are_found),
    };
    return cmocka_run_group_tests_name("interleave", tests, set_up, tear_down);
}
