/* libvfio-broker's calls: their order, the queue, callbacks that make calls, events, and what comes back. */
#include "config.h"

#include "fake-broker.h"

/* In front of libc's: a kernel before 5.14, without MADV_POPULATE_*. */
static bool old_kernel;
int madvise(void *p, size_t size, int advice) {
    if (old_kernel && (advice == 22 || advice == 23)) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_madvise, p, size, advice);
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
    for (int k = 0; k < 5; k++) {
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
    assert_int_equal(ftruncate(fd, 4096 * 2), 0);
    assert_int_equal(ftruncate(fd, 4096 * 100), 0); /* 98 holes */
    old_kernel = true;
    assert_int_equal(vfb_memory_register(c, fd, VFB_WRITABLE, "ram", &m), 0);
    assert_true(m.page_size >= 4096 * 100);
    assert_int_equal(ftruncate(fd, 4096 * 2), 0);
    assert_int_equal(ftruncate(fd, 4096 * 100), 0);
    assert_int_equal(vfb_memory_register(c, fd, 0, "ram", &m), 0);
    assert_true(m.page_size >= 4096 * 100);
    old_kernel = false;
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

int main(void) {
    const struct CMUnitTest tests[] = {
        FAKE_TEST(test_async_order), FAKE_TEST(test_nested),  FAKE_TEST(test_queue),
        FAKE_TEST(test_events),      FAKE_TEST(test_objects), FAKE_TEST(test_lists),
    };
    return cmocka_run_group_tests_name("client-calls", tests, NULL, NULL);
}
