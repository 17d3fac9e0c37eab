/* The cgroup whose children are the daemon's and its sessions': found, made ours, and given up again. See cgroup.h. */
#ifndef VB_BROKER_CGROUP_PLACE_H
#define VB_BROKER_CGROUP_PLACE_H

#include <stddef.h>

#define VB_CGROUP_WHY 160

/* Moves us to its child "daemon" and enables the memory controller for its children. Returns its fd, and how /proc/PID/cgroup
 * calls it; or a negative errno, and why it cannot be used, in words. */
int vb_cgroup_place(const char *choice, const char *sys, const char *proc, char *ret_path, size_t size,
                    char why[VB_CGROUP_WHY]);
/* Run by systemd when the daemon has ended: the unit's own cgroup can have a process again. Touches nothing that is not the
 * cgroup of a unit of ours. Exit status. */
int vb_cgroup_release(const char *sys, const char *proc);

#endif
