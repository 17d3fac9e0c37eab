/* The iommufd backend on a real kernel with a real (QEMU's) IOMMU: run by `tests/vm/run -- PROGRAM`. Needs root, /dev/iommu
 * and edu devices, which it binds to vfio-pci; skips everything elsewhere, and says why. */
#include "tests/unit/iommufd-fixture.h"

#include <glob.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "backend/iommufd-private.h"
#include "backend/workers.h"

#define NOBODY 65534

static unsigned fds;

static int set_up(void **state) {
    (void)state;
    fds = count_fds();
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    if (!missing)
        assert_int_equal(count_fds(), fds);
    return 0;
}

static void await_free(struct vb_model *m, vb_handle h) {
    unsigned i;

    for (i = 0; i < 100 && m->backend->ops->in_use(m->backend, h); i++)
        usleep(20000);
    assert_true(i < 100);
}

static int attach_ioctl(int fd, uint32_t id) {
    struct vb_vfio_attach a = {.argsz = sizeof(a), .pt_id = id};

    return ioctl(fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &a) < 0 ? -errno : 0;
}

static int detach_ioctl(int fd) {
    struct vb_vfio_detach d = {.argsz = sizeof(d)};

    return ioctl(fd, VFIO_DEVICE_DETACH_IOMMUFD_PT, &d) < 0 ? -errno : 0;
}

/* ---- tests ---- */

static void dma(bool no_map_file) {
    struct vb_model *m = real_model(open_iommufd(), no_map_file);
    struct vb_memory *memory = add_memory(m, MIB);
    unsigned char a[2048], b[2048];
    struct vb_space *s = add_space(m);
    uint64_t n, bytes;
    struct edu edu;
    int fd;

    assert_int_equal(!(m->backend->ops->features(m->backend) & 4), no_map_file);
    OK(map1(m, 1, 1, 0x100000, 0x10000, 0, 3, &e)); /* before the attach */
    real_device(m, 0, &fd);
    OK(attach1(m, 1, 1, &e));
    OK(map1(m, 1, 1, 0x200000, 0x8000, 0x40000, 3, &e)); /* and behind it */
    assert_true(s->info.n_usable >= 2 && s->info.usable[0].last == 0xfedfffff);
    edu = edu_open(fd);
    memset(a, 0xa5, sizeof(a));
    assert_int_equal(pwrite(memory->fd, a, sizeof(a), 0x3800), sizeof(a));
    edu_copy(&edu, 0x103800, 0x201000, sizeof(a));
    assert_int_equal(pread(memory->fd, b, sizeof(b), 0x41000), sizeof(b));
    assert_memory_equal(a, b, sizeof(a));

    assert_true(edu_reaches(&edu, 0x103800, 0x204000, memory->fd, 0x44000));
    OK(unmap1(m, 1, 0x200000, 0x8000, &n, &bytes, &e));
    assert_false(edu_reaches(&edu, 0x103800, 0x204000, memory->fd, 0x44000));
    OK(map1(m, 1, 1, 0x200000, 0x8000, 0x40000, 1, &e)); /* the device may read, not write */
    assert_false(edu_reaches(&edu, 0x103800, 0x204000, memory->fd, 0x44000));
    OK(map1(m, 1, 1, 0xfffff0000000, 0x1000, 0x50000, 3, &e)); /* high up */
    assert_true(edu_reaches(&edu, 0x103800, 0xfffff0000000, memory->fd, 0x50000));
    OK(vb_model_unmap_all(m, 1, &n, &bytes, &e));
    assert_int_equal(n, 3);
    edu_close(&edu);
    close(fd);
    vb_model_free(m);
}

static void test_dma_map_file(void **state) {
    (void)state;
    NEED_MACHINE();
    dma(false);
}

static void test_dma_by_address(void **state) {
    (void)state;
    NEED_MACHINE();
    dma(true);
}

static void test_read_only_memory(void **state) {
    bool no_map_file;
    int i;

    (void)state;
    NEED_MACHINE();
    for (i = 0; i < 2; i++) {
        struct vb_model *m;
        struct vb_memory *ro = NULL, *rw;
        struct edu edu;
        int fd, mem;

        no_map_file = i;
        m = real_model(open_iommufd(), no_map_file);
        mem = make_memory(MIB);
        OK(vb_model_register(m, reopen(mem, O_RDONLY), false, 0, "rom", &ro, &e));
        rw = add_memory(m, MIB);
        add_space(m);
        real_device(m, 0, &fd);
        OK(attach1(m, 1, 1, &e));
        OK(map1(m, 1, ro->id, 0x100000, 0x10000, 0, 1, &e));
        OK(map1(m, 1, rw->id, 0x200000, 0x10000, 0, 3, &e));
        edu = edu_open(fd);
        edu_copy(&edu, 0x101000, 0x200000, 64); /* reads work: page 1 is full of 1 */
        unsigned char got;
        assert_int_equal(pread(rw->fd, &got, 1, 63), 1);
        assert_int_equal(got, 1);
        assert_false(edu_reaches(&edu, 0x101000, 0x102000, mem, 0x2000));
        edu_close(&edu);
        close(fd);
        close(mem);
        vb_model_free(m);
    }
}

/* Ranges of a space from both sides of a border between two maps of the pool (16 GiB). The file is sparse, which only the
 * backend itself takes. */
