/* Every operation of the model that succeeds on a real kernel is repeated with its first, second, ... system call failing, in
 * several ways; then with all from the first, the second, ... failing; then with the first, second, ... allocation or copy inside
 * the kernel failing; until nothing fails any more. After each failure everything is as it was: model, ledger, fds, what the
 * kernel has mapped in each space and which pages those are, what it has pinned and locked for us. And whatever happens, model
 * and kernel agree. Run by `tests/vm/run -- PROGRAM`; skips elsewhere, and says why. */
#include "tests/unit/iommufd-fixture.h"

#include <inttypes.h>
#include <linux/capability.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "backend/iommufd-private.h"
#include "tests/unit/fail-calls.h"
#include "tests/unit/kernel-check.h"

/* Where op_map_one() maps. */
#define MAP_ONE        0x180000ull
#define MAP_ONE_OFFSET 0x21000ull

/* ---- the scene ---- */

static struct vb_model *m;
static struct vb_pin *scene_pin;
static int clients[EDUS]; /* the clients' fds of the devices, which stay open as those of a VMM do */
static int given = -1;    /* the fd that comes with the operation */
static int new_client = -1, new_memory = -1;
static bool by_address; /* as on kernels without MAP_FILE */
static unsigned fds_at_start;

/* A page says which memory and page it is, and is nowhere 0. */
static unsigned char mark(uint32_t memory, uint64_t offset) {
    return (unsigned char)(1 + (memory - 1) * 64 + offset / PAGE);
}

static int marked_memory(uint32_t id) {
    int fd = memfd_create("test", MFD_CLOEXEC);
    unsigned char page[PAGE];
    uint64_t at;

    assert_true(fd >= 0);
    for (at = 0; at < MEMORY; at += PAGE) {
        memset(page, mark(id, at), PAGE);
        assert_int_equal(pwrite(fd, page, PAGE, (off_t)at), PAGE);
    }
    return fd;
}

/* Memories: two writable, one that is not, one of no use. Space 1 has mappings and edu 0, space 2 mappings and edu 1 only bound,
 * space 3 a pin. Edu 2 is claimed. */
static void set_scene(void) {
    struct vb_memory *memory;
    struct vb_device *d;
    uint32_t i;

    fds_at_start = count_fds();
    m = real_model(open_iommufd(), by_address);
    for (i = 1; i <= 2; i++)
        OK(vb_model_register(m, marked_memory(i), true, 0, "ram", &memory, &e));
    OK(vb_model_register(m, marked_memory(3), false, 0, "rom", &memory, &e));
    OK(vb_model_register(m, make_memory(MEMORY), true, 0, "idle", &memory, &e));
    for (i = 0; i < 3; i++)
        add_space(m);
    for (i = 0; i < 6; i++)
        OK(map1(m, 1, 1 + i % 3, 0x100000 + i * 0x10000, 0x4000, i * 0x3000, i % 3 == 2 ? 1 : 3, &e));
    for (i = 0; i < 2; i++)
        OK(map1(m, 2, 1 + i, 0x100000 + i * 0x800000000, MEMORY, 0, 3, &e));
    for (i = 0; i < 3; i++)
        OK(map1(m, 3, 1 + i % 2, i * 0x10000, 0x10000, 0x8000 + i * 0x4000, i == 2 ? 1 : 3, &e));
    OK(vb_model_pin(m, vb_model_space(m, 3, NULL), (struct vb_range){0x4000, 0x7fff}, 3, NULL, &scene_pin, &e));
    for (i = 0; i < 2; i++)
        real_device(m, (int)i, &clients[i]);
    OK(claim_fd(m, address[2], false, 1, open(cdev[2], O_RDWR | O_CLOEXEC), &d, &clients[2], &e));
    OK(attach1(m, 1, 1, &e));
    new_memory = make_memory(MEMORY);
}

