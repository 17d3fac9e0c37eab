/* type1: the groups that sessions have, each with its container. The daemon's fds are dups of a session's, kept so that a fresh
 * process can take the memory away when that one has died (hold.c).
 *
 * A group lives here as long as a claim needs it, and was opened for one session: the kernel gives a group to one opener at a
 * time (host/vfio.h). So the fds must not outlive the claims, or nobody could claim the group anew. */
#ifndef VB_BROKER_GROUPS_H
#define VB_BROKER_GROUPS_H

#include <bsd/sys/queue.h>
#include <stdint.h>
#include <sys/types.h>

struct vb_group {
    LIST_ENTRY(vb_group) entry;
    int number;
    uint32_t session;
    unsigned claims;       /* that need it; 0: of a session that is gone, or not adopted yet */
    int fd, container;     /* owned */
    uint32_t container_id; /* groups with one container have the same */
    uid_t stored;          /* systemd has both, under this session uid; VB_NOT_STORED */
};
#define VB_NOT_STORED ((uid_t)-1)

LIST_HEAD(vb_group_list, vb_group);

/* In the list, without claims. NULL: no memory. Both fds are consumed in every case. */
struct vb_group *vb_group_new(struct vb_group_list *l, uint32_t session, int number, int fd, int container);
/* Closes. Returns NULL. */
struct vb_group *vb_group_free(struct vb_group *g);
struct vb_group *vb_group_find(const struct vb_group_list *l, uint32_t session, int number);
/* This number of a container is in use already. */
void vb_group_note_container(uint32_t id);
/* Another one with the same container, or NULL. */
struct vb_group *vb_group_sharing(const struct vb_group_list *l, const struct vb_group *g);

#endif
