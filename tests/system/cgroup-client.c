/* A client that makes its session allocate, for tests/system/cgroup. It does what its stdin says, a line each, and answers
 * on stdout with one line: "ok ...", "killed ..." when the connection is lost, "refused CODE TEXT" or "failed TEXT".
 *
 *   connect            -> ok SESSION
 *   claim ADDRESS      claim and bind; waits while it is busy
 *   attach             to the one space
 *   memory MIB         a new memfd, written by us, mapped right behind the one before; its first page serves dma
 *   dma                through the device from and to that page's neighbours; compared
 *   ranges N           N times one page, 1 GiB apart: each takes page tables of its own -> ok N, or killed N
 *   punch-race N       N times at most, punches a piece out of the memory while the device is attached, after the session has
 *                      looked at it: the kernel fills the hole on behalf of the session -> ok or killed PIECES
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/lib/commands.h"
#include "tests/lib/testdev.h"
#include "vfio-broker.h"

#define PAGE        4096ull
#define MIB         (1ull << 20)
#define GIB         (1ull << 30)
#define FIRST_IOVA  0x10000000ull
#define PIECE       (4 * MIB)
#define RANGES_IOVA (64 * GIB) /* up to 48 bits are the device's */

enum { BATCH = 256, CLAIM_TRIES = 400, RW = VFB_READ | VFB_WRITE };

static struct vfb_client *client;
static struct vfb_device device = {.fd = -1};
static struct testdev dev;
static bool driven;
static uint32_t space;
static struct {
    int fd;
    uint32_t id;
    uint8_t *p;
    uint64_t iova, size;
} memory = {.fd = -1};

static bool lost(int r) {
    return r == -EPIPE || (r == VFB_PROTOCOL && vfb_fd(client) < 0);
}

static void answer(int r, unsigned long n) {
    if (r == 0)
        say("ok %lu", n);
    else if (lost(r))
        say("killed %lu", n);
    else
        say("refused %s %s", vfb_code_name(r), vfb_error(client)->text);
}

static void pause_us(long us) {
    const struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};

    nanosleep(&t, NULL);
}

static void do_connect(const char *arg) {
    int r = vfb_client_new(&client);

    (void)arg;
    if (r == 0)
        r = vfb_connect(client, NULL, "cgroup");
    if (r == 0)
        r = vfb_space_create(client, "cgroup", &space);
    answer(r, r == 0 ? vfb_info(client)->session : 0);
}

static void do_claim(const char *address) {
    int r = VFB_BUSY;

    for (int i = 0; i < CLAIM_TRIES && (r == VFB_BUSY || r == VFB_UNAVAILABLE); i++) {
        if (i)
            pause_us(20000);
        r = vfb_device_claim(client, address, &device);
    }
    if (r == 0)
        r = vfb_device_bind(client, device.id);
    answer(r, device.id);
}

static void do_attach(const char *arg) {
    (void)arg;
    answer(vfb_device_attach(client, device.id, space), 0);
}

static void fill(uint8_t *p, uint64_t size) {
    for (uint64_t i = 0; i < size; i += PAGE)
        memset(p + i, (int)(i / PAGE % 250) + 1, 64);
}

