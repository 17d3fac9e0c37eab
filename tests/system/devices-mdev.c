/* mtty, the kernel's example of an mdev (samples/vfio-mdev/mtty.c): a serial card that is software, and does no DMA. */
#include <errno.h>
#include <inttypes.h>
#include <linux/vfio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "devices.h"

enum { MTTY_VENDOR = 0x4348, MTTY_DEVICE = 0x3253 };

static const char *uuid(void) {
    if (root("[ -e /sys/class/mdev_bus/mtty ]") != 0)
        tap_case_skip("this kernel has no mtty");
    return getenv("VB_TEST_MDEV");
}

static void reads_config(const struct vfb_device *d) {
    struct vfio_region_info config = {.argsz = sizeof config, .index = VFIO_PCI_CONFIG_REGION_INDEX};
    struct vfio_device_info info = {.argsz = sizeof info};
    uint16_t id[2];

    tap_check(ioctl(d->fd, VFIO_DEVICE_GET_INFO, &info) == 0 && ioctl(d->fd, VFIO_DEVICE_GET_REGION_INFO, &config) == 0,
              "regions: %s", strerror(errno));
    tap_check(pread(d->fd, id, sizeof id, (off_t)config.offset) == sizeof id && id[0] == MTTY_VENDOR &&
                  id[1] == MTTY_DEVICE,
              "the config space begins with %04x:%04x", id[0], id[1]);
}

void case_mdev(void) {
    const char *address = uuid();
    struct vfb_client *c = join(), *other = join();
    struct mem m = mem_new(c, MIB);
    uint32_t space = space_new(c);
    struct vfb_device d, copy;

    REFUSED(c, vfb_device_claim(c, address, &d), VFB_NOT_FOUND);
    ROOT("mdev_create");
    becomes(address, "\"free\"");
    OK(c, map1(c, space, m.id, IOVA, 0, MIB));
    d = claim_bound(c, address);
    OK(c, vfb_device_attach(c, d.id, space));
    reads_config(&d);
    REFUSED(c, vfb_space_destroy(c, space), VFB_BUSY);
    REFUSED(other, vfb_device_claim(other, address, &copy), VFB_BUSY);
    OK(c, map1(c, space, m.id, IOVA + MIB, 0, PAGE)); /* while it is attached */
    OK(c, unmap1(c, space, IOVA, MIB));
    OK(c, vfb_device_detach(c, d.id));
    OK(c, vfb_device_attach(c, d.id, space));
    OK(c, vfb_device_release(c, d.id));
    becomes(address, "\"held\""); /* our fd is open */
    REFUSED(other, vfb_device_claim(other, address, &copy), VFB_BUSY);
    says(other, "held");
    close(d.fd);
    copy = claim_bound(other, address);
    reads_config(&copy);
    OK(other, vfb_device_release(other, copy.id));
    close(copy.fd);
    becomes(address, "\"free\"");
    ROOT("mdev_remove");
    REFUSED(c, vfb_device_claim(c, address, &d), VFB_NOT_FOUND);
    OK(c, vfb_space_destroy(c, space));
}

/* An emulated device reserves no IOVAs, so on iommufd its holder can attach it to the pool of all registered memory, behind our
 * back: that is paid while it is there. On type1 nothing is mapped but what the space shows. */
void case_mdev_pays(void) {
    const char *address = uuid();
    struct vfb_client *c = join();
    struct mem m = mem_new(c, 8 * MIB), later;
    uint32_t space = space_new(c);
    bool pool = strcmp(vfb_info(c)->backend, "iommufd") == 0;
    struct vfb_device d;

    ROOT("mdev_create");
    OK(c, map1(c, space, m.id, IOVA, MIB, PAGE));
    tap_check(usage(c).used == PAGE, "used %" PRIu64 " before", usage(c).used);
    d = claim_bound(c, address);
    tap_check(usage(c).used == (pool ? 8 * MIB : PAGE), "used %" PRIu64 " once it is claimed", usage(c).used);
    OK(c, vfb_device_attach(c, d.id, space));
    tap_check(usage(c).used == (pool ? 8 * MIB : PAGE), "used %" PRIu64 " attached", usage(c).used);
    later = mem_new(c, 2 * MIB);
    tap_check(usage(c).used == (pool ? 10 * MIB : PAGE), "used %" PRIu64 " with another memory", usage(c).used);
    OK(c, vfb_memory_unregister(c, later.id));
    tap_check(usage(c).used == (pool ? 8 * MIB : PAGE), "used %" PRIu64 " without it", usage(c).used);
    OK(c, vfb_device_detach(c, d.id));
    OK(c, vfb_device_release(c, d.id));
    close(d.fd);
    becomes(address, "\"free\"");
    for (int i = 0; i < 50 && usage(c).used != PAGE; i++)
        sleep_ms(100);
    tap_check(usage(c).used == PAGE, "used %" PRIu64 " after it has gone", usage(c).used);
    ROOT("mdev_remove");
}
