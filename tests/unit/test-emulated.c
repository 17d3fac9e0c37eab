/* The emulated backend by itself: DMA through the page table, hostile packets, devices that stay open, faults. */
#include "tests/unit/core-fixture.h"

static struct vb_emulated_dma *packet(uint32_t op, uint64_t iova, uint32_t size) {
    static union {
        struct vb_emulated_dma dma;
        uint8_t bytes[2 * VB_EMULATED_DMA_MAX];
    } q;

    memset(&q, 0, sizeof(q));
    q.dma.op = op;
    q.dma.size = size;
    q.dma.iova = iova;
    return &q.dma;
}

static struct vb_emulated_dma_reply *ask(struct vb_model *m, vb_handle device, int fd, const void *data, size_t size) {
    static union {
        struct vb_emulated_dma_reply reply;
        uint8_t bytes[2 * VB_EMULATED_DMA_MAX];
    } a;
    ssize_t n;

    assert_int_equal(send(fd, data, size, 0), size);
    assert_int_equal(m->backend->ops->device_ready(m->backend, device), 0);
    n = recv(fd, &a, sizeof(a), MSG_DONTWAIT);
    assert_true(n >= (ssize_t)sizeof(a.reply));
    return &a.reply;
}

static int32_t dma(struct vb_model *m, vb_handle device, int fd, uint32_t op, uint64_t iova, void *data,
                   uint32_t size) {
    struct vb_emulated_dma *q = packet(op, iova, size);
    struct vb_emulated_dma_reply *a;

    if (op == VB_EMULATED_DMA_WRITE)
        memcpy(q->data, data, size);
    a = ask(m, device, fd, q, sizeof(*q) + (op == VB_EMULATED_DMA_WRITE ? size : 0));
    assert_int_equal(a->size, a->status == 0 ? size : 0);
    if (a->status == 0 && op == VB_EMULATED_DMA_READ)
        memcpy(data, a->data, size);
    return a->status;
}

struct rig {
    struct vb_model *m;
    struct vb_memory *memory;
    struct vb_space *space;
    struct vb_device *device;
    int fd;
};

static struct rig make_rig(void) {
    struct rig r = {.m = make_model(64 * MIB)};

    r.memory = add_memory(r.m, MIB);
    r.space = add_space(r.m);
    r.device = add_device(r.m, "0000:00:04.0", &r.fd);
    assert_int_equal(attach1(r.m, r.device->id, r.space->id, NULL), 0);
    return r;
}

static void end_rig(struct rig *r) {
    close(r->fd);
    vb_model_free(r->m);
}

