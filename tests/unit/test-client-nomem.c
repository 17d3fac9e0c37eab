/* libvfio-broker without memory: each allocation of a client's life fails once. A call that fails for it has changed
 * nothing, so the same call works afterwards; what cannot be kept otherwise (an event) ends the connection. No fd is lost. */
#include "config.h"

#include "client/client-private.h"
#include "fake-broker.h"

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);

static int countdown; /* allocations until one fails; 0: none does */
static bool failed;

static bool fails_now(void) {
    if (countdown == 0 || --countdown > 0)
        return false;
    return failed = true;
}

void *__wrap_malloc(size_t size) {
    return fails_now() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size) {
    return fails_now() ? NULL : __real_calloc(n, size);
}

/* An unmap sends more events than handlers can nest, and one of many pins. */
static void script(int s, int i) {
    static uint32_t pins[130];
    VfioBroker__Request *req;
    uint32_t access = 0, memory = 0;
    uint64_t outer = 0;
    unsigned unpins = 0;
    int fd = numbered(1);
    (void)i;
    greet(s);
    while ((req = get(s))) {
        uint64_t id = req->id;
        if (req->body_case == VFIO_BROKER__REQUEST__BODY_ACCESS_OPEN) {
            put_access(s, id, ++access);
        } else if (req->body_case == VFIO_BROKER__REQUEST__BODY_PIN) {
            memory++;
            put_pin(s, id, memory, memory, fd);
        } else if (req->body_case == VFIO_BROKER__REQUEST__BODY_UNMAP) {
            outer = id;
            for (unsigned k = 0; k < VBC_EVENT_DEPTH; k++)
                event_invalidate(s, access, pins, 1);
            event_invalidate(s, access, pins, 130);
        } else if (outer && req->body_case == VFIO_BROKER__REQUEST__BODY_UNPIN) {
            static uint64_t waiting[VBC_EVENT_DEPTH];
            if (unpins < VBC_EVENT_DEPTH)
                waiting[unpins] = id;
            if (++unpins == VBC_EVENT_DEPTH)
                for (unsigned k = 0; k < VBC_EVENT_DEPTH; k++)
                    put_done(s, waiting[k]);
            if (unpins > VBC_EVENT_DEPTH)
                put_done(s, id);
            if (unpins == VBC_EVENT_DEPTH + 3) {
                REPLY(m, UNMAP, unmap, UnmapReply, UNMAP_REPLY);
                m.id = outer;
                put(s, &m);
                outer = 0;
            }
        } else {
            put_done(s, id);
        }
    }
    close(fd);
}

static void unpin(struct vfb_client *c, const struct vfb_event *e, void *arg) {
    int *told = arg;
    *told += (int)e->n_pins;
    vfb_unpin(c, e->access, e->pins, e->n_pins);
}

/* Calls again what failed for lack of memory. */
#define AGAIN(call)                                                                                                    \
    do {                                                                                                               \
        int r_ = (call);                                                                                               \
        if (r_ == -ENOMEM && failed)                                                                                   \
            r_ = (call);                                                                                               \
        assert_int_equal(r_, 0);                                                                                       \
    } while (0)

static void test_every_allocation(void **state) {
    int n = 1, lost = 0;
    (void)state;
    for (failed = true; failed; n++) {
        struct vfb_client *c;
        struct vfb_access a;
        struct vfb_pin pin;
        int told = 0, before = count_fds();
        start(script, 1);
        failed = false;
        countdown = n;
        AGAIN(vfb_client_new(&c));
        AGAIN(vfb_connect(c, fake_path, "nomem"));
        vfb_set_event_handler(c, unpin, &told);
        AGAIN(vfb_access_open(c, secret, &a));
        AGAIN(vfb_pin(c, a.id, &simple, 1, &pin));
        assert_int_equal(pin.id, 1); /* nothing was asked in vain */
        assert_int_equal(a.id, 1);
        assert_int_equal(c->n_accesses, 1);
        bool yet = failed;
        int r = vfb_unmap_all(c, 1, NULL);
        if (failed && !yet) {
            assert_int_equal(r, -ENOMEM);
            assert_int_equal(vfb_access_close(c, a.id), -EPIPE);
            lost++;
        } else {
            assert_int_equal(r, 0);
            assert_int_equal(told, VBC_EVENT_DEPTH + 130);
            AGAIN(vfb_access_close(c, a.id));
        }
        countdown = 0;
        vfb_client_free(c);
        stop();
        assert_int_equal(count_fds(), before);
        assert_true(n < 100);
    }
    assert_int_equal(lost, 2);  /* to keep an event, and to copy its pins */
    assert_int_equal(n - 2, 5); /* and the client, the access, the pins: these are all */
}

int main(void) {
    const struct CMUnitTest tests[] = {FAKE_TEST(test_every_allocation)};
    return cmocka_run_group_tests_name("client-nomem", tests, NULL, NULL);
}