static void end_scene(void) {
    int i;

    m = vb_model_free(m);
    assert_int_equal(own_kib("VmPin"), 0);
    assert_int_equal(own_kib("VmLck"), 0);
    for (i = 0; i < EDUS; i++)
        close(clients[i]);
    close(new_memory);
    if (new_client >= 0)
        close(new_client);
    new_client = -1;
    assert_int_equal(count_fds(), fds_at_start);
}

/* ---- the operations ---- */

static int give_memory(void) {
    return dup(new_memory);
}
static int give_registered(void) {
    return dup(((struct vb_memory *)m->memories.items[0])->fd);
}
static int give_cdev(void) {
    return open(cdev[2], O_RDWR | O_CLOEXEC);
}
static int op_register(void) {
    struct vb_memory *ret;
    return vb_model_register(m, given, true, 0, "new", &ret, &e);
}
static int op_unregister(void) {
    return vb_model_unregister(m, 4, &e);
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
    return map1(m, 1, 1, MAP_ONE, 0x3000, MAP_ONE_OFFSET, 3, &e);
}
static int op_map_unattached(void) {
    return map1(m, 2, 1, 0x200000, 0x3000, 0x21000, 3, &e);
}
/* Each in page tables of its own. */
static int op_map_batch(void) {
    struct vb_map_entry t[6];
    unsigned i;

    for (i = 0; i < 6; i++)
        t[i] = (struct vb_map_entry){.iova = 0x40000000ull * (i + 4),
                                     .size = 0x2000,
                                     .offset = (20 + 3 * i) * PAGE,
                                     .memory = 1 + i % 3,
                                     .prot = i % 3 == 2 ? 1 : 3};
    return vb_model_map(m, 1, t, 6, &e);
}
static int op_unmap_one(void) {
    uint64_t n, bytes;
    return unmap1(m, 1, 0x110000, 0x4000, &n, &bytes, &e);
}
static int op_unmap_batch(void) {
    const struct vb_unmap_entry t[] = {{0x140000, 0x10000}, {0x100000, 0x20000}, {0x130000, 0x4000}};
    uint64_t n, bytes;
    return vb_model_unmap(m, 1, t, 3, &n, &bytes, &e);
}
static int op_unmap_all(void) {
    uint64_t n, bytes;
    return vb_model_unmap_all(m, 1, &n, &bytes, &e);
}
static int op_claim(void) {
    struct vb_device *ret;
    return claim_fd(m, "new", false, 1, given, &ret, &new_client, &e);
}
static int op_bind(void) {
    return vb_model_bind(m, 3, &e);
}
static int op_attach(void) {
    return attach1(m, 2, 2, &e);
}
static int op_attach_second(void) {
    return attach1(m, 2, 1, &e);
}
/* A domain of its own, filled by replay. */
static int op_attach_leaving_out(void) {
    return vb_model_attach(m, 2, 1, true, NULL, &e);
}
static int op_need(void) {
    const struct vb_range low[] = {{0x100000, 0x1fffff}, {0x40000000, 0x4fffffff}};
    return vb_model_space_need(m, 1, low, 2, &e);
}
static int op_detach(void) {
    return vb_model_detach(m, 1, &e);
}
static int op_release(void) {
    vb_handle h;
    return release1(m, 1, &h, &e);
}
static int op_pin(void) {
    struct vb_pin *ret;
    return vb_model_pin(m, vb_model_space(m, 3, NULL), (struct vb_range){0x1001, 0x2ffff}, 1, NULL, &ret, &e);
}
static int op_unpin(void) {
    vb_model_unpin(m, scene_pin);
    return 0;
}

static const struct op {
    const char *name;
    int (*run)(void);
    int (*give)(void); /* NULL: no fd comes with it */
} ops[] = {
    {"register", op_register, give_memory},
    {"register again", op_register, give_registered},
    {"unregister", op_unregister, NULL},
    {"space create", op_space_create, NULL},
    {"space destroy", op_space_destroy, NULL},
    {"refresh", op_refresh, NULL},
    {"map", op_map_one, NULL},
    {"map of 6", op_map_batch, NULL},
    {"map, no device", op_map_unattached, NULL},
    {"unmap", op_unmap_one, NULL},
    {"unmap of 3", op_unmap_batch, NULL},
    {"unmap all", op_unmap_all, NULL},
    {"claim", op_claim, give_cdev},
    {"bind", op_bind, NULL},
    {"attach", op_attach, NULL},
    {"attach a second", op_attach_second, NULL},
    {"attach, leaving", op_attach_leaving_out, NULL},
    {"need", op_need, NULL},
    {"detach", op_detach, NULL},
    {"release", op_release, NULL},
    {"pin", op_pin, NULL},
    {"unpin", op_unpin, NULL},
};

