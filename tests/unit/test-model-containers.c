/* The model on a backend whose domains belong to devices and that shares no pins, as type1: spaces without devices have no
 * domain, each mapping is paid in each container, a device can share the container of another. Then random operations, on such
 * a backend and on one with page tables that are shared. */
#include "tests/unit/model-fixture.h"

#define LOW    0x10000ull
#define WINDOW 0xfee00000ull
#define HIGH   (1ull << 40)
#define MSI    .n_reserved = 1, .reserved = {{{0xfee00000, 0xfeefffff}, "msi"}}

static const struct vb_emulated_kind kinds[] = {
    {.address = "narrow", .aperture_last = (1ull << 39) - 1, .page_size = 4096, MSI},
    {.address = "narrow2", .aperture_last = (1ull << 39) - 1, .page_size = 4096, MSI},
    {.address = "large pages", .aperture_last = (1ull << 48) - 1, .page_size = 65536, MSI},
};

static struct vb_space *s;

static void make(bool containers) {
    const struct vb_emulated_knobs knobs = {
        .containers = containers, .kinds = kinds, .n_kinds = sizeof(kinds) / sizeof(*kinds)};

    fds = count_fds();
    m = make_model_with(&knobs, 8 * MIB);
    add_memory(m, MIB);
    s = add_space(m);
}

static int set_up(void **state) {
    (void)state;
    make(true);
    return 0;
}

static int set_up_shared(void **state) {
    (void)state;
    make(false);
    return 0;
}

static int map_at(uint64_t iova, uint64_t size) {
    const int r = map1(m, s->id, 1, iova, size, 0, 3, fresh());

    check_model(m);
    return r;
}

static void unmap_at(uint64_t iova, uint64_t size) {
    uint64_t n, bytes;

    assert_int_equal(unmap1(m, s->id, iova, size, &n, &bytes, fresh()), 0);
    check_model(m);
}

static void attached(const struct vb_device *d, uint64_t used) {
    assert_int_equal(d->state, VB_DEVICE_ATTACHED);
    check_model(m);
    assert_int_equal(m->ledger.used, used);
}

static void detach(struct vb_device *d) {
    assert_int_equal(vb_model_detach(m, d->id, fresh()), 0);
    check_model(m);
}

/* ---- domains come with devices ---- */

static void test_replay(void **state) {
    struct vb_attached ret = {0};
    struct vb_device *d;
    int fd;

    (void)state;
    assert_true(TAILQ_EMPTY(&s->domains) && s->info.n_usable == 1 && s->info.usable[0].last == UINT64_MAX);
    assert_int_equal(map_at(LOW, 0x4000), 0);
    assert_int_equal(map_at(LOW + 0x8000, 0x4000), 0);
    d = add_device(m, "wide", &fd);
    assert_int_equal(vb_model_attach(m, d->id, s->id, false, &ret, fresh()), 0);
    assert_true(ret.mappings == 2 && ret.bytes == 0x8000);
    assert_true(reaches(m, d, LOW, 0x4000) && s->info.n_usable == 2);
    detach(d);
    assert_true(!reaches(m, d, LOW, 0x1000) && TAILQ_EMPTY(&s->domains) && s->mappings == 2);
    assert_int_equal(map_at(WINDOW, 0x1000), 0); /* nobody is there whom it could hurt */
    REFUSED(attach1(m, d->id, s->id, fresh()), VB_RESERVED, "1 mappings", "wide", "0xfee00000");
    assert_int_equal(e.n_conflicts, 1);
    assert_int_equal(attach_leaving_out(m, d->id, s->id), 1); /* the same container serves */
    assert_true(reaches(m, d, LOW, 0x4000));
    detach(d);
    unmap_at(WINDOW, 0x1000);
    assert_int_equal(attach1(m, d->id, s->id, fresh()), 0);
    assert_true(reaches(m, d, LOW + 0x8000, 0x4000));
    close(fd);
}

/* ---- payment ---- */

