/* What the device really reaches, and what it does not. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "conformance.h"

static void case_round_trip(void) {
    struct rig r = rig_new(join(), test_devices[0]);
    struct mem m = mem_new(r.c, MIB);

    OK(r.c, map1(r.c, r.space, m.id, 0x40000000, 0, MIB));
    dma_reaches(&r, 0x40000000, m.p);
    dma_reaches(&r, 0x40000000 + MIB - 512, m.p + MIB - 512);
    rig_end(&r);
}

static void case_offsets(void) {
    struct rig r = rig_new(join(), test_devices[0]);
    struct mem m = mem_new(r.c, MIB);

    /* IOVAs in another order than offsets, and an alias. */
    OK(r.c, map1(r.c, r.space, m.id, 0x100000000, 0x40000, 0x10000));
    OK(r.c, map1(r.c, r.space, m.id, 0x50000000, 0x80000, 0x10000));
    OK(r.c, map1(r.c, r.space, m.id, 0x60000000, 0x48000, 0x10000));
    dma_reaches(&r, 0x100000000, m.p + 0x40000);
    dma_reaches(&r, 0x5000f000, m.p + 0x8f000);
    dma_reaches(&r, 0x100008000, m.p + 0x48000);
    dma_reaches(&r, 0x60000000, m.p + 0x48000);
    rig_end(&r);
}

static void case_unmapped(void) {
    struct rig r = rig_new(join(), test_devices[0]);
    struct mem m = mem_new(r.c, MIB);

    dma_refused(&r, 0x40000000, m.p); /* registered is not mapped */
    OK(r.c, map1(r.c, r.space, m.id, 0x40000000, 0, 0x10000));
    dma_refused(&r, 0x40010000, m.p + 0x10000);
    rig_end(&r);
}

static void case_after_unmap(void) {
    struct rig r = rig_new(join(), test_devices[0]);
    struct mem m = mem_new(r.c, MIB);

    OK(r.c, map1(r.c, r.space, m.id, 0x40000000, 0, MIB));
    dma_reaches(&r, 0x40000000, m.p);
    OK(r.c, unmap1(r.c, r.space, 0x40000000, MIB));
    dma_refused(&r, 0x40000000, m.p);
    OK(r.c, map1(r.c, r.space, m.id, 0x40000000, 0x8000, PAGE)); /* other pages at the same IOVA */
    dma_reaches(&r, 0x40000000, m.p + 0x8000);
    OK(r.c, vfb_unmap_all(r.c, r.space, NULL));
    OK(r.c, map1(r.c, r.space, r.scratch.id, SCRATCH_IOVA, 0, PAGE)); /* testdev needs it */
    dma_refused(&r, 0x40000000, m.p + 0x8000);
    rig_end(&r);
}

static void case_detach_attach(void) {
    struct rig r = rig_new(join(), test_devices[0]);
    struct mem m = mem_new(r.c, MIB);
    uint32_t other = space_new(r.c);
    uint8_t buf[64], before[64];
    int e;

    OK(r.c, map1(r.c, r.space, m.id, 0x40000000, 0, PAGE));
    OK(r.c, map1(r.c, other, m.id, 0x40000000, 0x8000, PAGE));
    OK(r.c, map1(r.c, other, r.scratch.id, SCRATCH_IOVA, 0, PAGE));
    dma_reaches(&r, 0x40000000, m.p);
    OK(r.c, vfb_device_detach(r.c, r.d.id));
    memcpy(before, m.p, sizeof before);
    e = testdev_read(&r.t, 0x40000000, buf, sizeof buf);
    tap_check(e < 0, "a detached device reads");
    fill(buf, sizeof buf, 99);
    e = testdev_write(&r.t, 0x40000000, buf, sizeof buf);
    tap_check(e < 0 && memcmp(before, m.p, sizeof before) == 0, "a detached device writes");
    r.t.known = 0;
    OK(r.c, vfb_device_attach(r.c, r.d.id, other)); /* the same IOVA is another page there */
    dma_reaches(&r, 0x40000000, m.p + 0x8000);
    OK(r.c, vfb_device_detach(r.c, r.d.id));
    OK(r.c, vfb_device_attach(r.c, r.d.id, r.space));
    dma_reaches(&r, 0x40000000, m.p);
    rig_end(&r);
}

