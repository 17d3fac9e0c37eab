/* The type1 backend on a real kernel with a real (QEMU's) IOMMU: run by `tests/vm/run -- PROGRAM [compat]`, on the own kernel and
 * on Debian's stock kernel. Needs root, VFIO and edu devices, which it binds to vfio-pci; skips everything elsewhere, and says
 * why. */
#include "tests/unit/type1-fixture.h"

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define NOBODY 65534
#define BASE   0x100000ull
#define SOURCE 0x1000ull /* of DMA that leaves the other pages alone */

static struct vb_type1_container *container_at(vb_handle domain) {
    return &((struct vb_type1 *)b)->containers[domain];
}

static bool dma_reaches(int client_fd, uint64_t from, uint64_t to, int fd, uint64_t offset) {
    struct edu edu = edu_open(client_fd);
    bool yes = edu_reaches(&edu, from, to, fd, offset);

    edu_close(&edu);
    return yes;
}

/* ---- tests ---- */

static unsigned count_bits(const uint64_t *bits, size_t words) {
    unsigned n = 0;
    size_t i;

    for (i = 0; i < words; i++)
        n += (unsigned)__builtin_popcountll(bits[i]);
    return n;
}

static void test_dma(void **state) {
    unsigned char x[2048], y[2048];
    vb_handle dev, dom, mem;
    struct edu edu;
    char text[80];
    int fd, ram;

    (void)state;
    NEED_TYPE1();
    begin();
    assert_false(b->ops->eager);
    assert_int_equal(b->ops->features(b), 1 | 64);
    dev = device(0, VB_NO_HANDLE, &fd);
    dom = domain_of(dev);
    mem = memory(MIB, &ram);
    map(dom, mem, BASE, 0x10000, 0);
    map(dom, mem, BASE + 0x10000, 0x1000, 0x80000);
    edu = edu_open(fd);
    edu_copy(&edu, BASE + 0x3000, BASE + 0x10000, sizeof(x));
    assert_int_equal(pread(ram, x, sizeof(x), 0x3000), sizeof(x));
    assert_int_equal(pread(ram, y, sizeof(y), 0x80000), sizeof(y));
    assert_memory_equal(x, y, sizeof(x));
    assert_int_equal(x[0], 3);
    edu_close(&edu);
    b->ops->domain_text(b, dom, text, sizeof(text));
    printf("# domain: %s\n", text);
    assert_non_null(strstr(text, "container of group "));
    assert_int_equal(strstr(text, "iommufd") != NULL, compat);

    assert_int_equal(unmap(dom, BASE + 0x10000, 0x1000), 0);
    assert_false(dma_reaches(fd, BASE, BASE + 0x10000, ram, 0x80000));
    assert_int_equal(unmap(dom, BASE + 0x10000, 0x1000), -ENOENT);
    assert_true(unmap(dom, BASE, 0x1000) < 0); /* cuts a mapping */
    assert_true(dma_reaches(fd, BASE + 0x1000, BASE, ram, 0));
    assert_int_equal(try_map(dom, mem, BASE + 0x4000, 0x1000, 0, 3), -EEXIST);
    close(fd);
    close_device(dev);
    close(ram);
    end();
}

static void test_info(void **state) {
    struct vb_space_info info;
    bool msi = false;
    vb_handle dom;
    uint32_t i;
    int fd;

    (void)state;
    NEED_TYPE1();
    begin();
    dom = domain_of(device(0, VB_NO_HANDLE, &fd));
    OK(b->ops->domain_info(b, dom, &info, &e));
    assert_int_equal(info.page_sizes & -info.page_sizes, 4096);
    for (i = 0; i < info.n_usable; i++)
        printf("# usable: 0x%llx-0x%llx\n", (unsigned long long)info.usable[i].first,
               (unsigned long long)info.usable[i].last);
    assert_true(info.n_usable >= 2);
    assert_int_equal(info.usable[0].first, 0);
    for (i = 0; i < info.n_usable; i++) {
        assert_true(info.usable[i].first <= info.usable[i].last);
        assert_true(i == 0 || info.usable[i - 1].last < info.usable[i].first);
        msi |= info.usable[i].first <= 0xfee00000 && info.usable[i].last >= 0xfee00000;
    }
    assert_false(msi);
    assert_true(container_at(dom)->limit >= 65535);
    close(fd);
    end();
}

