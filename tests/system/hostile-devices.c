/* Hostile holders of device fds: whoever has one can attach, detach and bind by itself, and keep it open (DESIGN 1.4, 1.5). */
#include "config.h"

#include <errno.h>
#include <linux/vfio.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hostile.h"
#include "proto/fdpass.h"

/* Not in every system's headers: linux/vfio.h of 6.6. */
struct bind_arg {
    uint32_t argsz, flags;
    int32_t iommufd;
    uint32_t out_devid;
};
struct attach_arg {
    uint32_t argsz, flags, pt_id;
};
struct detach_arg {
    uint32_t argsz, flags;
};
#define DEVICE_BIND   _IO(VFIO_TYPE, VFIO_BASE + 18)
#define DEVICE_ATTACH _IO(VFIO_TYPE, VFIO_BASE + 19)
#define DEVICE_DETACH _IO(VFIO_TYPE, VFIO_BASE + 20)

#define MIB  (1ul << 20)
#define SIZE (4 * MIB)
#define IOVA (16 * MIB)

static void *shared(size_t size) {
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    CHECK(p != MAP_FAILED, "mmap: %m");
    return p;
}

static bool wait_until(const volatile int *flag, unsigned ms) {
    uint64_t end = now_ms() + ms;

    while (!*flag && now_ms() < end)
        sleep_ms(5);
    return *flag;
}

/* ---- ATTACH, DETACH and BIND by the client itself ---- */

struct hammer {
    volatile int ready, stop;
    volatile unsigned long rounds, attached;
    volatile pid_t session;
};

static void hammer_on(int fd, struct hammer *h) {
    while (!h->stop) {
        for (uint32_t id = 1; id <= 100 && !h->stop; id++) {
            struct attach_arg a = {sizeof a, 0, id};
            struct detach_arg d = {sizeof d, 0};

            h->attached += ioctl(fd, DEVICE_ATTACH, &a) == 0;
            if (id % 7 == 0)
                ioctl(fd, DEVICE_DETACH, &d);
            if (id % 50 == 0) {
                struct bind_arg b = {sizeof b, 0, -1, 0};
                ioctl(fd, DEVICE_BIND, &b);
                b.iommufd = fd;
                ioctl(fd, DEVICE_BIND, &b);
                a.argsz = 4;
                ioctl(fd, DEVICE_ATTACH, &a);
                a = (struct attach_arg){sizeof a, ~0u, id};
                ioctl(fd, DEVICE_ATTACH, &a);
            }
        }
        h->rounds++;
    }
}

/* The session's work, disturbed: it may fail, with an error that says so. */
static void disturbed(int r, const char *what) {
    CHECK(r >= 0, "%s: %s", what, code_name(r));
}