static void test_across_pieces(void **state) {
    const uint64_t border = 16ull << 30, size = border + (1ull << 30);
    struct vb_model *m;
    struct vb_backend *b;
    struct vb_memory_desc desc = {.size = size, .writable = true};
    struct vb_backend_map map = {.iova = 0x100000, .size = 0x4000, .offset = border - 0x2000, .prot = 3};
    const struct vb_range whole = {0x100000, 0x103fff};
    struct vb_space *s;
    struct edu edu;
    size_t done;
    int fd, i;

    (void)state;
    NEED_MACHINE();
    for (i = 0; i < 2; i++) {
        m = real_model(open_iommufd(), i);
        b = m->backend;
        s = add_space(m);
        real_device(m, 0, &fd);
        OK(attach1(m, 1, 1, &e));
        desc.fd = memfd_create("sparse", MFD_CLOEXEC);
        assert_int_equal(ftruncate(desc.fd, (off_t)size), 0);
        assert_int_equal(pwrite(desc.fd, "x", 1, (off_t)border - 0x2000), 1);
        OK(b->ops->memory_add(b, &desc, &map.memory, &e));
        OK(b->ops->map(b, ioas_of(m, s->id), &map, 1, &done, &e));
        edu = edu_open(fd);
        assert_true(edu_reaches(&edu, 0x100000, 0x102fc0, desc.fd, border + 0xfc0));
        assert_true(edu_reaches(&edu, 0x100000, 0x101fc0, desc.fd, border - 0x40));
        edu_close(&edu);
        OK(b->ops->unmap(b, ioas_of(m, s->id), &whole, 1, &done, &e));
        assert_int_equal(b->ops->unmap(b, ioas_of(m, s->id), &whole, 1, &done, fresh()), -ENOENT);
        b->ops->memory_remove(b, map.memory);
        assert_int_equal(b->ops->leftovers(b), 0);
        close(desc.fd);
        close(fd);
        vb_model_free(m);
    }
}

static void test_a_page_is_pinned_once(void **state) {
    struct vb_model *m;
    struct vb_memory *memory;
    uint64_t n, bytes;
    long before;
    int fd[2], i;

    (void)state;
    NEED_MACHINE();
    before = own_pinned_kib();
    m = real_model(open_iommufd(), false);
    memory = add_memory(m, 4 * MIB);
    for (i = 0; i < 2; i++) {
        add_space(m);
        real_device(m, i, &fd[i]);
        OK(attach1(m, (uint32_t)i + 1, (uint32_t)i + 1, &e));
        OK(map1(m, (uint32_t)i + 1, 1, 0x1000000, 4 * MIB, 0, 3, &e));
        OK(map1(m, (uint32_t)i + 1, 1, 0x2000000, 2 * MIB, MIB, 3, &e));
    }
    assert_int_equal(own_pinned_kib() - before, 4096);
    assert_int_equal(m->ledger.used, 4 * MIB);
    /* Punching holes under it does not make it more. The file is as big as before once it is populated again. */
    assert_int_equal(fallocate(memory->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4 * MIB), 0);
    assert_int_equal(map1(m, 1, 1, 0x4000000, 4 * MIB, 0, 3, fresh()), VB_BAD_MEMORY);
    for (i = 0; i < 1024; i++)
        assert_int_equal(pwrite(memory->fd, "y", 1, i * 4096l), 1);
    OK(map1(m, 1, 1, 0x4000000, 4 * MIB, 0, 3, &e));
    assert_int_equal(own_pinned_kib() - before, 4096);
    OK(vb_model_unmap_all(m, 1, &n, &bytes, &e));
    assert_int_equal(own_pinned_kib() - before, 4096);
    OK(vb_model_unmap_all(m, 2, &n, &bytes, &e));
    assert_int_equal(own_pinned_kib() - before, 0);
    close(fd[0]);
    close(fd[1]);
    vb_model_free(m);
}

