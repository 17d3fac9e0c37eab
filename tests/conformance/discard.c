/* Discards: mappings are taken out, the client punches, and they are mapped again, while nobody else gets place or limit. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conformance.h"

#define BASE 0x40000000ull

/* What punch() finds and does. */
struct work {
    struct rig *r;
    struct mem *m;
    uint64_t offset, size;
    bool populate;
    int answer;
    unsigned calls;
};

static int punch(void *arg) {
    struct work *w = arg;
    struct vfb_client *c = w->r->c;
    uint64_t used = usage(c).used;

    w->calls++;
    /* The range is taken and paid, and no device reaches it. */
    REFUSED(c, map1(c, w->r->space, w->m->id, BASE, 0, PAGE), VFB_OVERLAP);
    tap_check(unmap1(c, w->r->space, BASE, w->size) > 0, "it was unmapped in the middle of a discard");
    dma_refused(w->r, BASE, NULL);
    tap_check(fallocate(w->m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)w->offset, (off_t)w->size) == 0,
              "fallocate: %s", strerror(errno));
    if (w->populate)
        fill(w->m->p + w->offset, w->size, 4711);
    tap_check(usage(c).used == used, "used %" PRIu64 " became %" PRIu64, used, usage(c).used);
    return w->answer;
}

static void case_discard(void) {
    struct rig r = rig_new(join(), test_devices[0]);
    struct mem m = mem_new(r.c, MIB);
    struct work w = {.r = &r, .m = &m, .size = 0x10000, .populate = true};
    const struct vfb_unmap e = {.iova = BASE, .size = 0x10000};
    uint8_t buf[512];

    OK(r.c, map1(r.c, r.space, m.id, BASE, 0, 0x8000)); /* two mappings */
    OK(r.c, map1(r.c, r.space, m.id, BASE + 0x8000, 0x8000, 0x8000));
    OK(r.c, map1(r.c, r.space, m.id, BASE + MIB, 0x20000, PAGE));
    OK(r.c, vfb_discard(r.c, r.space, &e, 1, punch, &w));
    tap_check(w.calls == 1, "punch was called %u times", w.calls);
    tap_check(describe(r.c, r.space).mappings == 4 && usage(r.c).used == 0x10000 + 2 * PAGE, "used %" PRIu64,
              usage(r.c).used);
    /* The new pages, not the old ones. */
    r.t.known = 0;
    tap_check(testdev_read(&r.t, BASE + 0x8000, buf, sizeof buf) == 0 && memcmp(buf, m.p + 0x8000, sizeof buf) == 0,
              "the device does not read the new pages");
    dma_reaches(&r, BASE, m.p);
    dma_reaches(&r, BASE + MIB, m.p + 0x20000);
    rig_end(&r);
}

static void case_given_up(void) {
    struct rig r = rig_new(join(), test_devices[0]);
    struct mem m = mem_new(r.c, MIB);
    struct work w = {.r = &r, .m = &m, .size = 0x10000, .answer = 42};
    const struct vfb_unmap e = {.iova = BASE, .size = 0x10000};
    int k;

    OK(r.c, map1(r.c, r.space, m.id, BASE, 0, 0x10000));
    k = vfb_discard(r.c, r.space, &e, 1, punch, &w);
    tap_check(k == 42, "it returned %d", k);
    tap_check(describe(r.c, r.space).mappings == 1 && usage(r.c).used == PAGE, "used %" PRIu64, usage(r.c).used);
    /* Holes: the mappings are gone, and it says so. */
    fill(m.p, 0x10000, 5);
    OK(r.c, map1(r.c, r.space, m.id, BASE, 0, 0x10000));
    w.answer = 0;
    REFUSED(r.c, vfb_discard(r.c, r.space, &e, 1, punch, &w), VFB_BAD_MEMORY);
    says(r.c, "gone");
    tap_check(describe(r.c, r.space).mappings == 1 && usage(r.c).used == PAGE && w.calls == 2, "used %" PRIu64,
              usage(r.c).used);
    fill(m.p, 0x10000, 6);
    OK(r.c, map1(r.c, r.space, m.id, BASE, 0, 0x10000)); /* all is free again */
    dma_reaches(&r, BASE, m.p);
    rig_end(&r);
}

static int never(void *arg) {
    (void)arg;
    tap_check(false, "punch was called");
    return 0;
}

