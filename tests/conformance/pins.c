/* Tokens, accesses and pins: two clients, an owner and a pinner, in one process where nobody has to wait, else in two. */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "conformance.h"

#define BASE 0x100000ull

/* What a pinner has heard. */
struct heard {
    struct vfb_client *c;
    unsigned invalidates, lost, closed;
    uint32_t pins[64];
    size_t n_pins;
    bool answer; /* unpins at once */
};

static void on_event(struct vfb_client *c, const struct vfb_event *e, void *arg) {
    struct heard *h = arg;

    if (e->kind == VFB_EVENT_INVALIDATE) {
        h->invalidates++;
        tap_check(e->deadline_ms > 0 && e->n_pins > 0, "Invalidate of %zu pins in %u ms", e->n_pins, e->deadline_ms);
        for (size_t i = 0; i < e->n_pins && h->n_pins < 64; i++)
            h->pins[h->n_pins++] = e->pins[i];
        if (h->answer)
            OK(c, vfb_unpin(c, e->access, e->pins, e->n_pins));
    } else if (e->kind == VFB_EVENT_PINS_LOST) {
        h->lost += (unsigned)e->n_pins;
        h->closed += e->closed;
        tap_check(e->text && e->text[0], "pins are lost without a word");
    }
}

struct pair {
    struct vfb_client *owner, *pinner;
    struct mem m;
    uint32_t space;
    struct vfb_token token;
    struct vfb_access access;
    struct heard heard;
};

static void listen_to(struct vfb_client *c, struct heard *h) {
    *h = (struct heard){.c = c};
    vfb_set_event_handler(c, on_event, h);
}

/* Sixteen pages at BASE, and another client with access to them. */
static void pair_new(struct pair *p) {
    memset(p, 0, sizeof *p);
    p->owner = join();
    p->pinner = join();
    p->m = mem_new(p->owner, 16 * PAGE);
    p->space = space_new(p->owner);
    OK(p->owner, map1(p->owner, p->space, p->m.id, BASE, 0, 16 * PAGE));
    OK(p->owner, vfb_token_create(p->owner, p->space, BASE, BASE + 16 * PAGE - 1, "to test", &p->token));
    OK(p->pinner, vfb_access_open(p->pinner, p->token.secret, &p->access));
    listen_to(p->pinner, &p->heard);
}

static struct vfb_pin pin1(struct pair *p, uint64_t iova, uint64_t size) {
    const struct vfb_pin_range r = {.iova = iova, .size = size, .prot = VFB_READ | VFB_WRITE};
    struct vfb_pin pin;

    OK(p->pinner, vfb_pin(p->pinner, p->access.id, &r, 1, &pin));
    return pin;
}

static void done(struct vfb_client *c, int result, void *arg) {
    (void)c;
    *(int *)arg = result;
}

#define WAITING 12345

