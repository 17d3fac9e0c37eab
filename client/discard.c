/* Discard: taking mappings away while the caller punches holes into their memory, for balloons and virtio-mem. Two requests
 * with the caller's function in between; the broker keeps the ranges taken and paid meanwhile. Once the first has succeeded
 * the second is always made, so that nothing stays taken. */
#include "config.h"

#include "client/client-private.h"

/* Unmapped, and kept for us. */
static int begin(struct vfb_client *c, uint32_t space, const struct vfb_unmap *entries, size_t n) {
    VfioBroker__Discard m = VFIO_BROKER__DISCARD__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;

    m.space = space;
    m.n_entries = n;
    m.entries = vbc_unmap_entries(c, entries, n);
    req.body_case = VFIO_BROKER__REQUEST__BODY_DISCARD;
    req.discard = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_UNMAP, NULL, NULL, 0);
}

/* Mapped again, or forgotten. */
static int end(struct vfb_client *c, uint32_t space, bool forget) {
    VfioBroker__DiscardEnd m = VFIO_BROKER__DISCARD_END__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;

    m.space = space;
    m.forget = forget;
    req.body_case = VFIO_BROKER__REQUEST__BODY_DISCARD_END;
    req.discard_end = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_DONE, NULL, NULL, 0);
}

static int discard(struct vfb_client *c, uint32_t space, const struct vfb_unmap *entries, size_t n, vfb_punch_fn punch,
                   void *arg) {
    int punched, r = begin(c, space, entries, n);

    if (r != 0)
        return r;
    punched = punch(arg);
    r = end(c, space, punched != 0);
    if (r != 0 || punched == 0)
        return r;
    return vbc_fail(c, punched, "the caller's punch returned %d: the mappings of %zu ranges of space %u are gone",
                    punched, n, space);
}

int vfb_discard(struct vfb_client *c, uint32_t space, const struct vfb_unmap *entries, size_t n, vfb_punch_fn punch,
                void *arg) {
    int r = vbc_check_feature(c, VFB_FEATURE_DOMAINS, "a discard");

    if (r == 0)
        r = vbc_check_batch(c, entries, n);
    if (r == 0 && !punch)
        r = vbc_fail(c, VFB_INVALID, "a discard needs a function that punches");
    if (r == 0 && c->discarding)
        r = vbc_fail(c, VFB_STATE, "a discard is under way on this client: one at a time");
    if (r != 0)
        return r;
    c->discarding = true;
    r = discard(c, space, entries, n, punch, arg);
    c->discarding = false;
    return r;
}
