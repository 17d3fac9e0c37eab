/* Spaces: see model.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/model.h"

struct vb_space *vb_model_space(struct vb_model *m, uint32_t id, struct vb_error *e) {
    struct vb_space *s = vb_table_find(&m->spaces, id);

    if (!s)
        vb_refuse(e, VB_NOT_FOUND, "no space %" PRIu32, id);
    return s;
}

int vb_model_space_refresh(struct vb_model *m, struct vb_space *s, struct vb_error *e) {
    struct vb_space_info info;
    int r;

    r = m->backend->ops->space_info(m->backend, s->handle, &info, e);
    if (r != 0)
        return r;
    s->info = info;
    s->info_stale = false;
    return 0;
}

int vb_model_space_create(struct vb_model *m, const char *name, struct vb_space **ret_space, struct vb_error *e) {
    struct vb_space *s;
    int r;

    r = vb_table_reserve(&m->spaces);
    if (r == -ENOSPC) {
        vb_error_limit(e, 1, m->spaces.n, VB_SPACES_MAX, "spaces of a session");
        return vb_refuse(e, VB_LIMIT, "a session has at most %u spaces; destroy one", VB_SPACES_MAX);
    }
    if (r < 0)
        return vb_fail(e, r, "space table");
    s = calloc(1, sizeof(*s));
    if (!s)
        return vb_fail(e, -ENOMEM, "space");
    TAILQ_INIT(&s->pins);
    snprintf(s->name, sizeof(s->name), "%s", name ? name : "");
    r = m->backend->ops->space_add(m->backend, &s->handle, e);
    if (r == 0) {
        r = vb_model_space_refresh(m, s, e);
        if (r != 0)
            m->backend->ops->space_remove(m->backend, s->handle);
    }
    if (r != 0) {
        free(s);
        return r;
    }
    vb_table_add(&m->spaces, s);
    *ret_space = s;
    return 0;
}

int vb_model_space_destroy(struct vb_model *m, uint32_t id, struct vb_error *e) {
    struct vb_space *s = vb_model_space(m, id, e);
    uint64_t mappings, bytes;
    int r;

    if (!s)
        return VB_NOT_FOUND;
    if (s->devices) {
        const char *address = "";
        uint32_t i;

        for (i = 0; i < m->devices.n; i++) {
            struct vb_device *d = m->devices.items[i];

            if (d->space == s)
                address = d->address;
        }
        return vb_refuse(e, VB_BUSY, "space %" PRIu32 " has %" PRIu32 " attached devices (%s%s); detach them first", id,
                         s->devices, address, s->devices > 1 ? " and others" : "");
    }
    /* Emptied by a call that may fail, while there still is a model to go back to and a ledger that is charged. */
    r = vb_model_unmap_all(m, id, &mappings, &bytes, e);
    if (r != 0)
        return r;
    m->backend->ops->space_remove(m->backend, s->handle);
    vb_table_remove(&m->spaces, id);
    free(s);
    return 0;
}
