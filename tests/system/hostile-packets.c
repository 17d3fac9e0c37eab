/* Hostile packets: what is no message, or not at that moment, or comes with the wrong fds. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hostile.h"

/* xorshift: the same bytes in every run. */
static void garbage(uint8_t *p, size_t n, uint32_t seed) {
    uint32_t x = seed * 2654435761u + 1;

    for (size_t i = 0; i < n; i++) {
        x ^= x << 13, x ^= x >> 17, x ^= x << 5;
        p[i] = (uint8_t)x;
    }
}

/* Sends it as one packet; the connection must end. */
static void send_and_end(struct wire *w, const void *data, size_t size, const char *what) {
    int r = wire_raw(w, data, size, NULL, 0);

    CHECK(r == 0 || r == -EPIPE || r == -ECONNRESET, "%s: send: %s", what, strerror(-r));
    wire_expect_end(w, what);
    wire_close(w);
}

static void test_garbage_first(void) {
    static uint8_t buf[VB_PACKET_MAX];
    static const size_t sizes[] = {1, 2, 7, 64, 4096, VB_PACKET_MAX};

    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct wire w;

        wire_connect(&w);
        garbage(buf, sizes[i], i + 1);
        send_and_end(&w, buf, sizes[i], "garbage");
    }
}

static void test_garbage_later(void) {
    static uint8_t buf[VB_PACKET_MAX];
    static const size_t sizes[] = {1, 64, 4096, VB_PACKET_MAX};

    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct wire w;

        wire_open(&w);
        garbage(buf, sizes[i], i + 100);
        buf[0] = 0xff; /* no field has this number, and the wire type does not exist */
        send_and_end(&w, buf, sizes[i], "garbage after Hello");
    }
}

static void test_empty(void) {
    for (int hello = 0; hello < 2; hello++) {
        struct wire w;

        if (hello)
            wire_open(&w);
        else
            wire_connect(&w);
        send_and_end(&w, "", 0, "an empty packet");
    }
}

static void test_oversized(void) {
    static uint8_t buf[200000];
    static const size_t sizes[] = {VB_PACKET_MAX + 1, 100000, sizeof buf};

    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int hello = 0; hello < 2; hello++) {
            struct wire w;

            if (hello)
                wire_open(&w);
            else
                wire_connect(&w);
            send_and_end(&w, buf, sizes[i], "an oversized packet");
        }
}

/* A good Map of two entries, cut after every byte: nothing of it may be done. */
static void test_truncated(void) {
    struct wire w;
    uint8_t buf[256];
    VfioBroker__MapEntry e[2] = {VFIO_BROKER__MAP_ENTRY__INIT, VFIO_BROKER__MAP_ENTRY__INIT}, *pe[2] = {&e[0], &e[1]};
    VfioBroker__Map map = VFIO_BROKER__MAP__INIT;
    VfioBroker__Request r = VFIO_BROKER__REQUEST__INIT;

    map.space = 1, map.n_entries = 2, map.entries = pe;
    for (int i = 0; i < 2; i++)
        e[i].iova = 0x100000u * (unsigned)(i + 1), e[i].size = 4096, e[i].memory = 1, e[i].prot = 3;
    r.body_case = VFIO_BROKER__REQUEST__BODY_MAP, r.map = &map;
    wire_open(&w);
    size_t n = wire_pack(&w, &r, buf, sizeof buf);
    wire_close(&w);
    unsigned ended = 0;
    /* Cut inside id, between fields, inside the body: 8 places are enough, each costs a session. */
    for (size_t cut = 1; cut < n; cut += cut < 5 ? 1 : n / 5) {
        wire_open(&w);
        struct ready m = w_ready(&w, 8192);
        CHECK(m.memory == 1 && m.space == 1, "ids do not begin at 1");
        int k = wire_raw(&w, buf, cut, NULL, 0);
        CHECK(k == 0, "send: %s", strerror(-k));
        k = wire_recv(&w, 20000);
        CHECK(k >= 0, "cut at %zu: no answer", cut);
        if (k == 1) {
            CHECK(w.reply->body_case == VFIO_BROKER__REPLY__BODY_ERROR, "cut at %zu of %zu: was done", cut, n);
            if (w.reply->error->code == VFIO_BROKER__ERROR_CODE__ERROR_PROTOCOL) {
                wire_expect_end(&w, "a cut packet");
                ended++;
            }
        } else {
            ended++;
        }
        wire_close(&w);
        close(m.fd);
    }
    CHECK(ended > 3, "only %u cut packets ended the connection", ended);
}

