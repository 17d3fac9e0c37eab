/* What the host does to a device becomes an event. Only the emulated device can be made to play the host (see
 * daemon/backend/emulated.h); on real hosts tests/system does it. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "conformance.h"

enum { HOST_WANTS = 0x10, HOST_LOST = 0x11 }; /* enum vb_emulated_dma_op */

struct heard {
    unsigned requested, gone;
    uint32_t device;
};

static void on_event(struct vfb_client *c, const struct vfb_event *e, void *arg) {
    struct heard *h = arg;

    (void)c;
    h->requested += e->kind == VFB_EVENT_DEVICE_REQUESTED;
    h->gone += e->kind == VFB_EVENT_DEVICE_GONE;
    h->device = e->device;
}

static void host(struct rig *r, uint32_t op) {
    const struct {
        uint32_t op, size;
        uint64_t iova;
    } q = {.op = op};
    struct {
        int32_t status;
        uint32_t size;
    } a;

    if (r->t.edu)
        tap_case_skip("only the emulated device can ask for it");
    tap_check(send(r->d.fd, &q, sizeof q, 0) == sizeof q && recv(r->d.fd, &a, sizeof a, 0) == sizeof a && a.status == 0,
              "the device does not answer: %s", strerror(errno));
}

/* Until it is heard of, for 5 s at most. */
static void listen_for(struct vfb_client *c, const unsigned *what) {
    for (int i = 0; i < 100 && !*what; i++) {
        struct pollfd p = {.fd = vfb_fd(c), .events = vfb_events(c)};

        poll(&p, 1, 50);
        tap_check(vfb_process(c) == 0, "the connection is gone: %s", vfb_error(c)->text);
    }
    tap_check(*what, "nothing was heard");
}

static void case_wanted(void) {
    struct rig r = rig_new(join(), test_devices[0]);
    struct mem m = mem_new(r.c, PAGE);
    struct heard h = {0};

    OK(r.c, map1(r.c, r.space, m.id, 0x40000000, 0, PAGE));
    vfb_set_event_handler(r.c, on_event, &h);
    host(&r, HOST_WANTS);
    listen_for(r.c, &h.requested);
    tap_check(h.device == r.d.id, "of device %u", h.device);
    dma_reaches(&r, 0x40000000, m.p); /* it is a wish */
    testdev_close(&r.t);
    close(r.d.fd);
    OK(r.c, vfb_device_release(r.c, r.d.id));
    tap_check(claim(r.c, test_devices[0]).fd >= 0, "it is not free");
    vfb_client_free(r.c);
}

static void case_gone(void) {
    struct rig r = rig_new(join(), test_devices[0]);
    struct mem m = mem_new(r.c, PAGE);
    struct heard h = {0};
    struct vfb_device d;

    vfb_set_event_handler(r.c, on_event, &h);
    host(&r, HOST_LOST);
    listen_for(r.c, &h.gone);
    tap_check(h.device == r.d.id, "of device %u", h.device);
    REFUSED(r.c, vfb_device_detach(r.c, r.d.id), VFB_NOT_FOUND); /* the number is dead */
    tap_check(usage(r.c).devices == 0, "%u devices", usage(r.c).devices);
    OK(r.c, map1(r.c, r.space, m.id, 0x40000000, 0, PAGE)); /* the space is not */
    close(r.d.fd);
    d = claim_bound(r.c, test_devices[0]); /* it came back */
    OK(r.c, vfb_device_attach(r.c, d.id, r.space));
    tap_check(d.id != r.d.id, "the number was given out again");
    vfb_client_free(r.c);
}

DEFINE_CASES(events, {"the host wants a device back", case_wanted, 0}, {"a device leaves the host", case_gone, 0});
