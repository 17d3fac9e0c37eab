/* libvfio-broker's events about pins: handlers that make calls while others wait, at any depth and in any order of the
 * replies; what ends under a call's feet; and a broker that sends more events than anybody can take. */
#include "config.h"

#include "client/client-private.h"
#include "fake-broker.h"

static void put_unmapped(int s, uint64_t id, uint64_t bytes) {
    REPLY(m, UNMAP, unmap, UnmapReply, UNMAP_REPLY);
    m.id = id;
    m_body.bytes = bytes;
    put(s, &m);
}

/* What a handler saw and does. */
struct seen {
    int n, depth, deepest;
    size_t n_pins;
    uint32_t pins[4096], order[4096]; /* all pins; the first of each event */
    size_t sizes[4096];
    uint32_t access, deadline;
    int closed, kind;
    char text[64];
    void (*act)(struct vfb_client *c, const struct vfb_event *e, struct seen *s);
    int r, fd;
};

static void on_event(struct vfb_client *c, const struct vfb_event *e, void *arg) {
    struct seen *s = arg;
    assert_true(s->n < 4096 && s->n_pins + e->n_pins <= 4096);
    s->sizes[s->n] = e->n_pins;
    s->order[s->n++] = e->n_pins ? e->pins[0] : 0;
    for (size_t i = 0; i < e->n_pins; i++)
        s->pins[s->n_pins++] = e->pins[i];
    s->access = e->access;
    s->deadline = e->deadline_ms;
    s->closed += e->closed;
    s->kind = (int)e->kind;
    snprintf(s->text, sizeof s->text, "%s", e->text);
    if (++s->depth > s->deepest)
        s->deepest = s->depth;
    if (s->act)
        s->act(c, e, s);
    s->depth--;
}

static struct vfb_client *opened(struct seen *s) {
    struct vfb_client *c = connected();
    struct vfb_access a;
    vfb_set_event_handler(c, on_event, s);
    assert_int_equal(vfb_access_open(c, secret, &a), 0);
    return c;
}

static void unpin(struct vfb_client *c, const struct vfb_event *e, struct seen *s) {
    uint32_t copy[64];
    if (e->n_pins == 0)
        return;
    memcpy(copy, e->pins, e->n_pins * sizeof *copy);
    s->r = vfb_unpin(c, e->access, e->pins, e->n_pins);
    assert_memory_equal(copy, e->pins, e->n_pins * sizeof *copy); /* whatever came meanwhile */
}

/* ---- an unmap waits, and its handler unpins -------------------------------------------------------------------- */

static void script_unmap(int s, int i) {
    greet(s);
    serve_open(s, 5);
    VfioBroker__Request *req = expect(s, VFIO_BROKER__REQUEST__BODY_UNMAP);
    uint64_t outer = req->id;
    event_invalidate(s, 5, (uint32_t[]){50, 51}, 2);
    req = expect(s, VFIO_BROKER__REQUEST__BODY_UNPIN);
    CHECK(req->unpin->access == 5 && req->unpin->n_pins == 2 && req->unpin->pins[1] == 51);
    uint64_t inner = req->id;
    event_gone(s, 7); /* decodes over what the handler looks at */
    if (i == 0) {
        put_done(s, inner);
        put_unmapped(s, outer, 0x5000);
    } else if (i == 1) {
        put_unmapped(s, outer, 0x5000);
        put_done(s, inner);
    } else if (i == 2) {
        put_error(s, outer, VFB_NOT_FOUND, "the outer one failed");
        put_error(s, inner, VFB_BUSY, "the inner one failed");
    } else { /* both are lost */
        return;
    }
    req = expect(s, VFIO_BROKER__REQUEST__BODY_MAP);
    put_done(s, req->id);
    CHECK(!get(s));
}

static void test_unmap(void **state) {
    (void)state;
    const struct vfb_unmap u = {.iova = 0x1000, .size = 0x5000};
    start(script_unmap, 4);
    for (int i = 0; i < 4; i++) {
        struct seen s = {.act = NULL};
        struct vfb_client *c = opened(&s);
        uint64_t bytes = 0;
        s.act = unpin;
        s.r = -1;
        int r = vfb_unmap(c, 1, &u, 1, &bytes);
        assert_int_equal(s.n, 2);
        assert_int_equal(s.deepest, 2);
        assert_int_equal(s.n_pins, 2);
        assert_int_equal(s.pins[0], 50);
        assert_int_equal(s.pins[1], 51);
        if (i < 2) {
            assert_int_equal(r, 0);
            assert_true(bytes == 0x5000);
            assert_int_equal(s.r, 0);
        } else if (i == 2) {
            assert_int_equal(r, VFB_NOT_FOUND);
            assert_string_equal(vfb_error(c)->text, "the outer one failed");
            assert_int_equal(s.r, VFB_BUSY);
        } else {
            assert_int_equal(r, -EPIPE);
            assert_int_equal(s.r, -EPIPE);
        }
        assert_int_equal(vfb_map(c, 1, &entry, 1), i < 3 ? 0 : -EPIPE);
        vfb_client_free(c);
    }
    stop();
}

