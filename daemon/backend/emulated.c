/* Memories, spaces and mappings of the emulated backend: see emulated.h. */
#include "backend/emulated.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "backend/emulated-private.h"

#define PAGE_SIZES    (~(uint64_t)4095) /* 4 KiB upwards */
#define APERTURE_LAST (((uint64_t)1 << 48) - 1)

const struct vb_range vb_emulated_msi = {0xfee00000, 0xfeefffff};

static const char *const call_names[VB_EMULATED_CALLS] = {
    [VB_EMULATED_ANY] = "any call",
    [VB_EMULATED_MEMORY_ADD] = "memory_add",
    [VB_EMULATED_DOMAIN_OPEN] = "domain_open",
    [VB_EMULATED_DOMAIN_INFO] = "domain_info",
    [VB_EMULATED_MAP] = "map",
    [VB_EMULATED_UNMAP] = "unmap",
    [VB_EMULATED_DEVICE_OPEN] = "device_open",
    [VB_EMULATED_DEVICE_BIND] = "device_bind",
    [VB_EMULATED_DEVICE_ATTACH] = "device_attach",
    [VB_EMULATED_DEVICE_DETACH] = "device_detach",
};

static int fault(struct vb_emulated_fault *f, const char *name, struct vb_error *e) {
    f->calls++;
    if (!f->nth || (f->onwards ? f->calls < f->nth : f->calls != f->nth))
        return 0;
    if (f->error > 0)
        return vb_refuse(e, (enum vb_code)f->error, "%s fails on purpose", name);
    return vb_fail(e, f->error, "%s fails on purpose", name);
}

int vb_emulated_count(struct vb_emulated *em, enum vb_emulated_call call, struct vb_error *e) {
    int r = fault(&em->knobs.fault[VB_EMULATED_ANY], call_names[call], e);

    return r ? r : fault(&em->knobs.fault[call], call_names[call], e);
}

static struct vb_emulated *emulated(struct vb_backend *b) {
    return (struct vb_emulated *)b;
}

static uint64_t em_features(struct vb_backend *b) {
    (void)b;
    return 2; /* FEATURE_SHARED_PINS: what is paid follows the same rule as on iommufd */
}

/* ---- memory ---- */

