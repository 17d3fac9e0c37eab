/* systemd keeps a dup of each session's iommufd, or of its groups and containers, so that they outlive a crash of the daemon
 * even when the session dies in the meantime: sd_pid_notify_with_fds(3). Only when systemd started us; what it does with
 * them is its own affair, so failures are not errors.
 *
 *   iommufd-UID       the context of the session with this uid
 *   group-UID-N-C     its group N, which is in container C
 *   container-UID-C   C is a number of the daemon that stored it
 *
 * systemd keeps a container once (it compares file descriptions), under the name of the first; it goes with the last group. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "broker/record.h"

static bool number(const char **s, unsigned long max, unsigned long *ret) {
    char *end;

    if (**s < '0' || **s > '9')
        return false;
    *ret = strtoul(*s, &end, 10);
    *s = end;
    return *ret <= max;
}

bool vb_fdstore_name(const char *name, struct vb_stored *ret) {
    static const char *const prefixes[] = {"iommufd-", "group-", "container-"};
    struct vb_stored s = {.group = -1};
    unsigned long n;
    unsigned i = 0;

    while (i < 3 && strncmp(name, prefixes[i], strlen(prefixes[i])) != 0)
        i++;
    if (i == 3)
        return false;
    s.kind = (enum vb_stored_kind)i;
    name += strlen(prefixes[i]);
    if (!number(&name, UINT32_MAX - 1, &n))
        return false;
    s.uid = (uid_t)n;
    if (s.kind == VB_STORED_GROUP) {
        if (*name++ != '-' || !number(&name, INT_MAX, &n))
            return false;
        s.group = (int)n;
    }
    if (s.kind != VB_STORED_IOMMUFD) {
        if (*name++ != '-' || !number(&name, UINT32_MAX, &n))
            return false;
        s.container_id = (uint32_t)n;
    }
    if (*name)
        return false;
    *ret = s;
    return true;
}

/* FDPOLL=0: else systemd would drop it as soon as poll(2) reports an error. */
#define STORE "FDSTORE=1\nFDPOLL=0\nFDNAME="

static bool store(const char *text, int fd) {
    return sd_pid_notify_with_fds(0, 0, text, &fd, 1) > 0;
}

static void put_group(struct vb_group *g, uid_t uid) {
    char text[128];

    snprintf(text, sizeof text, STORE "container-%u-%u", uid, g->container_id);
    if (!store(text, g->container))
        return;
    snprintf(text, sizeof text, STORE "group-%u-%d-%u", uid, g->number, g->container_id);
    if (store(text, g->fd))
        g->stored = uid;
}

void vb_fdstore_put(struct vb_record *r) {
    struct vb_group *g;
    char text[96];

    if (!getenv("NOTIFY_SOCKET"))
        return;
    if (r->iommufd >= 0 && !r->stored) {
        snprintf(text, sizeof text, STORE "iommufd-%u", r->uid);
        r->stored = store(text, r->iommufd);
    }
    LIST_FOREACH (g, &r->broker->devices.groups, entry) {
        if (g->session == r->id && g->stored == VB_NOT_STORED)
            put_group(g, r->uid);
    }
}

void vb_fdstore_remove_name(const char *name) {
    sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", name);
}

static uint64_t gave_up_at;

uint64_t vb_fdstore_gave_up_at(void) {
    return gave_up_at;
}

void vb_fdstore_forget_group(struct vb_group_list *l, struct vb_group *g) {
    const struct vb_group *other = vb_group_sharing(l, g);

    if (g->stored == VB_NOT_STORED)
        return;
    gave_up_at = vb_now_ms();
    sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=group-%u-%d-%u", g->stored, g->number, g->container_id);
    if (!other || other->stored == VB_NOT_STORED)
        sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=container-%u-%u", g->stored, g->container_id);
    g->stored = VB_NOT_STORED;
}

void vb_fdstore_remove(struct vb_record *r) {
    struct vb_group *g;

    if (r->stored)
        sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=iommufd-%u", r->uid);
    r->stored = false;
    LIST_FOREACH (g, &r->broker->devices.groups, entry) {
        if (g->session == r->id)
            vb_fdstore_forget_group(&r->broker->devices.groups, g);
    }
}
