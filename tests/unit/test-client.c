/* libvfio-broker's connection: what a hostile, broken or dying broker can do to a client. */
#include "config.h"

#include "client/client-private.h"
#include "fake-broker.h"

/* ---- connecting ----------------------------------------------------------------------------------------------- */

static void script_greet(int s, int i) {
    (void)i;
    greet(s);
    CHECK(!get(s));
}

static void test_connect(void **state) {
    (void)state;
    start(script_greet, 1);
    struct vfb_client *c = fresh();
    assert_int_equal(vfb_fd(c), -1);
    assert_int_equal(vfb_error(c)->code, 0);
    assert_int_equal(vfb_map(c, 1, &entry, 1), VFB_STATE);
    assert_int_equal(vfb_process(c), VFB_STATE);
    assert_string_equal(vfb_info(c)->backend, "");
    char name[65];
    memset(name, 'x', 64);
    name[64] = 0;
    assert_int_equal(vfb_connect(c, fake_path, name), VFB_INVALID);
    assert_int_equal(vfb_connect(c, fake_path, "a\nb"), VFB_INVALID);
    name[63] = 0;
    assert_int_equal(vfb_connect(c, fake_path, name), 0);
    assert_int_equal(vfb_connect(c, fake_path, name), VFB_STATE);
    const struct vfb_info *i = vfb_info(c);
    assert_int_equal(i->version, 1);
    assert_int_equal(i->session, 7);
    assert_int_equal(i->batch_max, 1024);
    assert_int_equal(i->memories_max, 5);
    assert_true(i->memory_bytes == UINT64_MAX);
    assert_string_equal(i->backend, "fake");
    assert_string_equal(i->broker, "0.0?[31m");
    assert_true(vfb_fd(c) >= 0);
    assert_int_equal(vfb_events(c), POLLIN);
    assert_int_equal(fcntl(vfb_fd(c), F_GETFD), FD_CLOEXEC);
    assert_int_equal(vfb_process(c), 0);
    vfb_client_free(c);
    stop();
}

