/* Hostile numbers: what cannot be mapped, what is not there, what belongs to somebody else, and every limit. */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hostile.h"

#define MIB (1ul << 20)
#define P   4096ul

static bool one_of(int got, const int *codes) {
    for (; *codes; codes++)
        if (got == *codes)
            return true;
    return false;
}
#define ONE_OF(...) ((const int[]){__VA_ARGS__, 0})

/* The usage before and after must be the same. */
static void unchanged(struct wire *w, const struct usage *was, const char *what) {
    struct usage u = w_usage(w);

    CHECK(u.used == was->used && u.mapped == was->mapped && u.mappings == was->mappings &&
              u.memories == was->memories && u.spaces == was->spaces && u.devices == was->devices,
          "%s: usage changed: used %ju -> %ju, mappings %ju -> %ju", what, (uintmax_t)was->used, (uintmax_t)u.used,
          (uintmax_t)was->mappings, (uintmax_t)u.mappings);
}

static void test_bad_maps(void) {
    static const struct {
        const char *what;
        uint64_t iova, size, offset;
        uint32_t memory, prot; /* memory: 0: the good one */
        int codes[4];
    } bad[] = {
        {"size 0", MIB, 0, 0, 0, 3, {4}},
        {"iova + size overflows", ~0ul - P + 1, 2 * P, 0, 0, 3, {4, 9}},
        {"iova + size is 2^64 + 1 page", ~0ul & ~(P - 1), 2 * P, 0, 0, 3, {4, 9}},
        {"the whole address space", 0, ~0ul & ~(P - 1), 0, 0, 3, {4, 9, 7}},
        {"offset + size overflows", MIB, 2 * P, ~0ul - P + 1, 0, 3, {4}},
        {"offset behind the end", MIB, P, 64 * MIB, 0, 3, {4}},
        {"size passes the end", MIB, 2 * MIB, 0, 0, 3, {4}},
        {"offset + size passes the end", MIB, MIB, P, 0, 3, {4}},
        {"an uneven iova", MIB + 1, P, 0, 0, 3, {4}},
        {"an uneven size", MIB, P + 1, 0, 0, 3, {4}},
        {"an uneven offset", MIB, P, 1, 0, 3, {4}},
        {"half a page", MIB, P / 2, 0, 0, 3, {4}},
        {"no access", MIB, P, 0, 0, 0, {4}},
        {"write-only", MIB, P, 0, 0, 2, {4}},
        {"unknown access bits", MIB, P, 0, 0, 7, {4}},
        {"all access bits", MIB, P, 0, 0, ~0u, {4}},
        {"memory 2^32 - 1", MIB, P, 0, ~0u, 3, {6}},
        {"memory 77", MIB, P, 0, 77, 3, {6}},
        {"an iova at 2^63, where the pool is", 1ul << 63, P, 0, 0, 3, {9, 4}},
        {"an iova at the end of the address space", ~0ul & ~(P - 1), P, 0, 0, 3, {9, 4}},
    };
    struct wire w;
    uint32_t none = 0;

    wire_open(&w);
    struct ready r = w_ready(&w, MIB);
    w_device(&w, world.device[0], r.space, NULL);
    struct usage was = w_usage(&w);
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct entry e = {bad[i].iova, bad[i].size, bad[i].offset, bad[i].memory ? bad[i].memory : r.memory,
                          bad[i].prot};
        int k = w_map(&w, r.space, &e, 1);
        CHECK(one_of(k, bad[i].codes), "map: %s: %s", bad[i].what, code_name(k));
        unchanged(&w, &was, bad[i].what);
    }
    struct entry e = {MIB, P, 0, none, 3};
    expect(w_map(&w, r.space, &e, 1), ERR(NOT_FOUND), "memory 0");
    e.memory = r.memory;
    expect(w_map(&w, 0, &e, 1), ERR(NOT_FOUND), "space 0");
    expect(w_map(&w, r.space + 1, &e, 1), ERR(NOT_FOUND), "a space that is not there");
    expect(w_map(&w, ~0u, &e, 1), ERR(NOT_FOUND), "space 2^32 - 1");
    unchanged(&w, &was, "bad ids");
    wire_close(&w);
}

