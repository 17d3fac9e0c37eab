/* Everything in model.h on the emulated backend: what is refused, what it says, what stays as it was. */
#include "tests/unit/model-fixture.h"

#define LEASE (64 * MIB)

static int set_up(void **state) {
    (void)state;
    fds = count_fds();
    m = make_model(LEASE);
    memset(&e, 0, sizeof(e));
    return 0;
}

/* ---- memory ---- */

static void test_register(void **state) {
    struct vb_memory *a = NULL, *b = NULL;
    int fd = make_memory(MIB);
    uint64_t i;

    (void)state;
    assert_int_equal(vb_model_register(m, dup(fd), true, 0, "pc.ram", &a, fresh()), 0);
    assert_int_equal(a->id, 1);
    assert_int_equal(m->ledger.used, 0);
    assert_int_equal(vb_model_register(m, dup(fd), true, 0, "again", &b, fresh()), 0); /* found again */
    assert_true(b == a && a->registered == 2);
    assert_int_equal(vb_model_register(m, reopen(fd, O_RDWR), true, 0, NULL, &b, fresh()), 0);
    assert_true(b == a && a->registered == 3);
    assert_int_equal(vb_model_unregister(m, 1, fresh()), 0);
    assert_int_equal(vb_model_unregister(m, 1, fresh()), 0);
    assert_int_equal(vb_model_register(m, dup(fd), false, 0, NULL, &b, fresh()), 0); /* other access, own slot */
    assert_int_equal(b->id, 2);
    assert_int_equal(ftruncate(fd, 2 * MIB), 0);
    for (i = 0; i < MIB; i += 4096)
        assert_int_equal(pwrite(fd, "x", 1, (off_t)(MIB + i)), 1);
    REFUSED(vb_model_register(m, dup(fd), false, 0, NULL, &b, fresh()), VB_BUSY, "memory 2", "1 MiB", "2 MiB");
    assert_int_equal(ftruncate(fd, MIB), 0);
    assert_int_equal(vb_model_unregister(m, 1, fresh()), 0);
    REFUSED(vb_model_unregister(m, 1, fresh()), VB_NOT_FOUND, "memory 1");
    assert_int_equal(vb_model_register(m, dup(fd), true, 0, "later", &a, fresh()), 0);
    assert_int_equal(a->id, 3);
    REFUSED(vb_model_register(m, open("/dev/null", O_RDWR), true, 0, "x", &a, fresh()), VB_BAD_MEMORY, "not memory");
    close(fd);
}

static void test_too_many_memories(void **state) {
    struct vb_memory *memory;
    unsigned i;

    (void)state;
    for (i = 0; i < VB_MEMORIES_MAX; i++)
        add_memory(m, 4096);
    REFUSED(vb_model_register(m, make_memory(4096), true, 0, NULL, &memory, fresh()), VB_LIMIT, "256");
    memory = m->memories.items[16]; /* one that is there is found all the same */
    assert_int_equal(vb_model_register(m, dup(memory->fd), true, 0, NULL, &memory, NULL), 0);
    assert_int_equal(vb_model_unregister(m, memory->id, NULL), 0);
    assert_true(e.limit.set && e.limit.used == 256 && e.limit.limit == 256);
    assert_int_equal(vb_model_unregister(m, 17, fresh()), 0);
    add_memory(m, 4096);
}

static void test_unregister_in_use(void **state) {
    uint64_t n, bytes;

    (void)state;
    add_memory(m, MIB);
    add_space(m);
    assert_int_equal(map1(m, 1, 1, 0, 4096, 0, 1, fresh()), 0);
    REFUSED(vb_model_unregister(m, 1, fresh()), VB_BUSY, "1 mappings");
    assert_int_equal(unmap1(m, 1, 0, 4096, &n, &bytes, fresh()), 0);
    assert_int_equal(vb_model_unregister(m, 1, fresh()), 0);
}

/* ---- spaces ---- */

