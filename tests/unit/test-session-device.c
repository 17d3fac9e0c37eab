/* Requests about devices, with a daemon of ours at the other end: what a claim says to it and takes from it, attaching with
 * conflicts left out, what a space needs, the rows of domains, and what the host does to a device. */
#include "session-fixture.h"

#include "proto/clock.h"

static const struct vb_emulated_kind kinds[] = {
    {.address = "emulated:odd",
     .aperture_last = (1ull << 48) - 1,
     .page_size = PAGE,
     .n_reserved = 1,
     .reserved = {{{0x200000, 0x2fffff}, "reserved"}}},
};

static int set_up_kinds(void **state) {
    knobs.kinds = kinds;
    knobs.n_kinds = 1;
    return set_up(state);
}

static int set_up_containers(void **state) {
    knobs.containers = true;
    return set_up(state);
}

/* As a claim of "emulated:odd": the daemon knows what it reserves. */
static uint32_t claim_odd(int *ret_fd) {
    VfioBrokerInternal__Reserved r = VFIO_BROKER_INTERNAL__RESERVED__INIT, *list[] = {&r};
    VfioBrokerInternal__DeviceOpened opened = VFIO_BROKER_INTERNAL__DEVICE_OPENED__INIT;
    VfioBrokerInternal__Answer a = VFIO_BROKER_INTERNAL__ANSWER__INIT;
    REQUEST(DEVICE_CLAIM, device_claim, DeviceClaim, DEVICE_CLAIM);

    r.first = 0x200000, r.last = 0x2fffff, r.kind = "direct";
    opened.reserved = list, opened.n_reserved = 1, opened.group = 4;
    a.body_case = VFIO_BROKER_INTERNAL__ANSWER__BODY_DEVICE_OPEN;
    a.device_open = &opened;
    daemon_will_say(&a, NULL, 0);
    body.address = "emulated:odd";
    VfioBroker__Reply *reply = ask(&q, -1);
    ASSERT_DONE(reply, DEVICE_CLAIM);
    *ret_fd = came;
    came = -1;
    const uint32_t device = reply->device_claim->device;
    assert_int_equal(vb_model_bind(s.model, device, NULL), 0);
    return device;
}

static VfioBroker__Reply *need(uint32_t space, const struct vb_range *ranges, size_t n) {
    VfioBroker__IovaRange r[VB_NEEDS_MAX + 1], *list[VB_NEEDS_MAX + 1];
    REQUEST(SPACE_NEED, space_need, SpaceNeed, SPACE_NEED);

    for (size_t i = 0; i < n; i++) {
        vfio_broker__iova_range__init(list[i] = &r[i]);
        r[i].first = ranges[i].first, r[i].last = ranges[i].last;
    }
    body.space = space, body.ranges = list, body.n_ranges = n;
    return ask(&q, -1);
}

static const VfioBroker__SpaceRow *row_of(uint32_t i) {
    REQUEST(INSPECT, inspect, Inspect, INSPECT);
    body.kind = VFIO_BROKER__INSPECT_KIND__INSPECT_SPACES;
    VfioBroker__Reply *r = ask(&q, -1);
    ASSERT_DONE(r, INSPECT);
    assert_true(i < r->inspect->n_spaces);
    return r->inspect->spaces[i];
}

/* ---- claims ---- */

