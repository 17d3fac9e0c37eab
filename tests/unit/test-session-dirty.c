/* DirtySet and DirtyRead: exact bits in the client's file, every file that cannot take them refused before anything is cleared, and
 * what a failing call has cleared is in the bitmap, or said to be lost. Linked with --wrap=pwrite,--wrap=calloc. */
#include "session-fixture.h"

#define BITMAP_SIZE 0x2000u

static uint32_t space, memory, device;
static int dma = -1;

static unsigned pwrites, pwrite_fails_at; /* counted from 1 */
static int pwrite_errno;

ssize_t __real_pwrite(int fd, const void *p, size_t n, off_t at);
ssize_t __wrap_pwrite(int fd, const void *p, size_t n, off_t at);
ssize_t __wrap_pwrite(int fd, const void *p, size_t n, off_t at) {
    if (pwrite_fails_at && ++pwrites == pwrite_fails_at) {
        errno = pwrite_errno;
        return -1;
    }
    return __real_pwrite(fd, p, n > 64 ? 64 : n, at); /* in parts */
}

static unsigned callocs, calloc_fails_at;

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size) {
    return calloc_fails_at && ++callocs == calloc_fails_at ? NULL : __real_calloc(n, size);
}

/* Two mappings that touch, 100 pages in all, and one further on. */
static int set_up_mapped(void **state) {
    int r = set_up(state);

    space = create_space();
    memory = register_memory(memfd(MEMORY_SIZE));
    ASSERT_DONE(ask_map(space, memory, 0x100000, 60 * PAGE, 0), DONE);
    ASSERT_DONE(ask_map(space, memory, 0x100000 + 60 * PAGE, 40 * PAGE, 60 * PAGE), DONE);
    ASSERT_DONE(ask_map(space, memory, 0x400000, PAGE, 200 * PAGE), DONE);
    device = claim("emulated:0", 0, &dma);
    ASSERT_DONE(ask_attach(device, space, false), DONE);
    return r;
}

static int tear_down_mapped(void **state) {
    pwrite_fails_at = calloc_fails_at = 0;
    close(dma);
    return tear_down(state);
}

static VfioBroker__Reply *dirty_set(uint32_t where, bool on) {
    REQUEST(DIRTY_SET, dirty_set, DirtySet, DIRTY_SET);

    body.space = where, body.on = on;
    return ask(&q, -1);
}

static VfioBroker__DirtyRead request(void) {
    VfioBroker__DirtyRead m = VFIO_BROKER__DIRTY_READ__INIT;

    m.space = space, m.iova = 0x100000, m.size = 100 * PAGE, m.page_size = PAGE, m.bitmap_offset = 8;
    return m;
}