/* ---- everything that can be seen, as text ---- */

enum how { ONE_CALL, ALL_CALLS, KERNEL };
static enum how how_now;
static unsigned believed; /* see check_kernel_pool() */

/* How many mappings of the files there are in this process. */
static unsigned own_mappings(void) {
    char line[512];
    unsigned n = 0;
    FILE *f = fopen("/proc/self/maps", "re");

    assert_non_null(f);
    while (fgets(line, sizeof(line), f))
        n += strstr(line, "/memfd:test") != NULL;
    fclose(f);
    return n;
}

/* Without those that tell when the host wants a device back: a device is bound also if there is none (request-event.h). */
static unsigned own_fds(void) {
    const struct vb_iommufd *io = (struct vb_iommufd *)m->backend;
    unsigned n = count_fds();
    uint32_t i;

    for (i = 0; i < VB_IOMMUFD_DEVICES; i++)
        n -= io->devices[i].state == VB_IOMMUFD_OPEN && io->devices[i].event_fd >= 0;
    return n;
}

static void picture(char *buf, size_t size) {
    uint64_t covered = 0;
    size_t at = 0;
    uint32_t i;

    check_kernel_spaces(m, mark);
    if (m->backend->ops->leftovers(m->backend) == 0)
        believed += check_kernel_pool(m, how_now == KERNEL);
#define SAY(...) at += (size_t)snprintf(buf + at, size - at, __VA_ARGS__)
    SAY("used %" PRIu64 " lease %" PRIu64 " doubled %" PRIu64 " tables %" PRIu64 " mappings %" PRIu64
        " pins %u parts %u\n",
        m->ledger.used, m->ledger.lease, m->ledger.doubled, m->ledger.tables, m->mappings, m->n_pins, m->pin_parts);
    SAY("fds %u VmPin %ld VmLck %ld own mappings %u left over %u\n", own_fds(), own_kib("VmPin"), own_kib("VmLck"),
        own_mappings(), m->backend->ops->leftovers(m->backend));
    SAY("file positions %ld %ld\n", (long)lseek(new_memory, 0, SEEK_CUR),
        (long)lseek(((struct vb_memory *)m->memories.items[0])->fd, 0, SEEK_CUR));
    for (i = 0; i < m->memories.n; i++) {
        struct vb_memory *p = m->memories.items[i];
        SAY("memory %u %s fd %d handle %" PRIu64 " registered %u mappings %" PRIu64 " covered %" PRIu64 " in %u\n",
            p->id, p->name, p->fd, p->handle, p->registered, p->mappings, p->charge.mapped.covered, p->charge.mapped.n);
        if (p->charge.has_pinned && p->charge.pinned.covered)
            SAY("  pinned %" PRIu64 " in %u, both %" PRIu64 "\n", p->charge.pinned.covered, p->charge.pinned.n,
                p->charge.both);
        covered += vb_charge_paid(&p->charge);
    }
    assert_int_equal(covered, m->ledger.used);
    for (i = 0; i < m->devices.n; i++) {
        struct vb_device *p = m->devices.items[i];
        SAY("device %u %s state %d space %u handle %" PRIu64 "\n", p->id, p->address, p->state,
            p->space ? p->space->id : 0, p->handle);
    }
    for (i = 0; i < m->spaces.n; i++) {
        struct vb_space *p = m->spaces.items[i];
        struct vb_mapping *k;

        SAY("space %u %s mappings %" PRIu64 " bytes %" PRIu64 " devices %u pins %u usable %u pages %" PRIx64
            " stale %d handle %" PRIu64 "\n",
            p->id, p->name, p->mappings, p->mapped_bytes, p->devices, p->n_pins, p->info.n_usable, p->info.page_sizes,
            p->info_stale, TAILQ_FIRST(&p->domains)->handle);
        for (k = vb_mapping_first(&p->tree, (struct vb_range){0, UINT64_MAX}); k; k = vb_mapping_next(k))
            SAY("  %" PRIx64 "-%" PRIx64 " memory %u at %" PRIx64 " prot %u\n", k->iova.first, k->iova.last,
                k->memory->id, k->offset, k->prot);
    }
    assert_true(at < size);
}