/* Lets both clients do their work for at most `ms`, or until *result is there. */
static void pump(struct vfb_client *a, struct vfb_client *b, const int *result, int ms) {
    struct timespec start, now;

    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        struct pollfd f[2] = {{.fd = vfb_fd(a), .events = vfb_events(a)}, {.fd = vfb_fd(b), .events = vfb_events(b)}};

        poll(f, 2, 20);
        vfb_process(a);
        vfb_process(b);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((!result || *result == WAITING) &&
             (now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 < ms);
}

static int unmap_later(struct pair *p, uint64_t iova, uint64_t size, int *result) {
    const struct vfb_unmap e = {.iova = iova, .size = size};

    *result = WAITING;
    return vfb_unmap_async(p->owner, p->space, &e, 1, done, result);
}

static void pair_free(struct pair *p) {
    vfb_client_free(p->pinner);
    vfb_client_free(p->owner);
}

/* ---- */

static void case_pin_gives_memory(void) {
    const struct vfb_pin_range two[] = {{BASE + 3 * PAGE + 100, 5 * PAGE, VFB_READ | VFB_WRITE},
                                        {BASE + 15 * PAGE, PAGE, VFB_READ}};
    struct vfb_pin pins[2];
    uint32_t ids[2];
    struct pair p;
    uint8_t *seen;

    pair_new(&p);
    tap_check(vfb_info(p.pinner)->features & VFB_FEATURE_PINS, "no feature bit");
    tap_check(p.token.warning[0] && p.access.warning[0], "nobody says what a token cannot take back");
    tap_check(strcmp(p.access.name, "to test") == 0 && p.access.range.first == BASE &&
                  p.access.range.last == BASE + 16 * PAGE - 1,
              "the access is %s 0x%" PRIx64 "-0x%" PRIx64, p.access.name, p.access.range.first, p.access.range.last);
    OK(p.pinner, vfb_pin(p.pinner, p.access.id, two, 2, pins));
    tap_check(pins[0].n_segments == 1 && pins[0].segments[0].iova == two[0].iova &&
                  pins[0].segments[0].size == two[0].size && pins[0].segments[0].offset == 3 * PAGE + 100 &&
                  pins[0].segments[0].fd == pins[1].segments[0].fd && pins[1].segments[0].offset == 15 * PAGE,
              "segments: %u, offset 0x%" PRIx64, pins[0].n_segments, pins[0].segments[0].offset);
    seen = mmap(NULL, p.m.size, PROT_READ | PROT_WRITE, MAP_SHARED, pins[0].segments[0].fd, 0);
    tap_check(seen != MAP_FAILED, "mmap: %s", strerror(errno));
    tap_check(memcmp(seen, p.m.p, p.m.size) == 0, "other bytes");
    seen[3 * PAGE + 100] = 0x5a;
    tap_check(p.m.p[3 * PAGE + 100] == 0x5a, "a write does not arrive");
    tap_check(usage(p.owner).pins == 2 && usage(p.owner).tokens == 1 && usage(p.pinner).accesses == 1,
              "pins %u, tokens %u, accesses %u", usage(p.owner).pins, usage(p.owner).tokens, usage(p.pinner).accesses);
    ids[0] = pins[0].id, ids[1] = pins[1].id;
    OK(p.pinner, vfb_unpin(p.pinner, p.access.id, ids, 2));
    tap_check(usage(p.owner).pins == 0, "%u pins are left", usage(p.owner).pins);
    REFUSED(p.pinner, vfb_unpin(p.pinner, p.access.id, ids, 2), VFB_NOT_FOUND);
    ids[1] = pin1(&p, BASE, PAGE).id;
    OK(p.pinner, vfb_unpin(p.pinner, p.access.id, ids, 2)); /* the first one is gone */
    tap_check(usage(p.owner).pins == 0, "%u pins are left", usage(p.owner).pins);
    OK(p.pinner, vfb_access_close(p.pinner, p.access.id));
    REFUSED(p.pinner, vfb_access_close(p.pinner, p.access.id), VFB_NOT_FOUND);
    pair_free(&p);
}

static void case_pin_refused(void) {
    const struct {
        uint64_t iova, size;
        uint32_t prot;
        int code;
    } bad[] = {
        {BASE - PAGE, PAGE, VFB_READ, VFB_DENIED},
        {BASE + 15 * PAGE, 2 * PAGE, VFB_READ, VFB_DENIED},
        {BASE, 0, VFB_READ, VFB_INVALID},
        {UINT64_MAX, 2, VFB_READ, VFB_INVALID},
        {BASE, PAGE, 0, VFB_INVALID},
        {BASE, PAGE, VFB_WRITE, VFB_INVALID},
        {BASE, PAGE, 9, VFB_INVALID},
        {BASE + 8 * PAGE, PAGE, VFB_READ, VFB_NOT_FOUND},
        {BASE + 7 * PAGE, 3 * PAGE, VFB_READ, VFB_NOT_FOUND},
        {BASE + 9 * PAGE, PAGE, VFB_READ | VFB_WRITE, VFB_DENIED},
    };
    struct vfb_pin pins[2];
    struct pair p;

    pair_new(&p);
    OK(p.owner, unmap1(p.owner, p.space, BASE, 16 * PAGE));
    OK(p.owner, map1(p.owner, p.space, p.m.id, BASE, 0, 8 * PAGE));
    OK(p.owner, map_prot(p.owner, p.space, p.m.id, BASE + 9 * PAGE, 9 * PAGE, PAGE, VFB_READ));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const struct vfb_pin_range r[] = {{BASE, PAGE, VFB_READ}, {bad[i].iova, bad[i].size, bad[i].prot}};

        REFUSED_ENTRY(p.pinner, vfb_pin(p.pinner, p.access.id, r, 2, pins), bad[i].code, 1);
        tap_check(usage(p.owner).pins == 0, "bad entry %zu left %u pins", i, usage(p.owner).pins);
    }
    REFUSED(p.pinner, vfb_pin(p.pinner, 4711, &(struct vfb_pin_range){BASE, PAGE, VFB_READ}, 1, pins), VFB_NOT_FOUND);
    pair_free(&p);
}