static void test_payment(void **state) {
    struct vb_device *a, *b;
    int fd[2];

    (void)state;
    assert_int_equal(map_at(LOW, MIB), 0);
    assert_int_equal(map_at(LOW + MIB, MIB), 0); /* an alias is a pin of its own */
    assert_int_equal(m->ledger.used, 2 * MIB);
    a = add_device(m, "wide", &fd[0]);
    b = add_device(m, "narrow", &fd[1]);
    assert_int_equal(attach1(m, a->id, s->id, fresh()), 0);
    attached(a, 2 * MIB);
    assert_int_equal(attach1(m, b->id, s->id, fresh()), 0);
    attached(b, 4 * MIB);
    assert_int_equal(map_at(LOW + 2 * MIB, MIB), 0);
    assert_int_equal(m->ledger.used, 6 * MIB);
    m->ledger.lease = 7 * MIB;
    REFUSED(map_at(LOW + 3 * MIB, MIB), VB_LIMIT, "2 MiB more");
    unmap_at(LOW + MIB, MIB);
    assert_int_equal(m->ledger.used, 4 * MIB);
    detach(b);
    assert_int_equal(m->ledger.used, 2 * MIB);
    /* Too little for a second container: nothing changes, and the limit's numbers are told. */
    m->ledger.lease = 4 * MIB - 1;
    REFUSED(attach1(m, b->id, s->id, fresh()), VB_LIMIT, "2 MiB more");
    assert_true(e.limit.set && e.limit.wanted == 2 * MIB && m->ledger.used == 2 * MIB);
    assert_true(b->state == VB_DEVICE_BOUND && !reaches(m, b, LOW, 0x1000) && reaches(m, a, LOW, MIB));
    m->ledger.lease = 4 * MIB;
    assert_int_equal(attach1(m, b->id, s->id, fresh()), 0);
    attached(b, 4 * MIB);
    unmap_at(LOW, MIB);
    unmap_at(LOW + 2 * MIB, MIB);
    assert_int_equal(m->ledger.used, 0);
    close(fd[0]);
    close(fd[1]);
}

static void test_payment_of_what_is_left_out(void **state) {
    struct vb_device *a, *b;
    int fd[2];

    (void)state;
    assert_int_equal(map_at(LOW, MIB), 0);
    assert_int_equal(map_at(HIGH, MIB), 0);
    a = add_device(m, "narrow", &fd[0]);
    b = add_device(m, "narrow2", &fd[1]);
    assert_int_equal(attach_leaving_out(m, a->id, s->id), 1);
    attached(a, 2 * MIB); /* what nobody has is paid once: it is paid at the map */
    assert_int_equal(attach_leaving_out(m, b->id, s->id), 1);
    attached(b, 3 * MIB);
    assert_int_equal(map_at(HIGH + MIB, MIB), 0);
    assert_int_equal(m->ledger.used, 4 * MIB);
    assert_int_equal(map_at(LOW + MIB, MIB), 0);
    assert_int_equal(m->ledger.used, 6 * MIB);
    detach(a);
    assert_int_equal(m->ledger.used, 4 * MIB);
    unmap_at(0, UINT64_MAX);
    assert_int_equal(m->ledger.used, 0);
    close(fd[0]);
    close(fd[1]);
}

static void test_two_spaces(void **state) {
    struct vb_space *two = add_space(m);
    struct vb_device *a, *b;
    int fd[2];

    (void)state;
    a = add_device(m, "wide", &fd[0]);
    b = add_device(m, "narrow", &fd[1]);
    assert_int_equal(map_at(LOW, MIB), 0);
    assert_int_equal(map1(m, two->id, 1, LOW, MIB, 0, 3, fresh()), 0);
    assert_int_equal(m->ledger.used, 2 * MIB);
    assert_int_equal(attach1(m, a->id, s->id, fresh()), 0);
    assert_int_equal(attach1(m, b->id, two->id, fresh()), 0);
    attached(b, 2 * MIB);
    detach(a);
    assert_int_equal(attach1(m, a->id, two->id, fresh()), 0);
    attached(a, 3 * MIB);
    close(fd[0]);
    close(fd[1]);
}

