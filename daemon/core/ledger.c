#include "core/ledger.h"

#include <assert.h>
#include <inttypes.h>

/* Grants and reclaims of other sessions of the account can cross: asked again, but not for ever. */
#define TRIES 8

static int too_little(struct vb_ledger *l, uint64_t bytes, struct vb_error *e) {
    vb_error_limit(e, bytes, l->used, l->limit, l->whose);
    return vb_refuse(e, VB_LIMIT,
                     "%s more cannot be pinned: %s are in use and the lease is %s, limit %s (%s); raise the limit or "
                     "unmap something",
                     VB_SIZE(bytes), VB_SIZE(l->used), VB_SIZE(l->lease), VB_SIZE(l->limit),
                     l->whose[0] ? l->whose : "nobody's limit is known");
}

static int check_tables(struct vb_ledger *l, uint64_t bytes, struct vb_error *e) {
    if (bytes == 0 || (l->tables <= l->tables_max && bytes <= l->tables_max - l->tables))
        return 0;
    vb_error_limit(e, bytes, l->tables, l->tables_max, "tables_max of the session");
    return vb_refuse(e, VB_LIMIT,
                     "page tables and kernel objects of these mappings take about %s more, %s of %s (tables_max) are in "
                     "use; map larger or neighbouring ranges, or have policy grant more",
                     VB_SIZE(bytes), VB_SIZE(l->tables), VB_SIZE(l->tables_max));
}

static bool enough(const struct vb_ledger *l, uint64_t total, uint64_t doubled) {
    return total <= l->lease && (!l->want || doubled <= l->doubled_granted);
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
        l->waiting = total;
        r = l->want(l, total > l->lease ? total - l->lease : 0, doubled, e);
        l->waiting = 0;
        if (r != 0)
            return r;
    }
    if (!enough(l, total, doubled))
        return too_little(l, c.paid, e);
    l->used += c.paid;
    l->doubled = doubled;
    l->tables += c.tables;
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

uint64_t vb_ledger_idle(const struct vb_ledger *l, uint64_t slack) {
    uint64_t busy = l->used > l->waiting ? l->used : l->waiting;

    if (__builtin_add_overflow(busy, slack, &busy) || busy >= l->lease)
        return 0;
    return l->lease - busy;
}
