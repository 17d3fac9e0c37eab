#include "tests/unit/interleave.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

/* ---- hashes: two of FNV-1a with different beginnings, mixed; 128 bits, so that no two states are taken for one ---- */

void hash_init(struct hash *h) {
    *h = (struct hash){0xcbf29ce484222325u, 0x9ae16a3b2f90404fu};
}

void hash_add(struct hash *h, const void *data, size_t size) {
    const uint8_t *p = data;

    for (size_t i = 0; i < size; i++) {
        h->a = (h->a ^ p[i]) * 0x100000001b3u;
        h->b = (h->b ^ p[i]) * 0xc6a4a7935bd1e995u;
        h->b ^= h->b >> 47;
    }
}

/* ---- states that were gone into ---- */

struct known {
    struct hash key; /* a 0: free */
    double ways;
};

static struct known *table;
static size_t n_known, room;

static struct known *slot(struct known *t, size_t n, struct hash k) {
    size_t i = k.b & (n - 1);

    while (t[i].key.a != 0 && (t[i].key.a != k.a || t[i].key.b != k.b))
        i = (i + 1) & (n - 1);
    return &t[i];
}

static void remember(struct hash k, double ways) {
    if (2 * n_known >= room) {
        size_t more = room ? 2 * room : 1 << 16;
        struct known *t = calloc(more, sizeof *t);

        assert(t);
        for (size_t i = 0; i < room; i++)
            if (table[i].key.a)
                *slot(t, more, table[i].key) = table[i];
        free(table);
        table = t;
        room = more;
    }
    *slot(table, room, k) = (struct known){k, ways};
    n_known++;
}

static void forget(void) {
    free(table);
    table = NULL;
    n_known = room = 0;
}

/* ---- choices ---- */

#define STEPS_MAX 4096

struct choice {
    unsigned taken, of;
    struct hash state;
    double ways; /* of the choices before `taken` */
};

static struct choice path[STEPS_MAX];

/* One run: repeats `fixed` steps and goes on. Returns how many ways lead on from where it stopped (1: it came to its end),
 * or -1: something is wrong. */
static double run(const struct model *m, unsigned fixed, bool known, unsigned *ret_depth) {
    unsigned depth = 0, n;

    m->reset();
    while ((n = m->enabled()) > 0) {
        struct choice *c = &path[depth];

        assert(depth < STEPS_MAX);
        if (depth >= fixed) {
            *c = (struct choice){.of = n};
            if (known && n > 1) {
                hash_init(&c->state);
                m->state(&c->state);
                c->state.a |= 1;
                struct known *k = room ? slot(table, room, c->state) : NULL;
                if (k && k->key.a) {
                    *ret_depth = depth;
                    return k->ways;
                }
            }
        }
        assert(c->of == n); /* the model does the same again */
        *ret_depth = ++depth;
        if (!m->step(c->taken))
            return -1;
    }
    *ret_depth = depth;
    return m->end() ? 1 : -1;
}

struct explored explore(const struct model *m, bool known) {
    struct explored x = {.ok = true};
    unsigned fixed = 0, depth = 0;

    forget();
    for (;;) {
        double ways = run(m, fixed, known, &depth);

        x.runs++;
        if (depth > x.longest)
            x.longest = depth;
        if (ways < 0) {
            x.ok = false;
            break;
        }
        while (depth > 0) {
            struct choice *c = &path[depth - 1];

            c->ways += ways;
            if (++c->taken < c->of)
                break;
            ways = c->ways;
            if (known && c->of > 1)
                remember(c->state, ways);
            depth--;
        }
        if (depth == 0) {
            x.interleavings = ways;
            break;
        }
        fixed = depth;
    }
    x.states = n_known;
    forget();
    return x;
}

/* ---- coroutines ---- */

#define STACK 65536

struct co {
    ucontext_t own, caller;
    void (*fn)(void *arg);
    void *arg;
    bool ended;
    char stack[STACK];
};

static struct co *running;

struct co *co_new(void) {
    struct co *c = calloc(1, sizeof *c);

    assert(c);
    c->ended = true;
    return c;
}

void co_free(struct co *c) {
    free(c);
}

static void enter(void) {
    running->fn(running->arg);
    running->ended = true;
    co_pause();
}

void co_start(struct co *c, void (*fn)(void *arg), void *arg) {
    c->fn = fn;
    c->arg = arg;
    c->ended = false;
    getcontext(&c->own);
    c->own.uc_stack.ss_sp = c->stack;
    c->own.uc_stack.ss_size = sizeof c->stack;
    c->own.uc_link = NULL;
    makecontext(&c->own, enter, 0);
}

void co_stop(struct co *c) {
    c->ended = true;
}

void co_run(struct co *c) {
    running = c;
    swapcontext(&c->caller, &c->own);
    running = NULL;
}

bool co_ended(const struct co *c) {
    return c->ended;
}

void co_pause(void) {
    struct co *c = running;

    swapcontext(&c->own, &c->caller);
}
