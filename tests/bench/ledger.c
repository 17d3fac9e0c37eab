/* What the ledger costs: mappings that are charged (core/charge.c: extents; core/tables.c; core/ledger.c: reserve and
 * release) against the same mappings in the same interval tree alone (core/mapping.c: allocate, insert, remove, free).
 *
 * Both arms take turns in each round, in one process; figures are medians of the rounds, in nanoseconds for one mapping.
 * Order: mappings come in one random order and go in another, unless the case says "in order"; which offset an IOVA
 * shows is random too. Bytes are what malloc has given out for one mapping (mallinfo2: uordblks and hblkhd, so its own
 * headers are in), with all mappings there, less what was given out before the first. The ledger's lease is larger than
 * all of it: what asking the daemon for more costs is another matter. */
#include <malloc.h>
#include <stdlib.h>
#include <time.h>

#include "core/mapping.h"
#include "tests/bench/bench.h"

#define SPACES_MAX 2
#define ROUNDS_MAX 32

/* `pieces` are mapped in each space, out of `places` of the memory. */
static const struct workload {
    const char *name;
    uint64_t piece; /* bytes */
    unsigned pieces, places, spaces;
    bool in_order;
} workloads[] = {
    {"1 TiB in 2 MiB, in order", 2 << 20, 1 << 19, 1 << 19, 1, true},
    {"1 TiB in 2 MiB", 2 << 20, 1 << 19, 1 << 19, 1, false},
    {"1 M of 4 KiB, 4 GiB", 4096, 1 << 20, 1 << 20, 1, false},
    {"1 M of 4 KiB, far apart", 4096, 1 << 20, 1 << 28, 1, false},
    {"512 K of 4 KiB, two spaces", 4096, 1 << 19, 1 << 19, 2, false},
};

struct run {
    const struct workload *w;
    unsigned n; /* mappings */
    struct item {
        uint64_t iova, offset;
        unsigned space;
    } * items;       /* in the order in which they come */
    unsigned *leave; /* indices of items, in the order in which they go */
    struct vb_mapping **mappings;
    struct vb_mapping_tree trees[SPACES_MAX];
    struct vb_memory memory;
    struct vb_ledger ledger;
};

struct figures {
    double come, go, bytes;
};

/* xorshift64*, so that every run and both arms see the same orders. */
static uint64_t state = 88172645463325252u;
static uint64_t random_below(uint64_t n) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (state * 2685821657736338717u >> 11) % n;
}

static void *need(void *p) {
    if (!p)
        bench_die("no memory");
    return p;
}

/* The numbers below n in random order. */
static unsigned *shuffled(unsigned n) {
    unsigned *a = need(malloc(n * sizeof(*a))), i, k;

    for (i = 0; i < n; i++) {
        k = (unsigned)random_below(i + 1);
        a[i] = a[k];
        a[k] = i;
    }
    return a;
}

static void prepare(struct run *r, const struct workload *w, unsigned divide) {
    const unsigned pieces = w->pieces / divide, stride = w->places / w->pieces;
    unsigned i, s, *order, *offsets;

    *r = (struct run){.w = w, .n = pieces * w->spaces};
    r->memory.page_size = 4096;
    r->items = need(malloc(r->n * sizeof(*r->items)));
    r->mappings = need(malloc(r->n * sizeof(*r->mappings)));
    r->leave = shuffled(r->n);
    order = shuffled(r->n);
    for (s = 0; s < w->spaces; s++) {
        offsets = shuffled(pieces);
        for (i = 0; i < pieces; i++) {
            unsigned k = s * pieces + i;
            struct item *t = &r->items[w->in_order ? k : order[k]];

            /* One place of each stride: no two are neighbours when that is large. */
            *t = (struct item){.iova = (1ull << 40) + i * (uint64_t)stride * w->piece,
                               .offset = (uint64_t)(w->in_order ? i : offsets[i]) * stride * w->piece,
                               .space = s};
            if (w->in_order)
                r->leave[k] = k;
        }
        free(offsets);
    }
    free(order);
}

static void finish(struct run *r) {
    free(r->items);
    free(r->leave);
    free(r->mappings);
}

static struct vb_mapping *new_mapping(struct run *r, const struct item *t) {
    struct vb_mapping *m = need(vb_mapping_new(&r->trees[t->space]));

    m->iova = (struct vb_range){t->iova, t->iova + r->w->piece - 1};
    m->offset = t->offset;
    m->memory = &r->memory;
    return m;
}

