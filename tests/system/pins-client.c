/* What a client does when root says so: see pins.h. */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "pins.h"
#include "proto/codec.h"
#include "vfio-broker.pb-c.h"

#define OK(client, call)                                                                                               \
    do {                                                                                                               \
        int ok_r = (call);                                                                                             \
        tap_check(ok_r == 0, "%s: %s returned %s: %s", (client)->name, #call, vfb_code_name(ok_r),                     \
                  vfb_error((client)->c)->text);                                                                       \
    } while (0)

static void on_event(struct vfb_client *vc, const struct vfb_event *e, void *arg) {
    struct client *c = arg;

    (void)vc;
    if (e->kind == VFB_EVENT_INVALIDATE)
        c->invalidates++;
    if (e->kind == VFB_EVENT_PINS_LOST) {
        c->lost += (unsigned)e->n_pins;
        c->closed += e->closed;
    }
}

/* A number behind `key` in what vfio-brokerctl prints, after `from`. */
static long ctl_number(const char *arguments, const char *from, const char *key) {
    char command[512], buf[65536], *at;
    size_t n = 0;
    FILE *f;

    snprintf(command, sizeof command, "%s --json=short %s", getenv("VB_TEST_CTL"), arguments);
    f = popen(command, "re");
    if (f) {
        n = fread(buf, 1, sizeof buf - 1, f);
        pclose(f);
    }
    buf[n] = 0;
    at = strstr(buf, from);
    at = at ? strstr(at, key) : NULL;
    tap_check(at, "%s says nothing about %s %s: %s", command, from, key, buf);
    return strtol(at + strlen(key), NULL, 10);
}

void do_connect(struct client *c) {
    char key[32];

    tap_check(vfb_client_new(&c->c) == 0, "no memory");
    OK(c, vfb_connect(c->c, NULL, c->name));
    vfb_set_event_handler(c->c, on_event, c);
    snprintf(key, sizeof key, "\"session\":%" PRIu32 ",", vfb_info(c->c)->session);
    c->session = (pid_t)ctl_number("list sessions", key, "\"pid\":");
}

#define FILLED 64 /* bytes at the beginning of each page; more takes long under emulation */

static uint8_t byte_at(uint64_t i) {
    return (uint8_t)((i * 7 + i / PAGE * 13) % 255 + 1);
}

void do_memory(struct client *c) {
    const struct vfb_map e = {.iova = IOVA, .size = c->size, .prot = RW};
    struct vfb_memory m;

    c->memfd = memfd_create(c->name, MFD_CLOEXEC | (c->huge ? MFD_HUGETLB : 0));
    tap_check(c->memfd >= 0 && ftruncate(c->memfd, (off_t)c->size) == 0, "memfd: %s", strerror(errno));
    c->p = mmap(NULL, c->size, PROT_READ | PROT_WRITE, MAP_SHARED, c->memfd, 0);
    tap_check(c->p != MAP_FAILED, "mmap: %s", strerror(errno));
    for (uint64_t i = 0; i < c->size; i += i % PAGE == FILLED - 1 ? PAGE - FILLED + 1 : 1)
        c->p[i] = byte_at(i);
    OK(c, vfb_memory_register(c->c, c->memfd, VFB_WRITABLE, c->name, &m));
    c->memory = m.id;
    OK(c, vfb_space_create(c->c, c->name, &c->space));
    OK(c, vfb_map(c->c, c->space, &(struct vfb_map){e.iova, e.size, 0, m.id, RW}, 1));
}

void do_check_bytes(struct client *c) {
    for (uint64_t i = 0; i < c->size; i += i % PAGE == FILLED - 1 ? PAGE - FILLED + 1 : 1)
        tap_check(c->p[i] == byte_at(i), "byte 0x%" PRIx64 " is another", i);
}

void do_token(struct client *c) {
    OK(c, vfb_token_create(c->c, c->space, 0, UINT64_MAX, "to show", &c->token));
}

/* After a restart of the daemon the sessions come back within some seconds. */
void do_open(struct client *c) {
    const double start = now();
    int r;

    do
        r = vfb_access_open(c->c, c->secret, &c->access);
    while (r == VFB_UNAVAILABLE && now() - start < 10 && usleep(20000) == 0);
    OK(c, r);
}

void do_pin(struct client *c) {
    const struct vfb_pin_range r = {.iova = c->iova, .size = c->size, .prot = RW};

    c->result = vfb_pin(c->c, c->access.id, &r, 1, &c->pin);
}

void do_unpin(struct client *c) {
    c->result = vfb_unpin(c->c, c->access.id, &c->pin.id, 1);
}