static void test_dma(void **state) {
    struct rig r = make_rig();
    vb_handle h = r.device->handle;
    uint8_t data[VB_EMULATED_DMA_MAX], back[VB_EMULATED_DMA_MAX];
    uint64_t n, bytes;
    unsigned i;

    (void)state;
    for (i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7);
    /* Two mappings side by side in IOVA, apart in the memory. */
    assert_int_equal(map1(r.m, 1, 1, 0x100000, 0x4000, 0x8000, 3, NULL), 0);
    assert_int_equal(map1(r.m, 1, 1, 0x104000, 0x4000, 0x20000, 3, NULL), 0);
    assert_int_equal(map1(r.m, 1, 1, 0x108000, 0x1000, 0x30000, 1, NULL), 0);
    assert_int_equal(dma(r.m, h, r.fd, VB_EMULATED_DMA_WRITE, 0x103ffd, data, 7), 0);
    assert_int_equal(pread(r.memory->fd, back, 3, 0x8000 + 0x3ffd), 3);
    assert_memory_equal(back, data, 3);
    assert_int_equal(pread(r.memory->fd, back, 4, 0x20000), 4);
    assert_memory_equal(back, data + 3, 4);
    assert_int_equal(dma(r.m, h, r.fd, VB_EMULATED_DMA_WRITE, 0x100000, data, sizeof(data)), 0);
    assert_int_equal(dma(r.m, h, r.fd, VB_EMULATED_DMA_READ, 0x100000, back, sizeof(back)), 0);
    assert_memory_equal(back, data, sizeof(data));
    /* Read-only, holes before, between and behind; nothing moves. */
    memset(data, 0xee, sizeof(data));
    assert_int_equal(dma(r.m, h, r.fd, VB_EMULATED_DMA_WRITE, 0x107fff, data, 2), -EFAULT);
    assert_int_equal(pread(r.memory->fd, back, 1, 0x23fff), 1);
    assert_int_not_equal(back[0], 0xee);
    assert_int_equal(dma(r.m, h, r.fd, VB_EMULATED_DMA_READ, 0x107fff, back, 2), 0);
    assert_int_equal(back[1], 0x30);
    assert_int_equal(dma(r.m, h, r.fd, VB_EMULATED_DMA_READ, 0x108fff, back, 2), -EFAULT);
    assert_int_equal(dma(r.m, h, r.fd, VB_EMULATED_DMA_READ, 0xfffff, back, 2), -EFAULT);
    assert_int_equal(unmap1(r.m, 1, 0x104000, 0x4000, &n, &bytes, NULL), 0);
    assert_int_equal(dma(r.m, h, r.fd, VB_EMULATED_DMA_READ, 0x103fff, back, 2), -EFAULT);
    assert_int_equal(vb_model_detach(r.m, 1, NULL), 0);
    assert_int_equal(dma(r.m, h, r.fd, VB_EMULATED_DMA_READ, 0x100000, back, 2), -EFAULT);
    end_rig(&r);
}

static void test_a_shrunk_file_does_not_grow_by_dma(void **state) {
    struct rig r = make_rig();
    uint8_t data[16] = {0};

    (void)state;
    assert_int_equal(map1(r.m, 1, 1, 0x100000, 0x4000, 0x8000, 3, NULL), 0);
    assert_int_equal(ftruncate(r.memory->fd, 4096), 0);
    assert_int_equal(dma(r.m, r.device->handle, r.fd, VB_EMULATED_DMA_WRITE, 0x100000, data, 16), -EFAULT);
    assert_int_equal(dma(r.m, r.device->handle, r.fd, VB_EMULATED_DMA_READ, 0x100000, data, 16), -EFAULT);
    assert_int_equal(lseek(r.memory->fd, 0, SEEK_END), 4096);
    end_rig(&r);
}

static void test_hostile_packets(void **state) {
    struct rig r = make_rig();
    vb_handle h = r.device->handle;
    struct vb_emulated_dma *q;
    unsigned i, before;

    (void)state;
    assert_int_equal(map1(r.m, 1, 1, 0, MIB, 0, 3, NULL), 0);
    for (i = 0; i < sizeof(*q); i++)
        assert_int_equal(ask(r.m, h, r.fd, packet(1, 0, 4), i)->status, -EINVAL); /* 0 bytes: a packet, not the end */
    assert_int_equal(ask(r.m, h, r.fd, packet(0, 0, 4), sizeof(*q))->status, -EINVAL);
    assert_int_equal(ask(r.m, h, r.fd, packet(3, 0, 4), sizeof(*q))->status, -EINVAL);
    assert_int_equal(ask(r.m, h, r.fd, packet(1, 0, 0), sizeof(*q))->status, -EINVAL);
    assert_int_equal(ask(r.m, h, r.fd, packet(1, 0, VB_EMULATED_DMA_MAX + 1), sizeof(*q))->status, -EINVAL);
    assert_int_equal(ask(r.m, h, r.fd, packet(1, 0, 4), sizeof(*q) + 1)->status, -EINVAL);
    assert_int_equal(ask(r.m, h, r.fd, packet(2, 0, 4), sizeof(*q) + 3)->status, -EINVAL);
    assert_int_equal(ask(r.m, h, r.fd, packet(2, 0, 4), sizeof(*q) + 5)->status, -EINVAL);
    assert_int_equal(ask(r.m, h, r.fd, packet(1, UINT64_MAX, 2), sizeof(*q))->status, -EINVAL);
    assert_int_equal(ask(r.m, h, r.fd, packet(1, UINT64_MAX, 1), sizeof(*q))->status, -EFAULT);
    assert_int_equal(
        ask(r.m, h, r.fd, packet(2, 0, VB_EMULATED_DMA_MAX), sizeof(*q) + VB_EMULATED_DMA_MAX + 500)->status, -EINVAL);

    /* Fds in a packet go nowhere. */
    before = count_fds();
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {packet(1, 0, 4), sizeof(*q)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};

    CMSG_FIRSTHDR(&msg)->cmsg_level = SOL_SOCKET;
    CMSG_FIRSTHDR(&msg)->cmsg_type = SCM_RIGHTS;
    CMSG_FIRSTHDR(&msg)->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), &r.fd, sizeof(int));
    assert_int_equal(sendmsg(r.fd, &msg, 0), sizeof(*q));
    assert_int_equal(r.m->backend->ops->device_ready(r.m->backend, h), 0);
    assert_int_equal(count_fds(), before);

    /* A client that never reads: the engine goes on, and never blocks. */
    for (i = 0; i < 2000; i++) {
        send(r.fd, packet(1, 0, VB_EMULATED_DMA_MAX), sizeof(*q), MSG_DONTWAIT);
        assert_int_equal(r.m->backend->ops->device_ready(r.m->backend, h), 0);
    }
    end_rig(&r);
}

