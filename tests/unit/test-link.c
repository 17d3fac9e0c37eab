/* A session's control socket as the daemon sees it: hostile messages, floods, one that does not read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "broker/link.h"
#include "broker/log.h"
#include "broker/record.h"

static struct vb_arena arena;

static bool accepts(const VfioBrokerInternal__ToDaemon *m, unsigned n_fds) {
    static uint8_t buf[VB_PACKET_MAX];
    ssize_t n = vb_encode(&m->base, buf, sizeof buf);

    assert_true(n >= 0);
    return vb_link_decode(&arena, buf, (size_t)n, n_fds) != NULL;
}

static bool accepts_open_with(const char *address, const char *with, unsigned n_fds) {
    VfioBrokerInternal__ToDaemon m = VFIO_BROKER_INTERNAL__TO_DAEMON__INIT;
    VfioBrokerInternal__Call call = VFIO_BROKER_INTERNAL__CALL__INIT;
    VfioBrokerInternal__DeviceOpen body = VFIO_BROKER_INTERNAL__DEVICE_OPEN__INIT;

    body.address = (char *)address;
    body.with = (char *)with;
    call.body_case = VFIO_BROKER_INTERNAL__CALL__BODY_DEVICE_OPEN;
    call.device_open = &body;
    m.body_case = VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_CALL;
    m.call = &call;
    return accepts(&m, n_fds);
}

static bool accepts_open(const char *address, unsigned n_fds) {
    return accepts_open_with(address, "", n_fds);
}

static bool accepts_adopt(size_t n_devices, const char *address, unsigned n_fds) {
    VfioBrokerInternal__ToDaemon m = VFIO_BROKER_INTERNAL__TO_DAEMON__INIT;
    VfioBrokerInternal__Call call = VFIO_BROKER_INTERNAL__CALL__INIT;
    VfioBrokerInternal__Adopt body = VFIO_BROKER_INTERNAL__ADOPT__INIT;
    char *devices[1024];

    for (size_t i = 0; i < n_devices; i++)
        devices[i] = (char *)address;
    body.devices = devices;
    body.n_devices = n_devices;
    call.body_case = VFIO_BROKER_INTERNAL__CALL__BODY_ADOPT;
    call.adopt = &body;
    m.body_case = VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_CALL;
    m.call = &call;
    return accepts(&m, n_fds);
}

static bool accepts_group(uint32_t group, unsigned n_fds) {
    VfioBrokerInternal__ToDaemon m = VFIO_BROKER_INTERNAL__TO_DAEMON__INIT;
    VfioBrokerInternal__Call call = VFIO_BROKER_INTERNAL__CALL__INIT;
    VfioBrokerInternal__AdoptGroup body = VFIO_BROKER_INTERNAL__ADOPT_GROUP__INIT;

    body.group = group;
    call.body_case = VFIO_BROKER_INTERNAL__CALL__BODY_ADOPT_GROUP;
    call.adopt_group = &body;
    m.body_case = VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_CALL;
    m.call = &call;
    return accepts(&m, n_fds);
}

static void test_what_is_malformed(void **state) {
    VfioBrokerInternal__ToDaemon m = VFIO_BROKER_INTERNAL__TO_DAEMON__INIT;
    VfioBrokerInternal__Call call = VFIO_BROKER_INTERNAL__CALL__INIT;
    VfioBrokerInternal__Holding holding = VFIO_BROKER_INTERNAL__HOLDING__INIT;
    VfioBrokerInternal__LeaseGive give = {PROTOBUF_C_MESSAGE_INIT(&vfio_broker_internal__lease_give__descriptor),
                                          UINT64_MAX, UINT64_MAX, true};
    VfioBrokerInternal__TokenRedeem redeem = VFIO_BROKER_INTERNAL__TOKEN_REDEEM__INIT;
    uint8_t secret[VB_TOKEN_SIZE + 1] = {0};
    char long_address[VB_ADDRESS_MAX + 2];
    (void)state;

    assert_false(accepts(&m, 0)); /* no body */
    m.body_case = VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_CALL;
    m.call = &call;
    assert_false(accepts(&m, 0)); /* no call in it */
    m.body_case = VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_HOLDING;
    m.holding = &holding;
    assert_true(accepts(&m, 0));
    assert_false(accepts(&m, 1)); /* a fd that it does not carry */
    m.body_case = VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_LEASE_GIVE;
    m.lease_give = &give;
    assert_true(accepts(&m, 0)); /* whether it has that much is the account's affair */
    assert_false(accepts(&m, 1));
    m.body_case = VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_CALL;
    m.call = &call;
    call.body_case = VFIO_BROKER_INTERNAL__CALL__BODY_TOKEN_REDEEM;
    call.token_redeem = &redeem;
    redeem.secret.data = secret;
    for (size_t n = VB_TOKEN_SIZE - 1; n <= VB_TOKEN_SIZE + 1; n++) {
        redeem.secret.len = n;
        assert_int_equal(accepts(&m, 0), n == VB_TOKEN_SIZE);
    }
    redeem.secret.len = VB_TOKEN_SIZE;
    assert_false(accepts(&m, 1));
    memset(long_address, 'a', sizeof long_address - 1);
    long_address[sizeof long_address - 1] = 0;
    assert_false(accepts_open("", 0));
    assert_false(accepts_open(long_address, 0));
    long_address[VB_ADDRESS_MAX] = 0;
    assert_true(accepts_open(long_address, 0));
    assert_true(accepts_open("../../etc/passwd", 0)); /* whether it exists is the register's affair */
    assert_false(accepts_open("0000:00:04.0", 1));
    assert_true(accepts_open_with("0000:00:04.0", long_address, 0));
    long_address[VB_ADDRESS_MAX] = 'a';
    assert_false(accepts_open_with("0000:00:04.0", long_address, 0));
    for (unsigned n = 0; n <= 3; n++) /* a group and its container */
        assert_int_equal(accepts_group(5, n), n == 2);
    assert_true(accepts_group(INT32_MAX, 2));
    assert_false(accepts_group(INT32_MAX + 1u, 2));
    assert_true(accepts_adopt(0, "x", 0));
    assert_true(accepts_adopt(VB_DEVICES_MAX, "0000:00:04.0", 2));
    assert_false(accepts_adopt(VB_DEVICES_MAX + 1, "0000:00:04.0", 2));
    assert_false(accepts_adopt(1, "0000:00:04.0", 3));
    assert_false(accepts_adopt(1, "", 2));
}

