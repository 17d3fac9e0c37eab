/* What the cases have in common: see conformance.h. */
#include "conformance.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

void says(struct vfb_client *c, const char *word) {
    tap_check(strstr(vfb_error(c)->text, word), "\"%s\" is not in: %s", word, vfb_error(c)->text);
}

void says_number(struct vfb_client *c, uint64_t n) {
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
    const char *text = vfb_error(c)->text;
    char buf[64];

    snprintf(buf, sizeof buf, "0x%" PRIx64, n);
    if (strstr(text, buf))
        return;
    snprintf(buf, sizeof buf, "%" PRIu64, n);
    if (strstr(text, buf))
        return;
    for (unsigned i = 0; i < sizeof units / sizeof units[0]; i++) {
        snprintf(buf, sizeof buf, "%" PRIu64 " %s", n >> (10 * (i + 1)), units[i]);
        if (n >> (10 * (i + 1)) << (10 * (i + 1)) == n && strstr(text, buf))
            return;
    }
    tap_check(false, "%" PRIu64 " (0x%" PRIx64 ") is not named in: %s", n, n, text);
}

struct vfb_client *join(void) {
    struct vfb_client *c;

    tap_check(vfb_client_new(&c) == 0, "no memory");
    OK(c, vfb_connect(c, NULL, "conformance"));
    return c;
}

int memfd(uint64_t size, unsigned flags) {
    int fd = memfd_create("conformance", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);

    tap_check(fd >= 0, "memfd_create: %s", strerror(errno));
    tap_check(ftruncate(fd, (off_t)size) == 0, "ftruncate: %s", strerror(errno));
    return fd;
}