static void test_closing(void **state) {
    struct rig r = make_rig();
    const struct vb_backend_ops *ops = r.m->backend->ops;
    vb_handle h = 99;
    int copy = dup(r.fd);

    (void)state;
    assert_int_equal(ops->device_ready(r.m->backend, r.device->handle), 0); /* nothing there */
    assert_int_equal(release1(r.m, 1, &h, NULL), 0);
    close(r.fd);
    assert_true(ops->in_use(r.m->backend, h)); /* the copy */
    assert_int_equal(ops->devices_left(r.m->backend), 1);
    assert_int_equal(send(copy, packet(1, 0, 4), sizeof(struct vb_emulated_dma), 0), sizeof(struct vb_emulated_dma));
    assert_int_equal(ops->device_ready(r.m->backend, h), 0);
    close(copy);
    assert_int_equal(ops->device_ready(r.m->backend, h), -EPIPE);
    assert_false(ops->in_use(r.m->backend, h));
    assert_int_equal(ops->devices_left(r.m->backend), 0);
    vb_model_free(r.m);
}

static void test_aperture(void **state) {
    struct vb_model *m = make_model(64 * MIB);
    struct vb_space *s = add_space(m);
    struct vb_device *d;
    int fd;

    (void)state;
    assert_int_equal(s->info.n_usable, 1);
    assert_int_equal(s->info.usable[0].last, (1ull << 48) - 1);
    d = add_device(m, "a", &fd);
    assert_int_equal(attach1(m, d->id, s->id, NULL), 0);
    assert_int_equal(s->info.n_usable, 2);
    assert_int_equal(s->info.usable[0].last, 0xfedfffff);
    assert_int_equal(s->info.usable[1].first, 0xfef00000);
    assert_int_equal(vb_model_detach(m, d->id, NULL), 0);
    assert_int_equal(s->info.n_usable, 1);
    close(fd);
    vb_model_free(m);
}

