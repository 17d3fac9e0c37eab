/* What the ledger costs: mappings that are charged (core/charge.c: extents; core/tables.c; core/ledger.c: reserve and
 * release) against the same mappings in the same interval tree alone (core/mapping.c: allocate and insert; find, remove and
 * free).
 *
 * Both arms take turns in each round, in one process; figures are medians of the rounds, in nanoseconds of processor time
 * for one mapping, as others may share the machine. Mappings come in one random order and go in another, found by their
 * IOVA as an unmap does, unless the case says "in order"; which offset an IOVA shows is random too. Bytes are what malloc
 * has given out for one mapping (mallinfo2: uordblks and hblkhd, so its own headers are in), with all mappings there, less
 * what was given out before the first. The lease is larger than all of it: what asking the daemon for more costs is
 * another matter. */
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

struct item {
    uint64_t iova, offset;
    unsigned space;
};

struct run {
    const struct workload *w;
    unsigned n;            /* mappings */
    struct item *in, *out; /* all of them, in the order in which they come, and go */
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
    unsigned i, k, s, *in, *out, *offsets;

    *r = (struct run){.w = w, .n = pieces * w->spaces};
    r->memory.page_size = 4096;
    r->in = need(malloc(r->n * sizeof(*r->in)));
    r->out = need(malloc(r->n * sizeof(*r->out)));
    in = shuffled(r->n);
    out = shuffled(r->n);
    for (s = 0; s < w->spaces; s++) {
        offsets = shuffled(pieces);
        for (i = 0; i < pieces; i++) {
            /* One place of each stride: no two are neighbours when that is large. */
            const struct item t = {.iova = (1ull << 40) + i * (uint64_t)stride * w->piece,
                                   .offset = (uint64_t)(w->in_order ? i : offsets[i]) * stride * w->piece,
                                   .space = s};

            k = s * pieces + i;
            r->in[w->in_order ? k : in[k]] = t;
            r->out[w->in_order ? k : out[k]] = t;
        }
        free(offsets);
    }
    free(in);
    free(out);
}

static void finish(struct run *r) {
    free(r->in);
    free(r->out);
}

static struct vb_mapping *new_mapping(struct run *r, const struct item *t) {
    struct vb_mapping *m = need(vb_mapping_new(&r->trees[t->space]));

    m->iova = (struct vb_range){t->iova, t->iova + r->w->piece - 1};
    m->offset = t->offset;
    m->memory = &r->memory;
    return m;
}

static struct vb_mapping *find(struct run *r, const struct item *t) {
    struct vb_mapping *m = vb_mapping_first(&r->trees[t->space], (struct vb_range){t->iova, t->iova});

    if (!m || m->offset != t->offset)
        bench_die("a mapping is lost");
    return m;
}

static void charge(struct run *r, const struct item *t) {
    struct vb_cost c;

    if (vb_mapping_charge(&r->trees[t->space], new_mapping(r, t), &c) || vb_ledger_reserve(&r->ledger, c, NULL))
        bench_die("a mapping is refused");
}
static void uncharge(struct run *r, const struct item *t) {
    struct vb_mapping *m = find(r, t);

    vb_ledger_release(&r->ledger, vb_mapping_uncharge(&r->trees[t->space], m));
    vb_mapping_free(m);
}

static void insert(struct run *r, const struct item *t) {
    if (vb_mapping_insert(&r->trees[t->space], new_mapping(r, t)))
        bench_die("a mapping is refused");
}
static void remove_alone(struct run *r, const struct item *t) {
    struct vb_mapping *m = find(r, t);

    vb_mapping_remove(&r->trees[t->space], m);
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

static struct figures measure(struct run *r, void (*come)(struct run *, const struct item *),
                              void (*go)(struct run *, const struct item *)) {
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
        come(r, &r->in[i]);
    f.come = (double)(cpu_now() - t) / r->n;
    f.bytes = (given_out() - f.bytes) / r->n;
    if (come == charge && r->ledger.used != (uint64_t)r->n / r->w->spaces * r->w->piece)
        bench_die("%llu bytes are charged", (unsigned long long)r->ledger.used);
    t = cpu_now();
    for (i = 0; i < r->n; i++)
        go(r, &r->out[i]);
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
        f = measure(&r, charge, uncharge);
        come[0][i] = f.come, go[0][i] = f.go, bytes[0] = f.bytes;
        f = measure(&r, insert, remove_alone);
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