static void test_overlaps(void) {
    struct wire w;

    wire_open(&w);
    struct ready r = w_ready(&w, MIB);
    expect(w_map1(&w, r.space, r.memory, MIB, 8 * P, 0), 0, "map");
    struct usage was = w_usage(&w);
    expect(w_map1(&w, r.space, r.memory, MIB, 8 * P, 0), ERR(OVERLAP), "the same again");
    expect(w_map1(&w, r.space, r.memory, MIB - P, 2 * P, 0), ERR(OVERLAP), "over the beginning");
    expect(w_map1(&w, r.space, r.memory, MIB + 7 * P, 2 * P, 0), ERR(OVERLAP), "over the end");
    expect(w_map1(&w, r.space, r.memory, MIB + P, P, 0), ERR(OVERLAP), "in the middle");
    expect(w_map1(&w, r.space, r.memory, MIB - P, 10 * P, 0), ERR(OVERLAP), "around it");
    unchanged(&w, &was, "overlaps");
    struct entry two[] = {{8 * MIB, 2 * P, 0, r.memory, 3}, {8 * MIB + P, 2 * P, 0, r.memory, 3}};
    expect(w_map(&w, r.space, two, 2), ERR(OVERLAP), "two entries of a batch");
    CHECK(w.reply->error->has_entry && w.reply->error->entry == 1, "the failing entry is not named");
    unchanged(&w, &was, "an overlap within a batch");
    wire_close(&w);
}

/* An address that the attached device's IOMMU cannot use: between two usable ranges, or behind the last. */
static uint64_t unusable(struct wire *w, uint32_t space) {
    expect(w_describe(w, space), 0, "describe");
    const VfioBroker__SpaceDescribeReply *d = w->reply->space_describe;
    CHECK(d->n_usable > 0, "no usable range");
    for (size_t i = 0; i + 1 < d->n_usable; i++)
        if (d->usable[i]->last + 1 != d->usable[i + 1]->first)
            return d->usable[i]->last + 1;
    uint64_t last = d->usable[d->n_usable - 1]->last;
    return last == UINT64_MAX ? 0 : last + 1;
}

static void test_reserved(void) {
    struct wire w;
    uint32_t device, other;

    wire_open(&w);
    struct ready r = w_ready(&w, MIB);
    w_device(&w, world.device[0], r.space, &device);
    uint64_t bad = unusable(&w, r.space);
    CHECK(bad || !world.kernel, "everything is usable");
    if (!bad) {
        note("this backend reserves nothing\n");
        return;
    }
    struct usage was = w_usage(&w);
    expect(w_map1(&w, r.space, r.memory, bad, P, 0), ERR(RESERVED), "map at 0x%jx", (uintmax_t)bad);
    expect(w_map1(&w, r.space, r.memory, bad - P, 2 * P, 0), ERR(RESERVED), "map across 0x%jx", (uintmax_t)bad);
    unchanged(&w, &was, "maps in reserved ranges");
    /* The other way round: mapped while no device is attached, then the device comes. */
    expect(w_space(&w, &other), 0, "space");
    expect(w_map1(&w, other, r.memory, bad, P, 0), 0, "map without a device");
    expect(w_detach(&w, device), 0, "detach");
    was = w_usage(&w);
    expect(w_attach(&w, device, other), ERR(RESERVED), "attach to a space with a mapping at 0x%jx", (uintmax_t)bad);
    CHECK(w.reply->error->n_conflicts > 0, "no conflict is listed");
    unchanged(&w, &was, "a refused attach");
    expect(w_attach(&w, device, r.space), 0, "attach to the first space again");
    wire_close(&w);
}

