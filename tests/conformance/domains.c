/* Several domains of a space, and what decides: conflicts that are left out, needs, claims for a space, late devices. The answer
 * does not depend on the order. */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "conformance.h"

#define BASE 0x40000000ull

/* A space with its scratch page, 64 KiB at BASE, and a page in the MSI window, which no device reaches. */
struct scene {
    struct vfb_client *c;
    struct mem m, scratch;
    uint32_t space;
};

static struct scene scene_new(bool in_window) {
    struct scene s = {.c = join()};

    tap_check(vfb_info(s.c)->features & VFB_FEATURE_DOMAINS, "no feature bit");
    s.m = mem_new(s.c, MIB);
    s.scratch = mem_new(s.c, PAGE);
    s.space = space_new(s.c);
    OK(s.c, map1(s.c, s.space, s.scratch.id, SCRATCH_IOVA, 0, PAGE));
    OK(s.c, map1(s.c, s.space, s.m.id, BASE, 0, 0x10000));
    if (in_window)
        OK(s.c, map1(s.c, s.space, s.m.id, MSI_FIRST, 0x20000, PAGE));
    return s;
}

static uint64_t attach_leaving(struct vfb_client *c, uint32_t device, uint32_t space) {
    uint64_t left = 77;

    OK(c, vfb_device_attach_leaving_out(c, device, space, &left, NULL, 0, NULL));
    return left;
}

static void give_back(struct rig *r) {
    testdev_close(&r->t);
    close(r->d.fd);
    OK(r->c, vfb_device_release(r->c, r->d.id));
}

static void case_leave_out(void) {
    struct scene s = scene_new(true);
    struct vfb_conflict conflicts[4];
    struct vfb_device d = claim_bound(s.c, test_devices[0]);
    uint64_t left = 0;
    size_t n = 0;
    struct rig r;

    REFUSED(s.c, vfb_device_attach(s.c, d.id, s.space), VFB_RESERVED);
    says(s.c, test_devices[0]);
    says_number(s.c, MSI_FIRST);
    REFUSED(s.c, vfb_device_attach_leaving_out(s.c, d.id, s.space + 1000, &left, conflicts, 4, &n), VFB_NOT_FOUND);
    tap_check(left == 0 && n == 0, "an output was touched on failure");
    OK(s.c, vfb_device_attach_leaving_out(s.c, d.id, s.space, &left, conflicts, 4, &n));
    tap_check(left == 1 && n == 1, "%" PRIu64 " mappings are left out, %zu told", left, n);
    tap_check(conflicts[0].first == MSI_FIRST && conflicts[0].last == MSI_FIRST + PAGE - 1 &&
                  conflicts[0].with_first == MSI_FIRST && conflicts[0].with_last == MSI_LAST &&
                  strcmp(conflicts[0].kind, "msi") == 0 && strcmp(conflicts[0].device, test_devices[0]) == 0,
              "0x%" PRIx64 " with 0x%" PRIx64 " (%s) of %s", conflicts[0].first, conflicts[0].with_first,
              conflicts[0].kind, conflicts[0].device);
    r = rig_of(s.c, d, s.space, s.scratch);
    dma_reaches(&r, BASE, s.m.p);
    if (!r.t.edu) /* what a real device writes there are interrupts */
        dma_refused(&r, MSI_FIRST, s.m.p + 0x20000);
    /* It narrows nothing, and has what comes later, as far as it can. */
    OK(s.c, map1(s.c, s.space, s.m.id, MSI_FIRST + 0x10000, 0x30000, PAGE));
    OK(s.c, map1(s.c, s.space, s.m.id, BASE + 0x100000, 0x40000, PAGE));
    dma_reaches(&r, BASE + 0x100000, s.m.p + 0x40000);
    OK(s.c, unmap1(s.c, s.space, MSI_FIRST, PAGE));
    OK(s.c, unmap1(s.c, s.space, BASE, 0x10000));
    dma_refused(&r, BASE, s.m.p);
    OK(s.c, vfb_device_detach(s.c, d.id));
    REFUSED(s.c, vfb_device_attach(s.c, d.id, s.space), VFB_RESERVED);
    OK(s.c, unmap1(s.c, s.space, MSI_FIRST + 0x10000, PAGE));
    OK(s.c, vfb_device_attach(s.c, d.id, s.space));
    REFUSED(s.c, map1(s.c, s.space, s.m.id, MSI_FIRST, 0, PAGE), VFB_RESERVED);
    rig_end(&r);
}

