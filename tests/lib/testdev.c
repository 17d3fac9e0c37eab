/* See testdev.h. edu: QEMU docs/specs/edu; the emulated device: daemon/backend/emulated.h. */
#include "testdev.h"

#include <errno.h>
#include <linux/vfio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* ---- edu ------------------------------------------------------------------------------------------------------- */

enum {
    EDU_ID = 0x010000ed,
    EDU_SRC = 0x80,
    EDU_DST = 0x88,
    EDU_COUNT = 0x90,
    EDU_CMD = 0x98,
    EDU_BUFFER = 0x40000,
    EDU_RUN = 1,
    EDU_FROM_DEVICE = 2,
    EDU_WAIT_MS = 5000,
    SPOILT = 0xa5,
    PCI_COMMAND_OFFSET = 4,
    PCI_COMMAND_MEMORY_MASTER = 2 | 4,
};

static int edu_open(struct testdev *d) {
    struct vfio_region_info config = {.argsz = sizeof config, .index = VFIO_PCI_CONFIG_REGION_INDEX};
    struct vfio_region_info bar = {.argsz = sizeof bar, .index = VFIO_PCI_BAR0_REGION_INDEX};
    uint16_t command;
    void *p;

    if (ioctl(d->fd, VFIO_DEVICE_GET_REGION_INFO, &config) < 0 || ioctl(d->fd, VFIO_DEVICE_GET_REGION_INFO, &bar) < 0)
        return -errno;
    if (pread(d->fd, &command, sizeof command, (off_t)config.offset + PCI_COMMAND_OFFSET) != sizeof command)
        return -EIO;
    command |= PCI_COMMAND_MEMORY_MASTER;
    if (pwrite(d->fd, &command, sizeof command, (off_t)config.offset + PCI_COMMAND_OFFSET) != sizeof command)
        return -EIO;
    p = mmap(NULL, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, (off_t)bar.offset);
    if (p == MAP_FAILED)
        return -errno;
    d->bar = p;
    d->bar_size = bar.size;
    if (*(volatile uint32_t *)d->bar != EDU_ID) {
        testdev_close(d);
        return -ENODEV;
    }
    return 0;
}

/* One DMA. from_device: buffer -> memory. */
static int edu_dma(struct testdev *d, uint64_t iova, size_t size, bool from_device) {
    struct timespec ms = {.tv_nsec = 1000000};

    d->bar[EDU_SRC / 8] = from_device ? EDU_BUFFER : iova;
    d->bar[EDU_DST / 8] = from_device ? iova : EDU_BUFFER;
    d->bar[EDU_COUNT / 8] = size;
    d->bar[EDU_CMD / 8] = EDU_RUN | (from_device ? EDU_FROM_DEVICE : 0);
    for (int i = 0; i < EDU_WAIT_MS; i++) {
        if (!(d->bar[EDU_CMD / 8] & EDU_RUN))
            return 0;
        nanosleep(&ms, NULL);
    }
    return -ETIMEDOUT;
}

static uint8_t *fetch_half(struct testdev *d) {
    return d->scratch;
}
static uint8_t *bring_half(struct testdev *d) {
    return d->scratch + TESTDEV_CHUNK;
}

/* Puts `size` bytes into the device's buffer. */
static int edu_load(struct testdev *d, const void *buf, size_t size) {
    int r;

    memcpy(fetch_half(d), buf, size);
    r = edu_dma(d, d->scratch_iova, size, false);
    if (r < 0) {
        d->known = 0;
        return r;
    }
    memcpy(d->inside, buf, size);
    if (d->known < size)
        d->known = size;
    return 0;
}

static int edu_load_pattern(struct testdev *d, size_t size) {
    uint8_t pattern[TESTDEV_CHUNK];

    for (size_t i = 0; i < size; i++) {
        d->nonce = d->nonce * 6364136223846793005u + 1442695040888963407u;
        pattern[i] = (uint8_t)(d->nonce >> 56) | 1; /* never zero */
    }
    return edu_load(d, pattern, size);
}

static bool all(uint8_t byte, const uint8_t *p, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (p[i] != byte)
            return false;
    return true;
}