static void test_discard(void **state) {
    const struct vb_unmap_entry t = {LOW, MIB};
    struct vb_device *a, *b;
    uint64_t n, bytes;
    int fd[2];

    (void)state;
    a = add_device(m, "wide", &fd[0]);
    b = add_device(m, "narrow", &fd[1]);
    assert_int_equal(attach1(m, a->id, s->id, fresh()), 0);
    assert_int_equal(attach1(m, b->id, s->id, fresh()), 0);
    assert_int_equal(map_at(LOW, MIB), 0);
    assert_int_equal(vb_model_discard(m, s->id, &t, 1, &n, &bytes, fresh()), 0);
    assert_int_equal(m->ledger.used, 2 * MIB); /* both copies stay paid */
    assert_false(reaches(m, a, LOW, 0x1000) || reaches(m, b, LOW, 0x1000));
    detach(b); /* one copy less, whatever is out */
    assert_int_equal(m->ledger.used, MIB);
    assert_int_equal(vb_model_discard_end(m, s->id, true, fresh()), 0);
    attached(a, MIB);
    assert_true(reaches(m, a, LOW, MIB));
    close(fd[0]);
    close(fd[1]);
}

/* ---- a container for two devices ---- */

static void test_claim_for_a_space(void **state) {
    struct vb_space *two = add_space(m);
    struct vb_device *a, *b, *c;
    int fd[3];

    (void)state;
    assert_int_equal(map_at(LOW, MIB), 0);
    REFUSED(claim_device(m, "nobody", 9, NULL, 0, 99, &c, &fd[2], fresh()), VB_NOT_FOUND, "space 99");
    assert_null(vb_model_shares(m, s->id));
    a = add_device_for(m, "wide", s->id, &fd[0]);
    assert_true(vb_model_shares(m, s->id) == a && !vb_model_shares(m, two->id));
    assert_int_equal(attach1(m, a->id, s->id, fresh()), 0);
    b = add_device_for(m, "narrow", s->id, &fd[1]);
    assert_true(reaches(m, b, LOW, MIB)); /* from the claim on */
    check_model(m);
    REFUSED(map_at(HIGH, 0x1000), VB_RESERVED, "0x10000000000"); /* it narrows from then on, too */
    REFUSED(attach1(m, b->id, two->id, fresh()), VB_BUSY, "shares its container", "space 1");
    assert_int_equal(vb_model_attach(m, b->id, s->id, true, NULL, fresh()), VB_STATE);
    assert_int_equal(attach1(m, b->id, s->id, fresh()), 0);
    attached(b, MIB); /* once */
    assert_int_equal(map_at(LOW + MIB, MIB), 0);
    assert_int_equal(m->ledger.used, 2 * MIB);
    detach(a); /* takes effect with the last one's */
    assert_true(reaches(m, b, LOW, 2 * MIB) && reaches(m, a, LOW, MIB));
    detach(b);
    assert_true(!reaches(m, b, LOW, 0x1000) && !reaches(m, a, LOW, 0x1000) && TAILQ_EMPTY(&s->domains));
    assert_int_equal(attach1(m, b->id, two->id, fresh()), 0); /* nobody needs it here */
    REFUSED(attach1(m, a->id, s->id, fresh()), VB_BUSY, "space 2");
    close(fd[0]);
    close(fd[1]);
}

static void test_claims_that_do_not_fit(void **state) {
    struct vb_device *a, *b;
    int fd[2];

    (void)state;
    a = add_device_for(m, "wide", s->id, &fd[0]);
    assert_int_equal(attach1(m, a->id, s->id, fresh()), 0);
    assert_int_equal(map_at(HIGH, 0x1000), 0);
    REFUSED(claim_device(m, "narrow", 9, &msi_window, 1, s->id, &b, &fd[1], fresh()), VB_RESERVED, "narrow");
    assert_int_equal(m->devices.n, 1);
    b = add_device(m, "narrow", &fd[1]); /* a container of its own */
    assert_int_equal(attach_leaving_out(m, b->id, s->id), 1);
    assert_true(vb_model_shares(m, s->id) == a);
    close(fd[0]);
    close(fd[1]);
}

