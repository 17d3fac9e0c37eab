/* A dirty bitmap in a client's memfd: a bit for each page, little-endian, so bit n is bit n%8 of byte n/8.
 *
 * The file is the client's and changes whenever it likes, so it is never mapped: bytes are read, bits are added, and the
 * bytes are written. All that could refuse the writing is asked before, by writing what is there already; what the
 * client changes after that it does to itself. */
#ifndef VB_BITMAP_H
#define VB_BITMAP_H

#include <stddef.h>

#include "core/error.h"

struct vb_bitmap {
    int fd;          /* borrowed */
    uint64_t offset; /* in the file */
    uint64_t bits;
    size_t size;     /* bytes, rounded up to whole words */
    uint64_t *bytes; /* owned: those of the file */
};

/* The fd (-1: it was set aside as no memory) is checked, in an order in which no file system of the client's own is asked.
 * VB_BAD_MEMORY: the bitmap cannot be written there. */
int vb_bitmap_open(struct vb_bitmap *b, int fd, uint64_t offset, uint64_t bits, struct vb_error *e);
/* Adds those bits (uint64_t words in the CPU's order, as backend.h has them) and writes. ret_set: bits that are set now. */
int vb_bitmap_add(struct vb_bitmap *b, const uint64_t *words, uint64_t *ret_set, struct vb_error *e);
/* All zero is fine. */
void vb_bitmap_close(struct vb_bitmap *b);

#endif
