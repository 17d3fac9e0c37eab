/* Runs the hostile tests one after the other, prints TAP. */
#include "config.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hostile.h"

#define TEXT      512
#define SETTLE_MS 20000
#ifdef VB_SANITIZERS
#define RSS_SLACK_KIB (512 << 10) /* freed memory is kept back */
#else
#define RSS_SLACK_KIB (4 << 10)
#endif
#define PINS_SLACK 64 /* pages: the bystander's, and what the CPUs have not added yet */

struct world world;
static struct shared {
    char text[TEXT], notes[1024];
    struct bystander bystander;
    struct {
        volatile int done; /* 1: ended, -1: failed */
        uint64_t ms;
    } silent;
} * shared;
static char *fail_text;

void fail(const char *fmt, ...) {
    va_list ap;

    va_start(ap, fmt);
    if (!*fail_text)
        vsnprintf(fail_text, TEXT, fmt, ap);
    va_end(ap);
    if (fail_text == shared->bystander.text)
        shared->bystander.failed = 1;
    _exit(1);
}

void note(const char *fmt, ...) {
    size_t n = strlen(shared->notes);
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(shared->notes + n, sizeof shared->notes - n, fmt, ap);
    va_end(ap);
}

/* ---- a connection that says nothing: it waits while the other tests run ---- */

static void say_nothing(void *arg) {
    struct wire w;
    (void)arg;

    setsid();
    wire_connect(&w);
    uint64_t start = now_ms();
    int r;
    while ((r = wire_recv(&w, VB_HELLO_MS + 20000)) == 1)
        ;
    shared->silent.ms = now_ms() - start;
    shared->silent.done = r == 0 ? 1 : -1;
}

/* What it adds to the world, while it is there. */
static struct snapshot silent_part;

static void look(struct snapshot *s) {
    int before = shared->silent.done;

    world_look(s);
    if (!before) {
        s->fds -= silent_part.fds;
        s->sessions -= silent_part.sessions;
    }
}

/* Waits until the world is as it was: NULL, or what differs. */
static const char *settle(const struct snapshot *was) {
    static char text[256];
    uint64_t end = now_ms() + SETTLE_MS;

    for (;;) {
        struct snapshot is;

        look(&is);
        long pins = is.pins - was->pins;
        if (kill(world.daemon, 0) && errno == ESRCH)
            return "the daemon is gone";
        if (is.fds == was->fds && is.sessions == was->sessions && is.rss_kib <= was->rss_kib + RSS_SLACK_KIB &&
            labs(pins) <= PINS_SLACK)
            return NULL;
        snprintf(text, sizeof text,
                 "left over: daemon's fds %d -> %d, sessions %d -> %d, memory %ld -> %ld KiB, pins %+ld", was->fds,
                 is.fds, was->sessions, is.sessions, was->rss_kib, is.rss_kib, pins);
        if (now_ms() > end)
            return text;
        sleep_ms(50);
    }
}

static const char *bystander_well(void) {
    unsigned long rounds = shared->bystander.rounds;
    uint64_t end = now_ms() + 20000;

    while (shared->bystander.rounds < rounds + 2) {
        if (shared->bystander.failed)
            return shared->bystander.text;
        if (now_ms() > end)
            return "the bystander makes no progress";
        sleep_ms(10);
    }
    return NULL;
}

static unsigned number, failures;

static void report(const char *name, const char *problem, uint64_t ms) {
    number++;
    failures += problem != NULL;
    printf("%sok %u - %s\n", problem ? "not " : "", number, name);
    if (problem)
        printf("# %s\n", problem);
    for (char *p = strtok(shared->notes, "\n"); p; p = strtok(NULL, "\n"))
        printf("# %s\n", p);
    if (ms > 5000)
        printf("# took %ju ms\n", (uintmax_t)ms);
    fflush(stdout);
}

static void run(const struct hostile_test *t) {
    struct snapshot was;
    uint64_t start = now_ms();
    int status;

    shared->text[0] = shared->notes[0] = 0;
    look(&was);
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        alarm(t->seconds ? t->seconds : 60);
        if (!(t->flags & AS_ROOT))
            become(A);
        t->run();
        _exit(0);
    }
    setpgid(pid, pid);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    uint64_t ms = now_ms() - start;
    const char *problem = NULL;
    if (shared->text[0])
        problem = shared->text;
    else if (WIFSIGNALED(status))
        problem = WTERMSIG(status) == SIGALRM ? "the time limit has passed" : strsignal(WTERMSIG(status));
    else if (WEXITSTATUS(status))
        problem = "it failed without a word";
    kill(-pid, SIGKILL);
    while (waitpid(-pid, NULL, 0) > 0 || errno == EINTR)
        ;
    const char *left = settle(&was), *other = bystander_well();
    if (left && problem)
        note("%s\n", left);
    if (other && (problem || left))
        note("%s\n", other);
    report(t->name, problem ? problem : left ? left : other, ms);
}

