/* A client that can say anything: requests packed here, sent as bytes; replies with their fd. */
#include "config.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "hostile.h"
#include "proto/fdpass.h"

#define TIMEOUT_MS 20000
#define RX_SIZE    (2 * VB_PACKET_MAX)

void wire_connect(struct wire *w) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    *w = (struct wire)WIRE_INIT;
    w->timeout_ms = TIMEOUT_MS;
    w->rx = malloc(RX_SIZE);
    CHECK(w->rx && vb_arena_init(&w->arena, 4 << 20) == 0, "out of memory");
    w->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    CHECK(w->sock >= 0, "socket: %m");
    CHECK(strlen(world.socket) < sizeof a.sun_path, "the socket's path is too long");
    strcpy(a.sun_path, world.socket);
    CHECK(connect(w->sock, (struct sockaddr *)&a, sizeof a) == 0, "connect: %m");
}

void wire_close(struct wire *w) {
    if (w->sock >= 0)
        close(w->sock);
    if (w->fd >= 0)
        close(w->fd);
    if (w->rx)
        vb_arena_fini(&w->arena);
    free(w->rx);
    *w = (struct wire)WIRE_INIT;
}

int wire_recv(struct wire *w, unsigned timeout_ms) {
    struct vb_packet p VB_PACKET = VB_PACKET_INIT;
    struct pollfd pfd = {.fd = w->sock, .events = POLLIN};
    uint64_t end = now_ms() + timeout_ms;
    int r;

    do {
        uint64_t t = now_ms();
        r = poll(&pfd, 1, t < end ? (int)(end - t) : 0);
    } while (r < 0 && errno == EINTR);
    if (r <= 0)
        return -ETIMEDOUT;
    r = vb_packet_recv(w->sock, w->rx, RX_SIZE, MSG_DONTWAIT, &p);
    if (r == 0 || r == -ECONNRESET || r == -EPIPE)
        return 0;
    CHECK(r == 1, "receive: %s", strerror(-r));
    if (w->fd >= 0)
        close(w->fd);
    CHECK(p.n_fds <= 1, "%u fds in one reply", p.n_fds);
    w->fd = vb_packet_steal_fd(&p, 0);
    w->reply = vb_decode(&w->arena, &vfio_broker__reply__descriptor, p.data, p.size);
    CHECK(w->reply, "a reply of %zu bytes cannot be decoded", p.size);
    return 1;
}

int wire_raw(struct wire *w, const void *data, size_t size, const int *fds, unsigned n_fds) {
    return vb_packet_send(w->sock, data, size, fds, n_fds, 0);
}

size_t wire_pack(struct wire *w, VfioBroker__Request *r, uint8_t *buf, size_t size) {
    r->id = ++w->id;
    ssize_t n = vb_encode(&r->base, buf, size);
    CHECK(n >= 0, "a request does not fit");
    return (size_t)n;
}

/* The last error's sentence, for expect(). */
static char last_error[VB_ERROR_TEXT];

/* Every error has a sentence. */
static int error_of(const VfioBroker__Reply *reply) {
    if (reply->body_case != VFIO_BROKER__REPLY__BODY_ERROR)
        return 0;
    const VfioBroker__Error *e = reply->error;
    CHECK((int)e->code > 0, "an error without a code: %s", e->text);
    CHECK(e->text && strlen(e->text) > 8, "an error %s without a sentence", code_name((int)e->code));
    snprintf(last_error, sizeof last_error, "%s", e->text);
    return (int)e->code;
}

/* Waits for the reply with that id. */
static int wire_wait(struct wire *w, uint64_t id) {
    for (;;) {
        int r = wire_recv(w, w->timeout_ms);
        if (r <= 0)
            return r == 0 ? -EPIPE : r;
        if (w->reply->id == id)
            return error_of(w->reply);
        CHECK(w->reply->id == 0, "a reply with id %ju, not %ju", (uintmax_t)w->reply->id, (uintmax_t)id);
        if (w->reply->body_case == VFIO_BROKER__REPLY__BODY_ERROR)
            w->refused = error_of(w->reply);
        else
            w->events++;
    }
}

int wire_call_fds(struct wire *w, VfioBroker__Request *r, const int *fds, unsigned n_fds) {
    static uint8_t buf[VB_PACKET_MAX];
    size_t n = wire_pack(w, r, buf, sizeof buf);
    int k = wire_raw(w, buf, n, fds, n_fds);

    /* A refusal may be waiting there although the broker has closed. */
    if (k < 0 && k != -EPIPE && k != -ECONNRESET)
        return k;
    return wire_wait(w, r->id);
}

int wire_call(struct wire *w, VfioBroker__Request *r) {
    return wire_call_fds(w, r, NULL, 0);
}

void wire_expect_end(struct wire *w, const char *what) {
    uint64_t end = now_ms() + TIMEOUT_MS;

    for (;;) {
        int r = wire_recv(w, TIMEOUT_MS);
        CHECK(r >= 0 && now_ms() < end, "%s: the connection goes on", what);
        if (r == 0)
            return;
        bool closing = w->reply->body_case == VFIO_BROKER__REPLY__BODY_EVENT;
        int code = error_of(w->reply);
        CHECK(closing || code != 0, "%s: was answered with success", what);
        if (code)
            w->refused = code;
    }
}

