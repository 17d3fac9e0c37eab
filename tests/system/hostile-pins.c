/* Hostile use of tokens, accesses and pins. A client can pin in its own space, so one connection is enough for most. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hostile.h"

#define KIB  1024ul
#define IOVA 0x100000ul

/* Sends a request without waiting for its reply. Returns its id. */
static uint64_t send_only(struct wire *w, VfioBroker__Request *r) {
    static uint8_t buf[VB_PACKET_MAX];
    size_t n = wire_pack(w, r, buf, sizeof buf);

    CHECK(wire_raw(w, buf, n, NULL, 0) == 0, "send: %m");
    return r->id;
}

static int token(struct wire *w, uint32_t space, uint8_t secret[VB_TOKEN_SIZE]) {
    VfioBroker__TokenCreate b = VFIO_BROKER__TOKEN_CREATE__INIT;
    VfioBroker__Request r = VFIO_BROKER__REQUEST__INIT;

    b.space = space;
    b.last = UINT64_MAX;
    r.body_case = VFIO_BROKER__REQUEST__BODY_TOKEN_CREATE;
    r.token_create = &b;
    int k = wire_call(w, &r);
    if (k == 0)
        memcpy(secret, w->reply->token_create->secret.data, VB_TOKEN_SIZE);
    return k;
}

static int open_access(struct wire *w, uint8_t *secret, size_t size, uint32_t *ret) {
    VfioBroker__AccessOpen b = VFIO_BROKER__ACCESS_OPEN__INIT;
    VfioBroker__Request r = VFIO_BROKER__REQUEST__INIT;

    b.secret = (ProtobufCBinaryData){.len = size, .data = secret};
    r.body_case = VFIO_BROKER__REQUEST__BODY_ACCESS_OPEN;
    r.access_open = &b;
    int k = wire_call(w, &r);
    if (k == 0)
        *ret = w->reply->access_open->access;
    return k;
}

static int pin(struct wire *w, uint32_t access, uint64_t iova, uint64_t size, size_t n, uint32_t *ret) {
    static VfioBroker__PinEntry e[VB_PIN_BATCH + 1], *list[VB_PIN_BATCH + 1];
    VfioBroker__Pin b = VFIO_BROKER__PIN__INIT;
    VfioBroker__Request r = VFIO_BROKER__REQUEST__INIT;

    for (size_t i = 0; i < n; i++) {
        vfio_broker__pin_entry__init(&e[i]);
        e[i].iova = iova;
        e[i].size = size;
        e[i].prot = VFIO_BROKER__PROT__PROT_READ;
        list[i] = &e[i];
    }
    b.access = access;
    b.entries = list;
    b.n_entries = n;
    r.body_case = VFIO_BROKER__REQUEST__BODY_PIN;
    r.pin = &b;
    int k = wire_call(w, &r);
    if (k == 0 && ret)
        *ret = w->reply->pin->pins[0]->pin;
    return k;
}

static int unpin(struct wire *w, uint32_t access, uint32_t *pins, size_t n) {
    VfioBroker__Unpin b = VFIO_BROKER__UNPIN__INIT;
    VfioBroker__Request r = VFIO_BROKER__REQUEST__INIT;

    b.access = access;
    b.pins = pins;
    b.n_pins = n;
    r.body_case = VFIO_BROKER__REQUEST__BODY_UNPIN;
    r.unpin = &b;
    return wire_call(w, &r);
}

/* A memory mapped at IOVA, and an access of its owner to it. */
static struct ready own_access(struct wire *w, size_t size, uint8_t secret[VB_TOKEN_SIZE], uint32_t *ret_access) {
    wire_open(w);
    struct ready r = w_ready(w, size);
    expect(w_map1(w, r.space, r.memory, IOVA, size, 0), 0, "map");
    expect(token(w, r.space, secret), 0, "token");
    expect(open_access(w, secret, VB_TOKEN_SIZE, ret_access), 0, "access to one's own space");
    return r;
}

