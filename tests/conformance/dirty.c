/* Dirty tracking: what vfb_dirty_start() says, is so: exact bits, coarse ones, or a refusal that names the device. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "conformance.h"

#define BASE  0x40000000ull
#define PAGES 16u

struct tracked {
    struct rig r;
    struct mem m;
    struct vfb_dirty_info info;
    bool on;
};

/* PAGES pages at BASE; tracking is on, or refused as it should be. */
static struct tracked tracked_new(void) {
    struct tracked t = {.r = rig_new(join(), test_devices[0])};
    int r;

    t.m = mem_new(t.r.c, PAGES * PAGE);
    OK(t.r.c, map1(t.r.c, t.r.space, t.m.id, BASE, 0, PAGES * PAGE));
    r = vfb_dirty_start(t.r.c, t.r.space, &t.info);
    t.on = r == 0;
    if (t.on) {
        tap_check(t.info.page_size == PAGE, "pages of %" PRIu64, t.info.page_size);
        tap_diag("%s", t.info.coarse ? "coarse: every mapped page counts as written" : "exact");
    } else {
        tap_check(r == VFB_UNSUPPORTED, "%s: %s", vfb_code_name(r), vfb_error(t.r.c)->text);
        says(t.r.c, test_devices[0]);
        tap_diag("refused: %s", vfb_error(t.r.c)->text);
    }
    tap_check(describe(t.r.c, t.r.space).dirty == t.on, "the space says something else");
    return t;
}

static uint64_t read_bits(struct tracked *t, unsigned flags) {
    uint64_t bits = 0, pages = 77;

    OK(t->r.c, vfb_dirty_read(t->r.c, t->r.space, BASE, PAGES * PAGE, PAGE, flags, &bits, &pages));
    tap_check(pages == (uint64_t)__builtin_popcountll(bits), "%" PRIu64 " pages, bits %" PRIx64, pages, bits);
    return bits;
}

/* Exactly these, or where it is coarse all of them. */
static void bits_are(struct tracked *t, uint64_t got, uint64_t wanted) {
    if (t->info.coarse)
        wanted = (1ull << PAGES) - 1;
    tap_check(got == wanted, "bits %" PRIx64 " instead of %" PRIx64, got, wanted);
}

static void device_writes(struct tracked *t, uint64_t iova, uint64_t offset, size_t size) {
    uint8_t buf[256];
    static unsigned seed = 300;
    int e;

    fill(buf, size, ++seed);
    e = testdev_write(&t->r.t, iova, buf, size);
    tap_check(e == 0 && memcmp(t->m.p + offset, buf, size) == 0, "device write: %s", strerror(-e));
}

static void case_bits(void) {
    struct tracked t = tracked_new();
    uint64_t bits = 1ull << 40, pages;

    if (t.on) {
        bits_are(&t, read_bits(&t, 0), 0); /* a clean state */
        device_writes(&t, BASE + 3 * PAGE + 10, 3 * PAGE + 10, 64);
        device_writes(&t, BASE + 7 * PAGE - 32, 7 * PAGE - 32, 64); /* over a border */
        bits_are(&t, read_bits(&t, VFB_DIRTY_KEEP), 0xc8);
        bits_are(&t, read_bits(&t, 0), 0xc8);
        bits_are(&t, read_bits(&t, 0), 0);
        device_writes(&t, BASE + PAGE, PAGE, 64);
        OK(t.r.c, vfb_dirty_read(t.r.c, t.r.space, BASE, PAGES * PAGE, PAGE, 0, &bits, &pages)); /* sets only */
        tap_check(bits & 1ull << 40, "a bit was cleared");
        bits_are(&t, bits & ~(1ull << 40), 2);
        /* Off, and on again: from a clean state. */
        device_writes(&t, BASE, 0, 64);
        OK(t.r.c, vfb_dirty_stop(t.r.c, t.r.space));
        tap_check(!describe(t.r.c, t.r.space).dirty, "it is on still");
        REFUSED(t.r.c, vfb_dirty_read(t.r.c, t.r.space, BASE, PAGES * PAGE, PAGE, 0, &bits, &pages), VFB_STATE);
        OK(t.r.c, vfb_dirty_start(t.r.c, t.r.space, &t.info));
        bits_are(&t, read_bits(&t, 0), 0);
    }
    rig_end(&t.r);
}

