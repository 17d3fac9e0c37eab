/* Dirty tracking: what devices have written. The broker ORs bits into a memfd of ours, and we OR them into the caller's words
 * when the request has ended, whatever its result: bits that were cleared before it failed must not be lost.
 *
 * A request has at most VB_DIRTY_PAGES_MAX pages and may cut no mapping. Where mappings are is the broker's to know: a larger
 * range is cut blindly, and when that hits a mapping, the conflict that comes with VFB_INVALID says where it begins.
 *
 * A handler may read as well while a call waits, so a call takes the client's bitmap away, and a call inside it makes one of
 * its own. */
#include "config.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/client-private.h"
#include "client/populate.h"

/* Cuts of one request that are tried: each is nearer, and the first is right unless mappings are smaller than a page. */
#define CUTS_MAX 64u

#define BITMAP __attribute__((cleanup(vbc_bitmap_fini)))

/* ---- the bitmap ------------------------------------------------------------------------------------------------ */

void vbc_bitmap_fini(struct vbc_bitmap *b) {
    if (b->words)
        munmap(b->words, b->size);
    if (b->fd >= 0)
        close(b->fd);
    *b = (struct vbc_bitmap){.fd = -1};
}

/* What there is of it is not used again: the next call begins anew. */
static int fail(struct vfb_client *c, struct vbc_bitmap *b, int e, size_t size) {
    vbc_bitmap_fini(b);
    return vbc_fail(c, -e, "cannot make a bitmap of %zu bytes: %s", size, strerror(e));
}

/* Room for so many bytes, every page there: the broker refuses holes, which it would have to pay for. */
static int grow(struct vfb_client *c, struct vbc_bitmap *b, size_t size) {
    void *words;
    int r;

    if (b->fd < 0) {
        b->fd = memfd_create("vfio-broker dirty bitmap", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (b->fd < 0 || fcntl(b->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
            return fail(c, b, errno, size);
    }
    if (ftruncate(b->fd, (off_t)size) < 0)
        return fail(c, b, errno, size);
    r = vbc_populate(c, b->fd, true);
    if (r != 0) {
        vbc_bitmap_fini(b);
        return r;
    }
    words = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, b->fd, 0);
    if (words == MAP_FAILED)
        return fail(c, b, errno, size);
    if (b->words)
        munmap(b->words, b->size);
    b->words = words;
    b->size = size;
    return 0;
}

/* Room for so many bits, all 0. */
static int prepare(struct vfb_client *c, struct vbc_bitmap *b, uint64_t bits) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), need = (size_t)((bits + 63) / 64 * 8);
    const size_t size = (need + page - 1) / page * page;
    int r = size > b->size ? grow(c, b, size) : 0;

    if (r == 0)
        memset(b->words, 0, need);
    return r;
}

/* Bits 0 to n - 1 of the bitmap, as the wire has them, into `to` from bit `at`; no word without such a bit is touched. Returns
 * how many are set. Each word is read once, since the broker could still be writing. */
static uint64_t merge(uint64_t *to, uint64_t at, const uint64_t *from, uint64_t n) {
    uint64_t found = 0;

    for (uint64_t i = 0; i < n; i += 64) {
        uint64_t w = le64toh(__atomic_load_n(&from[i / 64], __ATOMIC_RELAXED));
        uint64_t *word = &to[(at + i) / 64];
        unsigned shift = (unsigned)((at + i) % 64);

        if (n - i < 64)
            w &= (1ull << (n - i)) - 1;
        if (!w)
            continue;
        found += (unsigned)__builtin_popcountll(w);
        word[0] |= w << shift;
        if (shift && w >> (64 - shift))
            word[1] |= w >> (64 - shift);
    }
    return found;
}

/* ---- on and off ------------------------------------------------------------------------------------------------ */

