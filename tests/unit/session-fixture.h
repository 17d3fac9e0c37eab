/* For unit tests of a session with a loop: the client's and the daemon's end of its sockets are ours, the backend is the emulated
 * one. Requests are handed over as packets, and carried out at once; what the session says by itself, or later, is read from the
 * client's socket. Each test has to leave as many fds open as it found. */
#ifndef VB_SESSION_FIXTURE_H
#define VB_SESSION_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/emulated.h"
#include "session/pins.h"

#define PAGE        4096u
#define MEMORY_SIZE (1u << 20)

static struct vb_session s;
static struct vb_emulated_knobs knobs; /* of the next set_up() */
static struct vb_arena arena;          /* messages that were read last */
static int client, daemon_fd;          /* our ends */
static int came = -1;                  /* fd of the last reply */
static unsigned fds_before;

static inline unsigned open_fds(void) {
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static inline int socket_pair(int *ret_ours) {
    int sv[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv), 0);
    *ret_ours = sv[0];
    return sv[1];
}

static inline int set_up(void **state) {
    struct vb_backend *backend;
    struct vb_error e;

    (void)state;
    fds_before = open_fds();
    memset(&s, 0, sizeof s);
    s.base = event_base_new();
    s.client_pidfd = s.iommufd = -1;
    s.id = 7;
    LIST_INIT(&s.watches);
    vb_outbox_init(&s.client.later);
    TAILQ_INIT(&s.pin_links);
    assert_int_equal(vb_arena_init(&arena, VB_DECODE_MAX), 0);
    assert_int_equal(vb_emulated_new(&knobs, &backend, &e), 0);
    assert_int_equal(vb_model_new(backend, 1000, &s.model), 0);
    s.model->ledger.lease = s.model->ledger.limit = 4 * MEMORY_SIZE;
    assert_int_equal(vb_control_start(&s, socket_pair(&daemon_fd)), 0);
    assert_int_equal(vb_client_start(&s, socket_pair(&client)), 0);
    s.client.hello_done = true;
    return 0;
}

static inline int tear_down(void **state) {
    (void)state;
    if (came >= 0)
        close(came);
    came = -1;
    vb_session_end(&s);
    vb_unwatch_all(&s);
    s.model = vb_model_free(s.model);
    vb_control_stop(&s);
    if (s.held_timer)
        event_free(s.held_timer);
    event_base_free(s.base);
    close(client);
    close(daemon_fd);
    vb_arena_fini(&arena);
    memset(&knobs, 0, sizeof knobs);
    if (open_fds() == fds_before)
        return 0;
    print_error("%u fds before, %u after\n", fds_before, open_fds());
    return -1;
}

static inline void run(unsigned ms) {
    const struct timeval t = {.tv_usec = ms * 1000};

    event_base_loopexit(s.base, &t);
    event_base_dispatch(s.base);
}

/* ---- requests ---- */

/* Its fd is consumed (-1: none). NULL: it is answered later. */
static inline VfioBroker__Reply *ask(VfioBroker__Request *q, int fd) {
    static uint8_t buf[VB_PACKET_MAX];
    struct vb_packet p = {.data = buf, .n_fds = fd >= 0, .fds = {fd}};
    bool fatal;

    q->id = 42;
    ssize_t n = vb_encode(&q->base, buf, sizeof buf);
    assert_true(n > 0);
    p.size = (size_t)n;
    if (came >= 0)
        close(came);
    size_t size = vb_client_handle(&s, &p, &came, &fatal);
    vb_packet_close(&p);
    assert_false(fatal);
    if (size == 0)
        return NULL;
    VfioBroker__Reply *r = vb_decode(&arena, &vfio_broker__reply__descriptor, s.client.out, size);
    assert_non_null(r);
    return r;
}

/* What the session has written by itself, or NULL. */
static inline VfioBroker__Reply *heard(void) {
    static uint8_t buf[VB_PACKET_MAX];
    ssize_t n = recv(client, buf, sizeof buf, MSG_DONTWAIT);

    return n > 0 ? vb_decode(&arena, &vfio_broker__reply__descriptor, buf, (size_t)n) : NULL;
}

#define REQUEST(kind, field, type, init)                                                                               \
    VfioBroker__##type body = VFIO_BROKER__##init##__INIT;                                                             \
    VfioBroker__Request q = VFIO_BROKER__REQUEST__INIT;                                                                \
    q.body_case = VFIO_BROKER__REQUEST__BODY_##kind;                                                                   \
    q.field = &body

