/* What a dead session leaves: as long as its client, or anybody, has a bound device open, DMA and pins of its iommufd
 * context, or of its type1 containers, live on (DESIGN 1.10). The daemon has dups of them. It must not empty them itself, since a
 * client can make such an ioctl wait; so a fresh session process takes them, unmaps everything, tells us (Holding), and
 * stays until the devices are closed. If that process dies too it is started again, more slowly each time. */
#include <errno.h>
#include <unistd.h>

#include "broker/record.h"
#include "proto/cleanup.h"

#define AGAIN_FIRST_MS 100u
#define AGAIN_LAST_MS  10000u

/* Claims are not the whole truth: a session that its client took over could have said that its devices are free. So a
 * context with which a device was ever opened is emptied by a fresh process in every case. */
bool vb_hold_needed(struct vb_record *r) {
    const char *one;

    return r->id && (r->iommufd >= 0 || vb_register_groups(&r->broker->devices, r->id) > 0) &&
           (r->opened || vb_register_of(&r->broker->devices, r->id, &one, 1) > 0);
}

static void try_again(struct vb_record *r);

static void spawn(struct vb_record *r) {
    struct vb_error e = {.code = 0};

    r->state = VB_RECORD_LOST;
    if (vb_record_spawn(r, -1, NULL, &e) == 0) {
        vb_fdstore_put(r);
        return;
    }
    vb_log(LOG_ERR, "session %u left devices behind: %s", r->id, e.text);
    vb_link_close(&r->link);
    try_again(r);
}

static void on_again(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    spawn(arg);
}

static void try_again(struct vb_record *r) {
    unsigned ms = AGAIN_FIRST_MS << (r->hold_failures < 7 ? r->hold_failures : 7);

    vb_record_timer(r, ms < AGAIN_LAST_MS ? ms : AGAIN_LAST_MS, on_again);
}

void vb_hold_start(struct vb_record *r) {
    vb_register_hold_all(&r->broker->devices, r->id);
    if (r->hold_failures++ == 0)
        spawn(r);
    else
        try_again(r);
}

void vb_hold_reported(struct vb_record *r) {
    vb_register_hold_all(&r->broker->devices, r->id);
    r->state = VB_RECORD_HOLDING;
    if (r->fresh || !r->opened)
        vb_record_unlease(r); /* not before: as long as pages are pinned, somebody pays for them */
    if (r->fresh)
        r->opened = false;
    if (!r->lost_at)
        return;
    vb_log(LOG_INFO, "session %u died; its memory was taken away from its devices after %llu ms", r->id,
           (unsigned long long)(vb_now_ms() - r->lost_at));
    r->lost_at = 0;
}

void vb_hold_orphan(struct vb_broker *b, uid_t uid, int iommufd, struct vb_group_list *groups) {
    struct vb_record *r = vb_record_new(b);
    struct vb_group *g;

    if (!r) {
        vb_log(LOG_ERR, "no memory to empty what the session with uid %u left", uid);
        vb_close_p(&iommufd);
        while ((g = LIST_FIRST(groups)))
            vb_group_free(g);
        return; /* systemd keeps it for the next daemon */
    }
    r->iommufd = iommufd;
    r->stored = iommufd >= 0;
    r->opened = true; /* perhaps */
    r->uid = uid;
    r->has_uid = true;
    vb_uids_note(&b->uids, uid);
    vb_record_number(r, 0);
    while ((g = LIST_FIRST(groups))) {
        LIST_REMOVE(g, entry);
        g->session = r->id;
        LIST_INSERT_HEAD(&b->devices.groups, g, entry);
    }
    r->lost_at = vb_now_ms();
    vb_log(LOG_NOTICE, "the session with uid %u ended while no daemon ran: its memory is taken away from its devices",
           uid);
    spawn(r);
}
