/* Every operation of the model, with page tables that are shared and with containers as type1 has them, that succeeds is repeated with its first, second, ... backend call failing, with its
 * first, second, ... allocation failing, and with its first, second, ... mmap or mlock failing, until nothing fails any more:
 * each time model, ledger, page tables, locked pages and fds are as they were before. Linked with
 * --wrap=malloc,calloc,realloc,mlock,munlock,mmap. */
#include "tests/unit/core-fixture.h"

#include <inttypes.h>
#include <sys/syscall.h>

/* ---- the n-th allocation ---- */

static uint64_t allocations, failing_allocation; /* counted while failing_allocation is not 0 */

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);

static bool fails(void) {
    return failing_allocation && ++allocations == failing_allocation;
}
void *__wrap_malloc(size_t size) {
    return fails() ? NULL : __real_malloc(size);
}
void *__wrap_calloc(size_t n, size_t size) {
    return fails() ? NULL : __real_calloc(n, size);
}
void *__wrap_realloc(void *p, size_t size) {
    return fails() ? NULL : __real_realloc(p, size);
}

/* ---- the n-th mmap or mlock ---- */

static uint64_t system_calls, failing_system_call;

int __wrap_mlock(const void *p, size_t size);
int __wrap_munlock(const void *p, size_t size);
void *__wrap_mmap(void *p, size_t size, int prot, int flags, int fd, off_t offset);
void *__real_mmap(void *p, size_t size, int prot, int flags, int fd, off_t offset);

static bool system_call_fails(void) {
    if (!failing_system_call || ++system_calls != failing_system_call)
        return false;
    errno = ENOMEM;
    return true;
}
/* The system calls themselves, since AddressSanitizer makes mlock() and munlock() do nothing. */
int __wrap_mlock(const void *p, size_t size) {
    return system_call_fails() ? -1 : (int)syscall(SYS_mlock, p, size);
}
int __wrap_munlock(const void *p, size_t size) {
    return (int)syscall(SYS_munlock, p, size);
}
void *__wrap_mmap(void *p, size_t size, int prot, int flags, int fd, off_t offset) {
    return system_call_fails() ? MAP_FAILED : __real_mmap(p, size, prot, flags, fd, offset);
}

/* ---- the operations ---- */

static struct vb_model *m;
static struct vb_error e;
static int memory_fd, client_fd;

static struct vb_pin *scene_pin;

/* What the scene of an operation has beside the usual. */
enum { TRACKED = 1, DISCARDING = 2, LARGE = 4 };
/* What is different when it fails: it may succeed all the same, and do later what could not be done; what it has begun is lost. */
enum { TOLERANT = 8, LOSES = 16 };

#define HIGH (1ull << 40)
#define MSI  .n_reserved = 1, .reserved = {{{0xfee00000, 0xfeefffff}, "msi"}}
static const struct vb_emulated_kind kinds[] = {
    {.address = "narrow", .aperture_last = (1ull << 39) - 1, .page_size = 4096, MSI},
    {.address = "leaving", .aperture_last = (1ull << 39) - 1, .page_size = 4096, MSI},
};
static bool containers;

static const struct vb_unmap_entry discarded[] = {{0x10000, 0x20000}, {HIGH, 0x1000}};

/* As large as spaces that are filled anew at the first attach. */
static void add_large_space(void) {
    static struct vb_map_entry t[256];
    const struct vb_range need = {HIGH, HIGH};
    unsigned i;

    for (i = 0; i < 256; i++)
        t[i] = (struct vb_map_entry){.iova = (1 + i) * 2 * MIB, .size = MIB, .memory = 1, .prot = 3};
    assert_int_equal(vb_model_map(m, add_space(m)->id, t, 256, NULL), 0);
    assert_int_equal(vb_model_space_need(m, 4, &need, 1, NULL), 0);
}

/* Two spaces with mappings, a third one with a pin in it, a read-only and two writable memories; devices: one claimed, one bound,
 * one attached to the first space, which another one leaves some of, and one like that bound. */
