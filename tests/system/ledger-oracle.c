/* See ledger-oracle.h. */
#include "ledger-oracle.h"

#include <string.h>

#define BECAUSE(condition, code) ((condition) ? 1u << (code) : 0)
#define COMPLETE(m)              (!memchr((m)->file->present, 0, (m)->file->n))
/* Every mapping of a space that lies at least partly in a range. */
#define EACH_MAPPING(m, o, where, from, length)                                                                        \
    for (struct oracle_mapping *m = (o)->mappings; m < (o)->mappings + O_MAPPINGS; m++)                                \
        if (m->live && m->space == (where) && meet(from, length, m->iova, m->size))

static bool meet(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) {
    return a < b + b_size && b < a + a_size;
}

/* Adds `step` to the counters of `size` bytes. Returns, with its sign, the bytes whose counter began or ceased to be 0. */
static uint64_t count(uint16_t *c, uint64_t size, int step) {
    uint64_t pages = 0;

    for (uint64_t i = 0; i < size / O_PAGE; i++) {
        pages += step > 0 ? c[i] == 0 : c[i] == 1;
        c[i] = (uint16_t)(c[i] + step);
    }
    return step > 0 ? pages * O_PAGE : -(pages * O_PAGE);
}

unsigned oracle_register(const struct oracle_memory *m) {
    return BECAUSE(memchr(m->file->present, 0, m->file->size), VFB_BAD_MEMORY) |
           BECAUSE(m->registered && m->file->size != m->file->n, VFB_BUSY);
}

unsigned oracle_unregister(const struct oracle_memory *m) {
    return BECAUSE(!m->registered, VFB_NOT_FOUND) | BECAUSE(m->registered == 1 && m->mappings, VFB_BUSY);
}

static unsigned map_entry(struct oracle *o, uint32_t space, const struct vfb_map *e) {
    const struct oracle_memory *m = &o->memories[e->memory];
    unsigned why = BECAUSE(!m->registered, VFB_NOT_FOUND) | BECAUSE(!COMPLETE(m), VFB_BAD_MEMORY) |
                   BECAUSE((e->prot & VFB_WRITE) && !m->writable, VFB_BAD_MEMORY) |
                   BECAUSE(!e->size || (e->iova | e->size | e->offset) % O_PAGE, VFB_INVALID) |
                   BECAUSE(!(e->prot & VFB_READ) || e->offset + e->size > m->file->n * O_PAGE, VFB_INVALID);

    EACH_MAPPING(other, o, space, e->iova, e->size)
    why |= BECAUSE(true, VFB_OVERLAP);
    return why;
}

unsigned oracle_map(struct oracle *o, uint32_t space, const struct vfb_map *entries, size_t n, uint64_t *ret_fresh) {
    unsigned why = BECAUSE(!o->spaces[space].live, VFB_NOT_FOUND) | BECAUSE(o->n_mappings + n > o->n_max, VFB_LIMIT);
    const struct vfb_map *e, *other, *end = entries + n;
    uint64_t bytes = *ret_fresh = 0;

    for (e = entries; e < end; e++) {
        why |= map_entry(o, space, e);
        for (other = entries; other < e; other++)
            why |= BECAUSE(meet(e->iova, e->size, other->iova, other->size), VFB_OVERLAP);
    }
    for (int step = 1; step >= -1 && !(why & BECAUSE(true, VFB_INVALID)); step -= 2) /* tried, and taken back */
        for (e = entries; e < end; e++) {
            bytes = count(o->memories[e->memory].shown + e->offset / O_PAGE, e->size, step);
            *ret_fresh += step > 0 ? bytes : 0;
        }
    bytes = o->paid + *ret_fresh;
    return why | BECAUSE(*ret_fresh && bytes + o->own + o->sibling > o->limit && bytes > o->lease, VFB_LIMIT);
}

