/* A session's lease on the wire: more of it, less of it, both at once, too late, and without a daemon. What is decided is
 * tested in test-ledger.c and test-interleave.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/emulated.h"
#include "config.h"
#include "session/session.h"

#define PAID(bytes) ((struct vb_cost){.paid = (bytes)})
#define MIB         (1ull << 20)

static struct vb_session s;
static struct vb_arena arena;
static int daemon_fd;

static int set_up(void **state) {
    struct vb_backend *backend;
    struct vb_error e;
    int pair[2];

    (void)state;
    memset(&s, 0, sizeof s);
    s.client_pidfd = s.iommufd = -1;
    LIST_INIT(&s.watches);
    s.base = event_base_new();
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    daemon_fd = pair[1];
    assert_int_equal(vb_arena_init(&arena, VB_DECODE_MAX), 0);
    assert_int_equal(vb_emulated_new(NULL, &backend, &e), 0);
    assert_int_equal(vb_model_new(backend, 100, &s.model), 0);
    assert_int_equal(vb_lease_start(&s), 0);
    assert_int_equal(vb_control_start(&s, pair[0]), 0);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    vb_lease_stop(&s);
    s.model->ledger.used = 0; /* nothing was mapped for it */
    s.model = vb_model_free(s.model);
    vb_control_stop(&s);
    event_base_free(s.base);
    if (daemon_fd >= 0)
        close(daemon_fd);
    vb_arena_fini(&arena);
    return 0;
}

/* ---- the daemon's side ---- */

static void tell(const VfioBrokerInternal__ToSession *m) {
    uint8_t buf[1024];
    ssize_t n = vb_encode(&m->base, buf, sizeof buf);

    assert_true(n > 0);
    assert_int_equal(vb_packet_send(daemon_fd, buf, (size_t)n, NULL, 0, 0), 0);
}

static void tell_reclaim(void) {
    VfioBrokerInternal__ToSession m = VFIO_BROKER_INTERNAL__TO_SESSION__INIT;
    VfioBrokerInternal__LeaseReclaim reclaim = VFIO_BROKER_INTERNAL__LEASE_RECLAIM__INIT;

    m.body_case = VFIO_BROKER_INTERNAL__TO_SESSION__BODY_LEASE_RECLAIM;
    m.lease_reclaim = &reclaim;
    tell(&m);
}

static void tell_granted(uint64_t serial, uint64_t bytes) {
    VfioBrokerInternal__ToSession m = VFIO_BROKER_INTERNAL__TO_SESSION__INIT;
    VfioBrokerInternal__Answer answer = VFIO_BROKER_INTERNAL__ANSWER__INIT;
    VfioBrokerInternal__LeaseGrant grant = VFIO_BROKER_INTERNAL__LEASE_GRANT__INIT;

    grant.granted = bytes;
    grant.limit = 100 * MIB;
    grant.limit_whose = (char *)"policy";
    answer.serial = serial;
    answer.body_case = VFIO_BROKER_INTERNAL__ANSWER__BODY_LEASE;
    answer.lease = &grant;
    m.body_case = VFIO_BROKER_INTERNAL__TO_SESSION__BODY_ANSWER;
    m.answer = &answer;
    tell(&m);
}

/* The session's next message; NULL: none. */
static const VfioBrokerInternal__ToDaemon *told(void) {
    static uint8_t buf[VB_PACKET_MAX];
    struct vb_packet p = VB_PACKET_INIT;

    if (vb_packet_recv(daemon_fd, buf, sizeof buf, MSG_DONTWAIT, &p) != 1)
        return NULL;
    const VfioBrokerInternal__ToDaemon *m =
        vb_decode(&arena, &vfio_broker_internal__to_daemon__descriptor, p.data, p.size);
    assert_non_null(m);
    return m;
}

static const VfioBrokerInternal__LeaseGive *told_give(void) {
    const VfioBrokerInternal__ToDaemon *m = told();

    assert_non_null(m);
    assert_int_equal(m->body_case, VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_LEASE_GIVE);
    return m->lease_give;
}

