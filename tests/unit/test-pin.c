/* Pins in the model: parts, whole pages, charge and residency. What is locked is read from the kernel (VmLck of this process);
 * mlock and mmap can be made to fail. Linked with --wrap=mlock,munlock,mmap. */
#include "tests/unit/core-fixture.h"

#include <inttypes.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define PAGE 4096ull
enum { R = VB_PROT_READ, RW = VB_PROT_READ | VB_PROT_WRITE };

/* ---- system calls that fail ---- */

static unsigned calls, failing_call; /* counted while failing_call is not 0 */

int __wrap_mlock(const void *p, size_t size);
int __wrap_munlock(const void *p, size_t size);
void *__wrap_mmap(void *p, size_t size, int prot, int flags, int fd, off_t offset);
void *__real_mmap(void *p, size_t size, int prot, int flags, int fd, off_t offset);

static bool fails(void) {
    if (!failing_call || ++calls != failing_call)
        return false;
    errno = ENOMEM;
    return true;
}
/* The system calls themselves, since AddressSanitizer makes mlock() and munlock() do nothing. */
int __wrap_mlock(const void *p, size_t size) {
    return fails() ? -1 : (int)syscall(SYS_mlock, p, size);
}
int __wrap_munlock(const void *p, size_t size) {
    return (int)syscall(SYS_munlock, p, size);
}
void *__wrap_mmap(void *p, size_t size, int prot, int flags, int fd, off_t offset) {
    return fails() ? MAP_FAILED : __real_mmap(p, size, prot, flags, fd, offset);
}

/* ---- looking ---- */

static uint64_t locked_bytes(void) {
    uint64_t kib = UINT64_MAX;
    char line[256];
    FILE *f = fopen("/proc/self/status", "re");

    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        if (strncmp(line, "VmLck:", 6) == 0)
            sscanf(line + 6, "%" SCNu64, &kib);
    fclose(f);
    return kib * KIB;
}

static struct vb_model *m;
static struct vb_space *space;
static struct vb_error e;

static int set_up(void **state) {
    (void)state;
    m = make_model(64 * MIB);
    space = add_space(m);
    memset(&e, 0, sizeof e);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    failing_call = 0;
    while (!TAILQ_EMPTY(&space->pins))
        vb_model_unpin(m, TAILQ_FIRST(&space->pins));
    m = vb_model_free(m);
    assert_int_equal(locked_bytes(), 0);
    return 0;
}

/* What is paid, doubled and locked, in pages; and that the model agrees with itself. */
static void expect(uint64_t paid, uint64_t doubled, uint64_t locked) {
    check_model(m);
    assert_int_equal(m->ledger.used, paid * PAGE);
    assert_int_equal(m->ledger.doubled, doubled * PAGE);
    assert_int_equal(locked_bytes(), locked * PAGE);
}

static struct vb_pin *pin(uint64_t iova, uint64_t size, uint32_t prot) {
    struct vb_pin *p = NULL;

    if (vb_model_pin(m, space, (struct vb_range){iova, iova + size - 1}, prot, NULL, &p, &e) != 0)
        fail_msg("pin 0x%" PRIx64 ": %s", iova, e.text);
    return p;
}

static void refused(uint64_t iova, uint64_t size, uint32_t prot, int code) {
    struct vb_pin *p = NULL;

    memset(&e, 0, sizeof e);
    assert_int_equal(vb_model_pin(m, space, (struct vb_range){iova, iova + size - 1}, prot, NULL, &p, &e), code);
    assert_int_equal(e.code, code);
    assert_true(e.text[0] && !p);
}

/* ---- */