/* A duplicate of fd travels. */
static VfioBroker__Reply *dirty_read(VfioBroker__DirtyRead m, int fd) {
    VfioBroker__Request q = VFIO_BROKER__REQUEST__INIT;

    q.body_case = VFIO_BROKER__REQUEST__BODY_DIRTY_READ;
    q.dirty_read = &m;
    return ask(&q, fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

static int bitmap(void) {
    static const uint8_t zeros[BITMAP_SIZE];
    int fd = memfd_create("bitmap", MFD_ALLOW_SEALING | MFD_CLOEXEC);

    assert_int_equal(write(fd, zeros, sizeof zeros), sizeof zeros);
    return fd;
}

static bool bit(int fd, unsigned n) {
    uint8_t byte;

    assert_int_equal(pread(fd, &byte, 1, 8 + n / 8), 1);
    return byte >> (n % 8) & 1;
}

static uint64_t pages_of(const VfioBroker__Reply *r) {
    ASSERT_DONE(r, DIRTY_READ);
    return r->dirty_read->pages;
}

static void on(void) {
    VfioBroker__Reply *r = dirty_set(space, true);

    ASSERT_DONE(r, DIRTY_SET);
    assert_int_equal(r->dirty_set->page_size, PAGE);
    assert_false(r->dirty_set->coarse);
}

static void test_on_and_off(void **state) {
    int fd = bitmap();

    (void)state;
    assert_refused(dirty_set(99, true), VB_NOT_FOUND, "99");
    assert_refused(dirty_read(request(), fd), VB_STATE, "off");
    on();
    assert_refused(dirty_set(space, true), VB_STATE, "is on");
    REQUEST(SPACE_DESCRIBE, space_describe, SpaceDescribe, SPACE_DESCRIBE);
    body.space = space;
    assert_true(ask(&q, -1)->space_describe->dirty);
    ASSERT_DONE(dirty_set(space, false), DIRTY_SET);
    assert_false(ask(&q, -1)->space_describe->dirty);
    assert_refused(dirty_read(request(), fd), VB_STATE, "off");
    assert_refused(dirty_set(create_space(), true), VB_STATE, "no devices");
    vb_emulated_knobs(s.model->backend)->coarse = true;
    assert_true(dirty_set(space, true)->dirty_set->coarse);
    close(fd);
}

static void test_exact_bits(void **state) {
    VfioBroker__DirtyRead m = request();
    const uint8_t before[] = {0xff, 0x02}; /* a bit that is none of ours, and one that is set already */
    int fd = bitmap();

    (void)state;
    assert_int_equal(__real_pwrite(fd, before, 1, 7), 1);
    assert_int_equal(__real_pwrite(fd, before + 1, 1, 8), 1);
    on();
    const unsigned written[] = {0, 7, 8, 59, 60, 63, 64, 99};
    for (unsigned i = 0; i < sizeof written / sizeof *written; i++)
        device_writes(dma, m.iova + written[i] * PAGE + 8);
    m.keep = true;
    assert_int_equal(pages_of(dirty_read(m, fd)), 9);
    m.keep = false;
    assert_int_equal(pages_of(dirty_read(m, fd)), 9);
    for (unsigned n = 0; n < 128; n++) {
        bool want = n == 1;
        for (unsigned i = 0; i < sizeof written / sizeof *written; i++)
            want |= written[i] == n;
        assert_int_equal(bit(fd, n), want);
    }
    uint8_t byte;
    assert_int_equal(pread(fd, &byte, 1, 7), 1);
    assert_int_equal(byte, 0xff);
    int again = bitmap();
    assert_int_equal(pages_of(dirty_read(m, again)), 0); /* cleared */
    /* Each read adds; a file position stays; a range with holes; the last byte of a bitmap is shared with who follows. */
    device_writes(dma, 0x400000);
    const uint8_t high = 0x80;
    assert_int_equal(__real_pwrite(again, &high, 1, 8), 1);
    assert_int_equal(lseek(again, 5, SEEK_SET), 5);
    m.iova = 0x3ff000, m.size = 2 * PAGE;
    assert_int_equal(pages_of(dirty_read(m, again)), 1);
    assert_int_equal(lseek(again, 0, SEEK_CUR), 5);
    assert_int_equal(pread(again, &byte, 1, 8), 1);
    assert_int_equal(byte, 0x82);
    /* A bitmap that ends with its file, by the byte. */
    assert_int_equal(ftruncate(again, 8 + 13), 0);
    assert_int_equal(pages_of(dirty_read(request(), again)), 2);
    assert_int_equal(ftruncate(again, 8 + 12), 0);
    assert_refused(dirty_read(request(), again), VB_BAD_MEMORY, "only 20");
    close(fd);
    close(again);
}

static void test_numbers(void **state) {
    VfioBroker__DirtyRead m;
    int fd = bitmap();

    (void)state;
    on();
    device_writes(dma, 0x100000);
    m = request(), m.space = 99;
    assert_refused(dirty_read(m, fd), VB_NOT_FOUND, "99");
    m = request(), m.size = 0;
    assert_refused(dirty_read(m, fd), VB_INVALID, "no range");
    m = request(), m.iova = UINT64_MAX;
    assert_refused(dirty_read(m, fd), VB_INVALID, "no range");
    m = request(), m.page_size = 0;
    assert_refused(dirty_read(m, fd), VB_INVALID, "pages of 0");
    m = request(), m.page_size = 12288;
    assert_refused(dirty_read(m, fd), VB_INVALID, "pages of 12288");
    m = request(), m.page_size = 512;
    assert_refused(dirty_read(m, fd), VB_INVALID, "512");
    m = request(), m.size += 1;
    assert_refused(dirty_read(m, fd), VB_INVALID, "no number of pages");
    m = request(), m.size = (VB_DIRTY_PAGES_MAX + 1ull) * PAGE;
    VfioBroker__Reply *r = dirty_read(m, fd);
    assert_refused(r, VB_LIMIT, "in parts");
    assert_int_equal(r->error->limit->limit, VB_DIRTY_PAGES_MAX);
    m = request(), m.size = 64 * PAGE;
    assert_refused(dirty_read(m, fd), VB_INVALID, "cuts");
    m = request(), m.bitmap_offset = 4;
    assert_refused(dirty_read(m, fd), VB_INVALID, "multiple of 8");
    m = request(), m.bitmap_offset = UINT64_MAX - 7;
    assert_refused(dirty_read(m, fd), VB_BAD_MEMORY, "ftruncate");
    assert_int_equal(pages_of(dirty_read(request(), fd)), 1); /* nothing of that has cleared it */
    close(fd);
}

static int sealed(int seals) {
    int fd = bitmap();

    assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

static int reopened(int flags) {
    char path[64];
    int fd = bitmap();

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int again = open(path, flags | O_CLOEXEC);
    assert_true(again >= 0);
    close(fd);
    return again;
}

static void test_files(void **state) {
    int holes = memfd_create("holes", MFD_CLOEXEC), huge = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB);
    int pipes[2], good = bitmap();

    (void)state;
    assert_int_equal(ftruncate(holes, BITMAP_SIZE), 0);
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    close(pipes[0]);
    if (huge >= 0) /* no page of it is needed */
        assert_int_equal(ftruncate(huge, 2 << 20), 0);
    struct {
        int fd;
        const char *text;
    } const bad[] = {
        {open("/dev/null", O_RDWR | O_CLOEXEC), "memfd"},
        {open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), "memfd"},
        {pipes[1], "memfd"},
        {reopened(O_PATH), "memfd"},
        {reopened(O_RDONLY), "O_RDWR"},
        {reopened(O_WRONLY), "O_RDWR"},
        {reopened(O_RDWR | O_APPEND), "O_APPEND"},
        {sealed(F_SEAL_WRITE), "sealed"},
        {sealed(F_SEAL_FUTURE_WRITE), "sealed"},
        {holes, "missing pages"},
        {huge, "MFD_HUGETLB"},
    };
    on();
    device_writes(dma, 0x100000);
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (bad[i].fd < 0 && bad[i].fd == huge) {
            print_message("# no hugetlbfs here\n");
            continue;
        }
        assert_refused(dirty_read(request(), bad[i].fd), VB_BAD_MEMORY, bad[i].text);
        close(bad[i].fd);
    }
    /* Set aside by client.c: -1 has come in its place. */
    {
        VfioBroker__DirtyRead m = request();
        VfioBroker__Request q = VFIO_BROKER__REQUEST__INIT;
        uint8_t buf[128];
        struct vb_packet p = {.data = buf, .n_fds = 1, .fds = {-1}};
        bool fatal;

        q.id = 1, q.body_case = VFIO_BROKER__REQUEST__BODY_DIRTY_READ, q.dirty_read = &m;
        p.size = (size_t)vb_encode(&q.base, buf, sizeof buf);
        size_t n = vb_client_handle(&s, &p, &came, &fatal);
        assert_refused(vb_decode(&arena, &vfio_broker__reply__descriptor, s.client.out, n), VB_BAD_MEMORY, "memfd");
    }
    assert_int_equal(pages_of(dirty_read(request(), good)), 1); /* nothing of that has cleared it */
    close(good);
}

