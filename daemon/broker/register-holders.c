/* Who has a device open, or a group. Looking reads links of every process: seldom, and not for ever, since clients can cause it. */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "broker/log.h"
#include "broker/register-private.h"
#include "host/files.h"
#include "host/proc.h"

#define HOLDERS_EVERY_MS 2000 /* of one device */
#define HOLDERS_REST_MS  500  /* between any two searches: one takes some 30 ms */
#define HOLDERS_FDS      5000
#define HOLDERS_SHOWN    4

/* " (open in pid 812, 815)", without ourselves; or "". */
static void say_holders(const pid_t *pids, size_t n, const char *what, char *ret, size_t size) {
    size_t used = 0, shown = 0;

    ret[0] = 0;
    for (size_t i = 0; i < n; i++) {
        if (pids[i] == getpid())
            continue;
        used +=
            (size_t)snprintf(ret + used, size - used, "%s%s%d", shown ? ", " : " (", shown ? "" : what, (int)pids[i]);
        shown++;
    }
    if (shown)
        snprintf(ret + used, size - used, ")");
}

/* Who has the device open? By its node; opened through its group it has no name: then whoever has any VFIO device open so. */
void vb_register_holders(struct vb_register *r, struct vb_claim *c) {
    pid_t pids[HOLDERS_SHOWN];
    char path[PATH_MAX];
    uint64_t now = vb_now_ms();
    size_t n;

    if (r->emulated || (c->looked && now - c->looked < HOLDERS_EVERY_MS) ||
        (r->looked && now - r->looked < HOLDERS_REST_MS) ||
        !vb_path(path, sizeof path, "%s/vfio/devices/%s", r->dev, c->vfio))
        return;
    c->looked = r->looked = now;
    n = vb_proc_holders(r->proc, r->type1 ? "anon_inode:[vfio-device]" : path, HOLDERS_FDS, pids, HOLDERS_SHOWN);
    say_holders(pids, n, r->type1 ? "VFIO devices are open in pid " : "open in pid ", c->holders, sizeof c->holders);
}

int vb_register_refuse_open(struct vb_register *r, const struct vb_host_device *p, struct vb_error *e) {
    pid_t pids[HOLDERS_SHOWN];
    char path[PATH_MAX], holders[96] = "";
    uint64_t now = vb_now_ms();

    if ((!r->looked || now - r->looked >= HOLDERS_REST_MS) &&
        vb_path(path, sizeof path, "%s/vfio/%d", r->dev, p->group)) {
        r->looked = now;
        size_t n = vb_proc_holders(r->proc, path, HOLDERS_FDS, pids, HOLDERS_SHOWN);
        say_holders(pids, n, "open in pid ", holders, sizeof holders);
    }
    return vb_refuse(
        e, VB_BUSY,
        "device %s: its IOMMU group %d, or a device of it, is open in another process%s: it can be claimed "
        "when that one closes it",
        p->address, p->group, holders);
}