static void set_scene(unsigned flags) {
    const struct vb_emulated_knobs knobs = {.containers = containers, .kinds = kinds, .n_kinds = 2};
    static int fds[5];
    struct vb_memory *ro;
    struct vb_device *d;
    uint64_t n, bytes;
    unsigned i;

    m = make_model_with(&knobs, 1024 * MIB);
    add_memory(m, MIB);
    add_memory(m, MIB);
    assert_int_equal(vb_model_register(m, make_memory(MIB), false, 0, "rom", &ro, NULL), 0);
    add_space(m);
    add_space(m);
    for (i = 0; i < 6; i++)
        assert_int_equal(map1(m, 1, 1 + i % 2, i * 0x10000, 0x4000, i * 0x3000, 3, NULL), 0);
    assert_int_equal(map1(m, 1, 1, HIGH, 0x1000, 0, 3, NULL), 0);
    assert_int_equal(map1(m, 2, 1, 0, MIB, 0, 1, NULL), 0);
    add_space(m);
    for (i = 0; i < 3; i++)
        assert_int_equal(map1(m, 3, 1 + i % 2, i * 0x10000, 0x10000, 0x60000 + i * 0x4000, i == 2 ? 1 : 3, NULL), 0);
    assert_int_equal(
        vb_model_pin(m, vb_model_space(m, 3, NULL), (struct vb_range){0x4000, 0x7fff}, 3, NULL, &scene_pin, NULL), 0);
    assert_int_equal(claim_device(m, "claimed", 1, &msi_window, 1, 0, &d, &fds[0], NULL), 0);
    add_device(m, "bound", &fds[1]);
    d = add_device(m, "attached", &fds[2]);
    assert_int_equal(attach1(m, d->id, 1, NULL), 0);
    d = add_device(m, "leaving", &fds[3]);
    assert_int_equal(attach_leaving_out(m, d->id, 1), 1);
    add_device(m, "narrow", &fds[4]);
    for (i = 0; i < 5; i++)
        close(fds[i]); /* the clients' ends do not matter here */
    if (flags & LARGE)
        add_large_space();
    if (flags & TRACKED)
        assert_int_equal(vb_model_dirty_set(m, 1, true, NULL, NULL), 0);
    if (flags & DISCARDING)
        assert_int_equal(vb_model_discard(m, 1, discarded, 2, &n, &bytes, NULL), 0);
    memory_fd = make_memory(MIB);
    client_fd = -1;
}

static void end_scene(void) {
    struct vb_space *pinned = vb_model_space(m, 3, NULL);

    while (!TAILQ_EMPTY(&pinned->pins))
        vb_model_unpin(m, TAILQ_FIRST(&pinned->pins));
    vb_model_free(m);
    close(memory_fd);
    if (client_fd >= 0)
        close(client_fd);
}

static int op_register(void) {
    struct vb_memory *ret;
    return vb_model_register(m, fcntl(memory_fd, F_DUPFD_CLOEXEC, 0), true, 0, "new", &ret, &e);
}
static int op_unregister(void) {
    return vb_model_unregister(m, 3, &e);
}
static int op_space_create(void) {
    struct vb_space *ret;
    return vb_model_space_create(m, "new", &ret, &e);
}
static int op_space_destroy(void) {
    return vb_model_space_destroy(m, 2, &e);
}
static int op_refresh(void) {
    return vb_model_space_refresh(m, vb_model_space(m, 1, NULL), &e);
}
static int op_map_one(void) {
    return map1(m, 1, 1, 0x800000, 0x3000, 0x41000, 3, &e);
}
/* More than a chunk of the page table's nodes, all memories, splitting extents. */
static int op_map_batch(void) {
    static struct vb_map_entry t[400];
    unsigned i;

    for (i = 0; i < 400; i++)
        t[i] = (struct vb_map_entry){.iova = 0x1000000 + i * 0x2000ull,
                                     .size = 0x1000,
                                     .offset = (i * 7 % 200) * 0x1000ull,
                                     .memory = 1 + i % 3,
                                     .prot = i % 3 == 2 ? 1 : 3};
    return vb_model_map(m, 1, t, 400, &e);
}
static int op_unmap_one(void) {
    uint64_t n, bytes;
    return unmap1(m, 1, 0x10000, 0x4000, &n, &bytes, &e);
}
static int op_unmap_batch(void) {
    const struct vb_unmap_entry t[] = {{0x40000, 0x10000}, {0, 0x20000}, {0x30000, 0x4000}};
    uint64_t n, bytes;
    return vb_model_unmap(m, 1, t, 3, &n, &bytes, &e);
}
static int op_unmap_all(void) {
    uint64_t n, bytes;
    return vb_model_unmap_all(m, 1, &n, &bytes, &e);
}
static int op_claim(void) {
    struct vb_device *ret;
    return claim_device(m, "new", 1, &msi_window, 1, 0, &ret, &client_fd, &e);
}
static int op_bind(void) {
    return vb_model_bind(m, 1, &e);
}
static int op_attach(void) {
    return attach1(m, 2, 2, &e);
}
static int op_detach(void) {
    return vb_model_detach(m, 3, &e);
}
static int op_release(void) {
    vb_handle h;
    return release1(m, 3, &h, &e);
}