static void hammered_client(void *arg) {
    struct hammer *h = arg;
    struct wire w;
    uint32_t device, other;
    int fd;
    long worst = 0;
    unsigned good = 0;

    wire_open(&w);
    struct ready r = w_ready(&w, SIZE);
    expect(w_space(&w, &other), 0, "space");
    expect(w_claim(&w, world.device[0], &device, &fd), 0, "claim");
    expect(w_bind(&w, device), 0, "bind");
    pid_t session = w_session_pid(&w), child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, 0); /* it survives us, with the device */
        close(w.sock);
        hammer_on(fd, h);
        _exit(0);
    }
    CHECK(child > 0, "fork: %m");
    for (int i = 0; i < 100; i++) {
        uint32_t space = i & 1 ? other : r.space;

        disturbed(w_map1(&w, space, r.memory, IOVA, MIB * (unsigned)(i % 4 + 1), 0), "map");
        disturbed(w_attach(&w, device, space), "attach");
        int k = w_map1(&w, space, r.memory, IOVA * 2, MIB, 3 * MIB);
        disturbed(k, "map while attached");
        good += k == 0;
        long pinned = proc_status(session, "VmPin");
        uint64_t used = w_usage(&w).used;
        CHECK(pinned >= 0 && (uint64_t)pinned * 1024 <= used, "round %d: VmPin %ld KiB, paid %ju KiB", i, pinned,
              (uintmax_t)used / 1024);
        worst = pinned > worst ? pinned : worst;
        if (i % 3 == 0) {
            k = w_unmap1(&w, space, IOVA * 2, MIB);
            CHECK(k == 0 || k == ERR(NOT_FOUND) || k == ERR(HOST), "unmap: %s", code_name(k));
        }
        disturbed(w_detach(&w, device), "detach");
        expect(w_unmap_all(&w, space), 0, "unmap all");
        if (i % 10 == 0) {
            expect(w_space_destroy(&w, other), 0, "destroy");
            expect(w_space(&w, &other), 0, "space");
        }
        CHECK(w_usage(&w).used == 0, "round %d: %ju bytes are paid for nothing", i, (uintmax_t)w_usage(&w).used);
    }
    note("%lu hammer rounds, %lu attaches by the client, %u of 100 maps done, VmPin at most %ld KiB\n", h->rounds,
         h->attached, good, worst);
    CHECK(h->attached > 0, "the client's own ATTACH never succeeded: nothing was tested");
    /* Something is mapped and attached when we die. */
    expect(w_map1(&w, r.space, r.memory, IOVA, SIZE, 0), 0, "map");
    disturbed(w_attach(&w, device, r.space), "attach");
    h->session = session;
    h->ready = 1;
    pause();
}

/* A claim by another process of A. */
static void claim_once(void *arg) {
    struct wire w;
    int *result = arg;
    int fd = -1;

    wire_open(&w);
    *result = w_claim(&w, world.device[0], NULL, &fd);
    wire_close(&w);
}
static int try_claim(void) {
    static int *result;

    if (!result)
        result = shared(sizeof *result);
    reap(spawn(A, claim_once, result));
    return *result;
}

/* The device's row, as vfio-brokerctl shows it to root. */
static bool shown_as(const char *state) {
    char command[1024];
    static char out[65536];

    snprintf(command, sizeof command, "VFIO_BROKER_SOCKET='%s' '%s' --json=short list devices 2>&1", world.socket,
             world.ctl);
    FILE *f = popen(command, "r");
    CHECK(f, "popen: %m");
    size_t n = fread(out, 1, sizeof out - 1, f);
    out[n] = 0;
    CHECK(pclose(f) == 0, "vfio-brokerctl list devices: %.200s", out);
    char *p = strstr(out, world.device[0]);
    CHECK(p, "vfio-brokerctl does not list %s: %.200s", world.device[0], out);
    while (p > out && *p != '{')
        p--;
    char *end = strchr(p, '}');
    CHECK(end, "vfio-brokerctl: %.200s", out);
    *end = 0;
    char *s = strstr(p, "\"state\"");
    CHECK(s, "vfio-brokerctl shows no state: %.200s", p);
    return strstr(s, state) != NULL;
}

static void expect_held(long pins) {
    if (world.kernel) {
        long now = system_pins();
        CHECK(now <= pins + 64, "%ld pages are pinned, %ld before", now, pins);
    }
    CHECK(shown_as("\"held\""), "the device is not shown as held");
    expect(try_claim(), ERR(BUSY), "a claim of a held device");
}

static void expect_free(void) {
    uint64_t end = now_ms() + 10000, start = now_ms();
    int k;

    while ((k = try_claim()) == ERR(BUSY) && now_ms() < end)
        sleep_ms(50);
    expect(k, 0, "a claim after the last holder has ended");
    note("claimable %ju ms after the holder's end\n", (uintmax_t)(now_ms() - start));
}

static void test_hammer(void) {
    struct hammer *h = shared(sizeof *h);
    long pins = system_pins();
    pid_t pid = spawn(A, hammered_client, h);
    int status;

    while (!h->ready && waitpid(pid, &status, WNOHANG) == 0)
        sleep_ms(10);
    if (!h->ready)
        _exit(1); /* it has told why */
    kill_and_reap(pid);
    /* The child hammers on; within a second nothing is pinned any more, and it stays so. */
    sleep_ms(1000);
    for (int i = 0; i < 10; i++) {
        long now = system_pins();
        CHECK(now <= pins + 64, "%ld pages pinned after the client's death, %ld before", now, pins);
        sleep_ms(50);
    }
    unsigned long attached = h->attached;
    expect_held(pins);
    note("%lu attaches succeeded after the client's death\n", h->attached - attached);
    h->stop = 1;
    expect_free();
}

