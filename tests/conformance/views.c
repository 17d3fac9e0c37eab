/* Views: what vfio-brokerctl shows of accounts, usage, memory and pins is what happened. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client/inspect.h"
#include "conformance.h"

#define INSPECT(kind) VFIO_BROKER__INSPECT_KIND__INSPECT_##kind

static const VfioBroker__InspectReply *look(struct vfb_client *c, VfioBroker__InspectKind kind, uint32_t session,
                                            uint64_t after) {
    const VfioBroker__InspectReply *reply;

    OK(c, vfb_inspect(c, kind, session, after, &reply));
    return reply;
}

static const VfioBroker__MemoryRow *memory_row(struct vfb_client *c, uint32_t memory) {
    const VfioBroker__InspectReply *reply = look(c, INSPECT(MEMORY), 0, memory - 1);

    tap_check(reply->n_memories > 0 && reply->memories[0]->memory == memory, "no row of memory %u", memory);
    return reply->memories[0];
}

static const VfioBroker__AccountRow *account_row(struct vfb_client *c) {
    uint32_t session = vfb_info(c)->session;
    const VfioBroker__InspectReply *reply = look(c, INSPECT(ACCOUNTS), session, 0);

    tap_check(reply->n_accounts == 1, "%zu accounts of session %u", reply->n_accounts, session);
    return reply->accounts[0];
}

static void memlock(uint64_t bytes) {
    struct rlimit l;

    tap_check(getrlimit(RLIMIT_MEMLOCK, &l) == 0, "getrlimit");
    if (l.rlim_max != RLIM_INFINITY && l.rlim_max < bytes)
        tap_case_skip("the hard limit of locked memory is less than %" PRIu64, bytes);
    l.rlim_cur = bytes;
    tap_check(setrlimit(RLIMIT_MEMLOCK, &l) == 0, "setrlimit: %s", strerror(errno));
}

static void check_usage(struct vfb_client *c, uint64_t pages, uint64_t mapped, uint64_t doubled, int line) {
    const uint64_t mapped_paid = paid(c, pages, mapped);
    struct vfb_usage u = usage(c);

    tap_check(u.used == mapped_paid && u.mapped_paid == mapped_paid && u.pinned_paid == 0 && u.mapped == mapped &&
                  u.doubled == doubled,
              "line %d: used %" PRIu64 ", paid for mappings %" PRIu64 ", for pins %" PRIu64 ", mapped %" PRIu64
              ", doubled %" PRIu64,
              line, u.used, u.mapped_paid, u.pinned_paid, u.mapped, u.doubled);
    tap_check((u.tables > 0) == (mapped > 0) && u.tables <= u.tables_max, "tables %" PRIu64 " of %" PRIu64, u.tables,
              u.tables_max);
}

static void case_usage(void) {
    struct vfb_client *c = join();
    struct mem m = mem_new(c, MIB);
    uint32_t a = space_new(c), b = space_new(c);
    struct vfb_memory ro;

    check_usage(c, 0, 0, 0, __LINE__);
    OK(c, map1(c, a, m.id, 0, 0, MIB));
    OK(c, map1(c, b, m.id, 0, 0, MIB / 2));
    check_usage(c, MIB, MIB + MIB / 2, 0, __LINE__);
    OK(c, vfb_memory_register(c, m.fd, 0, "for reading", &ro));
    tap_check(!shares(c) || !*memory_row(c, m.id)->note, "\"%s\" although nothing is paid twice",
              memory_row(c, m.id)->note);
    OK(c, map_prot(c, a, ro.id, 2 * MIB, 0, PAGE, VFB_READ));
    check_usage(c, MIB + PAGE, MIB + MIB / 2 + PAGE, 0, __LINE__);
    tap_check(strstr(memory_row(c, m.id)->note, "read-only") && strstr(memory_row(c, ro.id)->note, "writable"),
              "\"%s\", \"%s\"", memory_row(c, m.id)->note, memory_row(c, ro.id)->note);
    tap_check(memory_row(c, m.id)->paid == paid(c, MIB, MIB + MIB / 2) &&
                  memory_row(c, m.id)->mapped == memory_row(c, m.id)->paid && memory_row(c, m.id)->pinned == 0,
              "memory %u is not paid as mapped", m.id);
    OK(c, vfb_memory_register(c, m.fd, VFB_WRITABLE, "again", &ro));
    tap_check(ro.id == m.id && memory_row(c, m.id)->registered == 2, "registered %u times, as memory %u",
              memory_row(c, m.id)->registered, ro.id);
    OK(c, vfb_unmap_all(c, a, NULL));
    OK(c, vfb_unmap_all(c, b, NULL));
    check_usage(c, 0, 0, 0, __LINE__);
    vfb_client_free(c);
}

static void case_memory_pages(void) {
    enum { N = 200 };
    struct vfb_client *c = join();
    uint32_t ids[N], n = 0;
    uint64_t after = 0;

    for (unsigned i = 0; i < N; i++) {
        struct vfb_memory m;
        int fd = memfd(PAGE, 0);

        OK(c, vfb_memory_register(c, fd, 0, "0123456789 0123456789 0123456789 0123456789 0123456789 01234567", &m));
        ids[i] = m.id;
        close(fd);
    }
    do {
        const VfioBroker__InspectReply *reply = look(c, INSPECT(MEMORY), 0, after);

        for (size_t i = 0; i < reply->n_memories; i++, n++)
            tap_check(n < N && reply->memories[i]->memory == ids[n], "row %u is of memory %u", n,
                      reply->memories[i]->memory);
        after = reply->next;
    } while (after);
    tap_check(n == N, "%u rows of %u memories", n, N);
    vfb_client_free(c);
}

static void case_pins(void) {
    struct vfb_client *owner = join(), *pinner = join();
    struct mem m = mem_new(owner, MIB);
    uint32_t space = space_new(owner);
    struct vfb_token token;
    struct vfb_access access;
    struct vfb_pin pin;
    struct vfb_pin_range range = {.iova = 3 * PAGE + 1, .size = 2 * PAGE, .prot = VFB_READ};

    OK(owner, map1(owner, space, m.id, 0, 0, MIB));
    OK(owner, vfb_token_create(owner, space, 0, MIB - 1, "disk 0", &token));
    OK(pinner, vfb_access_open(pinner, token.secret, &access));
    OK(pinner, vfb_pin(pinner, access.id, &range, 1, &pin));
    struct vfb_usage u = usage(owner), p = usage(pinner);
    tap_check(u.tokens == 1 && u.pins == 1 && u.accesses == 0 && p.accesses == 1 && p.pins == 0 && p.used == 0,
              "%u tokens, %u pins; %u accesses", u.tokens, u.pins, p.accesses);
    check_usage(owner, MIB, MIB, 3 * PAGE, __LINE__); /* it touches three pages */
    tap_check(memory_row(owner, m.id)->pinned == 3 * PAGE, "pinned %" PRIu64, memory_row(owner, m.id)->pinned);
    const VfioBroker__InspectReply *reply = look(owner, INSPECT(PINS), 0, 0);
    tap_check(reply->n_pins == 1 && reply->next == 0, "%zu pins", reply->n_pins);
    const VfioBroker__PinRow *row = reply->pins[0];
    tap_check(row->pin == pin.id && row->space == space && row->iova == range.iova && row->size == range.size &&
                  row->prot == VFB_READ,
              "pin %u of space %u at 0x%" PRIx64 ", %" PRIu64 " bytes", row->pin, row->space, row->iova, row->size);
    tap_check(row->session == vfb_info(pinner)->session && row->client_pid == (uint32_t)getpid() &&
                  strcmp(row->token, "disk 0") == 0 && strcmp(row->state, "pinned") == 0,
              "of session %u, pid %u, \"%s\", %s", row->session, row->client_pid, row->token, row->state);
    /* Through the daemon too, as vfio-brokerctl asks. */
    tap_check(look(pinner, INSPECT(PINS), vfb_info(owner)->session, 0)->n_pins == 1, "another session sees none");
    OK(pinner, vfb_unpin(pinner, access.id, &pin.id, 1));
    tap_check(look(owner, INSPECT(PINS), 0, 0)->n_pins == 0, "it is shown after unpin");
    check_usage(owner, MIB, MIB, 0, __LINE__);
    vfb_client_free(pinner);
    vfb_client_free(owner);
}

