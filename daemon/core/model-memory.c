/* Registering and unregistering memory: see model.h. */
#include <errno.h>
#include <inttypes.h>

#include "core/model.h"
#include "proto/cleanup.h"

/* A page set of its own in the kernel, and so pins of its own, comes with each pool slot: a file that is registered again with
 * the same access shares the slot. Once read-only and once writable cannot be shared: each is pinned, and paid. */
static struct vb_memory *same_file(struct vb_model *m, const struct vb_memory *memory) {
    uint32_t i;

    for (i = 0; i < m->memories.n; i++) {
        struct vb_memory *other = m->memories.items[i];

        if (memory->kind != VB_MEMORY_DMA_BUF && other->kind == memory->kind && other->dev == memory->dev &&
            other->ino == memory->ino && other->writable == memory->writable)
            return other;
    }
    return NULL;
}

static int again(struct vb_memory *m, const struct vb_memory *now, struct vb_error *e) {
    if (m->size != now->size)
        return vb_refuse(e, VB_BUSY,
                         "this file is registered already as memory %" PRIu32 " with %s, and has %s now; unregister it "
                         "first",
                         m->id, VB_SIZE(m->size), VB_SIZE(now->size));
    if (m->registered == VB_REGISTERED_MAX) {
        vb_error_limit(e, 1, m->registered, VB_REGISTERED_MAX, "registrations of one file");
        return vb_refuse(e, VB_LIMIT, "this file is registered %" PRIu32 " times already, as memory %" PRIu32,
                         m->registered, m->id);
    }
    m->registered++;
    m->present = now->present; /* at least what it was: just looked at, and full */
    return 0;
}

static int room(struct vb_model *m, struct vb_error *e) {
    int r = vb_table_reserve(&m->memories);

    if (r == -ENOSPC) {
        vb_error_limit(e, 1, m->memories.n, VB_MEMORIES_MAX, "memories of a session");
        return vb_refuse(e, VB_LIMIT, "a session registers at most %u memories; unregister one", VB_MEMORIES_MAX);
    }
    return r < 0 ? vb_fail(e, r, "memory table") : 0;
}

/* ---- software devices ----
 * They reserve no IOVAs, so a client can attach one to the iommufd backend's pool behind our back, where all registered
 * memory is (backend/iommufd-pool.c), and its driver in the kernel pins what it likes of it. So as long as somebody may have
 * one open, all of it is paid. */

static struct vb_range whole(const struct vb_memory *memory) {
    return (struct vb_range){0, memory->size - 1};
}

static int show(struct vb_model *m, struct vb_memory *memory, struct vb_error *e) {
    struct vb_cost cost;
    int r;

    r = vb_charge_add(&memory->charge, VB_BY_MAPPING, whole(memory), &cost);
    if (r < 0)
        return vb_fail(e, r, "extents of memory %" PRIu32, memory->id);
    r = vb_ledger_reserve(&m->ledger, cost, e);
    if (r != 0)
        vb_charge_sub(&memory->charge, VB_BY_MAPPING, whole(memory));
    return r;
}

static void hide(struct vb_model *m, uint32_t n) {
    while (n-- > 0) {
        struct vb_memory *memory = m->memories.items[n];

        vb_ledger_release(&m->ledger, vb_charge_sub(&memory->charge, VB_BY_MAPPING, whole(memory)));
    }
}

int vb_model_software_come(struct vb_model *m, struct vb_error *e) {
    int r = 0;

    for (uint32_t i = 0; m->software == 0 && i < m->memories.n && r == 0; i++) {
        r = show(m, m->memories.items[i], e);
        if (r != 0)
            hide(m, i);
    }
    if (r == 0)
        m->software++;
    return r;
}

void vb_model_software_gone(struct vb_model *m) {
    if (m->software && --m->software == 0)
        hide(m, m->memories.n);
}

/* ---- registering ---- */

static int open_memory(int fd_consumed, bool writable, uint64_t dma_buf_size, const char *name, struct vb_memory **ret,
                       struct vb_error *e) {
    if (dma_buf_size)
        return vb_memory_open_dma_buf(fd_consumed, writable, dma_buf_size, name, ret, e);
    return vb_memory_open(fd_consumed, writable, name, ret, e);
}

/* What is no dma-buf may wait when it is closed: it stays the caller's. */
static int discard(struct vb_memory *memory, int r) {
    if (memory->kind == VB_MEMORY_DMA_BUF)
        memory->fd = -1;
    vb_memory_free(memory);
    return r;
}

int vb_model_register(struct vb_model *m, int fd_consumed, bool writable, uint64_t dma_buf_size, const char *name,
                      struct vb_memory **ret_memory, struct vb_error *e) {
    struct vb_memory *memory, *other;
    int r;

    r = open_memory(fd_consumed, writable, dma_buf_size, name, &memory, e);
    if (r != 0)
        return r;
    other = same_file(m, memory);
    if (other) {
        r = again(other, memory, e);
        if (r == 0) {
            vb_memory_free(memory);
            *ret_memory = other;
            return 0;
        }
    } else if ((r = room(m, e)) == 0) {
        const struct vb_memory_desc d = {
            .fd = memory->fd, .size = memory->size, .writable = writable, .dma_buf = dma_buf_size != 0};

        memory->charge.each = !m->shared;
        r = m->backend->ops->memory_add(m->backend, &d, &memory->handle, e);
        if (r == 0 && m->software && (r = show(m, memory, e)) != 0)
            m->backend->ops->memory_remove(m->backend, memory->handle);
    }
    if (r != 0)
        return discard(memory, r);
    memory->registered = 1;
    vb_table_add(&m->memories, memory);
    *ret_memory = memory;
    return 0;
}

int vb_model_unregister(struct vb_model *m, uint32_t id, struct vb_error *e) {
    struct vb_memory *memory = vb_table_find(&m->memories, id);

    if (!memory)
        return vb_refuse(e, VB_NOT_FOUND, "no memory %" PRIu32, id);
    if (memory->registered > 1) {
        memory->registered--;
        return 0;
    }
    if (memory->mappings)
        return vb_refuse(e, VB_BUSY, "memory %" PRIu32 " has %" PRIu64 " mappings; unmap them first", id,
                         memory->mappings);
    m->backend->ops->memory_remove(m->backend, memory->handle);
    if (m->software)
        vb_ledger_release(&m->ledger, vb_charge_sub(&memory->charge, VB_BY_MAPPING, whole(memory)));
    vb_table_remove(&m->memories, id);
    vb_memory_free(memory);
    return 0;
}
