/* Asynchronous calls in a poll(2) loop of the program's own. */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "conformance.h"

#define PENDING 12345

struct done {
    int result;
    unsigned order;
    unsigned *counter;
};

static void on_done(struct vfb_client *c, int result, void *arg) {
    struct done *d = arg;

    tap_check(d->result == PENDING, "a callback was called twice");
    d->result = result;
    d->order = (*d->counter)++;
    tap_check(result == 0 || vfb_error(c)->text[0], "no error text in the callback");
}

static void loop_until(struct vfb_client *c, const unsigned *counter, unsigned n) {
    for (unsigned i = 0; *counter < n; i++) {
        struct pollfd p = {.fd = vfb_fd(c), .events = vfb_events(c)};

        tap_check(poll(&p, 1, 10000) == 1, "nothing came in 10 s; %u of %u done", *counter, n);
        OK(c, vfb_process(c));
        tap_check(i < 100000, "a busy loop");
    }
}

static void case_async(void) {
    enum { N = 32 };
    struct vfb_client *c = join();
    struct mem m = mem_new(c, MIB);
    uint32_t space = space_new(c);
    unsigned counter = 0;
    struct done d[2 * N];

    for (unsigned i = 0; i < N; i++) {
        struct vfb_map e = {
            .iova = i * 0x10000, .size = PAGE, .offset = i * PAGE, .memory = m.id, .prot = VFB_READ | VFB_WRITE};

        d[i] = (struct done){.result = PENDING, .counter = &counter};
        if (i == 7)
            e.iova = 0; /* overlaps the first */
        OK(c, vfb_map_async(c, space, &e, 1, on_done, &d[i]));
        memset(&e, 0xff, sizeof e); /* entries are copied */
    }
    tap_check(counter == 0, "a callback came from within an asynchronous call");
    loop_until(c, &counter, N);
    for (unsigned i = 0; i < N; i++)
        tap_check(d[i].result == (i == 7 ? VFB_OVERLAP : 0) && d[i].order == i, "call %u: %s, as number %u", i,
                  vfb_code_name(d[i].result), d[i].order);
    tap_check(describe(c, space).mappings == N - 1, "%" PRIu64 " mappings", describe(c, space).mappings);

    counter = 0;
    for (unsigned i = 0; i < N; i++) {
        struct vfb_unmap u = {.iova = i * 0x10000, .size = PAGE};

        d[i] = (struct done){.result = PENDING, .counter = &counter};
        OK(c, vfb_unmap_async(c, space, &u, 1, on_done, &d[i]));
    }
    /* A blocking call answers after those that were asked before it, and calls their callbacks. */
    tap_check(describe(c, space).mappings == 0 && counter == N, "%u callbacks", counter);
    tap_check(d[7].result == VFB_NOT_FOUND && d[8].result == 0, "unmap: %s, %s", vfb_code_name(d[7].result),
              vfb_code_name(d[8].result));
    vfb_client_free(c);
}

static void case_too_many(void) {
    struct vfb_client *c = join();
    uint32_t space = space_new(c);
    struct done d[65];
    unsigned counter = 0, n = 0;
    struct vfb_unmap u = {.iova = 0, .size = PAGE};

    for (; n < 65; n++) {
        d[n] = (struct done){.result = PENDING, .counter = &counter};
        int r = vfb_unmap_async(c, space, &u, 1, on_done, &d[n]);

        if (r == -EAGAIN)
            break;
        OK(c, r);
    }
    tap_check(n == 64, "%u calls were taken", n);
    loop_until(c, &counter, n);
    d[0].result = PENDING;
    OK(c, vfb_unmap_async(c, space, &u, 1, on_done, &d[0]));
    loop_until(c, &counter, n + 1);
    tap_check(d[0].result == VFB_NOT_FOUND, "%s", vfb_code_name(d[0].result));
    vfb_client_free(c);
}

static void case_devices(void) {
    struct vfb_client *c = join();
    struct mem scratch = mem_new(c, PAGE), m = mem_new(c, PAGE);
    uint32_t space = space_new(c);
    struct vfb_device dev = claim_bound(c, test_devices[0]);
    struct testdev t;
    unsigned counter = 0;
    struct done d[3] = {{PENDING, 0, &counter}, {PENDING, 0, &counter}, {PENDING, 0, &counter}};
    uint8_t buf[64];

    OK(c, map1(c, space, scratch.id, SCRATCH_IOVA, 0, PAGE));
    OK(c, map1(c, space, m.id, 0x40000000, 0, PAGE));
    OK(c, vfb_device_attach_async(c, dev.id, space, on_done, &d[0]));
    OK(c, vfb_device_attach_async(c, dev.id, space, on_done, &d[1]));
    loop_until(c, &counter, 2);
    tap_check(d[0].result == 0 && d[1].result == VFB_STATE, "attach: %s, %s", vfb_code_name(d[0].result),
              vfb_code_name(d[1].result));
    tap_check(testdev_open(&t, dev.fd, vfb_info(c)->backend) == 0, "test device");
    testdev_scratch(&t, SCRATCH_IOVA, scratch.p);
    tap_check(testdev_read(&t, 0x40000000, buf, sizeof buf) == 0 && memcmp(buf, m.p, sizeof buf) == 0,
              "no DMA after an asynchronous attach");
    OK(c, vfb_device_detach_async(c, dev.id, on_done, &d[2]));
    loop_until(c, &counter, 3);
    tap_check(d[2].result == 0, "detach: %s", vfb_code_name(d[2].result));
    testdev_close(&t);
    close(dev.fd);
    vfb_client_free(c);
}

/* A callback may make calls itself. */
struct chain {
    uint32_t space, memory;
    unsigned n;
};
static void on_chain(struct vfb_client *c, int result, void *arg) {
    struct chain *h = arg;
    unsigned n = ++h->n; /* the blocking call below may run further callbacks */
    uint64_t mappings;

    tap_check(result == 0, "%s: %s", vfb_code_name(result), vfb_error(c)->text);
    if (n < 10) {
        struct vfb_map e = {.iova = n * PAGE, .size = PAGE, .memory = h->memory, .prot = VFB_READ};

        OK(c, vfb_map_async(c, h->space, &e, 1, on_chain, h));
    }
    mappings = describe(c, h->space).mappings;
    tap_check(mappings >= n, "%" PRIu64 " mappings in callback %u", mappings, n);
}

static void case_chain(void) {
    struct vfb_client *c = join();
    struct mem m = mem_new(c, PAGE);
    struct chain h = {.space = space_new(c), .memory = m.id};
    struct vfb_map e = {.iova = 0, .size = PAGE, .memory = m.id, .prot = VFB_READ};

    OK(c, vfb_map_async(c, h.space, &e, 1, on_chain, &h));
    for (unsigned i = 0; h.n < 10; i++) {
        struct pollfd p = {.fd = vfb_fd(c), .events = vfb_events(c)};

        /* Blocking calls in the callback may have taken everything: then there is nothing to wait for. */
        tap_check(poll(&p, 1, 10000) == 1 || h.n == 10, "stuck at %u", h.n);
        OK(c, vfb_process(c));
        tap_check(i < 1000, "a busy loop");
    }
    tap_check(describe(c, h.space).mappings == 10, "%" PRIu64 " mappings", describe(c, h.space).mappings);
    vfb_client_free(c);
}

DEFINE_CASES(loop, {"map and unmap in a poll loop, in order", case_async, 0},
             {"more than 64 unanswered calls are refused", case_too_many, 0},
             {"attach and detach in a poll loop", case_devices, 0}, {"callbacks that make calls", case_chain, 0});
