/* Pins of another client on our spaces: we pay, and our session keeps the pages resident. See ledger-run.h. */
#include <inttypes.h>
#include <string.h>

#include "ledger-run.h"

/* The other client's access to a whole space; it ends with the space. */
static void open_access(struct user *u, uint32_t space) {
    struct order o = {.kind = ORDER_OPEN};
    struct vfb_token t;
    struct answer a;

    doing(u, "token and access for space %" PRIu32, space);
    judge(u, vfb_token_create(u->c, u->space_ids[space], 0, UINT64_MAX, "ledger", &t), 0);
    memcpy(o.secret, t.secret, sizeof o.secret);
    a = pinner_ask(u, &o);
    judge_text(u, a.result, 0, a.text);
    u->accesses[space] = a.id;
}

enum outcome do_pin(struct user *u) {
    const uint32_t space = pick_space(u);
    const struct oracle_mapping *m = pick_mapping(u, space);
    struct order o = {.kind = ORDER_PIN, .range.prot = VFB_READ};
    enum outcome out;
    struct answer a;
    unsigned why, i;
    uint64_t first;

    for (i = 0; i < PINS_MAX && u->pinned[i].live; i++)
        ;
    if (i == PINS_MAX || !m)
        return SKIPPED;
    if (!u->accesses[space])
        open_access(u, space);
    first = below(u, m->size / O_PAGE);
    o.access = u->accesses[space];
    o.range.iova = m->iova + first * O_PAGE;
    o.range.size = (1 + below(u, m->size / O_PAGE - first)) * O_PAGE;
    if (chance(u, 12)) /* into the next mapping, if there is no gap */
        o.range.size = m->iova + m->size - o.range.iova + O_PAGE;
    why = oracle_pinned(&u->o, space, o.range.iova, o.range.size, 1);
    doing(u, "pin IOVA 0x%" PRIx64 ", size 0x%" PRIx64 " of space %" PRIu32, o.range.iova, o.range.size, space);
    a = pinner_ask(u, &o);
    out = judge_text(u, a.result, why, a.text);
    if (out == REFUSED) {
        oracle_pinned(&u->o, space, o.range.iova, o.range.size, -1);
        return out;
    }
    u->pinned[i].live = true;
    u->pinned[i].id = a.id;
    u->pinned[i].space = space;
    u->pinned[i].access = o.access;
    u->pinned[i].iova = o.range.iova;
    u->pinned[i].size = o.range.size;
    return DONE;
}

static void end(struct user *u, unsigned i) {
    oracle_pinned(&u->o, u->pinned[i].space, u->pinned[i].iova, u->pinned[i].size, -1);
    u->pinned[i].live = false;
}

/* A live one, as a rule; one that has ended already is not found. */
enum outcome do_unpin(struct user *u) {
    const unsigned start = (unsigned)below(u, PINS_MAX);
    const bool live = !chance(u, 10);
    struct order o = {.kind = ORDER_UNPIN};
    enum outcome out;
    struct answer a;
    unsigned i, n;

    for (n = 0, i = start; n < PINS_MAX; n++, i = (i + 1) % PINS_MAX)
        if (u->pinned[i].live == live && u->pinned[i].access && u->accesses[u->pinned[i].space] == u->pinned[i].access)
            break;
    if (n == PINS_MAX)
        return SKIPPED;
    o.access = u->pinned[i].access;
    o.pin = u->pinned[i].id;
    doing(u, "unpin pin %" PRIu32 " of space %" PRIu32, o.pin, u->pinned[i].space);
    a = pinner_ask(u, &o);
    out = judge_text(u, a.result, u->pinned[i].live ? 0 : 1u << VFB_NOT_FOUND, a.text);
    if (out == DONE)
        end(u, i);
    return out;
}

void unmapped(struct user *u, uint32_t space, uint64_t iova, uint64_t size) {
    for (unsigned i = 0; i < PINS_MAX; i++)
        if (u->pinned[i].live && u->pinned[i].space == space && u->pinned[i].iova < iova + size &&
            iova < u->pinned[i].iova + u->pinned[i].size)
            end(u, i);
    oracle_unmapped(&u->o, space, iova, size);
}
