/* Hostile clients: what the test programs of tests/system/hostile-*.c share.
 *
 * One program, many tests. Each test runs in a process group of its own, as an unprivileged client unless it says that it
 * needs root, and ends by returning (good) or by fail(). Around each one the parent compares daemon, processes and pins
 * (hostile-world.c), and an innocent client (hostile-bystander.c) maps, does DMA and unmaps the whole time.
 * The tests speak the wire themselves (hostile-wire.c): the client library would refuse to send most of this. */
#ifndef VB_TESTS_HOSTILE_H
#define VB_TESTS_HOSTILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/codec.h"
#include "proto/limits.h"
#include "vfio-broker.pb-c.h"

/* ---- the tests ---- */

enum {
    AS_ROOT = 1,      /* starts as the parent's uid and becomes a client by itself */
    NEEDS_UIDS = 2,   /* clients of different uids: the parent must be root */
    ON_IOMMUFD = 4,   /* only there */
    ON_KERNEL = 32,   /* not on the emulated backend */
    ON_EMULATED = 8,  /* only there */
    NEEDS_ADMIN = 16, /* looks at all sessions */
};
struct hostile_test {
    const char *name;
    void (*run)(void);
    unsigned flags;
    unsigned seconds; /* time limit; 0: 60 */
};
extern const struct hostile_test packet_tests[], memory_tests[], fuse_tests[], linger_tests[], number_tests[],
    life_tests[], device_tests[], pin_tests[];

/* ---- the world (hostile-world.c, hostile-main.c) ---- */

enum who { A, B, NOBODY, ADMIN }; /* the hostile client; the bystander; a user without a grant; root */
struct world {
    const char *socket, *ctl;
    pid_t daemon;
    bool kernel;         /* a kernel does the DMA, not the emulated backend */
    bool iommufd, type1; /* by what */
    bool uids;
    uid_t uid[3];
    const char *device[3]; /* granted to A, to B, to A */
    const char *disk_file; /* on ext4 or the like, writable by A */
    const char *fuse_dir;  /* where a FUSE file system can be mounted */
};
extern struct world world;

/* The test has failed; the text reaches the report. Does not return. */
void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
#define CHECK(cond, ...)                                                                                               \
    do {                                                                                                               \
        if (!(cond))                                                                                                   \
            fail(__VA_ARGS__);                                                                                         \
    } while (0)
/* Something to print under the test's line. */
void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* This process becomes that user, without capabilities. Without world.uids only the limits change. */
void become(enum who who);
/* Runs fn in a forked client; it dies with its parent. */
pid_t spawn(enum who who, void (*fn)(void *), void *arg);
void reap(pid_t pid); /* it must have ended well */
void kill_and_reap(pid_t pid);
uint64_t now_ms(void);
void sleep_ms(unsigned ms);

/* What one request may leave behind in a session's memory: its buffers. */
#ifdef VB_SANITIZERS
#define GROWTH_KIB (64 << 10)
#else
#define GROWTH_KIB (2 << 10)
#endif

struct snapshot {
    int fds, sessions;  /* of the daemon; its child processes */
    long rss_kib, pins; /* of the daemon; of the machine, in pages */
};
void world_look(struct snapshot *ret);
int count_sessions(void);
long system_pins(void);                         /* pages */
long proc_status(pid_t pid, const char *field); /* "VmPin": its number, or -1 */
int count_fds(pid_t pid);                       /* -1: may not look */

/* ---- raw clients (hostile-wire.c) ---- */

struct wire {
    int sock;
    uint64_t id; /* of the last request */
    uint8_t *rx;
    struct vb_arena arena;
    VfioBroker__Reply *reply; /* the last one; valid until the next receive */
    int fd;                   /* that came with it, or -1 */
    int refused;              /* code of an unsolicited Error */
    unsigned events, timeout_ms;
};
#define WIRE_INIT                                                                                                      \
    { .sock = -1, .fd = -1 }

