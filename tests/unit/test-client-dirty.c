/* libvfio-broker's dirty tracking: a scripted broker has a model of mappings and of what is dirty, checks each request against
 * the rules of the wire, and writes bits as a session does. The result is compared bit by bit. */
#include "config.h"

#include "client/client-private.h"
#include "fake-broker.h"

#define PAGE 4096ull

/* ---- each call that makes a bitmap can fail --------------------------------------------------------------------- */

static int countdown; /* calls until one fails; 0: none does */
static bool failed;

static bool fails_now(void) {
    if (countdown == 0 || --countdown > 0)
        return false;
    failed = true;
    errno = ENOMEM;
    return true;
}

int __real_memfd_create(const char *name, unsigned flags);
int __wrap_memfd_create(const char *name, unsigned flags);
int __real_ftruncate(int fd, off_t size);
int __wrap_ftruncate(int fd, off_t size);
int __real_fcntl(int fd, int what, long arg);
int __wrap_fcntl(int fd, int what, long arg);
void *__real_mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset);
int __real_madvise(void *at, size_t size, int advice);
int __wrap_madvise(void *at, size_t size, int advice);

int __wrap_memfd_create(const char *name, unsigned flags) {
    return fails_now() ? -1 : __real_memfd_create(name, flags);
}
int __wrap_ftruncate(int fd, off_t size) {
    return fails_now() ? -1 : __real_ftruncate(fd, size);
}
int __wrap_fcntl(int fd, int what, long arg) {
    return fails_now() ? -1 : __real_fcntl(fd, what, arg);
}
void *__wrap_mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset) {
    return fails_now() ? MAP_FAILED : __real_mmap(at, size, prot, flags, fd, offset);
}
int __wrap_madvise(void *at, size_t size, int advice) {
    return fails_now() ? -1 : __real_madvise(at, size, advice);
}

/* ---- the broker ------------------------------------------------------------------------------------------------- */

/* Page n of the space is dirty. Any pattern without a period that a mistake could share. */
static bool dirty(uint64_t n) {
    return (n * 0x9e3779b97f4a7c15ull >> 40) % 5 == 0;
}

/* Sets bits as a session does: what is there stays. The bitmap has to be populated. */
static void write_bits(int fd, uint64_t first_page, uint64_t n) {
    static uint8_t bits[VB_DIRTY_PAGES_MAX / 8];
    const off_t size = (off_t)((n + 7) / 8);
    struct stat st;
    CHECK(fstat(fd, &st) == 0 && st.st_size >= size && st.st_size % 8 == 0);
    CHECK(lseek(fd, 0, SEEK_HOLE) >= size);
    CHECK(pread(fd, bits, (size_t)size, 0) == size);
    for (uint64_t i = 0; i < n; i++) {
        CHECK(!(bits[i / 8] & 1 << i % 8)); /* the library begins with zeros */
        if (dirty(first_page + i))
            bits[i / 8] |= (uint8_t)(1 << i % 8);
    }
    for (uint64_t i = n; i % 8; i++) /* a hostile one writes more than was asked for */
        bits[i / 8] |= (uint8_t)(1 << i % 8);
    CHECK(pwrite(fd, bits, (size_t)size, 0) == size);
}

static VfioBroker__Request *expect_read(int s, struct vb_packet *p) {
    VfioBroker__Request *req = get_fds(s, p);
    CHECK(req && req->body_case == VFIO_BROKER__REQUEST__BODY_DIRTY_READ && p->n_fds == 1);
    const VfioBroker__DirtyRead *m = req->dirty_read;
    CHECK(m->space == 3 && m->size && m->size % m->page_size == 0 && m->iova % m->page_size == 0);
    CHECK(m->size / m->page_size <= VB_DIRTY_PAGES_MAX && m->bitmap_offset % 8 == 0);
    CHECK(fcntl(p->fds[0], F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_SEAL));
    return req;
}

static void put_read(int s, uint64_t id) {
    REPLY(m, DIRTY_READ, dirty_read, DirtyReadReply, DIRTY_READ_REPLY);
    m.id = id;
    put(s, &m);
}