static void test_parts_are_whole_pages(void **state) {
    struct vb_pin *p, *q;

    (void)state;
    add_memory(m, 64 * PAGE);
    add_memory(m, 64 * PAGE);
    assert_int_equal(map1(m, 1, 1, 0x100000, 2 * PAGE, 10 * PAGE, RW, NULL), 0);
    assert_int_equal(map1(m, 1, 2, 0x102000, 2 * PAGE, 40 * PAGE, RW, NULL), 0);
    assert_int_equal(map1(m, 1, 1, 0x104000, 2 * PAGE, 0, R, NULL), 0);
    expect(6, 0, 0);
    p = pin(0x101ffe, 0x2000 + 4, R); /* two bytes of the first, all of the second, two bytes of the third */
    assert_int_equal(p->n_parts, 3);
    assert_int_equal(p->parts[0].offset, 12 * PAGE - 2);
    assert_int_equal(p->parts[0].iova.first, 0x101ffe);
    assert_int_equal(p->parts[0].iova.last, 0x101fff);
    assert_int_equal(p->parts[1].memory->id, 2);
    assert_int_equal(p->parts[1].offset, 40 * PAGE);
    assert_int_equal(vb_range_size(p->parts[1].iova), 2 * PAGE);
    assert_int_equal(p->parts[2].offset, 0);
    assert_int_equal(p->parts[2].iova.last, 0x104001);
    assert_int_equal(p->locked, 4 * PAGE);
    expect(6, 4, 4);
    assert_int_equal(m->n_pins, 1);
    assert_int_equal(m->pin_parts, 3);
    q = pin(0x100000, 1, RW); /* one byte costs a page */
    expect(6, 5, 5);
    assert_true(q->id > p->id);
    vb_model_unpin(m, p);
    expect(6, 1, 1);
    vb_model_unpin(m, q);
    expect(6, 0, 0);
    assert_int_equal(m->n_pins + m->pin_parts + space->n_pins, 0);
    assert_null(vb_model_unpin(m, NULL));
}

static void test_refused(void **state) {
    struct vb_memory *memory;

    (void)state;
    memory = add_memory(m, 8 * PAGE);
    assert_int_equal(map1(m, 1, 1, 0x100000, 2 * PAGE, 0, RW, NULL), 0);
    assert_int_equal(map1(m, 1, 1, 0x103000, PAGE, 3 * PAGE, R, NULL), 0);
    refused(0, PAGE, R, VB_NOT_FOUND);
    refused(0x101000, 0x2001, R, VB_NOT_FOUND); /* a gap of a page */
    assert_text(&e, "0x102000", NULL);
    refused(0xfffff, 2, R, VB_NOT_FOUND);
    refused(0x103fff, 2, R, VB_NOT_FOUND);
    refused(0x103000, PAGE, RW, VB_DENIED);
    refused(0x100000, PAGE, 0, VB_INVALID);
    refused(0x100000, PAGE, VB_PROT_WRITE, VB_INVALID);
    refused(0x100000, PAGE, 7, VB_INVALID);
    expect(3, 0, 0);
    /* The memory's owner takes a page away: what is left cannot be relied on. */
    assert_int_equal(fallocate(memory->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 7 * PAGE, PAGE), 0);
    refused(0x100000, PAGE, R, VB_BAD_MEMORY);
    expect(3, 0, 0);
    assert_int_equal(m->n_pins + m->pin_parts + space->n_pins, 0);
}

/* The same pages twice in one pin are counted twice and locked once. */
static void test_aliases_inside_one_pin(void **state) {
    struct vb_pin *p, *q;

    (void)state;
    add_memory(m, 16 * PAGE);
    assert_int_equal(map1(m, 1, 1, 0x100000, 4 * PAGE, 0, RW, NULL), 0);
    assert_int_equal(map1(m, 1, 1, 0x104000, 4 * PAGE, 2 * PAGE, RW, NULL), 0);
    assert_int_equal(map1(m, 1, 1, 0x108000, 4 * PAGE, 0, RW, NULL), 0);
    expect(6, 0, 0);
    p = pin(0x100000, 12 * PAGE, RW);
    assert_int_equal(p->n_parts, 3);
    expect(6, 6, 6);
    q = pin(0x108000, PAGE, RW);
    vb_model_unpin(m, p);
    expect(6, 1, 1);
    vb_model_unpin(m, q);
    expect(6, 0, 0);
}

