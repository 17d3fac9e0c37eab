/* Bounded, zeroing protobuf coding.
 *
 * protobuf-c has no limit on what a packet may decode into, so it gets an allocator over a fixed arena: a message that
 * does not fit fails to decode, whatever it contains. Depth is bounded by the schema, which has no recursive message.
 * Decoded messages live in the arena until the next vb_decode() and are never freed one by one. */
#ifndef VB_CODEC_H
#define VB_CODEC_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct vb_arena {
    ProtobufCAllocator allocator;
    uint8_t *base; /* owned */
    size_t size, used;
};

/* -ENOMEM. The pages are touched only as far as messages need them. */
int vb_arena_init(struct vb_arena *a, size_t size);
void vb_arena_fini(struct vb_arena *a);
/* Zeroed memory from the arena, aligned for any type; NULL when it is full. */
void *vb_arena_alloc(struct vb_arena *a, size_t size);

/* Empties the arena and decodes into it. NULL: malformed, or larger than the arena. */
void *vb_decode(struct vb_arena *a, const ProtobufCMessageDescriptor *d, const void *data, size_t size);
/* As vb_decode, but keeps what is in the arena: for a packed message inside another one. */
void *vb_decode_more(struct vb_arena *a, const ProtobufCMessageDescriptor *d, const void *data, size_t size);
/* Packs into buf. The packed size, or -EMSGSIZE when it is larger than `size`. */
ssize_t vb_encode(const ProtobufCMessage *m, void *buf, size_t size);

#endif
