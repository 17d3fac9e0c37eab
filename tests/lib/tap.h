/* A tiny writer of TAP (the Test Anything Protocol), and a runner of tables of test cases.
 *
 * Every test program prints TAP on stdout: a plan, then one "ok" or "not ok" line for each test, with "# " lines in
 * between that tell more. tap-driver.sh, prove and tests/check read it.
 *
 * A case of tap_run() runs in a child process of its own, with a time limit: what it opens, claims, limits or breaks is
 * gone with it, and a crash fails one test only. Inside a case tap_check() ends the case at the first thing that is
 * wrong, so that no case has to carry on with half of what it needs. */
#ifndef VB_TESTS_TAP_H
#define VB_TESTS_TAP_H

#include <stdbool.h>
#include <stddef.h>

void tap_plan(unsigned n_tests);
/* One test line; returns ok. */
bool tap_ok(bool ok, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void tap_skip(const char *reason, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void tap_diag(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Exit status of the program: 0 when the plan was kept and nothing failed. */
int tap_done(void);

struct tap_case {
    const char *name;
    void (*run)(void);
    unsigned seconds; /* time limit; 0: 60 */
};
/* Runs the cases whose name contains `only` (NULL: all), with a plan. Returns the exit status. */
int tap_run(const struct tap_case *cases, size_t n, const char *only);

/* Only inside a case, in its own process. They end it, unless the check holds. */
#define tap_check(cond, ...)                                                                                           \
    do {                                                                                                               \
        if (!(cond))                                                                                                   \
            tap_case_fail(__FILE__, __LINE__, #cond, __VA_ARGS__);                                                     \
    } while (0)
void tap_case_fail(const char *file, int line, const char *cond, const char *fmt, ...)
    __attribute__((noreturn, format(printf, 4, 5)));
void tap_case_skip(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

#endif
