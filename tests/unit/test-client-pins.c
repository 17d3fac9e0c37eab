/* libvfio-broker's tokens, accesses and pins: what is sent, what comes back, whose the fds are, and replies that lie. */
#include "config.h"

#include "client/client-private.h"
#include "fake-broker.h"

/* ---- in the script --------------------------------------------------------------------------------------------- */

#define MAX_PINS 66
struct answer {
    VfioBroker__PinReply m;
    VfioBroker__Pinned pins[MAX_PINS], *pin_ptrs[MAX_PINS];
    VfioBroker__PinSegment segments[MAX_PINS][18], *segment_ptrs[MAX_PINS][18];
    uint32_t memories[300];
    int fds[VB_PACKET_FDS];
    unsigned n_fds;
};

static void init(struct answer *a) {
    *a = (struct answer){.m = VFIO_BROKER__PIN_REPLY__INIT};
    a->m.pins = a->pin_ptrs;
    a->m.memories = a->memories;
    for (int i = 0; i < MAX_PINS; i++) {
        vfio_broker__pinned__init(&a->pins[i]);
        a->pin_ptrs[i] = &a->pins[i];
        a->pins[i].segments = a->segment_ptrs[i];
        for (int k = 0; k < 18; k++) {
            vfio_broker__pin_segment__init(&a->segments[i][k]);
            a->segment_ptrs[i][k] = &a->segments[i][k];
        }
    }
}

static void add_pin(struct answer *a, uint32_t id) {
    a->pins[a->m.n_pins++].pin = id;
}

/* To the last pin. */
static void add_segment(struct answer *a, uint64_t iova, uint64_t size, uint64_t offset, uint32_t memory) {
    VfioBroker__Pinned *pin = &a->pins[a->m.n_pins - 1];
    VfioBroker__PinSegment *s = pin->segments[pin->n_segments++];
    s->iova = iova;
    s->size = size;
    s->offset = offset;
    s->memory = memory;
}

static void add_memory(struct answer *a, uint32_t memory, int fd) {
    a->memories[a->m.n_memories++] = memory;
    a->fds[a->n_fds++] = fd;
}

static void send_answer(int s, uint64_t id, struct answer *a) {
    VfioBroker__Reply m = VFIO_BROKER__REPLY__INIT;
    m.id = id;
    m.body_case = VFIO_BROKER__REPLY__BODY_PIN;
    m.pin = &a->m;
    put_fds(s, &m, a->fds, a->n_fds);
}

/* ---- tokens ---------------------------------------------------------------------------------------------------- */

static void script_tokens(int s, int i) {
    greet(s);
    for (int k = 0; k < 3; k++) {
        VfioBroker__Request *req = expect(s, VFIO_BROKER__REQUEST__BODY_TOKEN_CREATE);
        if (k == 0) {
            CHECK(req->token_create->space == 3 && req->token_create->first == 0x1000);
            CHECK(req->token_create->last == UINT64_MAX && strcmp(req->token_create->name, "disk 0") == 0);
        }
        if (k == 1) {
            CHECK(req->token_create->name[0] == 0);
            put_error(s, req->id, VFB_NOT_FOUND, "no space 4");
            continue;
        }
        uint8_t bytes[VFB_TOKEN_SIZE + 1];
        REPLY(m, TOKEN_CREATE, token_create, TokenCreateReply, TOKEN_CREATE_REPLY);
        m.id = req->id;
        m_body.token = 7;
        memcpy(bytes, secret, VFB_TOKEN_SIZE);
        m_body.secret.data = bytes;
        m_body.secret.len = k == 0 ? VFB_TOKEN_SIZE : i == 0 ? VFB_TOKEN_SIZE + 1 : i == 1 ? VFB_TOKEN_SIZE - 1 : 0;
        m_body.warning = "what was handed out\nstays";
        put(s, &m);
        if (k == 0) {
            req = expect(s, VFIO_BROKER__REQUEST__BODY_TOKEN_REVOKE);
            CHECK(req->token_revoke->token == 7);
            put_done(s, req->id);
        }
    }
    CHECK(!get(s));
}