static void test_spaces(void **state) {
    struct vb_space *s;
    int fd;

    (void)state;
    add_memory(m, MIB);
    s = add_space(m);
    assert_string_equal(s->name, "bus");
    assert_int_equal(map1(m, s->id, 1, 0, MIB, 0, 3, fresh()), 0);
    add_device(m, "0000:00:04.0", &fd);
    assert_int_equal(attach1(m, 1, s->id, fresh()), 0);
    REFUSED(vb_model_space_destroy(m, s->id, fresh()), VB_BUSY, "1 attached", "0000:00:04.0");
    assert_int_equal(vb_model_detach(m, 1, fresh()), 0);
    assert_int_equal(m->ledger.used, MIB); /* detaching releases nothing */
    assert_int_equal(vb_model_space_destroy(m, 1, fresh()), 0);
    assert_int_equal(m->ledger.used, 0);
    REFUSED(vb_model_space_destroy(m, 1, fresh()), VB_NOT_FOUND, "space 1");
    assert_null(vb_model_space(m, 1, fresh()));
    assert_int_equal(add_space(m)->id, 2);
    close(fd);
}

static void test_too_many_spaces(void **state) {
    struct vb_space *s;
    unsigned i;

    (void)state;
    for (i = 0; i < VB_SPACES_MAX; i++)
        add_space(m);
    REFUSED(vb_model_space_create(m, NULL, &s, fresh()), VB_LIMIT, "64");
}

/* ---- mapping ---- */

static void test_map_and_unmap(void **state) {
    uint64_t n = 0, bytes = 0;

    (void)state;
    add_memory(m, MIB);
    add_space(m);
    assert_int_equal(map1(m, 1, 1, 0x10000, 0x4000, 0, 3, fresh()), 0);
    assert_int_equal(map1(m, 1, 1, 0x14000, 0x4000, 0x2000, 1, fresh()), 0); /* half of it is paid already */
    assert_int_equal(m->ledger.used, 0x6000);
    assert_int_equal(vb_model_space(m, 1, NULL)->mapped_bytes, 0x8000);
    check_model(m);
    /* An unmap may cover several mappings and the gaps around them. */
    assert_int_equal(unmap1(m, 1, 0, 0x100000, &n, &bytes, fresh()), 0);
    assert_true(n == 2 && bytes == 0x8000);
    assert_int_equal(m->ledger.used, 0);
    assert_int_equal(vb_model_unmap_all(m, 1, &n, &bytes, fresh()), 0); /* nothing there: fine */
    assert_true(n == 0 && bytes == 0);
    assert_int_equal(map1(m, 1, 1, 0, MIB, 0, 3, fresh()), 0);
    assert_int_equal(vb_model_unmap_all(m, 1, &n, &bytes, fresh()), 0);
    assert_true(n == 1 && bytes == MIB);
}

static void test_impossible_maps(void **state) {
    struct vb_memory *ro;
    int fd = make_memory(MIB);

    (void)state;
    add_memory(m, MIB);
    add_space(m);
    assert_int_equal(vb_model_register(m, fd, false, 0, "rom", &ro, fresh()), 0);
    REFUSED(map1(m, 9, 1, 0, 4096, 0, 3, fresh()), VB_NOT_FOUND, "space 9");
    REFUSED(map1(m, 1, 9, 0, 4096, 0, 3, fresh()), VB_NOT_FOUND, "memory 9");
    assert_true(e.has_entry && e.entry == 0);
    REFUSED(map1(m, 1, 1, 0, 0, 0, 3, fresh()), VB_INVALID, "size 0");
    REFUSED(map1(m, 1, 1, UINT64_MAX - 4095, 8192, 0, 3, fresh()), VB_INVALID, "2^64");
    REFUSED(map1(m, 1, 1, 1, 4096, 0, 3, fresh()), VB_INVALID, "4 KiB");
    REFUSED(map1(m, 1, 1, 0, 4097, 0, 3, fresh()), VB_INVALID, "4 KiB");
    REFUSED(map1(m, 1, 1, 0, 4096, 512, 3, fresh()), VB_INVALID, "4 KiB");
    REFUSED(map1(m, 1, 1, 0, 4096, 0, 0, fresh()), VB_INVALID, "prot 0");
    REFUSED(map1(m, 1, 1, 0, 4096, 0, 2, fresh()), VB_INVALID, "prot 2");
    REFUSED(map1(m, 1, 1, 0, 4096, 0, 7, fresh()), VB_INVALID, "prot 7");
    REFUSED(map1(m, 1, 1, 0, MIB + 4096, 0, 3, fresh()), VB_INVALID, "end of memory 1", "1 MiB");
    REFUSED(map1(m, 1, 1, 0, 4096, MIB, 3, fresh()), VB_INVALID, "end of memory 1");
    REFUSED(map1(m, 1, 1, 0, 8192, UINT64_MAX - 4095, 3, fresh()), VB_INVALID, "end of memory 1");
    REFUSED(map1(m, 1, ro->id, 0, 4096, 0, 3, fresh()), VB_BAD_MEMORY, "read-only");
    REFUSED(vb_model_map(m, 1, NULL, 0, fresh()), VB_INVALID, "1 to 1024");
    REFUSED(vb_model_map(m, 1, NULL, VB_BATCH_MAX + 1, fresh()), VB_INVALID, "1025");
    assert_int_equal(map1(m, 1, ro->id, 0, 4096, 0, 1, fresh()), 0);
}

