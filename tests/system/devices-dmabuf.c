/* Device memory: vfio-pci exports device B's BAR as a dma-buf (Linux 6.19), and device A reads and writes B's registers. edu's
 * registers (QEMU, docs/specs/edu): 0x00 its identity, 0x80 the source address of its DMA, which holds what is written. */
#include <errno.h>
#include <inttypes.h>
#include <linux/vfio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "devices.h"

#define B_IOVA  0x300000000ull
#define EDU_ID  0x010000edu
#define EDU_SRC 0x80u

/* <linux/vfio.h> of 6.19, for older headers. */
#ifndef VFIO_DEVICE_FEATURE_DMA_BUF
#define VFIO_DEVICE_FEATURE_DMA_BUF 11
struct vfio_region_dma_range {
    uint64_t offset;
    uint64_t length;
};
#endif
struct export {
    uint32_t argsz, flags; /* struct vfio_device_feature */
    uint32_t region_index, open_flags, dma_buf_flags, nr_ranges;
    struct vfio_region_dma_range range;
};

/* The dma-buf of the first `size` bytes of the device's BAR0, or a negative errno. */
static int export_bar(int device, uint64_t size) {
    struct export x = {.argsz = sizeof x,
                       .flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF,
                       .region_index = VFIO_PCI_BAR0_REGION_INDEX,
                       .open_flags = 02 | 02000000, /* O_RDWR | O_CLOEXEC */
                       .nr_ranges = 1,
                       .range = {.length = size}};
    int fd = ioctl(device, VFIO_DEVICE_FEATURE, &x);

    return fd < 0 ? -errno : fd;
}

/* Switches the device's memory off or on in its PCI command register. */
static void set_memory(int device, bool on) {
    struct vfio_region_info config = {.argsz = sizeof config, .index = VFIO_PCI_CONFIG_REGION_INDEX};
    uint16_t command;

    tap_check(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &config) == 0 &&
                  pread(device, &command, sizeof command, (off_t)config.offset + 4) == sizeof command,
              "config space: %s", strerror(errno));
    command = (uint16_t)(on ? command | 2 : command & ~2);
    tap_check(pwrite(device, &command, sizeof command, (off_t)config.offset + 4) == sizeof command, "config space: %s",
              strerror(errno));
}

/* A with a space; B claimed and bound, its registers mapped by us. The backend must have device memory. */
static void two(struct rig *a, struct rig *b) {
    int e;

    *a = rig_new(join(), DEVICE_A);
    if (!(vfb_info(a->c)->features & VFB_FEATURE_DMA_BUF))
        tap_case_skip("%s has no device memory", vfb_info(a->c)->backend);
    *b = (struct rig){.c = a->c, .d = claim_bound(a->c, DEVICE_B)};
    e = testdev_open(&b->t, b->d.fd, vfb_info(a->c)->backend);
    tap_check(e == 0, "device B: %s", strerror(-e));
}

static struct vfb_memory registered(struct rig *b, uint64_t size) {
    struct vfb_memory m;
    int fd = export_bar(b->d.fd, size);

    tap_check(fd >= 0, "VFIO_DEVICE_FEATURE_DMA_BUF: %s", strerror(-fd));
    OK(b->c, vfb_memory_register(b->c, fd, VFB_WRITABLE | VFB_DMA_BUF, "registers of B", &m));
    tap_check(m.size == size, "%" PRIu64 " bytes", m.size);
    close(fd);
    return m;
}

/* A reads B's identity and writes one of its registers, which we then see. */
static void reaches(struct rig *a, struct rig *b, uint64_t iova, uint64_t value) {
    uint32_t id = 0;
    int e = testdev_read(&a->t, iova, &id, sizeof id);

    tap_check(e == 0 && id == EDU_ID, "device A reads 0x%08x from device B: %s", id, strerror(-e));
    e = testdev_write(&a->t, iova + EDU_SRC, &value, sizeof value);
    tap_check(e == 0, "device A writes to device B: %s", strerror(-e));
    tap_check(b->t.bar[EDU_SRC / 8] == value, "the register of device B is 0x%" PRIx64, b->t.bar[EDU_SRC / 8]);
}

static void refused(struct rig *a, uint64_t iova) {
    uint32_t id = 0;
    int e = testdev_read(&a->t, iova, &id, sizeof id);

    tap_check(e == -EFAULT, "device A reads 0x%08x: %s", id, strerror(-e));
    a->t.known = 0;
}