static void case_late(void) {
    struct vfb_client *c = join();
    struct mem scratch = mem_new(c, PAGE), m = mem_new(c, MIB);
    uint32_t space = space_new(c);
    struct rig first, second;
    struct mem scratch2 = mem_new(c, PAGE);

    /* Everything is mapped before any device is there, then one comes, then another. */
    OK(c, map1(c, space, scratch.id, SCRATCH_IOVA, 0, PAGE));
    for (unsigned i = 0; i < 8; i++)
        OK(c, map1(c, space, m.id, 0x40000000 + i * 0x1000000, i * 0x10000, 0x10000));
    first = rig_in(c, test_devices[0], space, scratch);
    dma_reaches(&first, 0x40000000, m.p);
    dma_reaches(&first, 0x47000000, m.p + 0x70000);
    OK(c, map1(c, space, scratch2.id, SCRATCH_IOVA + PAGE, 0, PAGE));
    second = rig_in(c, test_devices[1], space, scratch2);
    testdev_scratch(&second.t, SCRATCH_IOVA + PAGE, scratch2.p);
    dma_reaches(&second, 0x43000000, m.p + 0x30000);
    OK(c, map1(c, space, m.id, 0x80000000, 0x90000, 0x1000)); /* mapped now: both see it */
    dma_reaches(&first, 0x80000000, m.p + 0x90000);
    dma_reaches(&second, 0x80000000, m.p + 0x90000);
    OK(c, vfb_device_detach(c, second.d.id));
    dma_reaches(&first, 0x80000000, m.p + 0x90000);
    testdev_close(&second.t);
    close(second.d.fd);
    rig_end(&first);
}

/* The device may read, and what it writes does not arrive. */
static void reads_only(struct rig *r, uint64_t iova, const uint8_t *p) {
    uint8_t buf[256], before[256];
    int e = testdev_read(&r->t, iova, buf, sizeof buf);

    tap_check(e == 0 && memcmp(buf, p, sizeof buf) == 0, "device read at 0x%" PRIx64 ": %s", iova, strerror(-e));
    memcpy(before, p, sizeof before);
    fill(buf, sizeof buf, 55);
    e = testdev_write(&r->t, iova, buf, sizeof buf);
    tap_check(e == -EFAULT, "device write to a read-only mapping returned %s", strerror(-e));
    tap_check(memcmp(before, p, sizeof before) == 0, "the device wrote through a read-only mapping");
}

static void case_read_only(void) {
    struct rig r = rig_new(join(), test_devices[0]);
    struct mem m = mem_new(r.c, MIB), n = {.fd = memfd(PAGE, 0), .size = PAGE};
    struct vfb_memory ro;
    char path[64];
    int fd;

    OK(r.c, map_prot(r.c, r.space, m.id, 0x40000000, 0, PAGE, VFB_READ));
    OK(r.c, map1(r.c, r.space, m.id, 0x40001000, PAGE, PAGE));
    reads_only(&r, 0x40000000, m.p);
    dma_reaches(&r, 0x40001000, m.p + PAGE);

    map_host(&n);
    fill(n.p, PAGE, 3);
    snprintf(path, sizeof path, "/proc/self/fd/%d", n.fd);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    tap_check(fd >= 0, "%s: %s", path, strerror(errno));
    OK(r.c, vfb_memory_register(r.c, fd, 0, "read-only", &ro));
    OK(r.c, map_prot(r.c, r.space, ro.id, 0x50000000, 0, PAGE, VFB_READ));
    reads_only(&r, 0x50000000, n.p);
    rig_end(&r);
}

static void case_closed_fd(void) {
    struct rig r = rig_new(join(), test_devices[0]);
    struct mem m = mem_new(r.c, MIB);

    close(m.fd); /* the broker has its own */
    OK(r.c, map1(r.c, r.space, m.id, 0x40000000, 0, MIB));
    dma_reaches(&r, 0x40000000, m.p);
    rig_end(&r);
}

static void case_high(void) {
    struct rig r = rig_new(join(), test_devices[0]);
    struct mem m = mem_new(r.c, MIB);
    struct vfb_space_info i = describe(r.c, r.space);
    uint64_t last = i.usable[i.n_usable - 1].last, edu_last = (1ull << 48) - 1; /* tests/vm/run sets its DMA mask */

    if (last > edu_last)
        last = edu_last;
    OK(r.c, map1(r.c, r.space, m.id, last - PAGE + 1, 0, PAGE));
    dma_reaches(&r, last - PAGE + 1, m.p);
    dma_reaches(&r, last - 511, m.p + PAGE - 512);
    dma_refused(&r, last - 2 * PAGE + 1, NULL);
    rig_end(&r);
}

