/* The innocent client: maps, lets its device copy, unmaps, for as long as the tests run. Whatever goes wrong for it, or
 * takes too long, is a failure of the test that runs meanwhile. */
#include "config.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hostile.h"

#define SIZE (64u << 10) /* bytes */
#define IOVA 0x200000u

struct bystander *bystander;

static void serve(void *arg) {
    struct wire w;
    uint32_t device;
    (void)arg;

    setsid();
    wire_open(&w);
    struct ready r = w_ready(&w, SIZE);
    int fd = w_device(&w, world.device[1], r.space, &device);
    for (;;) {
        uint64_t start = now_ms();
        unsigned char fill = (unsigned char)(bystander->rounds * 7 + 1);

        expect(w_map1(&w, r.space, r.memory, IOVA, SIZE, 0), 0, "bystander: map");
        memset(r.map, fill, 1024);
        memset(r.map + 1024, 0, 1024);
        int k = dma_copy(fd, IOVA);
        CHECK(k == 0, "bystander: DMA: %s", strerror(-k));
        CHECK(memcmp(r.map, r.map + 1024, 1024) == 0, "bystander: DMA brought %02x, not %02x", r.map[1024], fill);
        expect(w_unmap1(&w, r.space, IOVA, SIZE), 0, "bystander: unmap");
        uint64_t took = now_ms() - start;
        if (took > bystander->worst_ms)
            bystander->worst_ms = (unsigned long)took;
        bystander->rounds++;
        sleep_ms(2);
    }
}

pid_t bystander_start(void) {
    return spawn(B, serve, NULL);
}