/* ---- many at once ---------------------------------------------------------------------------------------------- */

enum { MANY = 200 };

/* Nothing is answered before as many handlers wait as may; then the oldest first, or the newest. */
static void script_deep(int s, int i) {
    uint64_t ids[VBC_EVENT_DEPTH];
    unsigned n = 0;
    greet(s);
    serve_open(s, 5);
    VfioBroker__Request *req = expect(s, VFIO_BROKER__REQUEST__BODY_UNMAP);
    uint64_t outer = req->id;
    for (uint32_t k = 1; k <= MANY; k++)
        event_invalidate(s, 5, &k, 1);
    while (n < VBC_EVENT_DEPTH) {
        req = expect(s, VFIO_BROKER__REQUEST__BODY_UNPIN);
        CHECK(req->unpin->n_pins == 1 && req->unpin->pins[0] == n + 1);
        ids[n++] = req->id;
    }
    struct pollfd p = {.fd = s, .events = POLLIN};
    CHECK(poll(&p, 1, 50) == 0); /* the next handler has to wait */
    if (i == 0)
        put_unmapped(s, outer, 1);
    for (unsigned k = 0; k < VBC_EVENT_DEPTH; k++)
        put_done(s, ids[i == 0 ? k : VBC_EVENT_DEPTH - 1 - k]);
    for (; n < MANY; n++) {
        req = expect(s, VFIO_BROKER__REQUEST__BODY_UNPIN);
        CHECK(req->unpin->pins[0] == n + 1);
        put_done(s, req->id);
    }
    if (i == 1)
        put_unmapped(s, outer, 1);
    CHECK(!get(s));
}

static void test_deep(void **state) {
    (void)state;
    start(script_deep, 2);
    for (int i = 0; i < 2; i++) {
        static struct seen s;
        s = (struct seen){.act = unpin};
        struct vfb_client *c = opened(&s);
        uint64_t bytes = 0;
        assert_int_equal(vfb_unmap_all(c, 1, &bytes), 0);
        assert_true(bytes == 1);
        assert_int_equal(s.n, MANY);
        assert_int_equal(s.deepest, VBC_EVENT_DEPTH);
        for (uint32_t k = 0; k < MANY; k++)
            assert_int_equal(s.order[k], k + 1);
        assert_int_equal(c->event_depth, 0);
        assert_true(STAILQ_EMPTY(&c->late) && c->late_size == 0);
        vfb_client_free(c);
    }
    stop();
}

/* Events without end, for a handler that never hears the answer it waits for. */
static void script_flood(int s, int i) {
    static uint32_t pins[10000];
    (void)i;
    greet(s);
    serve_open(s, 5);
    for (uint32_t k = 0; k < 10000; k++)
        pins[k] = k + 1;
    for (int k = 0; k < 200; k++)
        event_invalidate(s, 5, pins, 10000);
    while (get(s)) {}
}

struct flood {
    int n, depth, deepest;
};

static void on_flood(struct vfb_client *c, const struct vfb_event *e, void *arg) {
    struct flood *f = arg;
    f->n++;
    if (++f->depth > f->deepest)
        f->deepest = f->depth;
    assert_true(vfb_unpin(c, e->access, e->pins, e->n_pins) != 0);
    f->depth--;
}

static void test_flood(void **state) {
    (void)state;
    start(script_flood, 1);
    struct flood f = {.n = 0};
    struct vfb_access a;
    struct vfb_client *c = connected();
    vfb_set_event_handler(c, on_flood, &f);
    assert_int_equal(vfb_access_open(c, secret, &a), 0);
    assert_int_equal(vfb_map(c, 1, &entry, 1), VFB_PROTOCOL);
    assert_non_null(strstr(vfb_error(c)->text, "events"));
    assert_int_equal(f.deepest, VBC_EVENT_DEPTH);
    assert_true(f.n > 63 * 100); /* what was kept is told all the same */
    assert_true(STAILQ_EMPTY(&c->late) && c->late_size == 0);
    vfb_client_free(c);
    stop();
}