static void case_account(void) {
    const uint64_t limit = 8 * MIB;
    const VfioBroker__AccountRow *row;
    struct vfb_client *c, *second;
    struct mem m;
    uint32_t space;
    char whose[64];
    void *p = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    memlock(limit);
    c = join();
    m = mem_new(c, 4 * MIB);
    space = space_new(c);
    OK(c, map1(c, space, m.id, 0, 0, 4 * MIB));
    second = join();
    snprintf(whose, sizeof whose, "RLIMIT_MEMLOCK of pid %d", (int)getpid());
    row = account_row(c);
    tap_check(strcmp(row->kind, "process") == 0 && row->uid == getuid() && row->limit == limit &&
                  strcmp(row->limit_whose, whose) == 0,
              "%s, uid %u, %" PRIu64 ", %s", row->kind, row->uid, row->limit, row->limit_whose);
    tap_check(row->n_sessions == 2 && row->sessions[0] == vfb_info(c)->session &&
                  row->sessions[1] == vfb_info(second)->session,
              "%zu sessions", row->n_sessions);
    tap_check(row->leased >= 4 * MIB && row->leased <= limit && row->own == 0 && row->over == 0 && !*row->state,
              "leased %" PRIu64 ", own %" PRIu64 ", over %" PRIu64 ": %s", row->leased, row->own, row->over,
              row->state);
    /* Locked afterwards: nothing is taken back, it is shown. Not mlock(): AddressSanitizer makes that do nothing. */
    tap_check(p != MAP_FAILED && syscall(SYS_mlock, p, 2 * MIB) == 0, "mlock: %s", strerror(errno));
    row = account_row(c);
    tap_check(row->own == 2 * MIB, "own %" PRIu64, row->own);
    memlock(PAGE);
    row = account_row(c);
    tap_check(row->limit == PAGE && row->over == row->leased + row->own - PAGE && strstr(row->state, whose),
              "limit %" PRIu64 ", over %" PRIu64 ": %s", row->limit, row->over, row->state);
    OK(c, vfb_unmap_all(c, space, NULL));
    vfb_client_free(second);
    vfb_client_free(c);
}

