/* A client that stays: claims a device, maps some memory, and then does what its stdin says, a word a line:
 *   map    maps one page more           unmap   unmaps the last one
 * For each line it prints "ok" or the error. Ends at the end of stdin. For tests that stop and start the broker. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/vfio-broker.h"

#define PAGE  4096ull
#define PAGES 64u
#define IOVA  0x100000ull

static struct vfb_client *client;

static int say(int result, const char *what) {
    if (result == 0)
        printf("ok\n");
    else
        printf("%s: %s: %s\n", what, vfb_code_name(result), vfb_error(client)->text);
    fflush(stdout);
    return result;
}

int main(int argc, char **argv) {
    char line[64];
    struct vfb_memory m;
    uint32_t space;
    unsigned mapped = 0;
    int fd, r;

    if (argc != 2) {
        fprintf(stderr, "usage: holder DEVICE\n");
        return 2;
    }
    r = vfb_client_new(&client);
    if (r)
        return 1;
    r = vfb_connect(client, NULL, "holder");
    if (r)
        return say(r, "connect"), 1;
    fd = memfd_create("holder", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, PAGES * PAGE)) {
        printf("memfd: %s\n", strerror(errno));
        return 1;
    }
    r = vfb_memory_register(client, fd, VFB_WRITABLE, "holder", &m);
    if (r)
        return say(r, "register"), 1;
    r = vfb_space_create(client, "holder", &space);
    if (r)
        return say(r, "space"), 1;
    struct vfb_device d;
    r = vfb_device_claim(client, argv[1], &d);
    if (!r)
        r = vfb_device_bind(client, d.id);
    if (!r)
        r = vfb_device_attach(client, d.id, space);
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
        } else {
            printf("what? %s", line);
            fflush(stdout);
        }
    }
    vfb_client_free(client);
    return 0;
}
