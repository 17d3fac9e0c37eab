/* A type1 container takes 65535 mappings: run by tests/system/entries, in the VM. Adjacent mappings of one request become one of
 * the kernel's when it has few left, so that only separate ones end there. VB_TEST_DEVICES: two edu devices. */
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "entries.h"

/* Fills the space with separate pages until the container is full: with the scratch page 65535. */
static void fill_up(struct rig *g) {
    uint64_t done;

    OK(g, map_pages(g, 0, LIMIT - 1, 1000, &done));
}

static void end(struct rig *g) {
    uint64_t bytes, mapped = state_of(g).bytes;

    OK(g, vfb_unmap_all(g->c, g->space, &bytes));
    tap_check(bytes == mapped, "%" PRIu64 " bytes unmapped of %" PRIu64, bytes, mapped);
    tap_check(state_of(g).used == 0, "%" PRIu64 " bytes are paid for nothing", state_of(g).used);
    for (unsigned i = 0; i < 2; i++)
        testdev_close(&g->device[i].dma);
    vfb_client_free(g->c);
}

static void separate(void) {
    struct rig g = rig_new(70000, 2);
    struct state was;
    uint64_t done, rest, more;
    int r;

    use_device(&g, 0);
    attach(&g, 0);
    r = map_pages(&g, 0, 70000, 1000, &done);
    clearly_refused(&g, r);
    tap_check(done == 65000, "%" PRIu64 " were mapped", done);
    was = state_of(&g);
    tap_check(was.mappings == done + 1, "%" PRIu64 " mappings", was.mappings);
    /* The kernel took 534 of the refused batch before it said no. */
    faults(&g, 0, done);
    faults(&g, 0, done + 500);
    reaches(&g, 0, 0);
    reaches(&g, 0, done - 1);
    /* As many as were free are free again, and at the same IOVAs. */
    rest = LIMIT - was.mappings;
    OK(&g, map_pages(&g, done + 100, rest - 100, BATCH, &more));
    OK(&g, map_pages(&g, done + 2000, 100, BATCH, &more));
    reaches(&g, 0, done + 100);
    reaches(&g, 0, done + 2099);
    was = state_of(&g);
    tap_check(was.mappings == LIMIT, "%" PRIu64 " mappings", was.mappings);
    clearly_refused(&g, map_pages(&g, 69000, 1, 1, &more));
    same_state(&was, &g, "a refused mapping");
    /* Room for what is taken out, and no more. */
    unmap_pages(&g, 30000, 10, 1);
    faults(&g, 0, 30005);
    reaches(&g, 0, 29999);
    reaches(&g, 0, 30010);
    OK(&g, map_pages(&g, 30000, 10, 10, &more));
    reaches(&g, 0, 30005);
    same_state(&was, &g, "unmapping ten and mapping them again");
    clearly_refused(&g, map_pages(&g, 69000, 1, 1, &more));
    end(&g);
}

/* Unmaps pieces of what was one mapping for the kernel, with the pages that stay being reached by `devices`. */
static void pieces(struct rig *g, uint64_t first, unsigned devices) {
    const struct state was = state_of(g);
    uint64_t done;

    unmap_pages(g, first + 500, 1, 1);         /* in the middle */
    unmap_pages(g, first, 1, 1);               /* its first */
    unmap_pages(g, first + BATCH - 4, 8, 1);   /* its last, and the first of the next */
    unmap_pages(g, first + 2 * BATCH, 512, 2); /* every other one */
    for (unsigned i = 0; i < devices; i++) {
        reaches(g, i, first + 499);
        faults(g, i, first + 500);
        reaches(g, i, first + 501);
        reaches(g, i, first - 1);
        faults(g, i, first);
        reaches(g, i, first + 1);
        reaches(g, i, first + BATCH - 5);
        faults(g, i, first + BATCH + 3);
        reaches(g, i, first + BATCH + 4);
        faults(g, i, first + 2 * BATCH + 100);
        reaches(g, i, first + 2 * BATCH + 101);
    }
    OK(g, map_pages(g, first + 500, 1, 1, &done));
    OK(g, map_pages(g, first, 1, 1, &done));
    OK(g, map_pages(g, first + BATCH - 4, 8, 8, &done));
    for (uint64_t i = 0; i < 512; i += 2)
        OK(g, map_pages(g, first + 2 * BATCH + i, 1, 1, &done));
    same_state(&was, g, "unmapping pieces and mapping them again");
    for (unsigned i = 0; i < devices; i++) {
        reaches(g, i, first + 500);
        reaches(g, i, first + 2 * BATCH + 100);
    }
}