/* Each mapping under a pin is a segment; more than VFB_PIN_SEGMENTS are refused. */
static void case_pin_segments(void) {
    struct vfb_pin pin;
    struct pair p;

    pair_new(&p);
    OK(p.owner, unmap1(p.owner, p.space, BASE, 16 * PAGE));
    for (uint64_t i = 0; i < 17; i++)
        OK(p.owner, map1(p.owner, p.space, p.m.id, BASE + i * PAGE, (i % 16) * PAGE, PAGE));
    OK(p.owner, vfb_token_create(p.owner, p.space, 0, UINT64_MAX, NULL, &p.token));
    OK(p.pinner, vfb_access_open(p.pinner, p.token.secret, &p.access));
    REFUSED(p.pinner, vfb_pin(p.pinner, p.access.id, &(struct vfb_pin_range){BASE, 17 * PAGE, VFB_READ}, 1, &pin),
            VFB_LIMIT);
    pin = pin1(&p, BASE + 8, 16 * PAGE - 8);
    tap_check(pin.n_segments == 16 && pin.segments[0].size == PAGE - 8 && pin.segments[15].offset == 15 * PAGE,
              "%u segments", pin.n_segments);
    pair_free(&p);
}

static void case_pay_once(void) {
    struct vfb_usage before, after;
    struct pair p;

    pair_new(&p);
    before = usage(p.owner);
    pin1(&p, BASE + PAGE, 4 * PAGE);
    pin1(&p, BASE + 3 * PAGE, 4 * PAGE);
    after = usage(p.owner);
    tap_check(after.used == before.used && after.used == 16 * PAGE, "used %" PRIu64 " became %" PRIu64, before.used,
              after.used);
    tap_check(after.doubled == 6 * PAGE, "%" PRIu64 " bytes are mapped and locked", after.doubled);
    OK(p.pinner, vfb_access_close(p.pinner, p.access.id));
    for (int i = 0; i < 100 && usage(p.owner).doubled; i++)
        usleep(10000);
    tap_check(usage(p.owner).doubled == 0 && usage(p.owner).pins == 0, "%u pins, %" PRIu64 " bytes locked",
              usage(p.owner).pins, usage(p.owner).doubled);
    pair_free(&p);
}

/* ---- unmapping what is pinned ---- */

static void case_unmap_waits(void) {
    struct pair p;
    struct vfb_pin pin;
    int result;

    pair_new(&p);
    pin = pin1(&p, BASE + 2 * PAGE, PAGE);
    OK(p.owner, unmap_later(&p, BASE, 16 * PAGE, &result));
    pump(p.owner, p.pinner, NULL, 200);
    tap_check(result == WAITING && p.heard.invalidates == 1 && p.heard.n_pins == 1 && p.heard.pins[0] == pin.id,
              "result %d, %u Invalidates, %zu pins", result, p.heard.invalidates, p.heard.n_pins);
    tap_check(usage(p.owner).parked == 1 && describe(p.owner, p.space).mappings == 1, "%u requests wait",
              usage(p.owner).parked);
    OK(p.pinner, vfb_unpin(p.pinner, p.access.id, &pin.id, 1));
    pump(p.owner, p.pinner, &result, 1500);
    tap_check(result == 0 && describe(p.owner, p.space).mappings == 0 && usage(p.owner).used == 0, "result %d", result);
    tap_check(p.heard.lost == 0, "%u pins were lost", p.heard.lost);
    pair_free(&p);
}