/* Two devices in one space, with domains of their own: what either wrote. */
static void case_two_devices(void) {
    struct tracked t = tracked_new();
    struct vfb_device d = claim_bound(t.r.c, test_devices[1]);
    struct rig other;
    uint8_t buf[64];
    uint64_t left;

    OK(t.r.c, vfb_device_attach_leaving_out(t.r.c, d.id, t.r.space, &left, NULL, 0, NULL));
    other = rig_of(t.r.c, d, t.r.space, t.r.scratch);
    if (t.on) {
        device_writes(&t, BASE + 2 * PAGE, 2 * PAGE, 64);
        fill(buf, sizeof buf, 77);
        tap_check(testdev_write(&other.t, BASE + 5 * PAGE, buf, sizeof buf) == 0, "the second device does not write");
        bits_are(&t, read_bits(&t, 0), 0x24);
        bits_are(&t, read_bits(&t, 0), 0);
    } else {
        REFUSED(t.r.c, vfb_dirty_start(t.r.c, t.r.space, &t.info), VFB_UNSUPPORTED);
    }
    close(d.fd);
    rig_end(&t.r);
}

static int nothing(void *arg) {
    (void)arg;
    return 0;
}

/* The only device has a domain of its own: the space's first has none. And what a discard makes of bits. */
static void case_alone(void) {
    struct tracked t = tracked_new();
    const struct vfb_unmap whole = {BASE, PAGES * PAGE};
    uint64_t left;

    OK(t.r.c, vfb_device_detach(t.r.c, t.r.d.id));
    OK(t.r.c, vfb_device_attach_leaving_out(t.r.c, t.r.d.id, t.r.space, &left, NULL, 0, NULL));
    if (t.on) {
        read_bits(&t, 0);
        device_writes(&t, BASE + 4 * PAGE, 4 * PAGE, 64);
        bits_are(&t, read_bits(&t, 0), 0x10);
        device_writes(&t, BASE + 6 * PAGE, 6 * PAGE, 64);
        OK(t.r.c, vfb_discard(t.r.c, t.r.space, &whole, 1, nothing, NULL)); /* its bits are gone: all may be written */
        bits_are(&t, read_bits(&t, VFB_DIRTY_KEEP), (1ull << PAGES) - 1);
        bits_are(&t, read_bits(&t, 0), (1ull << PAGES) - 1);
        bits_are(&t, read_bits(&t, 0), 0);
    }
    rig_end(&t.r);
}

static void case_unmap(void) {
    struct tracked t = tracked_new();
    uint64_t bits = 0, pages;

    if (t.on) {
        device_writes(&t, BASE + 9 * PAGE, 9 * PAGE, 64);
        bits_are(&t, read_bits(&t, VFB_DIRTY_UNMAP), 0x200); /* nothing is lost */
        tap_check(describe(t.r.c, t.r.space).mappings == 1, "%" PRIu64 " mappings",
                  describe(t.r.c, t.r.space).mappings);
        tap_check(usage(t.r.c).used == PAGE, "used %" PRIu64, usage(t.r.c).used);
        dma_refused(&t.r, BASE + 9 * PAGE, t.m.p + 9 * PAGE);
        REFUSED(t.r.c, vfb_dirty_read(t.r.c, t.r.space, BASE, PAGES * PAGE, PAGE, VFB_DIRTY_UNMAP, &bits, &pages),
                VFB_NOT_FOUND);
        tap_check(bits == 0, "bits %" PRIx64 " of nothing", bits);
    } else {
        REFUSED(t.r.c, vfb_dirty_read(t.r.c, t.r.space, BASE, PAGES * PAGE, PAGE, VFB_DIRTY_UNMAP, &bits, &pages),
                VFB_STATE);
        tap_check(describe(t.r.c, t.r.space).mappings == 2, "a refused read unmapped");
    }
    rig_end(&t.r);
}

