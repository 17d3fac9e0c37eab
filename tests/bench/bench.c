#include "tests/bench/bench.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS_MAX 64

void bench_die(const char *fmt, ...) {
    va_list ap;

    fflush(stdout);
    fprintf(stderr, "bench: ");
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\n");
    exit(1);
}

void bench_init(struct bench *b, const char *name, int *argc, char **argv, const char *usage) {
    int kept = 1;

    *b = (struct bench){.name = name};
    for (int i = 1; i < *argc; i++) {
        if (!strcmp(argv[i], "--json"))
            b->json = true;
        else if (!strcmp(argv[i], "--smoke"))
            b->smoke = true;
        else if (!strcmp(argv[i], "--help")) {
            printf("usage: %s [--json] [--smoke] %s", name, usage);
            exit(0);
        } else
            argv[kept++] = argv[i];
    }
    argv[kept] = NULL;
    *argc = kept;
}

const char *bench_option(int argc, char **argv, const char *name) {
    size_t n = strlen(name);

    for (int i = 1; i < argc; i++)
        if (!strncmp(argv[i], "--", 2) && !strncmp(argv[i] + 2, name, n) && argv[i][2 + n] == '=')
            return argv[i] + 2 + n + 1;
    return NULL;
}

void bench_case(struct bench *b, double ours, double baseline, const char *unit, const char *note, const char *fmt,
                ...) {
    struct bench_case *c = &b->cases[b->n];
    va_list ap;

    if (b->n == sizeof(b->cases) / sizeof(b->cases[0]))
        bench_die("too many cases");
    b->n++;
    c->ours = ours;
    c->baseline = baseline;
    c->unit = unit;
    snprintf(c->note, sizeof(c->note), "%s", note ? note : "");
    va_start(ap, fmt);
    vsnprintf(c->name, sizeof(c->name), fmt, ap);
    va_end(ap);
}

static double ratio(const struct bench_case *c) {
    return c->baseline > 0 ? c->ours / c->baseline : 0;
}

/* Names, units and notes are our own text and need no escaping. */
int bench_end(struct bench *b) {
    if (b->json) {
        printf("{\"bench\": \"%s\", ", b->name);
        if (b->machine[0])
            printf("\"machine\": \"%s\", ", b->machine);
        printf("\"cases\": [");
        for (size_t i = 0; i < b->n; i++) {
            const struct bench_case *c = &b->cases[i];
            printf("%s{\"case\": \"%s\", \"ours\": %.6g, \"baseline\": %.6g, \"unit\": \"%s\", \"ratio\": %.4g}",
                   i ? ", " : "", c->name, c->ours, c->baseline, c->unit, ratio(c));
        }
        printf("]}\n");
    } else {
        if (b->machine[0])
            printf("%s\n", b->machine);
        printf("%-44s %12s %12s %-11s %6s  %s\n", b->name, "ours", "baseline", "unit", "ratio", "aim");
        for (size_t i = 0; i < b->n; i++) {
            const struct bench_case *c = &b->cases[i];
            int digits = c->ours < 10000 ? 2 : 0;
            printf("%-44s %12.*f %12.*f %-11s %6.2f  %s\n", c->name, digits, c->ours, digits, c->baseline, c->unit,
                   ratio(c), c->note);
        }
    }
    return fflush(stdout) ? 1 : 0;
}

uint64_t bench_now(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, size_t n) {
    qsort(values, n, sizeof(*values), compare);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

void bench_check(struct vfb_client *c, int result, const char *what) {
    if (result != 0)
        bench_die("%s: %s: %s", what, vfb_code_name(result), vfb_error(c)->text);
}

struct vfb_client *bench_connect(const char *name) {
    uint64_t end = bench_now() + 10000000000u;
    struct vfb_client *c;
    int r;

    for (;;) {
        r = vfb_client_new(&c);
        if (r)
            bench_die("vfb_client_new: %s", vfb_code_name(r));
        r = vfb_connect(c, NULL, name);
        if (r == 0)
            return c;
        if ((r != -ENOENT && r != -ECONNREFUSED) || bench_now() > end)
            bench_check(c, r, "vfb_connect");
        vfb_client_free(c);
        usleep(20000);
    }
}

int bench_memfd(uint64_t size) {
    int fd = memfd_create("bench", MFD_CLOEXEC);
    void *p;

    if (fd < 0 || ftruncate(fd, (off_t)size))
        bench_die("memfd of %llu bytes: %s", (unsigned long long)size, strerror(errno));
    p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (p == MAP_FAILED)
        bench_die("mmap: %s", strerror(errno));
    memset(p, 0x5a, size);
    munmap(p, size);
    return fd;
}

pid_t bench_daemon(struct vfb_client *c) {
    struct ucred peer;
    socklen_t size = sizeof(peer);

    if (getsockopt(vfb_fd(c), SOL_SOCKET, SO_PEERCRED, &peer, &size))
        bench_die("SO_PEERCRED: %s", strerror(errno));
    return peer.pid;
}

size_t bench_children(pid_t parent, pid_t *pids, size_t max) {
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    size_t n = 0;

    if (!proc)
        bench_die("/proc: %s", strerror(errno));
    while (n < max && (entry = readdir(proc))) {
        char path[300], line[512], *end;
        FILE *f;
        int ppid;

        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        snprintf(path, sizeof(path), "/proc/%s/stat", entry->d_name);
        f = fopen(path, "re");
        if (!f)
            continue;
        end = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
        fclose(f);
        if (end && sscanf(end + 1, " %*c %d", &ppid) == 1 && ppid == parent)
            pids[n++] = (pid_t)atoi(entry->d_name);
    }
    closedir(proc);
    return n;
}

static double timed(struct bench *b, void (*fn)(void *arg, unsigned count), void *arg, unsigned count) {
    uint64_t t = bench_now();

    b->excluded = 0;
    fn(arg, count);
    return (double)(bench_now() - t - b->excluded) / count;
}

struct bench_pair bench_turns(struct bench *b, void (*ours)(void *arg, unsigned count),
                              void (*baseline)(void *arg, unsigned count), void *arg, unsigned rounds, unsigned count) {
    double a[ROUNDS_MAX], z[ROUNDS_MAX];

    if (b->smoke) {
        rounds = 3;
        count = count > 5 ? 5 : count;
    }
    if (rounds > ROUNDS_MAX)
        rounds = ROUNDS_MAX;
    ours(arg, 1 + count / 10); /* warms up */
    baseline(arg, 1 + count / 10);
    for (unsigned i = 0; i < rounds; i++) {
        a[i] = timed(b, ours, arg, count);
        z[i] = timed(b, baseline, arg, count);
    }
    return (struct bench_pair){bench_median(a, rounds), bench_median(z, rounds)};
}
