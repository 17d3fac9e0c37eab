#include "broker/register.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/log.h"
#include "host/files.h"
#include "host/proc.h"
#include "proto/cleanup.h"

/* Looking for holders reads links of every process: seldom, and not for ever, since clients can cause it. */
#define HOLDERS_EVERY_MS 2000 /* of one device */
#define HOLDERS_REST_MS  500  /* between any two searches: one takes some 30 ms */
#define HOLDERS_FDS      5000
#define HOLDERS_SHOWN    4

#define EMULATED "emulated:"

static struct vb_claim *claim_of(struct vb_register *r, const char *address) {
    struct vb_claim *c;

    LIST_FOREACH (c, &r->claims, entry) {
        if (strcmp(c->address, address) == 0)
            return c;
    }
    return NULL;
}

static struct vb_claim *claim_in_group(struct vb_register *r, int group, uint32_t other_than) {
    struct vb_claim *c;

    LIST_FOREACH (c, &r->claims, entry) {
        if (c->group == group && c->session != other_than)
            return c;
    }
    return NULL;
}

/* ---- what the host has ---- */

static int read_emulated(struct vb_register *r, const char *address, struct vb_pci *ret) {
    const char *digits = address + strlen(EMULATED);
    char *end;

    if (strncmp(address, EMULATED, strlen(EMULATED)) != 0 || *digits < '0' || *digits > '9')
        return -ENODEV;
    unsigned long n = strtoul(digits, &end, 10);
    if (*end || n >= r->emulated || (digits[0] == '0' && digits[1]))
        return -ENODEV;
    *ret = (struct vb_pci){.group = (int)n, .driver = "emulated"};
    snprintf(ret->address, sizeof ret->address, "%s", address);
    return 0;
}

static int read_device(struct vb_register *r, const char *address, struct vb_pci *ret, struct vb_error *e) {
    int n = r->emulated ? read_emulated(r, address, ret) : vb_pci_read(r->sys, address, ret);
    char clean[VB_ADDRESS_MAX + 1];

    if (n == -ENODEV)
        return vb_refuse(e, VB_NOT_FOUND, "there is no device %s", vb_log_clean(address, clean, sizeof clean));
    if (n < 0)
        return vb_fail(e, n, "cannot look at device %s", address);
    return 0;
}

struct group_check {
    struct vb_register *r;
    const char *address;
    struct vb_error *e;
};

static int check_neighbour(const char *address, void *data) {
    const struct group_check *g = data;
    struct vb_pci p;

    if (strcmp(address, g->address) == 0 || vb_pci_read(g->r->sys, address, &p) < 0 || vb_pci_driver_harmless(&p))
        return 0;
    return vb_refuse(g->e, VB_STATE,
                     "device %s cannot be used: %s of the same IOMMU group %d is on the host's driver %s: run "
                     "`vfio-brokerctl bind %s`, or unbind it",
                     g->address, address, p.group, p.driver, address);
}

/* Can a client use it, whoever claims it? 0, or VB_STATE with the reason and the way out. */
static int check_usable(struct vb_register *r, const struct vb_pci *p, struct vb_error *e) {
    if (r->emulated)
        return 0;
    if (p->group < 0)
        return vb_refuse(e, VB_STATE,
                         "device %s is in no IOMMU group: this machine has no IOMMU for it, or it is switched off "
                         "(firmware, intel_iommu=on)",
                         p->address);
    if (p->noiommu)
        return vb_refuse(e, VB_STATE,
                         "device %s is in a no-IOMMU group: its DMA would reach all memory, so it is never handed out",
                         p->address);
    if (!p->vfio[0] && strncmp(p->driver, "vfio", 4) != 0)
        return vb_refuse(e, VB_STATE, "device %s is not bound to vfio-pci but to %s: run `vfio-brokerctl bind %s`",
                         p->address, p->driver[0] ? p->driver : "no driver", p->address);
    if (!p->vfio[0] || !p->rdev)
        return vb_refuse(e, VB_STATE,
                         "device %s has no character device: the kernel needs CONFIG_VFIO_DEVICE_CDEV (Linux 6.6)",
                         p->address);
    struct group_check g = {.r = r, .address = p->address, .e = e};
    return vb_pci_each_in_group(r->sys, p->group, check_neighbour, &g) > 0 ? VB_STATE : 0;
}

/* ---- claims ---- */

