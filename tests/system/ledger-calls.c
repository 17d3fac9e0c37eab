/* Operations on the broker: memories and spaces. See ledger-run.h. */
#include <inttypes.h>

#include "ledger-run.h"

/* A random one that is in use, most of the time. */
uint32_t pick_memory(struct user *u) {
    uint32_t memory = 0;

    for (int i = 0; i < 6; i++) {
        memory = (uint32_t)below(u, O_MEMORIES);
        if (u->o.memories[memory].registered)
            break;
    }
    return memory;
}

uint32_t pick_space(struct user *u) {
    uint32_t space = 0;

    for (int i = 0; i < 6; i++) {
        space = (uint32_t)below(u, O_SPACES);
        if (u->o.spaces[space].live)
            break;
    }
    return space;
}

/* NULL if there is none in this space. */
const struct oracle_mapping *pick_mapping(struct user *u, uint32_t space) {
    const uint64_t start = below(u, O_MAPPINGS);

    for (uint64_t i = 0; i < O_MAPPINGS; i++) {
        const struct oracle_mapping *m = &u->o.mappings[(start + i) % O_MAPPINGS];

        if (m->live && m->space == space)
            return m;
    }
    return NULL;
}

/* ---- memories and spaces ---- */

enum outcome do_register(struct user *u) {
    const uint32_t memory = (uint32_t)below(u, O_MEMORIES);
    struct oracle_memory *m = &u->o.memories[memory];
    const bool populate = !chance(u, 3);
    struct vfb_memory got = {0};
    unsigned why;
    int r;

    if (m->file->size != m->file->n && !m->registered) /* the oracle knows one size only */
        return SKIPPED;
    doing(u, "register memory %" PRIu32 " (file %" PRIu32 ", %s), %s", memory, memory / 2,
          m->writable ? "writable" : "read-only", populate ? "populated" : "as it is");
    if (populate)
        for (uint64_t i = 0; i < m->file->size; i++)
            m->file->present[i] = 1;
    why = oracle_register(m);
    r = vfb_memory_register(u->c, u->fds[memory / 2],
                            (m->writable ? VFB_WRITABLE : 0) | (populate ? 0 : VFB_NO_POPULATE), "ledger", &got);
    if (judge(u, r, why) == REFUSED)
        return REFUSED;
    if (m->registered++ && got.id != u->memory_ids[memory])
        mismatch(u, "the file is memory %" PRIu32 " already, and now %" PRIu32, u->memory_ids[memory], got.id);
    u->memory_ids[memory] = got.id;
    if (got.size != m->file->n * O_PAGE || got.page_size != u->unit[memory / 2] * O_PAGE)
        mismatch(u, "size %" PRIu64 ", page size %" PRIu64, got.size, got.page_size);
    return DONE;
}

enum outcome do_unregister(struct user *u) {
    const uint32_t memory = pick_memory(u);
    struct oracle_memory *m = &u->o.memories[memory];
    enum outcome out;

    doing(u, "unregister memory %" PRIu32 ", registered %" PRIu32 " times, %" PRIu32 " mappings", memory, m->registered,
          m->mappings);
    out = judge(u, vfb_memory_unregister(u->c, u->memory_ids[memory]), oracle_unregister(m));
    if (out == DONE)
        m->registered--;
    return out;
}

enum outcome do_space_create(struct user *u) {
    uint32_t space = 0;

    while (space < O_SPACES && u->o.spaces[space].live)
        space++;
    if (space == O_SPACES)
        return SKIPPED;
    doing(u, "create space %" PRIu32, space);
    judge(u, vfb_space_create(u->c, "ledger", &u->space_ids[space]), 0);
    u->o.spaces[space].live = true;
    return DONE;
}

enum outcome do_space_destroy(struct user *u) {
    const uint32_t space = pick_space(u);
    unsigned why = u->o.spaces[space].live ? 0 : 1u << VFB_NOT_FOUND;
    enum outcome out;

    if (u->o.spaces[space].devices)
        why |= 1u << VFB_BUSY;
    doing(u, "destroy space %" PRIu32, space);
    out = judge(u, vfb_space_destroy(u->c, u->space_ids[space]), why);
    if (out == DONE) {
        unmapped(u, space, 0, UINT64_MAX);
        u->o.spaces[space].live = false;
        u->accesses[space] = 0;
    }
    return out;
}