/* Nothing is left of a domain that was closed, in the same container, and it can be filled again. */
static void test_replay(void **state) {
    vb_handle dev, dom, mem;
    int fd, ram;
    size_t done;

    (void)state;
    NEED_TYPE1();
    begin();
    dev = device(0, VB_NO_HANDLE, &fd);
    dom = domain_of(dev);
    mem = memory(MIB, &ram);
    assert_int_equal(map_pages(dom, mem, BASE, 64, 64, &done), 0);
    assert_true(dma_reaches(fd, BASE + 0x1000, BASE + 0x2000, ram, 0x2000));
    OK(b->ops->device_detach(b, dev, &e));
    b->ops->domain_close(b, dom);
    assert_int_equal(b->ops->leftovers(b), 0);
    assert_false(dma_reaches(fd, BASE + 0x1000, BASE + 0x2000, ram, 0x2000));
    assert_int_equal(domain_of(dev), dom);
    assert_int_equal(map_pages(dom, mem, BASE, 64, 64, &done), 0);
    assert_true(dma_reaches(fd, BASE + 0x1000, BASE + 0x2000, ram, 0x2000));
    close(fd);
    close(ram);
    end();
}

/* Through the model: the same space with its device detached and attached again, then released and claimed again. */
static void test_model(void **state) {
    struct vb_claim_desc c = {.address = address[0], .reserved = &msi_window, .n_reserved = 1};
    struct vb_attached attached = {0};
    struct vb_memory *ram;
    struct vb_model *m;
    struct vb_device *d;
    vb_handle handle;
    int fd, i;

    (void)state;
    NEED_TYPE1();
    begin();
    assert_int_equal(vb_model_new(b, VB_MAPPINGS_DEFAULT, &m), 0);
    m->ledger.lease = m->ledger.limit = 1ull << 40;
    ram = add_memory(m, MIB);
    add_space(m);
    for (i = 0; i < 300; i++)
        OK(map1(m, 1, ram->id, BASE + (uint64_t)i * 0x2000, 0x1000, (uint64_t)i % 256 * 0x1000, 3, &e));
    c.group = group_number(0);
    for (i = 1; i <= 2; i++) {
        c.fds[0] = open_group(0);
        c.fds[1] = open_container();
        OK(vb_model_claim(m, &c, &d, &fd, &e));
        OK(vb_model_bind(m, d->id, &e));
        OK(vb_model_attach(m, d->id, 1, false, &attached, &e));
        assert_int_equal(attached.mappings, 300);
        assert_true(dma_reaches(fd, BASE + 0x2000, BASE + 0x4000, ram->fd, 0x2000));
        OK(vb_model_detach(m, d->id, &e));
        assert_false(dma_reaches(fd, BASE + 0x2000, BASE + 0x4000, ram->fd, 0x2000));
        OK(vb_model_attach(m, d->id, 1, false, &attached, &e));
        assert_true(dma_reaches(fd, BASE + 0x2000, BASE + 0x4000, ram->fd, 0x2000));
        close(fd);
        OK(release1(m, d->id, &handle, &e));
        await_not_in_use(handle);
        assert_group_free(0);
    }
    vb_model_free(m);
    b = NULL;
    end();
}