/* The same, but root kills the session, not the client. */
static void test_hammer_session_killed(void) {
    struct hammer *h = shared(sizeof *h);
    long pins = system_pins();
    pid_t pid = spawn(A, hammered_client, h);
    int status;

    while (!h->ready && waitpid(pid, &status, WNOHANG) == 0)
        sleep_ms(10);
    if (!h->ready)
        _exit(1);
    CHECK(kill(h->session, SIGKILL) == 0, "kill: %m");
    sleep_ms(1000);
    for (int i = 0; i < 10; i++) {
        long now = system_pins();
        CHECK(now <= pins + 64, "%ld pages pinned after the session's death, %ld before", now, pins);
        sleep_ms(50);
    }
    expect_held(pins);
    h->stop = 1;
    kill_and_reap(pid);
    expect_free();
}

/* ---- the device outlives its session ---- */

struct keeper {
    volatile int ready, go, done;
    volatile pid_t session;
    volatile int reached; /* 1: the DMA before reached memory; 2: the one after did, too */
    volatile int eof;     /* the client's connection */
};

static bool dma_reaches(int fd, unsigned char *p, unsigned char fill) {
    memset(p, fill, 1024);
    memset(p + 1024, (unsigned char)~fill, 1024);
    dma_copy(fd, IOVA);
    bool reached = memcmp(p, p + 1024, 1024) == 0;
    if (!reached)
        for (int i = 0; i < 1024; i++)
            CHECK(p[i] == fill && p[1024 + i] == (unsigned char)~fill, "DMA changed byte %d", i);
    return reached;
}

static void keep(int fd, unsigned char *p, struct keeper *k) {
    k->ready = 1;
    wait_until(&k->go, 30000);
    if (dma_reaches(fd, p, 0x77))
        k->reached = 2;
    k->done = 1;
    pause();
}

static void client_with_child(void *arg) {
    struct keeper *k = arg;
    struct wire w;
    unsigned char *p;

    wire_open(&w);
    struct ready r = w_ready(&w, SIZE);
    p = r.map;
    expect(w_map1(&w, r.space, r.memory, IOVA, SIZE, 0), 0, "map");
    int fd = w_device(&w, world.device[0], r.space, NULL);
    CHECK(dma_reaches(fd, p, 0x31), "DMA does not reach mapped memory");
    k->session = w_session_pid(&w);
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, 0);
        close(w.sock);
        keep(fd, p, k);
        _exit(0);
    }
    close(fd);
    while (wire_recv(&w, 30000) == 1)
        ;
    k->eof = 1;
    pause();
}

static void outlive(bool kill_session) {
    struct keeper *k = shared(sizeof *k);
    long pins = world.kernel ? system_pins() : 0;
    pid_t pid = spawn(A, client_with_child, k);
    int status;

    while (!k->ready && waitpid(pid, &status, WNOHANG) == 0)
        sleep_ms(5);
    if (!k->ready)
        _exit(1);
    if (world.kernel)
        CHECK(system_pins() >= pins + (long)(SIZE / 4096) - 64, "nothing was pinned");
    if (kill_session)
        CHECK(kill(k->session, SIGKILL) == 0, "kill: %m");
    else
        kill_and_reap(pid);
    sleep_ms(1000);
    k->go = 1;
    CHECK(wait_until(&k->done, 30000), "the child's DMA does not end");
    CHECK(k->reached != 2, "a DMA one second later still reached memory");
    if (kill_session)
        CHECK(wait_until(&k->eof, 5000), "the client's connection goes on");
    if (world.kernel || !kill_session)
        expect_held(pins);
    else
        note("emulated: the device is gone with its session\n");
    if (kill_session)
        kill_and_reap(pid);
    /* The child that kept the device: the only other process of our group. */
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
    expect_free();
}