static void test_claim(void **state) {
    VfioBrokerInternal__DeviceOpened opened = VFIO_BROKER_INTERNAL__DEVICE_OPENED__INIT;
    VfioBrokerInternal__Answer a = VFIO_BROKER_INTERNAL__ANSWER__INIT;
    VfioBrokerInternal__ToDaemon *said;
    VfioBroker__Reply *r;
    int fd, fds[2];

    (void)state;
    {
        REQUEST(DEVICE_CLAIM, device_claim, DeviceClaim, DEVICE_CLAIM);
        body.address = "emulated:0", body.space = 5;
        assert_refused(ask(&q, -1), VB_NOT_FOUND, "no space 5");
        assert_null(daemon_heard());
    }
    const uint32_t space = create_space();
    claim("emulated:0", space, &fd);
    said = daemon_heard();
    assert_string_equal(said->call->device_open->address, "emulated:0");
    assert_string_equal(said->call->device_open->with, ""); /* an eager backend shares without */
    assert_int_equal(((struct vb_device *)s.model->devices.items[0])->meant, space);
    close(fd);

    /* What the backend does not take goes back to the daemon. */
    vb_emulated_knobs(s.model->backend)->fault[VB_EMULATED_DEVICE_OPEN] =
        (struct vb_emulated_fault){.nth = 1, .error = -EIO};
    r = ask_claim("emulated:1", 0);
    assert_int_equal(r->error->host_errno, EIO);
    assert_int_equal(daemon_heard()->call->body_case, VFIO_BROKER_INTERNAL__CALL__BODY_DEVICE_OPEN);
    assert_string_equal(daemon_heard()->call->device_close->address, "emulated:1");

    /* Fds that come: of a device, consumed by the backend (the emulated one has no use for them); of an answer of the wrong kind;
     * of a refusal. */
    REQUEST(DEVICE_CLAIM, device_claim, DeviceClaim, DEVICE_CLAIM);
    body.address = "emulated:2";
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    opened.software = true, opened.group = 9;
    a.body_case = VFIO_BROKER_INTERNAL__ANSWER__BODY_DEVICE_OPEN, a.device_open = &opened;
    daemon_will_say(&a, fds, 2);
    ASSERT_DONE(ask(&q, -1), DEVICE_CLAIM);
    const struct vb_device *d = s.model->devices.items[1];
    assert_true(d->software);
    assert_int_equal(d->group, 9);
    VfioBrokerInternal__Ok ok = VFIO_BROKER_INTERNAL__OK__INIT;
    a.body_case = VFIO_BROKER_INTERNAL__ANSWER__BODY_OK, a.ok = &ok;
    body.address = "emulated:3";
    daemon_will_say(&a, fds, 2);
    r = ask(&q, -1);
    assert_int_equal(r->error->host_errno, EPROTO);
    VfioBroker__Error no = VFIO_BROKER__ERROR__INIT;
    no.code = VFIO_BROKER__ERROR_CODE__ERROR_DENIED, no.text = "not for you";
    a.body_case = VFIO_BROKER_INTERNAL__ANSWER__BODY_ERROR, a.error = &no;
    daemon_will_say(&a, fds, 2);
    assert_refused(ask(&q, -1), VB_DENIED, "not for you");
    assert_int_equal(s.model->devices.n, 2);
    close(fds[0]);
    close(fds[1]);
}

static void test_claim_shares_a_container(void **state) {
    int fd[3];

    (void)state;
    const uint32_t space = create_space();
    claim("emulated:0", space, &fd[0]);
    assert_string_equal(daemon_heard()->call->device_open->with, "");
    claim("emulated:1", space, &fd[1]);
    assert_string_equal(daemon_heard()->call->device_open->with, "emulated:0");
    claim("emulated:2", 0, &fd[2]);
    assert_string_equal(daemon_heard()->call->device_open->with, "");
    ASSERT_DONE(ask_attach(1, space, false), DONE);
    ASSERT_DONE(ask_attach(2, space, false), DONE);
    ASSERT_DONE(ask_map(space, register_memory(memfd(MEMORY_SIZE)), 0x10000, 0x4000, 0), DONE);
    assert_int_equal(s.model->ledger.used, 0x4000);
    assert_int_equal(row_of(0)->n_domain, 1);
    ASSERT_DONE(ask_attach(3, space, false), DONE);
    assert_int_equal(s.model->ledger.used, 0x8000); /* another container */
    const VfioBroker__SpaceRow *row = row_of(0);
    assert_int_equal(row->n_domain, 2);
    assert_int_equal(row->domain[0]->n_devices, 2);
    assert_int_equal(row->domain[1]->n_devices, 1);
    assert_string_equal(row->domain[1]->devices[0], "emulated:2");
    assert_int_equal(row->n_devices, 3);
    REQUEST(INSPECT, inspect, Inspect, INSPECT);
    body.kind = VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE;
    VfioBroker__Reply *r = ask(&q, -1);
    assert_int_equal(r->inspect->usage->used, 0x8000);
    assert_int_equal(r->inspect->usage->mapped_paid, 0x8000);
    assert_int_equal(r->inspect->usage->pinned_paid, 0);
    body.kind = VFIO_BROKER__INSPECT_KIND__INSPECT_MEMORY;
    r = ask(&q, -1);
    assert_int_equal(r->inspect->memories[0]->paid, 0x8000);
    assert_int_equal(r->inspect->memories[0]->mapped, 0x8000);
    for (int i = 0; i < 3; i++)
        close(fd[i]);
}