static void test_release_of_one_of_two(void **state) {
    struct vb_device *a, *b;
    vb_handle h;
    int fd[2];

    (void)state;
    assert_int_equal(map_at(LOW, MIB), 0);
    a = add_device_for(m, "wide", s->id, &fd[0]);
    b = add_device_for(m, "narrow", s->id, &fd[1]);
    assert_int_equal(attach1(m, a->id, s->id, fresh()), 0);
    assert_int_equal(attach1(m, b->id, s->id, fresh()), 0);
    assert_int_equal(release1(m, b->id, &h, fresh()), 0);
    check_model(m);
    assert_true(reaches(m, a, LOW, MIB));
    close(fd[1]);
    assert_false(m->backend->ops->in_use(m->backend, h));
    assert_int_equal(vb_model_space_refresh(m, s, fresh()), 0);
    assert_int_equal(map_at(HIGH, 0x1000), 0); /* what it could not reach */
    assert_true(reaches(m, a, HIGH, 0x1000));
    close(fd[0]);
}

/* A container that serves another space by now is shared by nobody, although a device in it was claimed for this one. */
static void test_a_container_that_went_elsewhere(void **state) {
    struct vb_space *other = add_space(m);
    struct vb_device *a, *b, *c;
    int fd[3];

    (void)state;
    a = add_device_for(m, "wide", s->id, &fd[0]);
    assert_ptr_equal(vb_model_shares(m, s->id), a); /* nobody's yet */
    b = add_device_for(m, "narrow", s->id, &fd[1]);
    assert_int_equal(attach1(m, a->id, other->id, fresh()), 0);
    assert_null(vb_model_shares(m, s->id));
    c = add_device_for(m, "narrow2", s->id, &fd[2]); /* gets its own */
    assert_int_equal(attach1(m, c->id, s->id, fresh()), 0);
    REFUSED(attach1(m, b->id, s->id, fresh()), VB_BUSY, "shares its container", "space 2");
    assert_ptr_equal(vb_model_shares(m, s->id), c);
    for (unsigned i = 0; i < 3; i++)
        close(fd[i]);
}

/* The container's devices leave out together; one goes, and the rest could reach more. */
static void test_leaving_out_together(void **state) {
    struct vb_device *a, *b;
    vb_handle h;
    int fd[2];

    (void)state;
    a = add_device_for(m, "wide", s->id, &fd[0]);
    b = add_device_for(m, "narrow", s->id, &fd[1]);
    assert_int_equal(attach_leaving_out(m, a->id, s->id), 0);
    assert_int_equal(attach_leaving_out(m, b->id, s->id), 0);
    assert_int_equal(map_at(HIGH, 0x1000), 0);
    assert_int_equal(map_at(LOW, 0x1000), 0);
    assert_int_equal(a->domain->left_out, 1);
    close(fd[1]);
    assert_int_equal(release1(m, b->id, &h, fresh()), 0);
    assert_false(m->backend->ops->in_use(m->backend, h));
    vb_model_space_refresh(m, s, NULL);
    check_model(m);
    unmap_at(HIGH, 0x1000);
    assert_int_equal(a->domain->left_out, 0);
    close(fd[0]);
}

/* ---- failures ---- */

static void test_failures_in_the_second_container(void **state) {
    struct vb_device *a, *b;
    uint64_t n, bytes;
    int fd[2];

    (void)state;
    a = add_device(m, "wide", &fd[0]);
    b = add_device(m, "narrow", &fd[1]);
    assert_int_equal(attach1(m, a->id, s->id, fresh()), 0);
    assert_int_equal(attach1(m, b->id, s->id, fresh()), 0);
    arm(VB_EMULATED_MAP, 2, -EIO, false);
    REFUSED(map_at(LOW, MIB), -EIO, "purpose");
    assert_int_equal(m->ledger.used, 0);
    assert_int_equal(map_at(LOW, MIB), 0);
    arm(VB_EMULATED_UNMAP, 2, -EBUSY, false);
    REFUSED(unmap1(m, s->id, LOW, MIB, &n, &bytes, fresh()), -EBUSY, "purpose");
    assert_int_equal(m->ledger.used, 2 * MIB);
    close(fd[0]);
    close(fd[1]);
}