static void find_holders(struct vb_register *r, struct vb_claim *c) {
    pid_t pids[HOLDERS_SHOWN];
    char path[PATH_MAX];
    uint64_t now = vb_now_ms();

    if (!c->vfio[0] || (c->looked && now - c->looked < HOLDERS_EVERY_MS) ||
        (r->looked && now - r->looked < HOLDERS_REST_MS) ||
        !vb_path(path, sizeof path, "%s/vfio/devices/%s", r->dev, c->vfio))
        return;
    c->looked = r->looked = now;
    c->holders[0] = 0;
    size_t n = vb_proc_holders(r->proc, path, HOLDERS_FDS, pids, HOLDERS_SHOWN), used = 0;
    for (size_t i = 0; i < n; i++)
        used += (size_t)snprintf(c->holders + used, sizeof c->holders - used, "%s%d", i ? ", " : " (open in pid ",
                                 (int)pids[i]);
    if (n)
        snprintf(c->holders + used, sizeof c->holders - used, ")");
}

static int refuse_taken(struct vb_register *r, struct vb_claim *c, const char *address, uint32_t asker,
                        struct vb_error *e) {
    bool same = strcmp(c->address, address) == 0;
    char which[2 * VB_ADDRESS_MAX + 64];

    if (same)
        snprintf(which, sizeof which, "device %s", address);
    else
        snprintf(which, sizeof which, "device %s is in IOMMU group %d, of which %s", address, c->group, c->address);
    if (c->session == asker && !c->held)
        return vb_refuse(e, VB_BUSY, "%s is claimed by this session already", which);
    if (!c->held)
        return vb_refuse(e, VB_BUSY, "%s is claimed by session %u (client pid %d)", which, c->session, (int)c->client);
    find_holders(r, c);
    return vb_refuse(
        e, VB_BUSY,
        "%s is held: session %u (client pid %d) is done with it, but a process has it open still%s: it can "
        "be claimed when that one closes it",
        which, c->session, (int)c->client, c->holders);
}

/* Is it free for this session? 0, or VB_BUSY. */
static int check_free(struct vb_register *r, const struct vb_pci *p, uint32_t session, struct vb_error *e) {
    struct vb_claim *c = claim_of(r, p->address);

    if (!c && p->group >= 0)
        c = claim_in_group(r, p->group, session);
    return c ? refuse_taken(r, c, p->address, session, e) : 0;
}

static int open_device(struct vb_register *r, const struct vb_pci *p, int *ret, struct vb_error *e) {
    char path[PATH_MAX];
    struct stat st;

    if (!vb_path(path, sizeof path, "%s/vfio/devices/%s", r->dev, p->vfio))
        return vb_fail(e, -ENAMETOOLONG, "%s", p->vfio);
    VB_FD int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) < 0)
        return vb_fail(e, -errno, "cannot open %s of device %s", path, p->address);
    if (!S_ISCHR(st.st_mode) || st.st_rdev != p->rdev)
        return vb_fail(e, -ENXIO, "%s is not the device node of %s that sysfs names", path, p->address);
    *ret = vb_steal_fd(&fd);
    return 0;
}

static struct vb_claim *add_claim(struct vb_register *r, const struct vb_pci *p, uint32_t session, pid_t client) {
    struct vb_claim *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    *c = (struct vb_claim){.group = p->group, .session = session, .client = client};
    strcpy(c->address, p->address);
    strcpy(c->vfio, p->vfio);
    LIST_INSERT_HEAD(&r->claims, c, entry);
    return c;
}

int vb_register_claim(struct vb_register *r, const struct vb_grant *grant, uid_t uid, uint32_t session, pid_t client,
                      const char *address, struct vb_opened *ret, struct vb_error *e) {
    struct vb_opened o = {.fd = -1};
    char clean[VB_ADDRESS_MAX + 1];
    struct vb_pci p;
    int n;

    /* Before anything else, so that nobody learns of devices that are not his. */
    if (!vb_grant_device(grant, address))
        return vb_refuse(e, VB_DENIED, "policy does not grant device %s to uid %u: ask the administrator",
                         vb_log_clean(address, clean, sizeof clean), uid);
    if ((n = read_device(r, address, &p, e)) != 0 || (n = check_free(r, &p, session, e)) != 0 ||
        (n = check_usable(r, &p, e)) != 0)
        return n;
    o.group = p.group;
    if (!r->emulated) {
        n = vb_group_reserved(r->sys, p.group, o.reserved, VB_REGIONS_MAX, &o.n_reserved);
        if (n < 0)
            return vb_fail(e, n, "cannot read the reserved regions of IOMMU group %d", p.group);
        n = open_device(r, &p, &o.fd, e);
        if (n != 0)
            return n;
    }
    if (!add_claim(r, &p, session, client)) {
        vb_close_p(&o.fd);
        return vb_fail(e, -ENOMEM, "claim of %s", address);
    }
    *ret = o;
    return 0;
}

