/* See request-event.h. */
#include "backend/request-event.h"

#include <errno.h>
#include <linux/vfio.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "proto/cleanup.h"

int vb_request_event_arm(int device_fd) {
    VB_FD int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    union { /* the eventfd's number follows the structure */
        struct vfio_irq_set set;
        char bytes[sizeof(struct vfio_irq_set) + sizeof(int32_t)];
    } irq = {.set = {.argsz = sizeof(irq.bytes),
                     .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
                     .index = VFIO_PCI_REQ_IRQ_INDEX,
                     .count = 1}};
    struct vfio_device_info info = {.argsz = sizeof(info)};
    int r;

    if (fd < 0)
        return -errno;
    /* Index 4 of what is no PCI device would be something else. */
    do
        r = ioctl(device_fd, VFIO_DEVICE_GET_INFO, &info);
    while (r < 0 && errno == EINTR);
    if (r < 0)
        return -errno;
    if (!(info.flags & VFIO_DEVICE_FLAGS_PCI) || info.num_irqs <= VFIO_PCI_REQ_IRQ_INDEX)
        return -EOPNOTSUPP;
    memcpy(irq.bytes + sizeof(irq.set), &(int32_t){fd}, sizeof(int32_t));
    do
        r = ioctl(device_fd, VFIO_DEVICE_SET_IRQS, &irq);
    while (r < 0 && errno == EINTR);
    if (r < 0)
        return -errno;
    return vb_steal_fd(&fd);
}

int vb_request_event_ready(int eventfd) {
    uint64_t n;

    return read(eventfd, &n, sizeof(n)) == sizeof(n);
}