/* One mapping appears or goes. */
static void show(struct oracle *o, const struct oracle_mapping *m, int step) {
    o->mapped += step > 0 ? m->size : -m->size;
    o->paid += count(m->memory->shown + m->page, m->size, step);
    if (o->spaces[m->space].devices)
        o->pinned += count(m->memory->reached + m->page, m->size, step);
    m->memory->mappings += (uint32_t)step;
    o->n_mappings += (uint64_t)step;
}

void oracle_mapped(struct oracle *o, uint32_t space, const struct vfb_map *entries, size_t n) {
    struct oracle_mapping *m = o->mappings;

    for (const struct vfb_map *e = entries; e < entries + n; e++) {
        while (m->live)
            m++;
        *m = (struct oracle_mapping){true, space, &o->memories[e->memory], e->offset / O_PAGE, e->iova, e->size};
        show(o, m, 1);
    }
}

unsigned oracle_unmap(struct oracle *o, uint32_t space, const struct vfb_unmap *entries, size_t n,
                      uint64_t *ret_bytes) {
    unsigned why = BECAUSE(!o->spaces[space].live, VFB_NOT_FOUND);
    uint64_t before = *ret_bytes = 0;

    for (const struct vfb_unmap *e = entries, *other; e < entries + n; e++, before = *ret_bytes) {
        EACH_MAPPING(m, o, space, e->iova, e->size) {
            *ret_bytes += m->size;
            why |= BECAUSE(m->iova < e->iova || m->iova + m->size > e->iova + e->size, VFB_INVALID); /* cut */
            for (other = entries; other < e; other++) /* twice in one request */
                why |= BECAUSE(meet(other->iova, other->size, m->iova, m->size), VFB_INVALID);
        }
        why |= BECAUSE(*ret_bytes == before, VFB_NOT_FOUND);
    }
    return why;
}

void oracle_unmapped(struct oracle *o, uint32_t space, uint64_t iova, uint64_t size) {
    EACH_MAPPING(m, o, space, iova, size) {
        show(o, m, -1);
        m->live = false;
    }
}

unsigned oracle_attach(struct oracle *o, uint32_t device, uint32_t space) {
    const enum oracle_state state = o->devices[device].state;
    unsigned why =
        BECAUSE(!o->spaces[space].live || state == O_FREE, VFB_NOT_FOUND) | BECAUSE(state != O_BOUND, VFB_STATE);

    EACH_MAPPING(m, o, space, 0, UINT64_MAX)
    why |= BECAUSE(!COMPLETE(m->memory), VFB_BAD_MEMORY);
    return why;
}

void oracle_attached(struct oracle *o, uint32_t device, uint32_t space, int step) {
    o->devices[device].state = step > 0 ? O_ATTACHED : O_BOUND;
    o->devices[device].space = space;
    o->spaces[space].devices += (uint32_t)step;
    if (o->spaces[space].devices == (step > 0 ? 1 : 0)) /* the first, or the last one */
        EACH_MAPPING(m, o, space, 0, UINT64_MAX)
    o->pinned += count(m->memory->reached + m->page, m->size, step);
}

unsigned oracle_pinned(struct oracle *o, uint32_t space, uint64_t iova, uint64_t size, int step) {
    uint64_t parts = 0, gap = size;
    unsigned why = 0;

    EACH_MAPPING(m, o, space, iova, size) {
        const uint64_t from = iova > m->iova ? iova : m->iova, end = iova + size, m_end = m->iova + m->size;
        const uint64_t part = (end < m_end ? end : m_end) - from;

        if (!m->memory->file->hugetlb) /* those stay in memory by themselves */
            o->locked += count(m->memory->locked + m->page + (from - m->iova) / O_PAGE, part, step);
        why |= BECAUSE(!COMPLETE(m->memory), VFB_BAD_MEMORY) | BECAUSE(++parts > VFB_PIN_SEGMENTS, VFB_LIMIT);
        gap -= part;
    }
    return why | BECAUSE(gap, VFB_NOT_FOUND);
}