static void come_charged(struct run *r, unsigned i) {
    const struct item *t = &r->items[i];
    struct vb_mapping *m = new_mapping(r, t);
    struct vb_cost c;

    if (vb_mapping_charge(&r->trees[t->space], m, &c) || vb_ledger_reserve(&r->ledger, c, NULL))
        bench_die("mapping %u is refused", i);
    r->mappings[i] = m;
}
static void go_charged(struct run *r, unsigned i) {
    struct vb_mapping *m = r->mappings[i];

    vb_ledger_release(&r->ledger, vb_mapping_uncharge(&r->trees[r->items[i].space], m));
    vb_mapping_free(m);
}

static void come_alone(struct run *r, unsigned i) {
    const struct item *t = &r->items[i];
    struct vb_mapping *m = new_mapping(r, t);

    if (vb_mapping_insert(&r->trees[t->space], m))
        bench_die("mapping %u is refused", i);
    r->mappings[i] = m;
}
static void go_alone(struct run *r, unsigned i) {
    struct vb_mapping *m = r->mappings[i];

    vb_mapping_remove(&r->trees[r->items[i].space], m);
    vb_mapping_free(m);
}

static uint64_t cpu_now(void) {
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static double given_out(void) {
    struct mallinfo2 i = mallinfo2();

    return (double)i.uordblks + (double)i.hblkhd;
}

static struct figures measure(struct run *r, void (*come)(struct run *, unsigned), void (*go)(struct run *, unsigned)) {
    const uint64_t size = r->w->places * r->w->piece;
    struct figures f;
    uint64_t t;
    unsigned i;

    r->ledger = (struct vb_ledger){.lease = UINT64_MAX, .limit = UINT64_MAX, .tables_max = UINT64_MAX};
    if (vb_charge_init(&r->memory.charge, size))
        bench_die("no memory");
    f.bytes = given_out();
    t = cpu_now();
    for (i = 0; i < r->n; i++)
        come(r, i);
    f.come = (double)(cpu_now() - t) / r->n;
    f.bytes = (given_out() - f.bytes) / r->n;
    if (come == come_charged && r->ledger.used != (uint64_t)r->n / r->w->spaces * r->w->piece)
        bench_die("%llu bytes are charged", (unsigned long long)r->ledger.used);
    t = cpu_now();
    for (i = 0; i < r->n; i++)
        go(r, r->leave[i]);
    f.go = (double)(cpu_now() - t) / r->n;
    if (r->ledger.used || r->ledger.tables || r->memory.charge.mapped.n != 1)
        bench_die("something stays charged");
    vb_charge_fini(&r->memory.charge);
    return f;
}

static void run(struct bench *b, const struct workload *w, unsigned rounds, unsigned divide) {
    double come[2][ROUNDS_MAX], go[2][ROUNDS_MAX], bytes[2] = {0};
    struct figures f;
    struct run r;
    unsigned i;

    prepare(&r, w, divide);
    for (i = 0; i < rounds; i++) {
        f = measure(&r, come_charged, go_charged);
        come[0][i] = f.come, go[0][i] = f.go, bytes[0] = f.bytes;
        f = measure(&r, come_alone, go_alone);
        come[1][i] = f.come, go[1][i] = f.go, bytes[1] = f.bytes;
    }
    finish(&r);
    bench_case(b, bench_median(come[0], rounds), bench_median(come[1], rounds), "ns", "at most 1.5, below 1000 ns",
               "%s: charge", w->name);
    bench_case(b, bench_median(go[0], rounds), bench_median(go[1], rounds), "ns", "at most 1.5, below 1000 ns",
               "%s: uncharge", w->name);
    bench_case(b, bytes[0], bytes[1], "bytes", "below 100", "%s: a mapping", w->name);
}

int main(int argc, char **argv) {
    struct bench b;
    const char *given;
    unsigned rounds;

    bench_init(&b, "ledger", &argc, argv, "[--rounds=N]\n");
    given = bench_option(argc, argv, "rounds");
    rounds = b.smoke ? 1 : given ? (unsigned)atoi(given) : 5;
    if (rounds == 0 || rounds > ROUNDS_MAX)
        bench_die("rounds: 1 to %u", ROUNDS_MAX);
    for (unsigned i = 0; i < sizeof(workloads) / sizeof(*workloads); i++)
        run(&b, &workloads[i], rounds, b.smoke ? 256 : 1);
    return bench_end(&b);
}
