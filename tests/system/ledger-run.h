/* The randomised run of the ledger: several clients do random things, most of them sensible, and after each operation the
 * answer, vfb_usage(), and VmPin and VmLck of the session are compared with what the oracle says, exactly.
 *
 * Each client is a process and a user of its own. It has the session that is compared, a second one of the same account
 * (ledger-sibling.c), and another client that pins in its spaces (ledger-pinner.c). ledger-run.c starts the clients and
 * adds up; ledger-client.c is the life of one, ledger-judge.c compares; ledger-calls.c, -maps.c, -devices.c and -pins.c are
 * the operations on the broker, ledger-host.c those behind its back.
 *
 * What a client does follows from seed and number alone, so a failure can be had again; but not how soon a device is free
 * after its release, nor when idle lease is given back. */
#ifndef VB_TESTS_LEDGER_RUN_H
#define VB_TESTS_LEDGER_RUN_H

#include <pthread.h>
#include <sys/types.h>

#include "ledger-oracle.h"

enum {
    CLIENTS_MAX = 8,
    BATCH_MAX = 24,
    OPERATIONS_MAX = 32,
    OWN_PAGES = 256,
    SIBLING_PAGES = 512,
    PINS_MAX = 48,
    CODES = 16
};

struct options {
    uint64_t operations, rounds, clients, seed; /* operations of all clients together */
    const char *page_size;                      /* "4k", "2m", "mixed" */
    const char *ctl;                            /* vfio-brokerctl, to find the session's pid */
    const char *devices[O_DEVICES];
    unsigned n_devices;
    uid_t first_uid; /* clients are this user and the next ones; 0: whoever we are */
    uint64_t memlock;
    bool no_locks; /* the daemon's mlock() does nothing: AddressSanitizer */
};

struct tally {
    uint64_t done, refused;
};

/* Between the processes. */
struct board {
    pthread_barrier_t barrier;
    struct tally tally[CLIENTS_MAX][OPERATIONS_MAX];
    uint64_t refused[CLIENTS_MAX][CODES]; /* by enum vfb_code */
    uint64_t comparisons[CLIENTS_MAX], either[CLIENTS_MAX];
    uint64_t mappings[CLIENTS_MAX], paid[CLIENTS_MAX], pinned[CLIENTS_MAX]; /* sums over comparisons; pages */
};

struct user {
    const struct options *options;
    struct board *board;
    unsigned number;
    uint64_t random, operation, round;
    const char *doing; /* operation under way, for messages */
    char detail[400];

    struct vfb_client *c;
    bool pins; /* the backend pins: VmPin tells */
    pid_t session;
    int status, limits; /* of /proc/SESSION */
    struct vfb_usage usage;
    struct oracle o;

    int fds[O_FILES];
    uint8_t *host[O_FILES]; /* our mapping */
    uint64_t unit[O_FILES]; /* pages of 4 KiB in one of the file */
    uint64_t window;        /* IOVAs are drawn from that many pages */
    uint32_t memory_ids[O_MEMORIES], space_ids[O_SPACES], device_ids[O_DEVICES];
    int device_fds[O_DEVICES];
    bool mine[O_DEVICES]; /* in this round */
    uint8_t *own;         /* OWN_PAGES to mlock */

    /* A second session of the same account, with a memory of its own: what it needs is reclaimed from the first, and back. */
    struct vfb_client *sibling;
    int sibling_fd;
    uint32_t sibling_memory, sibling_space;

    /* A client in a process of its own, that pins in our spaces: see ledger-pinner.c. */
    int pinner;
    pid_t pinner_pid;
    uint32_t accesses[O_SPACES]; /* 0: none */
    struct {
        bool live;
        uint32_t id, space, access;
        uint64_t iova, size;
    } pinned[PINS_MAX];
};

enum outcome { SKIPPED, DONE, REFUSED };
struct operation {
    const char *name;
    unsigned weight;
    enum outcome (*run)(struct user *u);
    char kind; /* 'd': attach or detach; 'p': punch; 't': truncation */
};
extern const struct operation operations[];
extern const unsigned n_operations;

/* ---- ledger-client.c ---- */
void client_main(struct user *u);

/* ---- ledger-judge.c ---- */
uint64_t below(struct user *u, uint64_t n);
bool chance(struct user *u, unsigned of);
/* Ends the process: something is not as predicted. */
void mismatch(struct user *u, const char *fmt, ...) __attribute__((noreturn, format(printf, 2, 3)));
/* What is being done, for mismatch(). */
void doing(struct user *u, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Was the answer `r` one of `why`? */
enum outcome judge(struct user *u, int r, unsigned why);
enum outcome judge_text(struct user *u, int r, unsigned why, const char *text);
void compare(struct user *u);
void equal(struct user *u, const char *what, uint64_t is, uint64_t expected);

/* ---- ledger-calls.c: on the broker ---- */
uint32_t pick_memory(struct user *u);
uint32_t pick_space(struct user *u);
const struct oracle_mapping *pick_mapping(struct user *u, uint32_t space);
enum outcome do_register(struct user *u);
enum outcome do_unregister(struct user *u);
enum outcome do_space_create(struct user *u);
enum outcome do_space_destroy(struct user *u);
/* ledger-maps.c */
enum outcome do_map(struct user *u);
enum outcome do_map_batch(struct user *u);
enum outcome do_unmap(struct user *u);
enum outcome do_unmap_batch(struct user *u);
enum outcome do_unmap_all(struct user *u);
/* ledger-sibling.c */
enum outcome do_sibling(struct user *u);
void sibling_join(struct user *u);
/* ledger-pins.c */
enum outcome do_pin(struct user *u);
enum outcome do_unpin(struct user *u);
/* Mappings of a space go, and pins on them. */
void unmapped(struct user *u, uint32_t space, uint64_t iova, uint64_t size);
/* ledger-devices.c */
enum outcome do_claim(struct user *u);
enum outcome do_bind(struct user *u);
enum outcome do_attach(struct user *u);
enum outcome do_detach(struct user *u);
enum outcome do_release(struct user *u);

/* ---- ledger-pinner.c: the other client ---- */
enum order_kind { ORDER_OPEN, ORDER_PIN, ORDER_UNPIN };
struct order {
    enum order_kind kind;
    uint8_t secret[VFB_TOKEN_SIZE];
    uint32_t access, pin;
    struct vfb_pin_range range;
};
struct answer {
    int result;
    uint32_t id; /* of an access or a pin */
    char text[320];
};
void pinner_start(struct user *u);
struct answer pinner_ask(struct user *u, const struct order *o);
/* Waits for its end. */
void pinner_stop(struct user *u);

/* ---- ledger-host.c: behind its back ---- */
enum outcome do_punch(struct user *u);
enum outcome do_truncate(struct user *u);
enum outcome do_populate(struct user *u);
enum outcome do_limit(struct user *u);
enum outcome do_own_lock(struct user *u);
void host_setup(struct user *u);
void host_populate(struct user *u, unsigned file, uint64_t first, uint64_t n);
void host_limit(struct user *u, uint64_t bytes);
void host_low_limit(struct user *u);
/* Finds the process that serves us. */
void host_find_session(struct user *u);
/* VmPin and VmLck of it, bytes. */
void host_session_pins(struct user *u, uint64_t *ret_pinned, uint64_t *ret_locked);
/* Its RLIMIT_MEMLOCK, bytes. */
uint64_t host_session_memlock(struct user *u);
/* Waits until it is gone. */
void host_session_gone(struct user *u);

#endif