static void case_batch(void) {
    struct rig r = rig_new(join(), test_devices[0]);
    struct mem m = mem_new(r.c, 4 * MIB);
    struct vfb_map e[64];
    struct vfb_unmap u[32];
    uint64_t bytes;

    for (unsigned i = 0; i < 64; i++)
        e[i] = (struct vfb_map){.iova = 0x40000000 + i * 0x20000,
                                .size = 0x10000,
                                .offset = (63 - i) * 0x10000,
                                .memory = m.id,
                                .prot = VFB_READ | VFB_WRITE};
    OK(r.c, vfb_map(r.c, r.space, e, 64));
    dma_reaches(&r, e[0].iova, m.p + e[0].offset);
    dma_reaches(&r, e[63].iova, m.p + e[63].offset);
    for (unsigned i = 0; i < 32; i++)
        u[i] = (struct vfb_unmap){.iova = e[2 * i].iova, .size = 0x10000};
    OK(r.c, vfb_unmap(r.c, r.space, u, 32, &bytes));
    tap_check(bytes == 32 * 0x10000, "%" PRIu64 " bytes", bytes);
    dma_refused(&r, e[0].iova, m.p + e[0].offset);
    dma_reaches(&r, e[63].iova, m.p + e[63].offset);
    rig_end(&r);
}

static void case_huge(void) {
    struct rig r = rig_new(join(), test_devices[0]);
    int fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | (21u << 26));
    struct mem m = {.fd = fd, .size = 4 * MIB};
    struct vfb_memory reply;
    uint8_t buf[512];

    if (fd < 0 || ftruncate(fd, (off_t)m.size) < 0 ||
        (m.p = mmap(NULL, m.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED)
        tap_case_skip("no two huge pages of 2 MiB are free");
    fill(m.p, m.size, 5);
    OK(r.c, vfb_memory_register(r.c, fd, VFB_WRITABLE, "huge", &reply));
    OK(r.c, map1(r.c, r.space, reply.id, 0x40000000, 0, m.size));
    tap_check(usage(r.c).used == m.size + PAGE, "used %" PRIu64, usage(r.c).used);
    if (r.t.edu)
        dma_reaches(&r, 0x40000000 + 3 * MIB, m.p + 3 * MIB);
    tap_check(testdev_read(&r.t, 0x40000000 + 2 * MIB, buf, sizeof buf) == 0 &&
                  memcmp(buf, m.p + 2 * MIB, sizeof buf) == 0,
              "the device does not read huge pages");
    OK(r.c, unmap1(r.c, r.space, 0x40000000, m.size));
    OK(r.c, map1(r.c, r.space, reply.id, 0x40000000, 5 * PAGE, PAGE)); /* a piece of a huge page costs a piece */
    tap_check(usage(r.c).used == 2 * PAGE, "used %" PRIu64, usage(r.c).used);
    rig_end(&r);
}

static void case_refused_map_leaves_dma(void) {
    struct rig r = rig_new(join(), test_devices[0]);
    struct mem m = mem_new(r.c, MIB);
    struct vfb_map e[2] = {
        {.iova = 0x50000000, .size = PAGE, .offset = 0x8000, .memory = m.id, .prot = VFB_READ | VFB_WRITE},
        {.iova = 0x40000000, .size = PAGE, .offset = 0x9000, .memory = m.id, .prot = VFB_READ | VFB_WRITE}};

    OK(r.c, map1(r.c, r.space, m.id, 0x40000000, 0, PAGE));
    REFUSED_ENTRY(r.c, vfb_map(r.c, r.space, e, 2), VFB_OVERLAP, 1);
    dma_reaches(&r, 0x40000000, m.p);          /* nothing was replaced, */
    dma_refused(&r, 0x50000000, m.p + 0x8000); /* and nothing was begun */
    rig_end(&r);
}

DEFINE_CASES(dma, {"memory -> device -> memory", case_round_trip, 0}, {"offsets and aliases", case_offsets, 0},
             {"unmapped IOVAs fault and touch nothing", case_unmapped, 0},
             {"after unmap the device does not get there", case_after_unmap, 0},
             {"detach stops DMA, attach brings another space", case_detach_attach, 0},
             {"a late device sees every mapping", case_late, 0},
             {"read-only mappings are not written by the device", case_read_only, 0},
             {"a memory whose fd the client has closed", case_closed_fd, 0},
             {"DMA at the top of the address space", case_high, 0}, {"DMA through batches", case_batch, 0},
             {"DMA through huge pages", case_huge, 0},
             {"a refused batch leaves what the device sees", case_refused_map_leaves_dma, 0});