static int em_memory_add(struct vb_backend *b, const struct vb_memory_desc *d, vb_handle *ret, struct vb_error *e) {
    struct vb_emulated *em = emulated(b);
    int r = vb_emulated_count(em, VB_EMULATED_MEMORY_ADD, e);
    vb_handle i;
    int fd;

    if (r != 0)
        return r;
    for (i = 0; i < VB_MEMORIES_MAX && em->memories[i].fd >= 0; i++)
        ;
    if (i == VB_MEMORIES_MAX)
        return vb_refuse(e, VB_LIMIT, "no slot is free for one more memory");
    fd = fcntl(d->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return vb_fail(e, -errno, "fd of the memory");
    em->memories[i] = (struct vb_emulated_memory){.fd = fd, .size = d->size};
    *ret = i;
    return 0;
}

static void em_memory_remove(struct vb_backend *b, vb_handle memory) {
    struct vb_emulated_memory *m = &emulated(b)->memories[memory];

    close(m->fd);
    m->fd = -1;
}

/* ---- spaces ---- */

static int em_domain_open(struct vb_backend *b, vb_handle device, vb_handle *ret, struct vb_error *e) {
    struct vb_emulated *em = emulated(b);
    int r = vb_emulated_count(em, VB_EMULATED_DOMAIN_OPEN, e);
    vb_handle i;

    (void)device;
    if (r != 0)
        return r;
    for (i = 0; i < VB_SPACES_MAX && em->spaces[i]; i++)
        ;
    if (i == VB_SPACES_MAX)
        return vb_refuse(e, VB_LIMIT, "no room for one more space");
    em->spaces[i] = calloc(1, sizeof(*em->spaces[i]));
    if (!em->spaces[i])
        return vb_fail(e, -ENOMEM, "space");
    *ret = i;
    return 0;
}

static void em_domain_close(struct vb_backend *b, vb_handle domain) {
    struct vb_emulated *em = emulated(b);
    size_t i;

    vb_emulated_table_unmap(&em->spaces[domain]->table, &em->pool, (struct vb_range){0, UINT64_MAX});
    for (i = 0; i < VB_EMULATED_DEVICES; i++)
        if (em->devices[i] && em->devices[i]->space == em->spaces[domain])
            em->devices[i]->space = NULL;
    free(em->spaces[domain]);
    em->spaces[domain] = NULL;
}

static int em_domain_info(struct vb_backend *b, vb_handle domain, struct vb_space_info *ret, struct vb_error *e) {
    struct vb_emulated *em = emulated(b);
    int r = vb_emulated_count(em, VB_EMULATED_DOMAIN_INFO, e);

    if (r != 0)
        return r;
    *ret = (struct vb_space_info){.page_sizes = PAGE_SIZES, .n_usable = 1, .usable[0] = {0, APERTURE_LAST}};
    if (em->spaces[domain]->devices) {
        ret->n_usable = 2;
        ret->usable[0].last = vb_emulated_msi.first - 1;
        ret->usable[1] = (struct vb_range){vb_emulated_msi.last + 1, APERTURE_LAST};
    }
    return 0;
}

static void em_domain_text(struct vb_backend *b, vb_handle domain, char *buf, size_t size) {
    (void)b;
    snprintf(buf, size, "emulated %" PRIu64, space);
}

/* ---- mappings ---- */

static int map_one(struct vb_emulated *em, struct vb_emulated_space *s, const struct vb_backend_map *m,
                   struct vb_error *e) {
    const struct vb_range r = {m->iova, m->iova + (m->size - 1)};
    const struct vb_emulated_entry entry = {
        .iova = r, .offset = m->offset, .memory = (uint16_t)m->memory, .prot = (uint8_t)m->prot};
    int k = vb_emulated_count(em, VB_EMULATED_MAP, e);

    if (k != 0)
        return k;
    assert(em->memories[m->memory].fd >= 0 && m->offset + m->size <= em->memories[m->memory].size);
    if (r.last > APERTURE_LAST || (s->devices && vb_range_overlaps(r, vb_emulated_msi)) || (m->iova | m->size) % 4096)
        return vb_fail(e, -EINVAL, "mapping at 0x%" PRIx64, m->iova); /* as the kernel says */
    k = vb_emulated_table_map(&s->table, &em->pool, &entry);
    return k ? vb_fail(e, k, "mapping at 0x%" PRIx64, m->iova) : 0;
}

static int em_map(struct vb_backend *b, vb_handle domain, const struct vb_backend_map *maps, size_t n, size_t *ret_done,
                  struct vb_error *e) {
    struct vb_emulated *em = emulated(b);
    size_t i;
    int r;

    for (i = 0; i < n; i++) {
        r = map_one(em, em->spaces[domain], &maps[i], e);
        if (r != 0) {
            *ret_done = i;
            return r;
        }
    }
    return 0;
}

static int em_unmap(struct vb_backend *b, vb_handle domain, const struct vb_range *ranges, size_t n, size_t *ret_done,
                    struct vb_error *e) {
    struct vb_emulated *em = emulated(b);
    size_t i;
    int r;

    for (i = 0; i < n; i++) {
        r = vb_emulated_count(em, VB_EMULATED_UNMAP, e);
        if (r == 0) {
            r = vb_emulated_table_unmap(&em->spaces[domain]->table, &em->pool, ranges[i]);
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

/* ---- housekeeping ---- */

static void em_tick(struct vb_backend *b) {
    (void)b;
}

static uint32_t em_leftovers(struct vb_backend *b) {
    (void)b;
    return 0; /* nothing refuses to be destroyed here */
}

static void em_close(struct vb_backend *b) {
    struct vb_emulated *em = emulated(b);
    vb_handle i;

    for (i = 0; i < VB_EMULATED_DEVICES; i++)
        if (em->devices[i])
            vb_emulated_device_free(em, i);
    for (i = 0; i < VB_SPACES_MAX; i++)
        if (em->spaces[i])
            em_domain_close(b, i);
    for (i = 0; i < VB_MEMORIES_MAX; i++)
        if (em->memories[i].fd >= 0)
            em_memory_remove(b, i);
    vb_emulated_pool_fini(&em->pool);
    free(em);
}

static const struct vb_backend_ops ops = {
    .name = "emulated",
    .eager = true,
    .close = em_close,
    .features = em_features,
    .memory_add = em_memory_add,
    .memory_remove = em_memory_remove,
    .domain_open = em_domain_open,
    .domain_close = em_domain_close,
    .domain_info = em_domain_info,
    .domain_text = em_domain_text,
    .map = em_map,
    .unmap = em_unmap,
    .device_open = vb_emulated_device_open,
    .device_bind = vb_emulated_device_bind,
    .device_attach = vb_emulated_device_attach,
    .device_detach = vb_emulated_device_detach,
    .device_close = vb_emulated_device_close,
    .in_use = vb_emulated_in_use,
    .device_fd = vb_emulated_device_fd,
    .device_ready = vb_emulated_device_ready,
    .tick = em_tick,
    .leftovers = em_leftovers,
    .take_over = NULL,
    .devices_left = vb_emulated_devices_left,
};

int vb_emulated_new(const struct vb_emulated_knobs *knobs, struct vb_backend **ret, struct vb_error *e) {
    struct vb_emulated *em = calloc(1, sizeof(*em));
    size_t i;

    if (!em)
        return vb_fail(e, -ENOMEM, "emulated backend");
    em->backend.ops = &ops;
    if (knobs)
        em->knobs = *knobs;
    for (i = 0; i < VB_MEMORIES_MAX; i++)
        em->memories[i].fd = -1;
    *ret = &em->backend;
    return 0;
}

/* ---- for tests ---- */

struct vb_emulated_knobs *vb_emulated_knobs(struct vb_backend *b) {
    return &emulated(b)->knobs;
}

size_t vb_emulated_dump(struct vb_backend *b, vb_handle domain, struct vb_backend_map *maps, size_t max) {
    struct vb_emulated_table *t = &emulated(b)->spaces[domain]->table;
    struct vb_emulated_entry *p;
    size_t n = 0;

    for (p = vb_emulated_table_first(t, (struct vb_range){0, UINT64_MAX}); p; p = vb_emulated_table_next(p), n++)
        if (n < max)
            maps[n] = (struct vb_backend_map){.iova = p->iova.first,
                                              .size = vb_range_size(p->iova),
                                              .memory = p->memory,
                                              .offset = p->offset,
                                              .prot = p->prot};
    return n;
}

size_t vb_emulated_objects(struct vb_backend *b) {
    struct vb_emulated *em = emulated(b);
    size_t i, n = 0;

    for (i = 0; i < VB_MEMORIES_MAX; i++)
        n += em->memories[i].fd >= 0;
    for (i = 0; i < VB_SPACES_MAX; i++)
        n += em->spaces[i] != NULL;
    for (i = 0; i < VB_EMULATED_DEVICES; i++)
        n += em->devices[i] && !em->devices[i]->closed;
    return n;
}
