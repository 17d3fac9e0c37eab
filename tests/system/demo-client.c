/* The unprivileged program of tests/demo: uses nothing but libvfio-broker and its device. It does what it is told on
 * stdin, a line each, and answers on stdout with one line: "ok ...", "refused CODE TEXT" or "failed TEXT".
 *
 *   open PATH          try to open it oneself        -> ok opened, or refused ERRNO
 *   connect            -> ok SESSION BACKEND LIMIT
 *   claim ADDRESS      claim and bind                -> ok SECONDS
 *   attach             to a new space                -> ok
 *   map MIB            of a new memfd, right behind what is mapped -> ok FIRST-IOVA BYTES
 *   round-trip N       N transfers memory -> device -> memory, spread over what map made last -> ok BYTES
 *   stray              DMA to an IOVA that is not mapped -> ok: it did not get through, and no memory changed
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/lib/commands.h"
#include "tests/lib/testdev.h"
#include "vfio-broker.h"

#define MIB        (1ull << 20)
#define FIRST_IOVA 0x10000000ull
#define HOLE_IOVA  0xd0000000ull /* never mapped */

enum { CHUNK = 1024, MEMORIES = 8, CLAIM_TRIES = 200 };

struct piece {
    uint8_t *p;
    uint64_t iova, size;
};

static struct vfb_client *client;
static struct vfb_device device = {.fd = -1};
static struct testdev dev;
static uint32_t space;
static struct piece pieces[MEMORIES];
static unsigned n_pieces;

static void refused(int r) {
    say("refused %s %s", vfb_code_name(r), vfb_error(client)->text);
}

