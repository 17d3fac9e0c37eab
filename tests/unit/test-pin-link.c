/* Both ends of a pin link with a hostile session at the other: one that does not read cannot use up fds, one that makes us lock much
 * has to rest, what was answered in time counts at the deadline, and one that sends fds that are no memory costs our client
 * its access, not its connection. tests/fuzz/fuzz-pins.c tries the rest. Linked with --wrap=mlock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/emulated.h"
#include "config.h"
#include "proto/clock.h"
#include "session/pins.h"

#define MEMORIES 40u
#define PAGE     4096u

static struct vb_session s;
static struct vb_arena arena;
static int client, daemon_fd;

static unsigned mlock_ms; /* it takes that long */

int __wrap_mlock(const void *p, size_t size);
int __wrap_mlock(const void *p, size_t size) {
    (void)p, (void)size;
    usleep(mlock_ms * 1000);
    return 0;
}

static int pair(int *ret_ours) {
    int sv[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv), 0);
    *ret_ours = sv[0];
    return sv[1];
}

static int set_up(void **state) {
    struct vb_backend *backend;
    struct vb_memory *memory;
    struct vb_space *space;
    struct vb_error e;

    (void)state;
    memset(&s, 0, sizeof s);
    s.base = event_base_new();
    s.client_pidfd = s.iommufd = -1;
    s.id = 1;
    LIST_INIT(&s.watches);
    vb_outbox_init(&s.client.later);
    TAILQ_INIT(&s.pin_links);
    assert_int_equal(vb_arena_init(&arena, VB_DECODE_MAX), 0);
    assert_int_equal(vb_emulated_new(NULL, &backend, &e), 0);
    assert_int_equal(vb_model_new(backend, 100, &s.model), 0);
    s.model->ledger.lease = s.model->ledger.limit = MEMORIES * PAGE;
    assert_int_equal(vb_control_start(&s, pair(&daemon_fd)), 0);
    assert_int_equal(vb_client_start(&s, pair(&client)), 0);
    s.client.hello_done = true;
    assert_int_equal(vb_model_space_create(s.model, "space", &space, &e), 0);
    for (uint64_t i = 0; i < MEMORIES; i++) {
        int fd = memfd_create("test", MFD_CLOEXEC);
        char page[PAGE] = {1};

        assert_int_equal(write(fd, page, sizeof page), sizeof page);
        assert_int_equal(vb_model_register(s.model, fd, true, 0, "ram", &memory, &e), 0);
        const struct vb_map_entry m = {i * PAGE, PAGE, 0, memory->id, 3};
        assert_int_equal(vb_model_map(s.model, space->id, &m, 1, &e), 0);
    }
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    vb_session_end(&s);
    vb_unwatch_all(&s);
    s.model = vb_model_free(s.model);
    vb_control_stop(&s);
    if (s.held_timer)
        event_free(s.held_timer);
    event_base_free(s.base);
    close(client);
    close(daemon_fd);
    vb_arena_fini(&arena);
    return 0;
}

/* The loop for so long. */
static void run(unsigned ms) {
    const struct timeval t = {.tv_usec = ms * 1000};

    event_base_loopexit(s.base, &t);
    event_base_dispatch(s.base);
}