static void case_refused(void) {
    struct vfb_client *c = join();
    struct mem m = mem_new(c, MIB);
    uint32_t space = space_new(c);
    struct vfb_unmap e[2] = {{.iova = BASE, .size = PAGE}, {.iova = 0x10000000, .size = PAGE}};

    OK(c, map1(c, space, m.id, BASE, 0, 2 * PAGE));
    REFUSED_ENTRY(c, vfb_discard(c, space, e, 1, never, NULL), VFB_INVALID, 0); /* cuts */
    e[0].size = 2 * PAGE;
    REFUSED_ENTRY(c, vfb_discard(c, space, e, 2, never, NULL), VFB_NOT_FOUND, 1);
    REFUSED(c, vfb_discard(c, space + 1000, e, 1, never, NULL), VFB_NOT_FOUND);
    REFUSED(c, vfb_discard(c, space, e, 0, never, NULL), VFB_INVALID);
    tap_check(describe(c, space).mappings == 1 && usage(c).used == 2 * PAGE, "used %" PRIu64, usage(c).used);
    vfb_client_free(c);
}

static int count(void *arg) {
    ++*(unsigned *)arg;
    return 0;
}

/* As an unmap: it waits until they are given up, or taken away. */
static void case_pinned(void) {
    struct vfb_client *c = join(), *pinner = join();
    struct mem m = mem_new(c, MIB);
    uint32_t space = space_new(c);
    const struct vfb_unmap e = {.iova = BASE, .size = 2 * PAGE};
    const struct vfb_pin_range range = {.iova = BASE, .size = PAGE, .prot = VFB_READ};
    struct vfb_access access;
    struct vfb_token token;
    struct vfb_pin pin;
    unsigned calls = 0;

    OK(c, map1(c, space, m.id, BASE, 0, 2 * PAGE));
    OK(c, vfb_token_create(c, space, 0, UINT64_MAX, NULL, &token));
    OK(pinner, vfb_access_open(pinner, token.secret, &access));
    OK(pinner, vfb_pin(pinner, access.id, &range, 1, &pin));
    OK(c, vfb_discard(c, space, &e, 1, count, &calls));
    tap_check(calls == 1 && usage(c).pins == 0 && describe(c, space).mappings == 1, "%u calls, %u pins", calls,
              usage(c).pins);
    vfb_client_free(pinner);
    vfb_client_free(c);
}

/* As large as the limit: it is paid all the time, so mapping again cannot fail for it. */
static int take_what_is_left(void *arg) {
    struct rig *r = arg;
    struct mem more = mem_new(r->c, PAGE);

    REFUSED(r->c, map1(r->c, r->space, more.id, 0x10000000, 0, PAGE), VFB_LIMIT);
    return 0;
}

static void case_at_the_limit(void) {
    struct rlimit l;
    struct rig r = {0};
    struct mem m;
    const struct vfb_unmap e = {.iova = BASE, .size = MIB};

    tap_check(getrlimit(RLIMIT_MEMLOCK, &l) == 0, "getrlimit");
    l.rlim_cur = MIB;
    tap_check(setrlimit(RLIMIT_MEMLOCK, &l) == 0, "setrlimit: %s", strerror(errno));
    r.c = join();
    m = mem_new(r.c, MIB);
    r.space = space_new(r.c);
    OK(r.c, map1(r.c, r.space, m.id, BASE, 0, MIB));
    OK(r.c, vfb_discard(r.c, r.space, &e, 1, take_what_is_left, &r));
    tap_check(usage(r.c).used == MIB && describe(r.c, r.space).mappings == 1, "used %" PRIu64, usage(r.c).used);
    vfb_client_free(r.c);
}

static int die(void *arg) {
    (void)arg;
    raise(SIGKILL);
    return 0;
}

/* The client ends in the middle: everything is given back. */
static void case_killed(void) {
    pid_t pid = fork();
    struct vfb_client *c;
    int status;

    tap_check(pid >= 0, "fork: %s", strerror(errno));
    if (pid == 0) {
        struct rig r = rig_new(join(), test_devices[0]);
        const struct vfb_unmap e = {.iova = SCRATCH_IOVA, .size = PAGE};

        vfb_discard(r.c, r.space, &e, 1, die, NULL);
        _exit(1);
    }
    tap_check(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status), "the child ended by itself");
    c = join();
    claim(c, test_devices[0]);
    vfb_client_free(c);
}

DEFINE_CASES(discard, {"discard: new pages at the same IOVAs", case_discard, 0},
             {"discard: given up, and with holes", case_given_up, 0},
             {"discard: refused before anything is punched", case_refused, 0},
             {"discard: waits for pins", case_pinned, 0}, {"discard of as much as the limit", case_at_the_limit, 0},
             {"discard: a client killed in the middle", case_killed, 0});
