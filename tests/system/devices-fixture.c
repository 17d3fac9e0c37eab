/* What the cases have in common: see devices.h. */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "devices.h"

static char answer[65536];

int root(const char *fmt, ...) {
    FILE *requests = fopen(getenv("VB_TEST_REQUESTS"), "we"), *replies = fopen(getenv("VB_TEST_REPLIES"), "re"), *said;
    int status = -1;
    va_list ap;

    tap_check(requests && replies, "root does not listen: %s", strerror(errno));
    va_start(ap, fmt);
    vfprintf(requests, fmt, ap);
    va_end(ap);
    fputc('\n', requests);
    fclose(requests);
    tap_check(fscanf(replies, "%d", &status) == 1, "root does not answer");
    fclose(replies);
    said = fopen(getenv("VB_TEST_ANSWER"), "re");
    tap_check(said, "root's answer: %s", strerror(errno));
    answer[fread(answer, 1, sizeof answer - 1, said)] = '\0';
    fclose(said);
    if (*answer && answer[strlen(answer) - 1] == '\n')
        answer[strlen(answer) - 1] = '\0';
    return status;
}

const char *root_said(void) {
    return answer;
}

bool backend_is(const char *name) {
    return strcmp(getenv("VB_TEST_BACKEND"), name) == 0;
}

void sleep_ms(unsigned ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

    nanosleep(&t, NULL);
}

void on_event(struct vfb_client *c, const struct vfb_event *e, void *arg) {
    struct heard *h = arg;

    (void)c;
    if (e->kind == VFB_EVENT_DEVICE_REQUESTED)
        h->requested++;
    else if (e->kind == VFB_EVENT_DEVICE_GONE)
        h->gone++;
    else
        return;
    h->device = e->device;
}

static double now(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

bool hear(struct vfb_client *c, const unsigned *n, unsigned want, unsigned seconds) {
    const double end = now() + seconds;

    while (*n < want && now() < end) {
        struct pollfd p = {.fd = vfb_fd(c), .events = vfb_events(c)};

        if (poll(&p, 1, 100) > 0)
            tap_check(vfb_process(c) == 0, "the connection is lost");
    }
    return *n >= want;
}

struct rig rig_beside(struct rig *r, const char *address) {
    struct mem scratch = mem_new(r->c, PAGE);
    struct rig other;

    OK(r->c, map1(r->c, r->space, scratch.id, SCRATCH_B, 0, PAGE));
    other = rig_in(r->c, address, r->space, scratch);
    testdev_scratch(&other.t, SCRATCH_B, scratch.p);
    return other;
}

void does_dma(struct rig *r) {
    struct mem m = mem_new(r->c, PAGE);

    OK(r->c, map1(r->c, r->space, m.id, PROBE_IOVA, 0, PAGE));
    dma_reaches(r, PROBE_IOVA, m.p);
    OK(r->c, unmap1(r->c, r->space, PROBE_IOVA, PAGE));
    OK(r->c, vfb_memory_unregister(r->c, m.id));
    munmap(m.p, m.size);
    close(m.fd);
}

void rig_release(struct rig *r) {
    testdev_close(&r->t);
    OK(r->c, vfb_device_release(r->c, r->d.id));
    close(r->d.fd);
}

void becomes(const char *address, const char *state) {
    for (int i = 0; i < 100; i++) {
        ROOT("state_of %s", address);
        if (strstr(root_said(), state))
            return;
        sleep_ms(100);
    }
    tap_check(false, "%s does not become %s: %s", address, state, root_said());
}
