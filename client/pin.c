/* Pins: asking for them, and what their reply has to be before anything of it is believed. */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "client/client-private.h"
#include "proto/cleanup.h"

_Static_assert(VFB_PIN_SEGMENTS == VB_PIN_SEGMENTS, "the header's bound is the wire's");

/* ---- the reply ------------------------------------------------------------------------------------------------- */

struct pinning {
    struct vbc_access *access;
    uint32_t id; /* of the access */
    const struct vfb_pin_range *ranges;
    size_t n;
    struct vfb_pin *pins; /* n of them; not the caller's, who gets all or nothing */
};

/* -1: this access has not been sent it. */
static int find_fd(const struct vbc_access *a, size_t n_files, uint32_t memory) {
    for (size_t i = 0; i < n_files; i++)
        if (a->files[i].memory == memory)
            return a->files[i].fd;
    return -1;
}

/* Lays the memories that came behind those that are there; they count only once the whole reply is good. */
static int lay_files(struct vbc_call *call, struct vbc_access *a, const VfioBroker__PinReply *m,
                     const struct vb_packet *p) {
    if (m->n_memories != p->n_fds)
        return vbc_error_set(call->error, VFB_PROTOCOL, "the broker's pins name %zu memories and came with %u fds",
                             m->n_memories, p->n_fds);
    if (m->n_memories > VB_MEMORIES_MAX - a->n_files)
        return vbc_error_set(call->error, VFB_PROTOCOL, "access %u has more than %u memories", a->id, VB_MEMORIES_MAX);
    for (size_t i = 0; i < m->n_memories; i++) {
        if (find_fd(a, a->n_files + i, m->memories[i]) >= 0)
            return vbc_error_set(call->error, VFB_PROTOCOL, "the broker sent the fd of memory %u for access %u twice",
                                 m->memories[i], a->id);
        a->files[a->n_files + i] = (struct vbc_file){.memory = m->memories[i], .fd = p->fds[i]};
    }
    return 0;
}

static int take_segments(struct vbc_call *call, const struct vbc_access *a, size_t n_files, const VfioBroker__Pinned *m,
                         const struct vfb_pin_range *range, struct vfb_pin *pin) {
    uint64_t done = 0; /* bytes of the range */

    if (m->n_segments > VFB_PIN_SEGMENTS)
        return vbc_error_set(call->error, VFB_PROTOCOL, "the broker's pin %u has %zu segments", m->pin, m->n_segments);
    *pin = (struct vfb_pin){.id = m->pin, .n_segments = (uint32_t)m->n_segments};
    for (size_t i = 0; i < m->n_segments; i++) {
        const VfioBroker__PinSegment *s = m->segments[i];
        int fd = find_fd(a, n_files, s->memory);

        if (fd < 0)
            return vbc_error_set(call->error, VFB_PROTOCOL, "the broker's pin %u names memory %u, which never came",
                                 m->pin, s->memory);
        /* No range is larger than its last byte's address, so the sum does not overflow. */
        if (s->iova != range->iova + done || s->size == 0 || s->size > range->size - done ||
            s->offset > (uint64_t)INT64_MAX - s->size)
            break;
        pin->segments[i] = (struct vfb_segment){.iova = s->iova, .size = s->size, .offset = s->offset, .fd = fd};
        done += s->size;
        if (i + 1 == m->n_segments && done == range->size)
            return 0;
    }
    return vbc_error_set(call->error, VFB_PROTOCOL,
                         "the segments of the broker's pin %u are not the 0x%" PRIx64 " bytes at 0x%" PRIx64, m->pin,
                         range->size, range->iova);
}

static int take_pins(struct vbc_call *call, const VfioBroker__Reply *reply, struct vb_packet *p) {
    const VfioBroker__PinReply *m = reply->pin;
    struct pinning *w = call->out;
    struct vbc_access *a = w->access;
    size_t n_files = a->n_files + m->n_memories;
    int r;

    if (a->ended) /* closed by a handler meanwhile: what came for it goes back */
        return vbc_error_set(call->error, VFB_NOT_FOUND, "access %u was closed while it pinned", w->id);
    if (m->n_pins != w->n)
        return vbc_error_set(call->error, VFB_PROTOCOL, "the broker made %zu pins instead of %zu", m->n_pins, w->n);
    r = lay_files(call, a, m, p);
    for (size_t i = 0; r == 0 && i < w->n; i++)
        r = take_segments(call, a, n_files, m->pins[i], &w->ranges[i], &w->pins[i]);
    if (r != 0)
        return r;
    for (unsigned i = 0; i < p->n_fds; i++)
        vb_packet_steal_fd(p, i);
    a->n_files = n_files;
    return 0;
}

