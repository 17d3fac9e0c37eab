/* See entries.h. */
#include "entries.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define BASE (1ull << 32)

static uint32_t add_memory(struct rig *g, uint64_t size, uint8_t **ret_p) {
    int fd = memfd_create("entries", MFD_CLOEXEC);
    struct vfb_memory m;

    tap_check(fd >= 0 && ftruncate(fd, (off_t)size) == 0, "memfd of %" PRIu64 ": %s", size, strerror(errno));
    *ret_p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    tap_check(*ret_p != MAP_FAILED, "mmap: %s", strerror(errno));
    OK(g, vfb_memory_register(g->c, fd, VFB_WRITABLE, "entries", &m));
    close(fd);
    return m.id;
}

struct rig rig_new(uint64_t pages, uint64_t stride) {
    struct rig g = {.pages = pages, .stride = stride};

    tap_check(vfb_client_new(&g.c) == 0, "no memory");
    OK(&g, vfb_connect(g.c, NULL, "entries"));
    tap_check(strcmp(vfb_info(g.c)->backend, "type1") == 0, "the backend is %s", vfb_info(g.c)->backend);
    tap_check(vfb_info(g.c)->batch_max == BATCH, "batches of %" PRIu32, vfb_info(g.c)->batch_max);
    g.memory = add_memory(&g, pages * PAGE, &g.p);
    for (uint64_t i = 0; i < pages; i++) /* each page tells which it is; none is all zero */
        for (size_t k = 0; k < PAGE / sizeof(uint64_t); k++)
            ((uint64_t *)(void *)(g.p + i * PAGE))[k] = (i + 1) * 0x9e3779b97f4a7c15ull;
    g.scratch_memory = add_memory(&g, TESTDEV_SCRATCH, &g.scratch);
    OK(&g, vfb_space_create(g.c, "entries", &g.space));
    map_scratch(&g, g.space);
    return g;
}

void map_scratch(struct rig *g, uint32_t space) {
    const struct vfb_map e = {
        .iova = SCRATCH_IOVA, .size = TESTDEV_SCRATCH, .memory = g->scratch_memory, .prot = VFB_READ | VFB_WRITE};

    OK(g, vfb_map(g->c, space, &e, 1));
}

void use_device(struct rig *g, unsigned i) {
    const struct timespec pause = {.tv_nsec = 50000000};
    const char *all = getenv("VB_TEST_DEVICES");
    struct device *d = &g->device[i];
    int r = VFB_BUSY;

    tap_check(all, "VB_TEST_DEVICES is not set");
    if (i)
        all += strcspn(all, " ") + 1;
    snprintf(d->address, sizeof d->address, "%.*s", (int)strcspn(all, " "), all);
    for (int n = 0; n < 200 && r == VFB_BUSY; n++) { /* the case before has just given it back */
        r = vfb_device_claim(g->c, d->address, &d->d);
        if (r == VFB_BUSY)
            nanosleep(&pause, NULL);
    }
    tap_check(r == 0, "claim of %s: %s: %s", d->address, vfb_code_name(r), vfb_error(g->c)->text);
    OK(g, vfb_device_bind(g->c, d->d.id));
    r = testdev_open(&d->dma, d->d.fd, vfb_info(g->c)->backend);
    tap_check(r == 0, "testdev_open: %s", strerror(-r));
    testdev_scratch(&d->dma, SCRATCH_IOVA, g->scratch);
}

void attach(struct rig *g, unsigned i) {
    OK(g, vfb_device_attach(g->c, g->device[i].d.id, g->space));
}

uint64_t page_iova(const struct rig *g, uint64_t i) {
    return BASE + i * g->stride * PAGE;
}

