/* Pins: references of software devices, which are other clients, on ranges of a space (DESIGN 9).
 *
 * As long as a pin exists, the mappings under it stay (vb_model_unmap() refuses), and their pages stay resident: shmem by
 * mlock of a mapping of our own, hugetlb pages are never reclaimed (mm/mlock.c skips such mappings). A pin is paid like a
 * mapping, once with it (core/charge.h). Order: reserve, then mlock; munlock, then release.
 * Who holds a pin and how he is asked to give it up is the session's affair: `access` is never looked at here. */
#ifndef VB_CORE_PIN_H
#define VB_CORE_PIN_H

#include <bsd/sys/queue.h>

#include "core/mapping.h"

struct vb_model;
struct vb_space;

struct vb_pin_part { /* one mapping's share, in bytes as asked */
    struct vb_range iova;
    uint64_t offset; /* of iova.first in memory */
    struct vb_memory *memory;
};

struct vb_pin {
    TAILQ_ENTRY(vb_pin) entry; /* of its space */
    uint32_t id;               /* of the session, not used again */
    struct vb_space *space;
    struct vb_range iova;
    uint8_t prot;         /* enum vb_prot */
    void *access;         /* session/pin-link.c */
    uint64_t deadline_ms; /* monotonic: asked to end by then; 0: not asked */
    uint64_t locked;      /* bytes that had to be locked for it, others' locks included */
    uint32_t n_parts;
    struct vb_pin_part parts[VB_PIN_SEGMENTS];
};

TAILQ_HEAD(vb_pin_list, vb_pin);

/* Pins a range that is mapped without a gap, with at least `prot`. Refused: VB_NOT_FOUND (gap), VB_DENIED (prot), VB_LIMIT
 * (lease, number of pins or parts, VB_PIN_BYTES), VB_BAD_MEMORY (pages are missing). */
int vb_model_pin(struct vb_model *m, struct vb_space *s, struct vb_range iova, uint32_t prot, void *access,
                 struct vb_pin **ret_pin, struct vb_error *e);
/* Never fails. NULL is fine. Returns NULL. */
struct vb_pin *vb_model_unpin(struct vb_model *m, struct vb_pin *p);
/* The first pin at or behind `p` in the list of `s` that has a byte in `r`; `p` NULL: from the beginning. Or NULL. */
struct vb_pin *vb_pin_overlapping(struct vb_space *s, struct vb_pin *p, struct vb_range r);

#endif
