/* The session's requests, packet by packet, on the emulated backend: what the dispatcher checks before the model sees
 * anything, and that a refused request changes nothing. What the model does is tested in test-model.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/emulated.h"
#include "session/dispatch.h"

#define MEMORY_SIZE (1u << 20)

static struct vb_session s;
static struct vb_arena arena; /* for replies */

static int set_up(void **state) {
    struct vb_backend *backend;
    struct vb_error e;

    (void)state;
    memset(&s, 0, sizeof s);
    s.client_pidfd = s.iommufd = -1;
    s.id = 7;
    LIST_INIT(&s.watches);
    assert_int_equal(vb_arena_init(&arena, VB_DECODE_MAX), 0);
    assert_int_equal(vb_emulated_new(NULL, &backend, &e), 0);
    assert_int_equal(vb_model_new(backend, 100, &s.model), 0);
    s.model->ledger.lease = s.model->ledger.limit = MEMORY_SIZE;
    assert_int_equal(vb_control_start(&s, -1), 0);
    assert_int_equal(vb_client_start(&s, -1), 0);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    vb_client_stop(&s);
    vb_control_stop(&s);
    s.model = vb_model_free(s.model);
    vb_arena_fini(&arena);
    return 0;
}

/* Sends bytes, with an fd that is consumed (-1: none). */
static VfioBroker__Reply *raw(const void *data, size_t size, int fd, bool *ret_fatal) {
    struct vb_packet p = {.data = data, .size = size, .n_fds = fd >= 0, .fds = {fd}};
    int reply_fd;

    size_t n = vb_client_handle(&s, &p, &reply_fd, ret_fatal);
    vb_packet_close(&p);
    if (reply_fd >= 0)
        close(reply_fd);
    VfioBroker__Reply *r = vb_decode(&arena, &vfio_broker__reply__descriptor, s.client.out, n);
    assert_non_null(r);
    return r;
}

static VfioBroker__Reply *ask(VfioBroker__Request *q, int fd) {
    static uint8_t buf[VB_PACKET_MAX];
    bool fatal;

    q->id = 42;
    ssize_t n = vb_encode(&q->base, buf, sizeof buf);
    assert_true(n > 0);
    VfioBroker__Reply *r = raw(buf, (size_t)n, fd, &fatal);
    assert_int_equal(r->id, 42);
    return r;
}

#define REQUEST(kind, field, type, init)                                                                               \
    type body = init;                                                                                                  \
    VfioBroker__Request q = VFIO_BROKER__REQUEST__INIT;                                                                \
    q.body_case = VFIO_BROKER__REQUEST__BODY_##kind;                                                                   \
    q.field = &body

static void assert_refused(const VfioBroker__Reply *r, enum vb_code code, const char *part) {
    assert_int_equal(r->body_case, VFIO_BROKER__REPLY__BODY_ERROR);
    assert_int_equal(r->error->code, code);
    if (!strstr(r->error->text, part))
        fail_msg("'%s' does not say '%s'", r->error->text, part);
}

static void hello(void) {
    REQUEST(HELLO, hello, VfioBroker__Hello, VFIO_BROKER__HELLO__INIT);
    body.version = 1;
    body.name = "unit test";
    VfioBroker__Reply *r = ask(&q, -1);
    assert_int_equal(r->body_case, VFIO_BROKER__REPLY__BODY_HELLO);
    assert_int_equal(r->hello->session, 7);
    assert_int_equal(r->hello->version, 1);
    assert_int_equal(r->hello->limits->mappings, s.model->mappings_max);
    assert_int_equal(r->hello->features, s.model->backend->ops->features(s.model->backend) |
                                             VFIO_BROKER__FEATURE__FEATURE_PINS |
                                             VFIO_BROKER__FEATURE__FEATURE_DOMAINS);
}

