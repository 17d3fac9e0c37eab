/* Errors of the model and of the backends.
 *
 * A function returns 0, or a negative errno ("the host failed us"), or a positive enum vb_code ("the client is told
 * no"). The two are never mixed. With a code goes one struct vb_error that the outermost caller owns: it is written
 * where the failure is found, by vb_refuse() or vb_fail(), and read in one place, which replies or logs. Outputs
 * (ret_*) are untouched on failure. */
#ifndef VB_CORE_ERROR_H
#define VB_CORE_ERROR_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/limits.h"

/* Same numbers as ErrorCode in proto/vfio-broker.proto (asserted in daemon/session/reply.c). */
enum vb_code {
    VB_PROTOCOL = 2,
    VB_UNSUPPORTED = 3,
    VB_INVALID = 4,
    VB_DENIED = 5,
    VB_NOT_FOUND = 6,
    VB_LIMIT = 7,
    VB_OVERLAP = 8,
    VB_RESERVED = 9,
    VB_BUSY = 10,
    VB_BAD_MEMORY = 11,
    VB_STATE = 12,
    VB_UNAVAILABLE = 13,
};

struct vb_conflict {
    uint64_t first, last;           /* what was asked for, or is mapped */
    uint64_t with_first, with_last; /* what it runs into */
    const char *kind;               /* "mapping", "msi", "direct", "reserved", "aperture": static strings */
    char device[VB_ADDRESS_MAX + 1];
};

struct vb_error {
    int code; /* as returned: negative errno or enum vb_code */
    char text[VB_ERROR_TEXT];
    bool has_entry;
    uint32_t entry; /* first failing entry of a batch */
    struct {
        bool set;
        uint64_t wanted, used, limit; /* bytes or objects */
        char whose[96];
    } limit;
    uint32_t n_conflicts;
    struct vb_conflict conflicts[VB_CONFLICTS_MAX];
};

/* Sets code and text, returns code. `e` may be NULL (the caller does not care why). */
int vb_refuse(struct vb_error *e, enum vb_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Sets code and "text: strerror", returns negative_errno. */
int vb_fail(struct vb_error *e, int negative_errno, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Notes which entry of a batch failed, once. Returns e->code. */
int vb_error_entry(struct vb_error *e, uint32_t entry);
/* Adds one conflict; those beyond VB_CONFLICTS_MAX are left out. `device` may be NULL. */
void vb_error_conflict(struct vb_error *e, uint64_t first, uint64_t last, uint64_t with_first, uint64_t with_last,
                       const char *kind, const char *device);
void vb_error_limit(struct vb_error *e, uint64_t wanted, uint64_t used, uint64_t limit, const char *whose);

/* "64 MiB", "4 KiB", "4097 bytes": exact where it can be, in one of a few static-sized buffers of the caller. */
struct vb_size_text {
    char s[32];
};
struct vb_size_text vb_size_text(uint64_t bytes);
#define VB_SIZE(bytes) (vb_size_text(bytes).s)

#endif