static void test_tokens(void **state) {
    (void)state;
    start(script_tokens, 3);
    for (int i = 0; i < 3; i++) {
        struct vfb_client *c = connected();
        struct vfb_token t = {.id = 1}, none = {.id = 99};
        char name[65];
        memset(name, 'x', 64);
        name[64] = 0;
        assert_int_equal(vfb_token_create(c, 3, 0x1000, UINT64_MAX, name, &none), VFB_INVALID);
        assert_int_equal(vfb_token_create(c, 3, 0x1000, UINT64_MAX, "disk 0", &t), 0);
        assert_int_equal(t.id, 7);
        assert_memory_equal(t.secret, secret, VFB_TOKEN_SIZE);
        assert_string_equal(t.warning, "what was handed out?stays");
        assert_int_equal(vfb_token_revoke(c, 7), 0);
        assert_int_equal(vfb_token_create(c, 4, 0, 1, NULL, &none), VFB_NOT_FOUND);
        assert_int_equal(vfb_token_create(c, 3, 0, 1, NULL, &none), VFB_PROTOCOL); /* a secret of another size */
        assert_int_equal(none.id, 99);
        assert_int_equal(vfb_token_revoke(c, 7), -EPIPE);
        vfb_client_free(c);
    }
    stop();
}

/* ---- pins ------------------------------------------------------------------------------------------------------ */

static void script_pins(int s, int i) {
    struct answer a;
    (void)i;
    greet(s);
    serve_open(s, 5);
    serve_open(s, 6);
    VfioBroker__Request *req = expect(s, VFIO_BROKER__REQUEST__BODY_PIN);
    CHECK(req->pin->access == 5 && req->pin->n_entries == 2);
    CHECK(req->pin->entries[0]->iova == 0x1000 && req->pin->entries[0]->size == 0x3000);
    CHECK(req->pin->entries[0]->prot == 3 && req->pin->entries[1]->prot == 1);
    CHECK(req->pin->entries[1]->iova == UINT64_MAX - 0xfff && req->pin->entries[1]->size == 0x1000);
    int one = numbered(1), two = numbered(2);
    init(&a);
    add_pin(&a, 50);
    add_segment(&a, 0x1000, 0x1000, 0x1000, 1);
    add_segment(&a, 0x2000, 0x2000, 0x1000, 2);
    add_pin(&a, 51);
    add_segment(&a, UINT64_MAX - 0xfff, 0x1000, 0, 1);
    add_memory(&a, 2, two);
    add_memory(&a, 1, one);
    send_answer(s, req->id, &a);
    req = expect(s, VFIO_BROKER__REQUEST__BODY_PIN); /* nothing new comes with it */
    CHECK(req->pin->access == 5 && req->pin->n_entries == 1);
    put_pin(s, req->id, 52, 2, -1);
    req = expect(s, VFIO_BROKER__REQUEST__BODY_PIN); /* the same memory for another access */
    CHECK(req->pin->access == 6);
    put_pin(s, req->id, 50, 2, two);
    req = expect(s, VFIO_BROKER__REQUEST__BODY_PIN);
    put_error(s, req->id, VFB_DENIED, "outside the token's range");
    req = expect(s, VFIO_BROKER__REQUEST__BODY_UNPIN);
    CHECK(req->unpin->access == 5 && req->unpin->n_pins == 2);
    CHECK(req->unpin->pins[0] == 50 && req->unpin->pins[1] == 52);
    put_done(s, req->id);
    req = expect(s, VFIO_BROKER__REQUEST__BODY_ACCESS_CLOSE);
    put_error(s, req->id, VFB_UNAVAILABLE, "not now");
    req = expect(s, VFIO_BROKER__REQUEST__BODY_ACCESS_CLOSE);
    CHECK(req->access_close->access == 5);
    put_done(s, req->id);
    CHECK(!get(s));
}

static uint32_t read_number(int fd, uint64_t offset) {
    uint32_t n = 0;
    assert_int_equal(pread(fd, &n, sizeof n, (off_t)offset), sizeof n);
    return n;
}

