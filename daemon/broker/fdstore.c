/* systemd keeps a dup of each session's iommufd, so that a context outlives a crash of the daemon even when its session
 * dies in the meantime: sd_pid_notify_with_fds(3). Only when systemd started us; what it does with it is its own
 * affair, so failures are not errors. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "broker/record.h"

#define PREFIX "iommufd-"

bool vb_fdstore_name(const char *name, uid_t *ret_uid) {
    char *end;

    if (strncmp(name, PREFIX, strlen(PREFIX)) != 0)
        return false;
    name += strlen(PREFIX);
    unsigned long n = *name >= '0' && *name <= '9' ? strtoul(name, &end, 10) : UINT32_MAX;
    if (n >= UINT32_MAX || *end)
        return false;
    *ret_uid = (uid_t)n;
    return true;
}

void vb_fdstore_put(struct vb_record *r) {
    char text[96];

    if (r->iommufd < 0 || r->stored || !getenv("NOTIFY_SOCKET"))
        return;
    /* FDPOLL=0: else systemd would drop it as soon as poll(2) reports an error. */
    snprintf(text, sizeof text, "FDSTORE=1\nFDNAME=" PREFIX "%u\nFDPOLL=0", r->uid);
    r->stored = sd_pid_notify_with_fds(0, 0, text, &r->iommufd, 1) > 0;
}

void vb_fdstore_remove_uid(uid_t uid) {
    sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=" PREFIX "%u", uid);
}

void vb_fdstore_remove(struct vb_record *r) {
    if (r->stored)
        vb_fdstore_remove_uid(r->uid);
    r->stored = false;
}