static void test_read_and_unmap(void **state) {
    VfioBroker__DirtyRead m = request();
    int fd = bitmap();

    (void)state;
    on();
    device_writes(dma, 0x100000 + 99 * PAGE);
    int link = pinner(space);
    pin(link, 0x101000, PAGE);
    m.unmap = true;
    assert_refused(dirty_read(m, fd), VB_BUSY, "pinned");
    assert_false(bit(fd, 99));
    assert_int_equal(space_of(space)->mappings, 3);
    /* Somebody waits for pins in that range already, though the pin is outside. */
    assert_null(ask_unmap(space, 0x100000, 100 * PAGE));
    m.iova = 0x100000 + 60 * PAGE, m.size = 40 * PAGE;
    assert_refused(dirty_read(m, fd), VB_BUSY, "came earlier");
    assert_int_equal(s.park.n, 1);
    close(link);
    for (int i = 0; i < 1000 && s.park.n; i++)
        run(5);
    ASSERT_DONE(heard(), UNMAP);

    device_writes(dma, 0x400000);
    m.iova = 0x400000, m.size = PAGE;
    VfioBroker__Reply *r = dirty_read(m, fd);
    assert_int_equal(pages_of(r), 1);
    assert_int_equal(r->dirty_read->mappings, 1);
    assert_int_equal(r->dirty_read->bytes, PAGE);
    assert_true(bit(fd, 0));
    assert_int_equal(space_of(space)->mappings, 0);
    assert_int_equal(s.model->ledger.used, 0);
    assert_refused(dirty_read(m, fd), VB_NOT_FOUND, "nothing is mapped");
    m.unmap = false;
    assert_int_equal(pages_of(dirty_read(m, fd)), 1); /* nothing there: nothing added */
    close(fd);
}

