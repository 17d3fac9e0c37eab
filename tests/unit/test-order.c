/* Whether a device may do a DMA does not depend on what was plugged or mapped first: for all pairs of kinds of devices (address
 * widths, reserved ranges, page sizes), with several sets of mappings, each device refusing or leaving out what it cannot
 * reach, with one page table for all devices of a space that can share it and with one for each (as type1's containers):
 *
 *   A then B   gives what B then A gives: each answer, what each device reaches by DMA, what can be mapped, what is paid;
 *   mapped, then attached   gives what attached, then mapped gives, unless something is refused, and then both refuse. */
#include "tests/unit/core-fixture.h"

#include <inttypes.h>
#include <sys/socket.h>

#define PAGE 4096ull
#define MSI                                                                                                            \
    { {0xfee00000, 0xfeefffff}, "msi" }
#define DIRECT                                                                                                         \
    { {0x80000000, 0x8000ffff}, "direct" }
#define BITS(n) ((1ull << (n)) - 1)

/* Each twice, since two devices may be of one kind. */
#define KINDS 10u
#define KIND(name, ...)                                                                                                \
    {.address = name, __VA_ARGS__}, {                                                                                  \
        .address = name "'", __VA_ARGS__                                                                               \
    }
static const struct vb_emulated_kind kinds[2 * KINDS] = {
    KIND("48 bits", .aperture_last = BITS(48), .page_size = PAGE, .n_reserved = 1, .reserved = {MSI}),
    KIND("32 bits", .aperture_last = BITS(32), .page_size = PAGE, .n_reserved = 1, .reserved = {MSI}),
    KIND("39 bits", .aperture_last = BITS(39), .page_size = PAGE, .n_reserved = 1, .reserved = {MSI}),
    KIND("57 bits", .aperture_last = BITS(57), .page_size = PAGE, .n_reserved = 1, .reserved = {MSI}),
    KIND("no MSI window", .aperture_last = BITS(48), .page_size = PAGE),
    KIND("direct region", .aperture_last = BITS(48), .page_size = PAGE, .n_reserved = 2, .reserved = {MSI, DIRECT}),
    KIND("64 KiB pages", .aperture_last = BITS(48), .page_size = 16 * PAGE, .n_reserved = 1, .reserved = {MSI}),
    KIND("first MiB reserved", .aperture_last = BITS(40), .page_size = PAGE, .n_reserved = 2,
         .reserved = {{{0, 0xfffff}, "reserved"}, MSI}),
    KIND("hole above 4 GiB", .aperture_last = BITS(57), .page_size = PAGE, .n_reserved = 1,
         .reserved = {{{1ull << 32, (1ull << 33) - 1}, "reserved"}}),
    KIND("32 bits, 64 KiB, direct", .aperture_last = BITS(32), .page_size = 16 * PAGE, .n_reserved = 1,
         .reserved = {DIRECT}),
};

/* What is mapped, in the memory's order; size 0: nothing more. */
struct set {
    const char *name;
    struct vb_range need; /* last 0: none */
    struct {
        uint64_t iova, size;
    } maps[8];
};
static const struct set sets[] = {
    {"nothing", {0, 0}, {{0, 0}}},
    {"low memory", {0, 0}, {{0x10000, 0x10000}, {0x100000, 0x20000}}},
    {"around the MSI window", {0, 0}, {{0xfedf0000, 0x10000}, {0xfef00000, 0x10000}, {0x200000, 0x10000}}},
    {"in the MSI window", {0, 0}, {{0xfee00000, 0x10000}, {0x200000, 0x10000}}},
    {"into the MSI window", {0, 0}, {{0xfedf0000, 0x20000}}},
    {"in the direct region", {0, 0}, {{0x80000000, 0x10000}, {0x80010000, 0x10000}}},
    {"above 4 GiB", {0, 0}, {{1ull << 32, 0x10000}, {1ull << 33, 0x10000}, {0x100000, 0x10000}}},
    {"high", {0, 0}, {{1ull << 38, 0x10000}, {1ull << 39, 0x10000}, {1ull << 40, 0x10000}, {1ull << 50, 0x10000}}},
    {"small pages", {0, 0}, {{0x200000, 0x10000}, {0x211000, 0x1000}, {0x220000, 0x3000}}},
    {"everything",
     {0, 0},
     {{0x10000, 0x10000},
      {0x80000000, 0x10000},
      {0xfee00000, 0x1000},
      {1ull << 32, 0x10000},
      {1ull << 39, 0x10000},
      {1ull << 47, 0x10000},
      {1ull << 56, 0x10000}}},
    {"a need of the direct region", {0x80000000, 0x80000fff}, {{0x100000, 0x10000}}},
    {"a need above 39 bits", {1ull << 39, (1ull << 39) + 0xffff}, {{0x100000, 0x10000}}},
};
#define SETS (sizeof(sets) / sizeof(*sets))

static const uint64_t probes[] = {0x0,        0x10000,    0x81000,    0x80000000, 0xfee00000, 0xfff0000,
                                  1ull << 31, 3ull << 31, 1ull << 34, 1ull << 39, 1ull << 40, 1ull << 48,
                                  1ull << 52, 0xfedff000, 0xfef01000, 0x4321000};
