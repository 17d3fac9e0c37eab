#include "core/domain.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/model.h"
#include "proto/cleanup.h"

#define REPLAY_BATCH 256

static const struct vb_range everything = {0, UINT64_MAX};

bool vb_domain_fits(const struct vb_space_info *info, struct vb_range iova, uint64_t offset) {
    const uint64_t page = info->page_sizes & -info->page_sizes;

    if ((iova.first | (iova.last + 1) | offset) & (page - 1))
        return false;
    for (uint32_t i = 0; i < info->n_usable; i++)
        if (vb_range_contains(info->usable[i], iova))
            return true;
    return false;
}

uint32_t vb_domains_copies(const struct vb_model *m, const struct vb_space *s, struct vb_range iova, uint64_t offset) {
    const struct vb_domain *dom;
    uint32_t n = 0;

    if (m->shared)
        return 1;
    TAILQ_FOREACH (dom, &s->domains, entry)
        n += !dom->leaves_out || vb_domain_fits(&dom->info, iova, offset);
    return n ? n : 1;
}

/* Every mapping is in the only domain that there is: as if the backend had been called. */
static struct vb_domain *only(struct vb_space *s) {
    struct vb_domain *dom = TAILQ_FIRST(&s->domains);

    return dom && !dom->leaves_out && !TAILQ_NEXT(dom, entry) ? dom : NULL;
}

static bool has(const struct vb_domain *dom, struct vb_range iova, uint64_t offset) {
    return !dom->leaves_out || vb_domain_fits(&dom->info, iova, offset);
}

/* Whole batches, so that a backend can join neighbours. */
static int map_into(struct vb_model *m, struct vb_domain *dom, const struct vb_backend_map *maps, size_t n,
                    struct vb_backend_map *some, uint32_t *which, struct vb_error *e) {
    size_t i, k = 0, done = 0;
    int r;

    for (i = 0; i < n; i++)
        if (has(dom, (struct vb_range){maps[i].iova, maps[i].iova + (maps[i].size - 1)}, maps[i].offset)) {
            which[k] = (uint32_t)i;
            some[k++] = maps[i];
        }
    if (k == 0)
        return 0;
    r = m->backend->ops->map(m->backend, dom->handle, some, k, &done, e);
    if (r != 0)
        vb_error_entry(e, which[done]);
    return r;
}

static int map_all(struct vb_model *m, struct vb_space *s, const struct vb_backend_map *maps, size_t n,
                   struct vb_error *e) {
    VB_FREE struct vb_backend_map *some = malloc(n * sizeof(*some));
    VB_FREE uint32_t *which = malloc(n * sizeof(*which));
    struct vb_domain *dom;
    int r = 0;

    if (!some || !which)
        return vb_fail(e, -ENOMEM, "batch of %zu mappings", n);
    TAILQ_FOREACH (dom, &s->domains, entry)
        if ((r = map_into(m, dom, maps, n, some, which, e)) != 0)
            break;
    return r;
}

static int restore_one(struct vb_model *m, struct vb_space *s, const struct vb_backend_map *map, struct vb_error *e) {
    const struct vb_range iova = {map->iova, map->iova + (map->size - 1)};
    struct vb_domain *dom;
    size_t ignored;
    int r;

    TAILQ_FOREACH (dom, &s->domains, entry) {
        if (!has(dom, iova, map->offset))
            continue;
        r = m->backend->ops->map(m->backend, dom->handle, map, 1, &ignored, e);
        if (r != 0 && r != -EEXIST)
            return r;
    }
    return 0;
}

int vb_domains_map(struct vb_model *m, struct vb_space *s, const struct vb_backend_map *maps, size_t n, bool restoring,
                   size_t *ret_done, struct vb_error *e) {
    struct vb_domain *dom = only(s);
    size_t i;
    int r = 0;

    if (dom && !restoring)
        return m->backend->ops->map(m->backend, dom->handle, maps, n, ret_done, e);
    if (!restoring) {
        *ret_done = 0;
        return map_all(m, s, maps, n, e);
    }
    for (i = 0; i < n && r == 0; i++)
        r = restore_one(m, s, &maps[i], e);
    if (r != 0)
        *ret_done = i - 1;
    return r;
}