/* ---- conflicts ---- */

static void test_leave_out(void **state) {
    int fd, odd;

    (void)state;
    const uint32_t space = create_space(), memory = register_memory(memfd(MEMORY_SIZE));
    ASSERT_DONE(ask_map(space, memory, 0x100000, 0x1000, 0), DONE);
    ASSERT_DONE(ask_map(space, memory, 0x200000, 0x1000, 0x1000), DONE);
    ASSERT_DONE(ask_map(space, memory, 0x210000, 0x1000, 0x2000), DONE);
    ASSERT_DONE(ask_attach(claim("emulated:0", 0, &fd), space, false), DONE);
    const uint32_t device = claim_odd(&odd);
    VfioBroker__Reply *r = ask_attach(device, space, false);
    assert_refused(r, VB_RESERVED, "emulated:odd");
    assert_int_equal(r->error->n_conflicts, 2);
    r = ask_attach(device, space, true);
    ASSERT_DONE(r, DEVICE_ATTACH);
    assert_int_equal(r->device_attach->left_out, 2);
    assert_int_equal(r->device_attach->n_conflicts, 2);
    assert_int_equal(r->device_attach->conflicts[1]->first, 0x210000);
    assert_int_equal(r->device_attach->conflicts[1]->last, 0x210fff);
    assert_int_equal(r->device_attach->conflicts[1]->with_first, 0x200000);
    assert_int_equal(r->device_attach->conflicts[1]->with_last, 0x2fffff);
    assert_string_equal(r->device_attach->conflicts[1]->kind, "direct");
    assert_string_equal(r->device_attach->conflicts[1]->device, "emulated:odd");
    assert_int_equal(device_does(odd, VB_EMULATED_DMA_WRITE, 0x100000, 8), 0);
    assert_int_equal(device_does(odd, VB_EMULATED_DMA_WRITE, 0x200000, 8), -EFAULT);
    assert_int_equal(device_does(fd, VB_EMULATED_DMA_WRITE, 0x200000, 8), 0);

    const VfioBroker__SpaceRow *row = row_of(0);
    assert_int_equal(row->n_domain, 2);
    assert_false(row->domain[0]->leaves_out);
    assert_int_equal(row->domain[0]->left_out, 0);
    assert_true(row->domain[1]->leaves_out);
    assert_int_equal(row->domain[1]->left_out, 2);
    assert_string_equal(row->domain[1]->devices[0], "emulated:odd");
    char both[160];
    snprintf(both, sizeof both, "%s; %s", row->domain[0]->text, row->domain[1]->text);
    assert_string_equal(row->domains, both);
    REQUEST(SPACE_DESCRIBE, space_describe, SpaceDescribe, SPACE_DESCRIBE);
    body.space = space;
    r = ask(&q, -1);
    assert_int_equal(r->space_describe->n_domains, 2);
    assert_int_equal(r->space_describe->domains[1]->left_out, 2);
    assert_int_equal(r->space_describe->n_devices, 2);
    assert_false(r->space_describe->dirty);
    close(fd);
    close(odd);
}

static void test_nothing_left_out(void **state) {
    int fd;

    (void)state;
    VfioBroker__Reply *r = ask_attach(claim("emulated:0", 0, &fd), create_space(), true);
    ASSERT_DONE(r, DEVICE_ATTACH);
    assert_int_equal(r->device_attach->left_out, 0);
    assert_int_equal(r->device_attach->n_conflicts, 0);
    assert_null(s.model->progress);
    assert_refused(ask_attach(1, 1, true), VB_STATE, "attached");
    assert_null(s.model->progress);
    close(fd);
}

