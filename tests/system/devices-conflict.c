/* The MSI window of x86, 0xfee00000 to 0xfeefffff: no device can do DMA there, its writes would be interrupts. So it is only ever
 * read by the devices here. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "devices.h"

#define MSI_FIRST 0xfee00000ull
#define MSI_LAST  0xfeefffffull

static void names_window(const struct vfb_conflict *x, uint64_t first, uint64_t last, const char *device) {
    tap_check(x->first == first && x->last == last && x->with_first == MSI_FIRST && x->with_last == MSI_LAST &&
                  strcmp(x->kind, "msi") == 0 && strcmp(x->device, device) == 0,
              "0x%" PRIx64 "-0x%" PRIx64 " with 0x%" PRIx64 "-0x%" PRIx64 ", %s of %s", x->first, x->last,
              x->with_first, x->with_last, x->kind, x->device);
}

static void refused_for(struct rig *r, uint32_t device, const char *address, size_t n) {
    const struct vfb_error *e;

    REFUSED(r->c, vfb_device_attach(r->c, device, r->space), VFB_RESERVED);
    e = vfb_error(r->c);
    tap_diag("%s", e->text);
    tap_check(e->n_conflicts == n, "%zu conflicts", e->n_conflicts);
    names_window(&e->conflicts[0], MSI_FIRST, MSI_FIRST + PAGE - 1, address);
    if (n > 1)
        names_window(&e->conflicts[1], MSI_LAST - PAGE + 1, MSI_LAST + PAGE, address);
}

static void reads(struct rig *r, uint64_t iova, const uint8_t *p) {
    uint8_t buf[256];
    int e = testdev_read(&r->t, iova, buf, sizeof buf);

    tap_check(e == 0 && memcmp(buf, p, sizeof buf) == 0, "device read at 0x%" PRIx64 ": %s", iova, strerror(-e));
}

static void faults(struct rig *r, uint64_t iova) {
    uint8_t buf[256];
    int e = testdev_read(&r->t, iova, buf, sizeof buf);

    tap_check(e == -EFAULT, "device read at 0x%" PRIx64 ": %s", iova, strerror(-e));
    r->t.known = 0;
}

/* A space with a page inside the window, one that sticks out of it, and one beside; device A is claimed and bound. */
static struct rig with_conflicts(struct mem *m) {
    struct rig r = {.c = join()};

    r.scratch = mem_new(r.c, PAGE);
    *m = mem_new(r.c, MIB);
    r.space = space_new(r.c);
    OK(r.c, map1(r.c, r.space, r.scratch.id, SCRATCH_IOVA, 0, PAGE));
    OK(r.c, map1(r.c, r.space, m->id, MSI_FIRST, 0, PAGE));
    OK(r.c, map1(r.c, r.space, m->id, MSI_LAST - PAGE + 1, 0x10000, 2 * PAGE));
    OK(r.c, map1(r.c, r.space, m->id, MSI_FIRST - PAGE, 0x20000, PAGE));
    r.d = claim_bound(r.c, DEVICE_A);
    return r;
}

static void leave_out(struct rig *r, uint64_t left_out) {
    struct vfb_conflict list[4];
    uint64_t n = 99;
    size_t listed = 99;
    int e;

    OK(r->c, vfb_device_attach_leaving_out(r->c, r->d.id, r->space, &n, list, 4, &listed));
    tap_check(n == left_out && listed == left_out, "%" PRIu64 " left out, %zu listed", n, listed);
    if (left_out > 0)
        names_window(&list[0], MSI_FIRST, MSI_FIRST + PAGE - 1, DEVICE_A);
    if (left_out > 1)
        names_window(&list[1], MSI_LAST - PAGE + 1, MSI_LAST + PAGE, DEVICE_A);
    e = testdev_open(&r->t, r->d.fd, vfb_info(r->c)->backend);
    tap_check(e == 0, "test device: %s", strerror(-e));
    testdev_scratch(&r->t, SCRATCH_IOVA, r->scratch.p);
}

void case_conflict(void) {
    struct mem m;
    struct rig r = with_conflicts(&m);
    uint64_t used = usage(r.c).used;
    struct vfb_device b;

    refused_for(&r, r.d.id, DEVICE_A, 2);
    leave_out(&r, 2);
    dma_reaches(&r, MSI_FIRST - PAGE, m.p + 0x20000);
    faults(&r, MSI_FIRST);
    faults(&r, MSI_LAST + 1); /* a mapping is left out as a whole */
    tap_check(usage(r.c).used == used, "used %" PRIu64 ", %" PRIu64 " before", usage(r.c).used, used);

    /* Another device of the space is asked by itself. */
    b = claim_bound(r.c, DEVICE_B);
    refused_for(&r, b.id, DEVICE_B, 2);
    OK(r.c, unmap1(r.c, r.space, MSI_LAST - PAGE + 1, 2 * PAGE));
    refused_for(&r, b.id, DEVICE_B, 1);
    OK(r.c, unmap1(r.c, r.space, MSI_FIRST, PAGE));
    OK(r.c, vfb_device_attach(r.c, b.id, r.space));
    dma_reaches(&r, MSI_FIRST - PAGE, m.p + 0x20000);
    OK(r.c, vfb_device_release(r.c, b.id));
    close(b.fd);
    rig_release(&r);
}

void case_conflict_later(void) {
    struct mem m;
    struct rig r = with_conflicts(&m), b;
    struct mem scratch;

    OK(r.c, vfb_unmap_all(r.c, r.space, NULL));
    OK(r.c, map1(r.c, r.space, r.scratch.id, SCRATCH_IOVA, 0, PAGE));
    leave_out(&r, 0); /* nothing yet */
    OK(r.c, map1(r.c, r.space, m.id, MSI_FIRST, 0, PAGE));
    OK(r.c, map1(r.c, r.space, m.id, MSI_FIRST - PAGE, 0x20000, PAGE));
    faults(&r, MSI_FIRST);
    reads(&r, MSI_FIRST - PAGE, m.p + 0x20000);
    OK(r.c, unmap1(r.c, r.space, MSI_FIRST, PAGE)); /* also what was left out can be unmapped */
    reads(&r, MSI_FIRST - PAGE, m.p + 0x20000);

    /* With a device that leaves nothing out, such a map is refused, and names it. */
    scratch = mem_new(r.c, PAGE);
    OK(r.c, map1(r.c, r.space, scratch.id, SCRATCH_B, 0, PAGE));
    b = rig_in(r.c, DEVICE_B, r.space, scratch);
    testdev_scratch(&b.t, SCRATCH_B, scratch.p);
    REFUSED(r.c, map1(r.c, r.space, m.id, MSI_FIRST, 0, PAGE), VFB_RESERVED);
    tap_diag("%s", vfb_error(r.c)->text);
    tap_check(vfb_error(r.c)->n_conflicts == 1, "%zu conflicts", vfb_error(r.c)->n_conflicts);
    names_window(&vfb_error(r.c)->conflicts[0], MSI_FIRST, MSI_FIRST + PAGE - 1, DEVICE_B);
    reads(&b, MSI_FIRST - PAGE, m.p + 0x20000);
    OK(r.c, vfb_device_detach(r.c, b.d.id));
    OK(r.c, map1(r.c, r.space, m.id, MSI_FIRST, 0, PAGE)); /* it has gone */
    faults(&r, MSI_FIRST);
    REFUSED(r.c, vfb_device_attach(r.c, b.d.id, r.space), VFB_RESERVED);
    rig_release(&b);
    rig_release(&r);
}