int map_pages(struct rig *g, uint64_t first, uint64_t n, size_t batch, uint64_t *ret_done) {
    static struct vfb_map maps[BATCH];

    for (uint64_t at = 0, k; at < n; at += k) {
        for (k = 0; k < batch && at + k < n; k++)
            maps[k] = (struct vfb_map){.iova = page_iova(g, first + at + k),
                                       .size = PAGE,
                                       .offset = (first + at + k) % g->pages * PAGE,
                                       .memory = g->memory,
                                       .prot = VFB_READ | VFB_WRITE};
        int r = vfb_map(g->c, g->space, maps, k);
        *ret_done = at;
        if (r != 0)
            return r;
    }
    *ret_done = n;
    return 0;
}

void unmap_pages(struct rig *g, uint64_t first, uint64_t n, uint64_t step) {
    static struct vfb_unmap unmaps[BATCH];
    uint64_t bytes = 0;
    size_t k = 0;

    for (uint64_t i = 0; i < n; i += step, k++) {
        tap_check(k < BATCH, "too many for a batch");
        unmaps[k] = (struct vfb_unmap){.iova = page_iova(g, first + i), .size = PAGE};
    }
    OK(g, vfb_unmap(g->c, g->space, unmaps, k, &bytes));
    tap_check(bytes == k * PAGE, "%" PRIu64 " bytes unmapped of %zu pages", bytes, k);
}

void reaches(struct rig *g, unsigned i, uint64_t page) {
    uint8_t *p = g->p + page % g->pages * PAGE;
    uint8_t read[16] = {0}, written[16];
    int r = testdev_read(&g->device[i].dma, page_iova(g, page), read, sizeof read);

    tap_check(r == 0 && memcmp(read, p, sizeof read) == 0, "%s reads page %" PRIu64 ": %s", g->device[i].address, page,
              r < 0 ? strerror(-r) : "something else");
    for (size_t k = 0; k < sizeof written; k++)
        written[k] = (uint8_t)(page + 3 * k + 128u * i + ++p[PAGE / 2 + k]); /* not what is there */
    r = testdev_write(&g->device[i].dma, page_iova(g, page) + PAGE / 2, written, sizeof written);
    tap_check(r == 0 && memcmp(written, p + PAGE / 2, sizeof written) == 0, "%s writes page %" PRIu64 ": %s",
              g->device[i].address, page, r < 0 ? strerror(-r) : "it did not arrive");
}

void faults(struct rig *g, unsigned i, uint64_t page) {
    uint8_t read[16];
    int r = testdev_read(&g->device[i].dma, page_iova(g, page), read, sizeof read);

    tap_check(r == -EFAULT, "%s reads page %" PRIu64 ", which it must not reach: %d", g->device[i].address, page, r);
}

struct state state_of(struct rig *g) {
    struct vfb_space_info info;
    struct vfb_usage u;

    OK(g, vfb_space_describe(g->c, g->space, &info));
    OK(g, vfb_usage(g->c, &u));
    return (struct state){info.mappings, info.mapped_bytes, u.used, u.tables, u.mappings};
}

void same_state(const struct state *was, struct rig *g, const char *after) {
    const struct state is = state_of(g);

    tap_check(memcmp(was, &is, sizeof is) == 0,
              "after %s: %" PRIu64 " mappings of %" PRIu64 " bytes, %" PRIu64 " paid, tables %" PRIu64
              ", in all spaces %" PRIu64 "; were %" PRIu64 ", %" PRIu64 ", %" PRIu64 ", %" PRIu64 ", %" PRIu64,
              after, is.mappings, is.bytes, is.used, is.tables, is.session_mappings, was->mappings, was->bytes,
              was->used, was->tables, was->session_mappings);
}

void clearly_refused(struct rig *g, int result) {
    const struct vfb_error *e = vfb_error(g->c);

    tap_diag("%s", e->text);
    tap_check(result == VFB_LIMIT, "%s: %s", vfb_code_name(result), e->text);
    tap_check(strstr(e->text, "65535"), "the text does not tell the number: %s", e->text);
    tap_check(strstr(e->text, g->device[0].address), "the text does not name the device: %s", e->text);
    tap_check(strstr(e->text, "adjacent") && strstr(e->text, "iommufd"), "the text tells no way out: %s", e->text);
    tap_check(e->limit == LIMIT, "limit %" PRIu64, e->limit);
}
