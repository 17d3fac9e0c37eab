/* What the programs of tests/bench share: options, clocks, medians, and the table or JSON object at the end.
 *
 * A case compares one figure of ours with one of a baseline that is measured in the same run, in turns with ours, so
 * that a busy machine disturbs both alike. Figures never fail anything: a bench fails only when something does not work. */
#ifndef VB_BENCH_H
#define VB_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "client/vfio-broker.h"

struct bench {
    const char *name;
    bool json, smoke;  /* smoke: just enough to see that everything works */
    char machine[64];  /* what it ran on, where that matters: told with the figures */
    uint64_t excluded; /* nanoseconds that a measured function spent on what is not to be measured */
    size_t n;
    struct bench_case {
        char name[64];
        double ours, baseline;
        const char *unit;
        char note[64]; /* the aim, in the table only */
    } cases[64];
};

/* Takes --json, --smoke and --help out of argv; what is left is the program's own. `usage` is its --help. */
void bench_init(struct bench *b, const char *name, int *argc, char **argv, const char *usage);
/* "--NAME=VALUE" among the arguments that are left, or NULL. */
const char *bench_option(int argc, char **argv, const char *name);
void bench_case(struct bench *b, double ours, double baseline, const char *unit, const char *note, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));
/* Prints; returns the exit status. */
int bench_end(struct bench *b);

uint64_t bench_now(void); /* nanoseconds, monotonic */
/* Median of n > 0 values; sorts them. */
double bench_median(double *values, size_t n);

/* Ends the program with a sentence. */
void bench_die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
/* Ends the program unless a libvfio-broker call returned 0. */
void bench_check(struct vfb_client *c, int result, const char *what);
/* A connected client; waits up to 10 s for a broker that has just been started. */
struct vfb_client *bench_connect(const char *name);
/* A populated memfd. */
int bench_memfd(uint64_t size);
/* The process that listens behind this client's socket: the sessions are its children. */
pid_t bench_daemon(struct vfb_client *c);
/* The processes whose parent is `parent`; at most `max`. */
size_t bench_children(pid_t parent, pid_t *pids, size_t max);

/* Each of the two measured in turns: `ours` and `baseline` do `count` of it. Returns medians in nanoseconds for one. */
struct bench_pair {
    double ours, baseline;
};
struct bench_pair bench_turns(struct bench *b, void (*ours)(void *arg, unsigned count),
                              void (*baseline)(void *arg, unsigned count), void *arg, unsigned rounds, unsigned count);

#endif
