/* Where the mappings of one space live: chunks of 4 KiB, each with room for a hundred, so that a mapping needs no header
 * of malloc's own. A chunk without mappings is freed at once; when the last of many is, the system gets the memory back. */
#ifndef VB_CORE_MAPPING_POOL_H
#define VB_CORE_MAPPING_POOL_H

#include <stdint.h>
#include <sys/queue.h>

struct vb_mapping;
struct vb_mapping_chunk;
LIST_HEAD(vb_mapping_chunks, vb_mapping_chunk);

/* All zero: empty, owns no memory. It stays where it is as long as it has mappings. */
struct vb_mapping_pool {
    struct vb_mapping_chunks roomy; /* those that are not full */
    uint32_t chunks, most;          /* how many, and since there were none */
};

/* All zero but `slot`, which is the pool's own and stays as it is. NULL: no memory. */
struct vb_mapping *vb_mapping_pool_new(struct vb_mapping_pool *p);
void vb_mapping_pool_free(struct vb_mapping *m);
struct vb_mapping_pool *vb_mapping_pool_of(const struct vb_mapping *m);

#endif
