#include "core/mapping-pool.h"

#include <assert.h>
#include <malloc.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#include "core/mapping.h"

#define PER_CHUNK 101
#define MANY      256 /* chunks: 1 MiB */
#define WORDS     ((PER_CHUNK + 63) / 64)

struct vb_mapping_chunk {
    struct vb_mapping_pool *pool;
    LIST_ENTRY(vb_mapping_chunk) link; /* of pool->roomy, when not full */
    uint64_t free[WORDS];              /* a bit for each slot */
    struct vb_mapping slots[PER_CHUNK];
};

_Static_assert(sizeof(struct vb_mapping_chunk) <= 4096 - 16, "4 KiB, with the header of malloc");
_Static_assert(PER_CHUNK <= UINT8_MAX, "vb_mapping.slot");

static bool none(const struct vb_mapping_chunk *c) {
    return !c->free[0] && !c->free[1];
}

static bool all(const struct vb_mapping_chunk *c) {
    return c->free[0] == UINT64_MAX && c->free[1] == (1ull << (PER_CHUNK - 64)) - 1;
}

static struct vb_mapping_chunk *chunk_of(const struct vb_mapping *m) {
    return (struct vb_mapping_chunk *)((char *)(uintptr_t)(m - m->slot) - offsetof(struct vb_mapping_chunk, slots));
}

static struct vb_mapping_chunk *new_chunk(struct vb_mapping_pool *p) {
    struct vb_mapping_chunk *c = malloc(sizeof(*c));

    if (!c)
        return NULL;
    c->pool = p;
    if (++p->chunks > p->most)
        p->most = p->chunks;
    c->free[0] = UINT64_MAX;
    c->free[1] = (1ull << (PER_CHUNK - 64)) - 1;
    LIST_INSERT_HEAD(&p->roomy, c, link);
    return c;
}

struct vb_mapping *vb_mapping_pool_new(struct vb_mapping_pool *p) {
    struct vb_mapping_chunk *c = LIST_FIRST(&p->roomy);
    unsigned word, slot;

    if (!c && !(c = new_chunk(p)))
        return NULL;
    word = c->free[0] ? 0 : 1;
    slot = 64 * word + (unsigned)__builtin_ctzll(c->free[word]);
    c->free[word] &= c->free[word] - 1;
    if (none(c))
        LIST_REMOVE(c, link);
    c->slots[slot] = (struct vb_mapping){.slot = (uint8_t)slot};
    return &c->slots[slot];
}

/* Whatever is allocated behind the chunks keeps free() from giving them to the system. Extents have shrunk by now too. */
static void free_chunk(struct vb_mapping_chunk *c) {
    struct vb_mapping_pool *p = c->pool;

    LIST_REMOVE(c, link);
    free(c);
    if (--p->chunks > 0)
        return;
    if (p->most >= MANY)
        malloc_trim(0);
    p->most = 0;
}

void vb_mapping_pool_free(struct vb_mapping *m) {
    struct vb_mapping_chunk *c = chunk_of(m);

    assert(!(c->free[m->slot / 64] >> m->slot % 64 & 1));
    if (none(c))
        LIST_INSERT_HEAD(&c->pool->roomy, c, link);
    c->free[m->slot / 64] |= 1ull << m->slot % 64;
    if (all(c))
        free_chunk(c);
}

struct vb_mapping_pool *vb_mapping_pool_of(const struct vb_mapping *m) {
    return chunk_of(m)->pool;
}
