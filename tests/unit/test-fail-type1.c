/* A session with VFIO type1, from the first claim to the last close, on a real kernel, again and again: with its first, second, ...
 * system call failing, in several ways; then with all from the first, the second, ... failing; until nothing fails any more. After
 * each, everything is given up, and nothing is left: no fd, no mapping of ours, no page pinned, and each group can be opened again.
 * As long as calls fail, what is done is done or is not: what map() and unmap() say is what the device then finds. Run by
 * `tests/vm/run -- PROGRAM [compat]`; skips elsewhere, and says why. */
#include "tests/unit/type1-fixture.h"

#include "tests/unit/fail-calls.h"

#define LIMIT_FILE "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
#define PAGES      8
#define LOOK       60

static vb_handle ram, dev[2];
static int ram_fd, client[2];

static struct vb_device_desc description(int i, vb_handle with) {
    struct vb_device_desc d = {.address = address[i], .group = group_number(i), .fds = {-1, -1}, .with = with};

    d.fds[0] = open_group(i);
    assert_true(d.fds[0] >= 0);
    if (with == VB_NO_HANDLE)
        d.fds[1] = open_container();
    return d;
}

static int unmap_page(vb_handle dom, unsigned i) {
    const struct vb_range r = {i * 0x1000ull, i * 0x1000ull + 0xfff};
    size_t done;

    return b->ops->unmap(b, dom, &r, 1, &done, fresh());
}

/* What is mapped, by asking the kernel: a mapping there is refused with EEXIST. Nothing fails meanwhile. */
static void assert_pages(vb_handle dom, unsigned wanted) {
    unsigned i;

    for (i = 0; i < PAGES; i++) {
        int r = try_map(dom, ram, i * 0x1000ull, 0x1000, 0, 3);

        if (r != (wanted >> i & 1 ? -EEXIST : 0))
            fail_msg("page %u of 0x%x: %d %s", i, wanted, r, said->text);
        if (r == 0)
            assert_int_equal(unmap(dom, i * 0x1000ull, 0x1000), 0);
    }
}

/* Steps, so that the failing one is known; calls fail from `nth` on in one of them. Returns true if it failed. */
enum { MEMORY, FIRST, BIND, SECOND, DOMAIN, MAP, CUT, DIRTY, READ, HOLD, CLOSE, STEPS };
static const char *const names[STEPS] = {"memory", "first", "bind", "second", "domain", "map",
                                         "cut",    "dirty", "read", "hold",   "close"};

static int hold_group(void *arg, uint32_t group, int group_fd, int container_fd) {
    struct vb_backend *other = arg;

    vb_type1_hold_group(other, group, fcntl(group_fd, F_DUPFD_CLOEXEC, 0), fcntl(container_fd, F_DUPFD_CLOEXEC, 0),
                        fresh());
    return 0;
}