/* Over three mappings of two memories, with locked pages in the middle of the first already, and with pages that show twice. */
static int op_pin(void) {
    struct vb_pin *ret;
    return vb_model_pin(m, vb_model_space(m, 3, NULL), (struct vb_range){0x1001, 0x2ffff}, 1, NULL, &ret, &e);
}
static int op_unpin(void) {
    vb_model_unpin(m, scene_pin);
    return 0;
}

static int op_claim_for(void) {
    struct vb_device *ret;
    return claim_device(m, "new", 1, &msi_window, 1, 1, &ret, &client_fd, &e);
}
static int op_attach_second(void) {
    return attach1(m, 2, 1, &e);
}
static int op_attach_leaving(void) {
    struct vb_attached ret = {0};
    return vb_model_attach(m, 5, 1, true, &ret, &e);
}
static int op_attach_large(void) {
    return attach1(m, 2, 4, &e);
}
static int op_detach_leaving(void) {
    return vb_model_detach(m, 4, &e);
}
static int op_need(void) {
    const struct vb_range needs[] = {{0, 0xffff}, {HIGH, HIGH + 0xfff}};
    return vb_model_space_need(m, 1, needs, 2, &e);
}
static int op_dirty_on(void) {
    struct vb_dirty_info info;
    return vb_model_dirty_set(m, 1, true, &info, &e);
}
static int op_dirty_off(void) {
    return vb_model_dirty_set(m, 1, false, NULL, &e);
}
static int op_dirty_read(void) {
    static uint64_t bits[8];
    return vb_model_dirty_read(m, 1, (struct vb_range){0, 0xfffff}, 4096, false, bits, &e);
}
static int op_discard(void) {
    uint64_t n, bytes;
    return vb_model_discard(m, 1, discarded, 2, &n, &bytes, &e);
}
static int op_discard_again(void) {
    return vb_model_discard_end(m, 1, true, &e);
}
static int op_discard_forget(void) {
    return vb_model_discard_end(m, 1, false, &e);
}

static const struct op {
    const char *name;
    int (*run)(void);
    unsigned flags;
} ops[] = {
    {"register", op_register, 0},
    {"unregister", op_unregister, 0},
    {"space_create", op_space_create, 0},
    {"space_destroy", op_space_destroy, 0},
    {"refresh", op_refresh, 0},
    {"map", op_map_one, 0},
    {"map of 400", op_map_batch, 0},
    {"unmap", op_unmap_one, 0},
    {"unmap of 3", op_unmap_batch, 0},
    {"unmap all", op_unmap_all, 0},
    {"claim", op_claim, 0},
    {"claim for a space", op_claim_for, 0},
    {"bind", op_bind, 0},
    {"attach", op_attach, TOLERANT},
    {"attach a second", op_attach_second, TOLERANT},
    {"attach a second, tracked", op_attach_second, TOLERANT | TRACKED},
    {"attach leaving out", op_attach_leaving, TOLERANT},
    {"attach leaving out, tracked", op_attach_leaving, TOLERANT | TRACKED},
    {"attach to a large space", op_attach_large, TOLERANT | LARGE},
    {"detach", op_detach, TOLERANT},
    {"detach what leaves out", op_detach_leaving, TOLERANT | TRACKED},
    {"release", op_release, TOLERANT},
    {"need", op_need, 0},
    {"dirty on", op_dirty_on, 0},
    {"dirty off", op_dirty_off, TRACKED},
    {"dirty read", op_dirty_read, TRACKED},
    {"discard", op_discard, 0},
    {"discard, mapped again", op_discard_again, DISCARDING | LOSES},
    {"discard, forgotten", op_discard_forget, DISCARDING},
    {"pin", op_pin, 0},
    {"unpin", op_unpin, 0},
};