static void case_sight(void) {
    struct vfb_client *c = join();
    const VfioBroker__InspectReply *reply;
    uint64_t after = 0;
    unsigned found = 0;

    do {
        reply = look(c, INSPECT(ACCOUNTS), 0, after);
        for (size_t i = 0; i < reply->n_accounts; i++)
            for (size_t k = 0; k < reply->accounts[i]->n_sessions; k++)
                found += reply->accounts[i]->sessions[k] == vfb_info(c)->session;
        after = reply->next;
    } while (after);
    tap_check(found == 1, "our session is in %u accounts", found);
    REFUSED(c, vfb_inspect(c, INSPECT(ACCOUNTS), UINT32_MAX, 0, &reply), VFB_DENIED);
    REFUSED(c, vfb_inspect(c, INSPECT(PINS), UINT32_MAX, 0, &reply), VFB_DENIED);
    vfb_client_free(c);
}

DEFINE_CASES(views, {"usage and memory show what is paid for what, and why twice", case_usage, 0},
             {"200 memories are shown, in pages", case_memory_pages, 0},
             {"pins are shown to their owner, with who has them", case_pins, 0},
             {"an account shows its limit, leases, own mlock, and when it is over", case_account, 0},
             {"accounts and pins of others are not shown", case_sight, 0});
