/* Data to a disk and back: what is written from one memory is read into another. */
#include "devices-nvme.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "devices.h"

#define QUEUES_IOVA 0x100000ull
#define OUT_IOVA    0x80000000ull
#define IN_IOVA     0x120000000ull
#define DATA        (512 * 1024u)
#define STEP        (16 * NVME_PAGE) /* bytes of one command, but for the first ones */

/* Pages of a transfer, in another order than the memory's, so that each address counts. */
static void addresses(uint64_t *ret, uint64_t iova, size_t first, size_t pages) {
    for (size_t i = 0; i < pages; i++)
        ret[i] = iova + (first + pages - 1 - i) * NVME_PAGE;
}

/* Writes, or reads, all of it: 4 KiB, 8 KiB, then 64 KiB at a time. Returns the number of commands. */
static unsigned move(struct nvme *n, uint64_t iova, uint64_t disk,
                     int (*one)(struct nvme *, uint64_t, const uint64_t *, size_t)) {
    uint64_t list[STEP / NVME_PAGE];
    unsigned commands = 0;

    for (size_t at = 0; at < DATA; commands++) {
        size_t size = commands == 0 ? NVME_PAGE : commands == 1 ? 2 * NVME_PAGE : STEP;
        int r;

        if (size > DATA - at)
            size = DATA - at;
        addresses(list, iova, at / NVME_PAGE, size / NVME_PAGE);
        r = one(n, (disk + at) / n->block, list, size);
        tap_check(r == 0, "command %u, %zu bytes at %zu: %s 0x%x", commands, size, at, r < 0 ? "errno" : "status",
                  (unsigned)(r < 0 ? -r : r));
        at += size;
    }
    return commands;
}

void case_nvme(void) {
    struct vfb_client *c = join();
    struct mem queues = mem_new(c, (uint64_t)NVME_PAGES * NVME_PAGE), out = mem_new(c, DATA), in = mem_new(c, DATA);
    uint32_t space = space_new(c);
    struct vfb_device d = claim_bound(c, DISK);
    static uint8_t expected[DATA];
    struct nvme n;
    int r;

    OK(c, map1(c, space, queues.id, QUEUES_IOVA, 0, queues.size));
    OK(c, map_prot(c, space, out.id, OUT_IOVA, 0, DATA, VFB_READ));
    OK(c, vfb_device_attach(c, d.id, space));
    OK(c, map1(c, space, in.id, IN_IOVA, 0, DATA)); /* once before, once after the attach */
    r = nvme_open(&n, d.fd, QUEUES_IOVA, queues.p);
    tap_check(r == 0, "the disk does not start: %d", r);
    tap_check(strncmp(n.serial, "a ", 2) == 0 && n.blocks * n.block == 16 * MIB, "serial %s, %" PRIu64 " blocks of %u",
              n.serial, n.blocks, n.block);

    for (unsigned round = 0; round < 3; round++) {
        uint64_t disk = round * 5 * MIB;
        unsigned commands;

        fill(out.p, DATA, 10 + round);
        memset(in.p, 0, DATA);
        commands = move(&n, OUT_IOVA, disk, nvme_write);
        memset(out.p, 0, DATA); /* the disk has it, and nobody else */
        commands += move(&n, IN_IOVA, disk, nvme_read);
        fill(out.p, DATA, 10 + round);
        tap_check(memcmp(out.p, in.p, DATA) == 0, "other data came back in round %u", round);
        tap_diag("%u KiB to block %" PRIu64 " and back by %u commands", DATA / 1024, disk / n.block, commands);
    }

    /* Blocks of the first round, whose bytes differ, do not get to what is unmapped or mapped for reading. Whether the command
     * fails is the disk's own affair. */
    OK(c, unmap1(c, space, IN_IOVA, DATA));
    r = nvme_read(&n, 0, &(uint64_t){IN_IOVA}, NVME_PAGE);
    tap_check(r >= 0, "a read into unmapped memory does not end: %s", strerror(-r));
    r = nvme_read(&n, 0, &(uint64_t){OUT_IOVA}, NVME_PAGE);
    tap_check(r >= 0, "a read into read-only memory does not end: %s", strerror(-r));
    fill(expected, DATA, 12);
    tap_check(memcmp(in.p, expected, DATA) == 0, "unmapped memory has changed");
    tap_check(memcmp(out.p, expected, DATA) == 0, "memory that is mapped for reading has changed");
    nvme_close(&n);
    OK(c, vfb_device_release(c, d.id));
    close(d.fd);
    vfb_client_free(c);
}