static void test_need(void **state) {
    struct vb_range many[VB_NEEDS_MAX + 1];
    int odd;

    (void)state;
    for (unsigned i = 0; i < VB_NEEDS_MAX + 1; i++)
        many[i] = (struct vb_range){(2 * i + 1) * 0x10000, (2 * i + 1) * 0x10000 + 0xfff};
    const uint32_t space = create_space(), device = claim_odd(&odd);
    const struct vb_range there = {0x280000, 0x280fff}, odd_range = {0x2000, 0x1fff};
    assert_refused(need(99, many, 1), VB_NOT_FOUND, "99");
    VfioBroker__Reply *r = need(space, many, VB_NEEDS_MAX + 1);
    assert_refused(r, VB_LIMIT, "at most 16");
    assert_int_equal(r->error->limit->wanted, VB_NEEDS_MAX + 1);
    many[1] = odd_range;
    r = need(space, many, 2);
    assert_refused(r, VB_INVALID, "before it begins");
    assert_int_equal(r->error->entry, 1);
    assert_int_equal(space_of(space)->n_needs, 0);
    ASSERT_DONE(need(space, &there, 1), DONE);
    assert_refused(ask_attach(device, space, false), VB_RESERVED, "emulated:odd");
    ASSERT_DONE(need(space, NULL, 0), DONE);
    ASSERT_DONE(ask_attach(device, space, false), DONE);
    assert_refused(need(space, &there, 1), VB_RESERVED, "emulated:odd");
    close(odd);
}

/* The longest rows that there can be fit a packet. */
static void test_longest_rows(void **state) {
    struct vb_space *space;
    struct vb_error e;
    char text[VB_NAME_MAX + 1];
    int fds[VB_DEVICES_MAX];

    (void)state;
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    for (unsigned i = 0; i < VB_SPACES_MAX; i++)
        assert_int_equal(vb_model_space_create(s.model, text, &space, &e), 0);
    for (unsigned i = 0; i < VB_DEVICES_MAX; i++) {
        snprintf(text, sizeof text, "emulated:%054u", i);
        assert_int_equal(strlen(text), VB_ADDRESS_MAX);
        ASSERT_DONE(ask_attach(claim(text, 0, &fds[i]), space->id, true), DEVICE_ATTACH);
    }
    const VfioBroker__SpaceRow *row = row_of(VB_SPACES_MAX - 1);
    assert_int_equal(row->n_domain, VB_DEVICES_MAX + 1);
    assert_true(strlen(row->domains) > VB_DEVICES_MAX * 3);
    REQUEST(SPACE_DESCRIBE, space_describe, SpaceDescribe, SPACE_DESCRIBE);
    body.space = space->id;
    assert_int_equal(ask(&q, -1)->space_describe->n_domains, VB_DEVICES_MAX + 1);
    for (unsigned i = 0; i < VB_DEVICES_MAX; i++)
        close(fds[i]);
}

/* ---- the host ---- */

static const VfioBroker__Event *event(void) {
    const VfioBroker__Reply *r = heard();

    if (!r)
        return NULL;
    assert_int_equal(r->id, 0);
    ASSERT_DONE(r, EVENT);
    return r->event;
}

static void test_host_wants_it(void **state) {
    const VfioBroker__Event *ev;
    char fill[32] = {0};
    int fd, other;

    (void)state;
    const uint32_t device = claim("emulated:0", 0, &fd), second = claim("emulated:1", 0, &other);
    assert_null(heard());
    assert_int_equal(device_does(fd, VB_EMULATED_HOST_WANTS, 0, 0), 0);
    ev = event();
    assert_int_equal(ev->body_case, VFIO_BROKER__EVENT__BODY_DEVICE_REQUESTED);
    assert_int_equal(ev->device_requested->device, device);
    assert_null(heard());
    assert_int_equal(device_does(fd, VB_EMULATED_HOST_WANTS, 0, 0), 0); /* the host says it again: so do we */
    assert_int_equal(event()->device_requested->device, device);

    /* A client that does not read: its socket is full. Of each device one event waits. */
    while (send(s.client.fd, fill, sizeof fill, MSG_DONTWAIT) > 0)
        ;
    for (unsigned i = 0; i < 3 * VB_EVENTS_MAX; i++) {
        assert_int_equal(device_does(fd, VB_EMULATED_HOST_WANTS, 0, 0), 0);
        assert_int_equal(device_does(other, VB_EMULATED_HOST_WANTS, 0, 0), 0);
    }
    assert_int_equal(s.client.later.n, 2);
    while (recv(client, fill, sizeof fill, MSG_DONTWAIT) == sizeof fill)
        ;
    run(20);
    assert_int_equal(s.client.later.n, 0);
    ev = event();
    if (ev->device_requested->device == device) /* the first packet was cut by our recv() above */
        ev = event();
    assert_int_equal(ev->device_requested->device, second);
    assert_null(heard());
    assert_int_equal(device_does(other, VB_EMULATED_HOST_WANTS, 0, 0), 0);
    assert_int_equal(event()->device_requested->device, second);
    vb_device_requested(&s, 12345); /* none of ours */
    assert_null(heard());
    close(fd);
    close(other);
}