static void test_pins(void **state) {
    (void)state;
    start(script_pins, 1);
    struct vfb_client *c = connected();
    struct vfb_access a, b;
    struct vfb_pin pins[2], other, none = {.id = 99};
    const struct vfb_pin_range ranges[2] = {{0x1000, 0x3000, 3}, {UINT64_MAX - 0xfff, 0x1000, 1}};
    int before = count_fds();
    assert_int_equal(vfb_access_open(c, secret, &a), 0);
    assert_int_equal(vfb_access_open(c, secret, &b), 0);
    assert_int_equal(a.id, 5);
    assert_true(a.range.first == 0x1000 && a.range.last == UINT64_MAX);
    assert_string_equal(a.name, "disk? 0");
    assert_string_equal(a.warning, "an fd cannot be taken back");
    assert_int_equal(count_fds(), before);
    assert_int_equal(vfb_pin(c, 5, ranges, 2, pins), 0);
    assert_int_equal(count_fds(), before + 2);
    assert_int_equal(pins[0].id, 50);
    assert_int_equal(pins[0].n_segments, 2);
    assert_true(pins[0].segments[1].iova == 0x2000 && pins[0].segments[1].size == 0x2000);
    assert_int_equal(read_number(pins[0].segments[0].fd, pins[0].segments[0].offset), 1);
    assert_int_equal(read_number(pins[0].segments[1].fd, pins[0].segments[1].offset), 2);
    assert_int_equal(fcntl(pins[0].segments[0].fd, F_GETFD), FD_CLOEXEC);
    assert_int_equal(pins[1].id, 51);
    assert_int_equal(pins[1].segments[0].fd, pins[0].segments[0].fd);
    assert_int_equal(vfb_pin(c, 5, &simple, 1, &other), 0);
    assert_int_equal(other.segments[0].fd, pins[0].segments[1].fd);
    assert_int_equal(count_fds(), before + 2);
    assert_int_equal(vfb_pin(c, 6, &simple, 1, &other), 0);
    assert_int_not_equal(other.segments[0].fd, pins[0].segments[1].fd); /* each access has its own */
    assert_int_equal(read_number(other.segments[0].fd, 0x1000), 2);
    assert_int_equal(count_fds(), before + 3);
    /* refused here */
    static struct vfb_pin_range many[65];
    static uint32_t ids[65];
    assert_int_equal(vfb_pin(c, 5, &simple, 0, &none), VFB_INVALID);
    assert_int_equal(vfb_pin(c, 5, many, 65, &none), VFB_INVALID);
    assert_non_null(strstr(vfb_error(c)->text, "64"));
    assert_int_equal(vfb_pin(c, 7, &simple, 1, &none), VFB_NOT_FOUND);
    assert_int_equal(vfb_unpin(c, 5, ids, 0), VFB_INVALID);
    assert_int_equal(vfb_unpin(c, 5, ids, 65), VFB_INVALID);
    assert_int_equal(vfb_unpin(c, 5, NULL, 1), VFB_INVALID);
    /* and there */
    assert_int_equal(vfb_pin(c, 5, &simple, 1, &none), VFB_DENIED);
    assert_int_equal(none.id, 99);
    assert_int_equal(vfb_unpin(c, 5, (uint32_t[]){50, 52}, 2), 0);
    assert_int_equal(vfb_access_close(c, 5), VFB_UNAVAILABLE);
    assert_int_equal(count_fds(), before + 3);
    assert_int_equal(vfb_access_close(c, 5), 0);
    assert_int_equal(count_fds(), before + 1);
    assert_int_equal(vfb_pin(c, 5, &simple, 1, &none), VFB_NOT_FOUND);
    vfb_client_free(c); /* with access 6 and its fd */
    assert_int_equal(count_fds(), before - 1);
    stop();
}

/* ---- replies that lie ------------------------------------------------------------------------------------------ */

static void lie(struct answer *a, int i, int fd) {
    VfioBroker__PinSegment *s = a->segments[0];
    switch (i) {
    case 0: /* a memory that never came */
        s[1].memory = 77;
        break;
    case 1: /* the same memory twice in one packet */
        add_memory(a, 3, fd);
        add_memory(a, 3, fd);
        break;
    case 2: /* one that this access has */
        add_memory(a, 1, fd);
        break;
    case 3: /* fewer fds than memories */
        a->memories[a->m.n_memories++] = 3;
        break;
    case 4: /* more */
        a->fds[a->n_fds++] = fd;
        break;
    case 5: /* no pins */
        a->m.n_pins = 0;
        break;
    case 6: /* more than asked */
        add_pin(a, 2);
        add_segment(a, 0x1000, 0x3000, 0, 1);
        break;
    case 7: /* too many segments: 17 that would add up */
        a->pins[0].n_segments = 17;
        for (unsigned k = 0; k < 17; k++)
            s[k] = (VfioBroker__PinSegment){
                .base = s[0].base, .iova = 0x1000 + k * 0x100, .size = k < 16 ? 0x100 : 0x2000, .memory = 1};
        break;
    case 8: /* none */
        a->pins[0].n_segments = 0;
        break;
    case 9: /* too short */
        s[2].size -= 1;
        break;
    case 10: /* too long */
        s[2].size += 1;
        break;
    case 11: /* a gap */
        s[1].iova += 1;
        break;
    case 12: /* not in order */
        s[1].iova = 0x3000, s[2].iova = 0x2000;
        break;
    case 13: /* not at the beginning */
        s[0].iova = 0;
        break;
    case 14: /* an empty one, and the sum is right */
        s[1].size = 0, s[2].iova = 0x2000, s[2].size = 0x2000;
        break;
    case 15: /* the sum is right modulo 2^64 */
        s[1].size = UINT64_MAX - 0xfff, s[2].iova = 0x1000, s[2].size = 0x3000;
        break;
    case 16: /* no file is that large */
        s[1].offset = UINT64_MAX;
        break;
    case 17:
        s[1].offset = (uint64_t)INT64_MAX - 0xffe;
        break;
    case 18: /* the whole range, and more segments */
        s[0].size = 0x3000;
        break;
    case 19: /* a lie in the second of two, after fds */
        add_memory(a, 3, fd);
        s[2].memory = 4;
        break;
    }
}
enum { LIES = 20 };

