/* libvfio-broker's calls about domains of a space and device memory: what is asked, what comes back, what a broker that does
 * not have them, refuses, talks nonsense or goes away makes of each; and the events about devices. */
#include "config.h"

#include <linux/magic.h>
#include <sys/vfs.h>

#include "fake-broker.h"

#ifndef DMA_BUF_MAGIC
#define DMA_BUF_MAGIC 0x444d4142
#endif

/* In front of libc's: one fd that is a dma-buf. */
static int dma_buf = -1;
int fstatfs(int fd, struct statfs *ret) {
    int r = (int)syscall(SYS_fstatfs, fd, ret);
    if (r == 0 && fd == dma_buf)
        ret->f_type = DMA_BUF_MAGIC;
    return r;
}

/* ---- every call, in four ways ---------------------------------------------------------------------------------- */

enum { CLAIM_FOR, LEAVING_OUT, NEED, DMA_BUF, CALLS };

static const VfioBroker__Request__BodyCase kinds[CALLS] = {
    [CLAIM_FOR] = VFIO_BROKER__REQUEST__BODY_DEVICE_CLAIM,
    [LEAVING_OUT] = VFIO_BROKER__REQUEST__BODY_DEVICE_ATTACH,
    [NEED] = VFIO_BROKER__REQUEST__BODY_SPACE_NEED,
    [DMA_BUF] = VFIO_BROKER__REQUEST__BODY_MEMORY_REGISTER,
};

/* Outputs have to be as they were. */
static int make(struct vfb_client *c, int which) {
    struct vfb_device d = {.id = 77, .fd = -77};
    struct vfb_memory m = {.id = 77};
    struct vfb_conflict k = {.first = 77};
    const struct vfb_range range = {0, 1};
    uint64_t left = 77;
    size_t n = 77;
    int r = which == CLAIM_FOR     ? vfb_device_claim_for(c, "0000:00:04.0", 3, &d)
            : which == LEAVING_OUT ? vfb_device_attach_leaving_out(c, 5, 3, &left, &k, 1, &n)
            : which == NEED        ? vfb_space_need(c, 3, &range, 1)
                                   : vfb_memory_register(c, dma_buf, VFB_DMA_BUF, NULL, &m);
    assert_int_not_equal(r, 0);
    assert_int_equal(vfb_error(c)->code, r);
    assert_true(strlen(vfb_error(c)->text) > 10);
    assert_true(d.id == 77 && d.fd == -77 && m.id == 77 && k.first == 77 && left == 77 && n == 77);
    return r;
}

static void script_refuse(int s, int i) {
    greet(s);
    for (int k = 0; k < CALLS; k++) {
        struct vb_packet p = VB_PACKET_INIT;
        VfioBroker__Request *req = get_fds(s, &p);
        CHECK(req && req->body_case == kinds[k] && p.n_fds == (k == DMA_BUF));
        vb_packet_close(&p);
        if (i == 0) {
            put_error(s, req->id, VFB_RESERVED, "a device reserves that");
        } else if (i == 1 + k) { /* one that is not the answer */
            REPLY(m, UNMAP, unmap, UnmapReply, UNMAP_REPLY);
            m.id = req->id;
            put(s, &m);
            CHECK(!get(s));
            return;
        } else if (i == 1 + CALLS + k) { /* or none */
            return;
        } else if (i == 1 + 2 * CALLS) { /* what an older broker would say to a plain attach */
            put_done(s, req->id);
            CHECK(!get(s));
            return;
        } else {
            put_error(s, req->id, VFB_BUSY, "somebody else has it");
        }
    }
    CHECK(!get(s));
}

static void test_refused(void **state) {
    (void)state;
    dma_buf = numbered(1);
    start(script_refuse, 2 + 2 * CALLS);
    for (int i = 0; i < 1 + 2 * CALLS; i++) {
        struct vfb_client *c = connected();
        for (int k = 0; k < CALLS; k++) {
            int r = make(c, k);
            if (i == 0) {
                assert_int_equal(r, VFB_RESERVED);
            } else if (i == 1 + k || i == 1 + CALLS + k) {
                assert_int_equal(r, i <= CALLS ? VFB_PROTOCOL : -EPIPE);
                assert_int_equal(make(c, k), -EPIPE);
                break;
            } else {
                assert_int_equal(r, VFB_BUSY);
            }
        }
        vfb_client_free(c);
    }
    struct vfb_client *c = connected();
    assert_int_equal(make(c, CLAIM_FOR), VFB_PROTOCOL);
    vfb_client_free(c);
    stop();
    close(dma_buf);
}