static void test_unmaps(void) {
    struct wire w;

    wire_open(&w);
    struct ready r = w_ready(&w, MIB);
    expect(w_map1(&w, r.space, r.memory, MIB, 8 * P, 0), 0, "map");
    expect(w_map1(&w, r.space, r.memory, MIB + 8 * P, 8 * P, 0), 0, "map");
    struct usage was = w_usage(&w);
    expect(w_unmap1(&w, r.space, 9 * MIB, P), ERR(NOT_FOUND), "unmap of nothing");
    int k = w_unmap1(&w, r.space, MIB, 4 * P);
    CHECK(k == ERR(INVALID) || k == ERR(NOT_FOUND), "unmap that cuts: %s", code_name(k));
    k = w_unmap1(&w, r.space, MIB + P, 15 * P);
    CHECK(k == ERR(INVALID) || k == ERR(NOT_FOUND), "unmap that cuts the first: %s", code_name(k));
    expect(w_unmap1(&w, r.space, MIB, 0), ERR(INVALID), "unmap of size 0");
    expect(w_unmap1(&w, r.space, ~0ul - P + 1, 2 * P), ERR(INVALID), "unmap that overflows");
    struct entry twice[] = {{.iova = MIB, .size = 8 * P}, {.iova = MIB, .size = 8 * P}};
    k = w_unmap(&w, r.space, twice, 2);
    CHECK(one_of(k, ONE_OF(ERR(NOT_FOUND), ERR(OVERLAP), ERR(INVALID))), "the same twice in a batch: %s", code_name(k));
    struct entry inside[] = {{.iova = MIB, .size = 16 * P}, {.iova = MIB + 8 * P, .size = 8 * P}};
    k = w_unmap(&w, r.space, inside, 2);
    CHECK(one_of(k, ONE_OF(ERR(NOT_FOUND), ERR(OVERLAP), ERR(INVALID))), "one inside the other: %s", code_name(k));
    unchanged(&w, &was, "bad unmaps");
    expect(w_unmap1(&w, r.space, 0, ~0ul & ~(P - 1)), 0, "unmap of nearly everything");
    wire_close(&w);
}

static void test_half_bad_batches(void) {
    static struct entry e[VB_BATCH_MAX + 1];
    struct wire w;

    wire_open(&w);
    struct ready r = w_ready(&w, MIB);
    w_device(&w, world.device[0], r.space, NULL);
    struct usage was = w_usage(&w);
    for (unsigned bad = 0; bad < 64; bad += 21) {
        for (unsigned i = 0; i < 64; i++)
            e[i] = (struct entry){MIB + i * 2 * P, P, i * P, r.memory, 3};
        e[bad].memory = 99;
        expect(w_map(&w, r.space, e, 64), ERR(NOT_FOUND), "a batch with a bad memory at %u", bad);
        CHECK(w.reply->error->has_entry && w.reply->error->entry == bad, "entry %u is not named", bad);
        unchanged(&w, &was, "half of a batch");
        e[bad].memory = r.memory;
        e[bad].offset = MIB;
        expect(w_map(&w, r.space, e, 64), ERR(INVALID), "a batch with a bad offset at %u", bad);
        unchanged(&w, &was, "half of a batch");
        e[bad].offset = 0;
        e[bad].iova = ~0ul & ~(P - 1);
        int k = w_map(&w, r.space, e, 64);
        CHECK(k == ERR(RESERVED) || k == ERR(INVALID), "a batch with a bad iova at %u: %s", bad, code_name(k));
        unchanged(&w, &was, "half of a batch");
    }
    for (unsigned i = 0; i < 64; i++)
        e[i] = (struct entry){MIB + i * 2 * P, P, i * P, r.memory, 3};
    expect(w_map(&w, r.space, e, 64), 0, "the good batch");
    was = w_usage(&w);
    e[40].iova = 0x70000000;
    expect(w_unmap(&w, r.space, e, 64), ERR(NOT_FOUND), "an unmap batch with a bad entry");
    unchanged(&w, &was, "half of an unmap batch");
    wire_close(&w);
}

