/* FUSE files: their server is the client, and every call on them waits for as long as it likes. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fuse.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "hostile.h"

#define SIZE (4u << 20)

static void fuse_answer(int fuse, uint64_t unique, int error, const void *data, size_t size) {
    struct fuse_out_header h = {.len = (uint32_t)(sizeof h + size), .error = error, .unique = unique};
    struct iovec iov[] = {{&h, sizeof h}, {(void *)data, size}};

    if (writev(fuse, iov, size ? 2 : 1) < 0 && errno != ENOENT)
        fail("fuse: answer: %m");
}

/* Shared. silent: 1: the server does not answer; 2: nor even read. done: the client has its refusals. */
static volatile struct fuse_state {
    int silent, done;
    pid_t session; /* to be killed */
} * fuse_state;

static void fuse_attr(struct fuse_attr *a, uint64_t ino) {
    *a = (struct fuse_attr){.ino = ino,
                            .size = ino == 1 ? 0 : 65536,
                            .blocks = 128,
                            .nlink = 1,
                            .blksize = 4096,
                            .mode = ino == 1 ? S_IFDIR | 0777 : S_IFREG | 0666};
}

static void fuse_serve(void *arg) {
    const int fuse = *(int *)arg;
    static union {
        struct fuse_in_header h;
        char room[(1 << 20) + 4096];
    } in;

    for (;;) {
        if (fuse_state->silent == 2)
            pause();
        ssize_t n = read(fuse, &in, sizeof in);
        if (n < 0 && (errno == ENODEV || errno == ECONNABORTED))
            _exit(0);
        if (n < (ssize_t)sizeof in.h || fuse_state->silent)
            continue;
        switch (in.h.opcode) {
        case FUSE_INIT: {
            struct fuse_init_out o = {.major = 7, .minor = 31, .max_write = 65536};
            fuse_answer(fuse, in.h.unique, 0, &o, sizeof o);
            break;
        }
        case FUSE_LOOKUP: {
            struct fuse_entry_out o = {.nodeid = 2, .entry_valid = 3600, .attr_valid = 3600};
            fuse_attr(&o.attr, 2);
            fuse_answer(fuse, in.h.unique, 0, &o, sizeof o);
            break;
        }
        case FUSE_GETATTR: {
            struct fuse_attr_out o = {.attr_valid = 3600};
            fuse_attr(&o.attr, in.h.nodeid);
            fuse_answer(fuse, in.h.unique, 0, &o, sizeof o);
            break;
        }
        case FUSE_OPEN: {
            struct fuse_open_out o = {.fh = 1};
            fuse_answer(fuse, in.h.unique, 0, &o, sizeof o);
            break;
        }
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_READ: /* never comes */
            break;
        default:
            fuse_answer(fuse, in.h.unique, -ENOSYS, NULL, 0);
        }
    }
}

static void fuse_client(void *arg) {
    const int *silence = arg;
    struct wire w;
    char path[256];

    snprintf(path, sizeof path, "%s/file", world.fuse_dir);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0, "%s: %m", path);
    fuse_state->silent = *silence;
    wire_open(&w);
    expect(w_register(&w, fd, false, NULL), ERR(BAD_MEMORY), "a FUSE file");
    expect(w_register(&w, fd, true, NULL), ERR(BAD_MEMORY), "a FUSE file, writable");
    wire_expect_alive(&w, "after a FUSE file");
    fuse_state->done = 1;
    _exit(0); /* this closes the file: the kernel flushes it, and waits for the server */
}

/* The session keeps such a file open; when it is killed, the kernel waits for the server as it closes it. */
static void fuse_device_client(void *arg) {
    struct wire w;
    char path[256];

    (void)arg;
    snprintf(path, sizeof path, "%s/file", world.fuse_dir);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0, "%s: %m", path);
    wire_open(&w);
    expect(w_register(&w, fd, true, NULL), ERR(BAD_MEMORY), "a FUSE file");
    struct ready r = w_ready(&w, SIZE);
    expect(w_map1(&w, r.space, r.memory, 0x100000, SIZE, 0), 0, "map");
    w_device(&w, world.device[0], r.space, NULL);
    fuse_state->session = w_session_pid(&w);
    fuse_state->silent = 1;
    fuse_state->done = 1;
    pause(); /* and has the device open */
}

static pid_t fuse_start(bool everybody) {
    char options[128];
    int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);

    CHECK(fuse >= 0, "/dev/fuse: %m");
    fuse_state->silent = fuse_state->done = 0;
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%u,group_id=%u%s", fuse, world.uid[A], world.uid[A],
             everybody ? ",allow_other" : "");
    CHECK(mount("hostile", world.fuse_dir, "fuse", MS_NOSUID | MS_NODEV, options) == 0, "mount: %m");
    pid_t server = spawn(ADMIN, fuse_serve, &fuse);
    close(fuse);
    return server;
}

