#include "core/ledger.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

/* Grants and reclaims of other sessions of the account can cross: asked again, but not for ever. */
#define TRIES 8

static int too_little(struct vb_ledger *l, uint64_t bytes, struct vb_error *e) {
    vb_error_limit(e, bytes, l->used, l->limit, l->whose);
    return vb_refuse(
        e, VB_LIMIT,
        "memory limit: %s more wanted, %s in use of a lease of %s, limit %s (%s); raise the limit or unmap "
        "something",
        VB_SIZE(bytes), VB_SIZE(l->used), VB_SIZE(l->lease), VB_SIZE(l->limit),
        l->whose[0] ? l->whose : "nobody's limit is known");
}

static int check_tables(struct vb_ledger *l, uint64_t bytes, struct vb_error *e) {
    if (bytes == 0 || (l->tables <= l->tables_max && bytes <= l->tables_max - l->tables))
        return 0;
    vb_error_limit(e, bytes, l->tables, l->tables_max, "tables_max of the session");
    return vb_refuse(
        e, VB_LIMIT,
        "page tables and kernel objects of these mappings take about %s more, %s of %s (tables_max) are in "
        "use; map larger or neighbouring ranges, or have policy grant more",
        VB_SIZE(bytes), VB_SIZE(l->tables), VB_SIZE(l->tables_max));
}

static bool enough(const struct vb_ledger *l, uint64_t total, uint64_t doubled) {
    return total <= l->lease && (!l->want || doubled <= l->doubled_granted);
}

/* The account refuses, and says who else uses the limit: before that, what was wanted, and what is left. Lease of ours that is
 * idle counts as used there. */
static int refused(const struct vb_ledger *l, uint64_t bytes, int r, struct vb_error *e) {
    const uint64_t idle = l->lease > l->used ? l->lease - l->used : 0;
    char text[VB_ERROR_TEXT];
    uint64_t left;

    if (r != VB_LIMIT || !e || !e->limit.set)
        return r;
    e->limit.wanted = bytes;
    e->limit.used -= idle < e->limit.used ? idle : e->limit.used;
    left = e->limit.used < e->limit.limit ? e->limit.limit - e->limit.used : 0;
    snprintf(text, sizeof text, "%s", e->text);
    snprintf(e->text, sizeof e->text, "memory limit: %s more wanted, %s left of %s (%.80s); %.160s", VB_SIZE(bytes),
             VB_SIZE(left), VB_SIZE(e->limit.limit), e->limit.whose, text);
    return r;
}

/* Pins are made by others: those who pin page by page must not make us ask the daemon for each. So some more is asked for;
 * the lease, which is what the account pays, has none of it. */
static uint64_t ask_doubled(const struct vb_ledger *l, uint64_t doubled) {
    const uint64_t slack = doubled / 8 > l->doubled_slack ? doubled / 8 : l->doubled_slack;

    return l->doubled_slack && doubled > l->doubled_granted ? doubled + slack : doubled;
}

static int want(struct vb_ledger *l, uint64_t total, uint64_t doubled, struct vb_error *e) {
    int r;

    doubled = ask_doubled(l, doubled);

    l->waiting = total;
    l->waiting_doubled = doubled;
    if (l->doubled_granted > doubled) /* the daemon lowers it with the grant */
        l->doubled_granted = doubled;
    r = l->want(l, total > l->lease ? total - l->lease : 0, doubled, e);
    l->waiting = l->waiting_doubled = 0;
    return r;
}

int vb_ledger_reserve(struct vb_ledger *l, struct vb_cost c, struct vb_error *e) {
    uint64_t total, doubled = l->doubled + c.doubled;
    unsigned i;
    int r;

    r = check_tables(l, c.tables, e);
    if (r != 0)
        return r;
    if (__builtin_add_overflow(l->used, c.paid, &total))
        return too_little(l, c.paid, e);
    if (c.paid == 0) /* pages that are paid already cost nothing, even when the lease was lowered below `used` */
        total = 0;
    for (i = 0; i < TRIES && l->want && !enough(l, total, doubled); i++) {
        r = want(l, total, doubled, e);
        if (r != 0)
            return refused(l, c.paid, r, e);
    }
    if (!enough(l, total, doubled))
        return too_little(l, c.paid, e);
    l->used += c.paid;
    l->doubled = doubled;
    l->tables += c.tables;
    if (l->used > l->most)
        l->most = l->used;
    return 0;
}

void vb_ledger_release(struct vb_ledger *l, struct vb_cost c) {
    assert(c.paid <= l->used && c.doubled <= l->doubled && c.tables <= l->tables);
    l->used -= c.paid;
    l->doubled -= c.doubled;
    l->tables -= c.tables;
    if (l->released && (c.paid || c.doubled))
        l->released(l);
}

void vb_ledger_granted(struct vb_ledger *l, uint64_t bytes, uint64_t doubled) {
    l->lease += bytes;
    l->doubled_granted = doubled;
}

/* ---- giving back ---- */

static uint64_t idle_beyond(const struct vb_ledger *l, uint64_t busy, uint64_t slack) {
    if (l->waiting <= l->lease && l->waiting > busy)
        busy = l->waiting;
    if (__builtin_add_overflow(busy, slack, &busy) || busy >= l->lease)
        return 0;
    return l->lease - busy;
}

uint64_t vb_ledger_idle(const struct vb_ledger *l, uint64_t slack) {
    return idle_beyond(l, l->used, slack);
}

/* What is waited for stays asked for: the daemon may have raised RLIMIT_MEMLOCK for it, and the answer be under way. */
static uint64_t doubled_now(const struct vb_ledger *l) {
    return l->doubled > l->waiting_doubled ? l->doubled : l->waiting_doubled;
}

static struct vb_give take(struct vb_ledger *l, uint64_t bytes) {
    const struct vb_give g = {.bytes = bytes, .doubled = doubled_now(l)};

    l->lease -= bytes;
    if (l->doubled_granted > g.doubled)
        l->doubled_granted = g.doubled;
    return g;
}

struct vb_give vb_ledger_give(struct vb_ledger *l) {
    return take(l, vb_ledger_idle(l, 0));
}

bool vb_ledger_watch(struct vb_ledger *l, uint64_t slack) {
    l->most = l->used;
    return vb_ledger_idle(l, slack) > 0 || l->doubled_granted > doubled_now(l);
}

bool vb_ledger_give_watched(struct vb_ledger *l, uint64_t slack, struct vb_give *ret) {
    const uint64_t bytes = idle_beyond(l, l->most, slack);

    if (bytes == 0 && l->doubled_granted <= doubled_now(l))
        return false;
    *ret = take(l, bytes);
    return true;
}