static double now(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Bytes that differ from each other and from last time, none of them 0. */
static void fill(uint8_t *p, uint64_t size) {
    static uint64_t x = 88172645463325252ull;

    for (uint64_t i = 0; i < size; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        p[i] = (uint8_t)x | 1;
    }
}

static void do_open(const char *path) {
    int fd = open(path, O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        say("refused %s %s", vfb_code_name(-errno), strerror(errno));
        return;
    }
    close(fd);
    say("ok opened");
}

static void do_connect(const char *arg) {
    int r = vfb_client_new(&client);

    (void)arg;
    if (r < 0) {
        say("failed no memory");
        return;
    }
    r = vfb_connect(client, NULL, "demo");
    if (r != 0)
        refused(r);
    else
        say("ok %u %s %" PRIu64, vfb_info(client)->session, vfb_info(client)->backend, vfb_info(client)->memory_bytes);
}

/* A device whose last client has just been killed is busy for a moment: how long is a part of the demonstration. */
static void do_claim(const char *address) {
    struct timespec pause = {.tv_nsec = 20000000};
    double start = now();
    int r = VFB_BUSY;

    for (int i = 0; i < CLAIM_TRIES && (r == VFB_BUSY || r == VFB_UNAVAILABLE); i++) {
        if (i)
            nanosleep(&pause, NULL);
        r = vfb_device_claim(client, address, &device);
    }
    if (r == 0)
        r = vfb_device_bind(client, device.id);
    if (r != 0)
        refused(r);
    else
        say("ok %.2f", now() - start);
}

static void do_attach(const char *arg) {
    int r = vfb_space_create(client, "demo", &space);

    (void)arg;
    if (r == 0)
        r = vfb_device_attach(client, device.id, space);
    if (r != 0) {
        refused(r);
        return;
    }
    r = testdev_open(&dev, device.fd, vfb_info(client)->backend);
    if (r < 0)
        say("failed cannot drive the device: %s", strerror(-r));
    else
        say("ok");
}

static void do_map(const char *arg) {
    uint64_t size = strtoull(arg, NULL, 10) * MIB;
    struct piece *p = &pieces[n_pieces];
    int fd = memfd_create("demo", MFD_CLOEXEC), r;
    struct vfb_memory m;

    if (n_pieces == MEMORIES || fd < 0 || ftruncate(fd, (off_t)size) < 0 ||
        (p->p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED) {
        say("failed memfd of %" PRIu64 " bytes: %s", size, strerror(errno));
        return;
    }
    fill(p->p, size);
    p->size = size;
    p->iova = n_pieces ? p[-1].iova + p[-1].size : FIRST_IOVA;
    r = vfb_memory_register(client, fd, VFB_WRITABLE, "demo", &m);
    close(fd);
    if (r == 0) {
        struct vfb_map e = {.iova = p->iova, .size = size, .memory = m.id, .prot = VFB_READ | VFB_WRITE};

        r = vfb_map(client, space, &e, 1);
    }
    if (r != 0) {
        refused(r);
        return;
    }
    if (!n_pieces) /* its last page is what edu needs to be looked into; see tests/lib/testdev.h */
        testdev_scratch(&dev, p->iova + size - TESTDEV_SCRATCH, p->p + size - TESTDEV_SCRATCH);
    n_pieces++;
    say("ok 0x%" PRIx64 " %" PRIu64, p->iova, size);
}

static void do_round_trip(const char *arg) {
    unsigned n = (unsigned)strtoul(arg, NULL, 10);
    const struct piece *p = &pieces[n_pieces - 1];
    uint64_t half = p->size / 2;

    if (!n || !n_pieces) {
        say("failed nothing is mapped");
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        /* From the lower half to the upper one, on 4 KiB pages of their own, at odd offsets in them. */
        uint64_t from = i * (half / n) / 4096 * 4096 + 64, to = half + i * ((half - 8192) / n) / 4096 * 4096 + 128;
        uint8_t buf[CHUNK];
        int r;

        fill(p->p + from, CHUNK);
        fill(p->p + to, CHUNK);
        r = testdev_read(&dev, p->iova + from, buf, CHUNK);
        if (r == 0)
            r = testdev_write(&dev, p->iova + to, buf, CHUNK);
        if (r < 0) {
            say("failed DMA from 0x%" PRIx64 " to 0x%" PRIx64 ": %s", p->iova + from, p->iova + to, strerror(-r));
            return;
        }
        if (memcmp(p->p + from, p->p + to, CHUNK) != 0) {
            say("failed memory at 0x%" PRIx64 " and 0x%" PRIx64 " differs after the DMA", p->iova + from, p->iova + to);
            return;
        }
    }
    say("ok %u", n * CHUNK);
}

static void do_stray(const char *arg) {
    uint64_t sum[MEMORIES] = {0};
    uint8_t buf[CHUNK];
    int r, w;

    (void)arg;
    fill(buf, CHUNK);
    for (int after = 0; after < 2; after++) {
        for (unsigned i = 0; i < n_pieces; i++) {
            uint64_t size = pieces[i].size - (i ? 0 : TESTDEV_SCRATCH), h = 14695981039346656037ull;

            for (uint64_t k = 0; k < size; k++)
                h = (h ^ pieces[i].p[k]) * 1099511628211ull;
            if (after && h != sum[i]) {
                say("failed memory that is mapped elsewhere has changed");
                return;
            }
            sum[i] = h;
        }
        if (after)
            break;
        w = testdev_write(&dev, HOLE_IOVA, buf, CHUNK);
        r = testdev_read(&dev, HOLE_IOVA, buf, CHUNK);
        if (r != -EFAULT || w != -EFAULT) {
            say("failed DMA to 0x%llx: read %s, write %s", HOLE_IOVA, strerror(-r), strerror(-w));
            return;
        }
    }
    say("ok 0x%llx", HOLE_IOVA);
}

static const struct command commands[] = {
    {"open", do_open}, {"connect", do_connect},       {"claim", do_claim}, {"attach", do_attach},
    {"map", do_map},   {"round-trip", do_round_trip}, {"stray", do_stray},
};

int main(void) {
    say("ok %d", (int)getpid());
    commands_serve(commands, sizeof commands / sizeof commands[0]);
    vfb_client_free(client);
    return 0;
}