/* ---- what an event tells --------------------------------------------------------------------------------------- */

static void script_events(int s, int i) {
    static uint32_t pins[130];
    (void)i;
    greet(s);
    serve_open(s, 5);
    int fd = numbered(1);
    VfioBroker__Request *req = expect(s, VFIO_BROKER__REQUEST__BODY_PIN);
    put_pin(s, req->id, 1, 1, fd);
    for (uint32_t k = 0; k < 130; k++)
        pins[k] = k + 1;
    event_invalidate(s, 5, pins, 130);
    event_invalidate(s, 6, pins, 130); /* there is no such access */
    event_invalidate(s, 5, pins, 0);
    for (unsigned k = 0; k < 3; k++) {
        req = expect(s, VFIO_BROKER__REQUEST__BODY_UNPIN);
        CHECK(req->unpin->n_pins == (k < 2 ? 64 : 2) && req->unpin->pins[0] == 1 + 64 * k);
        put_done(s, req->id);
    }
    req = expect(s, VFIO_BROKER__REQUEST__BODY_MAP);
    event_pins_lost(s, 5, pins, 128, false, "the deadline\n");
    put_done(s, req->id);
    req = expect(s, VFIO_BROKER__REQUEST__BODY_MAP);
    event_pins_lost(s, 5, pins, 128, true, "its owner is gone");
    event_pins_lost(s, 5, pins, 128, true, "again");
    put_done(s, req->id);
    serve_open(s, 6);
    req = expect(s, VFIO_BROKER__REQUEST__BODY_PIN);
    put_pin(s, req->id, 1, 1, fd);
    req = expect(s, VFIO_BROKER__REQUEST__BODY_MAP);
    event_pins_lost(s, 6, NULL, 0, true, "no pins");
    put_done(s, req->id);
    serve_open(s, 7);
    req = expect(s, VFIO_BROKER__REQUEST__BODY_PIN);
    put_pin(s, req->id, 1, 1, fd);
    req = expect(s, VFIO_BROKER__REQUEST__BODY_MAP);
    event_pins_lost(s, 7, pins, 1, true, "nobody listens");
    put_done(s, req->id);
    CHECK(!get(s));
}

/* The fds are there until the handler has returned. */
static void look_at_fd(struct vfb_client *c, const struct vfb_event *e, struct seen *s) {
    (void)c, (void)e;
    assert_int_equal(fcntl(s->fd, F_GETFD), FD_CLOEXEC);
}

static void test_events(void **state) {
    (void)state;
    start(script_events, 1);
    static struct seen s;
    s = (struct seen){.act = NULL};
    struct vfb_client *c = opened(&s);
    struct vfb_access a;
    struct vfb_pin pin;
    int before = count_fds();
    assert_int_equal(vfb_pin(c, 5, &simple, 1, &pin), 0);
    s.fd = pin.segments[0].fd;
    s.act = unpin;
    while (s.n < 3)
        assert_int_equal(vfb_process(c), 0);
    assert_int_equal(s.kind, VFB_EVENT_INVALIDATE);
    assert_int_equal(s.access, 5);
    assert_int_equal(s.deadline, 2000);
    assert_int_equal(s.n_pins, 130);
    for (uint32_t k = 0; k < 130; k++)
        assert_int_equal(s.pins[k], k + 1);
    s.act = look_at_fd;
    assert_int_equal(vfb_map(c, 1, &entry, 1), 0);
    assert_int_equal(s.n, 5);
    assert_int_equal(s.kind, VFB_EVENT_PINS_LOST);
    assert_string_equal(s.text, "the deadline?");
    assert_int_equal(s.closed, 0);
    assert_int_equal(count_fds(), before + 1);
    assert_int_equal(vfb_map(c, 1, &entry, 1), 0);
    assert_int_equal(s.n, 7);
    assert_int_equal(s.closed, 1); /* with the last piece alone */
    assert_string_equal(s.text, "its owner is gone");
    assert_int_equal(count_fds(), before);
    assert_int_equal(vfb_pin(c, 5, &simple, 1, &pin), VFB_NOT_FOUND);

    assert_int_equal(vfb_access_open(c, secret, &a), 0);
    assert_int_equal(vfb_pin(c, 6, &simple, 1, &pin), 0);
    s.fd = pin.segments[0].fd;
    assert_int_equal(vfb_map(c, 1, &entry, 1), 0);
    assert_int_equal(s.n, 8);
    assert_int_equal(s.sizes[7], 0);
    assert_int_equal(s.closed, 2);
    assert_int_equal(count_fds(), before);

    assert_int_equal(vfb_access_open(c, secret, &a), 0);
    assert_int_equal(vfb_pin(c, 7, &simple, 1, &pin), 0);
    vfb_set_event_handler(c, NULL, NULL);
    assert_int_equal(vfb_map(c, 1, &entry, 1), 0);
    assert_int_equal(s.n, 8);
    assert_int_equal(count_fds(), before);
    assert_int_equal(c->n_accesses, 0);
    vfb_client_free(c);
    stop();
}