/* ---- sweeps ---- */

struct counts {
    unsigned failures; /* everything is as it was */
    unsigned bypassed; /* it succeeded all the same */
    unsigned late;     /* it failed or succeeded, and the rest is done by later() */
    unsigned lost;     /* what cannot be undone, as documented: may_lose(), position_lost(), window_forgotten() */
};

static unsigned dma_checks;

static void arm(enum how how, unsigned nth, unsigned way) {
    if (how == KERNEL)
        fail_kernel(nth);
    else
        fail_call(nth, way, how == ALL_CALLS);
}
static bool disarm(enum how how) {
    return how == KERNEL ? fail_kernel_end() : fail_call_end() > 0;
}

/* What is left for later: tombstones, a space's usable ranges, and a device that was released without being detached
 * (backend.h, device_close), which is the client's to detach or close. */
static void later(void) {
    struct vb_vfio_detach detach = {.argsz = sizeof(detach)};
    uint32_t i;

    if (!vb_model_device(m, 1, NULL))
        assert_int_equal(ioctl(clients[0], VFIO_DEVICE_DETACH_IOMMUFD_PT, &detach), 0);

    m->backend->ops->tick(m->backend);
    for (i = 0; i < m->spaces.n; i++)
        OK(vb_model_space_refresh(m, m->spaces.items[i], &e));
}

/* When even undoing fails: model.h, vb_model_unmap(); and what model-map.c could not take out again is mapped, and said to
 * be. Model and kernel agree in any case, which picture() looks at. And there is no undoing a BIND while the client has the
 * device open: if the kernel does not know the device object that it has just made, it stays bound. */
static bool may_lose(const char *name, enum how how) {
    if (how == KERNEL && strcmp(name, "bind") == 0 && e.code == VB_UNSUPPORTED)
        return true;
    if (how != ALL_CALLS)
        return false;
    if (strncmp(name, "unmap", 5) == 0)
        return strstr(e.text, "could not be restored and are gone");
    return strncmp(name, "map of", 6) == 0 && e.code == VB_BUSY && strstr(e.text, "they are mapped");
}

/* The client's file position, which looking for holes moves, could not be set back: the text says so. */
static bool position_lost(void) {
    return strstr(e.text, "file position") && lseek(new_memory, 0, SEEK_SET) == 0 &&
           lseek(((struct vb_memory *)m->memories.items[0])->fd, 0, SEEK_SET) == 0;
}

static void mark_again(uint32_t memory, uint64_t offset) {
    unsigned char bytes[64];

    memset(bytes, mark(memory, offset), sizeof(bytes));
    assert_int_equal(
        pwrite(((struct vb_memory *)m->memories.items[memory - 1])->fd, bytes, sizeof(bytes), (off_t)offset),
        sizeof(bytes));
}

/* In hardware: edu 0 reaches what was mapped, and not what could not be mapped; edu 1, which is not attached, nothing. */
static void check_dma(void) {
    const int fd1 = ((struct vb_memory *)m->memories.items[0])->fd,
              fd2 = ((struct vb_memory *)m->memories.items[1])->fd;
    struct edu edu = edu_open(clients[0]);

    assert_true(edu_reaches(&edu, 0x110000, 0x111000, fd2, 0x4000));
    mark_again(2, 0x4000);
    assert_false(edu_reaches(&edu, 0x110000, MAP_ONE, fd1, MAP_ONE_OFFSET));
    mark_again(1, MAP_ONE_OFFSET);
    edu_close(&edu);
    edu = edu_open(clients[1]);
    assert_false(edu_reaches(&edu, 0x110000, 0x111000, fd2, 0x4000));
    mark_again(2, 0x4000);
    edu_close(&edu);
    dma_checks++;
}