static void test_reserved_regions(void **state) {
    struct vb_model *m;
    struct vb_device *d = NULL;
    uint64_t n, bytes;
    int fd, client;

    (void)state;
    NEED_MACHINE();
    m = real_model(open_iommufd(), false);
    add_memory(m, MIB);
    add_space(m);
    OK(map1(m, 1, 1, 0xfee00000, 0x1000, 0, 3, &e));
    OK(map1(m, 1, 1, 1ull << 60, 0x1000, 0, 3, &e));
    fd = open(cdev[0], O_RDWR | O_CLOEXEC);
    OK(claim_fd(m, address[0], false, 0, fd, &d, &client, &e)); /* as if sysfs had told nothing */
    OK(vb_model_bind(m, 1, &e));
    assert_int_equal(attach1(m, 1, 1, fresh()), VB_RESERVED); /* the kernel's word */
    assert_text(&e, address[0], NULL);
    d->n_reserved = 1;
    d->reserved[0] = msi_window;
    assert_int_equal(attach1(m, 1, 1, fresh()), VB_RESERVED); /* ours, before the kernel */
    assert_int_equal(e.n_conflicts, 1);
    OK(unmap1(m, 1, 0xfee00000, 0x1000, &n, &bytes, &e));
    if (attach1(m, 1, 1, fresh()) == 0) { /* an IOMMU with all 64 bits, like virtio's */
        OK(unmap1(m, 1, 1ull << 60, 0x1000, &n, &bytes, &e));
    } else {
        assert_int_equal(e.code, VB_RESERVED); /* beyond the aperture */
        OK(unmap1(m, 1, 1ull << 60, 0x1000, &n, &bytes, &e));
        OK(attach1(m, 1, 1, &e));
        assert_int_equal(map1(m, 1, 1, 1ull << 60, 0x1000, 0, 3, fresh()), VB_RESERVED);
        assert_string_equal(e.conflicts[0].kind, "aperture");
    }
    assert_int_equal(map1(m, 1, 1, 0xfee00000, 0x1000, 0, 3, fresh()), VB_RESERVED);
    assert_string_equal(e.conflicts[0].kind, "msi");
    /* Attached by the client itself: what we believe is out of date; the kernel says no, and we find out why. */
    OK(vb_model_detach(m, 1, &e));
    add_space(m);
    assert_int_equal(attach_ioctl(client, ioas_of(m, 2)), 0);
    assert_int_equal(map1(m, 2, 1, 0xfee00000, 0x1000, 0, 3, fresh()), VB_RESERVED);
    assert_text(&e, "0xfee00000-0xfeefffff", NULL);
    assert_int_equal(vb_model_space(m, 2, NULL)->mappings, 0);
    close(client);
    vb_model_free(m);
}

static void test_hostile_client_attaches_and_detaches(void **state) {
    struct vb_model *m;
    const struct vb_backend_ops *ops;
    struct vb_memory *memory;
    uint32_t ioas, id;
    struct edu edu;
    int fd;

    (void)state;
    NEED_MACHINE();
    m = real_model(open_iommufd(), false);
    ops = m->backend->ops;
    real_device(m, 0, &fd);
    assert_int_equal(attach_ioctl(fd, 1), -EADDRINUSE); /* the pool is the first object; empty it refuses too */
    memory = add_memory(m, MIB);
    add_space(m);
    OK(map1(m, 1, 1, 0x100000, 0x10000, 0, 3, &e));
    OK(attach1(m, 1, 1, &e));
    ioas = ioas_of(m, 1);
    for (id = 1; id < 20; id++)
        if (id != ioas)
            attach_ioctl(fd, id); /* pool, device, HWPT, nothing */
    assert_int_equal(attach_ioctl(fd, 1), -EADDRINUSE);
    edu = edu_open(fd);
    assert_true(edu_reaches(&edu, 0x101000, 0x102000, memory->fd, 0x2000));
    /* Detached behind our back: our own detach is fine. Attached behind our back: ours replaces. */
    assert_int_equal(detach_ioctl(fd), 0);
    OK(vb_model_detach(m, 1, &e));
    assert_int_equal(attach_ioctl(fd, ioas), 0);
    OK(attach1(m, 1, 1, &e));
    OK(vb_model_detach(m, 1, &e));
    /* Attached while its space is destroyed: emptied at once, destroyed when it can be. */
    assert_int_equal(attach_ioctl(fd, ioas), 0);
    assert_true(edu_reaches(&edu, 0x101000, 0x102000, memory->fd, 0x2000));
    OK(vb_model_space_destroy(m, 1, &e));
    assert_false(edu_reaches(&edu, 0x101000, 0x102000, memory->fd, 0x2000));
    assert_int_equal(ops->leftovers(m->backend), 1);
    ops->tick(m->backend);
    assert_int_equal(ops->leftovers(m->backend), 1);
    add_space(m);
    assert_int_not_equal(ioas_of(m, 2), ioas);
    assert_int_equal(detach_ioctl(fd), 0);
    ops->tick(m->backend);
    assert_int_equal(ops->leftovers(m->backend), 0);
    edu_close(&edu);
    close(fd);
    vb_model_free(m);
}

static void test_devices_that_stay_open(void **state) {
    struct vb_model *m, *other;
    struct vb_device *d = NULL;
    vb_handle h, h2;
    int fd, copy, again, client;

    (void)state;
    NEED_MACHINE();
    m = real_model(open_iommufd(), false);
    h = real_device(m, 0, &fd)->handle;
    copy = dup(fd);
    assert_true(m->backend->ops->in_use(m->backend, h));
    OK(release1(m, 1, &h2, &e));
    assert_int_equal(h, h2);
    close(fd);
    assert_true(m->backend->ops->in_use(m->backend, h));

    /* Another session gets a fd, and a clear answer. */
    other = real_model(open_iommufd(), false);
    again = open(cdev[0], O_RDWR | O_CLOEXEC);
    OK(claim_fd(other, address[0], false, 0, again, &d, &client, &e));
    assert_int_equal(vb_model_bind(other, 1, fresh()), VB_BUSY);
    assert_text(&e, address[0], "open", NULL);
    close(copy);
    await_free(m, h);
    assert_false(m->backend->ops->in_use(m->backend, h));
    OK(vb_model_bind(other, 1, &e));
    close(client);
    OK(release1(other, 1, &h, &e));
    await_free(other, h);

    /* Never bound: not in use, whoever has the fd. */
    again = open(cdev[0], O_RDWR | O_CLOEXEC);
    OK(claim_fd(other, address[0], false, 0, again, &d, &client, &e));
    OK(release1(other, d->id, &h, &e));
    assert_false(other->backend->ops->in_use(other->backend, h));
    close(client);
    vb_model_free(other);
    vb_model_free(m);
}

