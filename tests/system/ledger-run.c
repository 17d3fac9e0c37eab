/* The randomised run of the ledger: see ledger-run.h. Run by tests/system/ledger, which starts the broker. TAP on stdout. */
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ledger-run.h"
#include "tests/lib/tap.h"

static void become(struct user *u) {
    const uid_t uid = u->options->first_uid + u->number;

    if (!u->options->first_uid)
        return;
    if (setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        mismatch(u, "user %u: %s", (unsigned)uid, strerror(errno));
}

static pid_t start(const struct options *options, struct board *board, unsigned number) {
    struct user *u;
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    u = calloc(1, sizeof *u);
    if (!u)
        _exit(1);
    u->options = options;
    u->board = board;
    u->number = number;
    u->doing = "start";
    become(u);
    client_main(u);
    _exit(0);
}

/* The first that fails ends the others: they would wait for it. */
static bool all_well(pid_t *pids, uint64_t n) {
    bool ok = true;
    int status;
    pid_t pid;

    while ((pid = wait(&status)) > 0) {
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
            continue;
        if (ok && WIFSIGNALED(status))
            tap_diag("client %d ended by signal %d", (int)pid, WTERMSIG(status));
        ok = false;
        for (uint64_t i = 0; i < n; i++)
            if (pids[i] != pid)
                kill(pids[i], SIGKILL);
    }
    return ok;
}

static void print_mix(const struct options *options, const struct board *board, uint64_t sums[128]) {
    uint64_t done = 0, refused = 0, comparisons = 0, either = 0, mappings = 0, paid = 0, pinned = 0;

    tap_diag("%-18s %10s %10s %22s", "operation", "attempted", "succeeded", "refused as predicted");
    for (unsigned i = 0; i < n_operations; i++) {
        struct tally t = {0};

        for (uint64_t c = 0; c < options->clients; c++) {
            t.done += board->tally[c][i].done;
            t.refused += board->tally[c][i].refused;
        }
        tap_diag("%-18s %10" PRIu64 " %10" PRIu64 " %22" PRIu64, operations[i].name, t.done + t.refused, t.done,
                 t.refused);
        done += t.done;
        refused += t.refused;
        sums[(unsigned char)operations[i].kind] += t.done;
    }
    for (uint64_t c = 0; c < options->clients; c++) {
        comparisons += board->comparisons[c];
        either += board->either[c];
        mappings += board->mappings[c];
        paid += board->paid[c];
        pinned += board->pinned[c];
    }
    sums[0] = done + refused;
    tap_diag("%-18s %10" PRIu64 " %10" PRIu64 " %22" PRIu64, "all", done + refused, done, refused);
    for (int code = 1; code < CODES; code++) {
        uint64_t sum = 0;

        for (uint64_t c = 0; c < options->clients; c++)
            sum += board->refused[c][code];
        if (sum)
            tap_diag("refused by %s: %" PRIu64, vfb_code_name(code), sum);
        sums['0' + code] = sum;
    }
    tap_diag("%" PRIu64 " comparisons of ledger, VmPin and VmLck; on average %" PRIu64 " mappings, %" PRIu64
             " pages paid, %" PRIu64 " pinned",
             comparisons, mappings / (comparisons + !comparisons), paid / (comparisons + !comparisons),
             pinned / (comparisons + !comparisons));
    if (either)
        tap_diag("%" PRIu64 " refusals above a lowered limit depended on when idle lease went back", either);
}

static void parse(struct options *o, int argc, char **argv) {
    static const struct option long_options[] = {{"operations", required_argument, NULL, 'o'},
                                                 {"rounds", required_argument, NULL, 'r'},
                                                 {"clients", required_argument, NULL, 'c'},
                                                 {"seed", required_argument, NULL, 's'},
                                                 {"page-size", required_argument, NULL, 'p'},
                                                 {"ctl", required_argument, NULL, 't'},
                                                 {"device", required_argument, NULL, 'd'},
                                                 {"first-uid", required_argument, NULL, 'u'},
                                                 {"memlock", required_argument, NULL, 'm'},
                                                 {"no-locks", no_argument, NULL, 'n'},
                                                 {NULL, 0, NULL, 0}};
    int c;

    while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        const uint64_t n = optarg ? strtoull(optarg, NULL, 0) : 0;

        switch (c) {
        case 'o':
            o->operations = n;
            break;
        case 'r':
            o->rounds = n;
            break;
        case 'c':
            o->clients = n;
            break;
        case 's':
            o->seed = n;
            break;
        case 'm':
            o->memlock = n;
            break;
        case 'u':
            o->first_uid = (uid_t)n;
            break;
        case 'n':
            o->no_locks = true;
            break;
        case 'p':
            o->page_size = optarg;
            break;
        case 't':
            o->ctl = optarg;
            break;
        case 'd':
            if (o->n_devices < O_DEVICES)
                o->devices[o->n_devices++] = optarg;
            break;
        default:
            exit(2);
        }
    }
    if (!o->clients || o->clients > CLIENTS_MAX || !o->rounds || !o->ctl) {
        fprintf(stderr, "ledger-run: run by tests/system/ledger\n");
        exit(2);
    }
}

static double now(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
    struct options o = {
        .operations = 100000, .rounds = 10, .clients = 4, .seed = 1, .page_size = "4k", .memlock = 64 << 20};
    uint64_t sums[128] = {0};
    pthread_barrierattr_t attr;
    pid_t pids[CLIENTS_MAX];
    struct board *board;
    double began = now();
    bool ok;

    parse(&o, argc, argv);
    board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED || pthread_barrierattr_init(&attr) != 0 ||
        pthread_barrierattr_setpshared(&attr, PTHREAD_PROCESS_SHARED) != 0 ||
        pthread_barrier_init(&board->barrier, &attr, (unsigned)o.clients) != 0)
        return 1;
    tap_plan(2);
    tap_diag("seed %" PRIu64 ", %" PRIu64 " clients, %" PRIu64 " operations in %" PRIu64
             " rounds, pages of %s, %u devices",
             o.seed, o.clients, o.operations, o.rounds, o.page_size, o.n_devices);
    for (unsigned i = 0; i < o.clients; i++)
        pids[i] = start(&o, board, i);
    ok = all_well(pids, o.clients);
    print_mix(&o, board, sums);
    tap_ok(ok && sums[0] >= o.operations / o.clients * o.clients,
           "pages of %s: %" PRIu64 " operations, each answer and each count as predicted, and all 0 at the end; %.1f s",
           o.page_size, sums[0], now() - began);
    tap_ok(sums['d'] * 50 >= sums[0] && sums['p'] * 200 >= sums[0] && sums['t'] * 400 >= sums[0] &&
               sums['0' + VFB_LIMIT] * 400 >= sums[0],
           "%" PRIu64 " attached or detached (1 in 50 at least), %" PRIu64 " punched (1 in 200), %" PRIu64
           " truncated (1 in 400), %" PRIu64 " refused at a limit (1 in 400)",
           sums['d'], sums['p'], sums['t'], sums['0' + VFB_LIMIT]);
    return tap_done();
}