/* What an unmap that fails may have lost of the kernel's bits is in the bitmap. */
static void test_unmap_fails(void **state) {
    VfioBroker__DirtyRead m = request();
    int fd = bitmap();

    (void)state;
    on();
    device_writes(dma, 0x100000);
    m.unmap = true;
    vb_emulated_knobs(s.model->backend)->fault[VB_EMULATED_UNMAP] =
        (struct vb_emulated_fault){.nth = 1, .error = -ENOMEM};
    VfioBroker__Reply *r = dirty_read(m, fd);
    assert_refused(r, VFIO_BROKER__ERROR_CODE__ERROR_HOST, "");
    assert_int_equal(r->error->host_errno, ENOMEM);
    assert_true(bit(fd, 0));
    assert_int_equal(space_of(space)->mappings, 3);
    close(fd);
}

/* Whatever fails, a bit is in the kernel, in the bitmap, or said to be lost. */
static void test_calls_fail(void **state) {
    VfioBroker__DirtyRead m = request();
    int fd = bitmap();
    VfioBroker__Reply *r;

    (void)state;
    on();
    device_writes(dma, 0x100000);
    device_writes(dma, 0x400000);
    m.size = 0x301000; /* two runs of mappings */
    vb_emulated_knobs(s.model->backend)->fault[VB_EMULATED_DIRTY_READ] =
        (struct vb_emulated_fault){.nth = 2, .error = -EIO};
    r = dirty_read(m, fd);
    assert_refused(r, VFIO_BROKER__ERROR_CODE__ERROR_HOST, "");
    assert_int_equal(r->error->host_errno, EIO);
    assert_true(bit(fd, 0)); /* cleared, and written though the second run failed */
    assert_false(bit(fd, 0x300));
    assert_int_equal(pages_of(dirty_read(m, fd)), 2);

    device_writes(dma, 0x100000);
    for (unsigned n = 1; n <= 3; n++) { /* reply and request live in an arena: the words of the file, and ours */
        callocs = 0, calloc_fails_at = n;
        r = dirty_read(m, fd);
        calloc_fails_at = 0;
        if (n > 2)
            ASSERT_DONE(r, DIRTY_READ);
        else
            assert_int_equal(r->error->host_errno, ENOMEM);
    }

    device_writes(dma, 0x100000);
    pwrites = 0, pwrite_fails_at = 1, pwrite_errno = ENOSPC; /* when it is tried */
    r = dirty_read(m, fd);
    assert_int_equal(r->error->host_errno, ENOSPC);
    assert_null(strstr(r->error->text, "cleared"));
    pwrites = 0, pwrite_fails_at = 1, pwrite_errno = EPERM;
    assert_refused(dirty_read(m, fd), VB_BAD_MEMORY, "sealed");
    pwrites = 0, pwrite_fails_at = 2, pwrite_errno = EINTR;
    m.keep = true;
    assert_int_equal(pages_of(dirty_read(m, fd)), 2);
    pwrites = 0, pwrite_fails_at = 4, pwrite_errno = EPERM; /* the last part when it counts, but nothing was cleared */
    r = dirty_read(m, fd);
    assert_refused(r, VB_BAD_MEMORY, "sealed");
    assert_null(strstr(r->error->text, "cleared"));
    m.keep = false, m.unmap = true; /* nor is anything unmapped */
    pwrites = 0, pwrite_fails_at = 4, pwrite_errno = EPERM;
    r = dirty_read(m, fd);
    assert_refused(r, VB_BAD_MEMORY, "sealed");
    assert_null(strstr(r->error->text, "cleared"));
    assert_int_equal(space_of(space)->mappings, 3);
    m.keep = true, m.unmap = false;
    int again = bitmap();
    assert_int_equal(pages_of(dirty_read(m, again)), 1);
    close(again);
    m.keep = false;
    pwrites = 0, pwrite_fails_at = 4, pwrite_errno = EPERM;
    assert_refused(dirty_read(m, fd), VB_BAD_MEMORY, "all of the range");
    close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_on_and_off, set_up_mapped, tear_down_mapped),
        cmocka_unit_test_setup_teardown(test_exact_bits, set_up_mapped, tear_down_mapped),
        cmocka_unit_test_setup_teardown(test_numbers, set_up_mapped, tear_down_mapped),
        cmocka_unit_test_setup_teardown(test_files, set_up_mapped, tear_down_mapped),
        cmocka_unit_test_setup_teardown(test_read_and_unmap, set_up_mapped, tear_down_mapped),
        cmocka_unit_test_setup_teardown(test_unmap_fails, set_up_mapped, tear_down_mapped),
        cmocka_unit_test_setup_teardown(test_calls_fail, set_up_mapped, tear_down_mapped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
