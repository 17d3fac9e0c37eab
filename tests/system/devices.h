/* Devices of all kinds, shown on the kernel. Each case is a client of an ordinary user, with what conformance.h has; what only
 * root can do (bind, unbind, remove, look into /proc) it asks of the script that started it.
 *
 * devices-main.c     the table
 * devices-fixture.c  asking root; waiting
 * devices-nvme*.c    a driver for an NVMe disk
 * devices-group.c    several devices in one IOMMU group
 * devices-plug.c     plugging while another device does DMA
 * devices-wanted.c   the host wants a device back
 * devices-mdev.c     mtty, the kernel's example of an mdev
 * devices-dmabuf.c   device memory, from device to device
 * devices-discard.c  pages that are punched out and come back
 * devices-conflict.c mappings in the MSI window
 * devices-noiommu.c  no IOMMU
 *
 * Run by tests/system/devices in the VM. Environment: VFIO_BROKER_SOCKET, VB_TEST_SET (devices, or noiommu), VB_TEST_BACKEND
 * (as the daemon's option), VB_TEST_MDEV (a UUID), VB_TEST_REQUESTS and VB_TEST_REPLIES (fifos), VB_TEST_ANSWER (a file). */
#ifndef VB_TESTS_DEVICES_H
#define VB_TESTS_DEVICES_H

#include <stdint.h>

#include "tests/conformance/conformance.h"

#define DEVICE_A   "0000:00:04.0"
#define DEVICE_B   "0000:00:05.0"
#define DEVICE_C   "0000:00:06.0" /* which the host takes away */
#define DISK       "0000:00:08.0"
#define IN_GROUP_A "0000:01:01.0"
#define IN_GROUP_B "0000:01:02.0"
#define NEIGHBOUR  "0000:01:03.0" /* on virtio-pci */
#define IOVA       0x40000000ull
#define SCRATCH_B  (SCRATCH_IOVA + PAGE) /* of a second device in a space */
#define PROBE_IOVA 0x700000000ull

/* ---- devices-fixture.c ---- */
/* Root carries out a line of shell, with the functions of tests/system/devices. Its exit status. */
int root(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* What it printed on both streams, without the last line break; until the next root(). */
const char *root_said(void);
#define ROOT(...)                                                                                                      \
    do {                                                                                                               \
        int root_r = root(__VA_ARGS__);                                                                                \
        tap_check(root_r == 0, "root's command returned %d: %s", root_r, root_said());                                 \
    } while (0)
bool backend_is(const char *name); /* of the daemon's options */
void sleep_ms(unsigned ms);

/* Counts what on_event() heard. */
struct heard {
    unsigned requested, gone;
    uint32_t device;
};
void on_event(struct vfb_client *c, const struct vfb_event *e, void *heard);
/* Serves the connection until *n is `want`; false after `seconds`. */
bool hear(struct vfb_client *c, const unsigned *n, unsigned want, unsigned seconds);
/* One more device in the space of another one, with a scratch page of its own. */
struct rig rig_beside(struct rig *r, const char *address);
/* Maps a page of its own, which the device reaches (the scratch page itself tests nothing), and takes it out again. */
void does_dma(struct rig *r);
void rig_release(struct rig *r); /* releases and closes; the client stays */
/* A released device becomes free only when the kernel has closed it; waits, and fails after 10 s. */
void becomes(const char *address, const char *state);

/* ---- cases ---- */
void case_nvme(void);
void case_group_neighbour(void);
void case_group_one_session(void);
void case_group_two_spaces(void);
void case_group_held(void);
void case_plug_under_dma(void);
void case_late_device(void);
void case_wanted_unbind(void);
void case_wanted_remove(void);
void case_wanted_ignored(void);
void case_mdev(void);
void case_mdev_pays(void);
void case_dmabuf(void);
void case_dmabuf_closed(void);
void case_dmabuf_refused(void);
void case_discard(void);
void case_bare_punch(void);
void case_conflict(void);
void case_conflict_later(void);
void case_noiommu(void);

#endif