static void test_reserved(void **state) {
    int fd;

    (void)state;
    add_memory(m, MIB);
    add_space(m);
    REFUSED(map1(m, 1, 1, 1ull << 48, 4096, 0, 3, fresh()), VB_RESERVED, "aperture");
    assert_int_equal(e.n_conflicts, 1);
    assert_true(e.conflicts[0].with_first == 1ull << 48 && e.conflicts[0].with_last == UINT64_MAX);
    REFUSED(map1(m, 1, 1, UINT64_MAX - 4095, 4096, 0, 3, fresh()), VB_RESERVED, "aperture");
    add_device(m, "0000:00:04.0", &fd);
    assert_int_equal(attach1(m, 1, 1, fresh()), 0);
    REFUSED(map1(m, 1, 1, 0xfedff000, 8192, 0, 3, fresh()), VB_RESERVED, "0xfee00000-0xfeefffff", "msi");
    assert_int_equal(e.n_conflicts, 1);
    assert_string_equal(e.conflicts[0].device, "0000:00:04.0");
    assert_int_equal(map1(m, 1, 1, 0xfedff000, 4096, 0, 3, fresh()), 0);
    assert_int_equal(map1(m, 1, 1, 0xfef00000, 4096, 0, 3, fresh()), 0);
    close(fd);
}

static void test_overlap(void **state) {
    struct vb_map_entry batch[3] = {{.iova = 0x10000, .size = 0x1000, .memory = 1, .prot = 3},
                                    {.iova = 0x12000, .size = 0x1000, .memory = 1, .prot = 3},
                                    {.iova = 0x11000, .size = 0x2000, .memory = 1, .prot = 3}};
    unsigned i;

    (void)state;
    add_memory(m, MIB);
    add_space(m);
    for (i = 0; i < 20; i++)
        assert_int_equal(map1(m, 1, 1, 0x100000 + i * 0x2000, 0x1000, i * 0x1000, 3, fresh()), 0);
    REFUSED(map1(m, 1, 1, 0xff000, 0x40000, 0, 3, fresh()), VB_OVERLAP, "0x100000-0x100fff");
    assert_int_equal(e.n_conflicts, VB_CONFLICTS_MAX);
    assert_true(e.conflicts[1].with_first == 0x102000 && strcmp(e.conflicts[1].kind, "mapping") == 0);
    assert_int_equal(e.conflicts[0].first, 0xff000);
    REFUSED(vb_model_map(m, 1, batch, 3, fresh()), VB_OVERLAP, "another entry", "0x12000");
    assert_true(e.has_entry && e.entry == 2);
    assert_int_equal(vb_model_space(m, 1, NULL)->mappings, 20);
}