static unsigned n_fds(void) {
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

/* ---- the owner's end ---- */

static int link_with(const struct vb_token *t) {
    VfioBrokerInternal__PinLink m = VFIO_BROKER_INTERNAL__PIN_LINK__INIT;
    int ours;
    int theirs = pair(&ours);

    m.secret = (ProtobufCBinaryData){.len = VB_TOKEN_SIZE, .data = (uint8_t *)t->secret};
    m.session = 2;
    vb_pin_link_offered(&s, &m, theirs);
    return ours;
}

/* Pins `n` memories from the first-th on. */
static void ask_pin(int fd, uint64_t serial, uint32_t first, uint32_t n) {
    VfioBrokerInternal__ToOwner m = VFIO_BROKER_INTERNAL__TO_OWNER__INIT;
    VfioBroker__Pin pin = VFIO_BROKER__PIN__INIT;
    VfioBroker__PinEntry e[VB_PACKET_FDS], *list[VB_PACKET_FDS];
    uint8_t buf[4096];

    for (uint32_t i = 0; i < n; i++) {
        vfio_broker__pin_entry__init(&e[i]);
        e[i].iova = (uint64_t)(first + i) * PAGE;
        e[i].size = PAGE;
        e[i].prot = 1;
        list[i] = &e[i];
    }
    pin.entries = list;
    pin.n_entries = n;
    m.serial = serial;
    m.body_case = VFIO_BROKER_INTERNAL__TO_OWNER__BODY_PIN;
    m.pin = &pin;
    size_t size = protobuf_c_message_pack(&m.base, buf);
    assert_int_equal(vb_packet_send(fd, buf, size, NULL, 0, 0), 0);
}

static void ask_unpin(int fd, uint64_t serial, uint32_t pin) {
    VfioBrokerInternal__ToOwner m = VFIO_BROKER_INTERNAL__TO_OWNER__INIT;
    VfioBroker__Unpin unpin = VFIO_BROKER__UNPIN__INIT;
    uint8_t buf[64];

    unpin.pins = &pin;
    unpin.n_pins = 1;
    m.serial = serial;
    m.body_case = VFIO_BROKER_INTERNAL__TO_OWNER__BODY_UNPIN;
    m.unpin = &unpin;
    size_t size = protobuf_c_message_pack(&m.base, buf);
    assert_int_equal(vb_packet_send(fd, buf, size, NULL, 0, 0), 0);
}

/* The next message; 0: there is none. */
static unsigned heard(int fd) {
    static uint8_t buf[VB_PACKET_MAX];
    VB_PACKET struct vb_packet p = VB_PACKET_INIT;
    const VfioBrokerInternal__ToPinner *m = NULL;

    if (vb_packet_recv(fd, buf, sizeof buf, MSG_DONTWAIT, &p) == 1)
        m = vb_decode(&arena, &vfio_broker_internal__to_pinner__descriptor, p.data, p.size);
    return m ? (unsigned)m->body_case : 0;
}

/* How many fds came with the next packet; -1: none did. */
static int take(int fd) {
    static uint8_t buf[VB_PACKET_MAX];
    VB_PACKET struct vb_packet p = VB_PACKET_INIT;

    return vb_packet_recv(fd, buf, sizeof buf, MSG_DONTWAIT, &p) == 1 ? (int)p.n_fds : -1;
}

/* Links rest after requests that took long (pin-link.c), on a busy machine more than on others. */
static void run_until_pins(uint32_t n) {
    for (unsigned i = 0; i < 500 && s.model->n_pins != n; i++)
        run(20);
    run(60); /* no more come */
    assert_int_equal(s.model->n_pins, n);
}

static void run_until_links(uint32_t n) {
    for (unsigned i = 0; i < 500 && s.n_pin_links != n; i++)
        run(20);
    assert_int_equal(s.n_pin_links, n);
}

static void test_does_not_read(void **state) {
    enum { LINKS = 8 };
    struct vb_token *t;
    struct vb_error e;
    int links[LINKS];

    (void)state;
    assert_int_equal(vb_token_create(&s, s.model->spaces.items[0], (struct vb_range){0, UINT64_MAX}, "all", &t, &e), 0);
    for (unsigned i = 0; i < LINKS; i++) {
        links[i] = link_with(t);
        assert_int_equal(take(links[i]), 0); /* Opened */
    }
    const unsigned before = n_fds();
    for (unsigned i = 0; i < LINKS; i++) {
        ask_pin(links[i], 1, 0, VB_PACKET_FDS);
        ask_pin(links[i], 2, VB_PACKET_FDS, VB_PACKET_FDS);
        ask_pin(links[i], 3, 2 * VB_PACKET_FDS, MEMORIES - 2 * VB_PACKET_FDS);
    }
    run_until_pins(LINKS * VB_PACKET_FDS); /* fds of one reply are under way on each */
    assert_int_equal(n_fds(), before);     /* and nothing waits, duplicated */
    for (unsigned i = 0; i < LINKS; i++)
        assert_int_equal(take(links[i]), VB_PACKET_FDS);
    run_until_pins(LINKS * 2 * VB_PACKET_FDS);
    assert_int_equal(take(links[0]), VB_PACKET_FDS);
    run_until_pins(LINKS * 2 * VB_PACKET_FDS + MEMORIES - 2 * VB_PACKET_FDS);
    assert_int_equal(take(links[0]), MEMORIES - 2 * VB_PACKET_FDS);
    for (unsigned i = 0; i < LINKS; i++) /* also in the pause its end is seen */
        close(links[i]);
    run_until_links(0);
    assert_int_equal(s.model->n_pins, 0);
}

/* Nor do errors that nobody reads leave a reply with fds in the outbox. */
static void test_full_socket(void **state) {
    struct vb_token *t;
    struct vb_error e;

    (void)state;
    assert_int_equal(vb_token_create(&s, s.model->spaces.items[0], (struct vb_range){0, UINT64_MAX}, "all", &t, &e), 0);
    int fd = link_with(t);
    const unsigned before = n_fds();
    for (uint64_t i = 0; i < 100; i++)
        ask_pin(fd, i + 1, 1u << 20, 1); /* nothing is mapped there */
    for (unsigned i = 0; i < 20; i++)
        run(5);
    assert_true(vb_outbox_empty(&TAILQ_FIRST(&s.pin_links)->out));
    assert_int_equal(n_fds(), before);
    close(fd);
    run_until_links(0);
}

static struct vb_space *space_of(void) {
    return s.model->spaces.items[0];
}

/* A link with one pin, whose owner has asked for it. */
static int asked(uint32_t *ret_pin) {
    const struct vb_pin_filter all = {.space = space_of()};
    struct vb_token *t;
    struct vb_error e;

    assert_int_equal(vb_token_create(&s, all.space, (struct vb_range){0, UINT64_MAX}, "all", &t, &e), 0);
    int fd = link_with(t);
    ask_pin(fd, 1, 0, 1);
    run_until_pins(1);
    *ret_pin = TAILQ_FIRST(&all.space->pins)->id;
    vb_pins_ask(&s, &all);
    assert_int_equal(heard(fd), VFIO_BROKER_INTERNAL__TO_PINNER__BODY_OPENED);
    assert_int_equal(heard(fd), VFIO_BROKER_INTERNAL__TO_PINNER__BODY_PIN);
    assert_int_equal(heard(fd), VFIO_BROKER_INTERNAL__TO_PINNER__BODY_INVALIDATE);
    return fd;
}

/* It has answered, and we have not come to read it. */
static void test_answered_in_time(void **state) {
    uint32_t pin;

    (void)state;
    int fd = asked(&pin);
    ask_unpin(fd, 2, pin);
    assert_int_equal(vb_pins_expire(&s, vb_now_ms() + 2 * VB_INVALIDATE_MS), 0);
    assert_int_equal(s.model->n_pins, 0);
    assert_int_equal(heard(fd), VFIO_BROKER_INTERNAL__TO_PINNER__BODY_DONE);
    assert_int_equal(heard(fd), 0);
    close(fd);
}

static void test_not_answered(void **state) {
    uint32_t pin;

    (void)state;
    int fd = asked(&pin);
    assert_true(vb_pins_expire(&s, vb_now_ms()) > vb_now_ms()); /* not yet */
    assert_int_equal(s.model->n_pins, 1);
    assert_int_equal(vb_pins_expire(&s, vb_now_ms() + 2 * VB_INVALIDATE_MS), 0);
    assert_int_equal(s.model->n_pins, 0);
    assert_int_equal(heard(fd), VFIO_BROKER_INTERNAL__TO_PINNER__BODY_PINS_LOST);
    ask_unpin(fd, 2, pin); /* too late */
    for (unsigned i = 0; i < 500 && (i == 0 || s.links_rest_until > vb_now_ms()); i++)
        run(20);
    assert_int_equal(heard(fd), VFIO_BROKER_INTERNAL__TO_PINNER__BODY_ERROR);
    close(fd);
}

/* Who makes us lock for long is not read for three times as long, and nobody else of them for some of that. */
static void test_rest(void **state) {
    struct vb_pin_link *l;
    struct vb_token *t;
    struct vb_error e;

    (void)state;
    assert_int_equal(vb_token_create(&s, space_of(), (struct vb_range){0, UINT64_MAX}, "all", &t, &e), 0);
    int fd = link_with(t), other = link_with(t);
    l = TAILQ_FIRST(&s.pin_links);
    mlock_ms = 30;
    const uint64_t begun = vb_now_ms();
    ask_pin(fd, 1, 0, 1);
    while (s.model->n_pins == 0)
        event_base_loop(s.base, EVLOOP_ONCE);
    mlock_ms = 0;
    assert_true(s.links_rest_until >= begun + 4 * 29);
    assert_true(l->rests_until >= begun + 29 + 2 * 3 * 29); /* of two links */
    assert_int_equal(heard(fd), VFIO_BROKER_INTERNAL__TO_PINNER__BODY_OPENED);
    assert_int_equal(heard(fd), VFIO_BROKER_INTERNAL__TO_PINNER__BODY_PIN); /* else this link would wait for that */
    /* As long as they rest, nothing is read; then it is. */
    l->rests_until = s.links_rest_until = vb_now_ms() + 400;
    ask_pin(fd, 2, 1, 1);
    ask_pin(other, 1, 2, 1);
    run(50);
    assert_true(s.model->n_pins == 1 || vb_now_ms() >= l->rests_until);
    run_until_pins(3);
    close(fd);
    close(other);
    run_until_links(0);
}

/* ---- the pinner's end ---- */

/* Our client opens an access; answers as the daemon does. Returns the owner's end. */
static int opened(uint64_t id) {
    VfioBrokerInternal__ToSession m = VFIO_BROKER_INTERNAL__TO_SESSION__INIT;
    VfioBrokerInternal__Answer a = VFIO_BROKER_INTERNAL__ANSWER__INIT;
    VfioBrokerInternal__Ok ok = VFIO_BROKER_INTERNAL__OK__INIT;
    VfioBroker__AccessOpen open = VFIO_BROKER__ACCESS_OPEN__INIT;
    VfioBroker__Request q = VFIO_BROKER__REQUEST__INIT;
    uint8_t buf[512], secret[VB_TOKEN_SIZE] = {0};
    int ours;
    int theirs = pair(&ours);

    event_del(s.control.readable); /* else the loop may read it before the call waits for it */
    a.serial = s.control.serial + 1;
    a.body_case = VFIO_BROKER_INTERNAL__ANSWER__BODY_OK;
    a.ok = &ok;
    m.body_case = VFIO_BROKER_INTERNAL__TO_SESSION__BODY_ANSWER;
    m.answer = &a;
    size_t size = protobuf_c_message_pack(&m.base, buf);
    assert_int_equal(vb_packet_send(daemon_fd, buf, size, &theirs, 1, 0), 0);
    close(theirs);
    open.secret = (ProtobufCBinaryData){.len = sizeof secret, .data = secret};
    q.id = id;
    q.body_case = VFIO_BROKER__REQUEST__BODY_ACCESS_OPEN;
    q.access_open = &open;
    size = protobuf_c_message_pack(&q.base, buf);
    assert_int_equal(vb_packet_send(client, buf, size, NULL, 0, 0), 0);
    run(20);
    return ours;
}

static const VfioBroker__Reply *reply(void) {
    static uint8_t buf[VB_PACKET_MAX];
    VB_PACKET struct vb_packet p = VB_PACKET_INIT;

    for (unsigned i = 0; i < 500; i++) {
        if (vb_packet_recv(client, buf, sizeof buf, MSG_DONTWAIT, &p) == 1)
            return vb_decode(&arena, &vfio_broker__reply__descriptor, p.data, p.size);
        run(20);
    }
    return NULL;
}

static void test_foreign_fds(void **state) {
    const VfioBroker__Reply *r;
    int pipes[2], fds[VB_PACKET_FDS];
    uint64_t id;

    (void)state;
    assert_int_equal(pipe(pipes), 0);
    for (unsigned i = 0; i < VB_PACKET_FDS; i++)
        fds[i] = pipes[0];
    for (id = 1; id <= 5; id++) {
        int owner = opened(id);

        assert_int_equal(vb_packet_send(owner, "x", 1, fds, VB_PACKET_FDS, 0), 0);
        run(20);
        close(owner);
        r = reply();
        assert_non_null(r);
        assert_int_equal(r->id, id);
        assert_int_equal(r->error->code, VFIO_BROKER__ERROR_CODE__ERROR_UNAVAILABLE);
    }
    assert_int_equal(s.n_foreign_owners, 5 * VB_PACKET_FDS);
    close(opened(id)); /* no further one, and the connection stays */
    r = reply();
    assert_non_null(r);
    assert_int_equal(r->error->code, VFIO_BROKER__ERROR_CODE__ERROR_LIMIT);
    assert_false(s.holding);
    assert_int_equal(s.client.n_foreign, 0);
    close(pipes[0]);
    close(pipes[1]);
}

/* It closes at once, and is none all the same. */
static void test_o_path(void **state) {
    int owner = opened(1), fd = open("/", O_PATH | O_CLOEXEC);
    const VfioBroker__Reply *r;

    (void)state;
    assert_int_equal(vb_packet_send(owner, "x", 1, &fd, 1, 0), 0);
    close(fd);
    r = reply();
    assert_non_null(r);
    assert_int_equal(r->error->code, VFIO_BROKER__ERROR_CODE__ERROR_UNAVAILABLE);
    assert_non_null(strstr(r->error->text, "no memory"));
    assert_int_equal(s.n_foreign_owners, 0);
    assert_int_equal(s.accesses.n, 0);
    close(owner);
}

void vb_session_log(const struct vb_session *unused, const char *fmt, ...) {
    (void)unused, (void)fmt;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_does_not_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_full_socket, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_answered_in_time, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_not_answered, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_rest, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_foreign_fds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_o_path, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
