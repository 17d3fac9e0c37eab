/* The device register: which session has which device, and whether another may have it.
 *
 * Devices are not kept: sysfs is read when one is asked for. Claims are. A claim belongs to one session until the
 * session says that nobody has the device open any more; "held" means that its client is done with it, or dead.
 * Invariant: all claims of one IOMMU group belong to one session, and none of its devices is on a host driver when one is
 * claimed. The kernel has the last word at bind. On type1 a claim comes with its group: groups.h.
 *
 * Knows sessions by number only. */
#ifndef VB_BROKER_REGISTER_H
#define VB_BROKER_REGISTER_H

#include <bsd/sys/queue.h>

#include "broker/groups.h"
#include "broker/policy.h"
#include "host/sysfs.h"

struct vb_claim {
    LIST_ENTRY(vb_claim) entry;
    char address[VB_ADDRESS_MAX + 1];
    char vfio[16]; /* name of the character device, "" for emulated ones */
    int group;
    struct vb_group *opened; /* type1; else NULL */
    uint32_t session;
    pid_t client; /* for error texts */
    bool held;
    uint64_t looked;  /* when its holders were last looked for, monotonic ms */
    char holders[96]; /* " (open in pid 812, 815)" */
};

struct vb_register {
    const char *sys, *dev, *proc; /* roots */
    unsigned emulated;            /* number of emulated devices; when not 0 there are no others */
    bool type1;                   /* devices come with their groups, not by nodes of their own */
    bool iommufd_containers;      /* type1: its containers are iommufds */
    LIST_HEAD(, vb_claim) claims;
    struct vb_group_list groups;
    void (*forget)(struct vb_group_list *l, struct vb_group *g); /* a group is about to end; may be NULL */
    bool busy_node;  /* the last claim was refused because the kernel says that the group is open */
    uint64_t looked; /* when holders of any were last looked for */
};

enum vb_register_state { VB_REGISTER_FREE, VB_REGISTER_CLAIMED, VB_REGISTER_HELD, VB_REGISTER_UNUSABLE };

/* One device as it is now. */
struct vb_device_view {
    struct vb_host_device dev;
    enum vb_register_state state;
    char reason[VB_ERROR_TEXT];
    uint32_t session; /* that claims or holds it, or another device of its group; or 0 */
};

/* What a claim gives. */
struct vb_opened {
    int fds
        [2]; /* the caller's; -1: none. The device's node; or the group and a container for it, as the session lacks them */
    int group;
    bool software;
    uint32_t n_reserved;
    struct vb_reserved reserved[VB_REGIONS_MAX];
};

/* Claims and opens a device for a session. with: "" or a device of the session whose container it joins (type1). 0; VB_DENIED, VB_NOT_FOUND, VB_BUSY, VB_STATE (not usable as it is now, with
 * the way out); or a negative errno. */
int vb_register_claim(struct vb_register *r, const struct vb_grant *grant, uid_t uid, uint32_t session, pid_t client,
                      const char *address, const char *with, struct vb_opened *ret, struct vb_error *e);
void vb_opened_close(struct vb_opened *o);
/* Books what a session of an earlier daemon says it has. 0, VB_NOT_FOUND, VB_BUSY, -ENOMEM. */
int vb_register_adopt(struct vb_register *r, uint32_t session, pid_t client, const char *address, bool held,
                      struct vb_error *e);
/* The session's claim on this device, or NULL. */
struct vb_claim *vb_register_find(struct vb_register *r, uint32_t session, const char *address);
/* Ends a claim. */
void vb_register_release(struct vb_register *r, struct vb_claim *c);
void vb_register_release_all(struct vb_register *r, uint32_t session);
/* The client is done with all its devices. */
void vb_register_hold_all(struct vb_register *r, uint32_t session);
/* Has the session groups (type1)? How many. */
unsigned vb_register_groups(const struct vb_register *r, uint32_t session);
/* Addresses of a session's claims; the count, at most `max`. Pointers are good until a claim ends. */
size_t vb_register_of(struct vb_register *r, uint32_t session, const char **ret, size_t max);
void vb_register_count(struct vb_register *r, uint32_t *ret_claimed, uint32_t *ret_held);

/* How a device stands. 0, or VB_NOT_FOUND. */
int vb_register_look(struct vb_register *r, const char *address, struct vb_device_view *ret, struct vb_error *e);
/* Calls fn for each device that VFIO knows, on any bus, in no order, until it returns nonzero. */
int vb_register_each(struct vb_register *r, vb_address_fn fn, void *data);

#endif
