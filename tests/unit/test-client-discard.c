/* vfb_discard(): two requests with the caller's function between them; whatever that returns, and wherever it fails, the second
 * is made exactly when the first has succeeded. */
#include "config.h"

#include "fake-broker.h"

static const struct vfb_unmap ranges[2] = {{0x1000, 0x2000}, {0x10000, 0x1000}};

static void put_unmapped(int s, uint64_t id) {
    REPLY(m, UNMAP, unmap, UnmapReply, UNMAP_REPLY);
    m.id = id;
    m_body.bytes = 0x3000;
    put(s, &m);
}

static uint64_t expect_discard(int s) {
    VfioBroker__Request *req = expect(s, VFIO_BROKER__REQUEST__BODY_DISCARD);
    CHECK(req->discard->space == 3 && req->discard->n_entries == 2);
    for (int i = 0; i < 2; i++)
        CHECK(req->discard->entries[i]->iova == ranges[i].iova && req->discard->entries[i]->size == ranges[i].size);
    return req->id;
}

static uint64_t expect_end(int s, bool forget) {
    VfioBroker__Request *req = expect(s, VFIO_BROKER__REQUEST__BODY_DISCARD_END);
    CHECK(req->discard_end->space == 3 && req->discard_end->forget == forget);
    return req->id;
}

struct punch {
    struct vfb_client *c;
    int calls, returns;
    int (*act)(struct vfb_client *c);
};

static int punch(void *arg) {
    struct punch *p = arg;
    p->calls++;
    return p->act ? p->act(p->c) : p->returns;
}

static int discard(struct punch *p) {
    int r = vfb_discard(p->c, 3, ranges, 2, punch, p);
    if (r)
        assert_int_equal(vfb_error(p->c)->code, r);
    return r;
}

/* ---- what the caller's function returns ------------------------------------------------------------------------- */

static void script_punched(int s, int i) {
    (void)i;
    greet(s);
    static const bool forget[] = {false, true, true, false};
    for (size_t k = 0; k < sizeof forget / sizeof *forget; k++) {
        put_unmapped(s, expect_discard(s));
        put_done(s, expect_end(s, forget[k]));
    }
    CHECK(!get(s));
}

static void test_punched(void **state) {
    (void)state;
    start(script_punched, 1);
    struct punch p = {.c = connected()};
    assert_int_equal(discard(&p), 0);
    p.returns = -EIO;
    assert_int_equal(discard(&p), -EIO);
    assert_non_null(strstr(vfb_error(p.c)->text, "mappings of 2 ranges of space 3 are gone"));
    p.returns = 4711;
    assert_int_equal(discard(&p), 4711);
    p.returns = 0;
    assert_int_equal(discard(&p), 0);
    assert_int_equal(p.calls, 4);
    vfb_client_free(p.c);
    stop();
}

/* It makes calls, but no discard. */
static int calls_inside(struct vfb_client *c) {
    struct punch p = {.c = c};
    assert_int_equal(discard(&p), VFB_STATE);
    assert_int_equal(p.calls, 0);
    assert_int_equal(vfb_map(c, 1, &entry, 1), 0);
    return 0;
}

static void script_inside(int s, int i) {
    (void)i;
    greet(s);
    put_unmapped(s, expect_discard(s));
    put_done(s, expect(s, VFIO_BROKER__REQUEST__BODY_MAP)->id);
    put_done(s, expect_end(s, false));
    put_unmapped(s, expect_discard(s)); /* it may again */
    put_done(s, expect_end(s, false));
    CHECK(!get(s));
}

static void test_inside(void **state) {
    (void)state;
    start(script_inside, 1);
    struct punch p = {.c = connected(), .act = calls_inside};
    assert_int_equal(discard(&p), 0);
    p.act = NULL;
    assert_int_equal(discard(&p), 0);
    vfb_client_free(p.c);
    stop();
}

/* ---- failures --------------------------------------------------------------------------------------------------- */

static void script_failures(int s, int i) {
    greet(s);
    uint64_t id = expect_discard(s);
    switch (i) {
    case 0: /* refused before: nothing has happened */
        put_error(s, id, VFB_BUSY, "something in the range is pinned");
        break;
    case 1: /* refused after */
        put_unmapped(s, id);
        put_error(s, expect_end(s, false), VFB_BAD_MEMORY, "holes: the mappings are gone");
        break;
    case 2: /* forgetting fails too */
        put_unmapped(s, id);
        put_error(s, expect_end(s, true), VFB_STATE, "nothing is discarded");
        break;
    case 3: /* the wrong replies */
        put_done(s, id);
        CHECK(!get(s));
        return;
    case 4:
        put_unmapped(s, id);
        put_unmapped(s, expect_end(s, false));
        CHECK(!get(s));
        return;
    case 5: /* lost at the first, between the two, at the second */
        return;
    case 6:
        put_unmapped(s, id);
        return;
    case 7:
        put_unmapped(s, id);
        expect_end(s, false);
        return;
    }
    put_done(s, expect(s, VFIO_BROKER__REQUEST__BODY_MAP)->id);
    CHECK(!get(s));
}

static void test_failures(void **state) {
    static const struct {
        int returns, result, calls;
    } want[] = {{0, VFB_BUSY, 0},     {0, VFB_BAD_MEMORY, 1}, {-EIO, VFB_STATE, 1}, {0, VFB_PROTOCOL, 0},
                {0, VFB_PROTOCOL, 1}, {0, -EPIPE, 0},         {-EIO, -EPIPE, 1},    {0, -EPIPE, 1}};
    (void)state;
    start(script_failures, 8);
    for (int i = 0; i < 8; i++) {
        struct punch p = {.c = connected(), .returns = want[i].returns};
        assert_int_equal(discard(&p), want[i].result);
        assert_int_equal(p.calls, want[i].calls);
        assert_int_equal(vfb_map(p.c, 1, &entry, 1), i < 3 ? 0 : -EPIPE);
        vfb_client_free(p.c);
    }
    stop();
}

/* Refused by the library, without a word to the broker. */
static void script_nothing(int s, int i) {
    (void)i;
    greet(s);
    CHECK(!get(s));
}

static void test_arguments(void **state) {
    static struct vfb_unmap many[1025];
    (void)state;
    start(script_nothing, 1);
    struct punch p = {.c = connected()};
    assert_int_equal(vfb_discard(p.c, 3, ranges, 2, NULL, NULL), VFB_INVALID);
    assert_int_equal(vfb_discard(p.c, 3, ranges, 0, punch, &p), VFB_INVALID);
    assert_int_equal(vfb_discard(p.c, 3, NULL, 2, punch, &p), VFB_INVALID);
    assert_int_equal(vfb_discard(p.c, 3, many, 1025, punch, &p), VFB_INVALID);
    vfb_client_free(p.c);
    stop();
    fake_features = VFB_FEATURE_DMA;
    start(script_nothing, 1);
    p.c = connected();
    assert_int_equal(discard(&p), VFB_UNSUPPORTED);
    assert_non_null(strstr(vfb_error(p.c)->text, "too old for a discard"));
    assert_int_equal(p.calls, 0);
    vfb_client_free(p.c);
    stop();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        FAKE_TEST(test_punched),
        FAKE_TEST(test_inside),
        FAKE_TEST(test_failures),
        FAKE_TEST(test_arguments),
    };
    return cmocka_run_group_tests_name("client-discard", tests, NULL, NULL);
}