static void test_no_broker(void **state) {
    (void)state;
    struct vfb_client *c = fresh();
    char longer[200];
    assert_int_equal(vfb_connect(c, fake_path, NULL), -ENOENT);
    assert_int_equal(vfb_error(c)->code, -ENOENT);
    assert_non_null(strstr(vfb_error(c)->text, fake_path));
    int l = listener();
    close(l);
    assert_int_equal(vfb_connect(c, fake_path, NULL), -ECONNREFUSED);
    assert_non_null(strstr(vfb_error(c)->text, "is a vfio-brokerd started there?"));
    memset(longer, 'a', sizeof longer);
    longer[199] = 0;
    assert_int_equal(vfb_connect(c, longer, NULL), -ENAMETOOLONG);
    unlink(fake_path);
    close(open(fake_path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    assert_int_equal(vfb_connect(c, fake_path, NULL), -ECONNREFUSED);
    assert_non_null(strstr(vfb_error(c)->text, "is not a socket"));
    unlink(fake_path);
    start(script_greet, 1); /* the same client can try again, by the environment's fake_path */
    setenv(VFB_SOCKET_ENV, fake_path, 1);
    assert_int_equal(vfb_connect(c, NULL, NULL), 0);
    unsetenv(VFB_SOCKET_ENV);
    vfb_client_free(c);
    vfb_client_free(NULL);
    stop();
}

static void script_mute(int s, int i) {
    (void)i;
    CHECK(get(s));
    CHECK(!get(s)); /* the library hangs up */
}

static void script_slow(int s, int i) {
    (void)i;
    greet(s);
    VfioBroker__Request *req = get(s);
    CHECK(req);
    usleep(200000);
    put_done(s, req->id);
    CHECK(!get(s));
}

static void test_mute_broker(void **state) {
    (void)state;
    struct vfb_client *c = fresh();
    assert_int_equal(c->hello_ms, 10000);
    c->hello_ms = 50;
    start(script_mute, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(vfb_connect(c, fake_path, NULL), -ETIMEDOUT);
        assert_int_equal(vfb_error(c)->code, -ETIMEDOUT);
        assert_non_null(strstr(vfb_error(c)->text, fake_path));
        assert_non_null(strstr(vfb_error(c)->text, "accepts but does not answer"));
        assert_int_equal(vfb_fd(c), -1);
    }
    stop();
    /* one that does not even accept: its backlog fills up */
    int l = listener(), n;
    struct vfb_client *more[16];
    for (n = 0; n < 16; n++) {
        more[n] = fresh();
        more[n]->hello_ms = 50;
        assert_int_equal(vfb_connect(more[n], fake_path, NULL), -ETIMEDOUT);
        assert_int_equal(vfb_fd(more[n]), -1);
    }
    while (n > 0)
        vfb_client_free(more[--n]);
    close(l);
    unlink(fake_path);
    /* the deadline is for connecting only, and the client works on */
    start(script_slow, 1);
    c->hello_ms = 5000;
    assert_int_equal(vfb_connect(c, fake_path, NULL), 0);
    assert_int_equal(c->connect_until, 0);
    assert_int_equal(vfb_map(c, 1, &entry, 1), 0);
    vfb_client_free(c);
    stop();
}

/* Without reading Hello, so that the client's side sees ECONNRESET or EPIPE around the packet. */
static void script_refuse(int s, int i) {
    if (i % 3 == 1)
        usleep(300);
    if (i % 3 == 2)
        CHECK(get(s));
    put_error(s, 0, VFB_DENIED, "uid 1000 is granted nothing");
}

/* A refusal of the connection keeps its numbers. */
static void script_full(int s, int i) {
    VfioBroker__LimitDetail limit = VFIO_BROKER__LIMIT_DETAIL__INIT;
    VfioBroker__Error e = VFIO_BROKER__ERROR__INIT;
    VfioBroker__Reply reply = VFIO_BROKER__REPLY__INIT;

    (void)i;
    limit.wanted = 1;
    limit.used = 16;
    limit.limit = 16;
    limit.whose = "policy sessions of uid 1000";
    e.code = (VfioBroker__ErrorCode)VFB_LIMIT;
    e.text = "uid 1000 has 16 sessions";
    e.limit = &limit;
    reply.body_case = VFIO_BROKER__REPLY__BODY_ERROR;
    reply.error = &e;
    put(s, &reply);
}

static void test_refused_by_a_limit(void **state) {
    (void)state;
    start(script_full, 1);
    struct vfb_client *c = fresh();
    assert_int_equal(vfb_connect(c, fake_path, NULL), VFB_LIMIT);
    assert_string_equal(vfb_error(c)->text, "uid 1000 has 16 sessions");
    assert_true(vfb_error(c)->wanted == 1 && vfb_error(c)->used == 16 && vfb_error(c)->limit == 16);
    assert_string_equal(vfb_error(c)->limit_whose, "policy sessions of uid 1000");
    vfb_client_free(c);
    stop();
}

static void test_refused(void **state) {
    (void)state;
    start(script_refuse, 300);
    struct vfb_client *c = fresh();
    for (int i = 0; i < 300; i++) {
        assert_int_equal(vfb_connect(c, fake_path, NULL), VFB_DENIED);
        assert_int_equal(vfb_error(c)->code, VFB_DENIED);
        assert_string_equal(vfb_error(c)->text, "uid 1000 is granted nothing");
        assert_int_equal(vfb_fd(c), -1);
    }
    vfb_client_free(c);
    stop();
}

/* ---- garbage -------------------------------------------------------------------------------------------------- */

static void send_many_fds(int s) {
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(40 * sizeof(int))];
    } u;
    struct iovec iov = {.iov_base = "x", .iov_len = 1};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.room, .msg_controllen = sizeof u.room};
    memset(&u, 0, sizeof u);
    struct cmsghdr *k = CMSG_FIRSTHDR(&h);
    k->cmsg_level = SOL_SOCKET;
    k->cmsg_type = SCM_RIGHTS;
    k->cmsg_len = CMSG_LEN(40 * sizeof(int));
    for (int i = 0; i < 40; i++)
        memcpy(CMSG_DATA(k) + i * (int)sizeof(int), &s, sizeof(int));
    CHECK(sendmsg(s, &h, 0) == 1);
}