/* A broker without them is not even asked. */
static void script_old(int s, int i) {
    (void)i;
    greet(s);
    CHECK(!get(s));
}

static void test_old_broker(void **state) {
    (void)state;
    dma_buf = numbered(1);
    fake_features = ~(uint64_t)(VFB_FEATURE_DOMAINS | VFB_FEATURE_DMA_BUF);
    start(script_old, 1);
    struct vfb_client *c = connected();
    for (int k = 0; k < CALLS; k++) {
        assert_int_equal(make(c, k), VFB_UNSUPPORTED);
        assert_non_null(strstr(vfb_error(c)->text, k == DMA_BUF ? "backend fake has no device memory" : "too old for"));
    }
    vfb_client_free(c);
    stop();
    close(dma_buf);
    c = fresh(); /* not connected comes first */
    assert_int_equal(make(c, NEED), VFB_STATE);
    vfb_client_free(c);
}

/* ---- what is asked, and what comes of it ----------------------------------------------------------------------- */

static void put_claimed(int s, uint64_t id) {
    REPLY(m, DEVICE_CLAIM, device_claim, DeviceClaimReply, DEVICE_CLAIM_REPLY);
    m.id = id;
    m_body.device = 5;
    put_fds(s, &m, &s, 1);
}

/* `n` mappings are left out, as many of them told. */
static void put_attached(int s, uint64_t id, size_t n) {
    static VfioBroker__Conflict ks[40];
    VfioBroker__Conflict *list[40];
    char device[32];
    REPLY(m, DEVICE_ATTACH, device_attach, DeviceAttachReply, DEVICE_ATTACH_REPLY);
    m.id = id;
    m_body.left_out = n ? 1000 + n : 0;
    m_body.n_conflicts = n;
    m_body.conflicts = list;
    snprintf(device, sizeof device, "device\x1b %zu", n);
    for (size_t i = 0; i < n; i++) {
        vfio_broker__conflict__init(&ks[i]);
        ks[i].first = i;
        ks[i].with_last = UINT64_MAX - i;
        ks[i].kind = "a kind that is too long for us";
        ks[i].device = device;
        list[i] = &ks[i];
    }
    put(s, &m);
}

static void script_domains(int s, int i) {
    (void)i;
    greet(s);
    VfioBroker__Request *req = expect(s, VFIO_BROKER__REQUEST__BODY_DEVICE_CLAIM);
    CHECK(req->device_claim->space == 3 && strcmp(req->device_claim->address, "0000:00:04.0") == 0);
    put_claimed(s, req->id);
    req = expect(s, VFIO_BROKER__REQUEST__BODY_DEVICE_CLAIM);
    CHECK(req->device_claim->space == 0);
    put_claimed(s, req->id);

    req = expect(s, VFIO_BROKER__REQUEST__BODY_DEVICE_ATTACH);
    CHECK(!req->device_attach->leave_out);
    put_done(s, req->id);
    static const size_t told[] = {40, 3, 0, 2, 2};
    for (size_t k = 0; k < sizeof told / sizeof *told; k++) {
        req = expect(s, VFIO_BROKER__REQUEST__BODY_DEVICE_ATTACH);
        CHECK(req->device_attach->device == 5 && req->device_attach->space == 3 && req->device_attach->leave_out);
        put_attached(s, req->id, told[k]);
    }
    req = expect(s, VFIO_BROKER__REQUEST__BODY_SPACE_NEED);
    CHECK(req->space_need->space == 3 && req->space_need->n_ranges == 16);
    for (uint64_t k = 0; k < 16; k++)
        CHECK(req->space_need->ranges[k]->first == k << 20 && req->space_need->ranges[k]->last == UINT64_MAX - k);
    put_done(s, req->id);
    req = expect(s, VFIO_BROKER__REQUEST__BODY_SPACE_NEED);
    CHECK(req->space_need->n_ranges == 0);
    put_done(s, req->id);

    req = expect(s, VFIO_BROKER__REQUEST__BODY_SPACE_DESCRIBE);
    REPLY(d, SPACE_DESCRIBE, space_describe, SpaceDescribeReply, SPACE_DESCRIBE_REPLY);
    d.id = req->id;
    d_body.dirty = 1;
    put(s, &d);
    CHECK(!get(s));
}

