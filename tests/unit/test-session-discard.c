/* Discard and DiscardEnd: what conflicts meanwhile is refused, what is pinned waits, and nothing is lost in between. */
#include "session-fixture.h"

static uint32_t space, memory;
static int ram;

static int set_up_mapped(void **state) {
    int r = set_up(state);

    space = create_space();
    ram = memfd(MEMORY_SIZE);
    memory = register_memory(fcntl(ram, F_DUPFD_CLOEXEC, 0));
    ASSERT_DONE(ask_map(space, memory, 0x10000, 0x4000, 0), DONE);
    ASSERT_DONE(ask_map(space, memory, 0x14000, 0x4000, 0x4000), DONE);
    ASSERT_DONE(ask_map(space, memory, 0x100000, 0x1000, 0x10000), DONE);
    return r;
}

static int tear_down_mapped(void **state) {
    close(ram);
    return tear_down(state);
}

static VfioBroker__Reply *discard(uint32_t where, uint64_t iova, uint64_t size) {
    VfioBroker__UnmapEntry entry = VFIO_BROKER__UNMAP_ENTRY__INIT, *entries[] = {&entry};
    REQUEST(DISCARD, discard, Discard, DISCARD);

    entry.iova = iova, entry.size = size;
    body.space = where, body.entries = entries, body.n_entries = size != 0;
    return ask(&q, -1);
}

static VfioBroker__Reply *discard_end(uint32_t where, bool forget) {
    REQUEST(DISCARD_END, discard_end, DiscardEnd, DISCARD_END);

    body.space = where, body.forget = forget;
    return ask(&q, -1);
}

static VfioBroker__Reply *destroy(void) {
    REQUEST(SPACE_DESTROY, space_destroy, SpaceDestroy, SPACE_DESTROY);

    body.space = space;
    return ask(&q, -1);
}

static void test_begin_and_end(void **state) {
    int fd;

    (void)state;
    uint32_t device = claim("emulated:0", 0, &fd);
    ASSERT_DONE(ask_attach(device, space, false), DONE);
    const uint64_t used = s.model->ledger.used;
    assert_refused(discard_end(space, false), VB_STATE, "nothing");
    assert_refused(discard(99, 0x10000, 0x1000), VB_NOT_FOUND, "99");
    assert_refused(discard_end(99, false), VB_NOT_FOUND, "99");
    assert_refused(discard(space, 0, 0), VB_INVALID, "empty");
    assert_refused(discard(space, 0x10000, 0x1000), VB_INVALID, "cuts");

    VfioBroker__Reply *r = discard(space, 0x10000, 0x8000);
    ASSERT_DONE(r, UNMAP);
    assert_int_equal(r->unmap->mappings, 2);
    assert_int_equal(r->unmap->bytes, 0x8000);
    assert_int_equal(device_does(fd, VB_EMULATED_DMA_WRITE, 0x10000, 8), -EFAULT);
    assert_int_equal(device_does(fd, VB_EMULATED_DMA_WRITE, 0x100000, 8), 0);
    assert_int_equal(s.model->ledger.used, used);
    /* Nobody else has the place; each of these changes nothing, and is not called done. */
    assert_refused(ask_map(space, memory, 0x12000, 0x1000, 0), VB_OVERLAP, "0x12000");
    assert_refused(ask_unmap(space, 0x10000, 0x4000), VB_BUSY, "discard");
    assert_refused(discard(space, 0x100000, 0x1000), VB_BUSY, "under way");
    {
        REQUEST(UNMAP, unmap, Unmap, UNMAP);
        body.space = space, body.all = true;
        assert_refused(ask(&q, -1), VB_BUSY, "discard");
    }
    ASSERT_DONE(ask_unmap(space, 0x100000, 0x1000), UNMAP);

    assert_int_equal(fallocate(ram, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0x1000, 0x1000), 0);
    populate(ram, MEMORY_SIZE);
    ASSERT_DONE(discard_end(space, false), DONE);
    assert_int_equal(device_does(fd, VB_EMULATED_DMA_WRITE, 0x11000, 8), 0);
    assert_int_equal(space_of(space)->mappings, 2);
    assert_int_equal(space_of(space)->discarded, 0);
    close(fd);
}

static void test_forgotten(void **state) {
    (void)state;
    ASSERT_DONE(discard(space, 0x14000, 0x4000), UNMAP);
    assert_refused(destroy(), VB_BUSY, "discard");
    ASSERT_DONE(discard_end(space, true), DONE);
    assert_int_equal(space_of(space)->mappings, 2);
    assert_int_equal(s.model->ledger.used, 0x5000);
    assert_refused(ask_unmap(space, 0x14000, 0x4000), VB_NOT_FOUND, "0x14000");
    ASSERT_DONE(destroy(), DONE);
}

static void test_holes_are_left(void **state) {
    (void)state;
    ASSERT_DONE(discard(space, 0x10000, 0x4000), UNMAP);
    assert_int_equal(fallocate(ram, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 0x1000), 0);
    VfioBroker__Reply *r = discard_end(space, false);
    assert_refused(r, VB_BAD_MEMORY, "are gone");
    assert_int_equal(space_of(space)->mappings, 2);
    assert_int_equal(space_of(space)->discarded, 0);
    assert_refused(discard_end(space, false), VB_STATE, "nothing");
}

/* Both wait, in their order, and are answered in it. */
static void test_pinned(void **state) {
    VfioBroker__Reply *r;

    (void)state;
    int link = pinner(space);
    pin(link, 0x11000, 0x1000);
    assert_null(discard(space, 0x10000, 0x8000));
    ASSERT_DONE(discard(space, 0x100000, 0x1000), UNMAP); /* not pinned: does not wait, and is there first */
    ASSERT_DONE(discard_end(space, false), DONE);         /* there is one to end: it is not the one that waits */
    assert_null(discard_end(space, true));
    assert_int_equal(s.park.n, 2);
    assert_int_equal(space_of(space)->mappings, 3);
    close(link);
    for (int i = 0; i < 1000 && s.park.n; i++)
        run(5);
    r = heard();
    ASSERT_DONE(r, UNMAP);
    assert_int_equal(r->unmap->mappings, 2);
    ASSERT_DONE(heard(), DONE);
    assert_int_equal(space_of(space)->mappings, 1);
    assert_null(heard());
}

/* A request that is refused for an open discard makes no pinner give up anything. */
static void test_pins_are_not_asked_in_vain(void **state) {
    (void)state;
    int link = pinner(space);
    pin(link, 0x11000, 0x1000);
    ASSERT_DONE(discard(space, 0x100000, 0x1000), UNMAP);
    assert_refused(destroy(), VB_BUSY, "discard");
    assert_int_equal(s.park.n, 0);
    assert_int_equal(TAILQ_FIRST(&space_of(space)->pins)->deadline_ms, 0);
    ASSERT_DONE(discard_end(space, false), DONE);
    close(link);
    for (int i = 0; i < 1000 && s.model->n_pins; i++)
        run(5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_begin_and_end, set_up_mapped, tear_down_mapped),
        cmocka_unit_test_setup_teardown(test_forgotten, set_up_mapped, tear_down_mapped),
        cmocka_unit_test_setup_teardown(test_holes_are_left, set_up_mapped, tear_down_mapped),
        cmocka_unit_test_setup_teardown(test_pinned, set_up_mapped, tear_down_mapped),
        cmocka_unit_test_setup_teardown(test_pins_are_not_asked_in_vain, set_up_mapped, tear_down_mapped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