static void test_garbage_never_crashes(void **state) {
    static uint8_t buf[4096];
    (void)state;

    srandom(4711);
    for (int i = 0; i < 20000; i++) {
        size_t n = 1 + (size_t)random() % (i % 100 == 0 ? sizeof buf : 40);

        for (size_t j = 0; j < n; j++)
            buf[j] = (uint8_t)(random() % 4 == 0 ? random() : random() % 40);
        vb_link_decode(&arena, buf, n, 0);
    }
}

/* ---- with a loop ---- */

struct world {
    struct event_base *base;
    struct vb_link_buffers buffers;
    struct vb_link link;
    int peer;
    unsigned messages;
    int lost; /* 1: not */
};

static void on_message(struct vb_link *l, const VfioBrokerInternal__ToDaemon *m, struct vb_packet *p) {
    struct world *w = l->owner;

    (void)m, (void)p;
    w->messages++;
}

static void on_lost(struct vb_link *l, int error) {
    struct world *w = l->owner;

    assert_int_equal(l->fd, -1);
    assert_int_equal(w->lost, 1);
    w->lost = error;
}

static struct world *open_world(void) {
    struct world *w = test_calloc(1, sizeof *w);
    int pair[2];

    w->lost = 1;
    w->base = event_base_new();
    assert_int_equal(vb_link_buffers_init(&w->buffers), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    w->peer = pair[1];
    assert_int_equal(vb_link_open(&w->link, w->base, &w->buffers, pair[0], on_message, on_lost, w), 0);
    return w;
}

static void close_world(struct world *w) {
    vb_link_close(&w->link);
    vb_link_buffers_fini(&w->buffers);
    event_base_free(w->base);
    close(w->peer);
    test_free(w);
}

static void turn(struct world *w) {
    event_base_loop(w->base, EVLOOP_NONBLOCK);
}

static const uint8_t holding[] = {0x22, 0x00}; /* ToDaemon{holding{}} */

static void test_garbage_ends_the_link(void **state) {
    struct world *w = open_world();
    (void)state;

    assert_int_equal(send(w->peer, holding, sizeof holding, 0), sizeof holding);
    turn(w);
    assert_int_equal(w->messages, 1);
    assert_int_equal(send(w->peer, "\xff\xff\xff", 3, 0), 3);
    turn(w);
    assert_int_equal(w->lost, -EBADMSG);
    close_world(w);
}

static void test_oversized_and_closed(void **state) {
    struct world *w = open_world();
    char *large = calloc(1, VB_PACKET_MAX + 1);
    (void)state;

    assert_int_equal(send(w->peer, large, VB_PACKET_MAX + 1, 0), VB_PACKET_MAX + 1);
    turn(w);
    assert_int_equal(w->lost, -EBADMSG);
    free(large);
    close_world(w);
    w = open_world();
    shutdown(w->peer, SHUT_RDWR);
    turn(w);
    assert_int_equal(w->lost, 0);
    close_world(w);
}

/* However much is sent, each second of the clock reads its share and no more; and reading goes on. The test may be stopped
 * anywhere for any time: it counts the seconds that it has seen. */
static void test_flood_is_slowed_down(void **state) {
    struct world *w = open_world();
    uint64_t first = vb_now_ms() / 1000, second = first;
    (void)state;

    do {
        while (send(w->peer, holding, sizeof holding, MSG_DONTWAIT) > 0)
            ;
        turn(w);
        second = vb_now_ms() / 1000;
        assert_true(w->messages <= (second - first + 1) * VB_CALLS_PER_SECOND);
    } while (second < first + 60 && w->messages <= VB_CALLS_PER_SECOND);
    assert_true(w->messages > VB_CALLS_PER_SECOND);
    assert_int_equal(w->lost, 1);
    close_world(w);
}

static void test_one_that_does_not_read(void **state) {
    VfioBrokerInternal__ToSession m = VFIO_BROKER_INTERNAL__TO_SESSION__INIT;
    VfioBrokerInternal__Answer answer = VFIO_BROKER_INTERNAL__ANSWER__INIT;
    struct world *w = open_world();
    static uint8_t rows[VB_PACKET_MAX];
    int n = 0, sent = 0;
    (void)state;

    m.body_case = VFIO_BROKER_INTERNAL__TO_SESSION__BODY_ANSWER;
    m.answer = &answer;
    answer.body_case = VFIO_BROKER_INTERNAL__ANSWER__BODY_INSPECT;
    answer.inspect = (ProtobufCBinaryData){.data = rows, .len = sizeof rows};
    assert_int_equal(vb_link_send(&w->link, &m, NULL, 0), -EMSGSIZE);
    answer.inspect.len = 60000;
    while (sent < 1000 && (n = vb_link_send(&w->link, &m, NULL, 0)) == 0)
        sent++;
    assert_int_equal(n, -EAGAIN);
    close(w->peer);
    w->peer = dup(0);
    assert_true(vb_link_send(&w->link, &m, NULL, 0) < 0); /* ECONNRESET once, then EPIPE */
    assert_int_equal(vb_link_send(&w->link, &m, NULL, 0), -EPIPE);
    close_world(w);
}

/* ---- what systemd keeps (fdstore.c) ---- */

static void test_names_of_stored_fds(void **state) {
    static const char *const wrong[] = {
        "",          "iommufd",           "iommufd-",        "iommufd-1x",   "iommufd--1",
        "group-1",   "group-1-2",         "group-1-2-",      "group-1-2-3-", "group--1-2-3",
        "container", "container-1",       "container-1-2-3", "broker",       "group-1-4294967295-1",
        "stored",    "iommufd-4294967295"};
    struct vb_stored s;
    (void)state;

    assert_true(vb_fdstore_name("iommufd-1999900001", &s));
    assert_int_equal(s.kind, VB_STORED_IOMMUFD);
    assert_int_equal(s.uid, 1999900001);
    assert_true(vb_fdstore_name("group-1999900001-12-3", &s));
    assert_int_equal(s.kind, VB_STORED_GROUP);
    assert_int_equal(s.uid, 1999900001);
    assert_int_equal(s.group, 12);
    assert_int_equal(s.container_id, 3);
    assert_true(vb_fdstore_name("container-1999900001-4294967295", &s));
    assert_int_equal(s.kind, VB_STORED_CONTAINER);
    assert_true(s.container_id == UINT32_MAX);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        if (vb_fdstore_name(wrong[i], &s))
            fail_msg("%s is taken for one of ours", wrong[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_malformed),     cmocka_unit_test(test_garbage_never_crashes),
        cmocka_unit_test(test_garbage_ends_the_link), cmocka_unit_test(test_oversized_and_closed),
        cmocka_unit_test(test_flood_is_slowed_down),  cmocka_unit_test(test_one_that_does_not_read),
        cmocka_unit_test(test_names_of_stored_fds),
    };

    if (vb_arena_init(&arena, VB_DECODE_MAX) < 0)
        return 1;
    int r = cmocka_run_group_tests_name("link", tests, NULL, NULL);
    vb_arena_fini(&arena);
    return r;
}