static int take_info(struct vbc_call *call, const VfioBroker__Reply *reply, struct vb_packet *p) {
    const VfioBroker__DirtySetReply *m = reply->dirty_set;
    struct vfb_dirty_info *info = call->out;
    (void)p;

    if (!info)
        return 0;
    if (m->page_size == 0 || (m->page_size & (m->page_size - 1))) /* callers divide by it */
        return vbc_error_set(call->error, VFB_PROTOCOL, "the broker tells dirty pages of %" PRIu64 " bytes apart",
                             m->page_size);
    *info = (struct vfb_dirty_info){.page_size = m->page_size, .coarse = m->coarse};
    return 0;
}

static int set(struct vfb_client *c, uint32_t space, bool on, struct vfb_dirty_info *ret_info) {
    VfioBroker__DirtySet m = VFIO_BROKER__DIRTY_SET__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;
    int r = vbc_check_feature(c, VFB_FEATURE_DOMAINS, "dirty tracking");

    if (r != 0)
        return r;
    m.space = space;
    m.on = on;
    req.body_case = VFIO_BROKER__REQUEST__BODY_DIRTY_SET;
    req.dirty_set = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_DIRTY_SET, take_info, ret_info, 0);
}

int vfb_dirty_start(struct vfb_client *c, uint32_t space, struct vfb_dirty_info *ret_info) {
    return set(c, space, true, ret_info);
}

int vfb_dirty_stop(struct vfb_client *c, uint32_t space) {
    return set(c, space, false, NULL);
}

/* ---- reading --------------------------------------------------------------------------------------------------- */

struct reading {
    uint32_t space;
    unsigned flags;
    uint64_t iova, page_size, pages; /* all of it */
    uint64_t *to;                    /* the caller's */
    uint64_t found;
};

/* Pages `at` to at + n - 1, by one request. */
static int read_part(struct vfb_client *c, struct reading *d, struct vbc_bitmap *b, uint64_t at, uint64_t n) {
    VfioBroker__DirtyRead m = VFIO_BROKER__DIRTY_READ__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;
    int r = prepare(c, b, n);

    if (r != 0)
        return r;
    m.space = d->space;
    m.iova = d->iova + at * d->page_size;
    m.size = n * d->page_size;
    m.page_size = d->page_size;
    m.keep = (d->flags & VFB_DIRTY_KEEP) != 0;
    m.unmap = (d->flags & VFB_DIRTY_UNMAP) != 0;
    req.body_case = VFIO_BROKER__REQUEST__BODY_DIRTY_READ;
    req.dirty_read = &m;
    r = vbc_blocking(c, &req, b->fd, VFIO_BROKER__REPLY__BODY_DIRTY_READ, NULL, NULL, 0);
    d->found += merge(d->to, at, b->words, n);
    return r;
}

/* How many pages from `at` on there are before the mapping that c->error says was cut at its end; 0: it was not that. */
static uint64_t pages_before_cut(const struct vfb_client *c, const struct reading *d, uint64_t at, uint64_t n) {
    const struct vbc_error *e = &c->error;
    uint64_t first = d->iova + at * d->page_size, last = first + n * d->page_size - 1;

    for (size_t i = 0; i < e->pub.n_conflicts; i++) {
        const struct vfb_conflict *k = &e->conflicts[i];

        if (k->with_first > first && k->with_first <= last && k->with_last > last)
            return (k->with_first - first) / d->page_size;
    }
    return 0;
}

/* The mapping that begins at `at` has more pages than a request. */
static int fail_large(struct vfb_client *c, const struct reading *d, uint64_t at) {
    const struct vbc_error *e = &c->error;
    uint64_t first = d->iova + at * d->page_size, last, page = d->page_size;

    if (e->pub.n_conflicts == 0 || e->conflicts[0].with_first != first || e->conflicts[0].with_last <= first ||
        (e->conflicts[0].with_last - first) / page < VB_DIRTY_PAGES_MAX)
        return e->pub.code; /* something else, and said by the broker: it is not made of such pages */
    last = e->conflicts[0].with_last;
    while (page && (last - first) / page >= VB_DIRTY_PAGES_MAX)
        page *= 2;
    return vbc_fail(c, VFB_INVALID,
                    "the mapping 0x%" PRIx64 " to 0x%" PRIx64 " has more than %u pages of %" PRIu64
                    " bytes: read it with a page_size of %" PRIu64 " or more, or map it in pieces",
                    first, last, VB_DIRTY_PAGES_MAX, d->page_size, page);
}