static void test_forged(void) {
    uint8_t secret[VB_TOKEN_SIZE], forged[2 * VB_TOKEN_SIZE];
    unsigned refused = 0;
    struct wire w;
    uint32_t access;

    own_access(&w, 64 * KIB, secret, &access);
    /* At every session there may be, the bystander's too. */
    for (unsigned i = 0; i < 300; i++) {
        for (unsigned k = 0; k < sizeof forged; k++)
            forged[k] = (uint8_t)rand();
        forged[0] = forged[1] = 0, forged[2] = (uint8_t)(i >> 8), forged[3] = (uint8_t)i;
        int r = open_access(&w, forged, VB_TOKEN_SIZE, &access);
        CHECK(r == ERR(DENIED) || r == ERR(UNAVAILABLE), "a forged token: %s", code_name(r));
        refused++;
    }
    for (size_t size = 0; size < sizeof forged; size += 13) {
        memcpy(forged, secret, VB_TOKEN_SIZE);
        expect(open_access(&w, forged, size == VB_TOKEN_SIZE ? 1 : size, &access), ERR(DENIED), "a secret of %zu bytes",
               size);
    }
    note("%u forged tokens refused\n", refused);
    wire_expect_alive(&w, "forged tokens");
    wire_close(&w);
}

static void test_too_many(void) {
    uint8_t secret[VB_TOKEN_SIZE], other[VB_TOKEN_SIZE];
    uint32_t access, more = 0, first = 0;
    unsigned n;
    struct wire w;

    struct ready r = own_access(&w, 64 * KIB, secret, &access);
    for (n = 1; token(&w, r.space, other) == 0; n++)
        CHECK(n <= VB_TOKENS_MAX, "tokens without end");
    expect(token(&w, r.space, other), ERR(LIMIT), "one token more");
    CHECK(n == VB_TOKENS_MAX, "%u tokens", n);
    for (n = 1; open_access(&w, secret, VB_TOKEN_SIZE, &more) == 0; n++)
        CHECK(n <= VB_ACCESSES_MAX, "accesses without end");
    CHECK(n == VB_ACCESSES_MAX, "%u accesses", n);
    for (n = 0; n < VB_PINS_MAX; n += VB_PIN_BATCH)
        expect(pin(&w, access, IOVA + 4096 * (n / VB_PIN_BATCH % 16), 1, VB_PIN_BATCH, n ? NULL : &first), 0,
               "pins from %u", n);
    expect(pin(&w, access, IOVA, 1, 1, NULL), ERR(LIMIT), "pin %u", n + 1);
    expect(unpin(&w, access, (uint32_t[]){first, first}, 2), 0, "the same pin twice");
    expect(unpin(&w, access, &first, 1), ERR(NOT_FOUND), "once more");
    expect(pin(&w, access, IOVA, 1, 2, NULL), ERR(LIMIT), "two pins where one has room");
    expect(pin(&w, access, IOVA, 1, 1, NULL), 0, "one pin where one has room");
    expect(pin(&w, access, IOVA, 1, VB_PIN_BATCH + 1, NULL), ERR(INVALID), "too large a batch");
    expect(pin(&w, access, IOVA, 1, 0, NULL), ERR(INVALID), "no pin at all");
    expect(unpin(&w, access, NULL, 0), ERR(INVALID), "no pin at all");
    expect(pin(&w, more + 1000, IOVA, 1, 1, NULL), ERR(NOT_FOUND), "no such access");
    wire_expect_alive(&w, "too many");
    wire_close(&w);
}

