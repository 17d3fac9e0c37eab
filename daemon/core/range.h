/* Inclusive ranges of 64-bit addresses: [first, last]. Inclusive, since an IOVA range may end at 2^64-1. */
#ifndef VB_CORE_RANGE_H
#define VB_CORE_RANGE_H

#include <stdbool.h>
#include <stdint.h>

struct vb_range {
    uint64_t first, last;
};

/* False when size is 0 or start+size-1 passes 2^64-1. Client numbers become ranges only here. */
static inline bool vb_range_from(uint64_t start, uint64_t size, struct vb_range *ret) {
    uint64_t last;

    if (size == 0 || __builtin_add_overflow(start, size - 1, &last))
        return false;
    *ret = (struct vb_range){start, last};
    return true;
}

/* Bytes; 0 stands for the whole 2^64. */
static inline uint64_t vb_range_size(struct vb_range r) {
    return r.last - r.first + 1;
}

static inline bool vb_range_overlaps(struct vb_range a, struct vb_range b) {
    return a.first <= b.last && b.first <= a.last;
}

static inline bool vb_range_contains(struct vb_range outer, struct vb_range inner) {
    return outer.first <= inner.first && inner.last <= outer.last;
}

#endif
