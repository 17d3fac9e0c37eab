/* Domains and mappings of the emulated backend: see emulated.h. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/emulated-private.h"

static struct vb_emulated *emulated(struct vb_backend *b) {
    return (struct vb_emulated *)b;
}

int vb_emulated_domain_new(struct vb_emulated *em, vb_handle *ret, struct vb_error *e) {
    vb_handle i;

    for (i = 0; i < VB_EMULATED_DOMAINS && em->domains[i]; i++)
        ;
    if (i == VB_EMULATED_DOMAINS)
        return vb_refuse(e, VB_LIMIT, "no room for one more domain");
    em->domains[i] = calloc(1, sizeof(*em->domains[i]));
    if (!em->domains[i])
        return vb_fail(e, -ENOMEM, "domain");
    vb_emulated_info(em, em->domains[i]);
    *ret = i;
    return 0;
}

static void unused(struct vb_emulated *em, struct vb_emulated_domain *d) {
    vb_handle i;

    if (d->open || d->devices)
        return;
    for (i = 0; em->domains[i] != d; i++)
        ;
    vb_emulated_table_unmap(&d->table, &em->pool, (struct vb_range){0, UINT64_MAX});
    free(d);
    em->domains[i] = NULL;
}

vb_handle vb_emulated_domain_of(struct vb_backend *b, vb_handle device) {
    const struct vb_emulated *em = emulated(b);
    vb_handle i = 0;

    while (em->domains[i] != em->devices[device]->domain)
        i++;
    return i;
}

int vb_emulated_domain_open(struct vb_backend *b, vb_handle device, vb_handle *ret, struct vb_error *e) {
    struct vb_emulated *em = emulated(b);
    int r = vb_emulated_count(em, VB_EMULATED_DOMAIN_OPEN, e);
    vb_handle i = 0;

    if (r != 0)
        return r;
    if (em->knobs.containers) {
        i = vb_emulated_domain_of(b, device);
    } else {
        r = vb_emulated_domain_new(em, &i, e);
        if (r != 0)
            return r;
    }
    em->domains[i]->open = true;
    *ret = i;
    return 0;
}

void vb_emulated_domain_close(struct vb_backend *b, vb_handle domain) {
    struct vb_emulated *em = emulated(b);
    struct vb_emulated_domain *d = em->domains[domain];
    size_t i;

    vb_emulated_table_unmap(&d->table, &em->pool, (struct vb_range){0, UINT64_MAX});
    for (i = 0; i < VB_EMULATED_DEVICES && !em->knobs.containers; i++)
        if (em->devices[i] && em->devices[i]->domain == d)
            vb_emulated_leave(em, em->devices[i]);
    d->open = d->dirty = false;
    d->n_needs = 0;
    unused(em, d);
}

int vb_emulated_domain_info(struct vb_backend *b, vb_handle domain, struct vb_space_info *ret, struct vb_error *e) {
    int r = vb_emulated_count(emulated(b), VB_EMULATED_DOMAIN_INFO, e);

    if (r == 0)
        *ret = emulated(b)->domains[domain]->info;
    return r;
}

void vb_emulated_domain_text(struct vb_backend *b, vb_handle domain, char *buf, size_t size) {
    (void)b;
    snprintf(buf, size, "emulated %" PRIu64, domain);
}

/* Like IOMMU_IOAS_ALLOW_IOVAS: refused when a device that is there reserves any of them (drivers/iommu/iommufd/io_pagetable.c,
 * iopt_set_allow_iova). */