enum { NONSENSE = 14 };

static void script_nonsense(int s, int i) {
    static uint8_t big[VB_PACKET_MAX + 1];
    greet(s);
    VfioBroker__Request *req = get(s);
    CHECK(req && req->body_case == VFIO_BROKER__REQUEST__BODY_MAP);
    uint64_t id = req->id;
    REPLY(m, UNMAP, unmap, UnmapReply, UNMAP_REPLY);
    REPLY(done, DONE, done, Done, DONE);
    m.id = done.id = id;
    VfioBroker__Reply none = VFIO_BROKER__REPLY__INIT;
    switch (i) {
    case 0: /* not protobuf */
        vb_packet_send(s, "\xff\xff\xff\xff", 4, NULL, 0, 0);
        break;
    case 1: /* another request's */
        put_done(s, id + 1);
        break;
    case 2: /* one that was answered already */
        put_done(s, id - 1);
        break;
    case 3: /* the wrong kind */
        put(s, &m);
        break;
    case 4: /* no kind */
        none.id = id;
        put(s, &none);
        break;
    case 5: /* unsolicited Done */
        put_done(s, 0);
        break;
    case 6: /* an error that is none */
        put_error(s, id, 0, "");
        break;
    case 7:
        put_error(s, id, -5, "");
        break;
    case 8: /* fds that nobody asked for */
        put_fds(s, &done, (int[]){s, s, s}, 3);
        break;
    case 9: /* too large */
        vb_packet_send(s, big, sizeof big, NULL, 0, 0);
        break;
    case 10: /* more fds than there is room for */
        send_many_fds(s);
        break;
    case 11: { /* decodes into more than the arena: empty rows of an Inspect, two bytes each */
        REPLY(ins, INSPECT, inspect, InspectReply, INSPECT_REPLY);
        static VfioBroker__DeviceRow row = VFIO_BROKER__DEVICE_ROW__INIT;
        static VfioBroker__DeviceRow *rows[30000];
        for (int k = 0; k < 30000; k++)
            rows[k] = &row;
        ins.id = id;
        ins_body.n_devices = 30000;
        ins_body.devices = rows;
        put(s, &ins);
        break;
    }
    case 12: /* a second greeting */
        put_hello(s, id, 1, 1);
        break;
    case 13: /* says so itself */
        put_error(s, id, VFB_PROTOCOL, "your packet is malformed");
        break;
    }
    CHECK(!get(s)); /* the library hangs up */
}

static void test_nonsense(void **state) {
    (void)state;
    start(script_nonsense, NONSENSE);
    for (int i = 0; i < NONSENSE; i++) {
        struct vfb_client *c = connected();
        assert_int_equal(vfb_map(c, 1, &entry, 1), VFB_PROTOCOL);
        assert_int_equal(vfb_error(c)->code, VFB_PROTOCOL);
        assert_true(strlen(vfb_error(c)->text) > 10);
        assert_int_equal(vfb_map(c, 1, &entry, 1), -EPIPE);
        assert_int_equal(vfb_error(c)->code, -EPIPE);
        assert_int_equal(vfb_process(c), -EPIPE);
        assert_int_equal(vfb_connect(c, fake_path, NULL), -EPIPE);
        assert_true(vfb_fd(c) >= 0); /* the number is not given to anybody else yet */
        vfb_client_free(c);
    }
    stop();
}