/* What the host would do to a device. */
static void test_the_host_wants_a_device_and_loses_it(void **state) {
    struct rig r = make_rig();
    const struct vb_backend_ops *ops = r.m->backend->ops;
    const vb_handle h = r.device->handle;
    struct vb_emulated_dma_reply a;
    vb_handle released;

    (void)state;
    assert_int_equal(ask(r.m, h, r.fd, packet(VB_EMULATED_HOST_WANTS, 0, 1), sizeof(struct vb_emulated_dma))->status,
                     -EINVAL); /* with a size: it is none */
    assert_int_equal(send(r.fd, packet(VB_EMULATED_HOST_WANTS, 0, 0), sizeof(struct vb_emulated_dma), 0),
                     sizeof(struct vb_emulated_dma));
    assert_int_equal(ops->device_ready(r.m->backend, h), 1);
    assert_int_equal(recv(r.fd, &a, sizeof(a), MSG_DONTWAIT), sizeof(a));
    assert_int_equal(a.status, 0);
    assert_int_equal(ops->device_ready(r.m->backend, h), 0);
    assert_int_equal(send(r.fd, packet(VB_EMULATED_HOST_LOST, 0, 0), sizeof(struct vb_emulated_dma), 0),
                     sizeof(struct vb_emulated_dma));
    assert_int_equal(ops->device_ready(r.m->backend, h), -ENODEV);
    assert_int_equal(recv(r.fd, &a, sizeof(a), MSG_DONTWAIT), sizeof(a));
    assert_int_equal(recv(r.fd, &a, sizeof(a), MSG_DONTWAIT), 0); /* the end */
    assert_int_equal(release1(r.m, r.device->id, &released, NULL), 0);
    assert_false(ops->in_use(r.m->backend, released)); /* whoever has the fd */
    end_rig(&r);
}

static void test_kinds(void **state) {
    static const struct vb_emulated_kind kinds[] = {
        {.address = "57 bits", .aperture_last = (1ull << 57) - 1, .page_size = 4096},
        {.address = "32 bits, 64 KiB",
         .aperture_last = (1ull << 32) - 1,
         .page_size = 65536,
         .n_reserved = 2,
         .reserved = {{{0, 0xffff}, "reserved"}, {{0x80000000, 0xffffffff}, "direct"}}},
    };
    const struct vb_emulated_knobs knobs = {.kinds = kinds, .n_kinds = 2};
    const struct vb_device_desc desc[2] = {{.address = "57 bits", .fds = {-1, -1}, .with = VB_NO_HANDLE},
                                           {.address = "32 bits, 64 KiB", .fds = {-1, -1}, .with = VB_NO_HANDLE}};
    struct vb_backend_map map = {.iova = 1ull << 56, .size = 4096, .prot = 3};
    const struct vb_range everything = {0, UINT64_MAX}, at = {1ull << 56, (1ull << 56) + 4095};
    struct vb_error e = {0};
    struct vb_space_info info;
    vb_handle memory, domain, device[2];
    struct vb_backend *b;
    size_t done;
    int fd[2], i;

    (void)state;
    assert_int_equal(vb_emulated_new(&knobs, &b, NULL), 0);
    fd[0] = make_memory(MIB);
    assert_int_equal(
        b->ops->memory_add(b, &(struct vb_memory_desc){.fd = fd[0], .size = MIB, .writable = true}, &memory, NULL), 0);
    close(fd[0]);
    map.memory = memory;
    assert_int_equal(b->ops->domain_open(b, VB_NO_HANDLE, &domain, NULL), 0);
    for (i = 0; i < 2; i++) {
        assert_int_equal(b->ops->device_open(b, &desc[i], &device[i], &fd[i], NULL), 0);
        assert_int_equal(b->ops->device_bind(b, device[i], NULL), 0);
    }
    assert_int_equal(b->ops->device_attach(b, device[0], domain, NULL), 0);
    assert_int_equal(b->ops->domain_info(b, domain, &info, NULL), 0);
    assert_true(info.n_usable == 1 && info.usable[0].last == (1ull << 57) - 1 && info.page_sizes == ~4095ull);
    assert_int_equal(b->ops->map(b, domain, &map, 1, &done, NULL), 0);
    assert_true(vb_emulated_reaches(b, device[0], at) && !vb_emulated_reaches(b, device[1], at));
    assert_int_equal(b->ops->device_attach(b, device[1], domain, &e), VB_RESERVED); /* as the kernel: EADDRINUSE */
    assert_int_equal(b->ops->unmap(b, domain, &at, 1, &done, NULL), 0);
    assert_int_equal(b->ops->unmap(b, domain, &at, 1, &done, NULL), -ENOENT);
    assert_int_equal(b->ops->unmap(b, domain, &everything, 1, &done, NULL), 0); /* any number */
    map.iova = 0x11000;                                                         /* no page of 64 KiB */
    assert_int_equal(b->ops->map(b, domain, &map, 1, &done, NULL), 0);
    assert_int_equal(b->ops->device_attach(b, device[1], domain, &e), VB_RESERVED);
    assert_int_equal(b->ops->unmap(b, domain, &everything, 1, &done, NULL), 0);
    assert_int_equal(b->ops->device_attach(b, device[1], domain, NULL), 0);
    assert_int_equal(b->ops->domain_info(b, domain, &info, NULL), 0);
    assert_true(info.n_usable == 1 && info.usable[0].first == 0x10000 && info.usable[0].last == 0x7fffffff);
    assert_int_equal(info.page_sizes, ~65535ull);
    assert_int_equal(b->ops->map(b, domain, &map, 1, &done, NULL), -EINVAL);
    assert_int_equal(b->ops->domain_need(b, domain, &(struct vb_range){0x80000000, 0x80000000}, 1, NULL), VB_RESERVED);
    assert_int_equal(b->ops->device_detach(b, device[1], NULL), 0);
    assert_int_equal(b->ops->domain_need(b, domain, &(struct vb_range){0x80000000, 0x80000000}, 1, NULL), 0);
    assert_int_equal(b->ops->device_attach(b, device[1], domain, &e), VB_RESERVED);
    b->ops->close(b);
    close(fd[0]);
    close(fd[1]);
}