static unsigned run(int failing, unsigned nth, unsigned way, bool onwards) {
    struct vb_memory_desc d = {.fd = ram_fd, .size = PAGES * 0x1000ull, .writable = true};
    const struct vb_range all = {0, PAGES * 0x1000ull - 1};
    struct vb_backend_map maps[PAGES];
    struct vb_device_desc desc = {.address = NULL};
    struct vb_space_info info;
    struct vb_dirty_info dirty;
    uint64_t bits = 0;
    vb_handle dom = 0;
    unsigned hit = 0, i;
    size_t done = 0;
    int r = 0, step;

    client[0] = client[1] = -1;
    for (step = 0; step <= failing; step++) {
        struct vb_backend *held = NULL;

        if (step == HOLD) {
            OK(vb_type1_new(&held, &e));
            vb_type1_each_group(b, hold_group, held);
        }
        if (step == FIRST)
            desc = description(0, VB_NO_HANDLE);
        if (step == SECOND)
            desc = description(1, dev[0]);
        if (step == failing)
            fail_call(nth, way, onwards);
        switch (step) {
        case MEMORY:
            r = b->ops->memory_add(b, &d, &ram, fresh());
            break;
        case FIRST:
            r = b->ops->device_open(b, &desc, &dev[0], &client[0], fresh());
            break;
        case BIND:
            r = b->ops->device_bind(b, dev[0], fresh());
            break;
        case SECOND:
            r = b->ops->device_open(b, &desc, &dev[1], &client[1], fresh());
            break;
        case DOMAIN:
            r = b->ops->domain_open(b, dev[0], &dom, fresh());
            if (r == 0)
                r = b->ops->domain_info(b, dom, &info, fresh());
            if (r == 0)
                r = b->ops->device_attach(b, dev[0], dom, fresh());
            break;
        case MAP: /* near the limit: runs 0-3 and 4-7 */
            for (i = 0; i < PAGES; i++)
                maps[i] = (struct vb_backend_map){
                    .iova = i * 0x1000ull, .size = 0x1000, .memory = ram, .offset = i % 4 * 0x1000ull, .prot = 3};
            r = b->ops->map(b, dom, maps, PAGES, &done, fresh());
            hit = step == failing ? fail_call_end() : 0;
            if (r != 0)
                assert_pages(dom, (1u << done) - 1);
            break;
        case CUT:
            r = unmap_page(dom, 1);
            hit = step == failing ? fail_call_end() : 0;
            if (r != 0) { /* as the model does it: mapped again; and what could not be comes back by itself */
                b->ops->tick(b);
                assert_int_equal(b->ops->leftovers(b), 0);
                r = try_map(dom, ram, 0x1000, 0x1000, 0x1000, 3);
                assert_true(r == 0 || r == -EEXIST);
                assert_pages(dom, 0xff);
                r = -1;
            } else {
                assert_pages(dom, 0xfd);
            }
            break;
        case DIRTY:
            r = b->ops->dirty_set(b, dom, true, &dirty, fresh());
            break;
        case READ:
            if (compat)
                break;
            for (i = 0; i < 2 && r == 0; i++)
                r = b->ops->dirty_read(b, dom, all, 4096, false, &bits, fresh());
            hit = step == failing ? fail_call_end() : 0;
            if (r == 0)
                assert_int_equal(bits, 0xfd);
            else /* what could not be read is read by the next one */
                assert_int_equal(b->ops->dirty_read(b, dom, all, 4096, false, &bits, fresh()), 0);
            break;
        case HOLD:
            for (i = 0; i < 3; i++) {
                held->ops->take_over(held);
                held->ops->devices_left(held);
            }
            held->ops->close(held);
            break;
        case CLOSE:
            b->ops->domain_close(b, dom);
            b->ops->device_close(b, dev[1]);
            b->ops->in_use(b, dev[1]);
            b->ops->device_close(b, dev[0]);
            b->ops->in_use(b, dev[0]);
            break;
        }
        if (step == failing)
            return hit ? hit : fail_call_end();
        if (r != 0 && !(step == DIRTY && compat))
            fail_msg("%s: %s", names[step], e.text);
        r = 0;
    }
    return 0;
}

static void sweep_all(bool onwards) {
    unsigned step, nth, way, n = 0, hit;

    if (!compat)
        write_text(LIMIT_FILE, "5"); /* nothing is enough: every batch is joined */
    for (step = 0; step < STEPS; step++) {
        for (way = 0; way < FAIL_WAYS - 1; way++) { /* EINTR for ever would be for ever */
            for (nth = 1; nth < LOOK; nth++) {
                begin();
                ram_fd = make_memory(PAGES * 0x1000ull);
                hit = run((int)step, nth, way, onwards);
                n += hit > 0;
                close(client[0]);
                close(client[1]);
                close(ram_fd);
                end();
                if (!hit)
                    break;
            }
            assert_true(nth < LOOK || (step == HOLD && compat)); /* which looks for each of 4096 objects */
        }
        printf("# %s: %u failures so far\n", names[step], n);
    }
    write_text(LIMIT_FILE, "65535");
    assert_true(n > 100);
}

static void test_each_call(void **state) {
    (void)state;
    NEED_TYPE1();
    sweep_all(false);
}

static void test_all_calls_from_one_on(void **state) {
    (void)state;
    NEED_TYPE1();
    sweep_all(true);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_each_call, sweep),
        cmocka_unit_test_teardown(test_all_calls_from_one_on, sweep),
    };

    if (parse_arguments(argc, argv) < 0) {
        fprintf(stderr, "usage: %s [compat]\n", argv[0]);
        return 2;
    }
    return cmocka_run_group_tests_name("fail-type1", tests, prepare_type1, NULL);
}