static void adjacent(void) {
    struct rig g = rig_new(100000, 1);
    uint64_t done;

    use_device(&g, 0);
    attach(&g, 0);
    OK(&g, map_pages(&g, 0, 300000, BATCH, &done));
    tap_check(state_of(&g).mappings == 300001, "%" PRIu64 " mappings", state_of(&g).mappings);
    reaches(&g, 0, 0);
    reaches(&g, 0, 150000);
    reaches(&g, 0, 299999);
    faults(&g, 0, 300000);
    pieces(&g, 280 * BATCH, 1); /* a run begins with its batch */
    end(&g);
}

/* In a full container there is no entry for what lies on the other side of a piece that goes. */
static void piece_when_full(void) {
    struct rig g = rig_new(70000, 2);
    struct vfb_unmap piece, two[2];
    struct state was;
    const char *text;
    uint64_t done;
    int r;

    use_device(&g, 0);
    attach(&g, 0);
    fill_up(&g);
    unmap_pages(&g, 1000, 1, 1);
    g.stride = 1; /* from here on: page i of another part of the space */
    OK(&g, map_pages(&g, 400000, 1000, 1000, &done));
    was = state_of(&g);
    tap_check(was.mappings == LIMIT + 999, "%" PRIu64 " mappings", was.mappings);
    clearly_refused(&g, map_pages(&g, 500000, 1, 1, &done));
    same_state(&was, &g, "a refused mapping");
    /* The first and the last of it leave one entry for one; what lies between needs a second one. */
    unmap_pages(&g, 400000, 1, 1);
    unmap_pages(&g, 400999, 1, 1);
    was = state_of(&g);
    piece = (struct vfb_unmap){.iova = page_iova(&g, 400500), .size = PAGE};
    r = vfb_unmap(g.c, g.space, &piece, 1, NULL);
    text = vfb_error(g.c)->text;
    tap_diag("%s", text);
    tap_check(r == VFB_LIMIT && strstr(text, "65535") && strstr(text, "unmap something"), "%s: %s", vfb_code_name(r),
              text);
    same_state(&was, &g, "a refused unmapping");
    faults(&g, 0, 400000);
    reaches(&g, 0, 400001);
    reaches(&g, 0, 400500);
    reaches(&g, 0, 400998);
    faults(&g, 0, 400999);
    /* In a batch, too: what was unmapped before it is there again. */
    two[0] = (struct vfb_unmap){.iova = page_iova(&g, 400001), .size = PAGE};
    two[1] = piece;
    r = vfb_unmap(g.c, g.space, two, 2, NULL);
    tap_diag("%s", vfb_error(g.c)->text);
    tap_check(r == VFB_LIMIT, "%s: %s", vfb_code_name(r), vfb_error(g.c)->text);
    same_state(&was, &g, "a refused batch");
    reaches(&g, 0, 400001);
    reaches(&g, 0, 400500);
    /* With an entry to spare it goes. */
    g.stride = 2;
    reaches(&g, 0, 999);
    reaches(&g, 0, 1001);
    unmap_pages(&g, 2000, 1, 1);
    g.stride = 1;
    unmap_pages(&g, 400500, 1, 1);
    faults(&g, 0, 400500);
    reaches(&g, 0, 400499);
    reaches(&g, 0, 400501);
    end(&g);
}