/* 32,000 empty entries in 64 KiB decode into megabytes. */
static void test_bomb(void) {
    static uint8_t buf[VB_PACKET_MAX];
    struct wire w;
    size_t n = 0, body = 60000;

    wire_open(&w);
    pid_t session = w_session_pid(&w);
    long rss = proc_status(session, "VmRSS");
    buf[n++] = 1 << 3, buf[n++] = 9; /* id */
    buf[n++] = 8 << 3 | 2;           /* map, length-delimited */
    for (size_t v = body; v; v >>= 7)
        buf[n++] = (uint8_t)((v & 127) | (v > 127 ? 128 : 0));
    for (size_t i = 0; i < body; i += 2)
        buf[n + i] = 2 << 3 | 2, buf[n + i + 1] = 0; /* one empty entry */
    int r = wire_raw(&w, buf, n + body, NULL, 0);
    CHECK(r == 0, "send: %s", strerror(-r));
    r = wire_recv(&w, 20000);
    CHECK(r >= 0, "no answer to a decode bomb");
    if (r == 1)
        CHECK(w.reply->body_case == VFIO_BROKER__REPLY__BODY_ERROR, "a decode bomb was carried out");
    long after = proc_status(session, "VmRSS");
    CHECK(after < rss + GROWTH_KIB, "the session grew from %ld to %ld KiB", rss, after);
    wire_close(&w);

    /* Nothing but unknown fields. */
    wire_open(&w);
    n = 0;
    buf[n++] = 1 << 3, buf[n++] = 9;
    while (n + 3 < sizeof buf)
        buf[n++] = 0xf8, buf[n++] = 0x06, buf[n++] = 0; /* field 111, varint 0 */
    r = wire_raw(&w, buf, n, NULL, 0);
    CHECK(r == 0, "send: %s", strerror(-r));
    r = wire_recv(&w, 20000);
    CHECK(r >= 0, "no answer to a packet of unknown fields");
    if (r == 1)
        CHECK(w.reply->body_case == VFIO_BROKER__REPLY__BODY_ERROR, "a packet of unknown fields was carried out");
    wire_close(&w);
}

static void test_unknown_request(void) {
    struct wire w;
    /* id 77, field 100 (length-delimited, 3 bytes); then id 78 and nothing else. */
    static const uint8_t unknown[] = {1 << 3, 77, 0xa2, 0x06, 3, 1, 2, 3}, none[] = {1 << 3, 78};

    wire_open(&w);
    for (int i = 0; i < 2; i++) {
        int r = wire_raw(&w, i ? none : unknown, i ? sizeof none : sizeof unknown, NULL, 0);
        CHECK(r == 0, "send: %s", strerror(-r));
        r = wire_recv(&w, 20000);
        CHECK(r == 1 && w.reply->id == (i ? 78u : 77u) && w.reply->body_case == VFIO_BROKER__REPLY__BODY_ERROR,
              "an unknown request has no error as its reply");
        expect((int)w.reply->error->code, ERR(UNSUPPORTED), i ? "a request without body" : "an unknown request");
        wire_expect_alive(&w, "after an unknown request");
    }
    wire_close(&w);
}

static void test_no_id(void) {
    struct wire w;
    static const uint8_t req[] = {5 << 3 | 2, 0}; /* SpaceCreate, id 0 */

    wire_open(&w);
    send_and_end(&w, req, sizeof req, "a request with id 0");
}

