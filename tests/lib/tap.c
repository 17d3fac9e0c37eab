/* See tap.h. */
#include "tap.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CASE_SECONDS = 60, EXIT_SKIP = 77, REASON_MAX = 240 };

static unsigned planned, done, failed;
static char *reason; /* why a case skipped: shared between it and us */

static void vline(const char *head, const char *fmt, va_list ap) {
    char text[1024];

    vsnprintf(text, sizeof text, fmt, ap);
    /* A line break would end the TAP line: each further line becomes a diagnostic. */
    for (char *save = NULL, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        printf("%s%s\n", head, line);
        head = "# ";
    }
    fflush(stdout);
}

void tap_plan(unsigned n_tests) {
    planned = n_tests;
    printf("1..%u\n", n_tests);
    fflush(stdout);
}

bool tap_ok(bool ok, const char *fmt, ...) {
    char head[32];
    va_list ap;

    snprintf(head, sizeof head, "%s %u - ", ok ? "ok" : "not ok", ++done);
    failed += !ok;
    va_start(ap, fmt);
    vline(head, fmt, ap);
    va_end(ap);
    return ok;
}

void tap_skip(const char *why, const char *fmt, ...) {
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    printf("ok %u - %s # SKIP %s\n", ++done, text, why);
    fflush(stdout);
}

void tap_diag(const char *fmt, ...) {
    va_list ap;

    va_start(ap, fmt);
    vline("# ", fmt, ap);
    va_end(ap);
}

int tap_done(void) {
    if (done != planned)
        tap_diag("planned %u tests, ran %u", planned, done);
    return failed || done != planned;
}

void tap_case_fail(const char *file, int line, const char *cond, const char *fmt, ...) {
    va_list ap;

    printf("# %s:%d: %s\n", file, line, cond);
    va_start(ap, fmt);
    vline("#   ", fmt, ap);
    va_end(ap);
    _exit(EXIT_FAILURE); /* no leak check of what is left half done */
}

void tap_case_skip(const char *fmt, ...) {
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(reason, REASON_MAX, fmt, ap);
    va_end(ap);
    _exit(EXIT_SKIP);
}

static double now(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void run_one(const struct tap_case *c) {
    unsigned seconds = c->seconds ? c->seconds : CASE_SECONDS;
    double start = now();
    int status = 0;
    pid_t pid;

    fflush(NULL);
    reason[0] = '\0';
    pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(seconds);
        c->run();
        exit(EXIT_SUCCESS);
    }
    if (pid < 0) {
        tap_diag("fork: %s", strerror(errno));
        tap_ok(false, "%s", c->name);
        return;
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SKIP) {
        tap_skip(reason, "%s", c->name);
        return;
    }
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
        tap_diag("the time limit of %u s has passed", seconds);
    else if (WIFSIGNALED(status))
        tap_diag("killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status) > 1)
        tap_diag("exit status %d", WEXITSTATUS(status));
    tap_ok(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s (%.1f s)", c->name, now() - start);
}

int tap_run(const struct tap_case *cases, size_t n, const char *only) {
    unsigned selected = 0;

    reason = mmap(NULL, REASON_MAX, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (reason == MAP_FAILED) {
        printf("Bail out! mmap: %s\n", strerror(errno));
        return EXIT_FAILURE;
    }
    for (size_t i = 0; i < n; i++)
        selected += !only || strstr(cases[i].name, only);
    tap_plan(selected);
    for (size_t i = 0; i < n; i++)
        if (!only || strstr(cases[i].name, only))
            run_one(&cases[i]);
    munmap(reason, REASON_MAX);
    return tap_done();
}