/* Prints the lines that differ. */
static void show(const char *what, const char *was, const char *is) {
    size_t n, k;

    printf("# %s:\n", what);
    for (; *was || *is; was += n + (was[n] != 0), is += k + (is[k] != 0)) {
        n = strcspn(was, "\n");
        k = strcspn(is, "\n");
        if (n != k || strncmp(was, is, n) != 0)
            printf("# was %.*s\n#  is %.*s\n", (int)n, was, (int)k, is);
    }
    fflush(stdout);
}

/* An attach for which the kernel has no memory to note the window of MSIs does not reserve it (drivers/iommu/intel/iommu.c,
 * intel_iommu_get_resv_regions), and so has one usable range more or less. Nothing else may differ. */
static bool window_forgotten(const struct op *op, enum how how, const char *good, const char *is) {
    size_t i;

    if (how != KERNEL || strncmp(op->name, "attach", 6) != 0 || strlen(good) != strlen(is))
        return false;
    for (i = 0; good[i]; i++)
        if (good[i] != is[i] && (i < 7 || strncmp(good + i - 7, "usable ", 7) != 0))
            return false;
    return true;
}

/* Without a failure first; then with the first, the second, ... */
static void sweep(const struct op *op, enum how how, unsigned way, struct counts *counts) {
    static char before[16384], after[16384], good[16384];
    bool struck, scene = true;
    unsigned nth, last_failure = 0;
    int r;

    how_now = how;
    set_scene();
    given = op->give ? op->give() : -1;
    OK(op->run());
    picture(good, sizeof(good));
    end_scene();
    set_scene();
    for (nth = 1;; nth++) {
        if (!scene)
            set_scene();
        scene = true;
        picture(before, sizeof(before));
        given = op->give ? op->give() : -1;
        fresh();
        arm(how, nth, way);
        r = op->run();
        struck = disarm(how);
        picture(after, sizeof(after));
        if (!struck) {
            if (r != 0)
                fail_msg("%s after %u failures: %s", op->name, nth - 1, e.text);
            assert_string_equal(after, good); /* also after all the failures before */
            break;
        }
        if (r != 0) {
            const bool losing = may_lose(op->name, how);
            const struct vb_error said = e;
            bool moved = false;

            assert_int_equal(r, e.code);
            assert_true(e.text[0]);
            if (strcmp(before, after) != 0 && position_lost()) {
                picture(after, sizeof(after));
                moved = true;
            }
            if (strcmp(before, after) == 0 && !(losing && how == KERNEL)) {
                counts->failures += !moved;
                counts->lost += moved;
                last_failure = nth;
                continue; /* in the same scene */
            }
            later();
            picture(after, sizeof(after));
            if (strcmp(before, after) == 0 && !losing) {
                counts->late++;
                continue;
            }
            if (!losing) {
                show(said.text, before, after);
                fail_msg("%s, failure %u, way %u: not as it was", op->name, nth, way);
            }
            counts->lost++;
        } else if (strcmp(after, good) == 0) {
            counts->bypassed++;
        } else {
            later();
            picture(before, sizeof(before));
            if (window_forgotten(op, how, good, before)) {
                counts->lost += strcmp(before, good) != 0;
            } else if (strcmp(before, good) != 0) {
                show("without a failure, and after this one", good, before);
                fail_msg("%s, failure %u, way %u: it succeeded, but not all", op->name, nth, way);
            }
            counts->late += strcmp(before, good) == 0;
        }
        end_scene();
        scene = false;
    }
    end_scene();
    if (how == KERNEL && last_failure) { /* takes a while: once for each operation, at the deepest failure */
        set_scene();
        given = op->give ? op->give() : -1;
        arm(how, last_failure, way);
        r = op->run();
        disarm(how);
        if (r != 0)
            check_dma();
        end_scene();
    }
}