static inline void assert_refused(const VfioBroker__Reply *r, int code, const char *part) {
    assert_non_null(r);
    assert_int_equal(r->body_case, VFIO_BROKER__REPLY__BODY_ERROR);
    if ((int)r->error->code != code || !strstr(r->error->text, part))
        fail_msg("%d '%s' is not %d, or does not say '%s'", (int)r->error->code, r->error->text, code, part);
}

static inline void assert_done(const VfioBroker__Reply *r, VfioBroker__Reply__BodyCase kind) {
    assert_non_null(r);
    if (r->body_case == VFIO_BROKER__REPLY__BODY_ERROR)
        fail_msg("refused: %s", r->error->text);
    assert_int_equal(r->body_case, kind);
}
#define ASSERT_DONE(r, kind) assert_done(r, VFIO_BROKER__REPLY__BODY_##kind)

/* ---- what most tests need ---- */

static inline void populate(int fd, size_t size) {
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    assert_true(p != MAP_FAILED);
    memset(p, 1, size);
    munmap(p, size);
}

static inline int memfd(size_t size) {
    int fd = memfd_create("unit", MFD_ALLOW_SEALING | MFD_CLOEXEC);

    assert_true(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    if (size)
        populate(fd, size);
    return fd;
}

static inline uint32_t register_memory(int fd) {
    struct vb_memory *memory;
    struct vb_error e;

    assert_int_equal(vb_model_register(s.model, fd, true, 0, "ram", &memory, &e), 0);
    return memory->id;
}

static inline uint32_t create_space(void) {
    struct vb_space *space;
    struct vb_error e;

    assert_int_equal(vb_model_space_create(s.model, "space", &space, &e), 0);
    return space->id;
}

static inline struct vb_space *space_of(uint32_t id) {
    return vb_model_space(s.model, id, NULL);
}

static inline VfioBroker__Reply *ask_map(uint32_t space, uint32_t memory, uint64_t iova, uint64_t size,
                                         uint64_t offset) {
    VfioBroker__MapEntry entry = VFIO_BROKER__MAP_ENTRY__INIT, *entries[] = {&entry};
    REQUEST(MAP, map, Map, MAP);

    entry.iova = iova, entry.size = size, entry.offset = offset, entry.memory = memory, entry.prot = 3;
    body.space = space, body.entries = entries, body.n_entries = 1;
    return ask(&q, -1);
}

static inline VfioBroker__Reply *ask_unmap(uint32_t space, uint64_t iova, uint64_t size) {
    VfioBroker__UnmapEntry entry = VFIO_BROKER__UNMAP_ENTRY__INIT, *entries[] = {&entry};
    REQUEST(UNMAP, unmap, Unmap, UNMAP);

    entry.iova = iova, entry.size = size;
    body.space = space, body.entries = entries, body.n_entries = 1;
    return ask(&q, -1);
}

/* ---- devices ---- */

/* The daemon's answer to the next call, which it has not seen yet. */
static inline void daemon_will_say(VfioBrokerInternal__Answer *a, const int *fds, unsigned n_fds) {
    VfioBrokerInternal__ToSession m = VFIO_BROKER_INTERNAL__TO_SESSION__INIT;
    uint8_t buf[4096];

    a->serial = s.control.serial + 1;
    m.body_case = VFIO_BROKER_INTERNAL__TO_SESSION__BODY_ANSWER;
    m.answer = a;
    ssize_t n = vb_encode(&m.base, buf, sizeof buf);
    assert_true(n > 0);
    assert_int_equal(vb_packet_send(daemon_fd, buf, (size_t)n, fds, n_fds, 0), 0);
}

/* What the session has said to the daemon, or NULL. */
static inline VfioBrokerInternal__ToDaemon *daemon_heard(void) {
    static uint8_t buf[VB_PACKET_MAX];
    ssize_t n = recv(daemon_fd, buf, sizeof buf, MSG_DONTWAIT);

    return n > 0 ? vb_decode(&arena, &vfio_broker_internal__to_daemon__descriptor, buf, (size_t)n) : NULL;
}

static inline VfioBroker__Reply *ask_claim(const char *address, uint32_t space) {
    VfioBrokerInternal__DeviceOpened opened = VFIO_BROKER_INTERNAL__DEVICE_OPENED__INIT;
    VfioBrokerInternal__Answer a = VFIO_BROKER_INTERNAL__ANSWER__INIT;
    REQUEST(DEVICE_CLAIM, device_claim, DeviceClaim, DEVICE_CLAIM);

    a.body_case = VFIO_BROKER_INTERNAL__ANSWER__BODY_DEVICE_OPEN;
    a.device_open = &opened;
    daemon_will_say(&a, NULL, 0);
    body.address = (char *)address;
    body.space = space;
    return ask(&q, -1);
}

/* Returns its number; *ret_fd is the client's. Claimed and bound. */
static inline uint32_t claim(const char *address, uint32_t space, int *ret_fd) {
    VfioBroker__Reply *r = ask_claim(address, space);
    REQUEST(DEVICE_BIND, device_bind, DeviceBind, DEVICE_BIND);

    ASSERT_DONE(r, DEVICE_CLAIM);
    body.device = r->device_claim->device;
    *ret_fd = came;
    came = -1;
    assert_true(*ret_fd >= 0);
    ASSERT_DONE(ask(&q, -1), DONE);
    return body.device;
}

static inline VfioBroker__Reply *ask_attach(uint32_t device, uint32_t space, bool leave_out) {
    REQUEST(DEVICE_ATTACH, device_attach, DeviceAttach, DEVICE_ATTACH);

    body.device = device, body.space = space, body.leave_out = leave_out;
    return ask(&q, -1);
}

/* One packet on a device's socket, and what came of it: 0, or the engine's negative errno. */
static inline int device_does(int fd, uint32_t op, uint64_t iova, uint32_t size) {
    union {
        struct vb_emulated_dma head;
        uint8_t bytes[sizeof(struct vb_emulated_dma) + PAGE];
    } out = {.head = {.op = op, .size = size, .iova = iova}};
    union {
        struct vb_emulated_dma_reply head;
        uint8_t bytes[sizeof(struct vb_emulated_dma_reply) + PAGE];
    } in;

    memset(out.bytes + sizeof out.head, 0x5a, PAGE);
    assert_true(send(fd, &out, sizeof out.head + (op == VB_EMULATED_DMA_WRITE ? size : 0), 0) > 0);
    for (int i = 0; i < 10; i++)
        event_base_loop(s.base, EVLOOP_NONBLOCK);
    assert_true(recv(fd, &in, sizeof in, MSG_DONTWAIT) >= (ssize_t)sizeof in.head);
    return in.head.status;
}

static inline void device_writes(int fd, uint64_t iova) {
    assert_int_equal(device_does(fd, VB_EMULATED_DMA_WRITE, iova, 8), 0);
}

/* ---- pins of another session ---- */

/* Its end of the link. */
static inline int pinner(uint32_t space) {
    VfioBrokerInternal__PinLink m = VFIO_BROKER_INTERNAL__PIN_LINK__INIT;
    struct vb_token *t;
    struct vb_error e;
    int ours;

    assert_int_equal(vb_token_create(&s, space_of(space), (struct vb_range){0, UINT64_MAX}, "all", &t, &e), 0);
    int theirs = socket_pair(&ours);
    m.secret = (ProtobufCBinaryData){.len = VB_TOKEN_SIZE, .data = t->secret};
    m.session = 2;
    vb_pin_link_offered(&s, &m, theirs);
    return ours;
}

static inline void pin(int link, uint64_t iova, uint64_t size) {
    VfioBrokerInternal__ToOwner m = VFIO_BROKER_INTERNAL__TO_OWNER__INIT;
    VfioBroker__Pin body = VFIO_BROKER__PIN__INIT;
    VfioBroker__PinEntry entry = VFIO_BROKER__PIN_ENTRY__INIT, *entries[] = {&entry};
    uint8_t buf[512];
    const uint32_t before = s.model->n_pins;

    entry.iova = iova, entry.size = size, entry.prot = 1;
    body.entries = entries, body.n_entries = 1;
    m.serial = 1;
    m.body_case = VFIO_BROKER_INTERNAL__TO_OWNER__BODY_PIN;
    m.pin = &body;
    ssize_t n = vb_encode(&m.base, buf, sizeof buf);
    assert_true(n > 0 && send(link, buf, (size_t)n, 0) == n);
    for (int i = 0; i < 1000 && s.model->n_pins == before; i++)
        run(5);
    assert_int_equal(s.model->n_pins, before + 1);
}

#endif