static void test_batch_sizes(void) {
    static struct entry e[VB_BATCH_MAX + 1];
    struct wire w;

    wire_open(&w);
    struct ready r = w_ready(&w, MIB);
    for (unsigned i = 0; i <= VB_BATCH_MAX; i++)
        e[i] = (struct entry){16 * MIB + i * 2 * P, P, i % 256 * P, r.memory, 3};
    struct usage was = w_usage(&w);
    int k = w_map(&w, r.space, e, VB_BATCH_MAX + 1);
    CHECK(k == ERR(LIMIT) || k == ERR(INVALID), "a batch of %u: %s", VB_BATCH_MAX + 1, code_name(k));
    k = w_map(&w, r.space, e, 0);
    CHECK(k == ERR(INVALID), "an empty batch: %s", code_name(k));
    k = w_unmap(&w, r.space, e, 0);
    CHECK(k == ERR(INVALID) || k == ERR(NOT_FOUND), "an empty unmap: %s", code_name(k));
    unchanged(&w, &was, "batches of impossible sizes");
    expect(w_map(&w, r.space, e, VB_BATCH_MAX), 0, "a batch of %u", VB_BATCH_MAX);
    k = w_unmap(&w, r.space, e, VB_BATCH_MAX + 1);
    CHECK(k == ERR(LIMIT) || k == ERR(INVALID), "an unmap batch of %u: %s", VB_BATCH_MAX + 1, code_name(k));
    expect(w_unmap(&w, r.space, e, VB_BATCH_MAX), 0, "an unmap batch of %u", VB_BATCH_MAX);
    wire_close(&w);
}

static void test_foreign_handles(void) {
    struct wire a, b;
    uint32_t memory = 0, space = 0, device;

    wire_open(&a);
    wire_open(&b);
    for (int i = 0; i < 9; i++) {
        int fd = memfd(MIB, NULL);
        expect(w_register(&a, fd, true, &memory), 0, "register");
        close(fd);
        expect(w_space(&a, &space), 0, "space");
    }
    expect(w_map1(&a, space, memory, MIB, MIB, 0), 0, "map");
    w_device(&a, world.device[0], space, &device);
    struct usage was = w_usage(&a);
    struct ready own = w_ready(&b, MIB);
    CHECK(own.memory != memory && own.space != space, "the ids do not differ");
    expect(w_map1(&b, space, own.memory, 8 * MIB, P, 0), ERR(NOT_FOUND), "map into another's space");
    expect(w_map1(&b, own.space, memory, 8 * MIB, P, 0), ERR(NOT_FOUND), "map of another's memory");
    expect(w_unmap1(&b, space, MIB, MIB), ERR(NOT_FOUND), "unmap in another's space");
    expect(w_unmap_all(&b, space), ERR(NOT_FOUND), "unmap all of another's space");
    expect(w_space_destroy(&b, space), ERR(NOT_FOUND), "destroy another's space");
    expect(w_describe(&b, space), ERR(NOT_FOUND), "describe another's space");
    expect(w_unregister(&b, memory), ERR(NOT_FOUND), "unregister another's memory");
    expect(w_bind(&b, device), ERR(NOT_FOUND), "bind another's device");
    expect(w_attach(&b, device, own.space), ERR(NOT_FOUND), "attach another's device");
    expect(w_detach(&b, device), ERR(NOT_FOUND), "detach another's device");
    expect(w_release(&b, device), ERR(NOT_FOUND), "release another's device");
    unchanged(&a, &was, "another session's requests");
    wire_close(&a);
    wire_close(&b);
}