static void test_domains(void **state) {
    (void)state;
    start(script_domains, 1);
    struct vfb_client *c = connected();
    struct vfb_device d = {.fd = -1};
    assert_int_equal(vfb_device_claim_for(c, "0000:00:04.0", 0, &d), VFB_NOT_FOUND);
    assert_int_equal(vfb_device_claim_for(c, "a\nb", 3, &d), VFB_INVALID);
    assert_int_equal(vfb_device_claim_for(c, "0000:00:04.0", 3, &d), 0);
    assert_int_equal(d.id, 5);
    close(d.fd);
    assert_int_equal(vfb_device_claim(c, "0000:00:04.0", &d), 0);
    close(d.fd);

    struct vfb_conflict k[20] = {{.first = 0}};
    uint64_t left = 0;
    size_t n = 0;
    k[16].first = 77;
    assert_int_equal(vfb_device_attach(c, 5, 3), 0);
    assert_int_equal(vfb_device_attach_leaving_out(c, 5, 3, &left, k, 20, &n), 0);
    assert_int_equal(left, 1040);
    assert_int_equal(n, 16);
    assert_int_equal(k[16].first, 77);
    assert_int_equal(k[15].first, 15);
    assert_true(k[15].with_last == UINT64_MAX - 15);
    assert_string_equal(k[15].kind, "a kind that is ");
    assert_string_equal(k[0].device, "device? 40");
    assert_int_equal(vfb_device_attach_leaving_out(c, 5, 3, &left, k, 2, &n), 0);
    assert_int_equal(left, 1003);
    assert_int_equal(n, 2);
    assert_int_equal(k[2].first, 2); /* of the time before */
    assert_string_equal(k[1].device, "device? 3");
    assert_int_equal(vfb_device_attach_leaving_out(c, 5, 3, &left, k, 20, &n), 0);
    assert_int_equal(left, 0);
    assert_int_equal(n, 0);
    assert_int_equal(vfb_device_attach_leaving_out(c, 5, 3, NULL, NULL, 20, NULL), 0);
    assert_int_equal(vfb_device_attach_leaving_out(c, 5, 3, &left, NULL, 20, &n), 0);
    assert_int_equal(left, 1002);
    assert_int_equal(n, 0);

    struct vfb_range needs[17];
    for (uint64_t i = 0; i < 17; i++)
        needs[i] = (struct vfb_range){.first = i << 20, .last = UINT64_MAX - i};
    assert_int_equal(vfb_space_need(c, 3, needs, 17), VFB_INVALID);
    assert_int_equal(vfb_space_need(c, 3, NULL, 1), VFB_INVALID);
    assert_int_equal(vfb_space_need(c, 3, needs, 16), 0);
    assert_int_equal(vfb_space_need(c, 3, NULL, 0), 0);

    struct vfb_space_info info = {.dirty = false};
    assert_int_equal(vfb_space_describe(c, 3, &info), 0);
    assert_true(info.dirty);
    vfb_client_free(c);
    stop();
}

/* ---- dma-bufs -------------------------------------------------------------------------------------------------- */

static void script_dma_buf(int s, int i) {
    struct vb_packet p = VB_PACKET_INIT;
    (void)i;
    greet(s);
    for (int k = 0; k < 2; k++) {
        VfioBroker__Request *req = get_fds(s, &p);
        CHECK(req && req->body_case == VFIO_BROKER__REQUEST__BODY_MEMORY_REGISTER && p.n_fds == 1);
        vb_packet_close(&p);
        CHECK(req->memory_register->dma_buf_size == (k == 0 ? 0x4000 : 0));
        CHECK(req->memory_register->writable && strcmp(req->memory_register->name, "BAR 2") == 0);
        REPLY(m, MEMORY_REGISTER, memory_register, MemoryRegisterReply, MEMORY_REGISTER_REPLY);
        m.id = req->id;
        m_body.memory = 9;
        m_body.size = 0x4000;
        put(s, &m);
    }
    CHECK(!get(s));
}