static void test_payment(void **state) {
    struct vb_map_entry batch[2] = {{.iova = 0, .size = 40 * MIB, .memory = 1, .prot = 3},
                                    {.iova = 1ull << 32, .size = 40 * MIB, .memory = 2, .prot = 3}};

    (void)state;
    add_memory(m, 40 * MIB);
    add_memory(m, 40 * MIB);
    add_space(m);
    add_space(m);
    REFUSED(vb_model_map(m, 1, batch, 2, fresh()), VB_LIMIT, "80 MiB", "64 MiB", "pid 1");
    assert_true(e.limit.set && e.limit.wanted == 80 * MIB && !e.has_entry);
    assert_int_equal(vb_model_map(m, 1, batch, 1, fresh()), 0);
    assert_int_equal(map1(m, 2, 1, 0, 40 * MIB, 0, 3, fresh()), 0); /* the second space shows the same pages */
    assert_int_equal(m->ledger.used, 40 * MIB);
    REFUSED(vb_model_map(m, 1, batch + 1, 1, fresh()), VB_LIMIT, "40 MiB more");
    assert_int_equal(map1(m, 1, 2, 1ull << 33, 24 * MIB, 0, 3, fresh()), 0);
    m->ledger.lease = MIB; /* lowered: nothing is torn down */
    REFUSED(map1(m, 1, 2, 1ull << 34, 4096, 30 * MIB, 3, fresh()), VB_LIMIT, "4 KiB more");
    assert_int_equal(map1(m, 1, 2, 1ull << 34, 4096, 0, 3, fresh()), 0); /* paid already */
}

static void test_mappings_limit(void **state) {
    struct vb_map_entry batch[3];
    unsigned i;

    (void)state;
    add_memory(m, MIB);
    add_space(m);
    add_space(m);
    for (i = 0; i < 3; i++)
        batch[i] = (struct vb_map_entry){.iova = i * 4096ull, .size = 4096, .memory = 1, .prot = 3};
    m->mappings_max = 4;
    assert_int_equal(vb_model_map(m, 1, batch, 3, fresh()), 0);
    REFUSED(vb_model_map(m, 2, batch, 2, fresh()), VB_LIMIT, "3 of 4");
    assert_true(e.limit.set && e.limit.wanted == 2);
    assert_int_equal(vb_model_map(m, 2, batch, 1, fresh()), 0);
}