void case_dmabuf(void) {
    struct rig a, b;
    struct vfb_memory m, again;
    uint64_t used, size;

    two(&a, &b);
    used = usage(a.c).used;
    size = b.t.bar_size;
    m = registered(&b, size);
    REFUSED(a.c, map1(a.c, a.space, m.id, B_IOVA, 0, size + PAGE), VFB_INVALID);
    OK(a.c, map1(a.c, a.space, m.id, B_IOVA, 0, size));
    OK(a.c, map1(a.c, a.space, m.id, B_IOVA + 0x10000000, 0, PAGE)); /* an alias of a part */
    OK(a.c, map_prot(a.c, a.space, m.id, B_IOVA + 0x20000000, 0, PAGE, VFB_READ));
    tap_check(usage(a.c).used == used, "device memory is paid: %" PRIu64 " of %" PRIu64, usage(a.c).used, used);
    reaches(&a, &b, B_IOVA, 0x123456789abcull);
    reaches(&a, &b, B_IOVA + 0x10000000, 0xfedcba98ull);
    tap_check(testdev_write(&a.t, B_IOVA + 0x20000000 + EDU_SRC, &(uint64_t){0x5555}, 8) == -EFAULT &&
                  b.t.bar[EDU_SRC / 8] == 0xfedcba98ull,
              "device A writes through a mapping for reading");
    REFUSED(a.c, vfb_memory_unregister(a.c, m.id), VFB_BUSY);
    OK(a.c, unmap1(a.c, a.space, B_IOVA + 0x20000000, PAGE));
    refused(&a, B_IOVA + 0x20000000);

    /* A late domain gets it too: A leaves, and comes again. */
    OK(a.c, vfb_device_detach(a.c, a.d.id));
    OK(a.c, vfb_device_attach(a.c, a.d.id, a.space));
    a.t.known = 0;
    reaches(&a, &b, B_IOVA, 0x77ull);

    /* B's memory is switched off: taken back from all mappings, for good. */
    testdev_close(&b.t);
    set_memory(b.d.fd, false);
    refused(&a, B_IOVA);
    refused(&a, B_IOVA + 0x10000000);
    does_dma(&a);
    set_memory(b.d.fd, true);
    refused(&a, B_IOVA);
    OK(a.c, unmap1(a.c, a.space, B_IOVA + 0x10000000, PAGE));
    OK(a.c, unmap1(a.c, a.space, B_IOVA, size));
    OK(a.c, vfb_memory_unregister(a.c, m.id));
    tap_check(usage(a.c).used == used && usage(a.c).memories == 1, "used %" PRIu64 ", %u memories", usage(a.c).used,
              usage(a.c).memories);

    /* A new dma-buf of the same registers is new memory. */
    tap_check(testdev_open(&b.t, b.d.fd, vfb_info(b.c)->backend) == 0, "device B after it was off");
    again = registered(&b, PAGE);
    OK(a.c, map1(a.c, a.space, again.id, B_IOVA, 0, PAGE));
    reaches(&a, &b, B_IOVA, 0x4242ull);
    OK(a.c, unmap1(a.c, a.space, B_IOVA, PAGE));
    OK(a.c, vfb_memory_unregister(a.c, again.id));
    rig_release(&b);
    rig_release(&a);
}

void case_dmabuf_closed(void) {
    struct rig a, b;
    struct vfb_memory m;

    two(&a, &b);
    m = registered(&b, PAGE);
    OK(a.c, map1(a.c, a.space, m.id, B_IOVA, 0, PAGE));
    reaches(&a, &b, B_IOVA, 0x1111ull);
    tap_check(ioctl(b.d.fd, VFIO_DEVICE_RESET) == 0 || errno == ENOTTY || errno == EINVAL, "reset: %s",
              strerror(errno));
    rig_release(&b); /* its last fd: the kernel takes the memory back */
    becomes(DEVICE_B, "\"free\"");
    refused(&a, B_IOVA);
    does_dma(&a);
    OK(a.c, unmap1(a.c, a.space, B_IOVA, PAGE));
    OK(a.c, vfb_memory_unregister(a.c, m.id));
    rig_release(&a);
}

/* On backends without device memory; and what is said to be device memory and is not. */
void case_dmabuf_refused(void) {
    struct vfb_client *c = join();
    bool there = vfb_info(c)->features & VFB_FEATURE_DMA_BUF;
    struct vfb_device d = claim_bound(c, DEVICE_B);
    struct testdev t;
    struct vfb_memory m;
    int fd = memfd(PAGE, 0), bar;

    tap_check(there == backend_is("iommufd"), "device memory on %s", getenv("VB_TEST_BACKEND"));
    REFUSED(c, vfb_memory_register(c, fd, VFB_WRITABLE | VFB_DMA_BUF, "no dma-buf", &m),
            there ? VFB_BAD_MEMORY : VFB_UNSUPPORTED);
    tap_diag("%s", vfb_error(c)->text);
    tap_check(testdev_open(&t, d.fd, vfb_info(c)->backend) == 0, "device B");
    bar = export_bar(d.fd, PAGE);
    if (bar < 0) {
        tap_diag("this kernel exports no dma-buf: %s", strerror(-bar));
    } else {
        if (!there) {
            REFUSED(c, vfb_memory_register(c, bar, VFB_WRITABLE | VFB_DMA_BUF, "registers", &m), VFB_UNSUPPORTED);
            says(c, "device memory");
            says(c, vfb_info(c)->backend);
        }
        /* Without the flag it is no memory, and the library does not touch it. */
        REFUSED(c, vfb_memory_register(c, bar, VFB_WRITABLE | VFB_NO_POPULATE, "registers", &m), VFB_BAD_MEMORY);
        tap_diag("%s", vfb_error(c)->text);
    }
    tap_check(usage(c).memories == 0 && usage(c).used == 0, "something is registered");
    testdev_close(&t);
}