/* ---- random operations with faults, against all invariants ---- */

static const char *const names[] = {"wide", "narrow", "narrow2", "large pages", "wide 2"};
#define DEVICES (sizeof(names) / sizeof(*names))

struct plugged {
    struct vb_device *d;
    int fd;
};

static void unplug(struct plugged *p) {
    vb_handle h;

    if (!p->d)
        return;
    assert_int_equal(release1(m, p->d->id, &h, NULL), 0);
    close(p->fd);
    m->backend->ops->in_use(m->backend, h);
    p->d = NULL;
}

static int step(struct plugged *p, bool *out) {
    static const uint64_t bases[] = {LOW, WINDOW, HIGH, 1ull << 32};
    const uint64_t iova = bases[random_below(4)] + random_below(16) * 0x8000ull;
    const uint64_t size = (1 + random_below(16)) * 0x1000ull;
    const struct vb_unmap_entry t = {iova, random_below(2) ? size : 0x40000};
    struct plugged *x = &p[random_below(DEVICES)];
    uint64_t n, bytes;

    switch (random_below(10)) {
    case 0:
    case 1:
    case 2:
        return map1(m, s->id, 1, iova, size, random_below(16) * 0x1000ull, 3, fresh());
    case 3:
        return unmap1(m, s->id, t.iova, t.size, &n, &bytes, fresh());
    case 4:
        if (x->d)
            return vb_model_detach(m, x->d->id, fresh());
        if (claim_device(m, names[x - p], 1 + (uint32_t)(x - p), &msi_window, 1, random_below(2) ? s->id : 0, &x->d,
                         &x->fd, fresh()) != 0) {
            x->d = NULL;
            return e.code;
        }
        if (vb_model_bind(m, x->d->id, fresh()) != 0) {
            const int r = e.code;

            unplug(x);
            return e.code = r;
        }
        return 0;
    case 5:
    case 6:
        return x->d ? vb_model_attach(m, x->d->id, s->id, random_below(2), NULL, fresh()) : 0;
    case 7:
        if (random_below(4) == 0)
            unplug(x);
        return 0;
    case 8:
        if (*out) {
            const int r = vb_model_discard_end(m, s->id, random_below(2), fresh());

            *out = s->discarded;
            return r;
        }
        if (vb_model_discard(m, s->id, &t, 1, &n, &bytes, fresh()) == 0)
            *out = true;
        return e.code;
    default:
        return vb_model_dirty_set(m, s->id, random_below(2), NULL, fresh());
    }
}

static void test_random(void **state) {
    struct plugged p[DEVICES] = {{0}};
    unsigned i, k, done = 0, attached = 0;
    bool out = false;

    (void)state;
    start_random();
    m->ledger.lease = 2 * MIB;
    for (i = 0; i < 20000; i++) {
        const bool armed = random_below(8) == 0;
        int r;

        if (armed)
            arm(VB_EMULATED_ANY, 1 + random_below(5), -EIO, false);
        e.code = 0;
        r = step(p, &out);
        arm(VB_EMULATED_ANY, 0, 0, false);
        if (r != 0)
            assert_int_equal(r, e.code);
        done += r == 0;
        attached += s->devices;
        check_model(m);
    }
    printf("# %u of %u operations were granted; %u devices attached on average\n", done, i, attached / i);
    for (k = 0; k < DEVICES; k++)
        unplug(&p[k]);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_replay),
        TEST(test_payment),
        TEST(test_payment_of_what_is_left_out),
        TEST(test_two_spaces),
        TEST(test_discard),
        TEST(test_claim_for_a_space),
        TEST(test_claims_that_do_not_fit),
        TEST(test_release_of_one_of_two),
        TEST(test_a_container_that_went_elsewhere),
        TEST(test_leaving_out_together),
        TEST(test_failures_in_the_second_container),
        TEST(test_random),
        {"test_random_shared", test_random, set_up_shared, tear_down, NULL},
    };

    return cmocka_run_group_tests_name("model-containers", tests, NULL, NULL);
}
