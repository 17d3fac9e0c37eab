/* A client that dies at a given point of attaching: see tests/system/teardown.
 *
 * usage: teardown-run STEP BACKEND DEVICE DEVICE   requests are made until STEP of them are answered, then SIGKILL
 *        teardown-run check DEVICE DEVICE          claims, binds and attaches both; status 0 if that works within 5 s
 *        teardown-run count                        how many steps there are
 * A copy of each device's fd lives on for 300 ms in a child, as a VMM's vCPU process would have it: so that the first
 * moments after the death are those of a device that is still open. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/vfio-broker.h"

#define MIB (1u << 20)

struct scene {
    struct vfb_client *c;
    const char *address[2];
    struct vfb_memory m;
    uint32_t space, other;
    struct vfb_device d[2];
    int left; /* requests until the end */
};

static void nap(long ms) {
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000};

    nanosleep(&t, NULL);
}

/* One request is answered. */
static void step(struct scene *s, int r, const char *what) {
    if (r != 0) {
        fprintf(stderr, "%s: %s\n", what, vfb_error(s->c)->text);
        exit(3);
    }
    if (--s->left == 0)
        raise(SIGKILL);
}

static void keep_open(void) {
    if (fork() == 0) {
        nap(300);
        _exit(0);
    }
}

static int memory(void) {
    int fd = memfd_create("teardown", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0 || ftruncate(fd, 4 * MIB) < 0)
        exit(4);
    return fd;
}

static int map(struct scene *s, uint32_t space, uint64_t iova, uint64_t offset) {
    struct vfb_map e = {.iova = iova, .size = MIB, .offset = offset, .memory = s->m.id, .prot = VFB_READ | VFB_WRITE};

    return vfb_map(s->c, space, &e, 1);
}

static int punch(void *arg) {
    step(arg, 0, "punch");
    return 0;
}

static void all(struct scene *s, const char *backend) {
    const struct vfb_range need = {0x100000, 0x4fffff};
    const struct vfb_unmap first = {0x100000, MIB};
    uint64_t left_out;
    size_t n;

    step(s, vfb_connect(s->c, NULL, "teardown"), "connect");
    step(s, vfb_memory_register(s->c, memory(), VFB_WRITABLE, "ram", &s->m), "register");
    step(s, vfb_space_create(s->c, "bus", &s->space), "space");
    step(s, map(s, s->space, 0x100000, 0), "map");
    step(s, vfb_device_claim(s->c, s->address[0], &s->d[0]), "claim");
    keep_open();
    step(s, vfb_device_bind(s->c, s->d[0].id), "bind");
    step(s, vfb_device_attach(s->c, s->d[0].id, s->space), "attach");
    step(s, map(s, s->space, 0x200000, MIB), "map");
    step(s, vfb_space_need(s->c, s->space, &need, 1), "need");
    step(s, vfb_device_claim_for(s->c, s->address[1], s->space, &s->d[1]), "claim for");
    keep_open();
    step(s, vfb_device_bind(s->c, s->d[1].id), "bind");
    step(s, vfb_device_attach(s->c, s->d[1].id, s->space), "attach");
    step(s, vfb_discard(s->c, s->space, &first, 1, punch, s), "discard");
    step(s, vfb_device_detach(s->c, s->d[1].id), "detach");
    step(s, vfb_device_release(s->c, s->d[1].id), "release");
    close(s->d[1].fd);
    while (vfb_device_claim(s->c, s->address[1], &s->d[1]) == VFB_BUSY) /* the copy above */
        nap(20);
    step(s, vfb_device_bind(s->c, s->d[1].id), "bind");
    step(s, vfb_space_create(s->c, "other", &s->other), "space");
    step(s, map(s, s->other, 0xfee00000, 2 * MIB), "map where nobody goes");
    step(s, map(s, s->other, 0x100000, 3 * MIB), "map");
    step(s, vfb_device_attach_leaving_out(s->c, s->d[1].id, s->other, &left_out, NULL, 0, &n), "leaving out");
    if (strcmp(backend, "iommufd") == 0)
        vfb_dirty_start(s->c, s->space, &(struct vfb_dirty_info){0}); /* refused where there is none */
    step(s, map(s, s->other, 0x300000, 3 * MIB), "map");
    step(s, vfb_unmap_all(s->c, s->other, NULL), "unmap");
    step(s, vfb_device_detach(s->c, s->d[1].id), "detach");
    step(s, vfb_space_destroy(s->c, s->other), "destroy");
    step(s, vfb_device_detach(s->c, s->d[0].id), "detach");
    step(s, vfb_device_attach(s->c, s->d[0].id, s->space), "attach again");
    raise(SIGKILL);
}

static int again(struct scene *s) {
    int r = vfb_connect(s->c, NULL, "afterwards");

    for (int i = 0; i < 2 && r == 0; i++) {
        for (int k = 0; k < 250 && (r = vfb_device_claim(s->c, s->address[i], &s->d[i])) == VFB_BUSY; k++)
            nap(20);
        if (r == 0)
            r = vfb_device_bind(s->c, s->d[i].id);
    }
    if (r == 0)
        r = vfb_memory_register(s->c, memory(), VFB_WRITABLE, "ram", &s->m);
    if (r == 0)
        r = vfb_space_create(s->c, "bus", &s->space);
    if (r == 0)
        r = map(s, s->space, 0x100000, 0);
    for (int i = 0; i < 2 && r == 0; i++)
        r = vfb_device_attach(s->c, s->d[i].id, s->space);
    if (r != 0)
        fprintf(stderr, "%s\n", vfb_error(s->c)->text);
    vfb_client_free(s->c);
    return r != 0;
}

int main(int argc, char **argv) {
    struct scene s = {.left = -1};

    if (vfb_client_new(&s.c) < 0)
        return 4;
    if (argc == 4 && strcmp(argv[1], "check") == 0) {
        s.address[0] = argv[2];
        s.address[1] = argv[3];
        return again(&s);
    }
    if (argc != 5)
        return 2;
    s.left = atoi(argv[1]);
    s.address[0] = argv[3];
    s.address[1] = argv[4];
    all(&s, argv[2]);
    return 0;
}
