/* Runs: several mappings as one entry of the kernel.
 *
 * A container has room for 65535 entries (vfio_iommu_type1.c, dma_entry_limit). When few are left (type1-map.c), mappings of one
 * request that follow each other in IOVA and in the same memory, with the same access, are mapped as one entry. The kernel does
 * not cut entries, so to unmap a part of a run it is unmapped whole, and the rest mapped again: for that moment, some
 * microseconds and the time that pinning takes, a device faults in the rest too. That is why it is done near the limit only.
 *
 * What the kernel then does not map again (no memory) is `absent`: the unmap fails, says so, and it is tried again at each tick and
 * before each request. What is left after such a cut is a run as well, whether it has one mapping or many.
 *
 * Runs never overlap. One that is absent has no entry in the kernel. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "backend/type1-private.h"

struct vb_type1_run *vb_type1_run_at(struct vb_type1_container *c, uint64_t iova) {
    struct vb_type1_run *run;

    if (!c->runs.n || !vb_btree_seek(&c->runs, iova))
        return NULL;
    run = (struct vb_type1_run *)(uintptr_t)*vb_btree_value(&c->runs);
    return iova <= run->iova.last ? run : NULL;
}

static int add(struct vb_type1_container *c, const struct vb_type1_run *run) {
    struct vb_type1_run *copy = malloc(sizeof(*copy));
    int r;

    if (!copy)
        return -ENOMEM;
    *copy = *run;
    r = vb_btree_insert(&c->runs, run->iova.first, (uintptr_t)copy);
    if (r < 0)
        free(copy);
    else
        c->absent += copy->absent;
    return r;
}

/* The one that begins there. */
static void forget(struct vb_type1_container *c, uint64_t first) {
    struct vb_type1_run *run;

    vb_btree_seek(&c->runs, first);
    run = (struct vb_type1_run *)(uintptr_t)*vb_btree_value(&c->runs);
    vb_btree_remove(&c->runs);
    c->absent -= run->absent;
    free(run);
}

static void forget_inside(struct vb_type1_container *c, struct vb_range range) {
    bool at = c->runs.n > 0 && (vb_btree_seek(&c->runs, range.first), true);

    while (at) {
        uint64_t first = vb_btree_key(&c->runs);

        if (first > range.last)
            return;
        if (first < range.first) {
            at = vb_btree_next(&c->runs);
            continue;
        }
        forget(c, first);
        at = c->runs.n > 0 && (vb_btree_seek(&c->runs, range.first), true);
    }
}

void vb_type1_runs_clear(struct vb_type1_container *c) {
    while (c->runs.n) {
        vb_btree_seek(&c->runs, 0);
        forget(c, vb_btree_key(&c->runs));
    }
    vb_btree_clear(&c->runs);
}

size_t vb_type1_run_length(const struct vb_backend_map *maps, size_t n) {
    size_t i;

    for (i = 1; i < n; i++)
        if (maps[i - 1].iova + maps[i - 1].size != maps[i].iova || maps[i].iova == 0 ||
            maps[i - 1].offset + maps[i - 1].size != maps[i].offset || maps[i].memory != maps[0].memory ||
            maps[i].prot != maps[0].prot)
            break;
    return i;
}

static int map_run(struct vb_type1 *t, struct vb_type1_container *c, const struct vb_type1_run *run) {
    return vb_type1_map_dma(t, c, run->iova, run->memory, run->offset, run->prot);
}

int vb_type1_run_map(struct vb_type1 *t, struct vb_type1_container *c, const struct vb_backend_map *maps, size_t n) {
    const struct vb_type1_run run = {.iova = {maps[0].iova, maps[n - 1].iova + (maps[n - 1].size - 1)},
                                     .memory = maps[0].memory,
                                     .offset = maps[0].offset,
                                     .prot = maps[0].prot};
    int r = add(c, &run); /* first, so that it cannot fail when the kernel has mapped */

    if (r < 0)
        return r;
    r = map_run(t, c, &run);
    if (r < 0)
        forget(c, run.iova.first);
    return r;
}