static uint32_t register_memory(void) {
    REQUEST(MEMORY_REGISTER, memory_register, VfioBroker__MemoryRegister, VFIO_BROKER__MEMORY_REGISTER__INIT);
    int fd = memfd_create("unit", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    void *p;

    assert_int_equal(ftruncate(fd, MEMORY_SIZE), 0);
    p = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    memset(p, 1, MEMORY_SIZE);
    munmap(p, MEMORY_SIZE);
    body.writable = true;
    body.name = "ram";
    VfioBroker__Reply *r = ask(&q, fd);
    assert_int_equal(r->body_case, VFIO_BROKER__REPLY__BODY_MEMORY_REGISTER);
    assert_int_equal(r->memory_register->size, MEMORY_SIZE);
    return r->memory_register->memory;
}

static uint32_t create_space(void) {
    REQUEST(SPACE_CREATE, space_create, VfioBroker__SpaceCreate, VFIO_BROKER__SPACE_CREATE__INIT);
    VfioBroker__Reply *r = ask(&q, -1);
    assert_int_equal(r->body_case, VFIO_BROKER__REPLY__BODY_SPACE_CREATE);
    return r->space_create->space;
}

static void test_hello_comes_first_and_once(void **state) {
    (void)state;
    {
        REQUEST(SPACE_CREATE, space_create, VfioBroker__SpaceCreate, VFIO_BROKER__SPACE_CREATE__INIT);
        assert_refused(ask(&q, -1), VB_PROTOCOL, "SpaceCreate before Hello");
    }
    {
        REQUEST(HELLO, hello, VfioBroker__Hello, VFIO_BROKER__HELLO__INIT);
        assert_refused(ask(&q, -1), VB_INVALID, "version 0");
        body.version = 1;
        body.name = "bad\nname";
        assert_refused(ask(&q, -1), VB_INVALID, "0x0a");
        body.name = "0123456789012345678901234567890123456789012345678901234567890123";
        assert_refused(ask(&q, -1), VB_INVALID, "at most 63");
    }
    hello();
    REQUEST(HELLO, hello, VfioBroker__Hello, VFIO_BROKER__HELLO__INIT);
    body.version = 9;
    assert_refused(ask(&q, -1), VB_STATE, "session 7");
}

static void test_packets_that_are_no_requests(void **state) {
    (void)state;
    bool fatal;
    static const uint8_t garbage[] = {0xff, 0xff, 0xff, 0xff, 0xff};
    /* id 3, and field 100 (a request of a future client) as an empty message */
    static const uint8_t future[] = {0x08, 0x03, 0xa2, 0x06, 0x00};
    static const uint8_t no_id[] = {0x12, 0x00};

    assert_refused(raw(garbage, sizeof garbage, -1, &fatal), VB_PROTOCOL, "5 bytes");
    assert_true(fatal);
    assert_refused(raw(no_id, sizeof no_id, -1, &fatal), VB_PROTOCOL, "id 0");
    assert_true(fatal);
    hello();
    VfioBroker__Reply *r = raw(future, sizeof future, -1, &fatal);
    assert_int_equal(r->id, 3);
    assert_refused(r, VB_UNSUPPORTED, "type 100");
    assert_false(fatal);
}

static void test_fds_belong_to_their_request(void **state) {
    (void)state;
    hello();
    {
        REQUEST(SPACE_CREATE, space_create, VfioBroker__SpaceCreate, VFIO_BROKER__SPACE_CREATE__INIT);
        int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        assert_refused(ask(&q, fd), VB_PROTOCOL, "1 file descriptors, 0");
        assert_int_equal(fcntl(fd, F_GETFD), -1);
    }
    REQUEST(MEMORY_REGISTER, memory_register, VfioBroker__MemoryRegister, VFIO_BROKER__MEMORY_REGISTER__INIT);
    assert_refused(ask(&q, -1), VB_PROTOCOL, "0 file descriptors, 1");
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    assert_refused(ask(&q, fd), VB_BAD_MEMORY, "memfd");
    assert_int_equal(fcntl(fd, F_GETFD), -1);
    body.name = "\t";
    fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    assert_refused(ask(&q, fd), VB_INVALID, "printable");
    assert_int_equal(fcntl(fd, F_GETFD), -1);
    assert_int_equal(s.model->memories.n, 0);
}

static void test_fds_of_dirty_reads_and_discards(void **state) {
    (void)state;
    hello();
    {
        REQUEST(DIRTY_READ, dirty_read, VfioBroker__DirtyRead, VFIO_BROKER__DIRTY_READ__INIT);
        assert_refused(ask(&q, -1), VB_PROTOCOL, "DirtyRead came with 0");
    }
    REQUEST(DISCARD, discard, VfioBroker__Discard, VFIO_BROKER__DISCARD__INIT);
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    assert_refused(ask(&q, fd), VB_PROTOCOL, "Discard came with 1");
    assert_int_equal(fcntl(fd, F_GETFD), -1);
}

static void test_map_unmap_and_look(void **state) {
    (void)state;
    VfioBroker__MapEntry entry = VFIO_BROKER__MAP_ENTRY__INIT, *entries[2] = {&entry, &entry};

    hello();
    entry.memory = register_memory();
    entry.iova = 0x10000, entry.size = 0x2000, entry.prot = 3;
    uint32_t space = create_space();
    {
        REQUEST(MAP, map, VfioBroker__Map, VFIO_BROKER__MAP__INIT);
        body.space = space;
        assert_refused(ask(&q, -1), VB_INVALID, "empty");
        body.entries = entries, body.n_entries = 2;
        VfioBroker__Reply *r = ask(&q, -1);
        assert_refused(r, VB_OVERLAP, "0x10000");
        assert_true(r->error->has_entry);
        assert_int_equal(r->error->entry, 1);
        assert_int_equal(s.model->ledger.used, 0);
        body.n_entries = 1;
        assert_int_equal(ask(&q, -1)->body_case, VFIO_BROKER__REPLY__BODY_DONE);
        assert_int_equal(s.model->ledger.used, 0x2000);
    }
    {
        REQUEST(INSPECT, inspect, VfioBroker__Inspect, VFIO_BROKER__INSPECT__INIT);
        body.kind = VFIO_BROKER__INSPECT_KIND__INSPECT_MAPPINGS;
        VfioBroker__Reply *r = ask(&q, -1);
        assert_int_equal(r->inspect->n_mappings, 1);
        assert_int_equal(r->inspect->mappings[0]->iova, 0x10000);
        assert_int_equal(r->inspect->next, 0);
        body.kind = VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE;
        body.session = 7;
        r = ask(&q, -1);
        assert_int_equal(r->inspect->usage->used, 0x2000);
        assert_string_equal(r->inspect->usage->name, "unit test");
        body.session = 8;
        assert_refused(ask(&q, -1), VB_UNAVAILABLE, "away");
        body.session = 0;
        body.kind = 99;
        assert_refused(ask(&q, -1), VB_UNSUPPORTED, "99");
    }
    {
        REQUEST(MEMORY_UNREGISTER, memory_unregister, VfioBroker__MemoryUnregister,
                VFIO_BROKER__MEMORY_UNREGISTER__INIT);
        body.memory = entry.memory;
        assert_refused(ask(&q, -1), VB_BUSY, "mapping");
    }
    REQUEST(UNMAP, unmap, VfioBroker__Unmap, VFIO_BROKER__UNMAP__INIT);
    VfioBroker__UnmapEntry u = VFIO_BROKER__UNMAP_ENTRY__INIT, *us[] = {&u};
    body.space = space, body.entries = us, body.n_entries = 1;
    u.iova = 0x100000, u.size = 0x1000;
    assert_refused(ask(&q, -1), VB_NOT_FOUND, "0x100000");
    body.all = true;
    assert_refused(ask(&q, -1), VB_INVALID, "not both");
    body.all = false;
    u.iova = 0, u.size = 0x100000;
    VfioBroker__Reply *r = ask(&q, -1);
    assert_int_equal(r->unmap->mappings, 1);
    assert_int_equal(r->unmap->bytes, 0x2000);
    assert_int_equal(s.model->ledger.used, 0);
}

/* Pages of rows, each mapping once, across spaces. */
static void test_mapping_pages(void **state) {
    (void)state;
    enum { PER_SPACE = 200, SPACES = 3 };
    uint32_t memory;
    uint64_t seen = 0, last = 0;

    s.model->mappings_max = 1000;
    hello();
    memory = register_memory();
    for (int i = 0; i < SPACES; i++) {
        uint32_t space = create_space();
        for (int k = 0; k < PER_SPACE; k++) {
            VfioBroker__MapEntry entry = VFIO_BROKER__MAP_ENTRY__INIT, *entries[] = {&entry};
            REQUEST(MAP, map, VfioBroker__Map, VFIO_BROKER__MAP__INIT);
            entry.memory = memory, entry.iova = (uint64_t)(k + 1) << 13, entry.size = 0x1000, entry.prot = 1;
            body.space = space, body.entries = entries, body.n_entries = 1;
            assert_int_equal(ask(&q, -1)->body_case, VFIO_BROKER__REPLY__BODY_DONE);
        }
    }
    REQUEST(INSPECT, inspect, VfioBroker__Inspect, VFIO_BROKER__INSPECT__INIT);
    body.kind = VFIO_BROKER__INSPECT_KIND__INSPECT_MAPPINGS;
    do {
        VfioBroker__Reply *r = ask(&q, -1);
        for (size_t i = 0; i < r->inspect->n_mappings; i++) {
            uint64_t place = (uint64_t)r->inspect->mappings[i]->space << 40 | r->inspect->mappings[i]->iova;
            assert_true(place > last);
            last = place;
            seen++;
        }
        assert_true(r->inspect->n_mappings <= VB_INSPECT_ROWS);
        body.after = r->inspect->next;
    } while (body.after);
    assert_int_equal(seen, PER_SPACE * SPACES);
    body.after = UINT64_MAX; /* no such place: an end, not a crash */
    assert_int_equal(ask(&q, -1)->inspect->n_mappings, 0);
    body.after = 0x1000; /* no space at all in the cursor */
    assert_int_equal(ask(&q, -1)->inspect->n_mappings, 0);
}

static void test_devices_need_the_daemon(void **state) {
    (void)state;
    hello();
    {
        REQUEST(DEVICE_CLAIM, device_claim, VfioBroker__DeviceClaim, VFIO_BROKER__DEVICE_CLAIM__INIT);
        assert_refused(ask(&q, -1), VB_INVALID, "1 to 63");
        body.address = "emulated:0";
        assert_refused(ask(&q, -1), VB_UNAVAILABLE, "away");
    }
    REQUEST(DEVICE_RELEASE, device_release, VfioBroker__DeviceRelease, VFIO_BROKER__DEVICE_RELEASE__INIT);
    body.device = 1;
    assert_refused(ask(&q, -1), VB_NOT_FOUND, "device 1");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_hello_comes_first_and_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_packets_that_are_no_requests, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_fds_belong_to_their_request, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_fds_of_dirty_reads_and_discards, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_map_unmap_and_look, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_mapping_pages, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_devices_need_the_daemon, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