static const struct hostile_test *const families[] = {packet_tests, memory_tests, fuse_tests,   linger_tests,
                                                      number_tests, life_tests,   device_tests, pin_tests};

static bool wanted(const struct hostile_test *t, const char *only) {
    if ((t->flags & NEEDS_UIDS && !world.uids) || (t->flags & ON_IOMMUFD && !world.iommufd) ||
        (t->flags & ON_KERNEL && !world.kernel) || (t->flags & ON_EMULATED && world.kernel))
        return false;
    return !only || strstr(t->name, only);
}

static unsigned for_all(const char *only, void (*fn)(const struct hostile_test *t)) {
    unsigned n = 0;

    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        for (const struct hostile_test *t = families[i]; t->name; t++)
            if (wanted(t, only)) {
                n++;
                if (fn)
                    fn(t);
            }
    return n;
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"socket", 1, NULL, 's'}, {"ctl", 1, NULL, 'c'},     {"daemon", 1, NULL, 'd'}, {"backend", 1, NULL, 'b'},
        {"uids", 1, NULL, 'u'},   {"devices", 1, NULL, 'D'}, {"disk", 1, NULL, 'f'},   {"fuse", 1, NULL, 'F'},
        {"only", 1, NULL, 'o'},   {NULL, 0, NULL, 0}};
    static char devices[3][VB_ADDRESS_MAX + 1];
    const char *only = NULL;

    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (o) {
        case 's':
            world.socket = optarg;
            break;
        case 'c':
            world.ctl = optarg;
            break;
        case 'd':
            world.daemon = atoi(optarg);
            break;
        case 'b':
            world.iommufd = strcmp(optarg, "iommufd") == 0;
            world.type1 = strncmp(optarg, "type1", 5) == 0;
            world.kernel = world.iommufd || world.type1;
            break;
        case 'u':
            world.uids = sscanf(optarg, "%u,%u,%u", &world.uid[A], &world.uid[B], &world.uid[NOBODY]) == 3;
            break;
        case 'D':
            if (sscanf(optarg, "%63[^,],%63[^,],%63[^,]", devices[0], devices[1], devices[2]) != 3)
                return 2;
            break;
        case 'f':
            world.disk_file = optarg;
            break;
        case 'F':
            world.fuse_dir = optarg;
            break;
        case 'o':
            only = optarg;
            break;
        default:
            return 2;
        }
    if (!world.socket || world.daemon <= 0 || !devices[2][0]) {
        fprintf(stderr, "run tests/system/hostile, which starts this program\n");
        return 2;
    }
    for (int i = 0; i < 3; i++)
        world.device[i] = devices[i];

    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return 2;
    bystander = &shared->bystander;
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);

    printf("TAP version 13\n");
    fail_text = shared->bystander.text;
    pid_t innocent = bystander_start();
    fail_text = shared->text;
    const char *problem = bystander_well();
    if (problem) {
        printf("Bail out! the bystander is not well even before the tests: %s\n", problem);
        kill_and_reap(innocent);
        return 1;
    }

    pid_t silent = 0;
    struct snapshot before, with;
    world_look(&before);
    if (!only) {
        silent = spawn(A, say_nothing, NULL);
        for (int i = 0; i < 500 && (world_look(&with), with.sessions == before.sessions); i++)
            sleep_ms(10);
        sleep_ms(500);
        world_look(&with);
        silent_part.fds = with.fds - before.fds;
        silent_part.sessions = with.sessions - before.sessions;
    }

    printf("1..%u\n", for_all(only, NULL) + (only ? 0 : 2));
    for_all(only, run);

    if (!only) {
        shared->notes[0] = shared->text[0] = 0;
        while (waitpid(silent, NULL, 0) < 0 && errno == EINTR)
            ;
        note("it was there for %ju ms\n", (uintmax_t)shared->silent.ms);
        report("a connection that never says Hello ends after VB_HELLO_MS",
               shared->silent.done != 1                 ? "it was not ended"
               : shared->silent.ms < VB_HELLO_MS - 500  ? "it was ended too early"
               : shared->silent.ms > VB_HELLO_MS + 5000 ? "it was ended too late"
               : silent_part.sessions > 1               ? "it had more than one process"
                                                        : NULL,
               0);
        shared->notes[0] = 0;
        note("%lu rounds, the slowest %lu ms\n", shared->bystander.rounds, shared->bystander.worst_ms);
        report("the bystander has noticed nothing, and all is as before the tests", settle(&before), 0);
    }
    kill_and_reap(innocent);
    return failures != 0;
}