static void test_it_vanishes(void **state) {
    const VfioBroker__Event *ev;
    VfioBrokerInternal__ToDaemon *said;
    int fd;

    (void)state;
    const uint32_t space = create_space(), device = claim("emulated:0", 0, &fd);
    const vb_handle handle = ((struct vb_device *)s.model->devices.items[0])->handle;
    ASSERT_DONE(ask_map(space, register_memory(memfd(MEMORY_SIZE)), 0x10000, 0x4000, 0), DONE);
    ASSERT_DONE(ask_attach(device, space, false), DONE);
    daemon_heard();
    assert_int_equal(device_does(fd, VB_EMULATED_HOST_LOST, 0, 0), 0);
    assert_int_equal(s.model->devices.n, 0);
    assert_int_equal(space_of(space)->devices, 0);
    assert_int_equal(space_of(space)->mappings, 1); /* the space is as it was */
    ev = event();
    assert_int_equal(ev->body_case, VFIO_BROKER__EVENT__BODY_DEVICE_GONE);
    assert_int_equal(ev->device_gone->device, device);
    assert_null(heard());
    vb_device_vanished(&s, handle); /* again: nothing */
    assert_null(heard());
    assert_refused(ask_attach(device, space, false), VB_NOT_FOUND, "no device");
    close(fd);
    for (int i = 0; i < 200 && s.n_held; i++)
        run(20);
    assert_int_equal(s.n_held, 0);
    bool told_free = false;
    while ((said = daemon_heard()))
        told_free |= said->body_case == VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_DEVICE_FREE && !said->device_free->held &&
                     strcmp(said->device_free->address, "emulated:0") == 0;
    assert_true(told_free);
    assert_true(LIST_EMPTY(&s.watches));
}

static void test_progress(void **state) {
    const struct vb_device d = {.id = 3};
    struct vb_progress p;
    char fill[32] = {0};

    (void)state;
    vb_progress_begin(&p, &s);
    assert_true(p.next_ms > vb_now_ms() + 400 && p.next_ms <= vb_now_ms() + 500);
    s.model->progress(s.model->progress_arg, &d, 1, 10);
    assert_null(heard()); /* not before it has taken long */
    p.next_ms = 0;
    s.model->progress(s.model->progress_arg, &d, 2, 10);
    const VfioBroker__Event *ev = event();
    assert_int_equal(ev->body_case, VFIO_BROKER__EVENT__BODY_ATTACH_PROGRESS);
    assert_int_equal(ev->attach_progress->device, 3);
    assert_int_equal(ev->attach_progress->done, 2);
    assert_int_equal(ev->attach_progress->total, 10);
    s.model->progress(s.model->progress_arg, &d, 3, 10);
    assert_null(heard());
    while (send(s.client.fd, fill, sizeof fill, MSG_DONTWAIT) > 0)
        ;
    for (unsigned i = 0; i < 10; i++) { /* one waits at most */
        p.next_ms = 0;
        s.model->progress(s.model->progress_arg, &d, 4, 10);
    }
    assert_int_equal(s.client.later.n, 1);
    vb_progress_end(&p);
    assert_null(s.model->progress);
}

