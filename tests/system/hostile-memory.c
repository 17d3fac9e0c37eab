/* Hostile memory: fds that are none, fds that permit less than is asked for, files that change afterwards. */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "hostile.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif
#define MIB (1ul << 20)

/* Refused as no memory, at once; closes fd. */
static void refused(struct wire *w, int fd, bool writable, const char *what) {
    CHECK(fd >= 0, "%s: cannot be made: %m", what);
    uint64_t t = now_ms();
    expect(w_register(w, fd, writable, NULL), ERR(BAD_MEMORY), "%s%s", what, writable ? ", writable" : "");
    CHECK(now_ms() - t < 5000, "%s: it took %ju ms to refuse it", what, (uintmax_t)(now_ms() - t));
    close(fd);
}

/* Both ways; the connection goes on, and the session keeps nothing of it. */
static void no_memory(int fd, const char *what) {
    struct wire w;

    CHECK(fd >= 0, "%s: cannot be made: %m", what);
    wire_open(&w);
    refused(&w, dup(fd), false, what);
    refused(&w, fd, true, what);
    CHECK(w_usage(&w).memories == 0, "%s: a memory is there", what);
    wire_expect_alive(&w, what);
    wire_close(&w);
}

static void test_sockets(void) {
    int sv[2];

    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) == 0, "socketpair: %m");
    no_memory(sv[0], "a stream socket");
    close(sv[1]);
    no_memory(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "a datagram socket");
}

static void test_pipes(void) {
    int p[2];

    CHECK(pipe2(p, O_CLOEXEC) == 0, "pipe: %m");
    no_memory(p[0], "a pipe's reading end");
    no_memory(p[1], "a pipe's writing end");
    /* fstatfs says tmpfs for these. */
    const char *fifo = "/dev/shm/vfio-broker-hostile.fifo";
    unlink(fifo);
    CHECK(mkfifo(fifo, 0600) == 0, "mkfifo: %m");
    int fd = open(fifo, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    unlink(fifo);
    no_memory(fd, "a fifo on tmpfs");
}

static void test_directories(void) {
    no_memory(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), "a directory");
    no_memory(open("/dev/shm", O_RDONLY | O_DIRECTORY | O_CLOEXEC), "a directory on tmpfs");
    no_memory(open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC), "a directory of proc");
}

static void test_devices(void) {
    no_memory(open("/dev/null", O_RDWR | O_CLOEXEC), "/dev/null");
    no_memory(open("/dev/zero", O_RDWR | O_CLOEXEC), "/dev/zero");
    no_memory(open("/dev/full", O_RDWR | O_CLOEXEC), "/dev/full");
}

static void test_anonymous_inodes(void) {
    no_memory(eventfd(0, EFD_CLOEXEC), "an eventfd");
    no_memory(epoll_create1(EPOLL_CLOEXEC), "an epoll fd");
    no_memory((int)syscall(SYS_pidfd_open, getpid(), 0), "a pidfd");
}

static void test_proc_files(void) {
    no_memory(open("/proc/self/status", O_RDONLY | O_CLOEXEC), "/proc/self/status");
    no_memory(open("/proc/self/mem", O_RDWR | O_CLOEXEC), "/proc/self/mem");
    no_memory(open("/proc/self/exe", O_RDONLY | O_CLOEXEC), "/proc/self/exe");
}

static void test_disk_file(void) {
    static char page[4096];
    int fd = open(world.disk_file, O_RDWR | O_CLOEXEC);

    CHECK(fd >= 0, "%s: %m", world.disk_file);
    for (int i = 0; i < 16; i++)
        CHECK(pwrite(fd, page, sizeof page, i * 4096) == 4096, "%s: %m", world.disk_file);
    no_memory(fd, "a file on disk");
}

static void test_memfd_secret(void) {
    int fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC);

    if (fd < 0 && errno == ENOSYS && !world.kernel) {
        note("this kernel has no memfd_secret: shown in the VM\n");
        return;
    }
    CHECK(fd >= 0 && ftruncate(fd, 8192) == 0, "memfd_secret: %m");
    char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED, "memfd_secret: mmap: %m");
    memset(p, 1, 8192);
    no_memory(fd, "memfd_secret");
}

static void test_o_path(void) {
    char path[64];
    int fd = memfd(8192, NULL);

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    no_memory(open(path, O_PATH | O_CLOEXEC), "an O_PATH fd of a memfd");
    close(fd);
}

