/* The order of plugging does not matter: for all pairs of ten kinds of mock devices, five sets of mappings and both ways to
 * attach for each device, attaching A and then B ends as attaching B and then A: what each is told, which mappings each reaches
 * in the kernel's page tables, what can be mapped then, and whether dirty pages can be tracked. The kernel judges, through the
 * iommufd backend and the model. Run by `tests/vm/run -- PROGRAM`; skips elsewhere, and says why. */
#include "tests/unit/mock-device.h"

#define PAGE     4096ull
#define MAPPINGS 5

/* Small tables address 0x1000000 to 0x7fffffff. */
#define R1                                                                                                             \
    { 0x4000000, 0x41fffff }
#define R2                                                                                                             \
    { 0x6000000, 0x6000fff }

static const struct mock_kind kinds[] = {
    {.name = "small"},
    {.name = "small, no dirty", .no_dirty = true},
    {.name = "large", .large = true},
    {.name = "large, no dirty", .large = true, .no_dirty = true},
    {.name = "small, R1", .reserved = R1, .told = true},
    {.name = "small, R1 untold", .reserved = R1},
    {.name = "small, no dirty, R2", .no_dirty = true, .reserved = R2, .told = true},
    {.name = "large, R1", .large = true, .reserved = R1, .told = true},
    {.name = "large, R2 untold", .large = true, .reserved = R2},
    {.name = "large, no dirty, R1 untold", .large = true, .no_dirty = true, .reserved = R1},
};
#define KINDS (sizeof(kinds) / sizeof(*kinds))

static const uint64_t iovas[MAPPINGS] = {0x2000000, 0x4100000, 0x6000000, 1ull << 40, 0x10000};
/* Which of those are mapped before. */
static const unsigned sets[] = {0, 1, 1 | 2, 1 | 8, 1 | 2 | 4 | 8 | 16};
#define SETS (sizeof(sets) / sizeof(*sets))

struct outcome {
    struct {
        int result;
        unsigned reaches; /* bit n: mapping n */
        uint64_t left_out;
        char text[VB_ERROR_TEXT];
    } device[2];
    int map_result[MAPPINGS]; /* of what was not mapped before */
    unsigned reaches_then[2];
    struct vb_space_info info;
    int dirty;
};

static unsigned reached(struct vb_model *m, const struct vb_device *d, const unsigned char *p) {
    const uint32_t hwpt = mock_hwpt(m, d);
    unsigned i, bits = 0;

    for (i = 0; hwpt && i < MAPPINGS; i++)
        if (mock_shows(m, hwpt, iovas[i], PAGE, p + i * PAGE))
            bits |= 1u << i;
    return bits;
}

/* which: bit n: device n leaves out. first: which one is attached first. */
static void run(const struct mock_kind *const kind[2], unsigned set, unsigned which, unsigned first,
                struct outcome *ret) {
    struct vb_model *m = real_model(open_iommufd(), false);
    struct vb_memory *memory = add_memory(m, MAPPINGS * PAGE);
    struct vb_device *d[2];
    unsigned char *p = mmap(NULL, MAPPINGS * PAGE, PROT_READ, MAP_SHARED, memory->fd, 0);
    struct vb_space *s = add_space(m);
    unsigned i, k;

    assert_true(p != MAP_FAILED);
    for (i = 0; i < MAPPINGS; i++) /* present in our page tables too, for the comparison */
        assert_int_equal(p[i * PAGE], i);
    memset(ret, 0, sizeof(*ret));
    for (i = 0; i < MAPPINGS; i++)
        if (set >> i & 1)
            OK(map1(m, 1, 1, iovas[i], PAGE, i * PAGE, 3, &e));
    for (k = 0; k < 2; k++) {
        const unsigned n = k ^ first;
        struct vb_attached attached = {0};
        char name[2] = {(char)('a' + n), 0};

        d[n] = mock_device(m, name, kind[n]);
        ret->device[n].result = vb_model_attach(m, d[n]->id, 1, which >> n & 1, &attached, fresh());
        ret->device[n].left_out = attached.left_out;
        snprintf(ret->device[n].text, sizeof(ret->device[n].text), "%s", e.text);
    }
    for (k = 0; k < 2; k++)
        ret->device[k].reaches = reached(m, d[k], p);
    for (i = 0; i < MAPPINGS; i++)
        if (!(set >> i & 1))
            ret->map_result[i] = map1(m, 1, 1, iovas[i], PAGE, i * PAGE, 3, fresh());
    for (k = 0; k < 2; k++)
        ret->reaches_then[k] = reached(m, d[k], p);
    OK(vb_model_space_refresh(m, s, &e));
    ret->info = s->info;
    ret->dirty = vb_model_dirty_set(m, 1, true, NULL, fresh());
    munmap(p, MAPPINGS * PAGE);
    vb_model_free(m);
}

