/* A scripted broker for tests of the client library. The script runs in a forked child, so that the fds of the test's own
 * process are the library's alone: they are counted before and after each test. */
#ifndef FAKE_BROKER_H
#define FAKE_BROKER_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "client/inspect.h"
#include "client/vfio-broker.h"
#include "proto/codec.h"
#include "proto/fdpass.h"

/* In the child: assertions are exit codes. */
#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x)) {                                                                                                    \
            fprintf(stderr, "# broker script, line %d: %s\n", __LINE__, #x);                                           \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

/* ---- in the script: receiving and sending on a connection ---- */
/* NULL when the client hung up. */
VfioBroker__Request *get_fds(int s, struct vb_packet *p);
VfioBroker__Request *get(int s);
void put_fds(int s, VfioBroker__Reply *m, const int *fds, unsigned n);
void put(int s, VfioBroker__Reply *m);
void put_done(int s, uint64_t id);
void put_error(int s, uint64_t id, int code, const char *text);
void put_hello(int s, uint64_t id, uint32_t version, uint32_t batch);
void greet(int s);
void put_event(int s, VfioBroker__Event *e);
void event_gone(int s, uint32_t device);
void event_closing(int s, const char *why);
void event_invalidate(int s, uint32_t access, const uint32_t *pins, size_t n);
void event_pins_lost(int s, uint32_t access, const uint32_t *pins, size_t n, bool closed, const char *why);

/* ---- pins ---- */
extern const uint8_t secret[VFB_TOKEN_SIZE];
extern const struct vfb_pin_range simple; /* what put_pin() answers */
/* A memfd that has its number at 0x1000. */
int numbered(uint32_t number);
VfioBroker__Request *expect(int s, VfioBroker__Request__BodyCase what);
void put_access(int s, uint64_t id, uint32_t access);
void serve_open(int s, uint32_t access);
/* One pin of one segment, with its memory's fd unless that is -1. */
void put_pin(int s, uint64_t id, uint32_t pin, uint32_t memory, int fd);

/* Declares a reply and its body. */
#define REPLY(name, which, field, Type, INIT)                                                                          \
    VfioBroker__Reply name = VFIO_BROKER__REPLY__INIT;                                                                 \
    VfioBroker__##Type name##_body = VFIO_BROKER__##INIT##__INIT;                                                      \
    name.body_case = VFIO_BROKER__REPLY__BODY_##which;                                                                 \
    name.field = &name##_body

/* ---- in the test ---- */
extern char fake_path[64];
extern uint64_t
    fake_features; /* that Hello tells; set before start(), all that this broker could have before each test */
typedef void (*script_fn)(int s, int connection);
/* A listening socket at fake_path. */
int listener(void);
/* Serves `n` connections one after the other. */
void start(script_fn script, int n);
/* Waits for the script's end and for its checks. */
void stop(void);
/* Open fds of this process. */
int count_fds(void);
int fake_setup(void **state);
int fake_teardown(void **state);
#define FAKE_TEST(f) cmocka_unit_test_setup_teardown(f, fake_setup, fake_teardown)
struct vfb_client *fresh(void);
struct vfb_client *connected(void);
extern const struct vfb_map entry;

/* What callbacks were called with, in what order: note() with a struct mark. */
struct log {
    int n, results[128], order[128];
};
struct mark {
    struct log *log;
    int number;
};

void note(struct vfb_client *c, int result, void *arg);

#endif