static void test_sizes(void) {
    struct wire w;
    int fd;

    wire_open(&w);
    refused(&w, memfd_create("empty", MFD_CLOEXEC), true, "an empty memfd");
    fd = memfd(8192, NULL);
    CHECK(ftruncate(fd, 8191) == 0, "ftruncate: %m");
    refused(&w, fd, true, "a memfd of 8191 bytes");
    fd = memfd(8192, NULL);
    CHECK(ftruncate(fd, 16384) == 0, "ftruncate: %m");
    refused(&w, fd, true, "a memfd with a hole at its end");
    fd = memfd(MIB, NULL);
    CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096) == 0, "punch: %m");
    refused(&w, fd, true, "a memfd with a hole in it");
    fd = memfd_create("sparse", MFD_CLOEXEC);
    CHECK(ftruncate(fd, 1l << 40) == 0, "ftruncate: %m");
    refused(&w, fd, true, "a sparse memfd of 1 TiB");
    fd = memfd_create("sparse", MFD_CLOEXEC);
    CHECK(ftruncate(fd, INT64_MAX & ~4095l) == 0, "ftruncate: %m");
    refused(&w, fd, true, "a sparse memfd of 2^63 - 4096 bytes");
    wire_expect_alive(&w, "after impossible sizes");
    wire_close(&w);
}

static int reopen(int fd, int flags) {
    char path[64];

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, flags | O_CLOEXEC);
}

static void test_access_modes(void) {
    struct wire w;
    uint32_t memory, space;
    int fd = memfd(8192, NULL), ro = reopen(fd, O_RDONLY);

    wire_open(&w);
    refused(&w, dup(ro), true, "an O_RDONLY fd");
    refused(&w, reopen(fd, O_WRONLY), true, "an O_WRONLY fd");
    refused(&w, reopen(fd, O_WRONLY), false, "an O_WRONLY fd");
    expect(w_register(&w, ro, false, &memory), 0, "an O_RDONLY fd, read-only");
    expect(w_space(&w, &space), 0, "space");
    int r = w_map1(&w, space, memory, 0x100000, 8192, 0);
    CHECK(r == ERR(DENIED) || r == ERR(INVALID) || r == ERR(BAD_MEMORY), "a writable map of read-only memory: %s",
          code_name(r));
    expect(w_map(&w, space, &(struct entry){0x100000, 8192, 0, memory, 1}, 1), 0, "a read-only map of it");
    wire_close(&w);
    close(fd);
    close(ro);
}

/* The device must not change what is read-only for it either, whatever the client maps it as. */
static void test_read_only_dma(void) {
    struct wire w;
    unsigned char *p;
    uint32_t memory, space;
    int fd = memfd(8192, &p);

    wire_open(&w);
    expect(w_register(&w, fd, true, &memory), 0, "register");
    expect(w_space(&w, &space), 0, "space");
    expect(w_map(&w, space, &(struct entry){0x100000, 8192, 0, memory, 1}, 1), 0, "a read-only map");
    int device = w_device(&w, world.device[0], space, NULL);
    memset(p, 0x11, 1024);
    memset(p + 1024, 0x22, 1024);
    dma_copy(device, 0x100000);
    CHECK(p[1024] == 0x22, "the device wrote to a read-only mapping");
    close(device);
    wire_close(&w);
    close(fd);
}

static void test_sealed(void) {
    static const struct {
        int seal;
        const char *name;
    } seals[] = {{F_SEAL_WRITE, "an F_SEAL_WRITE memfd"}, {F_SEAL_FUTURE_WRITE, "an F_SEAL_FUTURE_WRITE memfd"}};
    struct wire w;
    uint32_t memory;

    wire_open(&w);
    for (int i = 0; i < 2; i++) {
        int fd = memfd(8192, NULL);
        CHECK(fcntl(fd, F_ADD_SEALS, seals[i].seal) == 0, "F_ADD_SEALS: %m");
        refused(&w, dup(fd), true, seals[i].name);
        expect(w_register(&w, fd, false, &memory), 0, "%s, read-only", seals[i].name);
        close(fd);
    }
    wire_close(&w);
}