static void test_memory_changes_before_map(void **state) {
    struct vb_map_entry batch[2] = {{.iova = 0, .size = 4096, .memory = 1, .prot = 1},
                                    {.iova = 4096, .size = 4096, .memory = 2, .prot = 1}};
    struct vb_memory *memory;

    (void)state;
    add_memory(m, MIB);
    memory = add_memory(m, MIB);
    add_space(m);
    assert_int_equal(fcntl(memory->fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
    assert_int_equal(vb_model_map(m, 1, batch, 2, fresh()), 0);
    batch[0].iova = 0x10000;
    batch[1] = (struct vb_map_entry){.iova = 0x20000, .size = 4096, .memory = 2, .prot = 3};
    REFUSED(vb_model_map(m, 1, batch, 2, fresh()), VB_BAD_MEMORY, "F_SEAL_FUTURE_WRITE");
    assert_true(e.has_entry && e.entry == 1);
    /* First read-only, then writable, of one memory in one batch: both are looked at. */
    batch[0].memory = 2;
    REFUSED(vb_model_map(m, 1, batch, 2, fresh()), VB_BAD_MEMORY, "F_SEAL_FUTURE_WRITE");
    assert_int_equal(e.entry, 1);
    memory = add_memory(m, MIB);
    assert_int_equal(ftruncate(memory->fd, 4096), 0);
    REFUSED(map1(m, 1, 3, 0x30000, 4096, 0, 1, fresh()), VB_BAD_MEMORY, "memory 3", "shrunk");
}

static void test_memory_changes_before_attach(void **state) {
    struct vb_memory *memory;
    int fd;

    (void)state;
    memory = add_memory(m, MIB);
    add_space(m);
    add_space(m);
    add_device(m, "0000:00:04.0", &fd);
    assert_int_equal(map1(m, 1, 1, 0, MIB, 0, 3, fresh()), 0);
    assert_int_equal(fcntl(memory->fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0); /* what is mapped stays writable */
    assert_int_equal(attach1(m, 1, 1, fresh()), 0);
    assert_int_equal(vb_model_detach(m, 1, fresh()), 0);
    assert_int_equal(fallocate(memory->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096),
                     -1); /* nor can it be holed */
    assert_int_equal(ftruncate(memory->fd, 4096), 0);
    REFUSED(attach1(m, 1, 1, fresh()), VB_BAD_MEMORY, "memory 1", "shrunk");
    assert_int_equal(attach1(m, 1, 2, fresh()), 0); /* it is not in that space */
    close(fd);
}

/* ---- unmapping ---- */

static void test_impossible_unmaps(void **state) {
    struct vb_unmap_entry batch[3] = {{0x10000, 0x1000}, {0x10000, 0x10000}, {0x40000, 0x1000}};
    uint64_t n = 77, bytes = 77;

    (void)state;
    add_memory(m, MIB);
    add_space(m);
    assert_int_equal(map1(m, 1, 1, 0x10000, 0x1000, 0, 3, fresh()), 0);
    assert_int_equal(map1(m, 1, 1, 0x14000, 0x2000, 0, 3, fresh()), 0);
    REFUSED(unmap1(m, 9, 0, 4096, &n, &bytes, fresh()), VB_NOT_FOUND, "space 9");
    REFUSED(unmap1(m, 1, 0, 0x1000, &n, &bytes, fresh()), VB_NOT_FOUND, "nothing is mapped at 0x0-0xfff");
    REFUSED(unmap1(m, 1, 0, 0, &n, &bytes, fresh()), VB_INVALID, "no range");
    REFUSED(unmap1(m, 1, 4096, UINT64_MAX, &n, &bytes, fresh()), VB_INVALID, "no range");
    REFUSED(unmap1(m, 1, 0x14000, 0x1000, &n, &bytes, fresh()), VB_INVALID, "cuts", "0x14000-0x15fff");
    assert_int_equal(e.n_conflicts, 1);
    REFUSED(unmap1(m, 1, 0x15000, 0x10000, &n, &bytes, fresh()), VB_INVALID, "cuts");
    REFUSED(unmap1(m, 1, 0, 0x15000, &n, &bytes, fresh()), VB_INVALID, "cuts");
    REFUSED(vb_model_unmap(m, 1, batch, 2, &n, &bytes, fresh()), VB_INVALID, "another entry");
    assert_int_equal(e.entry, 1);
    batch[1] = (struct vb_unmap_entry){0x14000, 0x2000};
    REFUSED(vb_model_unmap(m, 1, batch, 3, &n, &bytes, fresh()), VB_NOT_FOUND, "0x40000");
    assert_int_equal(e.entry, 2);
    REFUSED(vb_model_unmap(m, 1, NULL, 0, &n, &bytes, fresh()), VB_INVALID, "1 to 1024");
    REFUSED(vb_model_unmap_all(m, 9, &n, &bytes, fresh()), VB_NOT_FOUND, "space 9");
    assert_true(n == 77 && bytes == 77);
    assert_int_equal(vb_model_unmap(m, 1, batch, 2, &n, &bytes, fresh()), 0);
    assert_true(n == 2 && bytes == 0x3000);
}

static void test_a_failed_unmap_maps_again(void **state) {
    struct vb_unmap_entry batch[3] = {{0x10000, 0x1000}, {0x20000, 0x10000}, {0x40000, 0x1000}};
    uint64_t n, bytes;
    unsigned i;

    (void)state;
    add_memory(m, MIB);
    add_space(m);
    for (i = 0; i < 8; i++)
        assert_int_equal(map1(m, 1, 1, 0x10000 + 0x8000 * i, 0x1000, 0, 3, fresh()), 0);
    arm(VB_EMULATED_UNMAP, 2, -EBUSY, false);
    assert_int_equal(vb_model_unmap(m, 1, batch, 3, &n, &bytes, fresh()), -EBUSY);
    assert_int_equal(e.entry, 1);
    assert_int_equal(vb_model_space(m, 1, NULL)->mappings, 8);
    check_model(m);
    arm(VB_EMULATED_UNMAP, 1, -EBUSY, true); /* never again */
    assert_int_equal(vb_model_unmap_all(m, 1, &n, &bytes, fresh()), -EBUSY);
    assert_false(e.has_entry);
    REFUSED(vb_model_space_destroy(m, 1, fresh()), -EBUSY, "purpose");
    check_model(m);
    arm(VB_EMULATED_UNMAP, 2, -EBUSY, true); /* and what was unmapped cannot be mapped again: it is gone, and said so */
    arm(VB_EMULATED_MAP, 1, -ENOMEM, true);
    assert_int_equal(vb_model_unmap(m, 1, batch, 3, &n, &bytes, fresh()), -EBUSY);
    assert_text(&e, "1 mappings of space 1", "0x10000", "gone", NULL);
    assert_int_equal(vb_model_space(m, 1, NULL)->mappings, 7);
    check_model(m);
    arm(VB_EMULATED_UNMAP, 0, 0, false);
    arm(VB_EMULATED_MAP, 0, 0, false);
}

static void test_a_failed_map_that_cannot_be_undone_stays(void **state) {
    struct vb_map_entry batch[3];
    uint64_t n, bytes;
    unsigned i;

    (void)state;
    add_memory(m, MIB);
    add_space(m);
    for (i = 0; i < 3; i++)
        batch[i] =
            (struct vb_map_entry){.iova = i * 8192ull, .size = 4096, .offset = i * 4096ull, .memory = 1, .prot = 3};
    arm(VB_EMULATED_MAP, 3, -EIO, false);
    arm(VB_EMULATED_UNMAP, 1, -EBUSY, false);
    REFUSED(vb_model_map(m, 1, batch, 3, fresh()), VB_BUSY, "could not be undone");
    assert_int_equal(m->ledger.used, 4096);
    assert_int_equal(unmap1(m, 1, 0, 4096, &n, &bytes, fresh()), 0);
}

/* ---- devices ---- */

static void test_device_life(void **state) {
    struct vb_device *d = NULL, *other;
    int fd = -1, fd2 = -1;
    vb_handle h;

    (void)state;
    add_space(m);
    assert_int_equal(claim_device(m, "0000:00:04.0", 7, &msi_window, 1, 0, &d, &fd, fresh()), 0);
    assert_true(d->id == 1 && d->group == 7 && d->state == VB_DEVICE_CLAIMED && fd >= 0);
    {
        const struct vb_claim_desc again = {.address = "0000:00:04.0", .group = 7, .fds = {dup(fd), dup(fd)}};

        REFUSED(vb_model_claim(m, &again, &other, &fd2, fresh()), VB_BUSY, "device 1"); /* the fds are consumed */
    }
    REFUSED(attach1(m, 1, 1, fresh()), VB_STATE, "not bound");
    REFUSED(vb_model_detach(m, 1, fresh()), VB_STATE, "not attached");
    REFUSED(vb_model_bind(m, 2, fresh()), VB_NOT_FOUND, "device 2");
    REFUSED(attach1(m, 2, 1, fresh()), VB_NOT_FOUND, "device 2");
    REFUSED(vb_model_detach(m, 2, fresh()), VB_NOT_FOUND, "device 2");
    REFUSED(release1(m, 2, &h, fresh()), VB_NOT_FOUND, "device 2");
    assert_int_equal(vb_model_bind(m, 1, fresh()), 0);
    REFUSED(vb_model_bind(m, 1, fresh()), VB_STATE, "bound already");
    REFUSED(attach1(m, 1, 2, fresh()), VB_NOT_FOUND, "space 2");
    assert_int_equal(attach1(m, 1, 1, fresh()), 0);
    assert_int_equal(vb_model_space(m, 1, NULL)->devices, 1);
    REFUSED(attach1(m, 1, 1, fresh()), VB_STATE, "space 1");
    REFUSED(vb_model_bind(m, 1, fresh()), VB_STATE, "bound already");
    assert_int_equal(vb_model_detach(m, 1, fresh()), 0);
    assert_int_equal(attach1(m, 1, 1, fresh()), 0);
    assert_int_equal(release1(m, 1, &h, fresh()), 0); /* detaches */
    assert_int_equal(vb_model_space(m, 1, NULL)->devices, 0);
    assert_int_equal(vb_model_space(m, 1, NULL)->info.n_usable, 1);
    assert_true(m->backend->ops->in_use(m->backend, h));
    close(fd);
    assert_false(m->backend->ops->in_use(m->backend, h));
    assert_int_equal(claim_device(m, "0000:00:04.0", 7, NULL, 0, 0, &d, &fd, fresh()), 0);
    assert_int_equal(d->id, 2);
    assert_int_equal(release1(m, 2, &h, fresh()), 0);
    assert_false(m->backend->ops->in_use(m->backend, h)); /* never bound */
    close(fd);
}

static void test_attach_conflicts(void **state) {
    static const struct vb_reserved regions[] = {{{0xfee00000, 0xfeefffff}, "msi"},
                                                 {{0x80000000, 0x8000ffff}, "direct"}};
    struct vb_device *d;
    uint64_t n, bytes;
    int fd;

    (void)state;
    add_memory(m, MIB);
    add_space(m);
    assert_int_equal(claim_device(m, "0000:00:05.0", 1, regions, 2, 0, &d, &fd, fresh()), 0);
    assert_int_equal(vb_model_bind(m, 1, fresh()), 0);
    assert_int_equal(map1(m, 1, 1, 0x80001000, 0x1000, 0, 3, fresh()), 0);
    assert_int_equal(map1(m, 1, 1, 0x80003000, 0x1000, 0, 3, fresh()), 0);
    assert_int_equal(map1(m, 1, 1, 0xfee00000, 0x1000, 0, 3, fresh()), 0);
    REFUSED(attach1(m, 1, 1, fresh()), VB_RESERVED, "3 mappings", "0000:00:05.0");
    assert_int_equal(e.n_conflicts, 3);
    assert_string_equal(e.conflicts[0].kind, "direct");
    assert_string_equal(e.conflicts[2].kind, "msi");
    assert_true(e.conflicts[1].first == 0x80003000 && e.conflicts[1].with_last == 0x8000ffff);
    assert_int_equal(vb_model_unmap_all(m, 1, &n, &bytes, fresh()), 0);
    assert_int_equal(attach1(m, 1, 1, fresh()), 0);
    close(fd);
}

static void test_too_many_devices(void **state) {
    int client[VB_DEVICES_MAX], fd;
    struct vb_device *d;
    char address[16];
    unsigned i;

    (void)state;
    for (i = 0; i < VB_DEVICES_MAX; i++) {
        snprintf(address, sizeof(address), "emulated%u", i);
        add_device(m, address, &client[i]);
    }
    REFUSED(claim_device(m, "one more", 1, NULL, 0, 0, &d, &fd, fresh()), VB_LIMIT, "64");
    REFUSED(claim_device(m, "one more", 1, &msi_window, VB_REGIONS_MAX + 1, 0, &d, &fd, fresh()), VB_UNSUPPORTED,
            "65 reserved");
    for (i = 0; i < VB_DEVICES_MAX; i++)
        close(client[i]);
}

static void test_info_that_cannot_be_had_is_asked_again(void **state) {
    int fd;

    (void)state;
    add_memory(m, MIB);
    add_space(m);
    add_device(m, "0000:00:04.0", &fd);
    arm(VB_EMULATED_DOMAIN_INFO, 1, -EIO, false);
    assert_int_equal(attach1(m, 1, 1, fresh()), 0);
    assert_true(vb_model_space(m, 1, NULL)->info_stale);
    REFUSED(map1(m, 1, 1, 0xfee00000, 4096, 0, 3, fresh()), VB_RESERVED, "msi");
    assert_false(vb_model_space(m, 1, NULL)->info_stale);
    close(fd);
}

static void test_the_backend_knows_better(void **state) {
    struct vb_space *s;

    (void)state;
    add_memory(m, MIB);
    s = add_space(m);
    s->info.usable[0].last = UINT64_MAX; /* as if the client had changed devices behind our back */
    REFUSED(map1(m, 1, 1, 1ull << 48, 4096, 0, 3, fresh()), VB_RESERVED, "aperture");
}

static void test_emptying(void **state) {
    struct vb_device *d;
    vb_handle h;
    int fd;

    (void)state;
    add_memory(m, MIB);
    add_space(m);
    d = add_device(m, "0000:00:04.0", &fd);
    h = d->handle;
    assert_int_equal(attach1(m, 1, 1, fresh()), 0);
    assert_int_equal(map1(m, 1, 1, 0, MIB, 0, 3, fresh()), 0);
    arm(VB_EMULATED_UNMAP, 1, -EBUSY, true); /* even then */
    vb_model_empty(m);
    assert_true(m->memories.n == 0 && m->spaces.n == 0 && m->devices.n == 0);
    assert_true(m->backend->ops->in_use(m->backend, h));
    close(fd);
    assert_false(m->backend->ops->in_use(m->backend, h));
    vb_model_empty(m);
}

/* ---- random operations against the page table and a count of what is paid ---- */

static void test_random(void **state) {
    struct vb_map_entry maps[8];
    struct vb_unmap_entry unmaps[4];
    unsigned step, i, n, done = 0;
    uint64_t k, bytes;
    int r;

    (void)state;
    start_random();
    m->ledger.lease = 600 * KIB;
    for (i = 0; i < 3; i++) {
        add_memory(m, 256 * KIB);
        add_space(m);
    }
    for (step = 0; step < 6000; step++) {
        uint32_t space = 1 + random_below(3);

        if (random_below(10) == 0)
            arm(VB_EMULATED_ANY, 1 + random_below(6), -EIO, false);
        if (random_below(2)) {
            n = 1 + random_below(8);
            for (i = 0; i < n; i++) {
                uint64_t size = 1 + random_below(8), offset = random_below(64);

                maps[i] = (struct vb_map_entry){.iova = random_below(256) * 4096ull,
                                                .size = size * 4096,
                                                .offset = offset * 4096,
                                                .memory = 1 + random_below(3),
                                                .prot = random_below(2) ? 3 : 1};
            }
            r = vb_model_map(m, space, maps, n, fresh());
        } else {
            n = 1 + random_below(4);
            for (i = 0; i < n; i++)
                unmaps[i] = (struct vb_unmap_entry){random_below(256) * 4096ull, (1 + random_below(40)) * 4096ull};
            r = vb_model_unmap(m, space, unmaps, n, &k, &bytes, fresh());
        }
        arm(VB_EMULATED_ANY, 0, 0, false);
        done += r == 0;
        assert_true(r == e.code);
        check_model(m);
    }
    printf("# %u of %u requests were granted\n", done, step);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_register),
        TEST(test_too_many_memories),
        TEST(test_unregister_in_use),
        TEST(test_spaces),
        TEST(test_too_many_spaces),
        TEST(test_map_and_unmap),
        TEST(test_impossible_maps),
        TEST(test_reserved),
        TEST(test_overlap),
        TEST(test_payment),
        TEST(test_mappings_limit),
        TEST(test_memory_changes_before_map),
        TEST(test_memory_changes_before_attach),
        TEST(test_impossible_unmaps),
        TEST(test_a_failed_unmap_maps_again),
        TEST(test_a_failed_map_that_cannot_be_undone_stays),
        TEST(test_device_life),
        TEST(test_attach_conflicts),
        TEST(test_too_many_devices),
        TEST(test_info_that_cannot_be_had_is_asked_again),
        TEST(test_the_backend_knows_better),
        TEST(test_emptying),
        TEST(test_random),
    };

    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