static void put_cut(int s, uint64_t id, uint64_t first, uint64_t last, uint64_t with_first, uint64_t with_last) {
    VfioBroker__Conflict k = VFIO_BROKER__CONFLICT__INIT, *ks = &k;
    REPLY(e, ERROR, error, Error, ERROR);
    k.first = first;
    k.last = last;
    k.with_first = with_first;
    k.with_last = with_last;
    k.kind = "mapping";
    e.id = id;
    e_body.code = (VfioBroker__ErrorCode)VFB_INVALID;
    e_body.text = "the range cuts a mapping";
    e_body.n_conflicts = 1;
    e_body.conflicts = &ks;
    put(s, &e);
}

/* Mappings of the space, in pages. */
struct span {
    uint64_t first, n;
};

/* Answers reads of pages of `page` bytes until the client is gone. */
static unsigned serve(int s, uint64_t page, const struct span *maps, size_t n_maps) {
    VfioBroker__Request *req;
    unsigned requests = 0;
    for (;; requests++) {
        struct vb_packet p = VB_PACKET_INIT;
        struct pollfd poll_for = {.fd = s, .events = POLLIN};
        char byte;
        CHECK(poll(&poll_for, 1, -1) == 1);
        if (recv(s, &byte, 1, MSG_PEEK) <= 0)
            return requests;
        req = expect_read(s, &p);
        uint64_t iova = req->dirty_read->iova, last = iova + (req->dirty_read->size - 1);
        const struct span *cut = NULL;
        bool any = false;
        CHECK(req->dirty_read->page_size == page);
        for (size_t i = 0; i < n_maps; i++) {
            uint64_t first = maps[i].first * PAGE, end = first + (maps[i].n * PAGE - 1);
            any |= first <= last && end >= iova;
            if (!cut && ((first < iova && end >= iova) || (first <= last && end > last)))
                cut = &maps[i];
        }
        if (cut) {
            put_cut(s, req->id, iova, last, cut->first * PAGE, (cut->first + cut->n) * PAGE - 1);
        } else if (!any && req->dirty_read->unmap) {
            put_error(s, req->id, VFB_NOT_FOUND, "nothing is mapped there");
        } else {
            write_bits(p.fds[0], iova / page, req->dirty_read->size / page);
            put_read(s, req->id);
        }
        vb_packet_close(&p);
    }
}

/* ---- bits ------------------------------------------------------------------------------------------------------- */

static uint64_t *words;
#define WORDS (3 * VB_DIRTY_PAGES_MAX / 64 + 2)

/* words[] has exactly the bits of `n` pages from `first` on, and the background elsewhere. */
static uint64_t check_bits(uint64_t first, uint64_t n, uint64_t background) {
    uint64_t count = 0;
    for (uint64_t i = 0; i < (n + 63) / 64 + 1; i++) {
        uint64_t want = background;
        for (uint64_t k = 0; k < 64 && i * 64 + k < n; k++)
            if (dirty(first + i * 64 + k)) {
                want |= 1ull << k;
                count++;
            }
        if (words[i] != want)
            fail_msg("word %llu is %llx, not %llx", (unsigned long long)i, (unsigned long long)words[i],
                     (unsigned long long)want);
    }
    return count;
}

static void script_simple(int s, int i) {
    (void)i;
    greet(s);
    serve(s, PAGE, NULL, 0);
}

/* Sizes around words and bytes; what is set stays set, the rest of the last word too, and words behind are not touched. */
static void test_bits(void **state) {
    static const uint64_t sizes[] = {1, 7, 8, 9, 63, 64, 65, 127, 1000, 32768, 32769, 300000};
    (void)state;
    start(script_simple, 1);
    struct vfb_client *c = connected();
    assert_int_equal(c->bitmap.fd, -1);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint64_t pages = 77, n = sizes[i];
        memset(words, 0, WORDS * 8);
        assert_int_equal(vfb_dirty_read(c, 3, 100 * PAGE, n * PAGE, PAGE, 0, words, &pages), 0);
        assert_int_equal(pages, check_bits(100, n, 0));
        for (uint64_t k = 0; k < (n + 63) / 64 + 1; k++)
            words[k] |= 0x8000100000000001ull;
        assert_int_equal(vfb_dirty_read(c, 3, 100 * PAGE, n * PAGE, PAGE, VFB_DIRTY_KEEP, words, NULL), 0);
        check_bits(100, n, 0x8000100000000001ull);
    }
    /* one memfd for all of it, as large as it had to be */
    assert_true(c->bitmap.fd >= 0);
    assert_int_equal(c->bitmap.size, 40960);
    /* the end of the address space */
    memset(words, 0, WORDS * 8);
    assert_int_equal(vfb_dirty_read(c, 3, UINT64_MAX - 2 * PAGE + 1, 2 * PAGE, PAGE, 0, words, NULL), 0);
    check_bits((UINT64_MAX - 2 * PAGE + 1) / PAGE, 2, 0);
    vfb_client_free(c);
    stop();
}