/* More unmaps of one pinned range than may wait; nobody ever unpins. */
static void test_parked(void) {
    enum { N = VB_PARKED_MAX + 20 };
    VfioBroker__UnmapEntry e = VFIO_BROKER__UNMAP_ENTRY__INIT, *list = &e;
    unsigned done = 0, busy = 0, nothing = 0;
    uint8_t secret[VB_TOKEN_SIZE];
    uint32_t access;
    struct wire w;

    struct ready r = own_access(&w, 64 * KIB, secret, &access);
    expect(pin(&w, access, IOVA, 1, 1, NULL), 0, "pin");
    for (unsigned i = 0; i < N; i++) {
        VfioBroker__Unmap b = VFIO_BROKER__UNMAP__INIT;
        VfioBroker__Request q = VFIO_BROKER__REQUEST__INIT;

        b.space = r.space;
        e.iova = IOVA;
        e.size = 64 * KIB;
        b.entries = &list;
        b.n_entries = 1;
        q.body_case = VFIO_BROKER__REQUEST__BODY_UNMAP;
        q.unmap = &b;
        send_only(&w, &q);
    }
    while (done + busy + nothing < N) {
        CHECK(wire_recv(&w, 10000) == 1, "%u + %u + %u of %u answers came", done, busy, nothing, N);
        if (w.reply->id == 0)
            continue; /* Invalidate, PinsLost */
        int code = w.reply->body_case == VFIO_BROKER__REPLY__BODY_ERROR ? (int)w.reply->error->code : 0;
        done += code == 0;
        busy += code == ERR(BUSY);
        nothing += code == ERR(NOT_FOUND);
        CHECK(code == 0 || code == ERR(BUSY) || code == ERR(NOT_FOUND), "%s", code_name(code));
    }
    CHECK(done == 1 && busy == N - VB_PARKED_MAX, "%u done, %u refused, %u found nothing", done, busy, nothing);
    CHECK(w_usage(&w).used == 0 && w_usage(&w).mappings == 0, "still mapped");
    wire_close(&w);
}

/* Pages that are not there are not brought in by pinning them; more than may be locked at a time is refused. */
static void test_pages(void) {
    uint8_t secret[VB_TOKEN_SIZE];
    uint32_t access;
    struct wire w;

    struct ready r = own_access(&w, 256 * KIB, secret, &access);
    CHECK(fallocate(r.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 64 * KIB) == 0, "punch: %m");
    expect(pin(&w, access, IOVA, 256 * KIB, 1, NULL), ERR(BAD_MEMORY), "pin of a hole");
    CHECK(ftruncate(r.fd, 4096) == 0, "truncate: %m");
    expect(pin(&w, access, IOVA, 256 * KIB, 1, NULL), ERR(BAD_MEMORY), "pin behind the end");
    expect(pin(&w, access, IOVA + 4096, UINT64_MAX - IOVA - 4095, 1, NULL), ERR(NOT_FOUND), "pin of all there is");
    if (world.iommufd)
        CHECK(proc_status(w_session_pid(&w), "VmLck") == 0, "%ld KiB are locked",
              proc_status(w_session_pid(&w), "VmLck"));
    wire_expect_alive(&w, "pages");
    wire_close(&w);
}

/* Somebody with a token pins, and dies, over and over, while the owner unmaps and maps. */
static struct { uint8_t secret[VB_TOKEN_SIZE]; } handed;

static void pin_and_die(void *arg) {
    struct wire w;
    uint32_t access;

    (void)arg;
    wire_open(&w);
    if (open_access(&w, handed.secret, VB_TOKEN_SIZE, &access) == 0)
        pin(&w, access, IOVA, 64 * KIB, 1, NULL);
    _exit(0); /* without a word */
}

static void test_deaths(void) {
    uint32_t access;
    struct wire w;
    unsigned unmapped = 0;

    struct ready r = own_access(&w, 64 * KIB, handed.secret, &access);
    for (unsigned i = 0; i < 60; i++) {
        pid_t p = spawn(A, pin_and_die, NULL);
        int k = w_unmap1(&w, r.space, IOVA, 64 * KIB);
        CHECK(k == 0, "unmap %u: %s", i, code_name(k));
        unmapped++;
        expect(w_map1(&w, r.space, r.memory, IOVA, 64 * KIB, 0), 0, "map %u", i);
        reap(p);
    }
    note("%u unmaps, each beside a pinner that dies\n", unmapped);
    CHECK(w_usage(&w).used == 64 * KIB, "%ju bytes paid", (uintmax_t)w_usage(&w).used);
    wire_close(&w);
}

const struct hostile_test pin_tests[] = {
    {"pins: forged tokens, at every session", test_forged, 0, 120},
    {"pins: more tokens, accesses and pins than there may be", test_too_many, 0, 0},
    {"pins: more requests that wait than may", test_parked, 0, 0},
    {"pins: holes, cut files, and everything", test_pages, 0, 0},
    {"pins: pinners that die", test_deaths, 0, 120},
    {NULL, NULL, 0, 0},
};
