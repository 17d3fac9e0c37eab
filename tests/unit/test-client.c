/* libvfio-broker against a scripted broker: what a hostile, broken or dying one can do to a client, and the order of
 * things. The script runs in a forked child, so that this process's fds are the library's alone: they are counted. */
#include "config.h"

#include <dirent.h>
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
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "client/inspect.h"
#include "client/vfio-broker.h"
#include "proto/codec.h"
#include "proto/fdpass.h"

/* ---- the scripted broker -------------------------------------------------------------------------------------- */

static char path[64];
static pid_t broker = -1;
static struct vb_arena arena;
static uint8_t buf[VB_PACKET_MAX];

/* In the child: assertions are exit codes. */
#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x)) {                                                                                                    \
            fprintf(stderr, "# broker script, line %d: %s\n", __LINE__, #x);                                           \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

static VfioBroker__Request *get_fds(int s, struct vb_packet *p) {
    int r = vb_packet_recv(s, buf, sizeof buf, 0, p);
    if (r == 0)
        return NULL;
    CHECK(r == 1);
    VfioBroker__Request *req = vb_decode(&arena, &vfio_broker__request__descriptor, p->data, p->size);
    CHECK(req && req->id != 0);
    return req;
}

static VfioBroker__Request *get(int s) {
    struct vb_packet p = VB_PACKET_INIT;
    VfioBroker__Request *req = get_fds(s, &p);
    CHECK(p.n_fds == 0);
    return req;
}

static void put_fds(int s, VfioBroker__Reply *m, const int *fds, unsigned n) {
    static uint8_t out[VB_PACKET_MAX];
    ssize_t size = vb_encode(&m->base, out, sizeof out);
    CHECK(size > 0);
    vb_packet_send(s, out, (size_t)size, fds, n, 0);
}

static void put(int s, VfioBroker__Reply *m) {
    put_fds(s, m, NULL, 0);
}

#define REPLY(name, which, field, Type, INIT)                                                                          \
    VfioBroker__Reply name = VFIO_BROKER__REPLY__INIT;                                                                 \
    VfioBroker__##Type name##_body = VFIO_BROKER__##INIT##__INIT;                                                      \
    name.body_case = VFIO_BROKER__REPLY__BODY_##which;                                                                 \
    name.field = &name##_body

static void put_done(int s, uint64_t id) {
    REPLY(m, DONE, done, Done, DONE);
    m.id = id;
    put(s, &m);
}

static void put_error(int s, uint64_t id, int code, const char *text) {
    REPLY(m, ERROR, error, Error, ERROR);
    m.id = id;
    m_body.code = (VfioBroker__ErrorCode)code;
    m_body.text = (char *)text;
    put(s, &m);
}

static void put_hello(int s, uint64_t id, uint32_t version, uint32_t batch) {
    VfioBroker__Limits l = VFIO_BROKER__LIMITS__INIT;
    REPLY(m, HELLO, hello, HelloReply, HELLO_REPLY);
    m.id = id;
    m_body.version = version;
    m_body.session = 7;
    m_body.features = VFB_FEATURE_DMA;
    m_body.backend = "fake";
    m_body.broker = "0.0\033[31m";
    l.batch = batch;
    l.memories = 5;
    l.memory_bytes = UINT64_MAX;
    m_body.limits = &l;
    put(s, &m);
}

static void greet(int s) {
    VfioBroker__Request *req = get(s);
    CHECK(req && req->body_case == VFIO_BROKER__REQUEST__BODY_HELLO && req->hello->version == 1);
    put_hello(s, req->id, 1, 1024);
}

static void event_gone(int s, uint32_t device) {
    VfioBroker__Event e = VFIO_BROKER__EVENT__INIT;
    VfioBroker__DeviceGone g = VFIO_BROKER__DEVICE_GONE__INIT;
    VfioBroker__Reply m = VFIO_BROKER__REPLY__INIT;
    g.device = device;
    e.body_case = VFIO_BROKER__EVENT__BODY_DEVICE_GONE;
    e.device_gone = &g;
    m.body_case = VFIO_BROKER__REPLY__BODY_EVENT;
    m.event = &e;
    put(s, &m);
}

static void event_closing(int s, const char *why) {
    VfioBroker__Event e = VFIO_BROKER__EVENT__INIT;
    VfioBroker__Closing g = VFIO_BROKER__CLOSING__INIT;
    VfioBroker__Reply m = VFIO_BROKER__REPLY__INIT;
    g.reason = (char *)why;
    e.body_case = VFIO_BROKER__EVENT__BODY_CLOSING;
    e.closing = &g;
    m.body_case = VFIO_BROKER__REPLY__BODY_EVENT;
    m.event = &e;
    put(s, &m);
}

typedef void (*script_fn)(int s, int connection);

static int listener(void) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    strcpy(a.sun_path, path);
    assert_true(s >= 0 && bind(s, (struct sockaddr *)&a, sizeof a) == 0 && listen(s, 8) == 0);
    return s;
}