static void script_bad_hello(int s, int i) {
    VfioBroker__Request *req = get(s);
    CHECK(req);
    if (i == 0)
        put_hello(s, req->id, 2, 1);
    else if (i == 1)
        put_hello(s, req->id, 0, 1);
    else if (i == 2)
        put_error(s, req->id, VFB_UNAVAILABLE, "going down");
    else if (i == 3)
        put_done(s, req->id);
    CHECK(!get(s));
}

static void test_bad_hello(void **state) {
    (void)state;
    start(script_bad_hello, 4);
    struct vfb_client *c = fresh();
    assert_int_equal(vfb_connect(c, fake_path, NULL), VFB_PROTOCOL);
    assert_int_equal(vfb_connect(c, fake_path, NULL), VFB_PROTOCOL);
    assert_int_equal(vfb_connect(c, fake_path, NULL), VFB_UNAVAILABLE);
    assert_string_equal(vfb_error(c)->text, "going down");
    assert_int_equal(vfb_connect(c, fake_path, NULL), VFB_PROTOCOL);
    vfb_client_free(c);
    stop();
}

/* Replies of every kind with bytes turned, cut and doubled: no result matters, only that there is one. */
static void script_mutate(int s, int i) {
    static uint8_t out[VB_PACKET_MAX];
    VfioBroker__Request *req;
    greet(s);
    srandom((unsigned)i);
    while ((req = get(s))) {
        REPLY(ins, INSPECT, inspect, InspectReply, INSPECT_REPLY);
        REPLY(err, ERROR, error, Error, ERROR);
        VfioBroker__DeviceRow row = VFIO_BROKER__DEVICE_ROW__INIT;
        VfioBroker__DeviceRow *rows[8] = {&row, &row, &row, &row, &row, &row, &row, &row};
        VfioBroker__UsageRow usage = VFIO_BROKER__USAGE_ROW__INIT;
        VfioBroker__Conflict k = VFIO_BROKER__CONFLICT__INIT;
        VfioBroker__Conflict *ks[40];
        for (int j = 0; j < 40; j++)
            ks[j] = &k;
        row.address = row.reason = "0000:00:04.0 and a lot of text";
        k.kind = k.device = "a string that is longer than the room for a kind";
        usage.limit_whose = "somebody";
        ins_body.n_devices = 8;
        ins_body.devices = rows;
        ins_body.usage = &usage;
        err_body.code = VFIO_BROKER__ERROR_CODE__ERROR_OVERLAP;
        err_body.n_conflicts = 40;
        err_body.conflicts = ks;
        ins.id = err.id = req->id;
        size_t n = (size_t)vb_encode(random() % 2 ? &ins.base : &err.base, out, sizeof out);
        for (long j = random() % 6; j > 0; j--)
            out[(size_t)random() % n] = (uint8_t)random();
        if (random() % 4 == 0)
            n -= (size_t)random() % n;
        int fds[3] = {s, s, s};
        vb_packet_send(s, out, n, fds, random() % 4 == 0 ? 3 : 0, 0);
    }
}

static void test_mutations(void **state) {
    (void)state;
    start(script_mutate, 400);
    for (int i = 0; i < 400; i++) {
        struct vfb_client *c = connected();
        struct vfb_device_info *d;
        struct vfb_usage u;
        size_t n;
        for (int j = 0; j < 20; j++) {
            if (vfb_usage(c, &u) == -EPIPE)
                break;
            if (vfb_device_list(c, &d, &n) == 0)
                free(d);
            const struct vfb_error *e = vfb_error(c);
            for (size_t k = 0; k < e->n_conflicts; k++)
                assert_true(strlen(e->conflicts[k].kind) < 16 && strlen(e->conflicts[k].device) < 64);
        }
        vfb_client_free(c);
    }
    stop();
}

/* ---- losing the broker ---------------------------------------------------------------------------------------- */

static void script_die(int s, int i) {
    greet(s);
    CHECK(get(s));
    if (i == 1)
        CHECK(get(s) && get(s));
    if (i == 2)
        event_closing(s, "an administrator said so");
}

