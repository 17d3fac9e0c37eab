/* Dma-bufs on the iommufd backend: the kernel's mock exporter stands for vfio-pci (drivers/iommu/iommufd/selftest.c). Whether an
 * HWPT shows a page is seen by its entry's dirty bit, which can only be set where there is one. Run by
 * `tests/vm/run -- PROGRAM`; skips elsewhere, and says why. */
#include "tests/unit/mock-device.h"

#include <sys/ioctl.h>
#include <sys/socket.h>

#define PAGE ((uint64_t)4096)
#define SIZE (16 * PAGE)
#define BASE 0x1000000ull

static const struct mock_kind normal = {.name = "normal"};

static bool shown(struct vb_model *m, const struct vb_device *d, uint64_t iova) {
    const uint64_t one = 1;
    uint64_t got = 0;

    mock_dirty(m, mock_hwpt(m, d), iova, PAGE, PAGE, &one);
    OK(m->backend->ops->dirty_read(m->backend, ioas_of(m, 1), (struct vb_range){iova, iova + PAGE - 1}, PAGE, false,
                                   &got, &e));
    return got;
}

/* What is refused stays the caller's: closing it may wait, if it is no dma-buf. */
static int refused(struct vb_model *m, int fd, uint64_t size) {
    struct vb_memory *memory = NULL;
    int r = vb_model_register(m, fd, true, size, "x", &memory, fresh());

    close(fd);
    return r;
}

/* Maps, copies a part, is revoked, maps again, unmaps, unregisters; also when the exporter's fd is closed. */
static void test_revoked(void **state) {
    struct vb_memory *memory = NULL;
    struct vb_device *d;
    struct vb_model *m;
    uint64_t n, bytes;
    int fd, extra;

    (void)state;
    NEED_MACHINE();
    m = real_model(open_iommufd(), false);
    assert_true(m->backend->ops->features(m->backend) & 32);
    add_memory(m, SIZE);
    add_space(m);
    mock_small_pages(m, ioas_of(m, 1));
    d = mock_device(m, "a", &normal);
    OK(attach1(m, 1, 1, &e));
    OK(vb_model_dirty_set(m, 1, true, NULL, &e));
    fd = mock_dma_buf(m, SIZE);
    extra = dup(fd);
    OK(vb_model_register(m, fd, true, SIZE, "bar", &memory, &e));
    OK(map1(m, 1, memory->id, BASE, SIZE, 0, 3, &e));
    OK(map1(m, 1, memory->id, BASE + 0x100000, 2 * PAGE, 3 * PAGE, 3, &e)); /* a part of it */
    OK(map1(m, 1, 1, BASE + 0x200000, SIZE, 0, 3, &e));
    assert_true(shown(m, d, BASE + 0x200000));
    assert_true(shown(m, d, BASE));
    assert_true(shown(m, d, BASE + 15 * PAGE));
    assert_true(shown(m, d, BASE + 0x101000));
    assert_int_equal(m->ledger.used, SIZE); /* device memory is not pinned */
    OK(unmap1(m, 1, BASE + 0x100000, 2 * PAGE, &n, &bytes, &e));
    assert_false(shown(m, d, BASE + 0x101000));

    mock_revoke(m, extra);
    assert_false(shown(m, d, BASE) || shown(m, d, BASE + 15 * PAGE));
    assert_true(shown(m, d, BASE + 0x200000)); /* nothing else is touched */
    OK(map1(m, 1, memory->id, BASE + 0x100000, 2 * PAGE, 3 * PAGE, 3, &e));
    assert_false(shown(m, d, BASE + 0x100000));
    OK(vb_model_detach(m, 1, &e)); /* attaching goes on too */
    OK(attach1(m, 1, 1, &e));
    assert_false(shown(m, d, BASE));
    OK(unmap1(m, 1, BASE, 0x102000, &n, &bytes, &e));
    assert_int_equal(n, 2);
    OK(vb_model_unregister(m, memory->id, &e));
    /* Anew: no. */
    assert_int_equal(refused(m, extra, SIZE), VB_BAD_MEMORY);
    assert_text(&e, "revoked", NULL);
    assert_int_equal(m->backend->ops->leftovers(m->backend), 0);
    vb_model_free(m);
}

static void test_refusals(void **state) {
    int pair[2], fd;
    struct vb_model *m;

    (void)state;
    NEED_MACHINE();
    m = real_model(open_iommufd(), false);
    /* Anything else would be mapped without being paid. */
    assert_int_equal(refused(m, make_memory(SIZE), SIZE), VB_BAD_MEMORY);
    assert_text(&e, "no dma-buf", NULL);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(refused(m, pair[0], SIZE), VB_BAD_MEMORY);
    close(pair[1]);
    assert_true(refused(m, mock_dma_buf(m, SIZE), 2 * SIZE) > 0); /* too small */
    printf("# too small: %s\n", e.text);
    fd = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
    if (fd >= 0) { /* of another exporter */
        struct {
            uint32_t memfd, flags;
            uint64_t offset, size;
        } create = {.size = SIZE};
        int ram = memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING), r;

        assert_int_equal(ftruncate(ram, SIZE), 0);
        assert_int_equal(fcntl(ram, F_ADD_SEALS, F_SEAL_SHRINK), 0);
        create.memfd = (uint32_t)ram;
        r = ioctl(fd, _IOW('u', 0x42, create), &create);
        assert_true(r >= 0);
        assert_int_equal(refused(m, r, SIZE), VB_UNSUPPORTED);
        assert_text(&e, "vfio-pci", NULL);
        close(ram);
        close(fd);
    } else {
        printf("# no /dev/udmabuf\n");
    }
    assert_int_equal(m->memories.n, 0);
    assert_int_equal(m->backend->ops->leftovers(m->backend), 0);
    vb_model_free(m);
    m = real_model(open_iommufd(), true);
    assert_false(m->backend->ops->features(m->backend) & 32);
    assert_int_equal(refused(m, mock_dma_buf(m, SIZE), SIZE), VB_UNSUPPORTED);
    vb_model_free(m);
}

static unsigned fds;

static int set_up(void **state) {
    (void)state;
    fds = count_fds();
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    assert_int_equal(count_fds(), fds);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_revoked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refusals, set_up, tear_down),
    };

    return cmocka_run_group_tests_name("mock-dma-buf", tests, mock_prepare, NULL);
}