/* ---- what ends under a call's feet ----------------------------------------------------------------------------- */

static void close_access(struct vfb_client *c, const struct vfb_event *e, struct seen *s) {
    s->r = vfb_access_close(c, e->access);
}

/* A call waits; the handler of an event closes the access, or hears that it is lost. */
static void script_ends(int s, int i) {
    greet(s);
    int fd = numbered(1);
    if (i == 4) { /* the access opens, and ends before vfb_access_open() is back */
        VfioBroker__Request *req = expect(s, VFIO_BROKER__REQUEST__BODY_ACCESS_OPEN);
        uint64_t id = req->id;
        event_gone(s, 1);
        req = expect(s, VFIO_BROKER__REQUEST__BODY_MAP);
        put_access(s, id, 5);
        event_pins_lost(s, 5, NULL, 0, true, "revoked");
        put_done(s, req->id);
        CHECK(!get(s));
        return;
    }
    serve_open(s, 5);
    VfioBroker__Request *req = expect(s, VFIO_BROKER__REQUEST__BODY_PIN);
    uint64_t outer = req->id;
    event_invalidate(s, 5, (uint32_t[]){1, 2}, 2);
    req = expect(s, i < 3 ? VFIO_BROKER__REQUEST__BODY_ACCESS_CLOSE : VFIO_BROKER__REQUEST__BODY_UNPIN);
    uint64_t inner = req->id;
    if (i == 0) { /* pinned, then closed */
        put_pin(s, outer, 3, 1, fd);
        put_done(s, inner);
    } else if (i == 1) { /* closed, then pinned: what came goes back */
        put_done(s, inner);
        put_pin(s, outer, 3, 1, fd);
    } else if (i == 2) { /* closed, and the pin refused, as it should be */
        put_done(s, inner);
        put_error(s, outer, VFB_NOT_FOUND, "the access was closed");
    } else { /* pinned, then all is lost */
        put_pin(s, outer, 3, 1, fd);
        event_pins_lost(s, 5, (uint32_t[]){1, 2, 3}, 3, true, "its owner is gone");
        put_error(s, inner, VFB_NOT_FOUND, "no access 5");
    }
    close(fd);
    req = expect(s, VFIO_BROKER__REQUEST__BODY_MAP);
    put_done(s, req->id);
    CHECK(!get(s));
}

static void map_then_quiet(struct vfb_client *c, const struct vfb_event *e, struct seen *s) {
    if (e->kind == VFB_EVENT_DEVICE_GONE)
        s->r = vfb_map(c, 1, &entry, 1);
}

static void unpin_unless_lost(struct vfb_client *c, const struct vfb_event *e, struct seen *s) {
    if (e->kind == VFB_EVENT_INVALIDATE)
        s->r = vfb_unpin(c, e->access, e->pins, e->n_pins);
}

static void test_ends(void **state) {
    (void)state;
    start(script_ends, 5);
    for (int i = 0; i < 4; i++) {
        static struct seen s;
        s = (struct seen){.act = i < 3 ? close_access : unpin_unless_lost};
        struct vfb_client *c = opened(&s);
        struct vfb_pin none = {.id = 99};
        int before = count_fds();
        assert_int_equal(vfb_pin(c, 5, &simple, 1, &none), VFB_NOT_FOUND);
        assert_int_equal(vfb_error(c)->code, VFB_NOT_FOUND);
        assert_int_equal(none.id, 99);
        assert_int_equal(s.r, i < 3 ? 0 : VFB_NOT_FOUND);
        assert_int_equal(count_fds(), before);
        assert_int_equal(c->n_accesses, 0);
        assert_int_equal(vfb_map(c, 1, &entry, 1), 0);
        vfb_client_free(c);
    }
    static struct seen s;
    s = (struct seen){.act = map_then_quiet, .r = -1};
    struct vfb_client *c = connected();
    struct vfb_access none = {.id = 99};
    vfb_set_event_handler(c, on_event, &s);
    assert_int_equal(vfb_access_open(c, secret, &none), VFB_DENIED);
    assert_int_equal(none.id, 99);
    assert_int_equal(s.r, 0);
    assert_int_equal(s.closed, 1);
    assert_int_equal(c->n_accesses, 0);
    vfb_client_free(c);
    stop();
}