/* ---- more than a request ------------------------------------------------------------------------------------------ */

#define MAX (uint64_t) VB_DIRTY_PAGES_MAX
/* The border of the first request cuts the second mapping, that of the second one the fourth. All begin at no multiple of
 * 64 pages from the first, and between the third and fourth there is a hole. */
static const struct span maps[] = {{1, 4999}, {5000, MAX - 3000}, {MAX + 2000, 3}, {MAX + 2100, MAX - 2000}};
#define N_MAPS (sizeof maps / sizeof *maps)
#define LAST   (maps[3].first + maps[3].n - 1) /* page */

static void script_split(int s, int i) {
    greet(s);
    unsigned n = serve(s, PAGE, maps, i == 1 ? 0 : N_MAPS);
    CHECK(n == (i == 1 ? 3 + 3 : 5));
}

static void test_split(void **state) {
    uint64_t pages;
    (void)state;
    start(script_split, 3);
    for (int i = 0; i < 2; i++) {
        struct vfb_client *c = connected();
        memset(words, 0, WORDS * 8);
        assert_int_equal(vfb_dirty_read(c, 3, 1 * PAGE, LAST * PAGE, PAGE, 0, words, &pages), 0);
        assert_int_equal(pages, check_bits(1, LAST, 0));
        assert_int_equal(c->bitmap.size, VB_DIRTY_PAGES_MAX / 8);
        if (i == 1) /* no mappings, no borders: two full requests and one page */
            assert_int_equal(vfb_dirty_read(c, 3, 0, (2 * MAX + 1) * PAGE, PAGE, 0, words, &pages), 0);
        vfb_client_free(c);
    }
    /* with unmap the requests are the same */
    struct vfb_client *c = connected();
    memset(words, 0, WORDS * 8);
    assert_int_equal(vfb_dirty_read(c, 3, 1 * PAGE, LAST * PAGE, PAGE, VFB_DIRTY_UNMAP, words, &pages), 0);
    vfb_client_free(c);
    stop();
}

static void script_holes(int s, int i) {
    static const struct span far[] = {{2 * MAX + 100, 5}};
    (void)i;
    greet(s);
    serve(s, PAGE, far, 1);
}

static void test_holes(void **state) {
    uint64_t pages = 77;
    (void)state;
    start(script_holes, 1);
    struct vfb_client *c = connected();
    memset(words, 0, WORDS * 8);
    assert_int_equal(vfb_dirty_read(c, 3, 0, (2 * MAX + 200) * PAGE, PAGE, VFB_DIRTY_UNMAP, words, &pages), 0);
    assert_int_equal(vfb_dirty_read(c, 3, 0, (MAX + 200) * PAGE, PAGE, VFB_DIRTY_UNMAP, words, &pages), VFB_NOT_FOUND);
    assert_int_equal(vfb_dirty_read(c, 3, 0, PAGE, PAGE, VFB_DIRTY_UNMAP, words, &pages), VFB_NOT_FOUND);
    assert_int_equal(vfb_dirty_read(c, 3, 0, (MAX + 200) * PAGE, PAGE, 0, words, &pages), 0);
    vfb_client_free(c);
    stop();
}

/* 0: one mapping that is larger than a request. 1: the range begins inside a mapping. 2: mappings smaller than a page. */
static void script_large(int s, int i) {
    static const struct span large[] = {{0, 8}, {8, 4 * MAX}};
    static const struct span small[] = {{MAX * 2 - 1, 2}, {MAX * 2 + 1, 100}};
    greet(s);
    if (i < 2)
        serve(s, PAGE, large, 2);
    else
        serve(s, 2 * PAGE, small, 2);
}