static int unmap_one(struct vb_model *m, struct vb_space *s, const struct vb_range *range, struct vb_error *e) {
    struct vb_domain *dom;
    size_t ignored;
    int r;

    TAILQ_FOREACH (dom, &s->domains, entry) {
        r = m->backend->ops->unmap(m->backend, dom->handle, range, 1, &ignored, e);
        if (r != 0 && r != -ENOENT) /* left out there */
            return r;
    }
    return 0;
}

int vb_domains_unmap(struct vb_model *m, struct vb_space *s, const struct vb_range *ranges, size_t n, size_t *ret_done,
                     struct vb_error *e) {
    struct vb_domain *dom = only(s);
    size_t i;
    int r = 0;

    if (dom)
        return m->backend->ops->unmap(m->backend, dom->handle, ranges, n, ret_done, e);
    for (i = 0; i < n && r == 0; i++)
        r = unmap_one(m, s, &ranges[i], e);
    if (r != 0)
        *ret_done = i - 1;
    return r;
}

void vb_domain_dirty_lost(struct vb_space *s, struct vb_domain *dom) {
    struct vb_mapping *p;

    for (p = vb_mapping_first(&s->tree, everything); p && dom->tracked; p = vb_mapping_next(p))
        p->written |= has(dom, p->iova, p->offset);
    dom->tracked = false;
}

void vb_domains_count(struct vb_space *s, const struct vb_mapping *mapping, bool there) {
    struct vb_domain *dom;

    TAILQ_FOREACH (dom, &s->domains, entry)
        if (!has(dom, mapping->iova, mapping->offset))
            dom->left_out += there ? 1 : -1;
}

/* ---- what can be used ---- */

static void intersect(struct vb_space_info *a, const struct vb_space_info *b) {
    struct vb_space_info both = {.page_sizes = a->page_sizes & b->page_sizes};
    uint32_t i = 0, k = 0;

    if (both.page_sizes == 0) /* nothing in common: the coarser of both alignments, which the kernel judges */
        both.page_sizes =
            (a->page_sizes & -a->page_sizes) > (b->page_sizes & -b->page_sizes) ? a->page_sizes : b->page_sizes;
    while (i < a->n_usable && k < b->n_usable && both.n_usable < VB_REGIONS_MAX) {
        const struct vb_range x = a->usable[i], y = b->usable[k];
        const struct vb_range r = {x.first > y.first ? x.first : y.first, x.last < y.last ? x.last : y.last};

        if (r.first <= r.last)
            both.usable[both.n_usable++] = r;
        if (x.last < y.last)
            i++;
        else
            k++;
    }
    *a = both;
}

int vb_domains_info(struct vb_model *m, struct vb_space *s, struct vb_error *e) {
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    struct vb_space_info sum = {.page_sizes = -page, .n_usable = 1, .usable[0] = {0, UINT64_MAX}};
    struct vb_domain *dom;
    int r;

    if (!s->info_stale)
        return 0;
    TAILQ_FOREACH (dom, &s->domains, entry) {
        if (dom->info_stale) {
            struct vb_space_info info;

            r = m->backend->ops->domain_info(m->backend, dom->handle, &info, e);
            if (r != 0)
                return r;
            if (dom->leaves_out) /* never wider than what it was filled by: what it has follows from this */
                intersect(&info, &dom->info);
            dom->info = info;
            dom->info_stale = false;
        }
        if (!dom->leaves_out)
            intersect(&sum, &dom->info);
    }
    s->info = sum;
    s->info_stale = false;
    return 0;
}

void vb_domain_changed(struct vb_space *s, struct vb_domain *dom) {
    dom->info_stale = s->info_stale = true;
}

/* ---- a domain by itself ---- */