#define PROBES (sizeof(probes) / sizeof(*probes))

static int memory_fd;

/* ---- one course of events, and what came of it ---- */

struct plan {
    const char *address[2];
    bool leave_out[2];
    bool containers;
    const struct set *set;
};

struct result {
    int attach[2], need, map[8];
    char text[8192]; /* everything else that can be seen */
    size_t at;
};

struct course {
    struct vb_model *m;
    uint32_t space;
    struct vb_device *device[2];
    int fd[2];
};

static void begin(struct course *c, const struct plan *p) {
    const struct vb_emulated_knobs knobs = {.containers = p->containers, .kinds = kinds, .n_kinds = 2 * KINDS};
    struct vb_memory *memory;
    unsigned i, k;

    c->m = make_model_with(&knobs, 64 * MIB);
    assert_int_equal(vb_model_register(c->m, fcntl(memory_fd, F_DUPFD_CLOEXEC, 0), true, 0, "ram", &memory, NULL), 0);
    c->space = add_space(c->m)->id;
    for (i = 0; i < 2; i++) {
        for (k = 0; strcmp(kinds[k].address, p->address[i]) != 0; k++)
            ;
        assert_int_equal(claim_device(c->m, p->address[i], 1 + i, kinds[k].reserved, kinds[k].n_reserved, 0,
                                      &c->device[i], &c->fd[i], NULL),
                         0);
        assert_int_equal(vb_model_bind(c->m, c->device[i]->id, NULL), 0);
    }
}

static void end(struct course *c) {
    check_model(c->m);
    vb_model_free(c->m);
    close(c->fd[0]);
    close(c->fd[1]);
}

/* A read by the device itself. */
static bool dma_reads(struct course *c, unsigned which, uint64_t iova) {
    const struct vb_emulated_dma q = {.op = VB_EMULATED_DMA_READ, .size = 8, .iova = iova};
    union {
        struct vb_emulated_dma_reply reply;
        uint8_t bytes[sizeof(struct vb_emulated_dma_reply) + 8];
    } a;

    assert_int_equal(send(c->fd[which], &q, sizeof(q), 0), sizeof(q));
    assert_int_equal(c->m->backend->ops->device_ready(c->m->backend, c->device[which]->handle), 0);
    assert_true(recv(c->fd[which], &a, sizeof(a), MSG_DONTWAIT) >= (ssize_t)sizeof(a.reply));
    return a.reply.status == 0;
}

static void say_reach(struct course *c, struct result *r, uint64_t iova, uint64_t size) {
    unsigned i;

    r->at += (size_t)snprintf(r->text + r->at, sizeof(r->text) - r->at, "0x%" PRIx64 ":", iova);
    for (i = 0; i < 2; i++) {
        const bool first = dma_reads(c, i, iova);

        assert_int_equal(first, dma_reads(c, i, iova + size - 8)); /* all of it or nothing */
        r->at += (size_t)snprintf(r->text + r->at, sizeof(r->text) - r->at, " %c%s", 'A' + (int)i,
                                  first ? " reads" : " faults");
    }
    r->at += (size_t)snprintf(r->text + r->at, sizeof(r->text) - r->at, "\n");
}

static void map_set(struct course *c, const struct plan *p, struct result *r) {
    uint64_t offset = 0;
    unsigned i;

    for (i = 0; i < 8 && p->set->maps[i].size; i++) {
        r->map[i] = map1(c->m, c->space, 1, p->set->maps[i].iova, p->set->maps[i].size, offset, 3, NULL);
        offset += 0x20000;
    }
}

static void attach(struct course *c, const struct plan *p, struct result *r, bool reverse) {
    unsigned i;

    for (i = 0; i < 2; i++) {
        const unsigned which = reverse ? 1 - i : i;
        struct vb_attached ret = {0};

        r->attach[which] = vb_model_attach(c->m, c->device[which]->id, c->space, p->leave_out[which], &ret, NULL);
        check_model(c->m);
    }
}

/* What can be seen at the end, and what could be mapped then. */
static void look(struct course *c, const struct plan *p, struct result *r) {
    const struct vb_space *s = vb_model_space(c->m, c->space, NULL);
    unsigned i;
    int k;

#define SAY(...) r->at += (size_t)snprintf(r->text + r->at, sizeof(r->text) - r->at, __VA_ARGS__)
    SAY("pages %" PRIx64 "\n", s->info.page_sizes);
    for (i = 0; i < s->info.n_usable; i++)
        SAY("usable 0x%" PRIx64 "-0x%" PRIx64 "\n", s->info.usable[i].first, s->info.usable[i].last);
    SAY("paid %" PRIu64 " mappings %" PRIu64 "\n", c->m->ledger.used, s->mappings);
    for (i = 0; i < 2; i++)
        if (c->device[i]->domain)
            SAY("%c leaves out %" PRIu64 "\n", 'A' + (int)i, c->device[i]->domain->left_out);
    for (i = 0; i < 8 && p->set->maps[i].size; i++)
        say_reach(c, r, p->set->maps[i].iova, p->set->maps[i].size);
    for (i = 0; i < PROBES; i++) {
        k = map1(c->m, c->space, 1, probes[i], PAGE, 0xf0000, 3, NULL);
        SAY("map at 0x%" PRIx64 ": %d, paid %" PRIu64 "\n", probes[i], k, c->m->ledger.used);
        if (k == 0)
            say_reach(c, r, probes[i], PAGE);
    }
    for (i = 0; i < PROBES; i++) {
        k = map1(c->m, c->space, 1, probes[i] & ~0xffffull, 0x10000, 0xe0000, 3, NULL);
        SAY("map of 64 KiB at 0x%" PRIx64 ": %d, paid %" PRIu64 "\n", probes[i], k, c->m->ledger.used);
    }
    assert_true(r->at < sizeof(r->text));
#undef SAY
}