int vb_register_adopt(struct vb_register *r, uint32_t session, pid_t client, const char *address, bool held,
                      struct vb_error *e) {
    struct vb_pci p;
    int n;

    if ((n = read_device(r, address, &p, e)) != 0 || (n = check_free(r, &p, session, e)) != 0)
        return n;
    struct vb_claim *c = add_claim(r, &p, session, client);
    if (!c)
        return vb_fail(e, -ENOMEM, "claim of %s", address);
    c->held = held;
    return 0;
}

struct vb_claim *vb_register_find(struct vb_register *r, uint32_t session, const char *address) {
    struct vb_claim *c = claim_of(r, address);

    return c && c->session == session ? c : NULL;
}

void vb_register_release(struct vb_claim *c) {
    LIST_REMOVE(c, entry);
    free(c);
}

void vb_register_release_all(struct vb_register *r, uint32_t session) {
    struct vb_claim *c, *next;

    LIST_FOREACH_SAFE(c, &r->claims, entry, next) {
        if (c->session == session)
            vb_register_release(c);
    }
}

void vb_register_hold_all(struct vb_register *r, uint32_t session) {
    struct vb_claim *c;

    LIST_FOREACH (c, &r->claims, entry) {
        if (c->session == session)
            c->held = true;
    }
}

size_t vb_register_of(struct vb_register *r, uint32_t session, const char **ret, size_t max) {
    struct vb_claim *c;
    size_t n = 0;

    LIST_FOREACH (c, &r->claims, entry) {
        if (c->session == session && n < max)
            ret[n++] = c->address;
    }
    return n;
}

void vb_register_count(struct vb_register *r, uint32_t *ret_claimed, uint32_t *ret_held) {
    struct vb_claim *c;

    *ret_claimed = *ret_held = 0;
    LIST_FOREACH (c, &r->claims, entry) {
        ++*(c->held ? ret_held : ret_claimed);
    }
}

/* ---- looking ---- */

int vb_register_look(struct vb_register *r, const char *address, struct vb_device_view *ret, struct vb_error *e) {
    struct vb_device_view v = {.state = VB_REGISTER_FREE};
    struct vb_error why = {.code = 0};
    struct vb_claim *c;

    int n = read_device(r, address, &v.pci, e);
    if (n != 0)
        return n;
    c = claim_of(r, address);
    if (c) {
        v.state = c->held ? VB_REGISTER_HELD : VB_REGISTER_CLAIMED;
        v.session = c->session;
        if (c->held) {
            find_holders(r, c);
            snprintf(v.reason, sizeof v.reason, "a process has it open still%s", c->holders);
        }
    } else if (check_usable(r, &v.pci, &why) != 0) {
        v.state = VB_REGISTER_UNUSABLE;
        memcpy(v.reason, why.text, sizeof v.reason);
    } else if (v.pci.group >= 0 && (c = claim_in_group(r, v.pci.group, 0))) {
        snprintf(v.reason, sizeof v.reason, "%s of the same IOMMU group is %s by session %u", c->address,
                 c->held ? "held" : "claimed", c->session);
    }
    *ret = v;
    return 0;
}

struct each {
    struct vb_register *r;
    vb_pci_fn fn;
    void *data;
};

static int if_vfio(const char *address, void *data) {
    const struct each *e = data;
    struct vb_pci p;

    if (vb_pci_read(e->r->sys, address, &p) < 0 || (!p.vfio[0] && strncmp(p.driver, "vfio", 4) != 0))
        return 0;
    return e->fn(address, e->data);
}

int vb_register_each(struct vb_register *r, vb_pci_fn fn, void *data) {
    struct each e = {.r = r, .fn = fn, .data = data};
    char address[VB_ADDRESS_MAX + 1];
    int n = 0;

    if (!r->emulated)
        return vb_pci_each(r->sys, if_vfio, &e);
    for (unsigned i = 0; i < r->emulated && n == 0; i++) {
        snprintf(address, sizeof address, EMULATED "%u", i);
        n = fn(address, data);
    }
    return n;
}