static void sweep_all(enum how how, unsigned ways) {
    struct counts counts;
    unsigned total = 0, way;
    size_t i;

    for (i = 0; i < sizeof(ops) / sizeof(*ops); i++) {
        counts = (struct counts){0};
        for (way = 0; way < ways; way++)
            sweep(&ops[i], how, way, &counts);
        printf("# %-16s failed %u times", ops[i].name, counts.failures);
        if (counts.bypassed)
            printf(", succeeded all the same %u times", counts.bypassed);
        if (counts.late)
            printf(", left something for later %u times", counts.late);
        if (counts.lost)
            printf(", could not be undone %u times", counts.lost);
        printf("\n");
        total += counts.failures + counts.bypassed + counts.late + counts.lost;
    }
    printf("# %u failures were injected\n", total);
    if (how == KERNEL) {
        printf("# an ENOENT that the kernel never says of itself was believed %u times; DMA was looked at %u times\n",
               believed, dma_checks);
        assert_true(believed <= 1 && dma_checks >= 10);
    }
    assert_true(total > 50);
}

static long pins_at_start;

static void test_each_system_call(void **state) {
    (void)state;
    NEED_MACHINE();
    sweep_all(ONE_CALL, FAIL_WAYS);
}

static void test_each_system_call_by_address(void **state) {
    (void)state;
    NEED_MACHINE();
    by_address = true;
    sweep_all(ONE_CALL, 1);
    by_address = false;
}

static void test_all_system_calls_from_the_nth(void **state) {
    (void)state;
    NEED_MACHINE();
    sweep_all(ALL_CALLS, 3); /* without EINTR, which is tried again for ever */
}

static void test_each_failure_in_the_kernel(void **state) {
    (void)state;
    NEED_MACHINE();
    if (!fail_kernel_prepare()) {
        printf("# skipped: no fault injection in this kernel\n");
        skip();
    }
    sweep_all(KERNEL, 1);
}

static void test_nothing_is_pinned(void **state) {
    (void)state;
    NEED_MACHINE();
    assert_pinned_pages(pins_at_start);
}

/* Enabled for as long as we run, so that BIND and the last close do not go through ACPI's interpreter, which breaks when it gets
 * no memory (7.3: a page fault in acpi_ut_update_object_reference, from acpi_pci_irq_disable). */
static void enable_devices(const char *how) {
    char path[128];
    int i;

    for (i = 0; i < EDUS; i++) {
        snprintf(path, sizeof(path), "/sys/bus/pci/drivers/vfio-pci/%s", address[i]);
        if (access(path, F_OK) == 0)
            write_text("/sys/bus/pci/drivers/vfio-pci/unbind", address[i]);
        snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/enable", address[i]);
        write_text(path, how);
    }
}

/* With CAP_IPC_LOCK the kernel charges nobody (drivers/iommu/iommufd/pages.c, iopt_alloc_pages). */
static int prepare_unlocked(void **state) {
    const struct rlimit limit = {64 * MIB, 64 * MIB};
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct caps[2];

    if (access("/dev/iommu", R_OK | W_OK) == 0)
        enable_devices("1");
    prepare(state);
    if (missing)
        return 0;
    assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    assert_int_equal(syscall(SYS_capget, &header, caps), 0);
    caps[0].effective &= ~(1u << CAP_IPC_LOCK);
    assert_int_equal(syscall(SYS_capset, &header, caps), 0);
    pins_at_start = pinned_pages();
    return 0;
}

static int end(void **state) {
    (void)state;
    if (!missing)
        enable_devices("0");
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_system_call),
        cmocka_unit_test(test_each_system_call_by_address),
        cmocka_unit_test(test_all_system_calls_from_the_nth),
        cmocka_unit_test(test_each_failure_in_the_kernel),
        cmocka_unit_test(test_nothing_is_pinned),
    };

    return cmocka_run_group_tests_name("fail-iommufd", tests, prepare_unlocked, end);
}