void vb_type1_runs_retry(struct vb_type1 *t, struct vb_type1_container *c) {
    bool more;

    if (!c->absent)
        return;
    vb_btree_seek(&c->runs, 0);
    do {
        struct vb_type1_run *run = (struct vb_type1_run *)(uintptr_t)*vb_btree_value(&c->runs);

        if (run->absent && map_run(t, c, run) == 0) {
            run->absent = false;
            c->absent--;
        }
        more = vb_btree_next(&c->runs);
    } while (more && c->absent);
}

/* The rest of a run after a cut; its struct is there already. */
static bool map_again(struct vb_type1 *t, struct vb_type1_container *c, struct vb_type1_run *rest) {
    if (map_run(t, c, rest) == 0 || map_run(t, c, rest) == 0) /* a lack of memory often ends at once */
        return true;
    rest->absent = true;
    c->absent++;
    return false;
}

/* Two entries out of one: before anything is unmapped, so that a request is carried out whole or not at all. */
int vb_type1_runs_can_be_cut(struct vb_type1_container *c, const struct vb_range *ranges, size_t n, size_t *ret_entry,
                             struct vb_error *e) {
    const struct vb_type1_run *run, *first = NULL;
    uint32_t cuts = 0;

    for (size_t i = 0; i < n; i++) {
        run = vb_type1_run_at(c, ranges[i].first);
        if (!run || run->absent || run->iova.first == ranges[i].first || run->iova.last <= ranges[i].last)
            continue;
        if (cuts++ == 0) {
            first = run;
            *ret_entry = i;
        }
    }
    if (cuts <= c->avail || (vb_type1_container_ask(c) && cuts <= c->avail))
        return 0;
    return vb_refuse(e, VB_LIMIT,
                     "0x%" PRIx64 "-0x%" PRIx64 " lies in the middle of what was mapped as one entry near the "
                     "container's limit of %" PRIu32 ", and none is left for the second part; unmap something "
                     "else first, or from an end of 0x%" PRIx64 "-0x%" PRIx64,
                     ranges[*ret_entry].first, ranges[*ret_entry].last, c->limit, first->iova.first, first->iova.last);
}

int vb_type1_run_unmap(struct vb_type1 *t, struct vb_type1_container *c, struct vb_range range, struct vb_error *e) {
    struct vb_type1_run *left = vb_type1_run_at(c, range.first), *right = vb_type1_run_at(c, range.last);
    struct vb_range whole = range, lost = {0, 0};
    const bool some_absent = c->absent > 0;
    struct vb_type1_run rest = {.prot = 0};
    bool back = true;
    int r;

    if (left && left->iova.first == range.first)
        left = NULL;
    if (right && right->iova.last == range.last)
        right = NULL;
    if (left)
        whole.first = left->iova.first;
    if (right) {
        whole.last = right->iova.last;
        rest = *right;
        rest.iova.first = range.last + 1;
        rest.offset += rest.iova.first - right->iova.first;
        r = add(c, &rest);
        if (r < 0)
            return vb_fail(e, r, "cutting 0x%" PRIx64 "-0x%" PRIx64, right->iova.first, right->iova.last);
    }
    r = vb_type1_unmap_dma(c, whole);
    if (r == -ENOENT && some_absent)
        r = 0;
    if (r < 0) {
        if (right)
            forget(c, rest.iova.first);
        return vb_fail(e, r, "unmapping 0x%" PRIx64 "-0x%" PRIx64, range.first, range.last);
    }
    /* right keeps its key if it is left as well: then it is cut twice. */
    if (left)
        left->iova.last = range.first - 1;
    forget_inside(c, range);
    if (left && !left->absent && !map_again(t, c, left)) {
        lost = left->iova;
        back = false;
    }
    if (right && !rest.absent && !map_again(t, c, vb_type1_run_at(c, rest.iova.first))) {
        lost = rest.iova;
        back = false;
    }
    return back ? 0
                : vb_fail(
                      e, -ENOMEM,
                      "0x%" PRIx64 "-0x%" PRIx64 " was unmapped, but 0x%" PRIx64 "-0x%" PRIx64
                      ", which was mapped together with it near the container's limit of entries, could not be mapped "
                      "again yet: devices fault there until it is, which is tried every second",
                      range.first, range.last, lost.first, lost.last);
}