static int edu_read(struct testdev *d, uint64_t iova, uint8_t *buf, size_t size) {
    for (int attempt = 0; attempt < 2; attempt++) {
        int r = 0;

        if (d->known < size || attempt)
            r = edu_load_pattern(d, size);
        /* What comes to the scratch page must come now: it is spoilt first. */
        memset(bring_half(d), SPOILT, size);
        if (r == 0)
            r = edu_dma(d, iova, size, false);
        if (r == 0)
            r = edu_dma(d, d->scratch_iova + TESTDEV_CHUNK, size, true);
        if (r < 0) {
            d->known = 0;
            return r;
        }
        /* Refused, or the scratch page cannot be reached either: the device is not attached. */
        if (all(0, bring_half(d), size) || all(SPOILT, bring_half(d), size)) {
            d->known = 0;
            return -EFAULT;
        }
        if (memcmp(bring_half(d), d->inside, size) != 0) {
            memcpy(d->inside, bring_half(d), size);
            memcpy(buf, bring_half(d), size);
            return 0;
        }
        /* Unchanged: refused, or the same bytes as last time. A fresh pattern decides. */
    }
    return -EFAULT;
}

static int edu_write(struct testdev *d, uint64_t iova, const uint8_t *buf, size_t size) {
    uint8_t back[TESTDEV_CHUNK];
    int r = edu_load(d, buf, size);

    if (r == 0)
        r = edu_dma(d, iova, size, true);
    if (r == 0)
        r = edu_read(d, iova, back, size);
    if (r < 0)
        return r;
    return memcmp(back, buf, size) == 0 ? 0 : -EFAULT;
}

/* ---- emulated -------------------------------------------------------------------------------------------------- */

enum { EMU_READ = 1, EMU_WRITE = 2, EMU_WAIT_S = 10 };
struct emu_request { /* struct vb_emulated_dma, then the data of a write */
    uint32_t op;
    uint32_t size;
    uint64_t iova;
};
struct emu_reply {
    int32_t status; /* 0 or a negative errno */
    uint32_t size;
};

static int emu_dma(struct testdev *d, struct emu_request q, const void *in, void *out) {
    struct emu_reply a = {0};
    struct iovec send_iov[] = {{&q, sizeof q}, {(void *)in, in ? q.size : 0}};
    struct iovec recv_iov[] = {{&a, sizeof a}, {out, out ? q.size : 0}};
    struct msghdr m = {.msg_iov = send_iov, .msg_iovlen = in ? 2 : 1};
    ssize_t n = sendmsg(d->fd, &m, MSG_NOSIGNAL);

    if (n < 0)
        return -errno;
    m = (struct msghdr){.msg_iov = recv_iov, .msg_iovlen = out ? 2 : 1};
    n = recvmsg(d->fd, &m, 0);
    if (n < 0)
        return errno == EAGAIN ? -ETIMEDOUT : -errno;
    if (n == 0)
        return -EPIPE;
    if (n < (ssize_t)sizeof a || (m.msg_flags & MSG_TRUNC))
        return -EPROTO;
    if (a.status < 0)
        return a.status;
    return !out || n == (ssize_t)(sizeof a + q.size) ? 0 : -EPROTO;
}

/* ---- both ------------------------------------------------------------------------------------------------------ */

int testdev_open(struct testdev *d, int fd, const char *backend) {
    struct timeval limit = {.tv_sec = EMU_WAIT_S};

    *d = (struct testdev){.fd = fd, .edu = strcmp(backend, "emulated") != 0, .nonce = (uint64_t)getpid()};
    if (d->edu)
        return edu_open(d);
    return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0 ? -errno : 0;
}

void testdev_scratch(struct testdev *d, uint64_t iova, void *host) {
    d->scratch_iova = iova;
    d->scratch = host;
}

void testdev_close(struct testdev *d) {
    if (d->bar)
        munmap((void *)d->bar, d->bar_size);
    d->bar = NULL;
}

static int dma(struct testdev *d, uint64_t iova, void *out, const void *in, size_t size) {
    if (size == 0 || (d->edu && !d->scratch))
        return -EINVAL;
    for (size_t at = 0; at < size;) {
        size_t n = size - at < TESTDEV_CHUNK ? size - at : TESTDEV_CHUNK;
        uint8_t *o = out ? (uint8_t *)out + at : NULL;
        const uint8_t *i = in ? (const uint8_t *)in + at : NULL;
        struct emu_request q = {.op = in ? EMU_WRITE : EMU_READ, .size = (uint32_t)n, .iova = iova + at};
        int r;

        if (!d->edu)
            r = emu_dma(d, q, i, o);
        else if (in)
            r = edu_write(d, iova + at, i, n);
        else
            r = edu_read(d, iova + at, o, n);
        if (r < 0)
            return r;
        at += n;
    }
    return 0;
}

int testdev_read(struct testdev *d, uint64_t iova, void *buf, size_t size) {
    return dma(d, iova, buf, NULL, size);
}

int testdev_write(struct testdev *d, uint64_t iova, const void *buf, size_t size) {
    return dma(d, iova, NULL, buf, size);
}
