/* A bounded table of objects by id. Ids only grow, so the array stays sorted by appending; look-up is a binary search.
 * Every object begins with its uint32_t id. The table owns nothing. */
#ifndef VB_CORE_TABLE_H
#define VB_CORE_TABLE_H

#include <stdbool.h>
#include <stdint.h>

struct vb_table {
    void **items;
    uint32_t n, size, max;
    uint32_t next_id; /* first is 1 */
};

void vb_table_init(struct vb_table *t, uint32_t max);
void vb_table_fini(struct vb_table *t); /* frees the array only */
/* Makes room for one more: -ENOMEM, -ENOSPC at `max` or when ids have run out. After it the next add cannot fail. */
int vb_table_reserve(struct vb_table *t);
/* Gives the object its id (its first member) and adds it. */
void vb_table_add(struct vb_table *t, void *object);
void *vb_table_find(const struct vb_table *t, uint32_t id); /* or NULL */
void vb_table_remove(struct vb_table *t, uint32_t id);

#endif
