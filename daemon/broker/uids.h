/* The uids that session processes run under: one each, from a configured range, since processes of one uid could signal
 * each other, raise each other's limits and exhaust each other's fds in flight.
 *
 * Next-fit: a uid that was just given back is the last to be given again. A uid is taken as long as a process may run
 * under it. With a count of 0 ("--session-uids=none") sessions run under the daemon's own uid. */
#ifndef VB_BROKER_UIDS_H
#define VB_BROKER_UIDS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct vb_uids {
    uint32_t first, count;
    uint32_t next;  /* offset where the search begins */
    uint8_t *taken; /* one bit each; owned */
};

int vb_uids_init(struct vb_uids *u, uint32_t first, uint32_t count);
void vb_uids_fini(struct vb_uids *u);
bool vb_uids_in_range(const struct vb_uids *u, uid_t uid);
/* 0, or -EBUSY when all are taken. Count 0: our own uid, always. */
int vb_uids_take(struct vb_uids *u, uid_t *ret);
/* A process runs under it already. Nothing happens outside of the range. */
void vb_uids_note(struct vb_uids *u, uid_t uid);
void vb_uids_give(struct vb_uids *u, uid_t uid);

#endif