static void replay_separate(void) {
    struct rig g = rig_new(70000, 2);
    struct vfb_space_info info;
    struct state was;
    uint32_t other;
    uint64_t done;

    OK(&g, map_pages(&g, 0, 70000, BATCH, &done)); /* no device, no limit but policy's */
    use_device(&g, 0);
    was = state_of(&g);
    for (unsigned i = 0; i < 2; i++) {
        clearly_refused(&g, vfb_device_attach(g.c, g.device[0].d.id, g.space));
        same_state(&was, &g, "a refused attach");
    }
    /* The device is as before: it can attach to another space, and reaches nothing of this one. */
    OK(&g, vfb_space_create(g.c, "other", &other));
    map_scratch(&g, other);
    OK(&g, vfb_device_attach(g.c, g.device[0].d.id, other));
    faults(&g, 0, 0);
    faults(&g, 0, 40000);
    OK(&g, vfb_device_detach(g.c, g.device[0].d.id));
    OK(&g, vfb_space_destroy(g.c, other));
    /* As many as the container takes. */
    for (uint64_t left = 70000 - (LIMIT - 1), n; left; left -= n) {
        n = left < BATCH ? left : BATCH;
        unmap_pages(&g, LIMIT - 1 + left - n, n, 1);
    }
    OK(&g, vfb_space_describe(g.c, g.space, &info));
    tap_check(info.mappings == LIMIT, "%" PRIu64 " mappings", info.mappings);
    attach(&g, 0);
    reaches(&g, 0, 0);
    reaches(&g, 0, 33333);
    reaches(&g, 0, LIMIT - 2);
    faults(&g, 0, LIMIT - 1);
    clearly_refused(&g, map_pages(&g, LIMIT - 1, 1, 1, &done));
    /* Without the device there is room again, and with one more mapping none for the device. */
    OK(&g, vfb_device_detach(g.c, g.device[0].d.id));
    OK(&g, map_pages(&g, LIMIT - 1, 1, 1, &done));
    clearly_refused(&g, vfb_device_attach(g.c, g.device[0].d.id, g.space));
    unmap_pages(&g, 5, 1, 1);
    attach(&g, 0);
    reaches(&g, 0, LIMIT - 1);
    end(&g);
}

/* What is told while an attach takes long. */
struct told {
    uint32_t device;
    uint64_t last, total;
    unsigned n;
};

static void on_event(struct vfb_client *c, const struct vfb_event *e, void *arg) {
    struct told *t = arg;

    (void)c;
    if (e->kind != VFB_EVENT_PROGRESS)
        return;
    tap_check(e->done >= t->last && e->done <= e->total, "%" PRIu64 " of %" PRIu64 " bytes after %" PRIu64, e->done,
              e->total, t->last);
    *t = (struct told){.device = e->device, .last = e->done, .total = e->total, .n = t->n + 1};
}

static void attach_and_hear(struct rig *g, unsigned i, uint64_t bytes) {
    struct timespec begun, ended;
    struct told t = {0};
    double took;

    vfb_set_event_handler(g->c, on_event, &t);
    clock_gettime(CLOCK_MONOTONIC, &begun);
    attach(g, i);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    vfb_set_event_handler(g->c, NULL, NULL);
    took = (double)(ended.tv_sec - begun.tv_sec) + (double)(ended.tv_nsec - begun.tv_nsec) * 1e-9;
    tap_diag("attached after %.2f s, progress was told %u times", took, t.n);
    tap_check(took < 1.5 || t.n > 0, "%.2f s without a word", took);
    tap_check(t.n == 0 || (t.device == g->device[i].d.id && t.total == bytes), "device %u, %" PRIu64 " bytes in all",
              t.device, t.total);
}

static void replay_adjacent(void) {
    struct rig g = rig_new(100000, 1);
    uint64_t done;

    OK(&g, map_pages(&g, 0, 70000, BATCH, &done));
    use_device(&g, 0);
    attach_and_hear(&g, 0, 70001 * PAGE);
    reaches(&g, 0, 0);
    reaches(&g, 0, 35000);
    reaches(&g, 0, 69999);
    faults(&g, 0, 70000);
    OK(&g, map_pages(&g, 70000, 130000, BATCH, &done));
    /* A second container gets what is here by now. */
    use_device(&g, 1);
    attach_and_hear(&g, 1, 200001 * PAGE);
    reaches(&g, 1, 0);
    reaches(&g, 1, 199999);
    pieces(&g, 180 * BATCH, 2);
    end(&g);
}

int main(int argc, char **argv) {
    static const struct tap_case cases[] = {
        {"separate mappings end at 65535, and what is refused leaves nothing", separate, 120},
        {"300,000 adjacent ones go past it, and pieces of them can be unmapped", adjacent, 180},
        {"a piece of a run in a full container", piece_when_full, 120},
        {"attach to a space with 70,000 separate ones is refused and changes nothing", replay_separate, 180},
        {"attach to a space with 200,000 adjacent ones, twice", replay_adjacent, 240},
    };

    return tap_run(cases, sizeof cases / sizeof cases[0], argc > 1 ? argv[1] : NULL);
}