/* As much as one request can have from `at` on; *ret_n pages. */
static int read_some(struct vfb_client *c, struct reading *d, struct vbc_bitmap *b, uint64_t at, uint64_t *ret_n) {
    const uint64_t left = d->pages - at;
    uint64_t n = left < VB_DIRTY_PAGES_MAX ? left : VB_DIRTY_PAGES_MAX;
    int r = VFB_INVALID;

    for (unsigned cuts = 0; cuts < CUTS_MAX; cuts++) {
        r = read_part(c, d, b, at, n);
        *ret_n = n;
        if (r != VFB_INVALID || left <= VB_DIRTY_PAGES_MAX)
            return r;
        uint64_t before = pages_before_cut(c, d, at, n);
        if (before == 0)
            return fail_large(c, d, at);
        n = before;
    }
    return r;
}

/* With VFB_DIRTY_UNMAP, parts without a mapping are VFB_NOT_FOUND; all of it is only if all parts are. */
static int read_all(struct vfb_client *c, struct reading *d, struct vbc_bitmap *b) {
    bool any = false;
    uint64_t n;
    int r = 0;

    for (uint64_t at = 0; at < d->pages; at += n) {
        r = read_some(c, d, b, at, &n);
        if (r != 0 && !(r == VFB_NOT_FOUND && (d->flags & VFB_DIRTY_UNMAP)))
            return r;
        any |= r == 0;
    }
    return any ? 0 : r;
}

static int check(struct vfb_client *c, uint64_t iova, uint64_t size, uint64_t page_size, unsigned flags,
                 const uint64_t *bitmap) {
    int r = vbc_check_feature(c, VFB_FEATURE_DOMAINS, "dirty tracking");

    if (r != 0)
        return r;
    if (flags & ~(unsigned)(VFB_DIRTY_KEEP | VFB_DIRTY_UNMAP))
        return vbc_fail(c, VFB_INVALID, "unknown flags 0x%x", flags);
    if (!bitmap)
        return vbc_fail(c, VFB_INVALID, "there is no bitmap to read into");
    if (page_size == 0 || (page_size & (page_size - 1)))
        return vbc_fail(c, VFB_INVALID, "a page_size of %" PRIu64 " is no power of two", page_size);
    if (size == 0 || iova % page_size || size % page_size)
        return vbc_fail(c, VFB_INVALID,
                        "iova 0x%" PRIx64 " and size 0x%" PRIx64 " have to be multiples of page_size %" PRIu64
                        ", and the size not 0",
                        iova, size, page_size);
    if (iova + (size - 1) < iova)
        return vbc_fail(c, VFB_INVALID, "size 0x%" PRIx64 " from iova 0x%" PRIx64 " on ends behind 2^64", size, iova);
    return 0;
}

int vfb_dirty_read(struct vfb_client *c, uint32_t space, uint64_t iova, uint64_t size, uint64_t page_size,
                   unsigned flags, uint64_t *bitmap, uint64_t *ret_pages) {
    BITMAP struct vbc_bitmap mine = {.fd = -1};
    struct reading d = {.space = space, .flags = flags, .iova = iova, .page_size = page_size, .to = bitmap};
    int r = check(c, iova, size, page_size, flags, bitmap);

    if (r != 0)
        return r;
    d.pages = size / page_size;
    mine = c->bitmap;
    c->bitmap = (struct vbc_bitmap){.fd = -1};
    r = read_all(c, &d, &mine);
    if (c->bitmap.fd < 0) { /* else a handler has left one */
        c->bitmap = mine;
        mine = (struct vbc_bitmap){.fd = -1};
    }
    if (r == 0 && ret_pages)
        *ret_pages = d.found;
    return r;
}
