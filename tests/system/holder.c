/* A client that stays: claims a device (or "none"), maps some memory, and then does what its stdin says, a word a line:
 *   map    maps one page more           unmap   unmaps the last one
 *   dma    the device writes to the last page, by way of the first one (tests/lib/testdev.h)
 * For each line it prints "ok" or the error. Ends at the end of stdin. For tests that stop and start the broker. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/vfio-broker.h"
#include "tests/lib/testdev.h"

#define PAGE  4096ull
#define PAGES 64u
#define IOVA  0x100000ull

static struct vfb_client *client;
static struct testdev dev;
static uint8_t *pages;

static int say(int result, const char *what) {
    if (result == 0)
        printf("ok\n");
    else
        printf("%s: %s: %s\n", what, vfb_code_name(result), vfb_error(client)->text);
    fflush(stdout);
    return result;
}

static void dma(unsigned mapped) {
    static uint8_t n;
    uint8_t data[64], *last = pages + (mapped - 1) * PAGE;

    memset(data, ++n, sizeof data);
    testdev_scratch(&dev, IOVA, pages);
    int r = testdev_write(&dev, IOVA + (mapped - 1) * PAGE, data, sizeof data);
    if (r < 0)
        printf("dma: %s\n", strerror(-r));
    else
        puts(memcmp(last, data, sizeof data) == 0 ? "ok" : "dma: the page is not what was written");
    fflush(stdout);
}

static int device(const char *address, uint32_t space) {
    struct vfb_device d;
    int r = vfb_device_claim(client, address, &d);

    if (!r)
        r = vfb_device_bind(client, d.id);
    if (!r)
        r = vfb_device_attach(client, d.id, space);
    if (!r && testdev_open(&dev, d.fd, vfb_info(client)->backend) < 0)
        r = -EIO;
    return r;
}

int main(int argc, char **argv) {
    char line[64];
    struct vfb_memory m;
    uint32_t space;
    unsigned mapped = 0;
    int fd, r;

    if (argc != 2) {
        fprintf(stderr, "usage: holder DEVICE|none\n");
        return 2;
    }
    r = vfb_client_new(&client);
    if (r)
        return 1;
    r = vfb_connect(client, NULL, "holder");
    if (r)
        return say(r, "connect"), 1;
    fd = memfd_create("holder", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, PAGES * PAGE) ||
        (pages = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED) {
        printf("memfd: %s\n", strerror(errno));
        return 1;
    }
    r = vfb_memory_register(client, fd, VFB_WRITABLE, "holder", &m);
    if (r)
        return say(r, "register"), 1;
    r = vfb_space_create(client, "holder", &space);
    if (r)
        return say(r, "space"), 1;
    r = strcmp(argv[1], "none") == 0 ? 0 : device(argv[1], space);
    if (r)
        return say(r, "device"), 1;
    printf("session %u on %s\n", vfb_info(client)->session, vfb_info(client)->backend);
    fflush(stdout);

    while (fgets(line, sizeof(line), stdin)) {
        if (!strcmp(line, "map\n") && mapped < PAGES) {
            struct vfb_map e = {.iova = IOVA + mapped * PAGE,
                                .size = PAGE,
                                .offset = mapped * PAGE,
                                .memory = m.id,
                                .prot = VFB_READ | VFB_WRITE};
            if (!say(vfb_map(client, space, &e, 1), "map"))
                mapped++;
        } else if (!strcmp(line, "unmap\n") && mapped > 0) {
            struct vfb_unmap e = {.iova = IOVA + (mapped - 1) * PAGE, .size = PAGE};
            if (!say(vfb_unmap(client, space, &e, 1, NULL), "unmap"))
                mapped--;
        } else if (!strcmp(line, "dma\n") && mapped > 1) {
            dma(mapped);
        } else {
            printf("what? %s", line);
            fflush(stdout);
        }
    }
    vfb_client_free(client);
    return 0;
}