static void test_large(void **state) {
    (void)state;
    start(script_large, 3);
    struct vfb_client *c = connected();
    memset(words, 0, WORDS * 8);
    assert_int_equal(vfb_dirty_read(c, 3, 0, (4 * MAX + 8) * PAGE, PAGE, 0, words, NULL), VFB_INVALID);
    assert_non_null(
        strstr(vfb_error(c)->text, "the mapping 0x8000 to 0x4000007fff has more than 16777216 pages of 4096"));
    assert_non_null(strstr(vfb_error(c)->text, "page_size of 16384 or more"));
    check_bits(0, 8, 0); /* what came before it */
    vfb_client_free(c);

    c = connected();
    assert_int_equal(vfb_dirty_read(c, 3, 9 * PAGE, 2 * MAX * PAGE, PAGE, 0, words, NULL), VFB_INVALID);
    assert_string_equal(vfb_error(c)->text, "the range cuts a mapping");
    vfb_client_free(c);

    c = connected(); /* the border moves back twice, to a whole page before both */
    memset(words, 0, WORDS * 8);
    assert_int_equal(vfb_dirty_read(c, 3, 0, (MAX * 2 + 102) * PAGE, 2 * PAGE, 0, words, NULL), 0);
    check_bits(0, MAX + 51, 0);
    vfb_client_free(c);
    stop();
}

/* A broker that says for ever that it has to be less. */
static void script_shrink(int s, int i) {
    (void)i;
    greet(s);
    for (uint64_t n = MAX, k = 0; k < 64; k++) {
        struct vb_packet p = VB_PACKET_INIT;
        VfioBroker__Request *req = expect_read(s, &p);
        vb_packet_close(&p);
        CHECK(req->dirty_read->size == n * PAGE);
        n--;
        put_cut(s, req->id, 0, n * PAGE, n * PAGE, UINT64_MAX);
    }
    CHECK(!get(s));
}

static void test_shrink(void **state) {
    (void)state;
    start(script_shrink, 1);
    struct vfb_client *c = connected();
    assert_int_equal(vfb_dirty_read(c, 3, 0, 2 * MAX * PAGE, PAGE, 0, words, NULL), VFB_INVALID);
    assert_string_equal(vfb_error(c)->text, "the range cuts a mapping");
    vfb_client_free(c);
    stop();
}

/* ---- failures ----------------------------------------------------------------------------------------------------- */

/* Whatever a request ends with, bits that it wrote are there. */
static void script_fail(int s, int i) {
    struct vb_packet p = VB_PACKET_INIT;
    greet(s);
    VfioBroker__Request *req = expect_read(s, &p);
    uint64_t id = req->id;
    CHECK(!req->dirty_read->keep && req->dirty_read->unmap);
    write_bits(p.fds[0], 100, 50);
    vb_packet_close(&p);
    if (i == 0)
        put_error(s, id, VFB_BUSY, "pinned");
    else if (i == 1)
        put_done(s, id);
}

static void test_fail(void **state) {
    static const int want[] = {VFB_BUSY, VFB_PROTOCOL, -EPIPE};
    (void)state;
    start(script_fail, 3);
    for (int i = 0; i < 3; i++) {
        struct vfb_client *c = connected();
        uint64_t pages = 77;
        memset(words, 0, WORDS * 8);
        assert_int_equal(vfb_dirty_read(c, 3, 100 * PAGE, 50 * PAGE, PAGE, VFB_DIRTY_UNMAP, words, &pages), want[i]);
        assert_int_equal(vfb_error(c)->code, want[i]);
        assert_int_equal(pages, 77);
        check_bits(100, 50, 0);
        vfb_client_free(c);
    }
    stop();
}

