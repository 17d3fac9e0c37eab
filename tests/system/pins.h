/* Pins, shown on the kernel: two clients, each a process of an ordinary user, and root, who looks at their sessions in /proc
 * and at pages in the page cache. Every number is predicted, and exact.
 *
 * pins-main.c    the table; clients as processes that do what root says
 * pins-client.c  what a client does
 * pins-look.c    what root sees
 * pins-pay.c     what pinned and attached pages cost, shmem and hugetlb
 * pins-swap.c    residency under memory pressure
 * pins-access.c  pins of the kernel's own (IOMMU_TEST_OP_ACCESS_PAGES) beside devices
 * pins-death.c   sessions that die, stop, or whose client never reads; the daemon that goes
 *
 * Run by tests/system/pins, which starts the broker, in the VM as root. Environment: VFIO_BROKER_SOCKET, VB_TEST_DEVICES (two
 * edu devices), VB_TEST_CTL (vfio-brokerctl), VB_TEST_UID (of the clients), VB_TEST_REQUESTS and VB_TEST_REPLIES (fifos: a line
 * "kill" or "start" for the daemon, answered by a line). */
#ifndef VB_TESTS_PINS_H
#define VB_TESTS_PINS_H

#include <stdint.h>
#include <sys/types.h>

#include "tests/lib/tap.h"
#include "tests/lib/testdev.h"
#include "vfio-broker.h"

#define PAGE    4096ull
#define MIB     (1ull << 20)
#define IOVA    0x10000000ull
#define WAITING 12345 /* result of what has not been answered */

enum { RW = VFB_READ | VFB_WRITE };

/* One client. In memory that it and root share; root sets what an order needs and reads what came of it, pointers are the client's. */
struct client {
    pid_t pid;
    int orders; /* root's end */
    const char *name;

    /* for orders */
    uint64_t memlock, size, iova, offset;
    bool huge;
    uint8_t secret[VFB_TOKEN_SIZE];
    char address[64];
    int ms;

    /* what came */
    pid_t session;
    int memfd; /* number in the client */
    uint32_t space, memory;
    struct vfb_token token;
    struct vfb_access access;
    struct vfb_pin pin;
    struct vfb_usage usage;
    int result, ioas;
    double seconds; /* the last order took */
    unsigned invalidates, lost, closed;
    uint64_t packets;

    struct vfb_client *c;
    uint8_t *p;
    struct vfb_device d;
    struct testdev t;
};

/* ---- pins-main.c ---- */
/* A new process and connection. With memlock 0 its limit stays. */
struct client *client_new(const char *name, uint64_t memlock);
/* The client does it, and the case fails if it does. */
void tell(struct client *c, void (*what)(struct client *));
void client_end(struct client *c);
/* The first of VB_TEST_DEVICES. */
void use_device(struct client *c);
double now(void);

/* ---- pins-client.c: orders ---- */
void do_connect(struct client *c);
void do_memory(struct client *c); /* memfd of c->size, registered, filled, and mapped at IOVA of a space */
void do_token(struct client *c);  /* for all of it */
void do_open(struct client *c);   /* an access, with c->secret */
void do_pin(struct client *c);    /* c->size bytes at c->iova; c->result */
void do_unpin(struct client *c);
void do_map_more(struct client *c); /* c->size bytes of the memory at c->offset to c->iova; c->result */
void do_other_page(struct client *c);
void do_unmap(struct client *c);       /* everything */
void do_unmap_later(struct client *c); /* without waiting */
void do_listen(struct client *c);      /* c->ms, or until c->result is there */
void do_claim(struct client *c);
void do_attach(struct client *c);
void do_detach(struct client *c);
void do_dma(struct client *c); /* the device reads and writes the memory at c->iova */
void do_usage(struct client *c);
void do_check_bytes(struct client *c);
void do_ioas(struct client *c);
void do_flood(struct client *c); /* requests, until nobody takes more: it reads no answer */

/* ---- pins-look.c ---- */
uint64_t status_bytes(pid_t pid, const char *key);
uint64_t limit_bytes(pid_t pid);
/* Of a session: VmLck and VmPin; of its ledger: used and doubled. All four, in bytes; says them. */
void expect(struct client *c, const char *when, uint64_t locked, uint64_t pinned, uint64_t used, uint64_t doubled);
/* Pages of the file that are in memory. */
uint64_t resident(struct client *c, uint64_t first, uint64_t n);
uint64_t all_pinned_pages(void);
void daemon_does(const char *what);

/* ---- cases ---- */
void case_attach_pays_nothing_twice(void);
void case_hugetlb(void);
void case_residency(void);
void case_access_first(void);
void case_detach_first(void);
void case_access_then_attach(void);
void case_unmap_under_access(void);
void case_owner_killed(void);
void case_pinner_killed(void);
void case_pinner_stopped(void);
void case_pinner_never_reads(void);
void case_daemon_between(void);
void case_daemon_killed_with_pins(void);

#endif