/* Serves `n` connections one after the other. */
static void start(script_fn script, int n) {
    int l = listener();
    broker = fork();
    assert_true(broker >= 0);
    if (broker == 0) {
        signal(SIGPIPE, SIG_IGN);
        alarm(60);
        for (int i = 0; i < n; i++) {
            int s = accept4(l, NULL, NULL, SOCK_CLOEXEC);
            CHECK(s >= 0);
            script(s, i);
            close(s);
        }
        _exit(0);
    }
    close(l);
}

static void stop(void) {
    int status;
    assert_int_equal(waitpid(broker, &status, 0), broker);
    broker = -1;
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    unlink(path);
}

/* ---- before and after each test ------------------------------------------------------------------------------- */

static int count_fds(void) {
    DIR *d = opendir("/proc/self/fd");
    int n = 0;
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static int fds_before;

static int setup(void **state) {
    (void)state;
    snprintf(path, sizeof path, "/tmp/vfb-test-%d.sock", (int)getpid());
    unlink(path);
    alarm(60);
    fds_before = count_fds();
    return 0;
}

static int teardown(void **state) {
    (void)state;
    if (broker > 0) {
        kill(broker, SIGKILL);
        waitpid(broker, NULL, 0);
        broker = -1;
    }
    unlink(path);
    if (count_fds() != fds_before) {
        fprintf(stderr, "# fds: %d before, %d after\n", fds_before, count_fds());
        return -1;
    }
    return 0;
}

static struct vfb_client *fresh(void) {
    struct vfb_client *c;
    assert_int_equal(vfb_client_new(&c), 0);
    return c;
}

static struct vfb_client *connected(void) {
    struct vfb_client *c = fresh();
    assert_int_equal(vfb_connect(c, path, "test"), 0);
    return c;
}

static const struct vfb_map entry = {.iova = 0x1000, .size = 0x1000, .memory = 1, .prot = VFB_READ};

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
    assert_int_equal(vfb_connect(c, path, name), VFB_INVALID);
    assert_int_equal(vfb_connect(c, path, "a\nb"), VFB_INVALID);
    name[63] = 0;
    assert_int_equal(vfb_connect(c, path, name), 0);
    assert_int_equal(vfb_connect(c, path, name), VFB_STATE);
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
    assert_int_equal(vfb_connect(c, path, NULL), -ENOENT);
    assert_int_equal(vfb_error(c)->code, -ENOENT);
    assert_non_null(strstr(vfb_error(c)->text, path));
    int l = listener();
    close(l);
    assert_int_equal(vfb_connect(c, path, NULL), -ECONNREFUSED);
    memset(longer, 'a', sizeof longer);
    longer[199] = 0;
    assert_int_equal(vfb_connect(c, longer, NULL), -ENAMETOOLONG);
    unlink(path);
    start(script_greet, 1); /* the same client can try again, by the environment's path */
    setenv(VFB_SOCKET_ENV, path, 1);
    assert_int_equal(vfb_connect(c, NULL, NULL), 0);
    unsetenv(VFB_SOCKET_ENV);
    vfb_client_free(c);
    vfb_client_free(NULL);
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

static void test_refused(void **state) {
    (void)state;
    start(script_refuse, 300);
    struct vfb_client *c = fresh();
    for (int i = 0; i < 300; i++) {
        assert_int_equal(vfb_connect(c, path, NULL), VFB_DENIED);
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
        assert_int_equal(vfb_connect(c, path, NULL), -EPIPE);
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
    assert_int_equal(vfb_connect(c, path, NULL), VFB_PROTOCOL);
    assert_int_equal(vfb_connect(c, path, NULL), VFB_PROTOCOL);
    assert_int_equal(vfb_connect(c, path, NULL), VFB_UNAVAILABLE);
    assert_string_equal(vfb_error(c)->text, "going down");
    assert_int_equal(vfb_connect(c, path, NULL), VFB_PROTOCOL);
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

struct log {
    int n, results[128], order[128];
};
struct mark {
    struct log *log;
    int number;
};

static void note(struct vfb_client *c, int result, void *arg) {
    struct mark *m = arg;
    assert_true(m->log->n < 128);
    m->log->results[m->log->n] = result;
    m->log->order[m->log->n++] = m->number;
    if (result)
        assert_int_equal(vfb_error(c)->code, result);
}

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

/* ---- asynchronous calls --------------------------------------------------------------------------------------- */

static void script_answer(int s, int i) {
    VfioBroker__Request *req;
    (void)i;
    greet(s);
    uint64_t last = 1;
    while ((req = get(s))) {
        CHECK(req->id == last + 1);
        last = req->id;
        if (req->body_case == VFIO_BROKER__REQUEST__BODY_MAP && req->map->space == 99) {
            put_error(s, req->id, VFB_NOT_FOUND, "no space 99");
        } else if (req->body_case == VFIO_BROKER__REQUEST__BODY_UNMAP) {
            REPLY(m, UNMAP, unmap, UnmapReply, UNMAP_REPLY);
            m.id = req->id;
            m_body.bytes = 0x123456789abull;
            put(s, &m);
        } else {
            put_done(s, req->id);
        }
    }
}

static void test_async_order(void **state) {
    (void)state;
    start(script_answer, 1);
    struct vfb_client *c = connected();
    struct log log = {0};
    struct mark m[64];
    struct vfb_unmap u = {.iova = 0x1000, .size = 0x1000};
    uint64_t bytes = 0;
    for (int i = 0; i < 64; i++) {
        m[i] = (struct mark){&log, i};
        int r = i % 4 == 0   ? vfb_map_async(c, i == 8 ? 99 : 1, &entry, 1, note, &m[i])
                : i % 4 == 1 ? vfb_unmap_async(c, 1, &u, 1, note, &m[i])
                : i % 4 == 2 ? vfb_device_attach_async(c, 1, 1, note, &m[i])
                             : vfb_device_detach_async(c, 1, note, &m[i]);
        assert_int_equal(r, 0);
    }
    assert_int_equal(log.n, 0);
    assert_int_equal(vfb_map_async(c, 1, &entry, 1, note, &m[0]), -EAGAIN);
    assert_int_equal(vfb_error(c)->code, -EAGAIN);
    assert_int_equal(vfb_map_async(c, 1, &entry, 1, NULL, NULL), VFB_INVALID);
    assert_int_equal(vfb_unmap(c, 1, &u, 1, &bytes), 0); /* comes after all of them */
    assert_true(bytes == 0x123456789abull);
    assert_int_equal(log.n, 64);
    for (int i = 0; i < 64; i++) {
        assert_int_equal(log.order[i], i);
        assert_int_equal(log.results[i], i == 8 ? VFB_NOT_FOUND : 0);
    }
    assert_int_equal(vfb_map_async(c, 1, &entry, 1, note, &m[0]), 0); /* the slots are free again */
    while (log.n < 65)
        assert_int_equal(vfb_process(c), 0);
    vfb_client_free(c);
    stop();
}

static void nest(struct vfb_client *c, int result, void *arg) {
    int *depth = arg;
    struct vfb_unmap u = {.iova = 0, .size = 1};
    uint64_t bytes = 0;
    assert_int_equal(result, 0);
    if (++*depth < 5)
        assert_int_equal(vfb_map_async(c, 1, &entry, 1, nest, arg), 0);
    assert_int_equal(vfb_unmap(c, 1, &u, 1, &bytes), 0);
    assert_true(bytes == 0x123456789abull);
    assert_int_equal(vfb_map(c, 99, &entry, 1), VFB_NOT_FOUND);
    assert_int_equal(vfb_process(c), 0);
}

static void test_nested(void **state) {
    (void)state;
    start(script_answer, 1);
    struct vfb_client *c = connected();
    int depth = 0;
    uint64_t bytes = 0;
    assert_int_equal(vfb_map_async(c, 1, &entry, 1, nest, &depth), 0);
    assert_int_equal(vfb_unmap_all(c, 1, &bytes), 0);
    assert_true(bytes == 0x123456789abull);
    while (depth < 5)
        assert_int_equal(vfb_process(c), 0);
    vfb_client_free(c);
    stop();
}

static void script_slow(int s, int i) {
    greet(s);
    usleep(200000);
    if (i == 1)
        return;
    VfioBroker__Request *req;
    while ((req = get(s))) {
        CHECK(req->body_case != VFIO_BROKER__REQUEST__BODY_MAP || req->map->n_entries == 1024);
        put_done(s, req->id);
    }
}

/* More than a socket buffer: 64 * 35 KiB. */
static void test_queue(void **state) {
    (void)state;
    static struct vfb_map batch[1025];
    start(script_slow, 3);
    for (int i = 0; i < 1025; i++)
        batch[i] =
            (struct vfb_map){.iova = (uint64_t)i << 32, .size = 1ull << 31, .offset = ~0ull, .memory = ~0u, .prot = 3};
    for (int round = 0; round < 3; round++) {
        struct vfb_client *c = connected();
        struct log log = {0};
        struct mark m[64];
        assert_int_equal(vfb_map(c, 1, batch, 1025), VFB_INVALID);
        assert_int_equal(vfb_error(c)->code, VFB_INVALID);
        assert_non_null(strstr(vfb_error(c)->text, "1024"));
        assert_int_equal(vfb_map(c, 1, batch, 0), VFB_INVALID);
        for (int i = 0; i < 64; i++) {
            m[i] = (struct mark){&log, i};
            assert_int_equal(vfb_map_async(c, 1, batch, 1024, note, &m[i]), 0);
        }
        assert_int_equal(vfb_events(c), POLLIN | POLLOUT);
        int want = 0, r = 0;
        if (round == 1) {
            want = -EPIPE;
            assert_int_equal(vfb_device_bind(c, 1), -EPIPE);
        } else if (round == 2) {
            assert_int_equal(vfb_device_bind(c, 1), 0);
        } else {
            while (log.n < 64 && r == 0) {
                struct pollfd p = {.fd = vfb_fd(c), .events = vfb_events(c)};
                assert_int_equal(poll(&p, 1, 10000), 1);
                r = vfb_process(c);
            }
            assert_int_equal(r, 0);
        }
        assert_int_equal(log.n, 64);
        for (int i = 0; i < 64; i++) {
            assert_int_equal(log.order[i], i);
            assert_int_equal(log.results[i], want);
        }
        assert_int_equal(vfb_events(c), POLLIN);
        vfb_client_free(c);
    }
    stop();
}

/* ---- events --------------------------------------------------------------------------------------------------- */

struct seen {
    int n;
    uint32_t device;
    char text[64];
    bool ask;
};

static void on_event(struct vfb_client *c, const struct vfb_event *e, void *arg) {
    struct seen *s = arg;
    s->n++;
    if (e->kind == VFB_EVENT_DEVICE_GONE)
        s->device = e->device;
    if (s->ask)
        assert_int_equal(vfb_device_release(c, e->device), 0); /* overwrites buffer and arena */
    snprintf(s->text, sizeof s->text, "%s", e->text);
}

static void script_events(int s, int i) {
    (void)i;
    greet(s);
    event_gone(s, 3);
    VfioBroker__Reply m = VFIO_BROKER__REPLY__INIT; /* of a newer broker */
    VfioBroker__Event e = VFIO_BROKER__EVENT__INIT;
    m.body_case = VFIO_BROKER__REPLY__BODY_EVENT;
    m.event = &e;
    put(s, &m);
    VfioBroker__Request *req = get(s);
    CHECK(req);
    put_done(s, req->id);
    req = get(s);
    CHECK(req);
    event_gone(s, 4);
    put_done(s, req->id);
    req = get(s); /* the release, from within the handler */
    CHECK(req && req->body_case == VFIO_BROKER__REQUEST__BODY_DEVICE_RELEASE && req->device_release->device == 4);
    put_done(s, req->id);
    event_closing(s, "bye\x1b");
}

static void test_events(void **state) {
    (void)state;
    start(script_events, 1);
    struct vfb_client *c = connected();
    struct seen seen = {0};
    vfb_set_event_handler(c, on_event, &seen);
    while (seen.n == 0)
        assert_int_equal(vfb_process(c), 0);
    assert_int_equal(seen.device, 3);
    assert_int_equal(vfb_map(c, 1, &entry, 1), 0);
    seen.ask = true;
    assert_int_equal(vfb_map(c, 1, &entry, 1), 0);
    assert_int_equal(seen.device, 4);
    seen.ask = false;
    while (vfb_process(c) == 0) {}
    assert_int_equal(seen.n, 3);
    assert_string_equal(seen.text, "bye?");
    assert_non_null(strstr(vfb_error(c)->text, "bye?"));
    vfb_client_free(c);
    stop();
}

/* ---- objects -------------------------------------------------------------------------------------------------- */

static void script_objects(int s, int i) {
    (void)i;
    greet(s);
    for (int k = 0; k < 3; k++) {
        struct vb_packet p = VB_PACKET_INIT;
        struct stat st;
        VfioBroker__Request *req = get_fds(s, &p);
        CHECK(req && req->body_case == VFIO_BROKER__REQUEST__BODY_MEMORY_REGISTER && p.n_fds == 1);
        CHECK(fstat(p.fds[0], &st) == 0);
        REPLY(m, MEMORY_REGISTER, memory_register, MemoryRegisterReply, MEMORY_REGISTER_REPLY);
        m.id = req->id;
        m_body.memory = 9;
        m_body.size = (uint64_t)st.st_size;
        m_body.page_size = (uint64_t)st.st_blocks * 512; /* for the test: what is there */
        vb_packet_close(&p);
        put(s, &m);
    }
    VfioBroker__Request *req = get(s);
    CHECK(req && req->body_case == VFIO_BROKER__REQUEST__BODY_DEVICE_CLAIM);
    REPLY(claim, DEVICE_CLAIM, device_claim, DeviceClaimReply, DEVICE_CLAIM_REPLY);
    claim.id = req->id;
    claim_body.device = 5;
    put_fds(s, &claim, &s, 1);

    req = get(s);
    CHECK(req && req->body_case == VFIO_BROKER__REQUEST__BODY_SPACE_DESCRIBE);
    REPLY(d, SPACE_DESCRIBE, space_describe, SpaceDescribeReply, SPACE_DESCRIBE_REPLY);
    VfioBroker__IovaRange range = VFIO_BROKER__IOVA_RANGE__INIT;
    VfioBroker__IovaRange *ranges[100];
    range.last = UINT64_MAX;
    for (int k = 0; k < 100; k++)
        ranges[k] = &range;
    d.id = req->id;
    d_body.n_usable = 100;
    d_body.usable = ranges;
    put(s, &d);

    req = get(s);
    CHECK(req && req->body_case == VFIO_BROKER__REQUEST__BODY_MAP);
    REPLY(e, ERROR, error, Error, ERROR);
    VfioBroker__Conflict k = VFIO_BROKER__CONFLICT__INIT;
    VfioBroker__Conflict *ks[20];
    VfioBroker__LimitDetail l = VFIO_BROKER__LIMIT_DETAIL__INIT;
    for (int j = 0; j < 20; j++)
        ks[j] = &k;
    k.first = 1;
    k.with_last = UINT64_MAX;
    k.kind = "mapping";
    l.wanted = 1;
    l.used = 2;
    l.limit = 3;
    l.whose = "RLIMIT_MEMLOCK of pid 1";
    e.id = req->id;
    e_body.code = VFIO_BROKER__ERROR_CODE__ERROR_OVERLAP;
    e_body.text = "text";
    e_body.has_entry = 1;
    e_body.entry = 17;
    e_body.n_conflicts = 20;
    e_body.conflicts = ks;
    e_body.limit = &l;
    put(s, &e);
    req = get(s);
    CHECK(req);
    REPLY(h, ERROR, error, Error, ERROR);
    h.id = req->id;
    h_body.code = VFIO_BROKER__ERROR_CODE__ERROR_HOST;
    h_body.host_errno = ENOMEM;
    put(s, &h);
    req = get(s); /* a claim without an fd */
    CHECK(req);
    claim.id = req->id;
    put(s, &claim);
    CHECK(!get(s));
}

static void test_objects(void **state) {
    (void)state;
    start(script_objects, 1);
    struct vfb_client *c = connected();
    struct vfb_memory m = {0};
    const size_t size = 300 << 20; /* two pieces */
    int fd = memfd_create("test", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    assert_int_equal(pwrite(fd, "kept", 4, 4096), 4);
    assert_int_equal(vfb_memory_register(c, -1, 0, NULL, &m), -EBADF);
    assert_int_equal(vfb_memory_register(c, fd, 64, NULL, &m), VFB_INVALID);
    assert_int_equal(vfb_memory_register(c, fd, VFB_WRITABLE, "ram", &m), 0);
    assert_int_equal(m.id, 9);
    assert_true(m.size == size && m.page_size >= size);
    char kept[5] = "";
    assert_int_equal(pread(fd, kept, 4, 4096), 4);
    assert_string_equal(kept, "kept");
    close(fd);

    char link[64];
    int rw = memfd_create("test", MFD_CLOEXEC);
    assert_int_equal(ftruncate(rw, 12345), 0); /* not whole pages */
    snprintf(link, sizeof link, "/proc/self/fd/%d", rw);
    fd = open(link, O_RDONLY | O_CLOEXEC);
    assert_int_equal(vfb_memory_register(c, fd, 0, NULL, &m), 0);
    assert_true(m.page_size >= 12345);                                       /* populated through a read-only fd */
    assert_int_equal(vfb_memory_register(c, fd, VFB_WRITABLE, NULL, &m), 0); /* the broker's to refuse */
    close(fd);
    close(rw);

    struct vfb_device d = {.fd = -1};
    struct vfb_space_info info;
    assert_int_equal(vfb_device_claim(c, "0000:00:04.0", &d), 0);
    assert_int_equal(d.id, 5);
    assert_int_equal(fcntl(d.fd, F_GETFD), FD_CLOEXEC);
    assert_int_equal(vfb_space_describe(c, 1, &info), 0);
    assert_int_equal(info.n_usable, 64);
    assert_true(info.usable[63].last == UINT64_MAX);
    assert_int_equal(vfb_map(c, 1, &entry, 1), VFB_OVERLAP);
    const struct vfb_error *e = vfb_error(c);
    assert_string_equal(e->text, "text");
    assert_int_equal(e->entry, 17);
    assert_true(e->wanted == 1 && e->used == 2 && e->limit == 3);
    assert_string_equal(e->limit_whose, "RLIMIT_MEMLOCK of pid 1");
    assert_int_equal(e->n_conflicts, 16);
    assert_string_equal(e->conflicts[15].kind, "mapping");
    assert_string_equal(e->conflicts[15].device, "");
    assert_true(e->conflicts[0].with_last == UINT64_MAX);
    assert_int_equal(vfb_map(c, 1, &entry, 1), -ENOMEM);
    assert_int_equal(e->host_errno, ENOMEM);
    assert_int_equal(e->entry, -1);
    struct vfb_device none = {.id = 77, .fd = -77};
    assert_int_equal(vfb_device_claim(c, "0000:00:04.0", &none), VFB_PROTOCOL);
    assert_int_equal(none.fd, -77);
    close(d.fd);
    vfb_client_free(c);
    stop();
}

static void script_lists(int s, int i) {
    VfioBroker__Request *req;
    greet(s);
    while ((req = get(s))) {
        VfioBroker__DeviceRow row = VFIO_BROKER__DEVICE_ROW__INIT;
        VfioBroker__DeviceRow *rows[3] = {&row, &row, &row};
        REPLY(m, INSPECT, inspect, InspectReply, INSPECT_REPLY);
        m.id = req->id;
        CHECK(req->body_case == VFIO_BROKER__REQUEST__BODY_INSPECT);
        row.address = "0000:00:04.0";
        row.group = -1;
        row.vendor = 0x1af4;
        if (req->inspect->kind == VFIO_BROKER__INSPECT_KIND__INSPECT_DEVICES) {
            m_body.n_devices = 3;
            m_body.devices = rows;
            m_body.next = i == 1 ? 1 : req->inspect->after < 2 ? req->inspect->after + 1 : 0;
        }
        put(s, &m);
    }
}

static void test_lists(void **state) {
    (void)state;
    start(script_lists, 2);
    struct vfb_client *c = connected();
    const VfioBroker__InspectReply *reply;
    struct vfb_device_info *d = NULL;
    struct vfb_usage u = {.limit = 42};
    size_t n = 0;
    assert_int_equal(vfb_device_list(c, &d, &n), 0);
    assert_int_equal(n, 9);
    assert_string_equal(d[8].address, "0000:00:04.0");
    assert_int_equal(d[8].group, -1);
    assert_int_equal(d[8].vendor, 0x1af4);
    free(d);
    assert_int_equal(vfb_inspect(c, VFIO_BROKER__INSPECT_KIND__INSPECT_DEVICES, 0, 0, &reply), 0);
    assert_int_equal(reply->n_devices, 3);
    assert_int_equal(reply->next, 1);
    assert_int_equal(vfb_usage(c, &u), VFB_PROTOCOL); /* without usage in it */
    assert_true(u.limit == 42);
    vfb_client_free(c);

    c = connected(); /* a list without an end */
    d = NULL;
    assert_int_equal(vfb_device_list(c, &d, &n), VFB_PROTOCOL);
    assert_null(d);
    vfb_client_free(c);
    stop();
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
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_connect),   T(test_no_broker),  T(test_refused), T(test_nonsense),    T(test_bad_hello),
        T(test_mutations), T(test_disconnect), T(test_fork),    T(test_async_order), T(test_nested),
        T(test_queue),     T(test_events),     T(test_objects), T(test_lists),       T(test_names),
    };
    if (vb_arena_init(&arena, VB_DECODE_MAX) < 0)
        return 1;
    int r = cmocka_run_group_tests_name("client", tests, NULL, NULL);
    vb_arena_fini(&arena);
    return r;
}