/* ---- the calls ------------------------------------------------------------------------------------------------- */

static int check_batch(struct vfb_client *c, const void *entries, size_t n) {
    int r = vbc_check_connected(c);

    if (r != 0)
        return r;
    if (n == 0 || !entries)
        return vbc_fail(c, VFB_INVALID, "the batch is empty");
    if (n > VB_PIN_BATCH)
        return vbc_fail(c, VFB_INVALID, "the batch has %zu entries, and at most %u can be pinned or unpinned at once",
                        n, VB_PIN_BATCH);
    return 0;
}

static int pin(struct vfb_client *c, struct pinning *w) {
    VfioBroker__Pin m = VFIO_BROKER__PIN__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;

    m.access = w->id;
    m.n_entries = w->n;
    m.entries = (VfioBroker__PinEntry **)c->entry_ptrs;
    for (size_t i = 0; i < w->n; i++) {
        VfioBroker__PinEntry *e = &c->entries[i].pin;

        vfio_broker__pin_entry__init(e);
        e->iova = w->ranges[i].iova;
        e->size = w->ranges[i].size;
        e->prot = w->ranges[i].prot;
    }
    req.body_case = VFIO_BROKER__REQUEST__BODY_PIN;
    req.pin = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_PIN, take_pins, w, VBC_FDS_BY_TAKE);
}

int vfb_pin(struct vfb_client *c, uint32_t access, const struct vfb_pin_range *ranges, size_t n,
            struct vfb_pin *ret_pins) {
    struct pinning w = {.id = access, .ranges = ranges, .n = n};
    VB_FREE struct vfb_pin *pins = NULL;
    int r = check_batch(c, ranges, n);

    if (r != 0)
        return r;
    w.access = vbc_access_find(c, access);
    if (!w.access)
        return vbc_fail(c, VFB_NOT_FOUND, "there is no access %u (any more)", access);
    w.pins = pins = malloc(n * sizeof *pins);
    if (!pins)
        return vbc_fail(c, -ENOMEM, "no memory for %zu pins", n);
    w.access->users++;
    r = pin(c, &w);
    /* Only if a handler made calls between the reply and here: the fds are closed, and their numbers may be others'. */
    if (r == 0 && w.access->ended)
        r = vbc_fail(c, VFB_NOT_FOUND, "access %u ended while it pinned, and its pins with it", access);
    if (r == 0)
        memcpy(ret_pins, pins, n * sizeof *pins);
    vbc_access_unuse(w.access);
    return r;
}

static void build_unpin(VfioBroker__Unpin *m, VfioBroker__Request *req, uint32_t access, const uint32_t *pins,
                        size_t n) {
    m->access = access;
    m->n_pins = n;
    m->pins = (uint32_t *)pins;
    req->body_case = VFIO_BROKER__REQUEST__BODY_UNPIN;
    req->unpin = m;
}

int vfb_unpin(struct vfb_client *c, uint32_t access, const uint32_t *pins, size_t n) {
    VfioBroker__Unpin m = VFIO_BROKER__UNPIN__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;
    int r = check_batch(c, pins, n);

    if (r != 0)
        return r;
    build_unpin(&m, &req, access, pins, n);
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_DONE, NULL, NULL, 0);
}

int vfb_unpin_async(struct vfb_client *c, uint32_t access, const uint32_t *pins, size_t n, vfb_done_fn done,
                    void *arg) {
    VfioBroker__Unpin m = VFIO_BROKER__UNPIN__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;
    int r = check_batch(c, pins, n);

    if (r != 0)
        return r;
    build_unpin(&m, &req, access, pins, n);
    return vbc_async(c, &req, VFIO_BROKER__REPLY__BODY_DONE, done, arg);
}