static VfioBroker__Request *a_request(unsigned i) {
    static VfioBroker__Request r;
    static VfioBroker__MemoryUnregister mu;
    static VfioBroker__SpaceCreate sc;
    static VfioBroker__SpaceDestroy sd;
    static VfioBroker__SpaceDescribe si;
    static VfioBroker__Map m;
    static VfioBroker__Unmap u;
    static VfioBroker__DeviceClaim dc;
    static VfioBroker__DeviceBind db;
    static VfioBroker__DeviceAttach da;
    static VfioBroker__DeviceDetach dd;
    static VfioBroker__DeviceRelease dr;
    static VfioBroker__Inspect in;

    vfio_broker__request__init(&r);
    switch (i) {
#define CASE(n, CASE_NAME, member, var, init)                                                                          \
    case n:                                                                                                            \
        vfio_broker__##init##__init(&var);                                                                             \
        r.body_case = VFIO_BROKER__REQUEST__BODY_##CASE_NAME;                                                          \
        r.member = &var;                                                                                               \
        return &r;
        CASE(0, MEMORY_UNREGISTER, memory_unregister, mu, memory_unregister)
        CASE(1, SPACE_CREATE, space_create, sc, space_create)
        CASE(2, SPACE_DESTROY, space_destroy, sd, space_destroy)
        CASE(3, SPACE_DESCRIBE, space_describe, si, space_describe)
        CASE(4, MAP, map, m, map)
        CASE(5, UNMAP, unmap, u, unmap)
        CASE(6, DEVICE_CLAIM, device_claim, dc, device_claim)
        CASE(7, DEVICE_BIND, device_bind, db, device_bind)
        CASE(8, DEVICE_ATTACH, device_attach, da, device_attach)
        CASE(9, DEVICE_DETACH, device_detach, dd, device_detach)
        CASE(10, DEVICE_RELEASE, device_release, dr, device_release)
        CASE(11, INSPECT, inspect, in, inspect)
#undef CASE
    }
    return NULL;
}

static void expect_protocol(struct wire *w, int r, const char *what) {
    CHECK(r == ERR(PROTOCOL) || r == -EPIPE, "%s: %s, not a protocol error", what, code_name(r));
    if (r == ERR(PROTOCOL))
        wire_expect_end(w, what);
    wire_close(w);
}

static void test_before_hello(void) {
    VfioBroker__Request *r;
    struct wire w;

    for (unsigned i = 0; (r = a_request(i)); i++) {
        wire_connect(&w);
        expect_protocol(&w, wire_call(&w, r),
                        r->body_case == VFIO_BROKER__REQUEST__BODY_MAP ? "Map before Hello" : "a request before Hello");
    }
    wire_connect(&w);
    int fd = memfd(4096, NULL);
    expect_protocol(&w, w_register(&w, fd, true, NULL), "MemoryRegister before Hello");
    close(fd);
}

static void test_hello_twice(void) {
    struct wire w;

    wire_open(&w);
    int r = w_hello(&w, 1, "again");
    CHECK(r == ERR(PROTOCOL) || r == ERR(STATE) || r == -EPIPE, "a second Hello: %s", code_name(r));
    if (r == ERR(STATE))
        wire_expect_alive(&w, "after a second Hello");
    wire_close(&w);
}

static void test_hello_numbers(void) {
    struct wire w;
    char name[4096];

    wire_connect(&w);
    expect(w_hello(&w, 0xffffffff, "newer"), 0, "Hello of a newer client");
    CHECK(w.reply->hello->version == VB_PROTOCOL_VERSION, "version %u is spoken", w.reply->hello->version);
    wire_close(&w);

    wire_connect(&w);
    int r = w_hello(&w, 0, "version 0");
    CHECK(r == ERR(PROTOCOL) || r == ERR(UNSUPPORTED) || r == ERR(INVALID) || r == -EPIPE, "version 0: %s",
          code_name(r));
    wire_close(&w);

    static const char *const names[] = {"\033[31mred", "two\nlines", "\"}, {\"", "\xc3\x28 not UTF-8", "%s%s%n"};
    for (unsigned i = 0; i <= sizeof names / sizeof *names; i++) {
        memset(name, 'x', sizeof name), name[sizeof name - 1] = 0;
        wire_connect(&w);
        r = w_hello(&w, 1, i < sizeof names / sizeof *names ? names[i] : name);
        CHECK(r == 0 || r == ERR(INVALID) || r == ERR(PROTOCOL) || r == -EPIPE, "a strange name: %s", code_name(r));
        if (r == 0) {
            expect(w_inspect(&w, VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE, 0, 0), 0, "usage");
            const char *p = w.reply->inspect->usage->name;
            CHECK(strlen(p) <= VB_NAME_MAX, "a name of %zu characters is kept", strlen(p));
            for (; *p; p++)
                CHECK(*p >= ' ' && *p <= '~', "an unprintable name is kept");
        }
        wire_close(&w);
    }
}