/* ---- device memory: a fd that is no memory comes with the packet, and may be anything ---- */

static int memory_add_result;

static uint64_t with_dma_buf(struct vb_backend *b) {
    (void)b;
    return VFIO_BROKER__FEATURE__FEATURE_DMA_BUF;
}

static int memory_add(struct vb_backend *b, const struct vb_memory_desc *d, vb_handle *ret, struct vb_error *e) {
    (void)b;
    assert_true(d->dma_buf);
    assert_int_equal(d->size, 0x4000);
    assert_true(fcntl(d->fd, F_GETFD) >= 0);
    *ret = 99;
    return memory_add_result ? vb_refuse(e, VB_BAD_MEMORY, "no dma-buf") : 0;
}

static void memory_remove(struct vb_backend *b, vb_handle memory) {
    (void)b;
    assert_int_equal(memory, 99);
}

/* Over the socket. A copy of the fd travels. */
static const VfioBroker__Reply *ask_dma_buf(int fd, uint64_t size) {
    REQUEST(MEMORY_REGISTER, memory_register, MemoryRegister, MEMORY_REGISTER);
    uint8_t buf[128];

    q.id = 5;
    body.dma_buf_size = size, body.writable = true;
    ssize_t n = vb_encode(&q.base, buf, sizeof buf);
    assert_true(n > 0);
    assert_int_equal(vb_packet_send(client, buf, (size_t)n, &fd, 1, 0), 0);
    run(20);
    return heard();
}

static void test_dma_buf(void **state) {
    const struct vb_backend_ops *ops = s.model->backend->ops;
    struct vb_backend_ops with = *ops;
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC), ram = memfd(0x4000);

    (void)state;
    assert_int_equal(vb_client_busy(&s), false);
    event_add(s.client.readable, NULL);
    assert_refused(ask_dma_buf(fd, 0x4000), VB_UNSUPPORTED, "emulated");
    assert_int_equal(s.client.n_foreign, 1); /* left open for good */
    assert_refused(ask_dma_buf(ram, 0x4000), VB_UNSUPPORTED, "emulated");
    assert_int_equal(s.client.n_foreign, 1);

    with.features = with_dma_buf, with.memory_add = memory_add, with.memory_remove = memory_remove;
    s.model->backend->ops = &with;
    memory_add_result = 1;
    assert_refused(ask_dma_buf(fd, 0x4000), VB_BAD_MEMORY, "no dma-buf");
    assert_int_equal(s.client.n_foreign, 2);
    assert_refused(ask_dma_buf(ram, 0x4000), VB_BAD_MEMORY, "without dma_buf_size");
    const unsigned before = open_fds();
    memory_add_result = 0;
    const VfioBroker__Reply *r = ask_dma_buf(fd, 0x4000);
    ASSERT_DONE(r, MEMORY_REGISTER);
    assert_int_equal(s.client.n_foreign, 2);
    assert_int_equal(open_fds(), before + 1);
    assert_int_equal(s.client.set_aside, -1);
    assert_int_equal(vb_model_unregister(s.model, r->memory_register->memory, NULL), 0);
    assert_int_equal(open_fds(), before);
    s.model->backend->ops = ops;
    close(fd);
    close(ram);
    fds_before += s.client.n_foreign;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_claim, set_up_kinds, tear_down),
        cmocka_unit_test_setup_teardown(test_claim_shares_a_container, set_up_containers, tear_down),
        cmocka_unit_test_setup_teardown(test_leave_out, set_up_kinds, tear_down),
        cmocka_unit_test_setup_teardown(test_nothing_left_out, set_up_kinds, tear_down),
        cmocka_unit_test_setup_teardown(test_need, set_up_kinds, tear_down),
        cmocka_unit_test_setup_teardown(test_longest_rows, set_up_kinds, tear_down),
        cmocka_unit_test_setup_teardown(test_host_wants_it, set_up_kinds, tear_down),
        cmocka_unit_test_setup_teardown(test_it_vanishes, set_up_kinds, tear_down),
        cmocka_unit_test_setup_teardown(test_progress, set_up_kinds, tear_down),
        cmocka_unit_test_setup_teardown(test_dma_buf, set_up_kinds, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
