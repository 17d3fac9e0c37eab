/* Enumerates interleavings: a model of several actors is run again and again, each time with another sequence of choices of who
 * takes the next step, depth first, until none is left.
 *
 * States that were seen before are not gone into again: the model says in a hash of its whole state, including what its actors
 * remember, when two are the same. The number of interleavings is that of all ways through, those of known states counted. */
#ifndef VB_TESTS_INTERLEAVE_H
#define VB_TESTS_INTERLEAVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hash {
    uint64_t a, b;
};
void hash_init(struct hash *h);
void hash_add(struct hash *h, const void *data, size_t size);

struct model {
    void (*reset)(void);
    /* How many can take the next step. */
    unsigned (*enabled)(void);
    /* The n-th of them takes it. False: something is wrong. */
    bool (*step)(unsigned n);
    /* Nobody can take a step any more. False: that is wrong. */
    bool (*end)(void);
    void (*state)(struct hash *h);
};

struct explored {
    bool ok;
    double interleavings;
    uint64_t runs, states;
    unsigned longest; /* steps */
};
/* known: states seen before are not gone into again. Stops at the first thing that is wrong. */
struct explored explore(const struct model *m, bool known);

/* ---- coroutines, for actors that stop in the middle ---- */
struct co;
struct co *co_new(void);
void co_free(struct co *c);
/* Whatever it was doing, it will not go on. */
void co_stop(struct co *c);
/* Begins anew. */
void co_start(struct co *c, void (*fn)(void *arg), void *arg);
/* Runs it until it pauses or ends. */
void co_run(struct co *c);
bool co_ended(const struct co *c);
/* Within one: gives control back to co_run(). */
void co_pause(void);

#endif