/* ---- cases ---- */

static void test_more_and_less_at_once(void **state) {
    struct vb_ledger *l = &s.model->ledger;
    struct vb_error e;

    (void)state;
    l->lease = 3 * MIB;
    assert_int_equal(vb_ledger_reserve(l, PAID(MIB), &e), 0);
    assert_null(told());
    /* Both are there when it begins to wait; the daemon has granted what it needs with what it gives. */
    tell_reclaim();
    tell_granted(1, 10 * MIB);
    assert_int_equal(vb_ledger_reserve(l, PAID(9 * MIB), &e), 0);
    assert_true(l->used == 10 * MIB && l->lease == 11 * MIB && l->limit == 100 * MIB);
    assert_string_equal(l->whose, "policy");
    const VfioBrokerInternal__ToDaemon *m = told();
    assert_int_equal(m->body_case, VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_CALL);
    assert_int_equal(m->call->body_case, VFIO_BROKER_INTERNAL__CALL__BODY_LEASE);
    assert_true(m->call->lease->need == 7 * MIB && m->call->lease->wish == 7 * MIB + VB_LEASE_SLACK);
    const VfioBrokerInternal__LeaseGive *g = told_give();
    assert_true(g->asked && g->bytes == 2 * MIB && g->doubled == 0);
    assert_null(told());
    /* Nothing to give is an answer too. */
    vb_ledger_release(l, PAID(0));
    l->lease = l->used;
    tell_reclaim();
    event_base_loop(s.base, EVLOOP_NONBLOCK);
    g = told_give();
    assert_true(g->asked && g->bytes == 0);
}

/* Its call had lost patience; it is ours all the same. */
static void test_a_grant_that_comes_late(void **state) {
    (void)state;
    s.model->ledger.lease = MIB;
    tell_granted(77, 5 * MIB);
    event_base_loop(s.base, EVLOOP_NONBLOCK);
    assert_int_equal(s.model->ledger.lease, 6 * MIB);
}

static void test_what_stays_idle_goes_back(void **state) {
    struct vb_ledger *l = &s.model->ledger;

    (void)state;
    l->lease = VB_LEASE_SLACK + 9 * MIB;
    assert_int_equal(vb_ledger_reserve(l, PAID(9 * MIB), NULL), 0);
    assert_false(evtimer_pending(s.lease_timer, NULL)); /* nothing is idle, and nobody looks */
    vb_ledger_release(l, PAID(4 * MIB));
    assert_true(evtimer_pending(s.lease_timer, NULL));
    assert_null(told());
    while (evtimer_pending(s.lease_timer, NULL))
        event_base_loop(s.base, EVLOOP_ONCE);
    const VfioBrokerInternal__LeaseGive *g = told_give();
    assert_true(!g->asked && g->bytes == 4 * MIB && l->lease == VB_LEASE_SLACK + 5 * MIB);
}

static void test_without_a_daemon(void **state) {
    struct vb_ledger *l = &s.model->ledger;
    struct vb_error e = {.code = 0};

    (void)state;
    l->lease = VB_LEASE_SLACK + 9 * MIB;
    close(daemon_fd);
    daemon_fd = -1;
    assert_int_equal(vb_ledger_reserve(l, PAID(VB_LEASE_SLACK + 8 * MIB), &e), 0);
    assert_int_equal(vb_ledger_reserve(l, PAID(2 * MIB), &e), VB_UNAVAILABLE);
    assert_int_equal(vb_ledger_reserve(l, PAID(MIB), &e), 0);
    vb_ledger_release(l, PAID(9 * MIB));
    event_active(s.lease_timer, 0, 0); /* the time has come, but what is leased serves us meanwhile */
    event_base_loop(s.base, EVLOOP_NONBLOCK);
    assert_int_equal(l->lease, VB_LEASE_SLACK + 9 * MIB);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_more_and_less_at_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_grant_that_comes_late, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_stays_idle_goes_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_without_a_daemon, set_up, tear_down),
    };

    return cmocka_run_group_tests_name("lease", tests, NULL, NULL);
}