static void test_two_devices(void **state) {
    int fd[3], ram, i;
    vb_handle dev[3], dom, mem;

    (void)state;
    NEED_TYPE1();
    begin();
    dev[0] = device(0, VB_NO_HANDLE, &fd[0]);
    dom = domain_of(dev[0]);
    mem = memory(MIB, &ram);
    map(dom, mem, BASE, 0x10000, 0);
    dev[1] = device(1, dev[0], &fd[1]); /* the kernel replays */
    dev[2] = device(2, VB_NO_HANDLE, &fd[2]);
    assert_int_equal(domain_of(dev[1]), dom);
    assert_int_not_equal(domain_of(dev[2]), dom);
    assert_int_equal(b->ops->device_attach(b, dev[2], dom, fresh()), VB_BUSY);
    assert_true(dma_reaches(fd[0], BASE + 0x1000, BASE + 0x2000, ram, 0x2000));
    assert_true(dma_reaches(fd[1], BASE + 0x1000, BASE + 0x2000, ram, 0x2000));
    assert_false(dma_reaches(fd[2], BASE + 0x1000, BASE + 0x2000, ram, 0x2000));
    /* One goes, the other stays. */
    close(fd[0]);
    close_device(dev[0]);
    await_not_in_use(dev[0]);
    assert_group_free(0);
    assert_true(dma_reaches(fd[1], BASE + 0x1000, BASE + 0x2000, ram, 0x2000));
    for (i = 1; i < 3; i++)
        close(fd[i]);
    close(ram);
    end();
}

/* Mappings where the MSIs are, through a container whose first device's driver says nothing of them, cannot be had here: what is
 * refused at map() is. */
static void test_refusals(void **state) {
    struct vb_memory_desc ro = {.size = MIB}, dma_buf = {.fd = -1, .size = MIB, .dma_buf = true};
    vb_handle dev, dom, mem, h = 0;
    struct vb_device_desc none = {.address = address[1], .fds = {-1, -1}, .with = VB_NO_HANDLE};
    struct vb_device_desc wrong = {.address = "0000:00:1f.7", .fds = {-1, -1}, .with = VB_NO_HANDLE};
    int fd, ram, client;

    (void)state;
    NEED_TYPE1();
    begin();
    none.group = group_number(1);
    assert_int_equal(b->ops->device_open(b, &none, &h, &client, fresh()), -EBADF);
    wrong.group = group_number(1);
    wrong.fds[0] = open_group(1);
    wrong.fds[1] = open_container();
    assert_int_equal(b->ops->device_open(b, &wrong, &h, &client, fresh()), VB_NOT_FOUND);
    assert_text(&e, "0000:00:1f.7", "vfio-pci", NULL);
    assert_group_free(1);

    dev = device(0, VB_NO_HANDLE, &fd);
    dom = domain_of(dev);
    mem = memory(MIB, &ram);
    assert_int_equal(b->ops->memory_add(b, &dma_buf, &h, fresh()), VB_UNSUPPORTED);
    assert_text(&e, "dma-buf", "6.19", NULL);
    assert_int_equal(try_map(dom, mem, 0xfee00000, 0x1000, 0, 3), -EINVAL);

    ro.fd = reopen(ram, O_RDONLY);
    OK(b->ops->memory_add(b, &ro, &h, &e));
    close(ro.fd);
    assert_int_equal(try_map(dom, h, BASE, 0x1000, 0, 3), -EPERM);
    assert_int_equal(try_map(dom, h, BASE, 0x1000, 0x5000, 1), 0);
    map(dom, mem, BASE + 0x1000, 0x1000, 0);
    assert_true(dma_reaches(fd, BASE, BASE + 0x1000, ram, 0));
    assert_false(dma_reaches(fd, BASE + 0x1000, BASE, ram, 0x5000));

    assert_int_equal(ftruncate(ram, 0x8000), 0);
    assert_int_equal(try_map(dom, mem, BASE + 0x10000, 0x1000, 0x9000, 3), VB_BAD_MEMORY);
    assert_text(said, "truncated", NULL);
    close(fd);
    close(ram);
    end();
}