static void test_any_order_of_unpinning(void **state) {
    static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    static const struct { uint64_t first, n; } ranges[3] = {{0, 6}, {4, 6}, {2, 12}}; /* pages */
    unsigned i, k, page, covered;

    (void)state;
    add_memory(m, 16 * PAGE);
    assert_int_equal(map1(m, 1, 1, 0x100000, 16 * PAGE, 0, RW, NULL), 0);
    for (i = 0; i < 6; i++) {
        struct vb_pin *pins[3];
        unsigned counts[16] = {0};

        for (k = 0; k < 3; k++) {
            pins[k] = pin(0x100000 + ranges[k].first * PAGE, ranges[k].n * PAGE, RW);
            for (page = 0; page < ranges[k].n; page++)
                counts[ranges[k].first + page]++;
        }
        expect(16, 14, 14);
        for (k = 0; k < 3; k++) {
            const int which = orders[i][k];

            vb_model_unpin(m, pins[which]);
            for (page = 0; page < ranges[which].n; page++)
                counts[ranges[which].first + page]--;
            for (page = covered = 0; page < 16; page++)
                covered += counts[page] > 0;
            expect(16, covered, covered);
        }
    }
}

static void test_unmap_is_refused(void **state) {
    uint64_t n, bytes;
    struct vb_pin *p;

    (void)state;
    add_memory(m, 16 * PAGE);
    assert_int_equal(map1(m, 1, 1, 0x100000, 4 * PAGE, 0, RW, NULL), 0);
    assert_int_equal(map1(m, 1, 1, 0x104000, 4 * PAGE, 4 * PAGE, RW, NULL), 0);
    assert_int_equal(map1(m, 1, 1, 0x200000, 4 * PAGE, 0, RW, NULL), 0); /* shows the same pages elsewhere */
    p = pin(0x100fff, 1, R);
    assert_int_equal(unmap1(m, 1, 0x100000, 4 * PAGE, &n, &bytes, &e), VB_BUSY);
    assert_text(&e, "0x100fff", "pin 1", NULL);
    assert_int_equal(vb_model_unmap_all(m, 1, &n, &bytes, &e), VB_BUSY);
    expect(8, 1, 1);
    assert_int_equal(unmap1(m, 1, 0x104000, 4 * PAGE, &n, &bytes, &e), 0);
    expect(4, 1, 1);
    assert_int_equal(unmap1(m, 1, 0x200000, 4 * PAGE, &n, &bytes, &e), 0); /* the pin is on the other range */
    expect(4, 1, 1);
    assert_ptr_equal(vb_pin_overlapping(space, NULL, (struct vb_range){0, UINT64_MAX}), p);
    assert_null(vb_pin_overlapping(space, NULL, (struct vb_range){0x101000, UINT64_MAX}));
    vb_model_unpin(m, p);
    assert_int_equal(unmap1(m, 1, 0x100000, 4 * PAGE, &n, &bytes, &e), 0);
    expect(0, 0, 0);
}

/* Each mmap and mlock fails once; then it works. */
static void test_nth_system_call_fails(void **state) {
    struct vb_pin *p = NULL, *first;
    const struct vb_range all = {0x100000, 0x100000 + 16 * PAGE - 1};
    unsigned i, failures = 0;

    (void)state;
    for (i = 0; i < 4; i++) {
        add_memory(m, 8 * PAGE);
        assert_int_equal(map1(m, 1, i + 1, 0x100000 + 4 * i * PAGE, 4 * PAGE, 2 * PAGE, RW, NULL), 0);
    }
    first = pin(0x101000, PAGE, R); /* so that one memory has a lock already, which stays */
    expect(16, 1, 1);
    for (failing_call = 1;; failing_call++) {
        int r;

        calls = 0;
        memset(&e, 0, sizeof e);
        r = vb_model_pin(m, space, all, RW, NULL, &p, &e);
        if (r == 0)
            break;
        failures++;
        assert_int_equal(r, -ENOMEM);
        assert_int_equal(e.code, -ENOMEM);
        assert_null(p);
        expect(16, 1, 1);
        assert_int_equal(m->n_pins, 1);
        assert_int_equal(m->pin_parts, 1);
    }
    failing_call = 0;
    assert_int_equal(failures, 7); /* four mlock, three mmap */
    expect(16, 16, 16);
    vb_model_unpin(m, first);
    expect(16, 16, 16);
    vb_model_unpin(m, p);
    expect(16, 0, 0);
}