/* A client sees the sessions of its own uid and no others: the bystander's is always there. */
static void test_foreign_inspection(void) {
    uint32_t mine[64];
    struct wire w;
    size_t n;

    wire_open(&w);
    expect(w_inspect(&w, VFIO_BROKER__INSPECT_KIND__INSPECT_SESSIONS, 0, 0), 0, "sessions");
    n = w.reply->inspect->n_sessions;
    CHECK(n >= 1 && n <= sizeof mine / sizeof mine[0], "%zu sessions are shown to a client", n);
    for (size_t i = 0; i < n; i++) {
        CHECK(w.reply->inspect->sessions[i]->client_uid == getuid(), "a session of uid %u is shown to uid %u",
              w.reply->inspect->sessions[i]->client_uid, getuid());
        mine[i] = w.reply->inspect->sessions[i]->session;
    }
    for (uint32_t kind = VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE; kind <= VFIO_BROKER__INSPECT_KIND__INSPECT_MEMORY;
         kind++)
        for (uint32_t s = 1; s < mine[n - 1] + 3; s++) {
            bool listed = false;
            if (s == 6 && mine[n - 1] > 12) /* the first, the bystander's among them, and those around our own */
                s = mine[n - 1] - 6;
            for (size_t i = 0; i < n; i++)
                listed |= mine[i] == s;
            int k = w_inspect(&w, kind, s, 0);
            /* Another of our own may have ended just now. */
            CHECK(listed ? k == 0 || n > 1 : k == ERR(DENIED) || k == ERR(NOT_FOUND), "kind %u of session %u: %s", kind,
                  s, code_name(k));
        }
    wire_close(&w);
}

static void test_strange_inspection(void) {
    static const uint64_t afters[] = {1, 255, ~0u, 1ul << 63, ~0ul};
    struct wire w;

    wire_open(&w);
    struct ready r = w_ready(&w, MIB);
    expect(w_map1(&w, r.space, r.memory, MIB, MIB, 0), 0, "map");
    for (uint32_t kind = 0; kind < 13; kind++)
        for (unsigned i = 0; i < sizeof afters / sizeof *afters; i++) {
            int k = w_inspect(&w, kind, 0, afters[i]);
            bool known = kind >= 1 && kind <= VFIO_BROKER__INSPECT_KIND__INSPECT_PINS;
            CHECK(known ? k == 0 || k == ERR(INVALID) : k == ERR(INVALID) || k == ERR(UNSUPPORTED),
                  "Inspect %u after %ju: %s", kind, (uintmax_t)afters[i], code_name(k));
        }
    int k = w_inspect(&w, ~0u, 0, 0);
    CHECK(k == ERR(INVALID) || k == ERR(UNSUPPORTED), "Inspect 2^32 - 1: %s", code_name(k));
    wire_expect_alive(&w, "after strange inspections");
    wire_close(&w);
}

