/* "The host wants the device back": the kernel says so by an eventfd (VFIO_PCI_REQ_IRQ_INDEX; drivers/vfio/pci/vfio_pci_core.c,
 * vfio_pci_core_request), again every 10 s until the device is closed. Shared by the backends that have VFIO devices.
 *
 * A device has one such eventfd. The client has the device too and can set its own in place of ours, or take ours away: then
 * we hear nothing, which is its own loss. */
#ifndef VB_BACKEND_REQUEST_EVENT_H
#define VB_BACKEND_REQUEST_EVENT_H

/* The device's eventfd, to be watched for reading and closed by the caller; a negative errno if it has none: what is no PCI device
 * (mdev) need not, and nothing else depends on it. device_fd must be usable: a cdev is when it is bound. */
int vb_request_event_arm(int device_fd);
/* 1: the host wants the device back; 0: no news. Never blocks. */
int vb_request_event_ready(int eventfd);

#endif
