#include "proto/codec.h"

#include <errno.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void *vb_arena_alloc(struct vb_arena *a, size_t size) {
    const size_t align = alignof(max_align_t);

    if (size > a->size - a->used)
        return NULL;
    void *p = a->base + a->used;
    size_t step = (size + align - 1) & ~(align - 1);
    a->used = step > a->size - a->used ? a->size : a->used + step;
    return memset(p, 0, size);
}

static void *arena_alloc(void *data, size_t size) {
    return vb_arena_alloc(data, size);
}

static void arena_free(void *data, void *p) {
    (void)data, (void)p;
}

int vb_arena_init(struct vb_arena *a, size_t size) {
    /* mmap, not malloc: untouched pages cost nothing, and an idle session should stay small. */
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        return -ENOMEM;
    *a = (struct vb_arena){.base = p, .size = size};
    a->allocator = (ProtobufCAllocator){.alloc = arena_alloc, .free = arena_free, .allocator_data = a};
    return 0;
}

void vb_arena_fini(struct vb_arena *a) {
    if (a->base)
        munmap(a->base, a->size);
    a->base = NULL;
}

void *vb_decode_more(struct vb_arena *a, const ProtobufCMessageDescriptor *d, const void *data, size_t size) {
    return protobuf_c_message_unpack(d, &a->allocator, size, data);
}

void *vb_decode(struct vb_arena *a, const ProtobufCMessageDescriptor *d, const void *data, size_t size) {
    a->used = 0;
    return vb_decode_more(a, d, data, size);
}

ssize_t vb_encode(const ProtobufCMessage *m, void *buf, size_t size) {
    size_t need = protobuf_c_message_get_packed_size(m);

    if (need > size)
        return -EMSGSIZE;
    return (ssize_t)protobuf_c_message_pack(m, buf);
}