/* A session has no capabilities: what it maps is its own locked_vm, up to its RLIMIT_MEMLOCK. */
static void test_rlimit(void **state) {
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}};
    struct rlimit r = {8 * MIB, 8 * MIB};
    vb_handle dom, mem;
    int fd, ram, status;
    pid_t pid;

    (void)state;
    NEED_TYPE1();
    begin();
    dom = domain_of(device(0, VB_NO_HANDLE, &fd));
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        long before;
        int bad = 0;

        mem = memory(16 * MIB, &ram);
        setrlimit(RLIMIT_MEMLOCK, &r);
        syscall(SYS_capset, &head, none);
        before = own_kib(compat ? "VmPin" : "VmLck");
        bad |= try_map(dom, mem, BASE, 4 * MIB, 0, 3) != 0;
        bad |= (own_kib(compat ? "VmPin" : "VmLck") - before != 4096) << 1;
        bad |= (try_map(dom, mem, 0x10000000, 16 * MIB, 0, 3) != -ENOMEM || !strstr(said->text, "RLIMIT_MEMLOCK")) << 2;
        bad |= (try_map(dom, mem, 0x10000000, 4 * MIB, 0, 3) != 0) << 3; /* the same pages, paid again */
        bad |= (try_map(dom, mem, 0x20000000, 0x1000, 0, 3) != -ENOMEM) << 4;
        bad |= (unmap(dom, BASE, 4 * MIB) != 0) << 5;
        bad |= (try_map(dom, mem, 0x20000000, 0x1000, 0, 3) != 0) << 6;
        _exit(bad);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    close(fd);
    end();
}

/* ---- in use ---- */

static void test_in_use(void **state) {
    vb_handle dev, again, dom, mem;
    int fd, fd2, ram, i;

    (void)state;
    NEED_TYPE1();
    begin();
    mem = memory(MIB, &ram);
    for (i = 0; i < 2; i++) {
        dev = device(0, VB_NO_HANDLE, &fd);
        dom = domain_of(dev);
        map(dom, mem, BASE, 0x10000, 0);
        assert_true(dma_reaches(fd, BASE + 0x1000, BASE + 0x2000, ram, 0x2000));
        b->ops->domain_close(b, dom);
        assert_true(b->ops->in_use(b, dev));
        close_device(dev);
        usleep(100000);
        assert_true(b->ops->in_use(b, dev)); /* the client has it */
        assert_true(b->ops->in_use(b, dev));
        assert_int_equal(open_group(0), -1);
        if (i == 1) {
            /* Claimed again while the client has it: the group is ours again, and in use as long as that fd is open. */
            again = device(0, VB_NO_HANDLE, &fd2);
            assert_false(b->ops->in_use(b, dev));
            dom = domain_of(again);
            map(dom, mem, BASE, 0x10000, 0);
            assert_true(dma_reaches(fd, BASE + 0x1000, BASE + 0x2000, ram, 0x2000));
            close(fd2);
            close_device(again);
            usleep(100000);
            assert_true(b->ops->in_use(b, again));
            assert_false(dma_reaches(fd, BASE + 0x1000, BASE + 0x2000, ram, 0x2000)); /* in_use() has emptied it */
            dev = again;
        }
        close(fd);
        await_not_in_use(dev);
        assert_false(b->ops->in_use(b, dev));
        assert_group_free(0);
    }
    close(ram);
    end();
}

static void test_wanted(void **state) {
    struct {
        struct vfio_irq_set set;
    } irq = {.set = {.argsz = sizeof(irq),
                     .flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
                     .index = VFIO_PCI_REQ_IRQ_INDEX,
                     .count = 1}};
    vb_handle dev;
    int fd;

    (void)state;
    NEED_TYPE1();
    begin();
    dev = device(0, VB_NO_HANDLE, &fd);
    assert_true(b->ops->device_fd(b, dev) >= 0);
    assert_int_equal(b->ops->device_ready(b, dev), 0);
    assert_int_equal(ioctl(fd, VFIO_DEVICE_SET_IRQS, &irq), 0);
    assert_int_equal(b->ops->device_ready(b, dev), 1);
    assert_int_equal(b->ops->device_ready(b, dev), 0);
    close(fd);
    end();
}

/* ---- software ---- */

#define MTTY "b5a4ad6e-0f24-4e3c-9d4f-1d2c4b8f0a01"