/* Each call that makes the first bitmap, or a larger one, fails once: nothing was asked, and the same call works then. */
static void test_no_memory(void **state) {
    int tried[2] = {0, 0};
    (void)state;
    for (int larger = 0; larger < 2; larger++) {
        for (failed = true; failed; tried[larger]++) {
            start(script_simple, 1);
            struct vfb_client *c = connected();
            int before = count_fds();
            uint64_t pages = 77, n = larger ? 100000 : 10;
            if (larger)
                assert_int_equal(vfb_dirty_read(c, 3, 0, PAGE, PAGE, 0, words, NULL), 0);
            memset(words, 0, WORDS * 8);
            failed = false;
            countdown = tried[larger] + 1;
            int r = vfb_dirty_read(c, 3, 0, n * PAGE, PAGE, 0, words, &pages);
            countdown = 0;
            if (failed) {
                assert_int_equal(r, -ENOMEM);
                assert_int_equal(vfb_error(c)->code, -ENOMEM);
                assert_true(pages == 77 && words[0] == 0);
                assert_int_equal(count_fds(), before);
                r = vfb_dirty_read(c, 3, 0, n * PAGE, PAGE, 0, words, &pages);
            }
            assert_int_equal(r, 0);
            assert_int_equal(pages, check_bits(0, n, 0));
            vfb_client_free(c);
            stop();
        }
    }
    assert_int_equal(tried[0] - 1, 6); /* the memfd, its seals, its size, two maps, its pages */
    assert_int_equal(tried[1] - 1, 4);
}

/* ---- inside each other --------------------------------------------------------------------------------------------- */

/* The outer read's bits are written, and its reply comes after a handler has read as well. */
static void script_nested(int s, int i) {
    struct vb_packet p = VB_PACKET_INIT, q = VB_PACKET_INIT;
    (void)i;
    greet(s);
    VfioBroker__Request *req = expect_read(s, &p);
    uint64_t outer = req->id;
    write_bits(p.fds[0], 0, 1000);
    event_gone(s, 1);
    req = expect_read(s, &q);
    write_bits(q.fds[0], 5000, 10);
    put_read(s, req->id);
    put_read(s, outer);
    vb_packet_close(&p);
    vb_packet_close(&q);
    serve(s, PAGE, NULL, 0);
}

static void read_inside(struct vfb_client *c, const struct vfb_event *e, void *arg) {
    uint64_t pages = 0;
    (void)e;
    assert_int_equal(vfb_dirty_read(c, 3, 5000 * PAGE, 10 * PAGE, PAGE, 0, arg, &pages), 0);
}

static void test_nested(void **state) {
    uint64_t inner = 0, want = 0;
    (void)state;
    start(script_nested, 1);
    struct vfb_client *c = connected();
    vfb_set_event_handler(c, read_inside, &inner);
    memset(words, 0, WORDS * 8);
    assert_int_equal(vfb_dirty_read(c, 3, 0, 1000 * PAGE, PAGE, 0, words, NULL), 0);
    check_bits(0, 1000, 0);
    for (unsigned k = 0; k < 10; k++)
        want |= (uint64_t)dirty(5000 + k) << k;
    assert_true(inner == want && want);
    memset(words, 0, WORDS * 8);
    assert_int_equal(vfb_dirty_read(c, 3, 0, 1000 * PAGE, PAGE, 0, words, NULL), 0);
    check_bits(0, 1000, 0);
    vfb_client_free(c);
    stop();
}

/* ---- on, off, and what is refused here ------------------------------------------------------------------------------ */

static void put_set(int s, uint64_t id, uint64_t page_size) {
    REPLY(m, DIRTY_SET, dirty_set, DirtySetReply, DIRTY_SET_REPLY);
    m.id = id;
    m_body.page_size = page_size;
    m_body.coarse = 1;
    put(s, &m);
}

static void script_set(int s, int i) {
    greet(s);
    VfioBroker__Request *req = expect(s, VFIO_BROKER__REQUEST__BODY_DIRTY_SET);
    CHECK(req->dirty_set->space == 3 && req->dirty_set->on);
    if (i == 0) {
        put_set(s, req->id, 4096);
        req = expect(s, VFIO_BROKER__REQUEST__BODY_DIRTY_SET);
        CHECK(req->dirty_set->space == 3 && req->dirty_set->on);
        put_set(s, req->id, 4096);
        req = expect(s, VFIO_BROKER__REQUEST__BODY_DIRTY_SET);
        CHECK(req->dirty_set->space == 3 && !req->dirty_set->on);
        put_set(s, req->id, 0);
        req = expect(s, VFIO_BROKER__REQUEST__BODY_DIRTY_SET);
        put_error(s, req->id, VFB_UNSUPPORTED, "the IOMMU of 0000:00:04.0 has no dirty bits");
        req = expect(s, VFIO_BROKER__REQUEST__BODY_DIRTY_SET);
        CHECK(!req->dirty_set->on);
        put_error(s, req->id, VFB_NOT_FOUND, "no space 3");
    } else if (i < 3) {
        put_set(s, req->id, i == 1 ? 0 : 12288);
    } else if (i == 3) {
        put_done(s, req->id);
    } else {
        return;
    }
    CHECK(!get(s));
}

