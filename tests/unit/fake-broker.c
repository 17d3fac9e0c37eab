#include "config.h"

#include "fake-broker.h"

#include <dirent.h>
#include <sys/un.h>

char fake_path[64];
static pid_t broker = -1;
static struct vb_arena arena;
static uint8_t buf[VB_PACKET_MAX];

VfioBroker__Request *get_fds(int s, struct vb_packet *p) {
    int r = vb_packet_recv(s, buf, sizeof buf, 0, p);
    if (r == 0)
        return NULL;
    CHECK(r == 1);
    VfioBroker__Request *req = vb_decode(&arena, &vfio_broker__request__descriptor, p->data, p->size);
    CHECK(req && req->id != 0);
    return req;
}

VfioBroker__Request *get(int s) {
    struct vb_packet p = VB_PACKET_INIT;
    VfioBroker__Request *req = get_fds(s, &p);
    CHECK(p.n_fds == 0);
    return req;
}

void put_fds(int s, VfioBroker__Reply *m, const int *fds, unsigned n) {
    static uint8_t out[VB_PACKET_MAX];
    ssize_t size = vb_encode(&m->base, out, sizeof out);
    CHECK(size > 0);
    vb_packet_send(s, out, (size_t)size, fds, n, 0);
}

void put(int s, VfioBroker__Reply *m) {
    put_fds(s, m, NULL, 0);
}

void put_done(int s, uint64_t id) {
    REPLY(m, DONE, done, Done, DONE);
    m.id = id;
    put(s, &m);
}

void put_error(int s, uint64_t id, int code, const char *text) {
    REPLY(m, ERROR, error, Error, ERROR);
    m.id = id;
    m_body.code = (VfioBroker__ErrorCode)code;
    m_body.text = (char *)text;
    put(s, &m);
}

void put_hello(int s, uint64_t id, uint32_t version, uint32_t batch) {
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

void greet(int s) {
    VfioBroker__Request *req = get(s);
    CHECK(req && req->body_case == VFIO_BROKER__REQUEST__BODY_HELLO && req->hello->version == 1);
    put_hello(s, req->id, 1, 1024);
}

void event_gone(int s, uint32_t device) {
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

void event_closing(int s, const char *why) {
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

int listener(void) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    strcpy(a.sun_path, fake_path);
    assert_true(s >= 0 && bind(s, (struct sockaddr *)&a, sizeof a) == 0 && listen(s, 8) == 0);
    return s;
}

/* Serves `n` connections one after the other. */
void start(script_fn script, int n) {
    int l = listener();
    broker = fork();
    assert_true(broker >= 0);
    if (broker == 0) {
        signal(SIGPIPE, SIG_IGN);
        alarm(60);
        CHECK(vb_arena_init(&arena, VB_DECODE_MAX) == 0);
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

void stop(void) {
    int status;
    assert_int_equal(waitpid(broker, &status, 0), broker);
    broker = -1;
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    unlink(fake_path);
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

int fake_setup(void **state) {
    (void)state;
    snprintf(fake_path, sizeof fake_path, "/tmp/vfb-test-%d.sock", (int)getpid());
    unlink(fake_path);
    alarm(60);
    fds_before = count_fds();
    return 0;
}

int fake_teardown(void **state) {
    (void)state;
    if (broker > 0) {
        kill(broker, SIGKILL);
        waitpid(broker, NULL, 0);
        broker = -1;
    }
    unlink(fake_path);
    if (count_fds() != fds_before) {
        fprintf(stderr, "# fds: %d before, %d after\n", fds_before, count_fds());
        return -1;
    }
    return 0;
}

struct vfb_client *fresh(void) {
    struct vfb_client *c;
    assert_int_equal(vfb_client_new(&c), 0);
    return c;
}

struct vfb_client *connected(void) {
    struct vfb_client *c = fresh();
    assert_int_equal(vfb_connect(c, fake_path, "test"), 0);
    return c;
}

const struct vfb_map entry = {.iova = 0x1000, .size = 0x1000, .memory = 1, .prot = VFB_READ};

void note(struct vfb_client *c, int result, void *arg) {
    struct mark *m = arg;
    assert_true(m->log->n < 128);
    m->log->results[m->log->n] = result;
    m->log->order[m->log->n++] = m->number;
    if (result)
        assert_int_equal(vfb_error(c)->code, result);
}