static void test_claims(void) {
    static const char *const addresses[] = {"",
                                            " ",
                                            ".",
                                            "..",
                                            "/",
                                            "../../../etc/passwd",
                                            "0000:00:04.0/../0000:00:05.0",
                                            "0000:00:04.8",
                                            "0000:00:04",
                                            "zzzz:zz:zz.z",
                                            "0000:00:04.0 ",
                                            "emulated:",
                                            "emulated:-1",
                                            "emulated:4294967296",
                                            "emulated:0x0",
                                            "%s%n",
                                            "\xff\xfe",
                                            "/sys/bus/pci/devices/0000:00:04.0"};
    struct wire w, other;
    char longest[5000];
    int k;

    wire_open(&w);
    for (unsigned i = 0; i < sizeof addresses / sizeof *addresses; i++) {
        k = w_claim(&w, addresses[i], NULL, NULL);
        CHECK(one_of(k, ONE_OF(ERR(DENIED), ERR(INVALID), ERR(NOT_FOUND), ERR(UNSUPPORTED))) || k == -EPIPE,
              "claim of \"%s\": %s", addresses[i], code_name(k));
        if (k == -EPIPE || k == ERR(PROTOCOL)) { /* a text that is not UTF-8 */
            wire_close(&w);
            wire_open(&w);
        }
    }
    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = 0;
    k = w_claim(&w, longest, NULL, NULL);
    CHECK(one_of(k, ONE_OF(ERR(DENIED), ERR(INVALID), ERR(NOT_FOUND))), "claim of 5,000 letters: %s", code_name(k));
    if (world.uids)
        expect(w_claim(&w, world.device[1], NULL, NULL), ERR(DENIED), "claim of another user's device");
    else
        expect(w_claim(&w, world.device[1], NULL, NULL), ERR(BUSY), "claim of another's device");

    uint32_t device;
    int fd;
    expect(w_claim(&w, world.device[0], &device, &fd), 0, "claim");
    expect(w_claim(&w, world.device[0], NULL, NULL), ERR(BUSY), "a second claim");
    wire_open(&other);
    expect(w_claim(&other, world.device[0], NULL, NULL), ERR(BUSY), "a claim from another session");
    close(fd);
    expect(w_release(&w, device), 0, "release");
    for (int i = 0; i < 100 && (k = w_claim(&other, world.device[0], NULL, NULL)) == ERR(BUSY); i++)
        sleep_ms(50);
    expect(k, 0, "a claim after the release");
    wire_close(&w);
    wire_close(&other);
}

static void test_device_order(void) {
    struct wire w;
    uint32_t device, space2;
    int fd;

    wire_open(&w);
    struct ready r = w_ready(&w, MIB);
    expect(w_space(&w, &space2), 0, "space");
    expect(w_attach(&w, 1, r.space), ERR(NOT_FOUND), "attach of no device");
    expect(w_release(&w, ~0u), ERR(NOT_FOUND), "release of no device");
    expect(w_claim(&w, world.device[0], &device, &fd), 0, "claim");
    expect(w_attach(&w, device, r.space), ERR(STATE), "attach before bind");
    expect(w_detach(&w, device), ERR(STATE), "detach before attach");
    expect(w_bind(&w, device), 0, "bind");
    expect(w_bind(&w, device), ERR(STATE), "bind twice");
    expect(w_attach(&w, device, 77), ERR(NOT_FOUND), "attach to no space");
    expect(w_detach(&w, device), ERR(STATE), "detach before attach");
    expect(w_attach(&w, device, r.space), 0, "attach");
    int k = w_attach(&w, device, r.space);
    CHECK(k == ERR(STATE) || k == ERR(BUSY), "attach twice: %s", code_name(k));
    k = w_attach(&w, device, space2);
    CHECK(k == ERR(STATE) || k == ERR(BUSY), "attach elsewhere: %s", code_name(k));
    expect(w_space_destroy(&w, r.space), ERR(BUSY), "destroy of a space with a device");
    expect(w_map1(&w, r.space, r.memory, MIB, P, 0), 0, "map");
    expect(w_unregister(&w, r.memory), ERR(BUSY), "unregister of mapped memory");
    expect(w_release(&w, device), 0, "release of an attached device");
    expect(w_release(&w, device), ERR(NOT_FOUND), "release twice");
    expect(w_detach(&w, device), ERR(NOT_FOUND), "detach of a released device");
    expect(w_space_destroy(&w, r.space), 0, "destroy of a space with mappings");
    expect(w_space_destroy(&w, r.space), ERR(NOT_FOUND), "destroy twice");
    expect(w_unregister(&w, r.memory), 0, "unregister");
    expect(w_unregister(&w, r.memory), ERR(NOT_FOUND), "unregister twice");
    close(fd);
    wire_close(&w);
}

