/* What a session costs: from connect() to Hello's reply, and the private memory of one that idles, alone and with 1,000
 * of them at once.
 *
 * Baselines: for the time, fork + exec + exit of a program that does nothing (/bin/true), and of the broker's own binary
 * with --version, which has the same libraries to load; for memory, an idle `sleep`.
 * Private memory is Private_Clean + Private_Dirty of /proc/PID/smaps_rollup, which root may read of a session. For anybody
 * else it is resident minus shared pages of /proc/PID/statm, which leaves out private pages of files. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/bench/bench.h"

#define MANY_MAX 4000u

extern char **environ;

static const char usage[] = "[--broker=PATH] [--sessions=N]\n"
                            "  --broker     vfio-brokerd, to be run with --version as a baseline\n"
                            "  --sessions   at once (1000); policy must grant them\n"
                            "The broker is the one behind $VFIO_BROKER_SOCKET.\n";

static pid_t spawn(const char *const argv[]) {
    posix_spawn_file_actions_t quiet;
    pid_t pid;
    int r;

    posix_spawn_file_actions_init(&quiet);
    posix_spawn_file_actions_addopen(&quiet, 1, "/dev/null", O_WRONLY, 0);
    r = posix_spawn(&pid, argv[0], &quiet, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&quiet);
    if (r)
        bench_die("%s: %s", argv[0], strerror(r));
    return pid;
}

static void run(void *arg, unsigned count) {
    while (count--) {
        int status;
        pid_t pid = spawn(arg);

        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        if (status)
            bench_die("%s failed", ((const char *const *)arg)[0]);
    }
}

struct turn {
    struct bench *bench;
    const char *const *argv; /* of the baseline */
};

static void ours_connect(void *arg, unsigned count) {
    struct turn *t = arg;

    while (count--) {
        struct vfb_client *c = bench_connect("bench session");
        uint64_t start = bench_now();

        vfb_client_free(c);
        usleep(10000); /* the session ends in its own time, not in the next one's */
        t->bench->excluded += bench_now() - start;
    }
}

static void baseline_run(void *arg, unsigned count) {
    struct turn *t = arg;

    run((void *)t->argv, count);
}

/* KiB; below 0: the process is gone. */
static double private_memory(pid_t pid) {
    char path[64], line[256];
    unsigned long kib, resident, shared;
    double sum = 0;
    bool found = false;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
    f = fopen(path, "re");
    if (f) {
        while (fgets(line, sizeof(line), f))
            if (sscanf(line, "Private_Clean: %lu", &kib) == 1 || sscanf(line, "Private_Dirty: %lu", &kib) == 1) {
                sum += (double)kib;
                found = true;
            }
        fclose(f);
        if (found)
            return sum;
    }
    snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
    f = fopen(path, "re");
    if (!f)
        return -1;
    found = fscanf(f, "%*u %lu %lu", &resident, &shared) == 2;
    fclose(f);
    return found ? (double)(resident - shared) * (double)sysconf(_SC_PAGESIZE) / 1024 : -1;
}

static double median_memory(const pid_t *pids, size_t n) {
    static double values[MANY_MAX];
    size_t m = 0;

    for (size_t i = 0; i < n && m < MANY_MAX; i++) {
        double v = private_memory(pids[i]);

        if (v >= 0)
            values[m++] = v;
    }
    if (m == 0)
        bench_die("no session process to look at");
    return bench_median(values, m);
}

static double available(void) { /* KiB */
    char line[256];
    unsigned long kib = 0;
    FILE *f = fopen("/proc/meminfo", "re");

    if (!f)
        bench_die("/proc/meminfo: %s", strerror(errno));
    while (fgets(line, sizeof(line), f) && sscanf(line, "MemAvailable: %lu", &kib) != 1)
        ;
    fclose(f);
    return (double)kib;
}

static void wait_for_children(pid_t broker, size_t n, pid_t *pids) {
    for (unsigned i = 0; bench_children(broker, pids, MANY_MAX) != n; i++) {
        if (i == 3000)
            bench_die("the broker has %zu processes 30 s later, not %zu", bench_children(broker, pids, MANY_MAX), n);
        usleep(10000);
    }
}