static bool fuse_wait_done(pid_t client) {
    uint64_t end = now_ms() + 20000;

    while (!fuse_state->done && now_ms() < end && kill(client, 0) == 0)
        sleep_ms(10);
    return fuse_state->done;
}

static void fuse_stop(pid_t server) {
    kill_and_reap(server); /* lets everybody go who waits for it */
    umount2(world.fuse_dir, MNT_DETACH);
}

static void fuse_round(bool everybody, int silence) {
    pid_t server = fuse_start(everybody);
    pid_t client = spawn(A, fuse_client, &silence);
    bool done = fuse_wait_done(client);

    fuse_stop(server);
    CHECK(done, "the session waits for a FUSE server that does not %s%s", silence == 2 ? "read" : "answer",
          everybody ? " (allow_other)" : "");
    reap(client);
}

static void map_state(void) {
    fuse_state = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(fuse_state != MAP_FAILED, "mmap: %m");
}

static void test_fuse_killed(void) {
    const long pins = system_pins();
    long now = 0;
    uint64_t t;

    map_state();
    pid_t server = fuse_start(true);
    pid_t client = spawn(A, fuse_device_client, NULL);
    bool done = fuse_wait_done(client);
    if (done) {
        CHECK(kill(fuse_state->session, SIGKILL) == 0, "kill: %m");
        t = now_ms();
        while ((now = system_pins()) > pins + 64 && now_ms() - t < 10000)
            sleep_ms(20);
        note("%ju ms after the session was killed nothing of it is pinned; the process %s\n", (uintmax_t)(now_ms() - t),
             kill(fuse_state->session, 0) == 0 ? "is still there" : "has ended");
    }
    fuse_stop(server);
    kill_and_reap(client);
    CHECK(done, "the client did not come to its device");
    CHECK(now <= pins + 64, "%ld pages are pinned, %ld before", now, pins);
}

static void test_fuse(void) {
    map_state();
    for (int i = 0; i < 4; i++)
        fuse_round(i & 1, i & 2 ? 2 : 1);
}

/* Reads a file into memory that never comes: whoever uses the same open file waits for its position, dead or killed. */
static void hold_position(int file) {
    char path[256];

    snprintf(path, sizeof path, "%s/file", world.fuse_dir);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    void *p = fd < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED || read(file, p, 4096) < 0)
        _exit(1);
    _exit(0);
}

static void fuse_position_client(void *arg) {
    struct wire w;
    static char page[4096] = "a page";
    int held = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600); /* a memfd has no lock on its position */

    (void)arg;
    for (unsigned i = 0; i < SIZE / sizeof page; i++)
        CHECK(held >= 0 && pwrite(held, page, sizeof page, (off_t)(i * sizeof page)) == sizeof page, "/dev/shm: %m");
    wire_open(&w);
    struct ready r = w_ready(&w, SIZE);
    expect(w_map1(&w, r.space, r.memory, 0x100000, SIZE, 0), 0, "map");
    pid_t holder = fork(); /* before there is a device, of which it has no copy */
    if (holder == 0)
        hold_position(held);
    w_device(&w, world.device[0], r.space, NULL);
    sleep_ms(500);
    fuse_state->session = w_session_pid(&w);
    fuse_state->done = 1;
    w.timeout_ms = 1000;
    int k = w_register(&w, held, true, NULL);
    CHECK(k == -ETIMEDOUT, "the session does not wait: %s", code_name(k));
    _exit(0); /* its session cannot come to its end by itself */
}

static void test_fuse_position(void) {
    const long pins = system_pins();
    uint64_t t;
    long now = 0;

    map_state();
    pid_t server = fuse_start(true);
    fuse_state->silent = 0;
    pid_t client = spawn(A, fuse_position_client, NULL);
    bool done = fuse_wait_done(client);
    reap(client);
    t = now_ms();
    while (done && (now = system_pins()) > pins + 64 && now_ms() - t < 20000)
        sleep_ms(20);
    note("%ju ms after the client's death nothing of it is pinned; its session %s\n", (uintmax_t)(now_ms() - t),
         kill(fuse_state->session, 0) == 0 ? "is still there" : "has ended");
    fuse_stop(server);
    CHECK(done, "the client did not come to its device");
    CHECK(now <= pins + 64, "%ld pages are pinned, %ld before", now, pins);
}

const struct hostile_test fuse_tests[] = {
    {"fuse: files whose server never answers", test_fuse, AS_ROOT | ON_KERNEL, 0},
    {"fuse: such a file in a session that root kills", test_fuse_killed, AS_ROOT | ON_KERNEL, 0},
    {"fuse: a session that waits for an open file, and whose client is dead", test_fuse_position, AS_ROOT | ON_KERNEL,
     0},
    {NULL, NULL, 0, 0},
};