void wire_connect(struct wire *w); /* no Hello yet */
void wire_open(struct wire *w);    /* with Hello */
void wire_close(struct wire *w);
/* 1: a reply is in w->reply; 0: the broker has closed; -ETIMEDOUT. */
int wire_recv(struct wire *w, unsigned timeout_ms);
/* Sends bytes as they are. 0 or negative errno. */
int wire_raw(struct wire *w, const void *data, size_t size, const int *fds, unsigned n_fds);
/* Packs a request with the next id. */
size_t wire_pack(struct wire *w, VfioBroker__Request *r, uint8_t *buf, size_t size);
/* 0: done; an ErrorCode; -EPIPE: the broker has closed; -ETIMEDOUT. */
int wire_call_fds(struct wire *w, VfioBroker__Request *r, const int *fds, unsigned n_fds);
int wire_call(struct wire *w, VfioBroker__Request *r);
/* Nothing but errors, then the end. what: for the report. */
void wire_expect_end(struct wire *w, const char *what);
/* The connection still serves. */
void wire_expect_alive(struct wire *w, const char *what);
const char *code_name(int code);
void expect(int got, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#define ERR(name) ((int)VFIO_BROKER__ERROR_CODE__ERROR_##name)

int w_hello(struct wire *w, uint32_t version, const char *name);
int w_register(struct wire *w, int fd, bool writable, uint32_t *ret); /* fd stays the caller's */
int w_unregister(struct wire *w, uint32_t memory);
int w_space(struct wire *w, uint32_t *ret);
int w_space_destroy(struct wire *w, uint32_t space);
int w_describe(struct wire *w, uint32_t space);
struct entry {
    uint64_t iova, size, offset;
    uint32_t memory, prot;
};
int w_map(struct wire *w, uint32_t space, const struct entry *e, size_t n);
int w_map1(struct wire *w, uint32_t space, uint32_t memory, uint64_t iova, uint64_t size, uint64_t offset);
int w_unmap(struct wire *w, uint32_t space, const struct entry *e, size_t n); /* iova and size count */
int w_unmap1(struct wire *w, uint32_t space, uint64_t iova, uint64_t size);
int w_unmap_all(struct wire *w, uint32_t space);
int w_claim(struct wire *w, const char *address, uint32_t *ret, int *ret_fd);
int w_bind(struct wire *w, uint32_t device);
int w_attach(struct wire *w, uint32_t device, uint32_t space);
int w_detach(struct wire *w, uint32_t device);
int w_release(struct wire *w, uint32_t device);
int w_inspect(struct wire *w, uint32_t kind, uint32_t session, uint64_t after);
struct usage {
    uint64_t lease, used, mapped, mappings;
    uint32_t memories, spaces, devices;
};
struct usage w_usage(struct wire *w);
pid_t w_session_pid(struct wire *w); /* of the session process */

/* A memfd with every page there; ret_map may be NULL. */
int memfd(size_t size, unsigned char **ret_map);
/* Registers a fresh memfd, makes a space; fails the test if that fails. */
struct ready {
    int fd;
    unsigned char *map;
    uint32_t memory, space;
};
struct ready w_ready(struct wire *w, size_t size);
/* And a device of A, bound and attached; its fd. */
int w_device(struct wire *w, const char *address, uint32_t space, uint32_t *ret_device);

/* ---- DMA (hostile-dma.c) ---- */
/* The device reads 1 KiB at iova and writes it to iova + 1024. 0, or negative errno when it could not be asked. */
int dma_copy(int device_fd, uint64_t iova);

/* ---- the bystander (hostile-bystander.c) ---- */
struct bystander {
    unsigned long rounds;
    unsigned long worst_ms;
    volatile int failed;
    char text[512];
};
extern struct bystander *bystander; /* shared with it */
pid_t bystander_start(void);

#endif