static void test_coarse_dirty_bits(void **state) {
    struct rig r = make_rig();
    struct vb_dirty_info info;
    uint64_t bits = 0;

    (void)state;
    vb_emulated_knobs(r.m->backend)->coarse = true;
    assert_int_equal(map1(r.m, 1, 1, 0x100000, 0x4000, 0, 3, NULL), 0);
    assert_int_equal(vb_model_dirty_set(r.m, 1, true, &info, NULL), 0);
    assert_true(info.coarse);
    assert_int_equal(vb_model_dirty_read(r.m, 1, (struct vb_range){0x0ff000, 0x10ffff}, 4096, false, &bits, NULL), 0);
    assert_int_equal(bits, 0x1e); /* all that is mapped, and nothing else */
    end_rig(&r);
}

static void test_speed(void **state) {
    const unsigned rounds = 300;
    struct vb_model *m = make_model(64 * MIB);
    static struct vb_map_entry maps[1024];
    static struct vb_unmap_entry unmaps[1024];
    struct timespec a, b;
    uint64_t n, bytes;
    unsigned i;
    double ns;

    (void)state;
    add_space(m);
    add_memory(m, 4 * MIB);
    for (i = 0; i < 1024; i++) {
        maps[i] = (struct vb_map_entry){
            .iova = i * 8192ull, .size = 4096, .offset = (i * 37 % 1024) * 4096ull, .memory = 1, .prot = 3};
        unmaps[i] = (struct vb_unmap_entry){.iova = i * 8192ull, .size = 4096};
    }
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (i = 0; i < rounds; i++) {
        assert_int_equal(vb_model_map(m, 1, maps, 1024, NULL), 0);
        assert_int_equal(vb_model_unmap(m, 1, unmaps, 1024, &n, &bytes, NULL), 0);
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    ns = ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / rounds / 1024;
    printf("# map + unmap of one entry of a batch, model and backend: %.0f ns\n", ns);
    vb_model_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dma),
        cmocka_unit_test(test_a_shrunk_file_does_not_grow_by_dma),
        cmocka_unit_test(test_hostile_packets),
        cmocka_unit_test(test_closing),
        cmocka_unit_test(test_aperture),
        cmocka_unit_test(test_the_host_wants_a_device_and_loses_it),
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_coarse_dirty_bits),
        cmocka_unit_test(test_speed),
    };

    return cmocka_run_group_tests_name("emulated", tests, NULL, NULL);
}
