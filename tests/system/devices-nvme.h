/* A small NVMe driver over a VFIO device fd, without interrupts: it polls. One admin queue pair and one I/O queue pair, all in
 * memory of the caller's that the device reaches. NVM Express Base Specification 1.4; one command at a time, 4 KiB pages.
 *
 *   memory   what the caller mapped: page 0 admin submissions, 1 admin completions, 2 I/O submissions, 3 I/O completions,
 *            4 PRP list (addresses of a transfer's pages), 5 what the controller says of itself
 * Data are in any other mapped pages: the driver is told IOVAs only. */
#ifndef VB_TESTS_DEVICES_NVME_H
#define VB_TESTS_DEVICES_NVME_H

#include <stddef.h>
#include <stdint.h>

#define NVME_PAGE  4096u
#define NVME_PAGES 6u /* of the driver's own memory */
#define NVME_QUEUE 8u /* entries: fewer than commands are sent, so that queues wrap around */
#define NVME_TRIES 5000u
#define NVME_MS    1u

struct nvme_queue {
    uint64_t *submissions;          /* 8 words each */
    volatile uint32_t *completions; /* 4 words each */
    uint32_t id, tail, head, phase;
};

struct nvme {
    volatile uint8_t *bar;
    size_t bar_size;
    uint32_t stride; /* bytes between doorbells */
    uint64_t iova;
    uint8_t *memory;
    struct nvme_queue admin, io;
    uint16_t next;
    char serial[21], model[41];
    uint64_t blocks;
    uint32_t block; /* bytes */
};

/* Resets the controller and makes its queues; identifies it and its first namespace. `memory` is NVME_PAGES pages that the
 * device reaches at `iova`. 0, a negative errno, or the positive status of a command (SCT and SC). */
int nvme_open(struct nvme *n, int fd, uint64_t iova, void *memory);
/* Disables the controller: it does no DMA afterwards. */
void nvme_close(struct nvme *n);
/* Moves `size` bytes, whole blocks, between disk and memory at iovas[0..], a page each. */
int nvme_write(struct nvme *n, uint64_t block, const uint64_t *iovas, size_t size);
int nvme_read(struct nvme *n, uint64_t block, const uint64_t *iovas, size_t size);

#endif
