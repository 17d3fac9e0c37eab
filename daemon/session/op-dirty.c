/* Dirty tracking: on and off, and reading into the client's bitmap (bitmap.h). Bits that were cleared in the kernel and did not
 * reach the bitmap would be lost: so that it can be written is seen before, and what a failing read has cleared is written
 * all the same. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "proto/cleanup.h"
#include "session/bitmap.h"
#include "session/pins.h"

int vb_op_dirty_set(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    const VfioBroker__DirtySet *q = rq->msg->dirty_set;
    VfioBroker__DirtySetReply *m = VB_NEW(s, VfioBroker__DirtySetReply, VFIO_BROKER__DIRTY_SET_REPLY__INIT, e);
    struct vb_dirty_info info = {.page_size = 0};

    if (!m)
        return e->code;
    int r = vb_model_dirty_set(s->model, q->space, q->on, &info, e);
    m->page_size = info.page_size;
    m->coarse = info.coarse;
    rq->reply.body_case = VFIO_BROKER__REPLY__BODY_DIRTY_SET;
    rq->reply.dirty_set = m;
    return r;
}

static int check(const VfioBroker__DirtyRead *q, struct vb_range *ret_range, struct vb_error *e) {
    if (!vb_range_from(q->iova, q->size, ret_range))
        return vb_refuse(e, VB_INVALID, "IOVA 0x%" PRIx64 " with size 0x%" PRIx64 " is no range", q->iova, q->size);
    if (q->page_size == 0 || (q->page_size & (q->page_size - 1)) != 0 || q->size % q->page_size != 0)
        return vb_refuse(e, VB_INVALID, "0x%" PRIx64 " bytes are no number of pages of %" PRIu64 " bytes", q->size,
                         q->page_size);
    if (q->size / q->page_size > VB_DIRTY_PAGES_MAX) {
        vb_error_limit(e, q->size / q->page_size, 0, VB_DIRTY_PAGES_MAX, "pages of one read");
        return vb_refuse(e, VB_LIMIT, "one read tells of at most %u pages, not of %" PRIu64 ": read it in parts",
                         VB_DIRTY_PAGES_MAX, q->size / q->page_size);
    }
    return 0;
}

/* Unmapping does not wait here as Unmap does: what is parked is a packet without its fd. */
static int check_unmap(struct vb_session *s, struct vb_space *space, struct vb_range range, struct vb_error *e) {
    const struct vb_pin *pin = vb_pin_overlapping(space, NULL, range);

    if (pin)
        return vb_refuse(e, VB_BUSY,
                         "0x%" PRIx64 "-0x%" PRIx64 " of space %" PRIu32 " is pinned (pin %" PRIu32
                         "); unmap it by Unmap, which waits for pinners, or have them unpin it",
                         pin->iova.first, pin->iova.last, space->id, pin->id);
    if (vb_park_covers(s, space, range))
        return vb_refuse(e, VB_BUSY,
                         "a request that came earlier waits for pins on 0x%" PRIx64 "-0x%" PRIx64 " of space %" PRIu32
                         "; wait for its answer first",
                         range.first, range.last, space->id);
    return 0;
}

/* The text of a read that failed is kept; should the bitmap not take what it has cleared, that is worse, and said instead. */
static int add(struct vb_bitmap *bitmap, const uint64_t *words, bool cleared, int r, uint64_t *ret_pages,
               struct vb_error *e) {
    struct vb_error why = {.code = 0};
    size_t length;
    int k;

    k = vb_bitmap_add(bitmap, words, ret_pages, &why);
    if (k == 0)
        return r;
    *e = why;
    length = strlen(e->text);
    if (cleared)
        snprintf(e->text + length, sizeof e->text - length,
                 "; what was read was cleared before: take all of the range for dirty");
    return k;
}

static int read_dirty(struct vb_session *s, const VfioBroker__DirtyRead *q, struct vb_range range,
                      struct vb_bitmap *bitmap, VfioBroker__DirtyReadReply *m, struct vb_error *e) {
    const struct vb_unmap_entry entry = {q->iova, q->size};
    const bool keep = q->keep || q->unmap; /* until it is unmapped nothing is lost */
    VB_FREE uint64_t *words = calloc(1, bitmap->size);

    if (!words)
        return vb_fail(e, -ENOMEM, "a bitmap of %" PRIu64 " pages", bitmap->bits);
    int r = vb_model_dirty_read(s->model, q->space, range, q->page_size, keep, words, e);
    r = add(bitmap, words, !keep, r, &m->pages, e);
    if (r == 0 && q->unmap)
        r = vb_model_unmap(s->model, q->space, &entry, 1, &m->mappings, &m->bytes, e);
    return r;
}

int vb_op_dirty_read(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    const VfioBroker__DirtyRead *q = rq->msg->dirty_read;
    VfioBroker__DirtyReadReply *m = VB_NEW(s, VfioBroker__DirtyReadReply, VFIO_BROKER__DIRTY_READ_REPLY__INIT, e);
    struct vb_space *space = vb_model_space(s->model, q->space, e);
    struct vb_bitmap bitmap;
    struct vb_range range;

    if (!m || !space)
        return e->code;
    if (!space->dirty)
        return vb_refuse(e, VB_STATE, "dirty tracking of space %" PRIu32 " is off; begin it by vfb_dirty_start()",
                         space->id);
    int r = check(q, &range, e);
    if (r == 0 && q->unmap)
        r = check_unmap(s, space, range, e);
    if (r == 0)
        r = vb_bitmap_open(&bitmap, rq->fd, q->bitmap_offset, q->size / q->page_size, e);
    if (r != 0)
        return r;
    r = read_dirty(s, q, range, &bitmap, m, e);
    vb_bitmap_close(&bitmap);
    rq->reply.body_case = VFIO_BROKER__REPLY__BODY_DIRTY_READ;
    rq->reply.dirty_read = m;
    return r;
}
