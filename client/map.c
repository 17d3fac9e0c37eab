/* Mapping and unmapping, in batches. Entries are built in the client's own arrays: no allocation for each. */
#include "config.h"

#include "client/client-private.h"

int vbc_check_batch(struct vfb_client *c, const void *entries, size_t n) {
    int r = vbc_check_connected(c);

    if (r != 0)
        return r;
    if (n == 0 || !entries)
        return vbc_fail(c, VFB_INVALID, "the batch is empty");
    if (n > c->info.batch_max)
        return vbc_fail(c, VFB_INVALID, "the batch has %zu entries, and this broker takes %u: split it", n,
                        c->info.batch_max);
    return 0;
}

static void build_map(struct vfb_client *c, VfioBroker__Map *m, uint32_t space, const struct vfb_map *entries,
                      size_t n) {
    m->space = space;
    m->n_entries = n;
    m->entries = (VfioBroker__MapEntry **)c->entry_ptrs;
    for (size_t i = 0; i < n; i++) {
        VfioBroker__MapEntry *e = &c->entries[i].map;

        vfio_broker__map_entry__init(e);
        e->iova = entries[i].iova;
        e->size = entries[i].size;
        e->offset = entries[i].offset;
        e->memory = entries[i].memory;
        e->prot = entries[i].prot;
    }
}

VfioBroker__UnmapEntry **vbc_unmap_entries(struct vfb_client *c, const struct vfb_unmap *entries, size_t n) {
    for (size_t i = 0; i < n; i++) {
        VfioBroker__UnmapEntry *e = &c->entries[i].unmap;

        vfio_broker__unmap_entry__init(e);
        e->iova = entries[i].iova;
        e->size = entries[i].size;
    }
    return (VfioBroker__UnmapEntry **)c->entry_ptrs;
}

static int take_bytes(struct vbc_call *call, const VfioBroker__Reply *reply, struct vb_packet *p) {
    (void)p;
    if (call->out)
        *(uint64_t *)call->out = reply->unmap->bytes;
    return 0;
}

/* `how` is NULL: wait for the reply. */
struct how {
    vfb_done_fn done;
    void *arg;
};

static int map(struct vfb_client *c, uint32_t space, const struct vfb_map *entries, size_t n, const struct how *how) {
    VfioBroker__Map m = VFIO_BROKER__MAP__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;
    int r = vbc_check_batch(c, entries, n);

    if (r != 0)
        return r;
    build_map(c, &m, space, entries, n);
    req.body_case = VFIO_BROKER__REQUEST__BODY_MAP;
    req.map = &m;
    return how ? vbc_async(c, &req, VFIO_BROKER__REPLY__BODY_DONE, how->done, how->arg)
               : vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_DONE, NULL, NULL, 0);
}

static int unmap(struct vfb_client *c, uint32_t space, const struct vfb_unmap *entries, size_t n, uint64_t *ret_bytes,
                 const struct how *how) {
    VfioBroker__Unmap m = VFIO_BROKER__UNMAP__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;
    int r = vbc_check_batch(c, entries, n);

    if (r != 0)
        return r;
    m.space = space;
    m.n_entries = n;
    m.entries = vbc_unmap_entries(c, entries, n);
    req.body_case = VFIO_BROKER__REQUEST__BODY_UNMAP;
    req.unmap = &m;
    return how ? vbc_async(c, &req, VFIO_BROKER__REPLY__BODY_UNMAP, how->done, how->arg)
               : vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_UNMAP, take_bytes, ret_bytes, 0);
}

int vfb_map(struct vfb_client *c, uint32_t space, const struct vfb_map *entries, size_t n) {
    return map(c, space, entries, n, NULL);
}

int vfb_map_async(struct vfb_client *c, uint32_t space, const struct vfb_map *entries, size_t n, vfb_done_fn done,
                  void *arg) {
    return map(c, space, entries, n, &(struct how){done, arg});
}

int vfb_unmap(struct vfb_client *c, uint32_t space, const struct vfb_unmap *entries, size_t n, uint64_t *ret_bytes) {
    return unmap(c, space, entries, n, ret_bytes, NULL);
}

int vfb_unmap_async(struct vfb_client *c, uint32_t space, const struct vfb_unmap *entries, size_t n, vfb_done_fn done,
                    void *arg) {
    return unmap(c, space, entries, n, NULL, &(struct how){done, arg});
}

int vfb_unmap_all(struct vfb_client *c, uint32_t space, uint64_t *ret_bytes) {
    VfioBroker__Unmap m = VFIO_BROKER__UNMAP__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;

    m.space = space;
    m.all = 1;
    req.body_case = VFIO_BROKER__REQUEST__BODY_UNMAP;
    req.unmap = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_UNMAP, take_bytes, ret_bytes, 0);
}