/* ---- everything that can be seen, as text ---- */

static uint64_t locked_kib(void) {
    uint64_t kib = UINT64_MAX;
    char line[256];
    FILE *f = fopen("/proc/self/status", "re");

    assert_non_null(f);
    while (fgets(line, sizeof(line), f))
        if (strncmp(line, "VmLck:", 6) == 0)
            sscanf(line + 6, "%" SCNu64, &kib);
    fclose(f);
    return kib;
}

static void picture(char *buf, size_t size) {
    size_t at = 0;
    uint32_t i;

#define SAY(...) at += (size_t)snprintf(buf + at, size - at, __VA_ARGS__)
    check_model(m); /* the trees and the page tables agree */
    SAY("used %" PRIu64 " lease %" PRIu64 " mappings %" PRIu64 " objects %zu fds %u\n", m->ledger.used, m->ledger.lease,
        m->mappings, vb_emulated_objects(m->backend), count_fds());
    SAY("doubled %" PRIu64 " tables %" PRIu64 " pins %u parts %u locked %" PRIu64 " KiB\n", m->ledger.doubled,
        m->ledger.tables, m->n_pins, m->pin_parts, locked_kib());
    for (i = 0; i < m->memories.n; i++) {
        struct vb_memory *p = m->memories.items[i];
        SAY("memory %u %s fd %d handle %" PRIu64 " mappings %" PRIu64 " covered %" PRIu64 " in %u\n", p->id, p->name,
            p->fd, p->handle, p->mappings, p->charge.mapped.covered, p->charge.mapped.n);
        if (p->charge.has_pinned && p->charge.pinned.covered)
            SAY("  pinned %" PRIu64 " in %u, both %" PRIu64 "\n", p->charge.pinned.covered, p->charge.pinned.n,
                p->charge.both);
    }
    for (i = 0; i < m->devices.n; i++) {
        struct vb_device *p = m->devices.items[i];
        SAY("device %u %s state %d space %u handle %" PRIu64 "\n", p->id, p->address, p->state,
            p->space ? p->space->id : 0, p->handle);
    }
    for (i = 0; i < m->spaces.n; i++) {
        struct vb_space *p = m->spaces.items[i];
        struct vb_domain *dom;
        struct vb_mapping *k;

        SAY("space %u %s mappings %" PRIu64 " bytes %" PRIu64 " devices %u usable %u\n", p->id, p->name, p->mappings,
            p->mapped_bytes, p->devices, p->info.n_usable);
        SAY("  needs %u dirty %d discarded %" PRIu64 "\n", p->n_needs, p->dirty, p->discarded);
        TAILQ_FOREACH (dom, &p->domains, entry)
            SAY("  domain of %u devices, leaves out %d: %" PRIu64 ", has %zu\n", dom->devices, dom->leaves_out,
                dom->left_out, vb_emulated_dump(m->backend, dom->handle, NULL, 0));
        for (k = vb_mapping_first(&p->tree, (struct vb_range){0, UINT64_MAX}); k; k = vb_mapping_next(k))
            SAY("  %" PRIx64 "-%" PRIx64 " memory %u at %" PRIx64 " prot %u%s\n", k->iova.first, k->iova.last,
                k->memory->id, k->offset, k->prot, k->pending ? " pending" : "");
    }
    assert_true(at < size);
}

enum what { CALLS, ALLOCATIONS, SYSTEM_CALLS };
static const char *const what_names[] = {"backend call", "allocation", "mmap or mlock"};