/* In a process without privilege the kernel says no by itself. Not cmocka's asserts: they would return into its runner. */
static int child(void) {
    const struct rlimit l = {4 * PAGE, 4 * PAGE};
    struct vb_pin *p, *q = NULL;

    if ((geteuid() == 0 && setresuid(65534, 65534, 65534) < 0) || setrlimit(RLIMIT_MEMLOCK, &l) < 0)
        return 1;
    if (vb_model_pin(m, space, (struct vb_range){0x100000, 0x101fff}, RW, NULL, &p, &e) != 0)
        return 2;
    if (vb_model_pin(m, space, (struct vb_range){0x100000, 0x104fff}, RW, NULL, &q, &e) != -ENOMEM || q)
        return 3;
    if (!strstr(e.text, "RLIMIT_MEMLOCK"))
        return 4;
    if (locked_bytes() != 2 * PAGE || m->ledger.doubled != 2 * PAGE || m->ledger.used != 8 * PAGE)
        return 5;
    if (vb_model_pin(m, space, (struct vb_range){0x102000, 0x103fff}, RW, NULL, &q, &e) != 0)
        return 6;
    if (locked_bytes() != 4 * PAGE)
        return 7;
    vb_model_unpin(m, p);
    vb_model_unpin(m, q);
    return locked_bytes() == 0 && m->ledger.doubled == 0 ? 0 : 8;
}

static void test_the_kernel_refuses(void **state) {
    int status;
    pid_t pid;

    (void)state;
    add_memory(m, 8 * PAGE);
    assert_int_equal(map1(m, 1, 1, 0x100000, 8 * PAGE, 0, RW, NULL), 0);
    fflush(NULL);
    pid = fork();
    if (pid == 0)
        _exit(child());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    expect(8, 0, 0);
}

static void test_bounds(void **state) {
    unsigned i;

    (void)state;
    add_memory(m, 16 * PAGE);
    for (i = 0; i < 17; i++)
        assert_int_equal(map1(m, 1, 1, 0x100000 + i * PAGE, PAGE, i % 16 * PAGE, RW, NULL), 0);
    refused(0x100000, 17 * PAGE, R, VB_LIMIT);
    for (i = 0; i < VB_PIN_PARTS_MAX / 16; i++)
        pin(0x100000, 16 * PAGE, R);
    assert_int_equal(m->pin_parts, VB_PIN_PARTS_MAX);
    refused(0x100000, 1, R, VB_LIMIT);
    assert_text(&e, "16384 parts", NULL);
    expect(16, 16, 16);
    while (!TAILQ_EMPTY(&space->pins))
        vb_model_unpin(m, TAILQ_FIRST(&space->pins));
    for (i = 0; i < VB_PINS_MAX; i++)
        pin(0x100000 + i % 16 * PAGE, PAGE, R);
    refused(0x100000, 1, R, VB_LIMIT);
    assert_text(&e, "4096 pins", NULL);
    expect(16, 16, 16);
    while (!TAILQ_EMPTY(&space->pins))
        vb_model_unpin(m, TAILQ_FIRST(&space->pins));
    m->last_pin = UINT32_MAX - 1;
    pin(0x100000, PAGE, R); /* the last number there is */
    refused(0x100000, PAGE, R, VB_LIMIT);
    assert_text(&e, "numbers", "connect again", NULL);
}