static void case_impossible(void) {
    struct vfb_client *c = join();
    uint32_t space = space_new(c);
    struct vfb_dirty_info info = {.page_size = 77};
    uint64_t bits[2] = {0}, pages = 77;

    REFUSED(c, vfb_dirty_start(c, space, &info), VFB_STATE); /* no device */
    REFUSED(c, vfb_dirty_start(c, space + 1000, &info), VFB_NOT_FOUND);
    REFUSED(c, vfb_dirty_read(c, space, BASE, PAGE, PAGE, 0, bits, &pages), VFB_STATE);
    REFUSED(c, vfb_dirty_read(c, space + 1000, BASE, PAGE, PAGE, 0, bits, &pages), VFB_NOT_FOUND);
    tap_check(info.page_size == 77 && pages == 77 && bits[0] == 0, "an output was touched on failure");
    OK(c, vfb_dirty_stop(c, space)); /* it is off */
    vfb_client_free(c);

    struct tracked t = tracked_new();

    if (t.on) {
        c = t.r.c;
        REFUSED(c, vfb_dirty_read(c, t.r.space, BASE, PAGE, PAGE, 0, bits, &pages), VFB_INVALID); /* cuts */
        REFUSED(c, vfb_dirty_read(c, t.r.space, BASE + 8, PAGES * PAGE, PAGE, 0, bits, &pages), VFB_INVALID);
        REFUSED(c, vfb_dirty_read(c, t.r.space, BASE, PAGES * PAGE, 512, 0, bits, &pages), VFB_INVALID);
        REFUSED(c, vfb_dirty_read(c, t.r.space, BASE, 0, PAGE, 0, bits, &pages), VFB_INVALID);
        REFUSED(c, vfb_dirty_read(c, t.r.space, UINT64_MAX - PAGE + 1, 2 * PAGE, PAGE, 0, bits, &pages), VFB_INVALID);
        /* Larger pages, and holes in the range. */
        device_writes(&t, BASE + 5 * PAGE, 5 * PAGE, 64);
        OK(c, vfb_dirty_read(c, t.r.space, BASE - 4 * PAGE, 24 * PAGE, 4 * PAGE, 0, bits, &pages));
        if (t.info.coarse)
            tap_check(bits[0] == 0x1e && pages == 4, "bits %" PRIx64, bits[0]);
        else
            tap_check(bits[0] == 4 && pages == 1, "bits %" PRIx64, bits[0]);
    }
    rig_end(&t.r);
}

/* A range of more than one request: the library asks in parts. */
static void case_large(void) {
    enum { N = 64 };
    const uint64_t each = 1ull << 30;
    struct tracked t = tracked_new();
    static uint64_t bits[N * (1ull << 30) / PAGE / 64];
    uint64_t pages = 0;

    if (t.on) {
        for (uint64_t i = 0; i < N; i++) /* one page in each GiB: 2^24 pages */
            OK(t.r.c, map1(t.r.c, t.r.space, t.m.id, 0x1000000000ull + (i + 1) * each - PAGE, i % PAGES * PAGE, PAGE));
        device_writes(&t, 0x1000000000ull + 41 * each - PAGE, 40 % PAGES * PAGE, 64);
        OK(t.r.c, vfb_dirty_read(t.r.c, t.r.space, 0x1000000000ull, N * each, PAGE, 0, bits, &pages));
        tap_check(pages == (t.info.coarse ? N : 1) && bits[41 * each / PAGE / 64 - 1] == 1ull << 63,
                  "%" PRIu64 " pages", pages);
    }
    rig_end(&t.r);
}

DEFINE_CASES(dirty, {"dirty tracking: bits are what the device wrote, or it is refused", case_bits, 0},
             {"dirty tracking of two devices", case_two_devices, 0},
             {"dirty tracking of a device that leaves out, and over a discard", case_alone, 0},
             {"dirty tracking: read, then unmap", case_unmap, 0},
             {"dirty tracking: what is impossible", case_impossible, 0},
             {"dirty tracking of 64 GiB of IOVAs", case_large, 0});
