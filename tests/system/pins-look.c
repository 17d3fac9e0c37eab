/* What root sees of sessions and pages: see pins.h. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pins.h"

static uint64_t proc_number(const char *path, const char *key) {
    uint64_t n = UINT64_MAX;
    char line[256];
    FILE *f = fopen(path, "re");

    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0)
            sscanf(line + strlen(key), "%" SCNu64, &n);
    if (f)
        fclose(f);
    tap_check(n != UINT64_MAX, "%s says no %s", path, key);
    return n;
}

uint64_t status_bytes(pid_t pid, const char *key) {
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    return proc_number(path, key) * 1024;
}

uint64_t limit_bytes(pid_t pid) {
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/limits", (int)pid);
    return proc_number(path, "Max locked memory");
}

void expect(struct client *c, const char *when, uint64_t locked, uint64_t pinned, uint64_t used, uint64_t doubled) {
    const uint64_t lck = status_bytes(c->session, "VmLck:"), pin = status_bytes(c->session, "VmPin:"),
                   limit = limit_bytes(c->session);

    tell(c, do_usage);
    tap_diag("%s: VmLck %" PRIu64 " kB, VmPin %" PRIu64 " kB, RLIMIT_MEMLOCK %" PRIu64 " kB; used %" PRIu64
             " kB, doubled %" PRIu64 " kB, lease %" PRIu64 " kB",
             when, lck >> 10, pin >> 10, limit >> 10, c->usage.used >> 10, c->usage.doubled >> 10,
             c->usage.lease >> 10);
    tap_check(lck == locked && pin == pinned && c->usage.used == used && c->usage.doubled == doubled,
              "%s: VmLck %" PRIu64 " VmPin %" PRIu64 " used %" PRIu64 " doubled %" PRIu64 " kB are due", when,
              locked >> 10, pinned >> 10, used >> 10, doubled >> 10);
    tap_check(lck <= limit, "%s: more is locked than the session may", when);
}

/* A mapping of our own that nobody has touched: mincore tells of the page cache alone (mm/mincore.c). */
uint64_t resident(struct client *c, uint64_t first, uint64_t n) {
    uint64_t there = 0;
    char path[64];
    uint8_t *vec = malloc(n);

    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)c->pid, c->memfd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    void *p = mmap(NULL, n * PAGE, PROT_READ, MAP_SHARED, fd, (off_t)(first * PAGE));
    tap_check(fd >= 0 && p != MAP_FAILED && vec && mincore(p, n * PAGE, vec) == 0, "%s: %s", path, strerror(errno));
    for (uint64_t i = 0; i < n; i++)
        there += vec[i] & 1;
    munmap(p, n * PAGE);
    close(fd);
    free(vec);
    return there;
}

/* Counters of CPUs are folded in first. */
uint64_t all_pinned_pages(void) {
    char byte;
    int fd = open("/proc/sys/vm/stat_refresh", O_RDONLY | O_CLOEXEC);

    if (fd >= 0) {
        tap_check(read(fd, &byte, 1) >= 0, "stat_refresh: %s", strerror(errno));
        close(fd);
    }
    return proc_number("/proc/vmstat", "nr_foll_pin_acquired ") - proc_number("/proc/vmstat", "nr_foll_pin_released ");
}

void daemon_does(const char *what) {
    int request = open(getenv("VB_TEST_REQUESTS"), O_WRONLY | O_CLOEXEC),
        reply = open(getenv("VB_TEST_REPLIES"), O_RDWR | O_CLOEXEC);
    char line[64] = "";
    ssize_t n = 0;

    tap_check(request >= 0 && reply >= 0 && dprintf(request, "%s\n", what) > 0, "the script does not listen");
    n = read(reply, line, sizeof line - 1);
    tap_check(n > 0 && strncmp(line, "ok", 2) == 0, "%s the daemon: %s", what, line);
    close(request);
    close(reply);
}