/* The rest of an event's pieces is not delivered once the handler has closed the access. */
static void script_pieces(int s, int i) {
    static uint32_t pins[200];
    (void)i;
    greet(s);
    serve_open(s, 5);
    VfioBroker__Request *req = expect(s, VFIO_BROKER__REQUEST__BODY_MAP);
    uint64_t outer = req->id;
    event_pins_lost(s, 5, pins, 200, true, "gone");
    req = expect(s, VFIO_BROKER__REQUEST__BODY_ACCESS_CLOSE);
    put_done(s, req->id);
    put_done(s, outer);
    CHECK(!get(s));
}

static void test_pieces(void **state) {
    (void)state;
    start(script_pieces, 1);
    static struct seen s;
    s = (struct seen){.act = close_access};
    struct vfb_client *c = opened(&s);
    assert_int_equal(vfb_map(c, 1, &entry, 1), 0);
    assert_int_equal(s.n, 1);
    assert_int_equal(s.r, 0);
    vfb_client_free(c);
    stop();
}

/* ---- asynchronous ---------------------------------------------------------------------------------------------- */

/* Replies in the reverse order, as far as it is allowed; then the end with some under way. */
static void script_async(int s, int i) {
    uint64_t ids[64];
    (void)i;
    greet(s);
    serve_open(s, 5);
    for (uint32_t k = 0; k < 64; k++) {
        VfioBroker__Request *req = get(s);
        CHECK(req);
        CHECK(k % 2 ? req->body_case == VFIO_BROKER__REQUEST__BODY_MAP
                    : req->body_case == VFIO_BROKER__REQUEST__BODY_UNPIN && req->unpin->access == 5 &&
                          req->unpin->n_pins == 2 && req->unpin->pins[1] == k);
        ids[k] = req->id;
    }
    for (int k = 63; k >= 0; k--) {
        if (k == 10)
            put_error(s, ids[k], VFB_NOT_FOUND, "no pin 10");
        else
            put_done(s, ids[k]);
    }
    CHECK(expect(s, VFIO_BROKER__REQUEST__BODY_UNPIN));
}

static void test_async(void **state) {
    (void)state;
    static uint32_t many[65];
    start(script_async, 1);
    struct seen s = {.act = NULL};
    struct vfb_client *c = opened(&s);
    struct log log = {0};
    struct mark m[64];
    for (uint32_t k = 0; k < 64; k++) {
        m[k] = (struct mark){&log, (int)k};
        assert_int_equal(k % 2 ? vfb_map_async(c, 1, &entry, 1, note, &m[k])
                               : vfb_unpin_async(c, 5, (uint32_t[]){k, k}, 2, note, &m[k]),
                         0);
    }
    assert_int_equal(vfb_unpin_async(c, 5, many, 1, note, &m[0]), -EAGAIN);
    assert_int_equal(vfb_unpin_async(c, 5, many, 65, note, &m[0]), VFB_INVALID);
    assert_int_equal(vfb_unpin_async(c, 5, many, 0, note, &m[0]), VFB_INVALID);
    while (log.n < 64)
        assert_int_equal(vfb_process(c), 0);
    for (int k = 0; k < 64; k++) {
        assert_int_equal(log.order[k], 63 - k);
        assert_int_equal(log.results[k], 63 - k == 10 ? VFB_NOT_FOUND : 0);
    }
    assert_int_equal(vfb_unpin_async(c, 5, many, 1, note, &m[0]), 0);
    while (vfb_process(c) == 0) {}
    assert_int_equal(log.n, 65);
    assert_int_equal(log.results[64], -EPIPE);
    vfb_client_free(c);
    stop();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        FAKE_TEST(test_unmap), FAKE_TEST(test_deep),   FAKE_TEST(test_flood), FAKE_TEST(test_events),
        FAKE_TEST(test_ends),  FAKE_TEST(test_pieces), FAKE_TEST(test_async),
    };
    return cmocka_run_group_tests_name("client-events", tests, NULL, NULL);
}
