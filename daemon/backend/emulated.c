/* The emulated backend: memories, failures on purpose, and its life: see emulated.h. */
#include "backend/emulated.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "backend/emulated-private.h"

static const char *const call_names[VB_EMULATED_CALLS] = {
    [VB_EMULATED_ANY] = "any call",
    [VB_EMULATED_MEMORY_ADD] = "memory_add",
    [VB_EMULATED_DOMAIN_OPEN] = "domain_open",
    [VB_EMULATED_DOMAIN_INFO] = "domain_info",
    [VB_EMULATED_DOMAIN_NEED] = "domain_need",
    [VB_EMULATED_MAP] = "map",
    [VB_EMULATED_UNMAP] = "unmap",
    [VB_EMULATED_DIRTY_SET] = "dirty_set",
    [VB_EMULATED_DIRTY_READ] = "dirty_read",
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
    /* FEATURE_DOMAINS; FEATURE_SHARED_PINS: what is paid follows the same rule as on iommufd. */
    return emulated(b)->knobs.containers ? 64 : 64 | 2;
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
    for (i = 0; i < VB_EMULATED_DOMAINS; i++)
        if (em->domains[i])
            vb_emulated_domain_close(b, i);
    for (i = 0; i < VB_MEMORIES_MAX; i++)
        if (em->memories[i].fd >= 0)
            em_memory_remove(b, i);
    vb_emulated_pool_fini(&em->pool);
    free(em);
}

#define COMMON                                                                                                         \
    .name = "emulated", .close = em_close, .features = em_features, .memory_add = em_memory_add,                       \
    .memory_remove = em_memory_remove, .domain_open = vb_emulated_domain_open, .domain_of = vb_emulated_domain_of,     \
    .domain_close = vb_emulated_domain_close, .domain_info = vb_emulated_domain_info,                                  \
    .domain_text = vb_emulated_domain_text, .map = vb_emulated_map, .unmap = vb_emulated_unmap,                        \
    .dirty_set = vb_emulated_dirty_set, .dirty_read = vb_emulated_dirty_read, .device_open = vb_emulated_device_open,  \
    .device_bind = vb_emulated_device_bind, .device_attach = vb_emulated_device_attach,                                \
    .device_detach = vb_emulated_device_detach, .device_close = vb_emulated_device_close,                              \
    .in_use = vb_emulated_in_use, .device_fd = vb_emulated_device_fd, .device_ready = vb_emulated_device_ready,        \
    .tick = em_tick, .leftovers = em_leftovers, .devices_left = vb_emulated_devices_left

static const struct vb_backend_ops ops = {COMMON, .eager = true, .domain_need = vb_emulated_domain_need};
static const struct vb_backend_ops container_ops = {COMMON}; /* type1 has nothing like ALLOW_IOVAS either */

int vb_emulated_new(const struct vb_emulated_knobs *knobs, struct vb_backend **ret, struct vb_error *e) {
    struct vb_emulated *em = calloc(1, sizeof(*em));
    size_t i;

    if (!em)
        return vb_fail(e, -ENOMEM, "emulated backend");
    if (knobs)
        em->knobs = *knobs;
    em->backend.ops = em->knobs.containers ? &container_ops : &ops;
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
    struct vb_emulated_table *t = &emulated(b)->domains[domain]->table;
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

bool vb_emulated_reaches(struct vb_backend *b, vb_handle device, struct vb_range r) {
    struct vb_emulated_domain *d = emulated(b)->devices[device]->domain;
    struct vb_emulated_entry *p;
    uint64_t at = r.first;

    for (p = d ? vb_emulated_table_first(&d->table, r) : NULL; p && p->iova.first <= at;
         p = vb_emulated_table_next(p)) {
        if (p->iova.last >= r.last)
            return true;
        at = p->iova.last + 1;
    }
    return false;
}

bool vb_emulated_tracks(struct vb_backend *b, vb_handle domain) {
    return emulated(b)->domains[domain]->dirty;
}

size_t vb_emulated_objects(struct vb_backend *b) {
    struct vb_emulated *em = emulated(b);
    size_t i, n = 0;

    for (i = 0; i < VB_MEMORIES_MAX; i++)
        n += em->memories[i].fd >= 0;
    for (i = 0; i < VB_EMULATED_DOMAINS; i++)
        n += em->domains[i] && em->domains[i]->open;
    for (i = 0; i < VB_EMULATED_DEVICES; i++)
        n += em->devices[i] && !em->devices[i]->closed;
    return n;
}
