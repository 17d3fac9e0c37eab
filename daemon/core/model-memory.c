/* Registering and unregistering memory: see model.h. */
#include <errno.h>
#include <inttypes.h>

#include "core/model.h"
#include "proto/cleanup.h"

/* A file that is registered twice would be pinned, and would have to be paid, twice: each registration has a pool slot
 * and so a page set of its own in the kernel. Once read-only and once writable is a different matter: both are wanted. */
static struct vb_memory *same_file(struct vb_model *m, const struct vb_memory *memory) {
    uint32_t i;

    for (i = 0; i < m->memories.n; i++) {
        struct vb_memory *other = m->memories.items[i];

        if (other->dev == memory->dev && other->ino == memory->ino && other->writable == memory->writable)
            return other;
    }
    return NULL;
}

int vb_model_register(struct vb_model *m, int fd_consumed, bool writable, const char *name,
                      struct vb_memory **ret_memory, struct vb_error *e) {
    VB_FD int fd = fd_consumed;
    struct vb_memory *memory, *other;
    int r;

    r = vb_table_reserve(&m->memories);
    if (r == -ENOSPC) {
        vb_error_limit(e, 1, m->memories.n, VB_MEMORIES_MAX, "memories of a session");
        return vb_refuse(e, VB_LIMIT, "a session registers at most %u memories; unregister one", VB_MEMORIES_MAX);
    }
    if (r < 0)
        return vb_fail(e, r, "memory table");
    r = vb_memory_open(vb_steal_fd(&fd), writable, name, &memory, e);
    if (r != 0)
        return r;
    other = same_file(m, memory);
    if (other) {
        r = vb_refuse(e, VB_BUSY, "this file is registered already as memory %" PRIu32 "%s%s%s; use that one",
                      other->id, other->name[0] ? " (" : "", other->name, other->name[0] ? ")" : "");
    } else {
        const struct vb_memory_desc d = {.fd = memory->fd, .size = memory->size, .writable = writable};

        r = m->backend->ops->memory_add(m->backend, &d, &memory->handle, e);
    }
    if (r != 0) {
        vb_memory_free(memory);
        return r;
    }
    vb_table_add(&m->memories, memory);
    *ret_memory = memory;
    return 0;
}

int vb_model_unregister(struct vb_model *m, uint32_t id, struct vb_error *e) {
    struct vb_memory *memory = vb_table_find(&m->memories, id);

    if (!memory)
        return vb_refuse(e, VB_NOT_FOUND, "no memory %" PRIu32, id);
    if (memory->mappings)
        return vb_refuse(e, VB_BUSY, "memory %" PRIu32 " has %" PRIu64 " mappings; unmap them first", id,
                         memory->mappings);
    m->backend->ops->memory_remove(m->backend, memory->handle);
    vb_table_remove(&m->memories, id);
    vb_memory_free(memory);
    return 0;
}