static void test_object_limits(void) {
    struct wire w;
    uint32_t id;
    int fd, k;

    wire_open(&w);
    for (unsigned i = 0; i < VB_MEMORIES_MAX; i++) {
        fd = memfd(P, NULL);
        expect(w_register(&w, fd, true, &id), 0, "memory %u", i);
        close(fd);
    }
    fd = memfd(P, NULL);
    expect(w_register(&w, fd, true, NULL), ERR(LIMIT), "one memory too many");
    expect(w_unregister(&w, id), 0, "unregister");
    expect(w_register(&w, fd, true, &id), 0, "register instead");
    for (unsigned i = 0; i < VB_SPACES_MAX; i++)
        expect(w_space(&w, &id), 0, "space %u", i);
    expect(w_space(&w, NULL), ERR(LIMIT), "one space too many");
    expect(w_space_destroy(&w, id), 0, "destroy");
    expect(w_space(&w, &id), 0, "space instead");
    /* Ids are not used again: thousands of objects one after the other are possible, the newest id works. */
    for (unsigned i = 0; i < 500; i++) {
        expect(w_space_destroy(&w, id), 0, "destroy");
        expect(w_space(&w, &id), 0, "space %u after another", i);
    }
    k = w_map1(&w, id, 1, MIB, P, 0);
    CHECK(k == 0, "map in the last space: %s", code_name(k));
    close(fd);
    wire_close(&w);
}

/* The policy of this test grants 4096 mappings and 64 MiB. */
static void test_ledger_limits(void) {
    static struct entry e[VB_BATCH_MAX];
    struct wire w;
    uint32_t big;
    unsigned n = 0;

    wire_open(&w);
    struct ready r = w_ready(&w, MIB);
    int k = 0;
    for (unsigned b = 0; k == 0 && b < 80; b++) {
        for (unsigned i = 0; i < VB_BATCH_MAX; i++)
            e[i] = (struct entry){16 * MIB + (b * VB_BATCH_MAX + i) * 2 * P, P, i % 256 * P, r.memory, 3};
        k = w_map(&w, r.space, e, VB_BATCH_MAX);
        n += k == 0 ? VB_BATCH_MAX : 0;
    }
    expect(k, ERR(LIMIT), "%u mappings and more", n);
    CHECK(n == 4096, "%u mappings were possible, 4096 are granted", n);
    CHECK(w.reply->error->limit && w.reply->error->limit->limit == 4096, "the limit is not told");
    expect(w_unmap_all(&w, r.space), 0, "unmap all");

    /* Sparse offsets would be cheap; a memory beyond the limit has to be populated. */
    int fd = memfd(65 * MIB, NULL);
    expect(w_register(&w, fd, true, &big), 0, "register 65 MiB");
    struct usage was = w_usage(&w);
    expect(w_map1(&w, r.space, big, 256 * MIB, 65 * MIB, 0), ERR(LIMIT), "map of more than the limit");
    CHECK(w.reply->error->limit && w.reply->error->limit->whose[0], "it is not told whose limit that is");
    unchanged(&w, &was, "a map beyond the limit");
    close(fd);
    wire_close(&w);
}

const struct hostile_test number_tests[] = {
    {"numbers: impossible mappings", test_bad_maps, 0, 0},
    {"numbers: overlapping mappings", test_overlaps, 0, 0},
    {"numbers: reserved ranges", test_reserved, 0, 0},
    {"numbers: impossible unmaps", test_unmaps, 0, 0},
    {"numbers: half of a batch bad", test_half_bad_batches, 0, 0},
    {"numbers: batches of no and too many entries", test_batch_sizes, 0, 0},
    {"numbers: handles of another session", test_foreign_handles, 0, 0},
    {"numbers: looking at other sessions", test_foreign_inspection, NEEDS_UIDS, 0},
    {"numbers: strange questions", test_strange_inspection, 0, 0},
    {"numbers: claims of what is not there, not granted, or taken", test_claims, 0, 0},
    {"numbers: device requests in the wrong order", test_device_order, 0, 0},
    {"numbers: as many objects as possible", test_object_limits, 0, 0},
    {"numbers: more mappings and memory than granted", test_ledger_limits, 0, 120},
    {NULL, NULL, 0, 0},
};
