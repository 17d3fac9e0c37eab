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

        if (other->dev == memory->dev && other->ino == memory->ino && other->writable == memory->writable)
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

int vb_model_register(struct vb_model *m, int fd_consumed, bool writable, const char *name,
                      struct vb_memory **ret_memory, struct vb_error *e) {
    VB_FD int fd = fd_consumed;
    struct vb_memory *memory, *other;
    int r;

    r = vb_memory_open(vb_steal_fd(&fd), writable, name, &memory, e);
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
        const struct vb_memory_desc d = {.fd = memory->fd, .size = memory->size, .writable = writable};

        r = m->backend->ops->memory_add(m->backend, &d, &memory->handle, e);
    }
    if (r != 0) {
        vb_memory_free(memory);
        return r;
    }
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
    vb_table_remove(&m->memories, id);
    vb_memory_free(memory);
    return 0;
}