/* A session dies; the daemon's dup of its context goes to a fresh process, here a fresh backend. */
static void test_taking_over(void **state) {
    struct vb_model *m, *holder;
    struct vb_memory *memory;
    int iommufd, fd, mem, i;
    uint32_t ioas;
    struct edu edu;

    (void)state;
    NEED_MACHINE();
    iommufd = open_iommufd();
    m = real_model(fcntl(iommufd, F_DUPFD_CLOEXEC, 0), false);
    memory = add_memory(m, MIB);
    add_space(m);
    OK(map1(m, 1, 1, 0x100000, 0x10000, 0, 3, &e));
    real_device(m, 0, &fd);
    OK(attach1(m, 1, 1, &e));
    ioas = ioas_of(m, 1);
    mem = dup(memory->fd);
    edu = edu_open(fd);

    holder = real_model(iommufd, false);
    assert_true(edu_reaches(&edu, 0x101000, 0x102000, mem, 0x2000));
    holder->backend->ops->take_over(holder->backend);
    assert_false(edu_reaches(&edu, 0x101000, 0x102000, mem, 0x2000));
    assert_int_equal(holder->backend->ops->devices_left(holder->backend), 1);
    assert_int_equal(detach_ioctl(fd), 0); /* the client goes on trying */
    assert_int_equal(attach_ioctl(fd, ioas), 0);
    assert_false(edu_reaches(&edu, 0x101000, 0x102000, mem, 0x2000));
    vb_model_free(m); /* what is left of the dead session */
    assert_int_equal(holder->backend->ops->devices_left(holder->backend), 1);
    edu_close(&edu);
    close(fd);
    for (i = 0; i < 100 && holder->backend->ops->devices_left(holder->backend); i++)
        usleep(20000);
    assert_int_equal(holder->backend->ops->devices_left(holder->backend), 0);
    close(mem);
    vb_model_free(holder);
}

/* Without capabilities the kernel enforces RLIMIT_MEMLOCK, as in a session. Exit status of the child: 0. */
static void in_child(void) {
    const struct rlimit limit = {2 * MIB, 2 * MIB};
    struct vb_model *m = real_model(open_iommufd(), false);
    struct vb_space *s;
    uint64_t n, bytes;
    int fd, device[2];

    device[0] = open(cdev[0], O_RDWR | O_CLOEXEC);
    assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    assert_int_equal(setresgid(NOBODY, NOBODY, NOBODY), 0);
    assert_int_equal(setresuid(NOBODY, NOBODY, NOBODY), 0);
    add_memory(m, 4 * MIB);
    s = add_space(m);
    add_space(m);
    struct vb_device *d = NULL;
    OK(claim_fd(m, address[0], false, 1, device[0], &d, &fd, &e));
    OK(vb_model_bind(m, 1, &e));
    OK(map1(m, 1, 1, 0, 4 * MIB, 0, 3, &e)); /* our ledger was told more than the kernel knows */
    assert_int_equal(attach1(m, 1, 1, fresh()), -ENOMEM);
    assert_text(&e, "RLIMIT_MEMLOCK", NULL);
    assert_int_equal(d->state, VB_DEVICE_BOUND);
    OK(vb_model_unmap_all(m, 1, &n, &bytes, &e));
    OK(map1(m, 1, 1, 0, MIB, 0, 3, &e));
    OK(attach1(m, 1, 1, &e));
    {
        struct vb_map_entry batch[3] = {{.iova = 0x1000000, .size = MIB, .memory = 1, .prot = 3},
                                        {.iova = 0x2000000, .size = MIB, .offset = MIB, .memory = 1, .prot = 3},
                                        {.iova = 0x3000000, .size = MIB, .offset = 2 * MIB, .memory = 1, .prot = 3}};

        assert_int_equal(vb_model_map(m, 1, batch, 3, fresh()), -ENOMEM);
        assert_int_equal(e.entry, 2);
        assert_text(&e, "RLIMIT_MEMLOCK", NULL);
        assert_true(s->mappings == 1 && m->ledger.used == MIB && own_pinned_kib() == 1024);
        OK(vb_model_map(m, 1, batch, 2, &e));
        assert_int_equal(own_pinned_kib(), 2048);
    }
    vb_model_free(m);
    close(fd);
    exit(0);
}