static void case_two_pinners(void) {
    struct vfb_access access2;
    struct heard heard2;
    struct vfb_client *pinner2;
    struct vfb_pin pin, pin2;
    struct pair p;
    int result;

    pair_new(&p);
    pinner2 = join();
    OK(pinner2, vfb_access_open(pinner2, p.token.secret, &access2));
    listen_to(pinner2, &heard2);
    pin = pin1(&p, BASE, 8 * PAGE);
    OK(pinner2, vfb_pin(pinner2, access2.id, &(struct vfb_pin_range){BASE + 4 * PAGE, 8 * PAGE, VFB_READ}, 1, &pin2));
    OK(p.owner, unmap_later(&p, BASE, 16 * PAGE, &result));
    pump(p.owner, p.pinner, NULL, 100);
    pump(p.owner, pinner2, NULL, 100);
    tap_check(p.heard.invalidates == 1 && heard2.invalidates == 1, "%u and %u Invalidates", p.heard.invalidates,
              heard2.invalidates);
    OK(p.pinner, vfb_unpin(p.pinner, p.access.id, &pin.id, 1));
    pump(p.owner, p.pinner, NULL, 100);
    tap_check(result == WAITING, "the unmap did not wait for the second pinner");
    OK(pinner2, vfb_unpin(pinner2, access2.id, &pin2.id, 1));
    pump(p.owner, pinner2, &result, 1500);
    tap_check(result == 0 && p.heard.lost + heard2.lost == 0, "result %d", result);
    vfb_client_free(pinner2);
    pair_free(&p);
}

/* Who does not answer loses the pin, and nothing else. */
static void case_deadline(void) {
    struct pair p;
    struct rig r;
    struct mem own;
    struct vfb_pin pin;
    int result;

    pair_new(&p);
    r = rig_new(p.pinner, test_devices[0]);
    own = mem_new(p.pinner, PAGE);
    OK(p.pinner, map1(p.pinner, r.space, own.id, 0x200000, 0, PAGE));
    pin = pin1(&p, BASE, PAGE);
    pin1(&p, BASE + 8 * PAGE, PAGE);
    OK(p.owner, unmap_later(&p, BASE, 16 * PAGE, &result));
    pump(p.owner, p.pinner, &result, 10000);
    tap_check(result == 0 && p.heard.invalidates == 1, "result %d, %u Invalidates", result, p.heard.invalidates);
    pump(p.owner, p.pinner, NULL, 100);
    tap_check(p.heard.lost == 2 && p.heard.closed == 0, "%u pins lost, %u accesses closed", p.heard.lost,
              p.heard.closed);
    tap_check(describe(p.owner, p.space).mappings == 0 && usage(p.owner).used == 0, "still there");
    dma_reaches(&r, 0x200000, own.p);
    REFUSED(p.pinner, vfb_unpin(p.pinner, p.access.id, &pin.id, 1), VFB_NOT_FOUND);
    OK(p.owner, map1(p.owner, p.space, p.m.id, BASE, 0, 16 * PAGE));
    pin1(&p, BASE, PAGE); /* the access is as good as before */
    pair_free(&p);
}

/* While an unmap waits, everything else goes on, and what is about its range comes after it. */
static void case_only_that_range_waits(void) {
    struct vfb_map again = {.iova = BASE, .size = PAGE, .prot = VFB_READ};
    struct vfb_pin pin;
    struct pair p;
    int unmapped, mapped = WAITING;

    pair_new(&p);
    pin = pin1(&p, BASE, PAGE);
    OK(p.owner, unmap_later(&p, BASE, 16 * PAGE, &unmapped));
    pump(p.owner, p.pinner, NULL, 100);
    OK(p.owner, map1(p.owner, p.space, p.m.id, 0x1000000, 0, 16 * PAGE));
    OK(p.owner, unmap1(p.owner, p.space, 0x1000000, 16 * PAGE));
    REFUSED(p.pinner, vfb_pin(p.pinner, p.access.id, &(struct vfb_pin_range){BASE + PAGE, PAGE, VFB_READ}, 1, &pin),
            VFB_BUSY);
    again.memory = p.m.id;
    OK(p.owner, vfb_map_async(p.owner, p.space, &again, 1, done, &mapped));
    pump(p.owner, p.pinner, NULL, 100);
    tap_check(unmapped == WAITING && mapped == WAITING && usage(p.owner).parked == 2, "%u requests wait",
              usage(p.owner).parked);
    OK(p.pinner, vfb_unpin(p.pinner, p.access.id, p.heard.pins, 1));
    pump(p.owner, p.pinner, &mapped, 1500);
    tap_check(unmapped == 0 && mapped == 0, "unmap %d, map %d", unmapped, mapped);
    tap_check(describe(p.owner, p.space).mapped_bytes == PAGE && usage(p.owner).parked == 0, "%" PRIu64 " bytes",
              describe(p.owner, p.space).mapped_bytes);
    pair_free(&p);
}