static void run(const struct plan *p, bool reverse, bool attach_first, struct result *r) {
    struct course c;

    memset(r, 0, sizeof(*r));
    begin(&c, p);
    if (p->set->need.last)
        r->need = vb_model_space_need(c.m, c.space, &p->set->need, 1, NULL);
    if (attach_first)
        attach(&c, p, r, reverse);
    map_set(&c, p, r);
    if (!attach_first)
        attach(&c, p, r, reverse);
    look(&c, p, r);
    end(&c);
}

static void must_be_same(const struct plan *p, const struct result *a, const struct result *b, const char *what) {
    if (a->attach[0] == b->attach[0] && a->attach[1] == b->attach[1] && a->need == b->need &&
        memcmp(a->map, b->map, sizeof(a->map)) == 0 && strcmp(a->text, b->text) == 0)
        return;
    printf("# %s, %s (%s and %s, %s): %s, with %s\nattach %d and %d, then\n%sthe other way attach %d and %d, then\n%s",
           p->address[0], p->address[1], p->leave_out[0] ? "leaving out" : "refusing",
           p->leave_out[1] ? "leaving out" : "refusing", p->containers ? "containers" : "shared", what, p->set->name,
           a->attach[0], a->attach[1], a->text, b->attach[0], b->attach[1], b->text);
    fail_msg("the outcome depends on the order");
}

static bool all_granted(const struct result *r) {
    unsigned i;

    for (i = 0; i < 8; i++)
        if (r->map[i] != 0)
            return false;
    return r->attach[0] == 0 && r->attach[1] == 0;
}

static unsigned compared, refused, granted;

static void one(const struct plan *p) {
    static struct result mapped_ab, mapped_ba, attached_ab, attached_ba;

    run(p, false, false, &mapped_ab);
    run(p, true, false, &mapped_ba);
    must_be_same(p, &mapped_ab, &mapped_ba, "mapped, then attached in two orders");
    run(p, false, true, &attached_ab);
    run(p, true, true, &attached_ba);
    must_be_same(p, &attached_ab, &attached_ba, "attached in two orders, then mapped");
    if (all_granted(&mapped_ab) != all_granted(&attached_ab))
        fail_msg("%s, %s with %s: refused only when %s first", p->address[0], p->address[1], p->set->name,
                 all_granted(&mapped_ab) ? "attached" : "mapped");
    if (all_granted(&mapped_ab))
        must_be_same(p, &mapped_ab, &attached_ab, "mapped first and attached first");
    compared += 2;
    granted += all_granted(&mapped_ab);
    refused += !all_granted(&mapped_ab);
}

/* ---- all pairs ---- */

struct pair {
    unsigned a, b;
    char name[96];
};

static void test_pair(void **state) {
    const struct pair *pair = *state;
    struct plan p = {.address = {kinds[2 * pair->a].address, kinds[2 * pair->b + 1].address}};
    unsigned i, mode;

    for (i = 0; i < SETS; i++)
        for (mode = 0; mode < 8; mode++) {
            p.set = &sets[i];
            p.leave_out[0] = mode & 1;
            p.leave_out[1] = mode & 2;
            p.containers = mode & 4;
            one(&p);
        }
}

static int start(void **state) {
    (void)state;
    memory_fd = make_memory(MIB);
    return 0;
}

static int stop(void **state) {
    (void)state;
    close(memory_fd);
    printf("# %u pairs of orders compared: %u courses in which all was granted, %u with a refusal\n", compared, granted,
           refused);
    return granted && refused ? 0 : -1; /* else nothing was tried */
}

int main(void) {
    static struct pair pairs[KINDS * (KINDS + 1) / 2];
    static struct CMUnitTest tests[KINDS * (KINDS + 1) / 2];
    unsigned a, b, n = 0;

    for (a = 0; a < KINDS; a++)
        for (b = a; b < KINDS; b++, n++) {
            pairs[n] = (struct pair){.a = a, .b = b};
            snprintf(pairs[n].name, sizeof(pairs[n].name), "%s, and %s", kinds[2 * a].address, kinds[2 * b].address);
            tests[n] = (struct CMUnitTest){.name = pairs[n].name, .test_func = test_pair, .initial_state = &pairs[n]};
        }
    return cmocka_run_group_tests_name("order", tests, start, stop);
}
