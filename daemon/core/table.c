#include "core/table.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint32_t id_of(const void *object) {
    return *(const uint32_t *)object;
}

/* Index of the first object whose id is not below `id`. */
static uint32_t lower_bound(const struct vb_table *t, uint32_t id) {
    uint32_t low = 0, high = t->n;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (id_of(t->items[middle]) < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void vb_table_init(struct vb_table *t, uint32_t max) {
    *t = (struct vb_table){.max = max, .next_id = 1};
}

void vb_table_fini(struct vb_table *t) {
    free(t->items);
    t->items = NULL;
    t->n = t->size = 0;
}

int vb_table_reserve(struct vb_table *t) {
    uint32_t size;
    void **items;

    if (t->n >= t->max || t->next_id == 0) /* 0: the last id, 2^32-1, was given out */
        return -ENOSPC;
    if (t->n < t->size)
        return 0;
    size = t->size ? t->size * 2 : 8;
    if (size > t->max)
        size = t->max;
    items = realloc(t->items, size * sizeof(*items));
    if (!items)
        return -ENOMEM;
    t->items = items;
    t->size = size;
    return 0;
}

void vb_table_add(struct vb_table *t, void *object) {
    assert(t->n < t->size && t->next_id != 0);
    *(uint32_t *)object = t->next_id++;
    t->items[t->n++] = object;
}

void *vb_table_find(const struct vb_table *t, uint32_t id) {
    uint32_t i = lower_bound(t, id);

    return i < t->n && id_of(t->items[i]) == id ? t->items[i] : NULL;
}

void vb_table_remove(struct vb_table *t, uint32_t id) {
    uint32_t i = lower_bound(t, id);

    assert(i < t->n && id_of(t->items[i]) == id);
    memmove(t->items + i, t->items + i + 1, (t->n - i - 1) * sizeof(*t->items));
    t->n--;
}