/* What could not be unmapped in the first place bothers nobody. */
static void case_a_bad_unmap_asks_nobody(void) {
    const struct vfb_unmap two[] = {{BASE, 16 * PAGE}, {0x7000000, PAGE}};
    struct pair p;

    pair_new(&p);
    pin1(&p, BASE, PAGE);
    REFUSED(p.owner, unmap1(p.owner, p.space, BASE + PAGE, PAGE), VFB_INVALID);
    REFUSED_ENTRY(p.owner, vfb_unmap(p.owner, p.space, two, 2, NULL), VFB_NOT_FOUND, 1);
    pump(p.owner, p.pinner, NULL, 100);
    tap_check(p.heard.invalidates == 0 && usage(p.owner).pins == 1, "%u Invalidates", p.heard.invalidates);
    pair_free(&p);
}

static void case_space_and_token_end(void) {
    struct vfb_access access;
    struct pair p;
    uint32_t other;
    int result;

    pair_new(&p);
    pin1(&p, BASE, PAGE);
    p.heard.answer = true;
    OK(p.owner, unmap_later(&p, BASE, 16 * PAGE, &result));
    pump(p.owner, p.pinner, &result, 1500);
    tap_check(result == 0 && p.heard.invalidates == 1, "result %d", result);
    OK(p.owner, vfb_token_revoke(p.owner, p.token.id));
    pump(p.owner, p.pinner, NULL, 100);
    tap_check(p.heard.closed == 1, "the access did not end with its token");
    REFUSED(p.pinner, vfb_access_open(p.pinner, p.token.secret, &access), VFB_DENIED);
    REFUSED(p.owner, vfb_token_revoke(p.owner, p.token.id), VFB_NOT_FOUND);
    other = space_new(p.owner);
    OK(p.owner, vfb_token_create(p.owner, other, 0, UINT64_MAX, "of a space that ends", &p.token));
    OK(p.pinner, vfb_access_open(p.pinner, p.token.secret, &access));
    OK(p.owner, vfb_space_destroy(p.owner, other));
    pump(p.owner, p.pinner, NULL, 100);
    tap_check(p.heard.closed == 2, "the access did not end with its space");
    REFUSED(p.pinner, vfb_access_open(p.pinner, p.token.secret, &access), VFB_DENIED);
    tap_check(usage(p.owner).tokens == 0 && usage(p.pinner).accesses == 0, "%u tokens, %u accesses",
              usage(p.owner).tokens, usage(p.pinner).accesses);
    pair_free(&p);
}

static void case_forged(void) {
    uint8_t secret[VFB_TOKEN_SIZE];
    struct vfb_access access;
    struct pair p;

    pair_new(&p);
    for (unsigned i = 0; i < VFB_TOKEN_SIZE; i += 3) {
        memcpy(secret, p.token.secret, sizeof secret);
        secret[i] ^= 0x40;
        REFUSED(p.pinner, vfb_access_open(p.pinner, secret, &access), VFB_DENIED);
    }
    memset(secret, 0, sizeof secret);
    REFUSED(p.pinner, vfb_access_open(p.pinner, secret, &access), VFB_DENIED);
    OK(p.pinner, vfb_access_open(p.pinner, p.token.secret, &access));
    pair_free(&p);
}

/* ---- death of either side ---- */

static void case_pinner_dies(void) {
    struct pair p;
    int result;

    pair_new(&p);
    pin1(&p, BASE, 16 * PAGE);
    OK(p.owner, unmap_later(&p, BASE, 16 * PAGE, &result));
    pump(p.owner, p.pinner, NULL, 50);
    tap_check(result == WAITING, "result %d", result);
    vfb_client_free(p.pinner);
    p.pinner = join();
    pump(p.owner, p.pinner, &result, 1500);
    tap_check(result == 0 && usage(p.owner).pins == 0, "result %d, %u pins", result, usage(p.owner).pins);
    pair_free(&p);
}

