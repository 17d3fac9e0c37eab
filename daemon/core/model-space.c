/* Spaces: see model.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/conflict.h"
#include "core/model.h"

struct vb_space *vb_model_space(struct vb_model *m, uint32_t id, struct vb_error *e) {
    struct vb_space *s = vb_table_find(&m->spaces, id);

    if (!s)
        vb_refuse(e, VB_NOT_FOUND, "no space %" PRIu32, id);
    return s;
}

int vb_model_space_refresh(struct vb_model *m, struct vb_space *s, struct vb_error *e) {
    struct vb_domain *dom;

    s->info_stale = true;
    TAILQ_FOREACH (dom, &s->domains, entry)
        dom->info_stale = true;
    return vb_domains_info(m, s, e);
}

/* An eager backend's first. */
static int first_domain(struct vb_model *m, struct vb_space *s, struct vb_error *e) {
    struct vb_domain *dom;
    int r;

    if (!m->backend->ops->eager)
        return 0;
    r = vb_domain_open(m, VB_NO_HANDLE, &dom, e);
    if (r == 0)
        TAILQ_INSERT_HEAD(&s->domains, dom, entry);
    return r;
}

static void close_domains(struct vb_model *m, struct vb_space *s) {
    struct vb_domain *dom;

    while ((dom = TAILQ_FIRST(&s->domains))) {
        TAILQ_REMOVE(&s->domains, dom, entry);
        vb_domain_close(m, dom);
    }
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
    TAILQ_INIT(&s->domains);
    s->info_stale = true;
    snprintf(s->name, sizeof(s->name), "%s", name ? name : "");
    r = first_domain(m, s, e);
    if (r == 0)
        r = vb_domains_info(m, s, e);
    if (r != 0) {
        close_domains(m, s);
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
    close_domains(m, s);
    vb_table_remove(&m->spaces, id);
    free(s);
    return 0;
}

int vb_model_space_need(struct vb_model *m, uint32_t id, const struct vb_range *ranges, size_t n, struct vb_error *e) {
    struct vb_space *s = vb_model_space(m, id, e);
    const struct vb_backend_ops *ops = m->backend->ops;
    struct vb_space wants;
    struct vb_domain *dom;
    int r;

    if (!s)
        return VB_NOT_FOUND;
    if (n > VB_NEEDS_MAX)
        return vb_refuse(e, VB_LIMIT, "a space needs at most %u ranges, not %zu: join them", VB_NEEDS_MAX, n);
    wants.id = id;
    wants.n_needs = (uint32_t)n;
    for (size_t i = 0; i < n; i++) {
        if (ranges[i].first > ranges[i].last)
            return vb_refuse(e, VB_INVALID, "0x%" PRIx64 "-0x%" PRIx64 " is no range", ranges[i].first, ranges[i].last);
        for (size_t k = 0; k < i; k++)
            if (vb_range_overlaps(ranges[i], ranges[k]))
                return vb_refuse(e, VB_INVALID, "0x%" PRIx64 "-0x%" PRIx64 " overlaps another range of the request",
                                 ranges[i].first, ranges[i].last);
        wants.needs[i] = ranges[i];
    }
    r = vb_domains_info(m, s, e);
    for (uint32_t i = 0; r == 0 && i < m->devices.n; i++) {
        const struct vb_device *d = m->devices.items[i];

        if (d->space == s && !d->domain->leaves_out)
            r = vb_conflict_needs(e, &wants, d, &d->domain->info);
    }
    if (r != 0)
        return r;
    TAILQ_FOREACH (dom, &s->domains, entry) {
        if (!ops->domain_need || dom->leaves_out)
            continue;
        r = ops->domain_need(m->backend, dom->handle, ranges, n, e);
        if (r != 0) { /* as they were: what was accepted before is accepted again */
            while ((dom = TAILQ_PREV(dom, vb_domain_list, entry)))
                if (!dom->leaves_out)
                    ops->domain_need(m->backend, dom->handle, s->needs, s->n_needs, NULL);
            return r;
        }
    }
    s->n_needs = (uint32_t)n;
    for (size_t i = 0; i < n; i++)
        s->needs[i] = ranges[i];
    return 0;
}
