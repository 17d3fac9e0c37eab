/* Makes a claimed device do DMA, whatever it is: one API for the edu device of the VM (through VFIO) and for the
 * emulated backend's device.
 *
 * Neither tells us everything. The emulated device answers -EFAULT for what the space does not translate. edu reports
 * no error and only moves data between memory and a buffer of its own that the host cannot see, so for it we keep a
 * *scratch* page: memory of ours that is mapped read-write in the space the device is attached to. What the device read is
 * brought there to be looked at, and what it shall write is fetched from there. An IOVA that the IOMMU refuses shows as
 * zeros or as a buffer that did not change; both are found by trying again with a pattern that cannot be there.
 * Consequences for edu only: memory that is all zero (or all 0xa5) reads as -EFAULT, so fill it first; a write of what is
 * there already cannot be told from a refused one; and the scratch page itself cannot be tested. A DMA takes 100 ms (a timer in QEMU), a call two to six of them. */
#ifndef VB_TESTS_TESTDEV_H
#define VB_TESTS_TESTDEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TESTDEV_CHUNK = 2048,   /* QEMU 7.2's edu ends the whole VM on 4096 */
    TESTDEV_SCRATCH = 4096, /* bytes: one half to fetch from, one half to bring to */
};

struct testdev {
    int fd; /* borrowed */
    bool edu;
    volatile uint64_t *bar;
    size_t bar_size;
    uint64_t scratch_iova;
    uint8_t *scratch;
    size_t known; /* so many bytes of the device's buffer are as in `inside` */
    uint8_t inside[TESTDEV_CHUNK];
    uint64_t nonce;
};

/* `fd` is a claimed and bound device; backend as vfb_info() tells it. 0 or a negative errno. */
int testdev_open(struct testdev *d, int fd, const char *backend);
/* Needed before the first DMA: TESTDEV_SCRATCH bytes at `iova`, which the caller sees at `host`. */
void testdev_scratch(struct testdev *d, uint64_t iova, void *host);
void testdev_close(struct testdev *d);
/* The device reads memory at `iova`; buf is what it got. 0, -EFAULT (the IOMMU refused; buf is untouched), -EINVAL, -EIO,
 * -ETIMEDOUT. */
int testdev_read(struct testdev *d, uint64_t iova, void *buf, size_t size);
/* The device writes buf to memory at `iova`. */
int testdev_write(struct testdev *d, uint64_t iova, const void *buf, size_t size);

#endif
