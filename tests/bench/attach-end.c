/* See attach.h. */
#include <stdlib.h>
#include <unistd.h>

#include "tests/bench/attach.h"
#include "tests/bench/bench.h"

#define BATCH 1024u

struct end end_open(const char *socket, int memfd) {
    struct end e = {0};
    struct vfb_memory m;

    if (socket)
        setenv(VFB_SOCKET_ENV, socket, 1);
    e.client = bench_connect("bench attach");
    bench_check(e.client, vfb_memory_register(e.client, memfd, VFB_WRITABLE, "bench", &m), "vfb_memory_register");
    e.memory = m.id;
    bench_check(e.client, vfb_space_create(e.client, "bench", &e.space), "vfb_space_create");
    return e;
}

void end_claim(struct end *e, unsigned i, const char *address) {
    uint64_t until = bench_now() + 10000000000u;
    int r;

    /* Another session of ours may just have closed it. */
    while ((r = vfb_device_claim(e->client, address, &e->device[i])) == VFB_BUSY && bench_now() < until)
        usleep(20000);
    bench_check(e->client, r, "vfb_device_claim");
    bench_check(e->client, vfb_device_bind(e->client, e->device[i].id), "vfb_device_bind");
}

void end_release(struct end *e, unsigned i) {
    bench_check(e->client, vfb_device_release(e->client, e->device[i].id), "vfb_device_release");
    close(e->device[i].fd);
}

void end_map(struct end *e, const struct hand_map *maps, size_t n) {
    static struct vfb_map batch[BATCH];

    for (size_t at = 0, k; at < n; at += k) {
        for (k = 0; k < BATCH && at + k < n; k++)
            batch[k] = (struct vfb_map){.iova = maps[at + k].iova,
                                        .size = maps[at + k].size,
                                        .offset = maps[at + k].offset,
                                        .memory = e->memory,
                                        .prot = VFB_READ | VFB_WRITE};
        bench_check(e->client, vfb_map(e->client, e->space, batch, k), "vfb_map");
    }
}
