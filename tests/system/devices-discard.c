/* Pages that a balloon takes out. A punched page stays pinned: only a mapping that was taken away and made again leads to the
 * new one. What is pinned is read from the session's VmLck (every backend's pins are charged there) and VmPin (iommufd). */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "devices.h"

#define SIZE  (64 * MIB)
#define HALF  (SIZE / 2)
#define PUNCH (HALF + 5 * MIB) /* offset of the page that is looked at */

struct ball {
    struct rig *r;
    struct mem *m;
    uint64_t offset, size; /* to punch */
    bool populate;
    int result;
    unsigned calls;
};

static void expect_pinned(struct vfb_client *c, uint64_t bytes, const char *when) {
    ROOT("locked %u", vfb_info(c)->session);
    tap_check(strtoull(root_said(), NULL, 10) == bytes, "VmLck %s: %s, not %" PRIu64, when, root_said(), bytes);
    if (!backend_is("iommufd"))
        return;
    ROOT("pinned %u", vfb_info(c)->session);
    tap_check(strtoull(root_said(), NULL, 10) == bytes, "VmPin %s: %s, not %" PRIu64, when, root_said(), bytes);
}

static void expect_used(struct vfb_client *c, uint64_t bytes, const char *when) {
    tap_check(usage(c).used == bytes, "used %s: %" PRIu64 ", not %" PRIu64, when, usage(c).used, bytes);
}

static void punch(struct mem *m, uint64_t offset, uint64_t size) {
    tap_check(fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size) == 0,
              "fallocate: %s", strerror(errno));
}

/* Carried out between unmapping and mapping again. */
static int in_between(void *arg) {
    struct ball *b = arg;
    struct vfb_client *c = b->r->c;
    struct vfb_map e = {.iova = IOVA + HALF, .size = PAGE, .memory = b->m->id, .prot = VFB_READ};

    b->calls++;
    expect_pinned(c, HALF + PAGE, "in between");
    expect_used(c, SIZE + PAGE, "in between");
    dma_refused(b->r, IOVA + PUNCH, b->m->p + PUNCH);
    dma_reaches(b->r, IOVA + MIB, b->m->p + MIB); /* the other mapping */
    tap_check(vfb_map(c, b->r->space, &e, 1) > 0, "the IOVAs are free in between");
    punch(b->m, b->offset, b->size);
    if (b->populate)
        tap_check(madvise(b->m->p + b->offset, b->size, MADV_POPULATE_WRITE) == 0, "populate: %s", strerror(errno));
    return b->result;
}

/* 64 MiB in two mappings of 32, which the device reaches. */
static void begin(struct rig *r, struct mem *m) {
    *r = rig_new(join(), DEVICE_A);
    *m = mem_new(r->c, SIZE);
    OK(r->c, map1(r->c, r->space, m->id, IOVA, 0, HALF));
    OK(r->c, map1(r->c, r->space, m->id, IOVA + HALF, HALF, HALF));
    dma_reaches(r, IOVA + PUNCH, m->p + PUNCH);
    expect_pinned(r->c, SIZE + PAGE, "before");
    expect_used(r->c, SIZE + PAGE, "before");
}

static bool zero(const uint8_t *p, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (p[i])
            return false;
    return true;
}

void case_discard(void) {
    struct vfb_unmap second = {.iova = IOVA + HALF, .size = HALF}, cut = {.iova = IOVA + HALF, .size = PAGE};
    struct mem m;
    struct rig r;
    struct ball b = {.r = &r, .m = &m, .offset = PUNCH, .size = PAGE, .populate = true};

    begin(&r, &m);
    REFUSED(r.c, vfb_discard(r.c, r.space, &cut, 1, in_between, &b), VFB_INVALID); /* before anything is changed */
    tap_check(b.calls == 0, "punch was called");
    OK(r.c, vfb_discard(r.c, r.space, &second, 1, in_between, &b));
    tap_check(b.calls == 1, "punch was called %u times", b.calls);
    tap_check(zero(m.p + PUNCH, PAGE), "the page is not new");
    dma_reaches(&r, IOVA + PUNCH, m.p + PUNCH); /* the new page, both ways */
    dma_reaches(&r, IOVA + SIZE - 512, m.p + SIZE - 512);
    expect_pinned(r.c, SIZE + PAGE, "after");
    expect_used(r.c, SIZE + PAGE, "after");

    /* A hole that is left is refused, and the mapping is gone; so it is when punch says no. */
    b.populate = false;
    REFUSED(r.c, vfb_discard(r.c, r.space, &second, 1, in_between, &b), VFB_BAD_MEMORY);
    tap_diag("%s", vfb_error(r.c)->text);
    tap_check(b.calls == 2, "punch was called %u times", b.calls);
    expect_pinned(r.c, HALF + PAGE, "with a hole");
    expect_used(r.c, HALF + PAGE, "with a hole");
    dma_reaches(&r, IOVA + MIB, m.p + MIB);
    dma_refused(&r, IOVA + PUNCH, NULL);
    tap_check(madvise(m.p + PUNCH, PAGE, MADV_POPULATE_WRITE) == 0, "populate: %s", strerror(errno));
    OK(r.c, map1(r.c, r.space, m.id, IOVA + HALF, HALF, HALF));
    dma_reaches(&r, IOVA + PUNCH, m.p + PUNCH);
    b.populate = true;
    b.result = 4711;
    tap_check(vfb_discard(r.c, r.space, &second, 1, in_between, &b) == 4711 && b.calls == 3, "punch's own result");
    expect_pinned(r.c, HALF + PAGE, "forgotten");
    expect_used(r.c, HALF + PAGE, "forgotten");
    OK(r.c, vfb_unmap_all(r.c, r.space, NULL));
    expect_pinned(r.c, 0, "at the end");
    rig_release(&r);
}

void case_bare_punch(void) {
    struct vfb_unmap all = {.iova = IOVA, .size = SIZE};
    uint8_t bytes[512];
    struct mem m;
    struct rig r;
    int e;

    begin(&r, &m);
    punch(&m, PUNCH, PAGE);
    tap_check(zero(m.p + PUNCH, PAGE), "the page is not new"); /* this reading makes it */
    fill(bytes, sizeof bytes, 99);
    e = testdev_write(&r.t, IOVA + PUNCH, bytes, sizeof bytes); /* and it reads it back */
    tap_check(e == 0, "the device does not write: %s", strerror(-e));
    tap_check(zero(m.p + PUNCH, PAGE), "what the device wrote is in the new page: is the old one not pinned?");
    expect_pinned(r.c, SIZE + PAGE, "after the punch");
    expect_used(r.c, SIZE + PAGE, "after the punch");
    OK(r.c, vfb_unmap(r.c, r.space, &all, 1, NULL)); /* only mapping again helps */
    tap_check(madvise(m.p + PUNCH, PAGE, MADV_POPULATE_WRITE) == 0, "populate: %s", strerror(errno));
    OK(r.c, map1(r.c, r.space, m.id, IOVA, 0, SIZE));
    dma_reaches(&r, IOVA + PUNCH, m.p + PUNCH);
    rig_release(&r);
}