static void test_set(void **state) {
    (void)state;
    start(script_set, 5);
    for (int i = 0; i < 5; i++) {
        struct vfb_dirty_info info = {.page_size = 77};
        struct vfb_client *c = connected();
        int r = vfb_dirty_start(c, 3, &info);
        if (i == 0) {
            assert_int_equal(r, 0);
            assert_int_equal(info.page_size, 4096);
            assert_true(info.coarse);
            assert_int_equal(vfb_dirty_start(c, 3, NULL), 0);
            assert_int_equal(vfb_dirty_stop(c, 3), 0);
            assert_int_equal(vfb_dirty_start(c, 3, &info), VFB_UNSUPPORTED);
            assert_non_null(strstr(vfb_error(c)->text, "0000:00:04.0"));
            assert_int_equal(vfb_dirty_stop(c, 3), VFB_NOT_FOUND);
        } else {
            assert_int_equal(r, i < 4 ? VFB_PROTOCOL : -EPIPE);
            assert_int_equal(info.page_size, 77);
        }
        vfb_client_free(c);
    }
    stop();
}

static void script_nothing(int s, int i) {
    (void)i;
    greet(s);
    CHECK(!get(s));
}

static void test_arguments(void **state) {
    (void)state;
    fake_features = VFB_FEATURE_DMA | VFB_FEATURE_DOMAINS;
    start(script_nothing, 1);
    struct vfb_client *c = connected();
    assert_int_equal(vfb_dirty_read(c, 3, 0, PAGE, PAGE, 4, words, NULL), VFB_INVALID);
    assert_int_equal(vfb_dirty_read(c, 3, 0, PAGE, PAGE, 0, NULL, NULL), VFB_INVALID);
    assert_int_equal(vfb_dirty_read(c, 3, 0, PAGE, 0, 0, words, NULL), VFB_INVALID);
    assert_int_equal(vfb_dirty_read(c, 3, 0, 3 * PAGE, 3 * PAGE, 0, words, NULL), VFB_INVALID);
    assert_int_equal(vfb_dirty_read(c, 3, 0, 0, PAGE, 0, words, NULL), VFB_INVALID);
    assert_int_equal(vfb_dirty_read(c, 3, 0, PAGE + 1, PAGE, 0, words, NULL), VFB_INVALID);
    assert_int_equal(vfb_dirty_read(c, 3, 1, PAGE, PAGE, 0, words, NULL), VFB_INVALID);
    assert_int_equal(vfb_dirty_read(c, 3, UINT64_MAX - PAGE + 1, 2 * PAGE, PAGE, 0, words, NULL), VFB_INVALID);
    assert_int_equal(c->bitmap.fd, -1);
    vfb_client_free(c);
    stop();
    fake_features = VFB_FEATURE_DMA;
    start(script_nothing, 1);
    c = connected();
    assert_int_equal(vfb_dirty_read(c, 3, 0, PAGE, PAGE, 0, words, NULL), VFB_UNSUPPORTED);
    assert_int_equal(vfb_dirty_start(c, 3, NULL), VFB_UNSUPPORTED);
    assert_int_equal(vfb_dirty_stop(c, 3), VFB_UNSUPPORTED);
    assert_non_null(strstr(vfb_error(c)->text, "too old for dirty tracking"));
    vfb_client_free(c);
    stop();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        FAKE_TEST(test_bits),      FAKE_TEST(test_split),     FAKE_TEST(test_holes),  FAKE_TEST(test_large),
        FAKE_TEST(test_shrink),    FAKE_TEST(test_fail),      FAKE_TEST(test_nested), FAKE_TEST(test_set),
        FAKE_TEST(test_no_memory), FAKE_TEST(test_arguments),
    };
    words = calloc(WORDS, 8);
    int r = words ? cmocka_run_group_tests_name("client-dirty", tests, NULL, NULL) : 1;
    free(words);
    return r;
}