static bool make_mtty(uint32_t *ret_group) {
    char link[256];
    ssize_t n;

    write_text("/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/create", MTTY);
    n = readlink("/sys/bus/mdev/devices/" MTTY "/iommu_group", link, sizeof(link) - 1);
    if (n <= 0)
        return false;
    link[n] = 0;
    *ret_group = (uint32_t)strtoul(strrchr(link, '/') + 1, NULL, 10);
    return true;
}

/* An mdev (the own kernel's mtty): nothing is pinned, everything is usable, and it is in use as long as somebody has it. */
static void test_software(void **state) {
    struct vb_device_desc d = {.address = MTTY, .software = true, .with = VB_NO_HANDLE};
    struct vb_dirty_info info;
    struct vb_space_info usable;
    vb_handle dev, dom, mem;
    uint64_t bits[MIB / 4096 / 64] = {0};
    char path[64];
    long before;
    int fd, ram, i;

    (void)state;
    NEED_TYPE1();
    if (!make_mtty(&d.group)) {
        printf("# skipped: no mdev mtty\n");
        skip();
    }
    begin();
    mem = memory(MIB, &ram);
    snprintf(path, sizeof(path), "/dev/vfio/%u", d.group);
    for (i = 0; i < 2; i++) {
        before = pinned_pages();
        d.fds[0] = open(path, O_RDWR | O_CLOEXEC);
        assert_true(d.fds[0] >= 0);
        d.fds[1] = open_container();
        OK(b->ops->device_open(b, &d, &dev, &fd, &e));
        OK(b->ops->device_bind(b, dev, &e));
        assert_int_equal(b->ops->device_fd(b, dev), -1); /* it is no PCI device */
        dom = domain_of(dev);
        OK(b->ops->domain_info(b, dom, &usable, &e));
        assert_int_equal(usable.n_usable, 1);
        assert_int_equal(usable.usable[0].first, 0);
        map(dom, mem, BASE, MIB, 0);
        assert_pinned_pages(before);
        if (!compat) {
            OK(b->ops->dirty_set(b, dom, true, &info, &e));
            OK(b->ops->dirty_read(b, dom, (struct vb_range){BASE, BASE + MIB - 1}, 4096, false, bits, &e));
            assert_int_equal(count_bits(bits, 4), 0);
            OK(b->ops->dirty_read(b, dom, (struct vb_range){BASE, BASE + MIB - 1}, 0x10000, true, bits, &e));
            assert_int_equal(bits[0], 0xffff);
            memset(bits, 0, sizeof(bits));
        }
        close_device(dev);
        usleep(50000);
        assert_true(b->ops->in_use(b, dev));
        assert_true(b->ops->in_use(b, dev));
        close(fd);
        await_not_in_use(dev);
        assert_int_equal(vb_type1_group_find((struct vb_type1 *)b, d.group) != NULL, false);
    }
    close(ram);
    end();
    write_text("/sys/bus/mdev/devices/" MTTY "/remove", "1");
}

/* ---- a dead session ---- */

static int send_fds(void *arg, uint32_t group, int group_fd, int container_fd) {
    int *pair = arg;

    assert_int_equal(group, group_number(0));
    pair[0] = fcntl(group_fd, F_DUPFD_CLOEXEC, 0);
    pair[1] = fcntl(container_fd, F_DUPFD_CLOEXEC, 0);
    return 7;
}

static void test_taking_over(void **state) {
    struct vb_backend *dead;
    int fd, ram, pair[2];
    vb_handle dom, mem;

    (void)state;
    NEED_TYPE1();
    begin();
    assert_int_equal(b->ops->devices_left(b), 0);
    assert_int_equal(vb_type1_each_group(b, send_fds, pair), 0);
    dom = domain_of(device(0, VB_NO_HANDLE, &fd));
    mem = memory(MIB, &ram);
    map(dom, mem, BASE, 0x10000, 0);
    assert_int_equal(vb_type1_each_group(b, send_fds, pair), 7);

    dead = b;
    OK(vb_type1_new(&b, &e));
    OK(vb_type1_hold_group(b, group_number(0), pair[0], pair[1], &e));
    assert_true(dma_reaches(fd, BASE + 0x1000, BASE + 0x2000, ram, 0x2000));
    assert_true(b->ops->take_over(b));
    assert_false(dma_reaches(fd, BASE + 0x1000, BASE + 0x2000, ram, 0x2000));
    assert_int_equal(b->ops->devices_left(b), 1);
    /* What is left of the dead one goes: its fds. The client's copy stays. */
    dead->ops->close(dead);
    assert_int_equal(b->ops->devices_left(b), 1);
    close(fd);
    for (unsigned i = 0; i < 200 && b->ops->devices_left(b); i++)
        usleep(20000);
    assert_int_equal(b->ops->devices_left(b), 0);
    assert_int_equal(vb_type1_each_group(b, send_fds, pair), 0);
    assert_group_free(0);
    close(ram);
    end();
}

