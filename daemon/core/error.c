#include "core/error.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int vb_refuse(struct vb_error *e, enum vb_code code, const char *fmt, ...) {
    va_list ap;

    if (e) {
        e->code = code;
        va_start(ap, fmt);
        vsnprintf(e->text, sizeof(e->text), fmt, ap);
        va_end(ap);
    }
    return code;
}

int vb_fail(struct vb_error *e, int negative_errno, const char *fmt, ...) {
    va_list ap;
    size_t n;

    if (e) {
        e->code = negative_errno;
        va_start(ap, fmt);
        vsnprintf(e->text, sizeof(e->text), fmt, ap);
        va_end(ap);
        n = strlen(e->text);
        snprintf(e->text + n, sizeof(e->text) - n, ": %s", strerror(-negative_errno));
    }
    return negative_errno;
}

int vb_error_entry(struct vb_error *e, uint32_t entry) {
    if (!e)
        return 0;
    if (!e->has_entry) {
        e->has_entry = true;
        e->entry = entry;
    }
    return e->code;
}

void vb_error_conflict(struct vb_error *e, uint64_t first, uint64_t last, uint64_t with_first, uint64_t with_last,
                       const char *kind, const char *device) {
    struct vb_conflict *c;

    if (!e || e->n_conflicts >= VB_CONFLICTS_MAX)
        return;
    c = &e->conflicts[e->n_conflicts++];
    *c = (struct vb_conflict){
        .first = first, .last = last, .with_first = with_first, .with_last = with_last, .kind = kind};
    snprintf(c->device, sizeof(c->device), "%s", device ? device : "");
}

void vb_error_limit(struct vb_error *e, uint64_t wanted, uint64_t used, uint64_t limit, const char *whose) {
    if (!e)
        return;
    e->limit.set = true;
    e->limit.wanted = wanted;
    e->limit.used = used;
    e->limit.limit = limit;
    snprintf(e->limit.whose, sizeof(e->limit.whose), "%s", whose);
}

struct vb_size_text vb_size_text(uint64_t bytes) {
    static const char *const unit[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    struct vb_size_text t;
    unsigned i = 0;

    while (bytes != 0 && bytes % 1024 == 0 && i < 6) {
        bytes /= 1024;
        i++;
    }
    snprintf(t.s, sizeof(t.s), "%" PRIu64 " %s", bytes, unit[i]);
    return t;
}