static void test_disconnect(void **state) {
    (void)state;
    start(script_die, 4);
    for (int i = 0; i < 3; i++) {
        struct log log = {0};
        struct mark m[2] = {{&log, 0}, {&log, 1}};
        struct vfb_client *c = connected();
        assert_int_equal(vfb_map_async(c, 1, &entry, 1, note, &m[0]), 0);
        assert_int_equal(vfb_device_detach_async(c, 1, note, &m[1]), i == 1 ? 0 : log.n == 0 ? 0 : -EPIPE);
        assert_int_equal(vfb_unmap_all(c, 1, NULL), -EPIPE);
        if (i == 2)
            assert_non_null(strstr(vfb_error(c)->text, "an administrator said so"));
        assert_int_equal(log.n, 2);
        for (int k = 0; k < 2; k++) {
            assert_int_equal(log.results[k], -EPIPE);
            assert_int_equal(log.order[k], k);
        }
        assert_int_equal(vfb_process(c), -EPIPE);
        vfb_client_free(c);
    }
    /* by the event loop's way */
    struct log log = {0};
    struct mark m = {&log, 0};
    struct vfb_client *c = connected();
    assert_int_equal(vfb_map_async(c, 1, &entry, 1, note, &m), 0);
    int r = 0;
    while (r == 0) {
        struct pollfd p = {.fd = vfb_fd(c), .events = vfb_events(c)};
        assert_int_equal(poll(&p, 1, 10000), 1);
        r = vfb_process(c);
    }
    assert_int_equal(r, -EPIPE);
    assert_int_equal(log.n, 1);
    assert_int_equal(log.results[0], -EPIPE);
    struct pollfd p = {.fd = vfb_fd(c), .events = POLLIN};
    assert_int_equal(poll(&p, 1, 0), 1); /* a loop that missed it still learns it */
    vfb_client_free(c);
    stop();
}

static void script_free_fork(int s, int i) {
    (void)i;
    greet(s);
    VfioBroker__Request *req = get(s);
    CHECK(req);
    put_done(s, req->id);
    CHECK(!get(s)); /* at vfb_client_free(), although a child still holds a copy */
}

static void test_fork(void **state) {
    (void)state;
    start(script_free_fork, 1);
    struct vfb_client *c = connected();
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) { /* a child that frees what it inherited does no harm */
        vfb_client_free(c);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    assert_int_equal(vfb_map(c, 1, &entry, 1), 0);
    child = fork();
    if (child == 0) { /* one that keeps it does not keep the session */
        char b;
        close(pipes[1]);
        if (read(pipes[0], &b, 1) < 0)
            _exit(1);
        _exit(0);
    }
    vfb_client_free(c);
    stop();
    close(pipes[0]);
    close(pipes[1]);
    waitpid(child, NULL, 0);
}

static void test_names(void **state) {
    (void)state;
    assert_string_equal(vfb_code_name(VFB_LIMIT), "VFB_LIMIT");
    assert_string_equal(vfb_code_name(-EPIPE), "EPIPE");
    assert_string_equal(vfb_code_name(0), "success");
    assert_string_equal(vfb_code_name(1), "unknown");
    assert_string_equal(vfb_code_name(1000), "unknown");
    assert_string_equal(vfb_code_name(-100000), "unknown");
    assert_string_equal(vfb_code_name(INT32_MIN), "unknown");
    assert_string_equal(vfb_error(NULL)->text, "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        FAKE_TEST(test_connect),     FAKE_TEST(test_no_broker),
        FAKE_TEST(test_refused),     FAKE_TEST(test_refused_by_a_limit),
        FAKE_TEST(test_mute_broker), FAKE_TEST(test_nonsense),
        FAKE_TEST(test_bad_hello),   FAKE_TEST(test_mutations),
        FAKE_TEST(test_disconnect),  FAKE_TEST(test_fork),
        FAKE_TEST(test_names),
    };
    return cmocka_run_group_tests_name("client", tests, NULL, NULL);
}