void do_map_more(struct client *c) {
    const struct vfb_map e = {.iova = c->iova, .size = c->size, .offset = c->offset, .memory = c->memory, .prot = RW};

    c->result = vfb_map(c->c, c->space, &e, 1);
}

/* One page of another memory. */
void do_other_page(struct client *c) {
    int fd = memfd_create("other", MFD_CLOEXEC);
    struct vfb_map e = {.iova = c->iova, .size = PAGE, .prot = RW};
    struct vfb_memory m;

    tap_check(fd >= 0 && ftruncate(fd, PAGE) == 0, "memfd: %s", strerror(errno));
    OK(c, vfb_memory_register(c->c, fd, VFB_WRITABLE, "one page", &m));
    e.memory = m.id;
    c->result = vfb_map(c->c, c->space, &e, 1);
    tap_diag("one page more: %s: %s", vfb_code_name(c->result), vfb_error(c->c)->text);
    close(fd);
}

void do_unmap(struct client *c) {
    OK(c, vfb_unmap_all(c->c, c->space, NULL));
}

static void done(struct vfb_client *vc, int result, void *arg) {
    (void)vc;
    ((struct client *)arg)->result = result;
}

void do_unmap_later(struct client *c) {
    const struct vfb_unmap e = {.iova = IOVA, .size = c->size};

    c->result = WAITING;
    OK(c, vfb_unmap_async(c->c, c->space, &e, 1, done, c));
    OK(c, vfb_process(c->c));
}

void do_listen(struct client *c) {
    const double start = now();

    do {
        struct pollfd f = {.fd = vfb_fd(c->c), .events = vfb_events(c->c)};

        poll(&f, 1, 5);
        vfb_process(c->c);
    } while ((now() - start) * 1000 < c->ms && (c->ms < 1000 || c->result == WAITING));
}

/* The session of the case before may be giving the device back. */
void do_claim(struct client *c) {
    int r = VFB_BUSY;

    for (int i = 0; i < 200 && r == VFB_BUSY; i++) {
        r = vfb_device_claim(c->c, c->address, &c->d);
        if (r == VFB_BUSY)
            usleep(50000);
    }
    OK(c, r);
    OK(c, vfb_device_bind(c->c, c->d.id));
    tap_check(testdev_open(&c->t, c->d.fd, vfb_info(c->c)->backend) == 0, "%s is no test device", c->address);
    testdev_scratch(&c->t, IOVA + c->size - PAGE, c->p + c->size - PAGE); /* the last page of the memory */
}

void do_attach(struct client *c) {
    OK(c, vfb_device_attach(c->c, c->d.id, c->space));
}

void do_detach(struct client *c) {
    OK(c, vfb_device_detach(c->c, c->d.id));
}

void do_dma(struct client *c) {
    uint8_t buf[64], *at = c->p + (c->iova - IOVA);

    tap_check(testdev_read(&c->t, c->iova, buf, sizeof buf) == 0 && memcmp(buf, at, sizeof buf) == 0,
              "the device does not read what is at 0x%" PRIx64, c->iova);
    for (size_t i = 0; i < sizeof buf; i++)
        buf[i] ^= 0x5a;
    tap_check(testdev_write(&c->t, c->iova, buf, sizeof buf) == 0 && memcmp(buf, at, sizeof buf) == 0,
              "what the device writes does not arrive at 0x%" PRIx64, c->iova);
}

void do_usage(struct client *c) {
    OK(c, vfb_usage(c->c, &c->usage));
}

void do_ioas(struct client *c) {
    char what[64];

    snprintf(what, sizeof what, "--session=%" PRIu32 " list spaces", vfb_info(c->c)->session);
    c->ioas = (int)ctl_number(what, "\"domains\":", "\"ioas ");
}

void do_flood(struct client *c) {
    VfioBroker__Inspect q = VFIO_BROKER__INSPECT__INIT;
    VfioBroker__Request m = VFIO_BROKER__REQUEST__INIT;
    uint8_t buf[256];

    q.kind = VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE;
    m.id = 1u << 30;
    m.body_case = VFIO_BROKER__REQUEST__BODY_INSPECT;
    m.inspect = &q;
    ssize_t n = vb_encode(&m.base, buf, sizeof buf);
    tap_check(n > 0, "cannot encode");
    for (int idle = 0; idle < 50;) { /* nothing taken for half a second */
        if (send(vfb_fd(c->c), buf, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) == n) {
            c->packets++;
            idle = 0;
        } else {
            usleep(10000);
            idle++;
        }
    }
}