void wire_expect_alive(struct wire *w, const char *what) {
    int r = w_inspect(w, VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE, 0, 0);
    CHECK(r == 0, "%s: the connection does not serve any more: %s", what, code_name(r));
}

const char *code_name(int code) {
    const ProtobufCEnumValue *v;
    static char buf[64];

    if (code < 0)
        return code == -EPIPE ? "disconnected" : code == -ETIMEDOUT ? "no answer" : strerror(-code);
    v = protobuf_c_enum_descriptor_get_value(&vfio_broker__error_code__descriptor, code);
    if (v)
        return v->name;
    snprintf(buf, sizeof buf, "code %d", code);
    return buf;
}

void expect(int got, int code, const char *fmt, ...) {
    char what[160], g[64];
    va_list ap;

    if (got == code)
        return;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    snprintf(g, sizeof g, "%s", code_name(got));
    fail("%s: %s, not %s%s%.200s", what, g, code_name(code), got > 0 ? ": " : "", got > 0 ? last_error : "");
}

/* ---- requests ---- */

#define REQ(CASE, field, body)                                                                                         \
    (&(VfioBroker__Request){PROTOBUF_C_MESSAGE_INIT(&vfio_broker__request__descriptor),                                \
                            .body_case = VFIO_BROKER__REQUEST__BODY_##CASE, .field = (body)})

int w_hello(struct wire *w, uint32_t version, const char *name) {
    VfioBroker__Hello b = VFIO_BROKER__HELLO__INIT;
    b.version = version;
    b.name = (char *)name;
    return wire_call(w, REQ(HELLO, hello, &b));
}

void wire_open(struct wire *w) {
    wire_connect(w);
    int r = w_hello(w, VB_PROTOCOL_VERSION, "hostile");
    CHECK(r == 0, "Hello: %s (refused: %s)", code_name(r), code_name(w->refused));
}

int w_register(struct wire *w, int fd, bool writable, uint32_t *ret) {
    VfioBroker__MemoryRegister b = VFIO_BROKER__MEMORY_REGISTER__INIT;
    b.writable = writable;
    b.name = (char *)"hostile";
    int r = wire_call_fds(w, REQ(MEMORY_REGISTER, memory_register, &b), &fd, 1);
    if (r == 0 && ret)
        *ret = w->reply->memory_register->memory;
    return r;
}

int w_unregister(struct wire *w, uint32_t memory) {
    VfioBroker__MemoryUnregister b = VFIO_BROKER__MEMORY_UNREGISTER__INIT;
    b.memory = memory;
    return wire_call(w, REQ(MEMORY_UNREGISTER, memory_unregister, &b));
}

int w_space(struct wire *w, uint32_t *ret) {
    VfioBroker__SpaceCreate b = VFIO_BROKER__SPACE_CREATE__INIT;
    b.name = (char *)"hostile";
    int r = wire_call(w, REQ(SPACE_CREATE, space_create, &b));
    if (r == 0 && ret)
        *ret = w->reply->space_create->space;
    return r;
}

int w_space_destroy(struct wire *w, uint32_t space) {
    VfioBroker__SpaceDestroy b = VFIO_BROKER__SPACE_DESTROY__INIT;
    b.space = space;
    return wire_call(w, REQ(SPACE_DESTROY, space_destroy, &b));
}

int w_describe(struct wire *w, uint32_t space) {
    VfioBroker__SpaceDescribe b = VFIO_BROKER__SPACE_DESCRIBE__INIT;
    b.space = space;
    return wire_call(w, REQ(SPACE_DESCRIBE, space_describe, &b));
}

int w_map(struct wire *w, uint32_t space, const struct entry *e, size_t n) {
    static VfioBroker__MapEntry m[2 * VB_BATCH_MAX], *p[2 * VB_BATCH_MAX];
    VfioBroker__Map b = VFIO_BROKER__MAP__INIT;

    for (size_t i = 0; i < n; i++) {
        m[i] = (VfioBroker__MapEntry)VFIO_BROKER__MAP_ENTRY__INIT;
        m[i].iova = e[i].iova;
        m[i].size = e[i].size;
        m[i].offset = e[i].offset;
        m[i].memory = e[i].memory;
        m[i].prot = e[i].prot;
        p[i] = &m[i];
    }
    b.space = space;
    b.n_entries = n;
    b.entries = p;
    return wire_call(w, REQ(MAP, map, &b));
}

int w_map1(struct wire *w, uint32_t space, uint32_t memory, uint64_t iova, uint64_t size, uint64_t offset) {
    return w_map(w, space, &(struct entry){iova, size, offset, memory, 3}, 1);
}

int w_unmap(struct wire *w, uint32_t space, const struct entry *e, size_t n) {
    static VfioBroker__UnmapEntry m[2 * VB_BATCH_MAX], *p[2 * VB_BATCH_MAX];
    VfioBroker__Unmap b = VFIO_BROKER__UNMAP__INIT;

    for (size_t i = 0; i < n; i++) {
        m[i] = (VfioBroker__UnmapEntry)VFIO_BROKER__UNMAP_ENTRY__INIT;
        m[i].iova = e[i].iova;
        m[i].size = e[i].size;
        p[i] = &m[i];
    }
    b.space = space;
    b.n_entries = n;
    b.entries = p;
    return wire_call(w, REQ(UNMAP, unmap, &b));
}

int w_unmap1(struct wire *w, uint32_t space, uint64_t iova, uint64_t size) {
    return w_unmap(w, space, &(struct entry){.iova = iova, .size = size}, 1);
}

int w_unmap_all(struct wire *w, uint32_t space) {
    VfioBroker__Unmap b = VFIO_BROKER__UNMAP__INIT;
    b.space = space;
    b.all = 1;
    return wire_call(w, REQ(UNMAP, unmap, &b));
}

int w_claim(struct wire *w, const char *address, uint32_t *ret, int *ret_fd) {
    VfioBroker__DeviceClaim b = VFIO_BROKER__DEVICE_CLAIM__INIT;
    b.address = (char *)address;
    int r = wire_call(w, REQ(DEVICE_CLAIM, device_claim, &b));
    if (r)
        return r;
    CHECK(w->fd >= 0, "a claim without a fd");
    if (ret)
        *ret = w->reply->device_claim->device;
    if (ret_fd)
        *ret_fd = w->fd, w->fd = -1;
    return 0;
}

int w_bind(struct wire *w, uint32_t device) {
    VfioBroker__DeviceBind b = VFIO_BROKER__DEVICE_BIND__INIT;
    b.device = device;
    return wire_call(w, REQ(DEVICE_BIND, device_bind, &b));
}

int w_attach(struct wire *w, uint32_t device, uint32_t space) {
    VfioBroker__DeviceAttach b = VFIO_BROKER__DEVICE_ATTACH__INIT;
    b.device = device;
    b.space = space;
    return wire_call(w, REQ(DEVICE_ATTACH, device_attach, &b));
}

int w_detach(struct wire *w, uint32_t device) {
    VfioBroker__DeviceDetach b = VFIO_BROKER__DEVICE_DETACH__INIT;
    b.device = device;
    return wire_call(w, REQ(DEVICE_DETACH, device_detach, &b));
}

int w_release(struct wire *w, uint32_t device) {
    VfioBroker__DeviceRelease b = VFIO_BROKER__DEVICE_RELEASE__INIT;
    b.device = device;
    return wire_call(w, REQ(DEVICE_RELEASE, device_release, &b));
}

int w_inspect(struct wire *w, uint32_t kind, uint32_t session, uint64_t after) {
    VfioBroker__Inspect b = VFIO_BROKER__INSPECT__INIT;
    b.kind = (VfioBroker__InspectKind)kind;
    b.session = session;
    b.after = after;
    return wire_call(w, REQ(INSPECT, inspect, &b));
}

struct usage w_usage(struct wire *w) {
    expect(w_inspect(w, VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE, 0, 0), 0, "Inspect usage");
    const VfioBroker__UsageRow *u =
        w->reply->body_case == VFIO_BROKER__REPLY__BODY_INSPECT ? w->reply->inspect->usage : NULL;
    CHECK(u, "Inspect usage has no usage");
    return (struct usage){u->lease, u->used, u->mapped, u->mappings, u->memories, u->spaces, u->devices};
}

pid_t w_session_pid(struct wire *w) {
    expect(w_inspect(w, VFIO_BROKER__INSPECT_KIND__INSPECT_SESSIONS, 0, 0), 0, "Inspect sessions");
    for (size_t i = 0; i < w->reply->inspect->n_sessions; i++)
        if (w->reply->inspect->sessions[i]->client_pid == (uint32_t)getpid())
            return (pid_t)w->reply->inspect->sessions[i]->pid;
    fail("Inspect sessions does not list this session");
}

/* ---- things most tests begin with ---- */

int memfd(size_t size, unsigned char **ret_map) {
    int fd = memfd_create("hostile", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0, "memfd: %m");
    unsigned char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED, "mmap: %m");
    memset(p, 0x5a, size);
    if (ret_map)
        *ret_map = p;
    else
        munmap(p, size);
    return fd;
}

struct ready w_ready(struct wire *w, size_t size) {
    struct ready r = {0};

    r.fd = memfd(size, &r.map);
    expect(w_register(w, r.fd, true, &r.memory), 0, "register");
    expect(w_space(w, &r.space), 0, "space");
    return r;
}

int w_device(struct wire *w, const char *address, uint32_t space, uint32_t *ret_device) {
    uint32_t id;
    int fd, k;

    /* A session that has just ended may have it for a moment. */
    for (int i = 0; i < 100 && (k = w_claim(w, address, &id, &fd)) == ERR(BUSY); i++)
        sleep_ms(50);
    expect(k, 0, "claim of %s", address);
    expect(w_bind(w, id), 0, "bind");
    expect(w_attach(w, id, space), 0, "attach");
    if (ret_device)
        *ret_device = id;
    return fd;
}