/* ---- dirty tracking ---- */

static void test_dirty(void **state) {
    const struct vb_range range = {BASE, BASE + 0x7ffff}, shifted = {BASE + 0x9000, BASE + 0x18fff};
    struct vb_dirty_info info = {0};
    uint64_t bits[2] = {0};
    vb_handle dom, mem;
    int fd, ram, i;

    (void)state;
    NEED_TYPE1();
    begin();
    dom = domain_of(device(0, VB_NO_HANDLE, &fd));
    mem = memory(MIB, &ram);
    map(dom, mem, BASE + 0x3000, 0x4000, 0);
    if (compat) {
        assert_int_equal(b->ops->dirty_set(b, dom, true, &info, fresh()), VB_UNSUPPORTED);
        assert_text(&e, address[0], NULL);
    } else {
        OK(b->ops->dirty_read(b, dom, range, 4096, false, bits, fresh())); /* not on: no bits */
        assert_true(bits[0] == 0);
        OK(b->ops->dirty_set(b, dom, true, &info, &e));
        assert_true(info.coarse);
        assert_int_equal(info.page_size, 4096);
        map(dom, mem, BASE + 0x11000, 0x3000, 0); /* while it is on */
        for (i = 0; i < 3; i++) {                 /* with keep and without: all that is mapped, nothing else */
            bits[0] = 1;
            bits[1] = 1ull << 63;
            OK(b->ops->dirty_read(b, dom, range, 4096, i == 1, bits, &e));
            assert_int_equal(bits[0], 1 | 0xfull << 3 | 7ull << 0x11);
            assert_int_equal(bits[1], 1ull << 63);
        }
        memset(bits, 0, sizeof(bits));
        OK(b->ops->dirty_read(b, dom, shifted, 4096, false, bits, &e));
        assert_int_equal(bits[0], 7ull << 8);
        memset(bits, 0, sizeof(bits));
        OK(b->ops->dirty_read(b, dom, range, 16384, false, bits, &e)); /* coarser pages: 3-6, 0x11-0x13 */
        assert_int_equal(bits[0], 1 | 2 | 1 << 4);
        assert_int_equal(
            b->ops->dirty_read(b, dom, (struct vb_range){0, (1ull << 44) - 1}, 1 << 20, false, bits, fresh()),
            VB_LIMIT);
        assert_text(&e, "256 MiB", NULL);
        OK(b->ops->dirty_set(b, dom, true, &info, &e));
        assert_int_equal(b->ops->dirty_set(b, dom, false, NULL, NULL), 0);
        OK(b->ops->dirty_read(b, dom, range, 4096, false, bits, &e)); /* off again: adds none */
        assert_int_equal(count_bits(bits, 1), 3);
    }
    close(fd);
    close(ram);
    end();
}

/* ---- the limit of entries ---- */

#define LIMIT_FILE "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit"

/* A container that is made now has so many. */
static void set_limit(unsigned n) {
    char text[16];

    snprintf(text, sizeof(text), "%u", n);
    write_text(LIMIT_FILE, text);
}

static uint32_t entries_left(vb_handle domain) {
    assert_true(vb_type1_container_ask(container_at(domain)));
    return container_at(domain)->avail;
}