int vb_domain_open(struct vb_model *m, vb_handle device, struct vb_domain **ret, struct vb_error *e) {
    struct vb_domain *dom = calloc(1, sizeof(*dom));
    int r;

    if (!dom)
        return vb_fail(e, -ENOMEM, "domain");
    dom->info_stale = true;
    r = m->backend->ops->domain_open(m->backend, device, &dom->handle, e);
    if (r != 0) {
        free(dom);
        return r;
    }
    *ret = dom;
    return 0;
}

struct vb_domain *vb_domain_find(struct vb_model *m, vb_handle handle, struct vb_space **ret_space) {
    struct vb_domain *dom;

    for (uint32_t i = 0; i < m->spaces.n; i++) {
        struct vb_space *s = m->spaces.items[i];

        TAILQ_FOREACH (dom, &s->domains, entry)
            if (dom->handle == handle) {
                *ret_space = s;
                return dom;
            }
    }
    return NULL;
}

void vb_domain_close(struct vb_model *m, struct vb_domain *dom) {
    if (!dom)
        return;
    m->backend->ops->domain_close(m->backend, dom->handle);
    free(dom);
}

struct replay {
    struct vb_model *m;
    struct vb_domain *dom;
    const struct vb_device *d;
    struct vb_backend_map batch[REPLAY_BATCH];
    size_t n;
    uint64_t mappings, bytes, total;
};

static int flush(struct replay *p, struct vb_error *e) {
    size_t done;
    int r;

    if (p->n == 0)
        return 0;
    r = p->m->backend->ops->map(p->m->backend, p->dom->handle, p->batch, p->n, &done, e);
    if (r != 0)
        return r;
    for (size_t i = 0; i < p->n; i++)
        p->bytes += p->batch[i].size;
    p->n = 0;
    if (p->m->progress)
        p->m->progress(p->m->progress_arg, p->d, p->bytes, p->total);
    return 0;
}

/* In pieces, so that progress can be told; an unmap of the whole takes them all. */
static int add(struct replay *p, const struct vb_mapping *mapping, struct vb_error *e) {
    const uint64_t size = vb_range_size(mapping->iova);
    uint64_t at, piece;
    int r = 0;

    for (at = 0; at < size && r == 0; at += piece) {
        piece = size - at < VB_REPLAY_CHUNK ? size - at : VB_REPLAY_CHUNK;
        p->batch[p->n++] = (struct vb_backend_map){.iova = mapping->iova.first + at,
                                                   .size = piece,
                                                   .memory = mapping->memory->handle,
                                                   .offset = mapping->offset + at,
                                                   .prot = mapping->prot};
        if (p->n == REPLAY_BATCH || piece == VB_REPLAY_CHUNK)
            r = flush(p, e);
    }
    return r;
}

int vb_domain_replay(struct vb_model *m, struct vb_space *s, struct vb_domain *dom, const struct vb_device *d,
                     uint64_t *ret_mappings, uint64_t *ret_bytes, struct vb_error *e) {
    struct replay *p = calloc(1, sizeof(*p));
    struct vb_mapping *mapping;
    uint64_t left_out = 0;
    size_t ignored;
    int r = 0;

    if (!p)
        return vb_fail(e, -ENOMEM, "replay of space %" PRIu32, s->id);
    p->m = m;
    p->dom = dom;
    p->d = d;
    p->total = s->mapped_bytes;
    for (mapping = vb_mapping_first(&s->tree, everything); mapping && r == 0; mapping = vb_mapping_next(mapping)) {
        if (mapping->pending)
            continue;
        if (!vb_domain_fits(&dom->info, mapping->iova, mapping->offset)) {
            left_out++;
            continue;
        }
        p->mappings++;
        r = add(p, mapping, e);
    }
    if (r == 0)
        r = flush(p, e);
    if (r == 0) {
        dom->left_out = left_out;
        *ret_mappings = p->mappings;
        *ret_bytes = p->bytes;
    } else {
        m->backend->ops->unmap(m->backend, dom->handle, &everything, 1, &ignored, NULL);
    }
    free(p);
    return r;
}