static void test_rlimit(void **state) {
    int status = -1;
    pid_t child;

    (void)state;
    NEED_MACHINE();
    fflush(NULL);
    child = fork();
    if (child == 0) {
        in_child();
        _exit(1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_a_shrunk_file(void **state) {
    struct vb_model *m;
    struct vb_memory *memory;
    int fd;

    (void)state;
    NEED_MACHINE();
    m = real_model(open_iommufd(), false);
    memory = add_memory(m, MIB);
    add_space(m);
    real_device(m, 0, &fd);
    OK(map1(m, 1, 1, 0, MIB, 0, 3, &e));
    assert_int_equal(ftruncate(memory->fd, 4096), 0);
    assert_int_equal(attach1(m, 1, 1, fresh()), VB_BAD_MEMORY);
    /* Shrunk behind our back, after we have looked: the kernel finds no pages, and nothing is attached. */
    assert_true(
        m->backend->ops->device_attach(m->backend, vb_model_device(m, 1, NULL)->handle, ioas_of(m, 1), fresh()) != 0);
    printf("# attach with a shrunk file: %s\n", e.text);
    assert_int_equal(vb_model_device(m, 1, NULL)->state, VB_DEVICE_BOUND);
    close(fd);
    vb_model_free(m);
}

static void test_no_iommufd(void **state) {
    struct vb_backend *b;

    (void)state;
    assert_int_equal(vb_iommufd_new(open("/dev/null", O_RDWR | O_CLOEXEC), false, NULL, &b, fresh()), -ENOTTY);
    assert_text(&e, "iommufd", NULL);
    assert_int_equal(vb_iommufd_new(-1, false, NULL, &b, fresh()), -EBADF);
}

/* Random requests with two devices attached; then everything is unpinned. What the kernel has is compared with the model by
 * unmapping each of its mappings alone. */
static void test_random(void **state) {
    struct vb_map_entry maps[4];
    struct vb_unmap_entry unmaps[3];
    unsigned step, i, n, done = 0;
    uint64_t k, bytes;
    struct vb_model *m;
    long before;
    int fd[2], r;

    (void)state;
    NEED_MACHINE();
    start_random();
    before = pinned_pages();
    m = real_model(open_iommufd(), false);
    for (i = 0; i < 3; i++)
        add_memory(m, 256 * KIB);
    for (i = 0; i < 2; i++) {
        add_space(m);
        real_device(m, (int)i, &fd[i]);
        OK(attach1(m, i + 1, i + 1, &e));
    }
    for (step = 0; step < 1500; step++) {
        uint32_t space = 1 + random_below(2);

        if (random_below(2)) {
            n = 1 + random_below(4);
            for (i = 0; i < n; i++)
                maps[i] = (struct vb_map_entry){.iova = random_below(256) * 4096ull,
                                                .size = (1 + random_below(8)) * 4096ull,
                                                .offset = random_below(56) * 4096ull,
                                                .memory = 1 + random_below(3),
                                                .prot = random_below(2) ? 3 : 1};
            r = vb_model_map(m, space, maps, n, fresh());
        } else {
            n = 1 + random_below(3);
            for (i = 0; i < n; i++)
                unmaps[i] = (struct vb_unmap_entry){random_below(256) * 4096ull, (1 + random_below(40)) * 4096ull};
            r = vb_model_unmap(m, space, unmaps, n, &k, &bytes, fresh());
        }
        if (r < 0)
            fail_msg("the kernel refused what the model granted: %s", e.text);
        done += r == 0;
    }
    printf("# %u of %u requests were granted, %lu KiB paid, %ld KiB pinned\n", done, step,
           (unsigned long)(m->ledger.used / 1024), own_pinned_kib());
    assert_int_equal(own_pinned_kib(), m->ledger.used / 1024);
    for (i = 1; i <= 2; i++) {
        struct vb_space *s = vb_model_space(m, i, NULL);
        struct vb_mapping *p;

        while ((p = vb_mapping_first(&s->tree, (struct vb_range){0, UINT64_MAX})))
            OK(unmap1(m, i, p->iova.first, vb_range_size(p->iova), &k, &bytes, &e));
    }
    assert_int_equal(own_pinned_kib(), 0);
    close(fd[0]);
    close(fd[1]);
    vb_model_free(m);
    assert_pinned_pages(before);
}

static void test_speed(void **state) {
    static struct vb_map_entry maps[1024];
    static struct vb_unmap_entry unmaps[1024];
    struct timespec a, b;
    struct vb_model *m;
    uint64_t n, bytes;
    unsigned i, attached;
    int fd;

    (void)state;
    NEED_MACHINE();
    m = real_model(open_iommufd(), false);
    add_memory(m, 4 * MIB);
    add_space(m);
    real_device(m, 0, &fd);
    for (i = 0; i < 1024; i++) {
        maps[i] =
            (struct vb_map_entry){.iova = i * 8192ull, .size = 4096, .offset = i * 4096ull, .memory = 1, .prot = 3};
        unmaps[i] = (struct vb_unmap_entry){.iova = i * 8192ull, .size = 4096};
    }
    for (attached = 0; attached < 2; attached++) {
        if (attached)
            OK(attach1(m, 1, 1, &e));
        clock_gettime(CLOCK_MONOTONIC, &a);
        OK(vb_model_map(m, 1, maps, 1024, &e));
        OK(vb_model_unmap(m, 1, unmaps, 1024, &n, &bytes, &e));
        clock_gettime(CLOCK_MONOTONIC, &b);
        printf("# map + unmap of one 4 KiB entry, %s: %.1f us\n", attached ? "attached" : "not attached",
               ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / 1024 / 1000);
    }
    close(fd);
    vb_model_free(m);
}

/* ---- HWPTs ---- */

static void assert_text_of(struct vb_model *m, uint32_t space, unsigned n_hwpts) {
    char text[128], *p;
    unsigned n = 0;

    m->backend->ops->domain_text(m->backend, ioas_of(m, space), text, sizeof(text));
    for (p = text; (p = strstr(p, ", hwpt ")); p++)
        n++;
    if (n != n_hwpts)
        fail_msg("%s: not %u HWPTs", text, n_hwpts);
}

static uint32_t hwpt_of(struct vb_model *m, uint32_t device) {
    return ((struct vb_iommufd *)m->backend)->devices[vb_model_device(m, device, NULL)->handle].hwpt;
}

/* One for all that fit, gone with the last; a client that attaches another device of its own to it only keeps it. */
static void test_hwpts(void **state) {
    const struct vb_backend_ops *ops;
    struct vb_memory *memory;
    struct vb_model *m;
    struct edu edu;
    uint32_t hwpt;
    int fd[2];

    (void)state;
    NEED_MACHINE();
    m = real_model(open_iommufd(), false);
    ops = m->backend->ops;
    memory = add_memory(m, MIB);
    add_space(m);
    OK(map1(m, 1, 1, 0x100000, 0x10000, 0, 3, &e));
    real_device(m, 0, &fd[0]);
    real_device(m, 1, &fd[1]);
    assert_text_of(m, 1, 0);
    OK(attach1(m, 1, 1, &e));
    OK(attach1(m, 2, 1, &e));
    assert_text_of(m, 1, 1);
    hwpt = hwpt_of(m, 1);
    assert_int_equal(hwpt, hwpt_of(m, 2));
    OK(vb_model_detach(m, 1, &e));
    assert_text_of(m, 1, 1);
    OK(vb_model_detach(m, 2, &e));
    assert_text_of(m, 1, 0);
    assert_int_equal(attach_ioctl(fd[1], hwpt), -ENOENT);
    assert_int_equal(ops->leftovers(m->backend), 0);

    OK(attach1(m, 1, 1, &e));
    hwpt = hwpt_of(m, 1);
    assert_int_equal(attach_ioctl(fd[1], hwpt), 0);
    edu = edu_open(fd[1]);
    assert_true(edu_reaches(&edu, 0x101000, 0x102000, memory->fd, 0x2000));
    OK(vb_model_detach(m, 1, &e));
    assert_int_equal(ops->leftovers(m->backend), 1);
    ops->tick(m->backend);
    assert_int_equal(ops->leftovers(m->backend), 1);
    OK(attach1(m, 1, 1, &e)); /* it is good enough for ours */
    assert_int_equal(hwpt_of(m, 1), hwpt);
    assert_int_equal(ops->leftovers(m->backend), 0);
    OK(vb_model_release(m, 1, &(vb_handle){0}, &(bool){false}, &e));
    OK(vb_model_space_destroy(m, 1, &e));
    assert_false(edu_reaches(&edu, 0x101000, 0x102000, memory->fd, 0x2000)); /* empty at once */
    assert_int_equal(ops->leftovers(m->backend), 2);                         /* the HWPT, and its IOAS */
    assert_int_equal(detach_ioctl(fd[1]), 0);
    ops->tick(m->backend);
    assert_int_equal(ops->leftovers(m->backend), 0);
    edu_close(&edu);
    close(fd[0]);
    close(fd[1]);
    vb_model_free(m);
}

static void test_no_dirty_tracking_here(void **state) {
    struct vb_model *m;
    int fd;

    (void)state;
    NEED_MACHINE();
    m = real_model(open_iommufd(), false);
    add_space(m);
    real_device(m, 0, &fd);
    OK(attach1(m, 1, 1, &e));
    assert_int_equal(vb_model_dirty_set(m, 1, true, NULL, fresh()), VB_UNSUPPORTED);
    printf("# %s\n", e.text);
    assert_text(&e, address[0], "no dirty tracking", NULL);
    close(fd);
    vb_model_free(m);
}

/* What is said to be needed nobody can reserve, also behind our back. */
static void test_needs(void **state) {
    const struct vb_range window = {0xfee00000, 0xfee00fff}, low = {0, 0xffffff};
    struct vb_model *m;
    int fd;

    (void)state;
    NEED_MACHINE();
    m = real_model(open_iommufd(), false);
    add_space(m);
    real_device(m, 0, &fd);
    OK(vb_model_space_need(m, 1, &window, 1, &e));
    assert_int_equal(attach1(m, 1, 1, fresh()), VB_RESERVED);
    assert_int_equal(attach_ioctl(fd, ioas_of(m, 1)), -EADDRINUSE);
    OK(vb_model_space_need(m, 1, &low, 1, &e));
    OK(attach1(m, 1, 1, &e));
    assert_int_equal(vb_model_space_need(m, 1, &window, 1, fresh()), VB_RESERVED);
    assert_int_equal(m->backend->ops->domain_need(m->backend, ioas_of(m, 1), &window, 1, fresh()),
                     VB_RESERVED); /* the kernel's word */
    OK(vb_model_detach(m, 1, &e));
    OK(vb_model_space_need(m, 1, NULL, 0, &e));
    OK(attach1(m, 1, 1, &e));
    close(fd);
    vb_model_free(m);
}

/* ---- pieces and threads ---- */

/* A part cannot be mapped: nothing of the mapping stays. All can: DMA across the border of two pieces. */
static void test_parallel(void **state) {
    const uint64_t size = 128 * MIB, border = 64 * MIB, other = 0x100000000;
    struct vb_backend_map map = {.iova = other, .size = size, .prot = 3}, small;
    struct vb_memory_desc desc = {.size = size, .writable = true};
    struct vb_iommu_ioas_unmap u = {.size = sizeof(u), .iova = other, .length = size};
    const struct vb_range whole = {other, other + size - 1};
    struct vb_backend *b;
    struct vb_model *m;
    struct edu edu;
    size_t done;
    long before;
    int fd;

    (void)state;
    NEED_MACHINE();
    before = own_pinned_kib();
    workers = vb_workers_new(1);
    assert_int_equal(vb_workers_count(workers), 1);
    m = real_model(open_iommufd(), false);
    b = m->backend;
    add_space(m);
    real_device(m, 0, &fd);
    OK(attach1(m, 1, 1, &e));
    desc.fd = memfd_create("big", MFD_CLOEXEC);
    assert_int_equal(ftruncate(desc.fd, (off_t)size), 0);
    assert_int_equal(pwrite(desc.fd, "x", 1, 0x1000), 1);
    OK(b->ops->memory_add(b, &desc, &map.memory, &e));
    assert_int_equal(((struct vb_iommufd *)b)->slots[map.memory].piece, border);
    /* Something is in the way, in the second part. */
    small = map;
    small.iova = other + border + 0x1000;
    small.size = 0x1000;
    OK(b->ops->map(b, ioas_of(m, 1), &small, 1, &done, &e));
    assert_int_equal(b->ops->map(b, ioas_of(m, 1), &map, 1, &done, fresh()), -EEXIST);
    /* A file that is too short there: the first part goes again. */
    b->ops->unmap(b, ioas_of(m, 1), &whole, 1, &done, &e);
    assert_int_equal(own_pinned_kib(), before);
    assert_int_equal(ftruncate(desc.fd, (off_t)(border + 0x1000)), 0);
    assert_int_equal(b->ops->map(b, ioas_of(m, 1), &map, 1, &done, fresh()), -EINVAL);
    assert_int_equal(own_pinned_kib(), before);
    u.ioas_id = ioas_of(m, 1);
    assert_int_equal(ioctl(((struct vb_iommufd *)b)->fd, IOMMU_IOAS_UNMAP, &u), -1);
    assert_int_equal(errno, ENOENT);
    assert_int_equal(ftruncate(desc.fd, (off_t)size), 0);
    OK(b->ops->map(b, ioas_of(m, 1), &map, 1, &done, &e));
    assert_int_equal(own_pinned_kib() - before, size / KIB);
    assert_int_equal(b->ops->map(b, ioas_of(m, 1), &map, 1, &done, fresh()), -EEXIST); /* and it stays */
    edu = edu_open(fd);
    assert_true(edu_reaches(&edu, other + 0x1000, other + border + 0x2fc0, desc.fd, border + 0x2fc0));
    assert_true(edu_reaches(&edu, other + 0x1000, other + border - 0x40, desc.fd, border - 0x40));
    edu_close(&edu);
    OK(b->ops->unmap(b, ioas_of(m, 1), &whole, 1, &done, &e));
    assert_int_equal(own_pinned_kib(), before);
    /* Parts that begin and end anywhere. */
    map.offset = 0x3000;
    map.size = size - 0x4000;
    if (map.size < 128 * MIB)
        map.size -= 0x1000;
    OK(b->ops->map(b, ioas_of(m, 1), &map, 1, &done, &e));
    OK(b->ops->unmap(b, ioas_of(m, 1), &whole, 1, &done, &e));
    b->ops->memory_remove(b, map.memory);
    assert_int_equal(b->ops->leftovers(b), 0);
    close(desc.fd);
    close(fd);
    vb_model_free(m);
    workers = vb_workers_free(workers);
}

/* ---- the host wants a device back ---- */

static void test_request(void **state) {
    const struct vb_backend_ops *ops;
    struct pollfd p = {.events = POLLIN};
    struct vb_model *m;
    char path[128];
    pid_t child;
    vb_handle h;
    int fd, status;

    (void)state;
    NEED_MACHINE();
    m = real_model(open_iommufd(), false);
    ops = m->backend->ops;
    h = real_device(m, 2, &fd)->handle;
    p.fd = ops->device_fd(m->backend, h);
    assert_true(p.fd >= 0);
    assert_int_equal(poll(&p, 1, 0), 0);
    assert_int_equal(ops->device_ready(m->backend, h), 0);
    child = fork();
    if (child == 0) { /* waits until the device is closed */
        close(fd);
        close(((struct vb_iommufd *)m->backend)->devices[h].fd);
        write_text("/sys/bus/pci/drivers/vfio-pci/unbind", address[2]);
        _exit(0);
    }
    assert_int_equal(poll(&p, 1, 20000), 1);
    assert_int_equal(ops->device_ready(m->backend, h), 1);
    assert_int_equal(ops->device_ready(m->backend, h), 0);
    close(fd);
    vb_model_free(m);
    assert_int_equal(waitpid(child, &status, 0), child);
    snprintf(path, sizeof(path), "/sys/bus/pci/drivers/vfio-pci/%s", address[2]);
    assert_int_equal(access(path, F_OK), -1);
    write_text("/sys/bus/pci/drivers_probe", address[2]);
    prepare(NULL); /* it may have another number now */
    assert_null(missing);
}

/* ---- software devices ---- */

/* An mdev of the kernel's sample driver; -1: it is not here. */
static int open_mtty(void) {
    static const char uuid[] = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    char path[256];
    glob_t g;
    int fd = -1;

    if (glob("/sys/devices/virtual/mtty/mtty/mdev_supported_types/*/create", 0, NULL, &g) != 0)
        return -1;
    snprintf(path, sizeof(path), "/sys/bus/mdev/devices/%s", uuid);
    if (access(path, F_OK) < 0)
        write_text(g.gl_pathv[0], uuid);
    globfree(&g);
    snprintf(path, sizeof(path), "/sys/bus/mdev/devices/%s/vfio-dev/vfio*", uuid);
    if (glob(path, 0, NULL, &g) == 0) {
        snprintf(path, sizeof(path), "/dev/vfio/devices/%.64s", strrchr(g.gl_pathv[0], '/') + 1);
        fd = open(path, O_RDWR | O_CLOEXEC);
        globfree(&g);
    }
    return fd;
}

static void test_software(void **state) {
    struct vb_model *m, *holder;
    struct vb_device *d = NULL;
    const struct vb_backend_ops *ops;
    int fd, client, other, again, iommufd, i;
    bool software = false;
    vb_handle h, h2;
    uint32_t id;

    (void)state;
    NEED_MACHINE();
    fd = open_mtty();
    if (fd < 0) {
        printf("# skipped: no mtty\n");
        skip();
    }
    iommufd = open_iommufd();
    m = real_model(fcntl(iommufd, F_DUPFD_CLOEXEC, 0), false);
    ops = m->backend->ops;
    add_memory(m, MIB);
    add_space(m);
    OK(map1(m, 1, 1, 0x100000, 0x10000, 0, 3, &e));
    assert_int_equal(m->ledger.used, 0x10000);
    /* What sysfs does not call software is refused. */
    OK(claim_fd(m, "mtty", false, 0, fd, &d, &client, &e));
    assert_int_equal(vb_model_bind(m, d->id, fresh()), VB_UNSUPPORTED);
    assert_text(&e, "software", NULL);
    OK(release1(m, d->id, &h, &e));
    assert_true(ops->in_use(m->backend, h)); /* bound, and the client has it */
    close(client);
    await_free(m, h);

    OK(claim_fd(m, "mtty", true, 0, open_mtty(), &d, &client, &e));
    h = d->handle;
    assert_int_equal(m->ledger.used, MIB); /* all that it could reach in the pool */
    OK(vb_model_bind(m, d->id, &e));
    OK(attach1(m, d->id, 1, &e));
    assert_text_of(m, 1, 0); /* no page tables */
    real_device(m, 0, &other);
    OK(attach1(m, vb_model_device(m, d->id + 1, NULL)->id, 1, &e));
    assert_int_equal(vb_model_dirty_set(m, 1, true, NULL, fresh()), VB_UNSUPPORTED);
    OK(vb_model_detach(m, d->id, &e));
    OK(attach1(m, d->id, 1, &e));
    id = ((struct vb_iommufd *)m->backend)->devices[h].devid;
    again = dup(client);
    close(client);
    OK(vb_model_release(m, d->id, &h2, &software, &e));
    assert_true(software && ops->in_use(m->backend, h));
    assert_int_equal(attach_ioctl(again, ioas_of(m, 1)), 0); /* the client goes on with it */
    assert_true(ops->in_use(m->backend, h));

    /* A session that takes over sees it too. */
    holder = real_model(fcntl(iommufd, F_DUPFD_CLOEXEC, 0), false);
    assert_true(holder->backend->ops->take_over(holder->backend));
    assert_int_equal(holder->backend->ops->devices_left(holder->backend), 2);
    close(again);
    for (i = 0; i < 100 && holder->backend->ops->devices_left(holder->backend) > 1; i++)
        usleep(20000);
    assert_int_equal(holder->backend->ops->devices_left(holder->backend), 1);
    vb_model_free(holder);

    /* Its id goes to the next object, which is not asked for the device, and stays. */
    add_space(m);
    assert_int_equal(ioas_of(m, 2), id);
    assert_false(ops->in_use(m->backend, h));
    assert_int_equal(attach_ioctl(other, id), 0);
    vb_model_software_gone(m);
    assert_int_equal(m->ledger.used, 0x10000);
    close(other);
    vb_model_free(m);
    close(iommufd);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_no_iommufd),
        TEST(test_dma_map_file),
        TEST(test_dma_by_address),
        TEST(test_read_only_memory),
        TEST(test_across_pieces),
        TEST(test_a_page_is_pinned_once),
        TEST(test_reserved_regions),
        TEST(test_hostile_client_attaches_and_detaches),
        TEST(test_devices_that_stay_open),
        TEST(test_taking_over),
        TEST(test_rlimit),
        TEST(test_a_shrunk_file),
        TEST(test_hwpts),
        TEST(test_no_dirty_tracking_here),
        TEST(test_needs),
        TEST(test_parallel),
        TEST(test_request),
        TEST(test_software),
        TEST(test_random),
        TEST(test_speed),
    };

    return cmocka_run_group_tests_name("iommufd", tests, prepare, NULL);
}