static void test_sealed_later(void) {
    struct wire w;

    wire_open(&w);
    struct ready r = w_ready(&w, MIB);
    munmap(r.map, MIB);
    for (int attached = 0; attached < 2; attached++) {
        CHECK(fcntl(r.fd, F_ADD_SEALS, F_SEAL_WRITE) < 0 && errno == EBUSY, "F_SEAL_WRITE on a registered memfd: %m");
        if (!attached) {
            expect(w_map1(&w, r.space, r.memory, 0x100000, MIB / 2, 0), 0, "map");
            w_device(&w, world.device[0], r.space, NULL);
        }
    }
    CHECK(fcntl(r.fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0, "F_SEAL_FUTURE_WRITE: %m");
    expect(w_map1(&w, r.space, r.memory, 0x900000, MIB / 2, MIB / 2), ERR(BAD_MEMORY), "a writable map after the seal");
    expect(w_map(&w, r.space, &(struct entry){0x900000, MIB / 2, MIB / 2, r.memory, 1}, 1), 0, "a read-only one");
    expect(w_unmap_all(&w, r.space), 0, "unmap all");
    expect(w_unregister(&w, r.memory), 0, "unregister");
    expect(w_register(&w, r.fd, true, NULL), ERR(BAD_MEMORY), "to register it again, writable");
    wire_close(&w);
}

/* A thread would be faster, a process has no need of one: seal and register race. */
struct race {
    int fd;
    volatile int go, sealed;
};
static void seal(void *arg) {
    struct race *race = arg;

    while (!race->go)
        ;
    for (int i = 0; i < 200 && !race->sealed; i++)
        race->sealed = fcntl(race->fd, F_ADD_SEALS, F_SEAL_WRITE) == 0;
}
static void test_seal_race(void) {
    struct race *race = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct wire w;
    uint32_t memory, space;
    unsigned refusals = 0, n = world.kernel ? 50 : 200;

    CHECK(race != MAP_FAILED, "mmap: %m");
    wire_open(&w);
    expect(w_space(&w, &space), 0, "space");
    for (unsigned i = 0; i < n; i++) {
        race->fd = memfd(65536, NULL), race->go = race->sealed = 0;
        pid_t pid = spawn(A, seal, race);
        race->go = 1;
        int r = w_register(&w, race->fd, true, &memory);
        reap(pid);
        CHECK(r == 0 || r == ERR(BAD_MEMORY), "register: %s", code_name(r));
        CHECK(r != 0 || !race->sealed, "round %u: registered as writable, and sealed against writing", i);
        if (r == 0)
            expect(w_unregister(&w, memory), 0, "unregister");
        refusals += r != 0;
        close(race->fd);
    }
    note("%u of %u times the seal was first\n", refusals, n);
    wire_close(&w);
}

static void punch(int fd, uint64_t at, uint64_t size) {
    CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)size) == 0, "punch: %m");
}

static void test_shrunk(void) {
    struct wire w;

    wire_open(&w);
    struct ready r = w_ready(&w, 4 * MIB);
    int device = w_device(&w, world.device[0], r.space, NULL);
    expect(w_map1(&w, r.space, r.memory, 0x1000000, MIB, 0), 0, "map");
    CHECK(ftruncate(r.fd, 0) == 0, "ftruncate: %m");
    expect(w_map1(&w, r.space, r.memory, 0x2000000, MIB, MIB), ERR(BAD_MEMORY), "map of a file that was cut to 0");
    dma_copy(device, 0x1000000); /* whatever it does, nobody falls over it */
    CHECK(ftruncate(r.fd, 4 * MIB) == 0, "ftruncate: %m");
    expect(w_map1(&w, r.space, r.memory, 0x2000000, MIB, MIB), ERR(BAD_MEMORY), "map of a file of holes");
    wire_expect_alive(&w, "after the file shrank");
    CHECK(w_usage(&w).used == MIB, "%ju bytes are paid", (uintmax_t)w_usage(&w).used);
    expect(w_unmap1(&w, r.space, 0x1000000, MIB), 0, "unmap");
    expect(w_unregister(&w, r.memory), 0, "unregister");
    CHECK(w_usage(&w).used == 0, "%ju bytes are paid", (uintmax_t)w_usage(&w).used);
    wire_close(&w);
}

static void test_punched(void) {
    struct wire w;

    wire_open(&w);
    struct ready r = w_ready(&w, 4 * MIB);
    w_device(&w, world.device[0], r.space, NULL);
    expect(w_map1(&w, r.space, r.memory, 0x1000000, 2 * MIB, 0), 0, "map");
    punch(r.fd, 0, 4 * MIB);
    expect(w_map1(&w, r.space, r.memory, 0x2000000, MIB, 2 * MIB), ERR(BAD_MEMORY), "map of a punched file");
    memset(r.map, 1, 4 * MIB);
    expect(w_map1(&w, r.space, r.memory, 0x2000000, MIB, 0), 0, "an alias after refilling");
    CHECK(w_usage(&w).used == (world.type1 ? 3 : 2) * MIB, "%ju bytes are paid", (uintmax_t)w_usage(&w).used);
    wire_close(&w);
}

