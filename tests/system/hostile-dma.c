/* One copy by the device: 200 ms on edu, where tests/lib/testdev would take six transfers to be sure of the result. Here
 * the caller looks at its own memory. */
#include "config.h"

#include <errno.h>

#include "hostile.h"
#include "tests/lib/testdev.h"

enum {
    SIZE = 1024,
    EDU_SRC = 0x80 / 8,
    EDU_DST = 0x88 / 8,
    EDU_COUNT = 0x90 / 8,
    EDU_CMD = 0x98 / 8,
    EDU_BUFFER = 0x40000
};

static int edu_run(struct testdev *d, uint64_t from, uint64_t to, uint64_t command) {
    d->bar[EDU_SRC] = from;
    d->bar[EDU_DST] = to;
    d->bar[EDU_COUNT] = SIZE;
    d->bar[EDU_CMD] = command;
    for (int i = 0; d->bar[EDU_CMD] & 1; i++) {
        if (i > 5000)
            return -ETIMEDOUT;
        sleep_ms(1);
    }
    return 0;
}

int dma_copy(int device_fd, uint64_t iova) {
    uint8_t buf[SIZE];
    struct testdev d;
    int r = testdev_open(&d, device_fd, world.kernel ? "iommufd" : "emulated");

    if (r < 0)
        return r;
    if (d.edu) {
        r = edu_run(&d, iova, EDU_BUFFER, 1);
        if (r == 0)
            r = edu_run(&d, EDU_BUFFER, iova + SIZE, 3);
    } else {
        r = testdev_read(&d, iova, buf, SIZE);
        if (r == 0)
            r = testdev_write(&d, iova + SIZE, buf, SIZE);
    }
    testdev_close(&d);
    return r;
}