/* Two devices, one of which leaves out: DMA of both goes on while the other comes and goes. */
static void case_two_domains(void) {
    struct scene s = scene_new(false);
    struct vfb_device d;
    struct rig a, b;

    a = rig_in(s.c, test_devices[0], s.space, s.scratch);
    dma_reaches(&a, BASE, s.m.p);
    d = claim_bound(s.c, test_devices[1]);
    tap_check(attach_leaving(s.c, d.id, s.space) == 0, "it left something out, and there is nothing");
    b = rig_of(s.c, d, s.space, s.scratch);
    dma_reaches(&b, BASE, s.m.p);
    tap_check(usage(s.c).used == paid(s.c, 0x10000 + PAGE, 2 * (0x10000 + PAGE)), "used %" PRIu64, usage(s.c).used);
    OK(s.c, map1(s.c, s.space, s.m.id, BASE + MIB, 0x20000, PAGE)); /* both have it */
    b.t.known = a.t.known = 0;
    dma_reaches(&a, BASE + MIB, s.m.p + 0x20000);
    dma_reaches(&b, BASE + MIB, s.m.p + 0x20000);
    OK(s.c, vfb_device_detach(s.c, a.d.id));
    OK(s.c, map1(s.c, s.space, s.m.id, MSI_FIRST, 0x30000, PAGE)); /* who is left leaves it out */
    REFUSED(s.c, vfb_device_attach(s.c, a.d.id, s.space), VFB_RESERVED);
    dma_reaches(&b, BASE, s.m.p);
    OK(s.c, unmap1(s.c, s.space, MSI_FIRST, PAGE));
    OK(s.c, vfb_device_attach(s.c, a.d.id, s.space));
    dma_reaches(&a, BASE + MIB, s.m.p + 0x20000);
    OK(s.c, unmap1(s.c, s.space, BASE + MIB, PAGE));
    dma_refused(&b, BASE + MIB, s.m.p + 0x20000);
    give_back(&b);
    rig_end(&a);
}

/* ---- order ---- */

struct outcome {
    int attach[2], map_window, map_low;
    uint64_t left[2], used, mappings;
    struct vfb_space_info info;
};

static int attach_as(struct vfb_client *c, struct vfb_device *d, uint32_t space, bool leave, uint64_t *ret_left) {
    return leave ? vfb_device_attach_leaving_out(c, d->id, space, ret_left, NULL, 0, NULL)
                 : vfb_device_attach(c, d->id, space);
}

static struct outcome outcome_of(bool reverse, bool in_window, const bool leave[2], struct vfb_client *c,
                                 struct vfb_device d[2]) {
    struct outcome o;
    struct mem m = mem_new(c, 16 * PAGE);
    uint32_t space = space_new(c);

    memset(&o, 0, sizeof o);
    OK(c, map1(c, space, m.id, BASE, 0, PAGE));
    if (in_window)
        OK(c, map1(c, space, m.id, MSI_FIRST, PAGE, PAGE));
    for (int i = 0; i < 2; i++) {
        int k = reverse ? 1 - i : i;

        o.attach[k] = attach_as(c, &d[k], space, leave[k], &o.left[k]);
    }
    o.map_window = map1(c, space, m.id, MSI_FIRST + 0x10000, 2 * PAGE, PAGE);
    o.map_low = map1(c, space, m.id, BASE + MIB, 3 * PAGE, PAGE);
    o.info = describe(c, space);
    o.used = usage(c).used;
    for (int i = 0; i < 2; i++)
        if (o.attach[i] == 0)
            OK(c, vfb_device_detach(c, d[i].id));
    OK(c, vfb_space_destroy(c, space));
    OK(c, vfb_memory_unregister(c, m.id));
    return o;
}