static void do_memory(const char *arg) {
    uint64_t size = strtoull(arg, NULL, 10) * MIB;
    uint64_t iova = memory.size ? memory.iova + memory.size : FIRST_IOVA;
    struct vfb_memory m;
    int fd = memfd_create("cgroup", MFD_CLOEXEC);
    uint8_t *p = MAP_FAILED;

    if (fd < 0 || ftruncate(fd, (off_t)size) < 0 ||
        (p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED) {
        say("failed memfd: %s", strerror(errno));
        return;
    }
    fill(p, size);
    int r = vfb_memory_register(client, fd, VFB_WRITABLE, "cgroup", &m);
    if (r == 0) {
        const struct vfb_map e = {.iova = iova, .size = size, .memory = m.id, .prot = RW};

        r = vfb_map(client, space, &e, 1);
    }
    if (r == 0) {
        memory.fd = fd;
        memory.id = m.id;
        memory.p = p;
        memory.iova = iova;
        memory.size = size;
    }
    answer(r, (unsigned long)(size / MIB));
}

static void do_dma(const char *arg) {
    uint8_t data[TESTDEV_CHUNK], back[TESTDEV_CHUNK];
    static uint8_t n;

    (void)arg;
    int r = driven ? 0 : testdev_open(&dev, device.fd, vfb_info(client)->backend);
    driven = r == 0;
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)((i + n) % 255 + 1);
    n++;
    testdev_scratch(&dev, memory.iova, memory.p);
    if (r == 0)
        r = testdev_write(&dev, memory.iova + PAGE, data, sizeof data);
    if (r == 0)
        r = testdev_read(&dev, memory.iova + PAGE, back, sizeof back);
    if (r < 0)
        say("failed dma: %s", strerror(-r));
    else if (memcmp(memory.p + PAGE, data, sizeof data) != 0 || memcmp(back, data, sizeof data) != 0)
        say("failed dma: other bytes");
    else
        say("ok");
}

static void do_ranges(const char *arg) {
    unsigned long wanted = strtoul(arg, NULL, 10), n = 0;
    static struct vfb_map e[BATCH];
    int r = 0;

    while (r == 0 && n < wanted) {
        size_t batch = wanted - n < BATCH ? wanted - n : BATCH;

        for (size_t i = 0; i < batch; i++)
            e[i] = (struct vfb_map){.iova = RANGES_IOVA + (n + i) * GIB, .size = PAGE, .memory = memory.id, .prot = RW};
        r = vfb_map(client, space, e, batch);
        if (r == 0)
            n += batch;
    }
    answer(r, n);
}

/* ---- holes ---- */

static struct {
    long delay; /* us */
    uint64_t offset;
} punched;

static void *punch(void *arg) {
    (void)arg;
    pause_us(punched.delay);
    fallocate(memory.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)punched.offset, (off_t)PIECE);
    return NULL;
}

/* Punches a piece out while the device is attached. True: the session has filled it. Attaching pins from the memory's
 * beginning on, so the last pieces leave the most time: too early, and the session sees the hole and refuses; too late, and
 * the piece is pinned already. */
static bool punch_once(int *ret) {
    pthread_t thread;
    bool filled = false;

    fill(memory.p, memory.size);
    if (pthread_create(&thread, NULL, punch, NULL) != 0) {
        *ret = -EAGAIN;
        return false;
    }
    int r = vfb_device_attach(client, device.id, space);
    pthread_join(thread, NULL);
    if (r == 0) {
        filled = lseek(memory.fd, (off_t)punched.offset, SEEK_HOLE) >= (off_t)(punched.offset + PIECE);
        if (!filled)
            punched.delay = punched.delay * 3 / 4;
        r = vfb_device_detach(client, device.id);
    } else if (r == VFB_BAD_MEMORY) {
        punched.delay += punched.delay / 8 + 50;
        r = 0;
    }
    *ret = r;
    return filled;
}

/* What was filled stays in the file, at the session's cost: piece by piece it comes to its limit. */
static void do_punch_race(const char *arg) {
    unsigned long tries = strtoul(arg, NULL, 10), n, filled = 0;
    int r = 0;

    punched.delay = 2000;
    punched.offset = memory.size;
    for (n = 0; r == 0 && n < tries && punched.offset > 0; n++) {
        if (n == 0 || filled * PIECE == memory.size - punched.offset)
            punched.offset -= PIECE;
        filled += punch_once(&r);
    }
    fprintf(stderr, "# punch-race: %lu times tried, %lu pieces of %llu MiB filled, delay %ld us\n", n, filled,
            PIECE / MIB, punched.delay);
    answer(r, filled);
}

static const struct command commands[] = {{"connect", do_connect},      {"claim", do_claim}, {"attach", do_attach},
                                          {"memory", do_memory},        {"dma", do_dma},     {"ranges", do_ranges},
                                          {"punch-race", do_punch_race}};

int main(void) {
    commands_serve(commands, sizeof commands / sizeof commands[0]);
    vfb_client_free(client);
    return 0;
}