static void test_dma_buf(void **state) {
    struct vfb_memory m = {.id = 0};
    struct stat st;
    int other = numbered(1);
    (void)state;
    dma_buf = memfd_create("dma-buf", MFD_CLOEXEC);
    assert_true(other >= 0 && dma_buf >= 0);
    start(script_dma_buf, 1);
    struct vfb_client *c = connected();
    assert_int_equal(vfb_memory_register(c, dma_buf, VFB_DMA_BUF, NULL, &m), VFB_BAD_MEMORY); /* empty */
    assert_int_equal(ftruncate(dma_buf, 0x4000), 0);
    assert_int_equal(lseek(other, 5, SEEK_SET), 5);
    assert_int_equal(vfb_memory_register(c, other, VFB_DMA_BUF, NULL, &m), VFB_BAD_MEMORY);
    assert_int_equal(lseek(other, 0, SEEK_CUR), 5);
    assert_int_equal(vfb_memory_register(c, -1, VFB_DMA_BUF, NULL, &m), -EBADF);
    assert_int_equal(vfb_memory_register(c, 1000000, VFB_DMA_BUF, NULL, &m), -EBADF);
    assert_int_equal(m.id, 0);
    assert_int_equal(vfb_memory_register(c, dma_buf, VFB_DMA_BUF | VFB_WRITABLE, "BAR 2", &m), 0);
    assert_int_equal(m.id, 9);
    assert_true(fstat(dma_buf, &st) == 0 && st.st_blocks == 0); /* nothing was touched */
    assert_int_equal(vfb_memory_register(c, other, VFB_WRITABLE, "BAR 2", &m), 0);
    vfb_client_free(c);
    stop();
    close(dma_buf);
    close(other);
}

/* ---- events ---------------------------------------------------------------------------------------------------- */

static void event_requested(int s, uint32_t device) {
    VfioBroker__Event e = VFIO_BROKER__EVENT__INIT;
    VfioBroker__DeviceRequested g = VFIO_BROKER__DEVICE_REQUESTED__INIT;
    g.device = device;
    e.body_case = VFIO_BROKER__EVENT__BODY_DEVICE_REQUESTED;
    e.device_requested = &g;
    put_event(s, &e);
}

static void event_progress(int s, uint32_t device, uint64_t done, uint64_t total) {
    VfioBroker__Event e = VFIO_BROKER__EVENT__INIT;
    VfioBroker__AttachProgress g = VFIO_BROKER__ATTACH_PROGRESS__INIT;
    g.device = device;
    g.done = done;
    g.total = total;
    e.body_case = VFIO_BROKER__EVENT__BODY_ATTACH_PROGRESS;
    e.attach_progress = &g;
    put_event(s, &e);
}

static void script_events(int s, int i) {
    (void)i;
    greet(s);
    VfioBroker__Request *req = expect(s, VFIO_BROKER__REQUEST__BODY_DEVICE_ATTACH);
    uint64_t attach = req->id;
    event_progress(s, 5, 1ull << 40, 3ull << 40);
    event_progress(s, 5, 4ull << 40, 3ull << 40);
    event_requested(s, 6);
    req = expect(s, VFIO_BROKER__REQUEST__BODY_DEVICE_RELEASE); /* by the handler */
    CHECK(req->device_release->device == 6);
    put_done(s, req->id);
    event_gone(s, 7);
    put_done(s, attach);
    CHECK(!get(s));
}

struct seen {
    int n;
    struct vfb_event events[8];
};

static void on_event(struct vfb_client *c, const struct vfb_event *e, void *arg) {
    struct seen *s = arg;
    assert_true(s->n < 8);
    assert_string_equal(e->text, "");
    s->events[s->n++] = *e;
    if (e->kind == VFB_EVENT_DEVICE_REQUESTED)
        assert_int_equal(vfb_device_release(c, e->device), 0);
}

static void test_events(void **state) {
    struct seen s = {.n = 0};
    (void)state;
    start(script_events, 1);
    struct vfb_client *c = connected();
    vfb_set_event_handler(c, on_event, &s);
    assert_int_equal(vfb_device_attach(c, 5, 3), 0);
    assert_int_equal(s.n, 4);
    assert_int_equal(s.events[0].kind, VFB_EVENT_PROGRESS);
    assert_int_equal(s.events[0].device, 5);
    assert_true(s.events[0].done == 1ull << 40 && s.events[0].total == 3ull << 40);
    assert_true(s.events[1].done == 3ull << 40 && s.events[1].total == 3ull << 40); /* no more than all of it */
    assert_int_equal(s.events[2].kind, VFB_EVENT_DEVICE_REQUESTED);
    assert_int_equal(s.events[2].device, 6);
    assert_int_equal(s.events[3].kind, VFB_EVENT_DEVICE_GONE);
    assert_int_equal(s.events[3].device, 7);
    vfb_client_free(c);
    stop();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        FAKE_TEST(test_refused), FAKE_TEST(test_old_broker), FAKE_TEST(test_domains),
        FAKE_TEST(test_dma_buf), FAKE_TEST(test_events),
    };
    return cmocka_run_group_tests_name("client-domains", tests, NULL, NULL);
}