static void test_limit(void **state) {
    const uint64_t far = 0x100000000;
    vb_handle dom, mem;
    size_t done, n = 0;
    int fd, ram, r;

    (void)state;
    NEED_TYPE1();
    if (compat)
        skip(); /* has no limit */
    begin();
    set_limit(65535);
    dom = domain_of(device(0, VB_NO_HANDLE, &fd));
    mem = memory(MIB, &ram);
    /* Every other page: nothing can be joined. */
    for (r = 0; r == 0;) {
        r = try_map(dom, mem, BASE + (uint64_t)n * 0x2000, 0x1000, n % 256 * 0x1000, 3);
        n += r == 0;
    }
    printf("# %zu separate mappings, then: %s\n", n, said->text);
    assert_int_equal(n, 65535);
    assert_int_equal(r, VB_LIMIT);
    assert_text(said, address[0], "65535", "adjacent", "another space", "iommufd", NULL);
    assert_true(said->limit.set);
    assert_int_equal(said->limit.limit, 65535);
    assert_int_equal(said->limit.used, 65535);
    assert_int_equal(unmap(dom, BASE, 0x1000), 0);
    map(dom, mem, BASE, 0x1000, 0);
    assert_true(dma_reaches(fd, BASE + 0x2000, BASE + 65534 * 0x2000ull, ram, 65534ull % 256 * 0x1000));
    assert_int_equal(unmap(dom, 0, 0), 0);

    /* Adjacent ones of a request go well past it. */
    for (n = 0; n < 200000; n += done) {
        done = 1000;
        r = map_pages(dom, mem, far + (uint64_t)n * 0x1000, 1000, 250, &done);
        if (r != 0)
            break;
        done = 1000;
    }
    printf("# %zu adjacent mappings with 65535 entries, %u left: %s\n", n, entries_left(dom), r ? said->text : "all");
    assert_int_equal(n, 200000);
    assert_true(dma_reaches(fd, far + 0x1000, far + 199999 * 0x1000ull, ram, 199999ull % 250 * 0x1000));
    assert_int_equal(unmap(dom, 0, 0), 0);
    assert_int_equal(entries_left(dom), 65535);
    close(fd);
    close(ram);
    end();
}

