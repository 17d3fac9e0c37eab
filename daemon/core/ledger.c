#include "core/ledger.h"

#include <assert.h>
#include <inttypes.h>

int vb_ledger_reserve(struct vb_ledger *l, uint64_t bytes, struct vb_error *e) {
    uint64_t total;
    int r;

    if (bytes == 0) /* pages that are paid already cost nothing, even when the lease was lowered below `used` */
        return 0;
    if (__builtin_add_overflow(l->used, bytes, &total)) {
        vb_error_limit(e, bytes, l->used, l->limit, l->whose);
        return vb_refuse(e, VB_LIMIT, "%s more than the %s in use pass 2^64 bytes", VB_SIZE(bytes), VB_SIZE(l->used));
    }
    if (total > l->lease && l->want) {
        r = l->want(l, total, e);
        if (r != 0)
            return r;
    }
    if (total > l->lease) {
        vb_error_limit(e, bytes, l->used, l->limit, l->whose);
        return vb_refuse(e, VB_LIMIT,
                         "%s more cannot be pinned: %s are in use and the lease is %s, limit %s (%s); raise the limit "
                         "or unmap something",
                         VB_SIZE(bytes), VB_SIZE(l->used), VB_SIZE(l->lease), VB_SIZE(l->limit),
                         l->whose[0] ? l->whose : "nobody's limit is known");
    }
    l->used = total;
    return 0;
}

void vb_ledger_release(struct vb_ledger *l, uint64_t bytes) {
    assert(bytes <= l->used);
    l->used -= bytes;
}