void map_host(struct mem *m) {
    m->p = mmap(NULL, m->size, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
    tap_check(m->p != MAP_FAILED, "mmap: %s", strerror(errno));
}

void fill(uint8_t *p, uint64_t size, unsigned seed) {
    uint32_t x = seed * 2654435761u + 1;

    for (uint64_t i = 0; i < size; i++) {
        x = x * 1664525u + 1013904223u;
        p[i] = (uint8_t)(x >> 24) | 1;
    }
}

struct mem mem_new(struct vfb_client *c, uint64_t size) {
    struct mem m = {.fd = memfd(size, 0), .size = size};
    struct vfb_memory reply;

    map_host(&m);
    fill(m.p, size, 1);
    OK(c, vfb_memory_register(c, m.fd, VFB_WRITABLE, "test", &reply));
    tap_check(reply.size == size, "registered %" PRIu64 " bytes of %" PRIu64, reply.size, size);
    m.id = reply.id;
    return m;
}

uint32_t space_new(struct vfb_client *c) {
    uint32_t space;

    OK(c, vfb_space_create(c, "test", &space));
    return space;
}

int map_prot(struct vfb_client *c, uint32_t space, uint32_t memory, uint64_t iova, uint64_t offset, uint64_t size,
             uint32_t prot) {
    struct vfb_map e = {.iova = iova, .size = size, .offset = offset, .memory = memory, .prot = prot};

    return vfb_map(c, space, &e, 1);
}

int map1(struct vfb_client *c, uint32_t space, uint32_t memory, uint64_t iova, uint64_t offset, uint64_t size) {
    return map_prot(c, space, memory, iova, offset, size, VFB_READ | VFB_WRITE);
}

int unmap1(struct vfb_client *c, uint32_t space, uint64_t iova, uint64_t size) {
    struct vfb_unmap e = {.iova = iova, .size = size};
    uint64_t bytes = 0;
    int r = vfb_unmap(c, space, &e, 1, &bytes);

    tap_check(r != 0 || bytes > 0, "an unmap that unmapped nothing was a success");
    return r;
}

struct vfb_usage usage(struct vfb_client *c) {
    struct vfb_usage u;

    OK(c, vfb_usage(c, &u));
    tap_check(u.used <= u.lease && u.lease <= u.limit, "used %" PRIu64 ", lease %" PRIu64 ", limit %" PRIu64, u.used,
              u.lease, u.limit);
    return u;
}

bool shares(struct vfb_client *c) {
    return vfb_info(c)->features & VFB_FEATURE_SHARED_PINS;
}

uint64_t paid(struct vfb_client *c, uint64_t shared, uint64_t each) {
    return shares(c) ? shared : each;
}

struct vfb_space_info describe(struct vfb_client *c, uint32_t space) {
    struct vfb_space_info i;

    OK(c, vfb_space_describe(c, space, &i));
    return i;
}

static struct vfb_device claim_it(struct vfb_client *c, const char *address, uint32_t space) {
    struct timespec pause = {.tv_nsec = 50000000};
    struct vfb_device d;
    int r = 0;

    for (int i = 0; i < 200; i++) {
        r = space ? vfb_device_claim_for(c, address, space, &d) : vfb_device_claim(c, address, &d);
        if (r != VFB_BUSY)
            break;
        nanosleep(&pause, NULL);
    }
    tap_check(r == 0, "claim of %s: %s: %s", address, vfb_code_name(r), vfb_error(c)->text);
    tap_check(d.fd >= 0, "no device fd");
    return d;
}

struct vfb_device claim(struct vfb_client *c, const char *address) {
    return claim_it(c, address, 0);
}

struct vfb_device claim_bound(struct vfb_client *c, const char *address) {
    struct vfb_device d = claim(c, address);

    OK(c, vfb_device_bind(c, d.id));
    return d;
}

struct vfb_device claim_for(struct vfb_client *c, const char *address, uint32_t space) {
    struct vfb_device d = claim_it(c, address, space);

    OK(c, vfb_device_bind(c, d.id));
    return d;
}

struct rig rig_of(struct vfb_client *c, struct vfb_device d, uint32_t space, struct mem scratch) {
    struct rig r = {.c = c, .space = space, .scratch = scratch, .d = d};
    int e = testdev_open(&r.t, d.fd, vfb_info(c)->backend);

    tap_check(e == 0, "test device: %s", strerror(-e));
    testdev_scratch(&r.t, SCRATCH_IOVA, scratch.p);
    return r;
}

struct rig rig_in(struct vfb_client *c, const char *address, uint32_t space, struct mem scratch) {
    struct vfb_device d = claim_bound(c, address);

    OK(c, vfb_device_attach(c, d.id, space));
    return rig_of(c, d, space, scratch);
}

void rig_end(struct rig *r) {
    testdev_close(&r->t);
    close(r->d.fd);
    vfb_client_free(r->c);
}

struct rig rig_new(struct vfb_client *c, const char *address) {
    struct mem scratch = mem_new(c, PAGE);
    uint32_t space = space_new(c);

    OK(c, map1(c, space, scratch.id, SCRATCH_IOVA, 0, PAGE));
    return rig_in(c, address, space, scratch);
}

enum { DMA_SIZE = 512 };

void dma_reaches(struct rig *r, uint64_t iova, uint8_t *p) {
    static unsigned seed = 1000;
    uint8_t in[DMA_SIZE], out[DMA_SIZE];
    int e;

    fill(p, DMA_SIZE, ++seed);
    e = testdev_read(&r->t, iova, in, DMA_SIZE);
    tap_check(e == 0, "device read at 0x%" PRIx64 ": %s", iova, strerror(-e));
    tap_check(memcmp(in, p, DMA_SIZE) == 0, "the device read something else at 0x%" PRIx64, iova);
    fill(out, DMA_SIZE, ++seed);
    e = testdev_write(&r->t, iova, out, DMA_SIZE);
    tap_check(e == 0, "device write at 0x%" PRIx64 ": %s", iova, strerror(-e));
    tap_check(memcmp(out, p, DMA_SIZE) == 0, "what the device wrote at 0x%" PRIx64 " is not in memory", iova);
}

void dma_refused(struct rig *r, uint64_t iova, const uint8_t *p) {
    uint8_t before[DMA_SIZE], buf[DMA_SIZE];
    int e;

    if (p)
        memcpy(before, p, DMA_SIZE);
    e = testdev_read(&r->t, iova, buf, DMA_SIZE);
    tap_check(e == -EFAULT, "device read at 0x%" PRIx64 " returned %s instead of EFAULT", iova, strerror(-e));
    fill(buf, DMA_SIZE, (unsigned)iova + 7);
    e = testdev_write(&r->t, iova, buf, DMA_SIZE);
    tap_check(e == -EFAULT, "device write at 0x%" PRIx64 " returned %s instead of EFAULT", iova, strerror(-e));
    tap_check(!p || memcmp(before, p, DMA_SIZE) == 0, "memory changed by a DMA to 0x%" PRIx64, iova);
}