static void arm(enum what what, uint64_t nth) {
    if (what == CALLS)
        vb_emulated_knobs(m->backend)->fault[VB_EMULATED_ANY] = (struct vb_emulated_fault){.nth = nth, .error = -EIO};
    allocations = system_calls = 0;
    failing_allocation = what == ALLOCATIONS ? nth : 0;
    failing_system_call = what == SYSTEM_CALLS ? nth : 0;
}

static bool disarm(enum what what, uint64_t nth) {
    struct vb_emulated_fault *f = &vb_emulated_knobs(m->backend)->fault[VB_EMULATED_ANY];
    const uint64_t seen = what == CALLS ? f->calls : what == ALLOCATIONS ? allocations : system_calls;

    failing_allocation = failing_system_call = 0;
    f->nth = 0;
    return seen >= nth;
}

/* Returns how many failures there were. */
static unsigned sweep(const struct op *op, enum what what) {
    static char before[65536], after[65536], good[65536];
    unsigned failures = 0;
    uint64_t nth;
    bool struck;
    int r;

    set_scene(op->flags);
    assert_int_equal(op->run(), 0);
    picture(good, sizeof(good));
    end_scene();
    for (nth = 1;; nth++) {
        set_scene(op->flags);
        picture(before, sizeof(before));
        memset(&e, 0, sizeof(e));
        arm(what, nth);
        r = op->run();
        struck = disarm(what, nth);
        picture(after, sizeof(after));
        if (r != 0) {
            failures++;
            assert_true(struck && r == e.code);
            assert_int_equal(r, what == CALLS ? -EIO : -ENOMEM);
            if (strcmp(before, after) != 0 && (op->flags & LOSES)) {
                assert_text(&e, "are gone", NULL);
            } else if (strcmp(before, after) != 0) {
                printf("# before\n%safter\n%s", before, after);
                fail_msg("%s with %s %" PRIu64 " failing has left something", op->name, what_names[what], nth);
            } else {
                assert_int_equal(op->run(), 0); /* and it can be had afterwards */
                picture(after, sizeof(after));
            }
        }
        if (!(op->flags & TOLERANT))
            assert_true(r != 0 || !struck);
        if (!struck) {
            assert_int_equal(r, 0);
            assert_string_equal(after, good);
        }
        end_scene();
        if (!struck)
            return failures;
    }
}

static void sweep_all(enum what what) {
    unsigned fds = count_fds(), n, total = 0;
    size_t i;

    for (i = 0; i < 2 * sizeof(ops) / sizeof(*ops); i++) {
        const struct op *op = &ops[i / 2];

        containers = i % 2;
        n = sweep(op, what);
        printf("# %s%s: %s failed %u times\n", op->name, containers ? " (containers)" : "", what_names[what], n);
        total += n;
    }
    printf("# %u failures\n", total);
    assert_int_equal(count_fds(), fds);
}

static void test_each_backend_call(void **state) {
    (void)state;
    sweep_all(CALLS);
}

static void test_each_allocation(void **state) {
    (void)state;
    sweep_all(ALLOCATIONS);
}

static void test_each_mmap_and_mlock(void **state) {
    (void)state;
    sweep_all(SYSTEM_CALLS);
}

/* The sweeps above begin with a model; this is how one comes to be. */
static void test_making_a_model(void **state) {
    struct vb_backend *b;
    uint64_t nth;
    int r;

    (void)state;
    for (nth = 1;; nth++) {
        failing_allocation = nth;
        allocations = 0;
        r = vb_emulated_new(NULL, &b, NULL);
        if (r == 0)
            r = vb_model_new(b, 10, &m); /* consumes it */
        failing_allocation = 0;
        if (r == 0)
            break;
        assert_int_equal(r, -ENOMEM);
    }
    assert_int_equal(nth, 3);
    m = vb_model_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_backend_call),
        cmocka_unit_test(test_each_allocation),
        cmocka_unit_test(test_each_mmap_and_mlock),
        cmocka_unit_test(test_making_a_model),
    };

    return cmocka_run_group_tests_name("fail-nth", tests, NULL, NULL);
}