static void test_fds_where_none(void) {
    VfioBroker__Request *r;
    struct wire w;
    int fd = memfd(4096, NULL);

    for (unsigned i = 0; (r = a_request(i)); i++) {
        wire_open(&w);
        expect_protocol(&w, wire_call_fds(&w, r, &fd, 1), "a fd with a request that takes none");
    }
    VfioBroker__Hello hello = VFIO_BROKER__HELLO__INIT;
    VfioBroker__Request h = VFIO_BROKER__REQUEST__INIT;
    hello.version = 1;
    h.body_case = VFIO_BROKER__REQUEST__BODY_HELLO, h.hello = &hello;
    wire_connect(&w);
    expect_protocol(&w, wire_call_fds(&w, &h, &fd, 1), "a fd with Hello");
    close(fd);
}

static void register_with(const int *fds, unsigned n) {
    VfioBroker__MemoryRegister b = VFIO_BROKER__MEMORY_REGISTER__INIT;
    VfioBroker__Request r = VFIO_BROKER__REQUEST__INIT;
    struct wire w;

    r.body_case = VFIO_BROKER__REQUEST__BODY_MEMORY_REGISTER, r.memory_register = &b;
    wire_open(&w);
    expect_protocol(&w, wire_call_fds(&w, &r, fds, n), n ? "too many fds" : "too few fds");
}

/* More than our own sender lets through: the receiver's MSG_CTRUNC. */
static void send_253(void) {
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(253 * sizeof(int))];
    } c = {0};
    struct wire w;
    struct iovec iov = {(void *)"x", 1};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = c.room, .msg_controllen = sizeof c.room};
    int fd = eventfd(0, EFD_CLOEXEC);

    CMSG_FIRSTHDR(&h)->cmsg_level = SOL_SOCKET;
    CMSG_FIRSTHDR(&h)->cmsg_type = SCM_RIGHTS;
    CMSG_FIRSTHDR(&h)->cmsg_len = CMSG_LEN(253 * sizeof(int));
    for (int i = 0; i < 253; i++)
        memcpy(CMSG_DATA(CMSG_FIRSTHDR(&h)) + (size_t)i * sizeof(int), &fd, sizeof fd);
    for (int hello = 0; hello < 2; hello++) {
        if (hello)
            wire_open(&w);
        else
            wire_connect(&w);
        CHECK(sendmsg(w.sock, &h, MSG_NOSIGNAL) == 1, "sendmsg: %m");
        wire_expect_end(&w, "253 fds");
        wire_close(&w);
    }
    close(fd);
}

static void test_number_of_fds(void) {
    int fds[VB_PACKET_FDS];

    for (unsigned i = 0; i < VB_PACKET_FDS; i++)
        fds[i] = memfd(4096, NULL);
    register_with(NULL, 0);
    register_with(fds, 2);
    register_with(fds, VB_PACKET_FDS);
    send_253();
    for (unsigned i = 0; i < VB_PACKET_FDS; i++)
        close(fds[i]);
}

/* A socket whose queue holds its own end: only the kernel's collector frees it when nobody else has it. */
static void test_socket_cycle(void) {
    struct wire w;

    wire_open(&w);
    for (int i = 0; i < 50; i++)
        expect(w_register(&w, w.sock, true, NULL), ERR(BAD_MEMORY), "the connection itself as memory");
    wire_expect_alive(&w, "after its own socket was sent");
    wire_close(&w);
}

const struct hostile_test packet_tests[] = {
    {"packets: garbage instead of Hello", test_garbage_first, 0, 0},
    {"packets: garbage after Hello", test_garbage_later, 0, 0},
    {"packets: empty", test_empty, 0, 0},
    {"packets: oversized", test_oversized, 0, 0},
    {"packets: a request cut anywhere", test_truncated, 0, 0},
    {"packets: small ones that decode into much", test_bomb, 0, 0},
    {"packets: an unknown request is refused, the connection goes on", test_unknown_request, 0, 0},
    {"packets: a request without id", test_no_id, 0, 0},
    {"packets: requests before Hello", test_before_hello, 0, 0},
    {"packets: Hello twice", test_hello_twice, 0, 0},
    {"packets: strange versions and names in Hello", test_hello_numbers, 0, 0},
    {"packets: a fd with a request that takes none", test_fds_where_none, 0, 0},
    {"packets: too few and too many fds", test_number_of_fds, 0, 0},
    {"packets: the connection's own socket as memory", test_socket_cycle, 0, 0},
    {NULL, NULL, 0, 0},
};