int vb_emulated_domain_need(struct vb_backend *b, vb_handle domain, const struct vb_range *ranges, size_t n,
                            struct vb_error *e) {
    struct vb_emulated_domain *d = emulated(b)->domains[domain];
    int r = vb_emulated_count(emulated(b), VB_EMULATED_DOMAIN_NEED, e);
    size_t i;
    uint32_t k;

    if (r != 0)
        return r;
    assert(n <= VB_NEEDS_MAX);
    for (i = 0; i < n; i++) {
        for (k = 0; k < d->info.n_usable && !vb_range_contains(d->info.usable[k], ranges[i]); k++)
            ;
        if (k == d->info.n_usable)
            return vb_refuse(e, VB_RESERVED, "a device reserves some of 0x%" PRIx64 "-0x%" PRIx64, ranges[i].first,
                             ranges[i].last);
    }
    d->n_needs = (uint32_t)n;
    if (n)
        memcpy(d->needs, ranges, n * sizeof(*ranges));
    return 0;
}

void vb_emulated_join(struct vb_emulated *em, struct vb_emulated_device *d, struct vb_emulated_domain *domain) {
    d->domain = domain;
    domain->devices++;
    vb_emulated_info(em, domain);
}

void vb_emulated_leave(struct vb_emulated *em, struct vb_emulated_device *d) {
    struct vb_emulated_domain *domain = d->domain;

    d->attached = false;
    if (!domain)
        return;
    d->domain = NULL;
    domain->devices--;
    vb_emulated_info(em, domain);
    unused(em, domain);
}

/* ---- mappings ---- */

static bool fits(const struct vb_space_info *info, const struct vb_backend_map *m, struct vb_range r) {
    const uint64_t mask = (info->page_sizes & -info->page_sizes) - 1;
    uint32_t i;

    for (i = 0; i < info->n_usable; i++)
        if (vb_range_contains(info->usable[i], r))
            return !((m->iova | m->size | m->offset) & mask);
    return false;
}

static int map_one(struct vb_emulated *em, struct vb_emulated_domain *d, const struct vb_backend_map *m,
                   struct vb_error *e) {
    const struct vb_range r = {m->iova, m->iova + (m->size - 1)};
    const struct vb_emulated_entry entry = {
        .iova = r, .offset = m->offset, .memory = (uint16_t)m->memory, .prot = (uint8_t)m->prot};
    int k = vb_emulated_count(em, VB_EMULATED_MAP, e);

    if (k != 0)
        return k;
    assert(em->memories[m->memory].fd >= 0 && m->offset + m->size <= em->memories[m->memory].size);
    if (!fits(&d->info, m, r))
        return vb_fail(e, -EINVAL, "mapping at 0x%" PRIx64, m->iova); /* as the kernel says */
    k = vb_emulated_table_map(&d->table, &em->pool, &entry);
    return k ? vb_fail(e, k, "mapping at 0x%" PRIx64, m->iova) : 0;
}

int vb_emulated_map(struct vb_backend *b, vb_handle domain, const struct vb_backend_map *maps, size_t n,
                    size_t *ret_done, struct vb_error *e) {
    struct vb_emulated *em = emulated(b);
    size_t i;
    int r;

    for (i = 0; i < n; i++) {
        r = map_one(em, em->domains[domain], &maps[i], e);
        if (r != 0) {
            *ret_done = i;
            return r;
        }
    }
    return 0;
}

int vb_emulated_unmap(struct vb_backend *b, vb_handle domain, const struct vb_range *ranges, size_t n, size_t *ret_done,
                      struct vb_error *e) {
    struct vb_emulated *em = emulated(b);
    size_t i;
    int r;

    for (i = 0; i < n; i++) {
        r = vb_emulated_count(em, VB_EMULATED_UNMAP, e);
        if (r == 0) {
            r = vb_emulated_table_unmap(&em->domains[domain]->table, &em->pool, ranges[i]);
            /* 0 to UINT64_MAX: any number of mappings, none too. */
            if (r == -ENOENT && ranges[i].first == 0 && ranges[i].last == UINT64_MAX)
                r = 0;
            if (r < 0)
                vb_fail(e, r, "unmapping 0x%" PRIx64 "-0x%" PRIx64, ranges[i].first, ranges[i].last);
        }
        if (r != 0) {
            *ret_done = i;
            return r;
        }
    }
    return 0;
}
