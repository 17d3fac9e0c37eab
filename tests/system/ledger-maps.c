/* Operations on the broker: mapping and unmapping. See ledger-run.h. */
#include <inttypes.h>

#include "ledger-run.h"

#define BASE 0x40000000ull /* IOVAs from here on: below the MSI window */

static struct vfb_map random_entry(struct user *u, uint32_t space) {
    const struct oracle_mapping *old = chance(u, 3) ? pick_mapping(u, chance(u, 2) ? space : pick_space(u)) : NULL;
    struct vfb_map e = {.iova = BASE + below(u, u->window) * O_PAGE, .memory = pick_memory(u), .prot = VFB_READ};
    const uint64_t n = u->o.memories[e.memory].file->n, unit = u->unit[e.memory / 2];
    uint64_t first, pages;

    if (old) { /* the same pages once more, or some of them and their neighbours */
        e.memory = (uint32_t)(old->memory - u->o.memories);
        e.offset = old->page * O_PAGE;
        e.size = old->size;
        if (chance(u, 3) && e.size > O_PAGE) {
            e.size = (1 + below(u, e.size / O_PAGE)) * O_PAGE;
            e.offset += below(u, (old->size - e.size) / O_PAGE + 1) * O_PAGE;
        }
    } else {
        pages = 1 + below(u, chance(u, 2) ? 16 : chance(u, 8) ? n : n / 4);
        first = below(u, n - pages + 1);
        if (unit > 1 && !chance(u, 3)) { /* whole huge pages; else parts of them */
            first -= first % unit;
            pages = (pages + unit - 1) / unit * unit;
            pages = pages > n - first ? n - first : pages;
            e.iova -= chance(u, 2) ? e.iova % (unit * O_PAGE) : 0;
        }
        e.offset = first * O_PAGE;
        e.size = pages * O_PAGE;
    }
    if (u->o.memories[e.memory].writable ? !chance(u, 8) : chance(u, 60))
        e.prot |= VFB_WRITE;
    switch (below(u, 400)) {
    case 0:
        e.iova += 512;
        break;
    case 1:
        e.offset = n * O_PAGE;
        break;
    case 2:
        e.size = 0;
        break;
    default:
        break;
    }
    return e;
}

/* One of a few draws that the oracle likes, so that most operations do something. */
static unsigned draw(struct user *u, uint32_t space, struct vfb_map *entries, size_t n, uint64_t *ret_fresh) {
    unsigned why = 0;
    size_t i;

    for (int tries = chance(u, 4) ? 1 : 5; tries > 0; tries--) {
        for (i = 0; i < n; i++)
            entries[i] = random_entry(u, space);
        why = oracle_map(&u->o, space, entries, n, ret_fresh);
        if (why == 0)
            break;
    }
    return why;
}

static enum outcome map(struct user *u, size_t n) {
    struct vfb_map entries[BATCH_MAX], sent[BATCH_MAX];
    const uint32_t space = pick_space(u);
    uint64_t fresh;
    const unsigned why = draw(u, space, entries, n, &fresh);
    int r;

    doing(u,
          "map %zu entries in space %" PRIu32 ", %" PRIu64 " bytes new; the first: IOVA 0x%" PRIx64 ", memory %" PRIu32
          ", offset 0x%" PRIx64 ", size 0x%" PRIx64 ", prot %" PRIu32,
          n, space, fresh, entries[0].iova, entries[0].memory, entries[0].offset, entries[0].size, entries[0].prot);
    for (size_t i = 0; i < n; i++) {
        sent[i] = entries[i];
        sent[i].memory = u->memory_ids[entries[i].memory];
    }
    r = vfb_map(u->c, u->space_ids[space], sent, n);
    /* Within the lease that there was, but above the limit of now: refused only if idle lease was given back meanwhile. */
    if (why == 0 && r == VFB_LIMIT && u->o.paid + fresh + u->o.own + u->o.sibling > u->o.limit) {
        const uint64_t total = u->o.paid + fresh;

        u->board->either[u->number]++;
        if (vfb_usage(u->c, &u->usage) != 0 || u->usage.lease >= total)
            mismatch(u, "refused, though %" PRIu64 " bytes fit into the lease of %" PRIu64, total, u->usage.lease);
        return REFUSED;
    }
    if (judge(u, r, why) == REFUSED)
        return REFUSED;
    oracle_mapped(&u->o, space, entries, n);
    return DONE;
}

enum outcome do_map(struct user *u) {
    return map(u, 1);
}

enum outcome do_map_batch(struct user *u) {
    return map(u, 2 + below(u, chance(u, 4) ? BATCH_MAX - 1 : 4));
}

/* ---- unmapping ---- */

static struct vfb_unmap random_range(struct user *u, uint32_t space) {
    const struct oracle_mapping *m = pick_mapping(u, space), *to;
    struct vfb_unmap e = {.iova = BASE + below(u, u->window) * O_PAGE, .size = O_PAGE};

    if (!m || chance(u, 20)) /* perhaps nothing there, perhaps the middle of something */
        return e;
    e = (struct vfb_unmap){.iova = m->iova, .size = m->size};
    to = chance(u, 10) ? pick_mapping(u, space) : NULL;
    if (to && to->iova > m->iova) /* all from one to another one */
        e.size = to->iova + to->size - m->iova;
    if (chance(u, 30))
        e.size = e.size > O_PAGE ? e.size - O_PAGE : 2 * O_PAGE;
    return e;
}

static enum outcome unmap(struct user *u, size_t n) {
    struct vfb_unmap entries[BATCH_MAX];
    const uint32_t space = pick_space(u);
    uint64_t bytes = 0, expected = 0;
    unsigned why = 0;

    for (int tries = chance(u, 8) ? 1 : 5; tries > 0; tries--) {
        for (size_t i = 0; i < n; i++)
            entries[i] = random_range(u, space);
        why = oracle_unmap(&u->o, space, entries, n, &expected);
        if (why == 0)
            break;
    }
    doing(u, "unmap %zu entries in space %" PRIu32 "; the first: IOVA 0x%" PRIx64 ", size 0x%" PRIx64, n, space,
          entries[0].iova, entries[0].size);
    if (judge(u, vfb_unmap(u->c, u->space_ids[space], entries, n, &bytes), why) == REFUSED)
        return REFUSED;
    if (bytes != expected)
        mismatch(u, "%" PRIu64 " bytes were unmapped instead of %" PRIu64, bytes, expected);
    for (size_t i = 0; i < n; i++)
        unmapped(u, space, entries[i].iova, entries[i].size);
    return DONE;
}

enum outcome do_unmap(struct user *u) {
    return unmap(u, 1);
}

enum outcome do_unmap_batch(struct user *u) {
    return unmap(u, 2 + below(u, 3));
}

enum outcome do_unmap_all(struct user *u) {
    const uint32_t space = pick_space(u);
    const uint64_t before = u->o.mapped;
    uint64_t bytes = 0;

    doing(u, "unmap everything in space %" PRIu32, space);
    if (judge(u, vfb_unmap_all(u->c, u->space_ids[space], &bytes), u->o.spaces[space].live ? 0 : 1u << VFB_NOT_FOUND) ==
        REFUSED)
        return REFUSED;
    unmapped(u, space, 0, UINT64_MAX);
    if (bytes != before - u->o.mapped)
        mismatch(u, "%" PRIu64 " bytes were unmapped instead of %" PRIu64, bytes, before - u->o.mapped);
    return DONE;
}