/* DESIGN 1.3: a file offset is not a page. Punch, truncate and refill between maps, 1,000 times. */
static void test_punch_1000(void) {
    enum { PIECES = 8 };
    const uint64_t size = 2 * MIB, piece = size / PIECES;
    const unsigned at_once = world.type1 ? 24 : 64; /* mappings; type1 pays for each */
    struct wire w;
    long base = world.kernel ? system_pins() : 0, worst = 0;
    unsigned refusals = 0, maps = 0;

    wire_open(&w);
    struct ready r = w_ready(&w, size);
    w_device(&w, world.device[0], r.space, NULL);
    pid_t session = w_session_pid(&w);
    for (unsigned i = 0; i < 1000; i++) {
        uint64_t iova = 0x1000000 + (uint64_t)(i % at_once) * 4 * MIB;

        if (i % 3 == 0) {
            punch(r.fd, (i / 3 % PIECES) * piece, piece);
        } else if (i % 3 == 1) {
            CHECK(ftruncate(r.fd, (off_t)(piece * (i % PIECES))) == 0 && ftruncate(r.fd, (off_t)size) == 0,
                  "ftruncate: %m");
        } else {
            punch(r.fd, 0, size);
        }
        if (i % 5) /* else it stays with holes: a refusal */
            memset(r.map, (int)i, size);
        if (i >= at_once)
            w_unmap1(&w, r.space, iova, size);
        int k = w_map1(&w, r.space, r.memory, iova, size, 0);
        CHECK(k == 0 || k == ERR(BAD_MEMORY), "round %u: map: %s", i, code_name(k));
        maps += k == 0, refusals += k != 0;
        if (world.kernel) {
            uint64_t used = w_usage(&w).used;
            long pinned = proc_status(session, world.type1 ? "VmLck" : "VmPin"),
                 all = i % 50 ? 0 : (system_pins() - base) * 4;
            CHECK(pinned >= 0 && (uint64_t)pinned * 1024 <= used, "round %u: VmPin %ld KiB, paid %ju KiB", i, pinned,
                  (uintmax_t)used / 1024);
            CHECK(all <= (long)(used / 1024) + 4 * 128, "round %u: %ld KiB pinned in all, paid %ju KiB", i, all,
                  (uintmax_t)used / 1024);
            worst = pinned > worst ? pinned : worst;
        }
    }
    note("%u maps done, %u refused; VmPin was at most %ld KiB\n", maps, refusals, worst);
    CHECK(maps > 300, "only %u maps were done", maps);
    wire_close(&w);
}

/* The same file twice, by the same fd or by another description: it is the same memory, pinned and paid once. */
static void registered_twice(bool reopened) {
    struct wire w;
    uint32_t again;

    wire_open(&w);
    struct ready r = w_ready(&w, MIB);
    int fd = reopened ? reopen(r.fd, O_RDWR) : dup(r.fd);
    int k = w_register(&w, fd, true, &again);
    expect(k, 0, "register again");
    CHECK(again == r.memory, "the same file has numbers %u and %u", r.memory, again);
    expect(w_map1(&w, r.space, r.memory, 0x1000000, MIB, 0), 0, "map");
    expect(w_map1(&w, r.space, again, 0x2000000, MIB, 0), 0, "map again");
    w_device(&w, world.device[0], r.space, NULL);
    uint64_t used = w_usage(&w).used;
    /* type1 pins for each mapping anew, and each is paid. */
    CHECK(used == (world.type1 ? 2 * MIB : MIB), "%ju bytes are paid", (uintmax_t)used);
    if (world.iommufd) {
        long pinned = proc_status(w_session_pid(&w), "VmPin");
        CHECK(pinned > 0 && (uint64_t)pinned * 1024 <= used, "VmPin is %ld KiB", pinned);
    }
    wire_close(&w);
    close(fd);
}
static void test_registered_twice(void) {
    registered_twice(false);
}
static void test_registered_reopened(void) {
    registered_twice(true);
}

const struct hostile_test memory_tests[] = {
    {"memory: sockets", test_sockets, 0, 0},
    {"memory: pipes and fifos", test_pipes, 0, 0},
    {"memory: directories", test_directories, 0, 0},
    {"memory: device nodes", test_devices, 0, 0},
    {"memory: eventfd, epoll, pidfd", test_anonymous_inodes, 0, 0},
    {"memory: files of proc", test_proc_files, 0, 0},
    {"memory: a file on disk", test_disk_file, 0, 0},
    {"memory: memfd_secret", test_memfd_secret, 0, 0},
    {"memory: an O_PATH fd", test_o_path, 0, 0},
    {"memory: empty, uneven, sparse", test_sizes, 0, 0},
    {"memory: read-only and write-only fds", test_access_modes, 0, 0},
    {"memory: a device does not write to a read-only mapping", test_read_only_dma, 0, 0},
    {"memory: sealed against writing", test_sealed, 0, 0},
    {"memory: sealed between registration and map", test_sealed_later, 0, 0},
    {"memory: sealed while it is being registered", test_seal_race, 0, 0},
    {"memory: shrunk after mapping", test_shrunk, 0, 0},
    {"memory: punched after mapping", test_punched, 0, 0},
    {"memory: punched, truncated and refilled 1,000 times", test_punch_1000, 0, 240},
    {"memory: one file registered twice", test_registered_twice, 0, 0},
    {"memory: one file registered twice, opened anew", test_registered_reopened, 0, 0},
    {NULL, NULL, 0, 0},
};