/* With 16 entries, 2 are few: single mappings first, then runs, and parts of runs unmapped. */
static void test_runs(void **state) {
    const struct vb_range across = {BASE + 0x106000, BASE + 0x202fff};
    struct vb_type1_container *c;
    struct vb_dirty_info info;
    uint64_t bits[8] = {0};
    vb_handle dom, mem;
    uint64_t i;
    size_t done;
    int fd, ram;

    (void)state;
    NEED_TYPE1();
    if (compat)
        skip();
    begin();
    set_limit(16);
    dom = domain_of(device(0, VB_NO_HANDLE, &fd));
    set_limit(65535);
    c = container_at(dom);
    assert_int_equal(c->limit, 16);
    mem = memory(MIB, &ram);
    map(dom, mem, SOURCE, 0x1000, 0x64000);
    assert_int_equal(map_pages(dom, mem, BASE, 7, 7, &done), 0);
    assert_int_equal(entries_left(dom), 8); /* enough: nothing was joined */
    assert_int_equal(c->runs.n, 0);
    assert_int_equal(map_pages(dom, mem, BASE + 0x100000, 10, 10, &done), 0); /* one run */
    assert_int_equal(map_pages(dom, mem, BASE + 0x200000, 10, 5, &done), 0);  /* two */
    assert_int_equal(entries_left(dom), 5);
    assert_int_equal(c->runs.n, 3);

    /* The middle of a run: its ends go on. */
    assert_int_equal(unmap(dom, BASE + 0x103000, 0x2000), 0);
    assert_int_equal(entries_left(dom), 4);
    for (i = 0; i < 10; i++)
        assert_int_equal(dma_reaches(fd, SOURCE, BASE + 0x100000 + i * 0x1000, ram, i * 0x1000), i != 3 && i != 4);
    assert_int_equal(unmap(dom, BASE + 0x103000, 0x2000), -ENOENT);
    assert_int_equal(map_pages(dom, mem, BASE + 0x103000, 1, 1, &done), 0);
    assert_true(dma_reaches(fd, SOURCE, BASE + 0x103000, ram, 0));
    /* A whole one, and ends. */
    assert_int_equal(unmap(dom, BASE + 0x205000, 0x5000), 0);
    assert_int_equal(unmap(dom, BASE + 0x100000, 0x1000), 0);
    assert_false(dma_reaches(fd, SOURCE, BASE + 0x100000, ram, 0));
    assert_true(dma_reaches(fd, SOURCE, BASE + 0x101000, ram, 0x1000));
    /* What is dirty of a part. */
    OK(b->ops->dirty_set(b, dom, true, &info, &e));
    OK(b->ops->dirty_read(b, dom, (struct vb_range){BASE + 0x106000, BASE + 0x107fff}, 4096, false, bits, &e));
    assert_int_equal(bits[0], 3);
    OK(b->ops->dirty_read(b, dom, across, 4096, false, bits, &e));
    assert_int_equal(count_bits(bits, 8), 4 + 3);
    /* From the middle of one to the middle of another. */
    assert_int_equal(unmap(dom, across.first, across.last - across.first + 1), 0);
    for (i = 0; i < 10; i++)
        assert_int_equal(dma_reaches(fd, SOURCE, BASE + 0x100000 + i * 0x1000, ram, i == 3 ? 0 : i * 0x1000),
                         i == 1 || i == 2 || i == 3 || i == 5);
    for (i = 0; i < 5; i++)
        assert_int_equal(dma_reaches(fd, SOURCE, BASE + 0x200000 + i * 0x1000, ram, i * 0x1000), i >= 3);
    /* None left: a run cannot become two, but its end can go. */
    assert_int_equal(map_pages(dom, mem, BASE + 0x300000, 5, 5, &done), 0);
    for (i = 0; entries_left(dom); i++)
        map(dom, mem, BASE + 0x400000 + i * 0x2000, 0x1000, 0);
    assert_int_equal(unmap(dom, BASE + 0x302000, 0x1000), VB_LIMIT);
    assert_text(said, "16", NULL);
    for (i = 0; i < 5; i++)
        assert_true(dma_reaches(fd, SOURCE, BASE + 0x300000 + i * 0x1000, ram, i * 0x1000));
    assert_int_equal(unmap(dom, BASE + 0x303000, 0x2000), 0);
    assert_true(dma_reaches(fd, SOURCE, BASE + 0x302000, ram, 0x2000));
    assert_int_equal(map_pages(dom, mem, BASE + 0x500000, 20, 20, &done), VB_LIMIT);
    assert_int_equal(done, 0);
    b->ops->domain_close(b, dom);
    assert_int_equal(c->runs.n, 0);
    assert_int_equal(entries_left(dom), 16);
    /* A run that fails is mapped singly, so that the failing entry is known. */
    for (i = 0; i < 5; i++)
        map(dom, mem, BASE + i * 0x2000, 0x1000, 0);
    map(dom, mem, BASE + 0x103000, 0x1000, 0);
    c->avail = 0;
    assert_int_equal(map_pages(dom, mem, BASE + 0x100000, 10, 10, &done), -EEXIST);
    assert_int_equal(done, 3);
    close(fd);
    close(ram);
    end();
}

int main(int argc, char **argv) {
#define TEST(f) cmocka_unit_test_teardown(f, sweep)
    const struct CMUnitTest tests[] = {
        TEST(test_dma),         TEST(test_info),   TEST(test_replay), TEST(test_model),  TEST(test_two_devices),
        TEST(test_refusals),    TEST(test_rlimit), TEST(test_in_use), TEST(test_wanted), TEST(test_software),
        TEST(test_taking_over), TEST(test_dirty),  TEST(test_limit),  TEST(test_runs),
    };

    if (parse_arguments(argc, argv) < 0) {
        fprintf(stderr, "usage: %s [compat]\n", argv[0]);
        return 2;
    }
    return cmocka_run_group_tests_name("type1", tests, prepare_type1, NULL);
}