static void case_order_of_plugging(void) {
    struct vfb_client *c = join();
    struct vfb_device d[2] = {claim_bound(c, test_devices[0]), claim_bound(c, test_devices[1])};

    for (unsigned i = 0; i < 8; i++) {
        const bool leave[2] = {i & 1, i & 2};
        struct outcome a = outcome_of(false, i & 4, leave, c, d), b = outcome_of(true, i & 4, leave, c, d);

        tap_check(memcmp(&a, &b, sizeof a) == 0,
                  "%s, %s, %s: attach %d and %d, the other way %d and %d; map %d, %d; used %" PRIu64 ", %" PRIu64,
                  i & 1 ? "leaving" : "refusing", i & 2 ? "leaving" : "refusing", i & 4 ? "in the window" : "outside",
                  a.attach[0], a.attach[1], b.attach[0], b.attach[1], a.map_window, b.map_window, a.used, b.used);
        tap_check(a.attach[0] == (i & 4 && !leave[0] ? VFB_RESERVED : 0) && a.left[0] == (i & 4 && leave[0]),
                  "attach is %d, %" PRIu64 " left out", a.attach[0], a.left[0]);
        tap_check((a.map_window == 0) == (i & 4 || (leave[0] && leave[1])) && a.map_low == 0, "map is %d, %d",
                  a.map_window, a.map_low);
    }
    vfb_client_free(c);
}

/* ---- needs ---- */

static void case_need(void) {
    struct scene s = scene_new(false);
    const struct vfb_range window = {MSI_FIRST, MSI_FIRST + PAGE - 1}, low = {0x80000000, 0x8fffffff};
    struct vfb_device d = claim_bound(s.c, test_devices[0]);
    struct vfb_range many[17];

    for (uint64_t i = 0; i < 17; i++)
        many[i] = (struct vfb_range){i * 0x10000, i * 0x10000 + 0xfff};
    tap_check(vfb_space_need(s.c, s.space, many, 17) > 0, "17 ranges were accepted");
    says_number(s.c, 16);
    REFUSED(s.c, vfb_space_need(s.c, s.space + 1000, &low, 1), VFB_NOT_FOUND);
    REFUSED(s.c, vfb_space_need(s.c, s.space, &(struct vfb_range){5, 4}, 1), VFB_INVALID);
    OK(s.c, vfb_space_need(s.c, s.space, &window, 1));
    REFUSED(s.c, vfb_device_attach(s.c, d.id, s.space), VFB_RESERVED);
    says(s.c, test_devices[0]);
    says_number(s.c, MSI_FIRST);
    OK(s.c, vfb_space_need(s.c, s.space, &low, 1)); /* in its place */
    OK(s.c, vfb_device_attach(s.c, d.id, s.space));
    REFUSED(s.c, vfb_space_need(s.c, s.space, &window, 1), VFB_RESERVED);
    says(s.c, test_devices[0]);
    OK(s.c, map1(s.c, s.space, s.m.id, 0x80000000, 0, PAGE));
    OK(s.c, map1(s.c, s.space, s.m.id, 0x20000000, 0, PAGE)); /* elsewhere too */
    OK(s.c, vfb_device_detach(s.c, d.id));
    OK(s.c, vfb_space_need(s.c, s.space, &window, 1));
    tap_check(attach_leaving(s.c, d.id, s.space) == 0, "it left something out"); /* its own affair */
    OK(s.c, vfb_device_detach(s.c, d.id));
    OK(s.c, vfb_space_need(s.c, s.space, NULL, 0));
    OK(s.c, vfb_device_attach(s.c, d.id, s.space));
    close(d.fd);
    vfb_client_free(s.c);
}