static void test_child_keeps_device(void) {
    outlive(false);
}
static void test_session_killed(void) {
    outlive(true);
}

/* The client itself keeps the fd after Release. */
static void test_kept_after_release(void) {
    struct wire w;
    uint32_t device;
    int k;

    wire_open(&w);
    struct ready r = w_ready(&w, SIZE);
    expect(w_map1(&w, r.space, r.memory, IOVA, SIZE, 0), 0, "map");
    int fd = w_device(&w, world.device[0], r.space, &device);
    CHECK(dma_reaches(fd, r.map, 0x31), "DMA does not reach mapped memory");
    expect(w_release(&w, device), 0, "release");
    CHECK(!dma_reaches(fd, r.map, 0x32), "DMA reaches memory after the release");
    expect(w_claim(&w, world.device[0], NULL, NULL), ERR(BUSY), "a claim of a held device");
    close(fd);
    for (int i = 0; i < 100 && (k = w_claim(&w, world.device[0], NULL, NULL)) == ERR(BUSY); i++)
        sleep_ms(50);
    expect(k, 0, "a claim after it is closed");
    wire_close(&w);
}

/* ---- the emulated device's socket ---- */

static void test_device_garbage(void) {
    static uint8_t buf[200000];
    static const size_t sizes[] = {0, 1, 7, 15, 16, 17, 24, 4096, 65536, sizeof buf};
    struct wire w;
    uint32_t x = 1;

    for (int round = 0; round < 4; round++) {
        wire_open(&w);
        struct ready r = w_ready(&w, MIB);
        expect(w_map1(&w, r.space, r.memory, IOVA, MIB, 0), 0, "map");
        int fd = w_device(&w, world.device[0], r.space, NULL);
        for (unsigned i = 0; i < 400; i++) {
            size_t size = sizes[(i + (unsigned)round) % (sizeof sizes / sizeof *sizes)];
            for (size_t b = 0; b < size && b < 64; b++) {
                x ^= x << 13, x ^= x >> 17, x ^= x << 5;
                buf[b] = (uint8_t)x;
            }
            if (round & 1 && size >= 16) { /* a request with impossible numbers */
                uint32_t op = i % 5, n = i % 2 ? ~0u : 1u << (i % 32);
                uint64_t iova = i % 3 ? ~0ul - i : IOVA + MIB - 1;
                memcpy(buf, &op, 4), memcpy(buf + 4, &n, 4), memcpy(buf + 8, &iova, 8);
            }
            /* Answers are not read: round 2 and 3 stop when the socket is full. */
            if (vb_packet_send(fd, buf, size, round == 3 ? &fd : NULL, round == 3, MSG_DONTWAIT) == -EAGAIN) {
                sleep_ms(1);
                while (round < 2 && recv(fd, buf + 64, sizeof buf - 64, MSG_DONTWAIT) > 0)
                    ;
            }
        }
        int k = w_inspect(&w, VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE, 0, 0);
        CHECK(k == 0 || k == -EPIPE, "after garbage on the device's socket: %s", code_name(k));
        close(fd);
        wire_close(&w);
        sleep_ms(600);
    }
}

const struct hostile_test device_tests[] = {
    {"devices: ATTACH, DETACH and BIND by the client on every id, then its death", test_hammer,
     AS_ROOT | NEEDS_UIDS | ON_IOMMUFD, 240},
    {"devices: the same, and root kills the session", test_hammer_session_killed, AS_ROOT | NEEDS_UIDS | ON_IOMMUFD,
     240},
    {"devices: a child keeps the device after the client was killed", test_child_keeps_device, AS_ROOT, 0},
    {"devices: a child keeps the device after the session was killed", test_session_killed, AS_ROOT, 0},
    {"devices: kept open after Release", test_kept_after_release, 0, 0},
    {"devices: garbage on the emulated device's socket", test_device_garbage, ON_EMULATED, 0},
    {NULL, NULL, 0, 0},
};