static void many(struct bench *b, unsigned n, double idle_baseline) {
    static struct vfb_client *clients[MANY_MAX];
    static pid_t pids[MANY_MAX];
    static const char *const trivial[] = {"/bin/true", NULL};
    struct rlimit files;
    double ours, before, after;
    uint64_t t;
    pid_t broker;
    size_t children;

    getrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur < n + 64) {
        files.rlim_cur = n + 64 < files.rlim_max ? n + 64 : files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    clients[0] = bench_connect("bench sessions");
    broker = bench_daemon(clients[0]);
    wait_for_children(broker, 1, pids);
    before = available();
    t = bench_now();
    for (unsigned i = 1; i < n; i++)
        clients[i] = bench_connect("bench sessions");
    ours = (double)(bench_now() - t) / (n - 1);
    for (unsigned i = 0; i < n; i++) {
        struct vfb_usage usage_row;

        bench_check(clients[i], vfb_usage(clients[i], &usage_row), "vfb_usage");
    }
    after = available();
    children = bench_children(broker, pids, MANY_MAX);
    if (children != n)
        bench_die("%zu session processes for %u connections", children, n);
    t = bench_now();
    run((void *)trivial, n - 1);
    bench_case(b, ours / 1e6, (double)(bench_now() - t) / (n - 1) / 1e6, "ms", "5 ms",
               "%u at once: connect, against /bin/true", n);
    bench_case(b, median_memory(pids, children), idle_baseline, "KiB", "1 MiB", "%u at once: private memory of one", n);
    bench_case(b, (before - after) / (n - 1), idle_baseline, "KiB", NULL, "%u at once: MemAvailable less for each", n);
    for (unsigned i = 0; i < n; i++)
        vfb_client_free(clients[i]);
    wait_for_children(broker, 0, pids);
}

int main(int argc, char **argv) {
    static const char *const sleeper_argv[] = {"/bin/sleep", "1000", NULL};
    static const char *const trivial[] = {"/bin/true", NULL};
    static pid_t pids[MANY_MAX];
    const char *broker, *sessions;
    struct bench bench;
    struct turn turn = {.bench = &bench};
    struct vfb_client *c;
    struct bench_pair p;
    double idle_baseline;
    unsigned n = 1000;
    pid_t sleeper;

    bench_init(&bench, "session", &argc, argv, usage);
    broker = bench_option(argc, argv, "broker");
    sessions = bench_option(argc, argv, "sessions");
    if (bench.smoke)
        n = 20;
    if (sessions)
        n = (unsigned)atoi(sessions);
    if (n < 2 || n > MANY_MAX)
        bench_die("--sessions: 2 to %u", MANY_MAX);

    turn.argv = trivial;
    p = bench_turns(&bench, ours_connect, baseline_run, &turn, 41, 5);
    bench_case(&bench, p.ours / 1e6, p.baseline / 1e6, "ms", "5 ms", "connect to Hello, against /bin/true");
    if (broker) {
        const char *const version[] = {broker, "--version", NULL};

        turn.argv = version;
        p = bench_turns(&bench, ours_connect, baseline_run, &turn, 41, 5);
        bench_case(&bench, p.ours / 1e6, p.baseline / 1e6, "ms", "5 ms",
                   "connect to Hello, against vfio-brokerd --version");
    }

    sleeper = spawn(sleeper_argv);
    c = bench_connect("bench session");
    wait_for_children(bench_daemon(c), 1, pids);
    usleep(200000);
    idle_baseline = private_memory(sleeper);
    bench_case(&bench, median_memory(pids, 1), idle_baseline, "KiB", "1 MiB",
               "idle session: private memory, against sleep");
    kill(sleeper, SIGKILL);
    waitpid(sleeper, NULL, 0);
    turn.argv = NULL;
    {
        pid_t daemon = bench_daemon(c);

        vfb_client_free(c);
        wait_for_children(daemon, 0, pids);
    }
    many(&bench, n, idle_baseline);
    return bench_end(&bench);
}