static void script_lies(int s, int i) {
    struct answer a;
    int fd = numbered(1);
    greet(s);
    serve_open(s, 5);
    VfioBroker__Request *req = expect(s, VFIO_BROKER__REQUEST__BODY_PIN);
    put_pin(s, req->id, 1, 1, fd);
    req = expect(s, VFIO_BROKER__REQUEST__BODY_PIN);
    init(&a);
    add_pin(&a, 2);
    for (unsigned k = 0; k < 3; k++)
        add_segment(&a, 0x1000 + k * 0x1000, 0x1000, 0, 1);
    if (i < LIES)
        lie(&a, i, fd);
    send_answer(s, req->id, &a);
    close(fd);
    CHECK(!get(s)); /* the library hangs up */
}

static void test_lies(void **state) {
    (void)state;
    const struct vfb_pin_range range = {.iova = 0x1000, .size = 0x3000, .prot = VFB_READ};
    start(script_lies, LIES + 1);
    for (int i = 0; i <= LIES; i++) {
        struct vfb_client *c = connected();
        struct vfb_access a;
        struct vfb_pin pin, none = {.id = 99};
        assert_int_equal(vfb_access_open(c, secret, &a), 0);
        assert_int_equal(vfb_pin(c, 5, &simple, 1, &pin), 0);
        int before = count_fds();
        int r = vfb_pin(c, 5, &range, 1, &none);
        assert_int_equal(count_fds(), before);
        if (i == LIES) { /* the script's own answer is good */
            assert_int_equal(r, 0);
        } else {
            assert_int_equal(r, VFB_PROTOCOL);
            assert_int_equal(vfb_error(c)->code, VFB_PROTOCOL);
            assert_true(strlen(vfb_error(c)->text) > 10);
            assert_int_equal(none.id, 99);
            assert_int_equal(vfb_pin(c, 5, &range, 1, &none), -EPIPE);
            assert_int_equal(vfb_access_close(c, 5), -EPIPE);
            assert_int_equal(read_number(pin.segments[0].fd, 0x1000), 1); /* what was there before stays open */
        }
        vfb_client_free(c);
    }
    stop();
}

/* 256 memories fill an access; one more is too much, however it comes. */
static void script_full(int s, int i) {
    struct answer a;
    int fd = numbered(1);
    greet(s);
    serve_open(s, 5);
    for (uint32_t k = 0; k < 17; k++) {
        VfioBroker__Request *req = expect(s, VFIO_BROKER__REQUEST__BODY_PIN);
        init(&a);
        add_pin(&a, k);
        add_segment(&a, 0x1000, 0x1000, 0, 1);
        for (uint32_t j = 0; j < 16 && (k < 16 || i == 0); j++)
            add_memory(&a, 1 + k * 16 + j, fd);
        if (k == 16 && i == 1) /* named without fds: a size_t must not wrap */
            a.m.n_memories = 300;
        send_answer(s, req->id, &a);
    }
    close(fd);
    CHECK(!get(s));
}

static void test_full(void **state) {
    (void)state;
    start(script_full, 2);
    for (int i = 0; i < 2; i++) {
        struct vfb_client *c = connected();
        struct vfb_access a;
        struct vfb_pin pin;
        assert_int_equal(vfb_access_open(c, secret, &a), 0);
        int before = count_fds();
        for (int k = 0; k < 16; k++)
            assert_int_equal(vfb_pin(c, 5, &simple, 1, &pin), 0);
        assert_int_equal(count_fds(), before + 256);
        assert_int_equal(vfb_pin(c, 5, &simple, 1, &pin), VFB_PROTOCOL);
        assert_int_equal(count_fds(), before + 256);
        vfb_client_free(c);
    }
    stop();
}

/* ---- accesses -------------------------------------------------------------------------------------------------- */