/* More than one request may lock is refused before anything is. */
static void test_too_much_for_one_pin(void **state) {
    const uint64_t size = VB_PIN_BYTES / VB_PIN_SEGMENTS + MIB;
    unsigned i;

    (void)state;
    m->ledger.lease = m->ledger.limit = size;
    add_memory(m, size);
    for (i = 0; i < VB_PIN_SEGMENTS; i++)
        assert_int_equal(map1(m, 1, 1, 0x40000000 + i * size, size, 0, RW, NULL), 0);
    refused(0x40000000, VB_PIN_SEGMENTS * size, R, VB_LIMIT);
    assert_text(&e, "256 MiB", NULL);
    expect(size / PAGE, 0, 0);
}

/* Random maps, unmaps, pins and unpins against counters for each page. */
static void test_random(void **state) {
    enum { PAGES = 64, MAPS = 24, PINS = 24 };
    static const uint64_t base = 0x1000000;
    struct {
        uint64_t first, n;
        bool on;
    } maps[MAPS] = {0};
    struct vb_pin *pins[PINS] = {0};
    unsigned shown[PAGES] = {0}, needed[PAGES] = {0}, i, k, turn, page, refusals = 0;

    (void)state;
    start_random();
    add_memory(m, PAGES * PAGE);
    for (turn = 0; turn < 4000; turn++) {
        uint64_t paid = 0, both = 0, locked = 0, n, bytes;

        i = random_below(MAPS);
        if (turn % 3 == 0 && !maps[i].on) {
            maps[i].first = random_below(PAGES);
            maps[i].n = 1 + random_below(PAGES - (unsigned)maps[i].first);
            assert_int_equal(map1(m, 1, 1, base + i * PAGES * PAGE, maps[i].n * PAGE, maps[i].first * PAGE, RW, NULL),
                             0);
            maps[i].on = true;
            for (k = 0; k < maps[i].n; k++)
                shown[maps[i].first + k]++;
        } else if (turn % 3 == 0) {
            const bool busy = vb_pin_overlapping(
                space, NULL, (struct vb_range){base + i * PAGES * PAGE, base + (i + 1) * PAGES * PAGE - 1});

            assert_int_equal(unmap1(m, 1, base + i * PAGES * PAGE, PAGES * PAGE, &n, &bytes, &e), busy ? VB_BUSY : 0);
            refusals += busy;
            for (k = 0; k < maps[i].n && !busy; k++)
                shown[maps[i].first + k]--;
            maps[i].on = busy;
        } else if (maps[i].on) {
            struct vb_pin **p = &pins[random_below(PINS)];

            if (*p) {
                for (page = 0; page < PAGES; page++)
                    needed[page] -= (*p)->parts[0].offset < (page + 1) * PAGE &&
                                    (*p)->parts[0].offset + vb_range_size((*p)->iova) > page * PAGE;
                *p = vb_model_unpin(m, *p);
            } else {
                const uint64_t at = random_below((unsigned)(maps[i].n * PAGE)),
                               size = 1 + random_below((unsigned)(maps[i].n * PAGE - at));

                *p = pin(base + i * PAGES * PAGE + at, size, random_below(2) ? R : RW);
                assert_int_equal((*p)->n_parts, 1);
                for (page = 0; page < PAGES; page++)
                    needed[page] +=
                        (*p)->parts[0].offset < (page + 1) * PAGE && (*p)->parts[0].offset + size > page * PAGE;
            }
        }
        for (page = 0; page < PAGES; page++) {
            paid += shown[page] || needed[page];
            both += shown[page] && needed[page];
            locked += needed[page] > 0;
        }
        expect(paid, both, locked);
    }
    printf("# %u unmaps were refused for pins\n", refusals);
    assert_true(refusals > 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_parts_are_whole_pages, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_aliases_inside_one_pin, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_any_order_of_unpinning, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_unmap_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_nth_system_call_fails, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_the_kernel_refuses, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bounds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_too_much_for_one_pin, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_random, set_up, tear_down),
    };

    return cmocka_run_group_tests_name("pin", tests, NULL, NULL);
}