/* ---- claims for a space ---- */

static void case_claim_for(void) {
    struct scene s = scene_new(false);
    const uint64_t all = 0x10000 + PAGE;
    struct vfb_device d = {.id = 77, .fd = 77};
    struct rig a, b;

    REFUSED(s.c, vfb_device_claim_for(s.c, test_devices[0], s.space + 1000, &d), VFB_NOT_FOUND);
    tap_check(d.id == 77 && d.fd == 77, "an output was touched on failure");
    d = claim_for(s.c, test_devices[0], s.space);
    OK(s.c, vfb_device_attach(s.c, d.id, s.space));
    a = rig_of(s.c, d, s.space, s.scratch);
    d = claim_for(s.c, test_devices[1], s.space);
    OK(s.c, vfb_device_attach(s.c, d.id, s.space));
    b = rig_of(s.c, d, s.space, s.scratch);
    tap_check(usage(s.c).used == all, "%" PRIu64 " bytes are paid of %" PRIu64, usage(s.c).used, all);
    dma_reaches(&a, BASE, s.m.p);
    dma_reaches(&b, BASE + 0x8000, s.m.p + 0x8000);
    OK(s.c, map1(s.c, s.space, s.m.id, BASE + MIB, 0x20000, PAGE));
    a.t.known = b.t.known = 0;
    dma_reaches(&b, BASE + MIB, s.m.p + 0x20000);
    tap_check(usage(s.c).used == all + PAGE, "used %" PRIu64, usage(s.c).used);
    OK(s.c, vfb_device_detach(s.c, b.d.id));
    dma_reaches(&a, BASE + MIB, s.m.p + 0x20000); /* whatever that means to the other */
    OK(s.c, vfb_device_detach(s.c, a.d.id));
    a.t.known = b.t.known = 0;
    tap_check(testdev_read(&b.t, BASE, (uint8_t[64]){0}, 64) < 0, "a device reads that is detached, as is the other");
    OK(s.c, vfb_device_attach(s.c, b.d.id, s.space));
    dma_reaches(&b, BASE, s.m.p);
    give_back(&a);
    give_back(&b);
    d = claim_bound(s.c, test_devices[1]); /* and is claimed anew, for nothing */
    OK(s.c, vfb_device_attach(s.c, d.id, s.space));
    close(d.fd);
    vfb_client_free(s.c);
}

/* The last device leaves, the space stays; the next one has everything. */
static void case_after_the_last(void) {
    struct scene s = scene_new(false);
    struct rig r = rig_in(s.c, test_devices[0], s.space, s.scratch);

    dma_reaches(&r, BASE, s.m.p);
    give_back(&r);
    OK(s.c, map1(s.c, s.space, s.m.id, BASE + MIB, 0x20000, PAGE));
    OK(s.c, unmap1(s.c, s.space, BASE, 0x10000));
    tap_check(describe(s.c, s.space).mappings == 2, "%" PRIu64 " mappings", describe(s.c, s.space).mappings);
    r = rig_in(s.c, test_devices[1], s.space, s.scratch);
    dma_reaches(&r, BASE + MIB, s.m.p + 0x20000);
    dma_refused(&r, BASE, s.m.p);
    rig_end(&r);
}

DEFINE_CASES(domains, {"conflicts are left out for one device, and told", case_leave_out, 0},
             {"two devices, one of which leaves out", case_two_domains, 0},
             {"the order of plugging does not matter", case_order_of_plugging, 0},
             {"what a space needs keeps devices off", case_need, 0},
             {"devices claimed for one space are paid once", case_claim_for, 0},
             {"a space outlives its last device", case_after_the_last, 0});
