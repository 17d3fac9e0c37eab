/* Plugging while DMA is under way. */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "devices.h"

#define CYCLES  20u
#define BUSY    0x60000000ull /* of device A, all the time */
#define LATE    8u
#define SPACING 0x1000000ull

struct busy {
    struct testdev *t;
    uint8_t *p;
    atomic_bool stop;
    atomic_uint rounds;
};

/* Reads and writes, each time with other bytes; ends the case at the first that is wrong. */
static void *keep_busy(void *arg) {
    struct busy *b = arg;
    uint8_t in[512], out[512];

    for (unsigned n = 1; !atomic_load(&b->stop); n++) {
        uint64_t at = n % 16 * 4096;
        int e;

        fill(b->p + at, sizeof in, n);
        e = testdev_read(b->t, BUSY + at, in, sizeof in);
        tap_check(e == 0 && memcmp(in, b->p + at, sizeof in) == 0, "round %u: device A reads: %s", n, strerror(-e));
        fill(out, sizeof out, n + 1000000);
        e = testdev_write(b->t, BUSY + at, out, sizeof out);
        tap_check(e == 0 && memcmp(out, b->p + at, sizeof out) == 0, "round %u: device A writes: %s", n, strerror(-e));
        atomic_store(&b->rounds, n);
    }
    return NULL;
}

void case_plug_under_dma(void) {
    struct rig a = rig_new(join(), DEVICE_A), b;
    struct mem m = mem_new(a.c, MIB), scratch = mem_new(a.c, PAGE);
    struct busy busy = {.t = &a.t};
    pthread_t thread;
    unsigned before;
    uint64_t used;

    OK(a.c, map1(a.c, a.space, m.id, BUSY, 0, MIB / 2));
    OK(a.c, map1(a.c, a.space, m.id, IOVA, MIB / 2, MIB / 2));
    OK(a.c, map1(a.c, a.space, scratch.id, SCRATCH_B, 0, PAGE));
    busy.p = m.p;
    used = usage(a.c).used;
    tap_check(pthread_create(&thread, NULL, keep_busy, &busy) == 0, "no thread");
    while (atomic_load(&busy.rounds) == 0)
        sleep_ms(10);
    before = atomic_load(&busy.rounds);
    for (unsigned i = 0; i < CYCLES; i++) {
        struct vfb_map e = {
            .iova = IOVA + MIB, .size = PAGE, .offset = 0, .memory = m.id, .prot = VFB_READ | VFB_WRITE};

        if (i % 2) { /* on type1: in the same container */
            OK(a.c, vfb_device_claim_for(a.c, DEVICE_B, a.space, &b.d));
            OK(a.c, vfb_device_bind(a.c, b.d.id));
        } else {
            b.d = claim_bound(a.c, DEVICE_B);
        }
        OK(a.c, vfb_device_attach(a.c, b.d.id, a.space));
        OK(a.c, vfb_map(a.c, a.space, &e, 1));
        if (i % 5 == 0) {
            b = (struct rig){.c = a.c, .d = b.d, .space = a.space, .scratch = scratch};
            tap_check(testdev_open(&b.t, b.d.fd, vfb_info(a.c)->backend) == 0, "device B");
            testdev_scratch(&b.t, SCRATCH_B, scratch.p);
            dma_reaches(&b, IOVA + 0x1000 * i, m.p + MIB / 2 + 0x1000 * i);
            testdev_close(&b.t);
        }
        OK(a.c, unmap1(a.c, a.space, IOVA + MIB, PAGE));
        OK(a.c, vfb_device_detach(a.c, b.d.id));
        if (i % 3 == 0) {
            OK(a.c, vfb_device_attach(a.c, b.d.id, a.space)); /* released without a detach */
        }
        OK(a.c, vfb_device_release(a.c, b.d.id));
        close(b.d.fd);
        becomes(DEVICE_B, "\"free\"");
    }
    before = atomic_load(&busy.rounds) - before;
    atomic_store(&busy.stop, true);
    pthread_join(thread, NULL);
    tap_check(before >= CYCLES / 4, "device A did DMA %u times only meanwhile", before);
    tap_check(usage(a.c).used == used, "used %" PRIu64 " after, %" PRIu64 " before", usage(a.c).used, used);
    tap_diag("%u rounds of DMA while the other device came and went %u times", before, CYCLES);
    rig_release(&a);
}

void case_late_device(void) {
    struct rig a = rig_new(join(), DEVICE_A), b;
    struct mem m = mem_new(a.c, MIB), ro = mem_new(a.c, PAGE);
    uint8_t buf[64], kept[64];

    for (unsigned i = 0; i < LATE; i++)
        OK(a.c, map1(a.c, a.space, m.id, IOVA + i * SPACING, i * 0x10000, 0x10000));
    OK(a.c, map_prot(a.c, a.space, ro.id, 0x200000000, 0, PAGE, VFB_READ));
    OK(a.c, unmap1(a.c, a.space, IOVA + 3 * SPACING, 0x10000));
    b = rig_beside(&a, DEVICE_B);
    for (unsigned i = 0; i < LATE; i++) {
        if (i == 3)
            dma_refused(&b, IOVA + i * SPACING, m.p + i * 0x10000);
        else
            dma_reaches(&b, IOVA + i * SPACING + 0xf000, m.p + i * 0x10000 + 0xf000);
    }
    tap_check(testdev_read(&b.t, 0x200000000, buf, sizeof buf) == 0 && memcmp(buf, ro.p, sizeof buf) == 0,
              "the late device does not read");
    memcpy(kept, ro.p, sizeof kept);
    fill(buf, sizeof buf, 4711);
    tap_check(testdev_write(&b.t, 0x200000000, buf, sizeof buf) == -EFAULT && memcmp(kept, ro.p, sizeof kept) == 0,
              "the late device writes to what is mapped for reading");
    dma_reaches(&a, IOVA, m.p);
    rig_release(&b);
    rig_release(&a);
}
