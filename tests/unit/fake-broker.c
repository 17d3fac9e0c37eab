#include "config.h"

#include "fake-broker.h"

#include <dirent.h>
#include <errno.h>
#include <sys/un.h>

char fake_path[64];
uint64_t fake_features;
static pid_t broker = -1;
static struct vb_arena arena;
static uint8_t buf[VB_PACKET_MAX];

VfioBroker__Request *get_fds(int s, struct vb_packet *p) {
    int r = vb_packet_recv(s, buf, sizeof buf, 0, p);
    if (r == 0 ||
        r == -ECONNRESET) /* it closed, perhaps with something unread: net/unix/af_unix.c, unix_release_sock() */
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
    m_body.features = fake_features;
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

void put_event(int s, VfioBroker__Event *e) {
    VfioBroker__Reply m = VFIO_BROKER__REPLY__INIT;
    m.body_case = VFIO_BROKER__REPLY__BODY_EVENT;
    m.event = e;
    put(s, &m);
}

void event_gone(int s, uint32_t device) {
    VfioBroker__Event e = VFIO_BROKER__EVENT__INIT;
    VfioBroker__DeviceGone g = VFIO_BROKER__DEVICE_GONE__INIT;
    g.device = device;
    e.body_case = VFIO_BROKER__EVENT__BODY_DEVICE_GONE;
    e.device_gone = &g;
    put_event(s, &e);
}

void event_closing(int s, const char *why) {
    VfioBroker__Event e = VFIO_BROKER__EVENT__INIT;
    VfioBroker__Closing g = VFIO_BROKER__CLOSING__INIT;
    g.reason = (char *)why;
    e.body_case = VFIO_BROKER__EVENT__BODY_CLOSING;
    e.closing = &g;
    put_event(s, &e);
}

void event_invalidate(int s, uint32_t access, const uint32_t *pins, size_t n) {
    VfioBroker__Event e = VFIO_BROKER__EVENT__INIT;
    VfioBroker__Invalidate g = VFIO_BROKER__INVALIDATE__INIT;
    g.access = access;
    g.n_pins = n;
    g.pins = (uint32_t *)pins;
    g.deadline_ms = 2000;
    e.body_case = VFIO_BROKER__EVENT__BODY_INVALIDATE;
    e.invalidate = &g;
    put_event(s, &e);
}

void event_pins_lost(int s, uint32_t access, const uint32_t *pins, size_t n, bool closed, const char *why) {
    VfioBroker__Event e = VFIO_BROKER__EVENT__INIT;
    VfioBroker__PinsLost g = VFIO_BROKER__PINS_LOST__INIT;
    g.access = access;
    g.n_pins = n;
    g.pins = (uint32_t *)pins;
    g.closed = closed;
    g.reason = (char *)why;
    e.body_case = VFIO_BROKER__EVENT__BODY_PINS_LOST;
    e.pins_lost = &g;
    put_event(s, &e);
}

/* ---- pins ---- */

const struct vfb_pin_range simple = {.iova = 0x1000, .size = 0x1000, .prot = VFB_READ};
const uint8_t secret[VFB_TOKEN_SIZE] = {1, 2, 3, [39] = 40};

int numbered(uint32_t number) {
    int fd = memfd_create("memory", MFD_CLOEXEC);
    CHECK(fd >= 0 && ftruncate(fd, 0x4000) == 0 && pwrite(fd, &number, sizeof number, 0x1000) == sizeof number);
    return fd;
}

VfioBroker__Request *expect(int s, VfioBroker__Request__BodyCase what) {
    VfioBroker__Request *req = get(s);
    CHECK(req && req->body_case == what);
    return req;
}

void put_access(int s, uint64_t id, uint32_t access) {
    REPLY(m, ACCESS_OPEN, access_open, AccessOpenReply, ACCESS_OPEN_REPLY);
    m.id = id;
    m_body.access = access;
    m_body.first = 0x1000;
    m_body.last = UINT64_MAX;
    m_body.name = "disk\x1b 0";
    m_body.warning = "an fd cannot be taken back";
    put(s, &m);
}

void serve_open(int s, uint32_t access) {
    VfioBroker__Request *req = expect(s, VFIO_BROKER__REQUEST__BODY_ACCESS_OPEN);
    CHECK(req->access_open->secret.len == VFB_TOKEN_SIZE);
    CHECK(memcmp(req->access_open->secret.data, secret, VFB_TOKEN_SIZE) == 0);
    put_access(s, req->id, access);
}

void put_pin(int s, uint64_t id, uint32_t pin, uint32_t memory, int fd) {
    VfioBroker__Pinned pinned = VFIO_BROKER__PINNED__INIT, *pins = &pinned;
    VfioBroker__PinSegment segment = VFIO_BROKER__PIN_SEGMENT__INIT, *segments = &segment;
    REPLY(m, PIN, pin, PinReply, PIN_REPLY);
    m.id = id;
    m_body.n_pins = 1;
    m_body.pins = &pins;
    pinned.pin = pin;
    pinned.n_segments = 1;
    pinned.segments = &segments;
    segment.iova = segment.size = segment.offset = 0x1000;
    segment.memory = memory;
    m_body.n_memories = fd >= 0;
    m_body.memories = &memory;
    put_fds(s, &m, &fd, fd >= 0);
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

int count_fds(void) {
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
    fake_features = VFB_FEATURE_DMA | VFB_FEATURE_SHARED_PINS | VFB_FEATURE_DMA_BUF | VFB_FEATURE_DOMAINS;
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