static void case_owner_dies(void) {
    struct vfb_pin pin;
    struct pair p;
    uint8_t *seen;

    pair_new(&p);
    pin = pin1(&p, BASE, 16 * PAGE);
    seen = mmap(NULL, p.m.size, PROT_READ, MAP_SHARED, pin.segments[0].fd, 0);
    tap_check(seen != MAP_FAILED, "mmap: %s", strerror(errno));
    vfb_client_free(p.owner);
    p.owner = join();
    for (int i = 0; i < 50 && !p.heard.closed; i++)
        pump(p.owner, p.pinner, NULL, 20);
    tap_check(p.heard.closed == 1, "nobody said that the owner is gone");
    REFUSED(p.pinner, vfb_unpin(p.pinner, p.access.id, &pin.id, 1), VFB_NOT_FOUND);
    tap_check(memcmp(seen, p.m.p, p.m.size) == 0, "the memory is another");
    tap_check(usage(p.pinner).accesses == 0, "%u accesses", usage(p.pinner).accesses);
    pair_free(&p);
}

/* ---- two that pin in each other, with blocking calls in two processes ---- */

static void swap_secrets(int fd, const uint8_t *mine, uint8_t *theirs) {
    tap_check(write(fd, mine, VFB_TOKEN_SIZE) == VFB_TOKEN_SIZE, "write: %s", strerror(errno));
    tap_check(read(fd, theirs, VFB_TOKEN_SIZE) == VFB_TOKEN_SIZE, "read: %s", strerror(errno));
}

static void one_of_two(int fd) {
    uint8_t theirs[VFB_TOKEN_SIZE];
    struct pair p;
    struct vfb_pin pin;
    struct vfb_client *c = join();
    char go = 0;

    p = (struct pair){.owner = c, .pinner = c};
    p.m = mem_new(c, 16 * PAGE);
    p.space = space_new(c);
    OK(c, map1(c, p.space, p.m.id, BASE, 0, 16 * PAGE));
    OK(c, vfb_token_create(c, p.space, BASE, BASE + 16 * PAGE - 1, "mutual", &p.token));
    listen_to(c, &p.heard);
    p.heard.answer = true;
    swap_secrets(fd, p.token.secret, theirs);
    OK(c, vfb_access_open(c, theirs, &p.access));
    pin = pin1(&p, BASE, 16 * PAGE);
    tap_check(pin.n_segments == 1, "%u segments", pin.n_segments);
    tap_check(write(fd, &go, 1) == 1 && read(fd, &go, 1) == 1, "the other is gone");
    OK(c, unmap1(c, p.space, BASE, 16 * PAGE)); /* both at once */
    for (int i = 0; i < 100 && p.heard.invalidates == 0; i++)
        pump(c, c, NULL, 20);
    tap_check(p.heard.invalidates == 1 && p.heard.lost == 0, "%u Invalidates, %u pins lost", p.heard.invalidates,
              p.heard.lost);
    tap_check(write(fd, &go, 1) == 1 && read(fd, &go, 1) == 1, "the other is gone");
    vfb_client_free(c);
}

static void case_mutual(void) {
    int pair[2], status = 0;

    tap_check(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair: %s", strerror(errno));
    pid_t child = fork();
    if (child == 0) {
        close(pair[0]);
        one_of_two(pair[1]);
        _exit(0);
    }
    close(pair[1]);
    one_of_two(pair[0]);
    tap_check(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0, "the other failed");
}

DEFINE_CASES(pins, {"a pin gives the memory behind a range of another client's space", case_pin_gives_memory, 0},
             {"pins that cannot be are refused, and leave nothing", case_pin_refused, 0},
             {"a pin over several mappings has a segment for each", case_pin_segments, 0},
             {"pinned pages are paid once with what is mapped", case_pay_once, 0},
             {"an unmap of pinned memory waits until it is unpinned", case_unmap_waits, 0},
             {"two pinners on overlapping ranges are both asked", case_two_pinners, 0},
             {"a pinner that does not answer loses its pins, not its devices", case_deadline, 0},
             {"only requests on the range of a waiting unmap wait", case_only_that_range_waits, 0},
             {"an unmap that is wrong asks no pinner", case_a_bad_unmap_asks_nobody, 0},
             {"accesses end with their token and their space", case_space_and_token_end, 0},
             {"forged tokens are refused", case_forged, 0},
             {"a pinner that dies holds nothing up", case_pinner_dies, 0},
             {"an owner that dies is told to its pinners", case_owner_dies, 0},
             {"two that pin in each other and unmap at once both get through", case_mutual, 0});