static void script_accesses(int s, int i) {
    greet(s);
    if (i == 0) {
        for (uint32_t k = 1; k <= VB_ACCESSES_MAX; k++)
            serve_open(s, k);
        VfioBroker__Request *req = expect(s, VFIO_BROKER__REQUEST__BODY_ACCESS_CLOSE);
        put_done(s, req->id);
        req = expect(s, VFIO_BROKER__REQUEST__BODY_ACCESS_OPEN);
        put_error(s, req->id, VFB_DENIED, "no such token");
        serve_open(s, 65);
    } else if (i == 1) {
        serve_open(s, 4);
        serve_open(s, 4); /* again */
    } else {
        VfioBroker__Request *req = expect(s, VFIO_BROKER__REQUEST__BODY_ACCESS_OPEN);
        REPLY(m, ACCESS_OPEN, access_open, AccessOpenReply, ACCESS_OPEN_REPLY);
        m.id = req->id;
        m_body.first = 2;
        m_body.last = 1;
        put(s, &m);
    }
    CHECK(!get(s));
}

static void test_accesses(void **state) {
    (void)state;
    struct vfb_access a, none = {.id = 99};
    start(script_accesses, 3);
    struct vfb_client *c = connected();
    for (uint32_t k = 1; k <= VB_ACCESSES_MAX; k++) {
        assert_int_equal(vfb_access_open(c, secret, &a), 0);
        assert_int_equal(a.id, k);
    }
    assert_int_equal(vfb_access_open(c, secret, &none), VFB_LIMIT);
    assert_int_equal(vfb_access_close(c, 17), 0);
    assert_int_equal(vfb_access_open(c, secret, &none), VFB_DENIED); /* gives its place back */
    assert_int_equal(vfb_access_open(c, secret, &a), 0);
    assert_int_equal(vfb_access_open(c, secret, &none), VFB_LIMIT);
    vfb_client_free(c);
    c = connected();
    assert_int_equal(vfb_access_open(c, secret, &a), 0);
    assert_int_equal(vfb_access_open(c, secret, &none), VFB_PROTOCOL);
    vfb_client_free(c);
    c = connected();
    assert_int_equal(vfb_access_open(c, secret, &none), VFB_PROTOCOL);
    assert_int_equal(none.id, 99);
    vfb_client_free(c);
    c = fresh();
    assert_int_equal(vfb_access_open(c, secret, &none), VFB_STATE);
    assert_int_equal(vfb_pin(c, 1, &simple, 1, NULL), VFB_STATE);
    vfb_client_free(c);
    stop();
}

/* ---- registered again ------------------------------------------------------------------------------------------ */

static void script_again(int s, int i) {
    (void)i;
    greet(s);
    for (int k = 0; k < 2; k++) {
        struct vb_packet p = VB_PACKET_INIT;
        VfioBroker__Request *req = get_fds(s, &p);
        CHECK(req && req->body_case == VFIO_BROKER__REQUEST__BODY_MEMORY_REGISTER && p.n_fds == 1);
        REPLY(m, MEMORY_REGISTER, memory_register, MemoryRegisterReply, MEMORY_REGISTER_REPLY);
        m.id = req->id;
        m_body.memory = 9;
        m_body.size = m_body.page_size = 0x1000;
        m_body.again = k;
        vb_packet_close(&p);
        put(s, &m);
    }
    for (int k = 0; k < 3; k++) {
        VfioBroker__Request *req = expect(s, VFIO_BROKER__REQUEST__BODY_MEMORY_UNREGISTER);
        CHECK(req->memory_unregister->memory == 9);
        if (k < 2)
            put_done(s, req->id);
        else
            put_error(s, req->id, VFB_NOT_FOUND, "no memory 9");
    }
    CHECK(!get(s));
}

static void test_again(void **state) {
    (void)state;
    start(script_again, 1);
    struct vfb_client *c = connected();
    int fd = memfd_create("test", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, 0x1000), 0);
    for (int i = 0; i < 2; i++) {
        struct vfb_memory m;
        assert_int_equal(vfb_memory_register(c, fd, VFB_WRITABLE, NULL, &m), 0);
        assert_int_equal(m.id, 9);
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(vfb_memory_unregister(c, 9), i < 2 ? 0 : VFB_NOT_FOUND);
    close(fd);
    vfb_client_free(c);
    stop();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        FAKE_TEST(test_tokens), FAKE_TEST(test_pins),     FAKE_TEST(test_lies),
        FAKE_TEST(test_full),   FAKE_TEST(test_accesses), FAKE_TEST(test_again),
    };
    return cmocka_run_group_tests_name("client-pins", tests, NULL, NULL);
}