static bool same_info(const struct vb_space_info *a, const struct vb_space_info *b) {
    return a->page_sizes == b->page_sizes && a->n_usable == b->n_usable &&
           memcmp(a->usable, b->usable, a->n_usable * sizeof(a->usable[0])) == 0;
}

static void compare(const struct mock_kind *const kind[2], unsigned set, unsigned which, const struct outcome *a,
                    const struct outcome *b) {
    bool same = memcmp(a->map_result, b->map_result, sizeof(a->map_result)) == 0 &&
                memcmp(a->reaches_then, b->reaches_then, sizeof(a->reaches_then)) == 0 &&
                same_info(&a->info, &b->info) && a->dirty == b->dirty;
    unsigned k;

    for (k = 0; k < 2; k++)
        same = same && a->device[k].result == b->device[k].result && a->device[k].reaches == b->device[k].reaches &&
               a->device[k].left_out == b->device[k].left_out;
    if (same)
        return;
    for (k = 0; k < 2; k++)
        printf("# %s: results %d and %d, reaches %x and %x, then %x and %x, left out %u and %u\n# %s\n# %s\n",
               kind[k]->name, a->device[k].result, b->device[k].result, a->device[k].reaches, b->device[k].reaches,
               a->reaches_then[k], b->reaches_then[k], (unsigned)a->device[k].left_out, (unsigned)b->device[k].left_out,
               a->device[k].text, b->device[k].text);
    for (k = 0; k < MAPPINGS; k++)
        printf("# mapping %u: %d and %d\n", k, a->map_result[k], b->map_result[k]);
    printf("# dirty %d and %d, usable ranges %u and %u\n", a->dirty, b->dirty, a->info.n_usable, b->info.n_usable);
    fail_msg("set %u, leaving out %u: the order matters", set, which);
}

static unsigned scenes, refused, left_out, attached_both;

static void test_pair(const struct mock_kind *const kind[2]) {
    struct outcome ab, ba;
    unsigned set, which, k;

    for (set = 0; set < SETS; set++)
        for (which = 0; which < 4; which++) {
            run(kind, sets[set], which, 0, &ab);
            run(kind, sets[set], which, 1, &ba);
            compare(kind, set, which, &ab, &ba);
            scenes++;
            attached_both += !ab.device[0].result && !ab.device[1].result;
            for (k = 0; k < 2; k++) {
                refused += ab.device[k].result != 0;
                left_out += ab.device[k].left_out > 0;
                /* What is attached reaches all that it does not leave out. */
                if (ab.device[k].result == 0)
                    assert_int_equal(__builtin_popcount(ab.device[k].reaches) + ab.device[k].left_out,
                                     __builtin_popcount(sets[set]));
                else
                    assert_int_equal(ab.device[k].reaches, 0);
            }
        }
    printf("# %s + %s: %u scenes end the same in both orders\n", kind[0]->name, kind[1]->name, (unsigned)(SETS * 4));
}

static void test_all_pairs(void **state) {
    unsigned a, b, pairs = 0;

    (void)state;
    NEED_MACHINE();
    for (a = 0; a < KINDS; a++)
        for (b = a; b < KINDS; b++) {
            const struct mock_kind *const kind[2] = {&kinds[a], &kinds[b]};

            test_pair(kind);
            pairs++;
        }
    printf("# %u pairs, %u scenes: both attached in %u, %u devices refused, %u left something out\n", pairs, scenes,
           attached_both, refused, left_out);
    assert_true(pairs >= 55 && refused > 100 && left_out > 100 && attached_both > 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_pairs),
    };

    return cmocka_run_group_tests_name("mock-order", tests, mock_prepare, NULL);
}
