#include "broker/uids.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

int vb_uids_init(struct vb_uids *u, uint32_t first, uint32_t count) {
    *u = (struct vb_uids){.first = first, .count = count};
    if (count == 0)
        return 0;
    u->taken = calloc((count + 7) / 8, 1);
    return u->taken ? 0 : -ENOMEM;
}

void vb_uids_fini(struct vb_uids *u) {
    free(u->taken);
    u->taken = NULL;
}

bool vb_uids_in_range(const struct vb_uids *u, uid_t uid) {
    return uid >= u->first && uid - u->first < u->count;
}

int vb_uids_take(struct vb_uids *u, uid_t *ret) {
    if (u->count == 0) {
        *ret = getuid();
        return 0;
    }
    for (uint32_t i = 0; i < u->count; i++) {
        uint32_t n = (u->next + i) % u->count;

        if (u->taken[n / 8] & (1u << n % 8))
            continue;
        u->taken[n / 8] |= (uint8_t)(1u << n % 8);
        u->next = (n + 1) % u->count;
        *ret = u->first + n;
        return 0;
    }
    return -EBUSY;
}

void vb_uids_note(struct vb_uids *u, uid_t uid) {
    if (vb_uids_in_range(u, uid))
        u->taken[(uid - u->first) / 8] |= (uint8_t)(1u << (uid - u->first) % 8);
}

void vb_uids_give(struct vb_uids *u, uid_t uid) {
    if (vb_uids_in_range(u, uid))
        u->taken[(uid - u->first) / 8] &= (uint8_t) ~(1u << (uid - u->first) % 8);
}
