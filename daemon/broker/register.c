#include "broker/register.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/log.h"
#include "host/files.h"
#include "host/proc.h"
#include "host/vfio.h"
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

static int read_emulated(struct vb_register *r, const char *address, struct vb_host_device *ret) {
    const char *digits = address + strlen(EMULATED);
    char *end;

    if (strncmp(address, EMULATED, strlen(EMULATED)) != 0 || *digits < '0' || *digits > '9')
        return -ENODEV;
    unsigned long n = strtoul(digits, &end, 10);
    if (*end || n >= r->emulated || (digits[0] == '0' && digits[1]))
        return -ENODEV;
    *ret = (struct vb_host_device){.group = (int)n, .driver = "emulated"};
    snprintf(ret->address, sizeof ret->address, "%s", address);
    return 0;
}

static int read_device(struct vb_register *r, const char *address, struct vb_host_device *ret, struct vb_error *e) {
    int n = r->emulated ? read_emulated(r, address, ret) : vb_host_device_read(r->sys, address, ret);
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
    int group;
    struct vb_error *e;
};

static int check_neighbour(const char *address, void *data) {
    const struct group_check *g = data;
    char clean[VB_ADDRESS_MAX + 1], bind[VB_ADDRESS_MAX + 32] = "";
    struct vb_host_device p;

    if (strcmp(address, g->address) == 0 || vb_group_member_read(g->r->sys, g->group, address, &p) < 0 ||
        vb_driver_harmless(&p))
        return 0;
    vb_log_clean(address, clean, sizeof clean);
    if (vb_address_valid(address))
        snprintf(bind, sizeof bind, "run `vfio-brokerctl bind %s`, or ", clean);
    return vb_refuse(g->e, VB_STATE,
                     "device %s cannot be used: %s of the same IOMMU group %d is on the host's driver %s: %sunbind it",
                     g->address, clean, g->group, p.driver, bind);
}

/* Has the kernel what it takes to open it? */
static int check_node(struct vb_register *r, const struct vb_host_device *p, struct vb_error *e) {
    if (r->type1 && !p->group_rdev)
        return vb_refuse(e, VB_STATE,
                         "device %s cannot be opened: its group %d has no node /dev/vfio/%d: the kernel needs "
                         "CONFIG_VFIO_GROUP, or run the daemon with --backend=iommufd",
                         p->address, p->group, p->group);
    if (!r->type1 && (!p->vfio[0] || !p->rdev))
        return vb_refuse(e, VB_STATE,
                         "device %s has no character device: the kernel needs CONFIG_VFIO_DEVICE_CDEV (Linux 6.6), or "
                         "run the daemon with --backend=type1",
                         p->address);
    return 0;
}

/* Can a client use it, whoever claims it? 0, or VB_STATE with the reason and the way out. */
static int check_usable(struct vb_register *r, const struct vb_host_device *p, struct vb_error *e) {
    if (r->emulated)
        return 0;
    if (p->group < 0)
        return vb_refuse(e, VB_STATE,
                         "device %s is in no IOMMU group: this machine has no IOMMU for it, or it is switched off "
                         "(firmware, intel_iommu=on)",
                         p->address);
    if (p->noiommu)
        return vb_refuse(
            e, VB_STATE,
            "device %s is in a no-IOMMU group: nothing translates or checks its DMA, which would reach all "
            "memory of this machine, so it is never handed out: switch an IOMMU on (firmware, intel_iommu=on)",
            p->address);
    if (!p->vfio[0] && strncmp(p->driver, "vfio", 4) != 0)
        return p->software
                   ? vb_refuse(e, VB_STATE, "mdev %s is on no driver of VFIO (but on %s): load the one of its kind",
                               p->address, p->driver[0] ? p->driver : "none")
                   : vb_refuse(e, VB_STATE,
                               "device %s is not bound to vfio-pci but to %s: run `vfio-brokerctl bind %s`", p->address,
                               p->driver[0] ? p->driver : "no driver", p->address);
    if (check_node(r, p, e) != 0)
        return VB_STATE;
    struct group_check g = {.r = r, .address = p->address, .group = p->group, .e = e};
    return vb_group_each(r->sys, p->group, check_neighbour, &g) > 0 ? VB_STATE : 0;
}

/* ---- taken ---- */

/* " (open in pid 812, 815)", without ourselves; or "". */
static void say_holders(const pid_t *pids, size_t n, char *ret, size_t size) {
    size_t used = 0, shown = 0;

    ret[0] = 0;
    for (size_t i = 0; i < n; i++)
        if (pids[i] != getpid())
            used += (size_t)snprintf(ret + used, size - used, "%s%d", shown++ ? ", " : " (open in pid ", (int)pids[i]);
    if (shown)
        snprintf(ret + used, size - used, ")");
}

/* Who has the device open? By its node; or, opened through its group, by what the kernel tells of the fd (fdinfo, Linux 6.17). */
static void find_holders(struct vb_register *r, struct vb_claim *c) {
    pid_t pids[HOLDERS_SHOWN];
    char path[PATH_MAX], line[VB_ADDRESS_MAX + 2];
    uint64_t now = vb_now_ms();
    size_t n;

    if (r->emulated || (c->looked && now - c->looked < HOLDERS_EVERY_MS) ||
        (r->looked && now - r->looked < HOLDERS_REST_MS) ||
        !vb_path(path, sizeof path, "%s/vfio/devices/%s", r->dev, c->vfio))
        return;
    c->looked = r->looked = now;
    snprintf(line, sizeof line, "/%s", c->address);
    if (r->type1)
        n = vb_proc_holders_info(r->proc, "anon_inode:[vfio-device]", line, HOLDERS_FDS, pids, HOLDERS_SHOWN);
    else
        n = vb_proc_holders(r->proc, path, HOLDERS_FDS, pids, HOLDERS_SHOWN);
    say_holders(pids, n, c->holders, sizeof c->holders);
}

/* Somebody else has the group open, or a device of it. */
static int refuse_open(struct vb_register *r, const struct vb_host_device *p, struct vb_error *e) {
    pid_t pids[HOLDERS_SHOWN];
    char path[PATH_MAX], holders[96] = "";
    uint64_t now = vb_now_ms();

    if ((!r->looked || now - r->looked >= HOLDERS_REST_MS) &&
        vb_path(path, sizeof path, "%s/vfio/%d", r->dev, p->group)) {
        r->looked = now;
        size_t n = vb_proc_holders(r->proc, path, HOLDERS_FDS, pids, HOLDERS_SHOWN);
        say_holders(pids, n, holders, sizeof holders);
    }
    return vb_refuse(
        e, VB_BUSY,
        "device %s: its IOMMU group %d, or a device of it, is open in another process%s: it can be claimed "
        "when that one closes it",
        p->address, p->group, holders);
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
static int check_free(struct vb_register *r, const struct vb_host_device *p, uint32_t session, struct vb_error *e) {
    struct vb_claim *c = claim_of(r, p->address);

    if (!c && p->group >= 0)
        c = claim_in_group(r, p->group, session);
    return c ? refuse_taken(r, c, p->address, session, e) : 0;
}

/* ---- opening ---- */

static int open_device(struct vb_register *r, const struct vb_host_device *p, int *ret, struct vb_error *e) {
    char path[PATH_MAX];

    if (!vb_path(path, sizeof path, "%s/vfio/devices/%s", r->dev, p->vfio))
        return vb_fail(e, -ENAMETOOLONG, "%s", p->vfio);
    VB_FD int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return vb_fail(e, -errno, "cannot open %s of device %s", path, p->address);
    if (!vb_fd_is_rdev(fd, p->rdev))
        return vb_fail(e, -ENXIO, "%s is not the device node of %s that sysfs names", path, p->address);
    *ret = vb_steal_fd(&fd);
    return 0;
}

/* The container: that of the device `with`, or a fresh one. ret_fresh: the session needs it too. */
static int open_container(struct vb_register *r, uint32_t session, const char *with, int *ret, bool *ret_fresh,
                          struct vb_error *e) {
    struct vb_claim *c = with[0] ? vb_register_find(r, session, with) : NULL;
    char clean[VB_ADDRESS_MAX + 1];

    if (with[0] && (!c || !c->opened))
        return vb_refuse(e, VB_NOT_FOUND, "session %u has no device %s whose container could be shared", session,
                         vb_log_clean(with, clean, sizeof clean));
    *ret_fresh = !c;
    int fd =
        c ? fcntl(c->opened->container, F_DUPFD_CLOEXEC, 0) : vb_vfio_container_open(r->dev, r->iommufd_containers);
    if (fd < 0)
        return vb_fail(e, c ? -errno : fd, "cannot open %s/%s as a container", r->dev,
                       r->iommufd_containers ? "iommu" : "vfio/vfio");
    *ret = fd;
    return 0;
}

/* The group, and what of it the session does not have yet. */
static int open_group(struct vb_register *r, const struct vb_host_device *p, uint32_t session, const char *with,
                      struct vb_opened *o, struct vb_group **ret, struct vb_error *e) {
    bool fresh = true;

    *ret = vb_group_find(&r->groups, session, p->group);
    if (*ret)
        return 0;
    VB_FD int container = -1;
    int n = open_container(r, session, with, &container, &fresh, e);
    if (n != 0)
        return n;
    VB_FD int fd = vb_vfio_group_open(r->dev, p->group, p->group_rdev);
    if (fd == -EBUSY)
        return refuse_open(r, p, e);
    if (fd < 0)
        return vb_fail(e, fd, "cannot open %s/vfio/%d of device %s", r->dev, p->group, p->address);
    o->fds[0] = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    o->fds[1] = fresh ? fcntl(container, F_DUPFD_CLOEXEC, 0) : -1;
    if (o->fds[0] < 0 || (fresh && o->fds[1] < 0))
        return vb_fail(e, -errno, "group %d of device %s", p->group, p->address);
    *ret = vb_group_new(&r->groups, session, p->group, vb_steal_fd(&fd), vb_steal_fd(&container));
    return *ret ? 0 : vb_fail(e, -ENOMEM, "group %d of device %s", p->group, p->address);
}

static void end_group(struct vb_register *r, struct vb_group *g) {
    if (r->forget)
        r->forget(&r->groups, g);
    vb_group_free(g);
}

void vb_opened_close(struct vb_opened *o) {
    for (unsigned i = 0; i < 2; i++) {
        vb_close_p(&o->fds[i]);
        o->fds[i] = -1;
    }
}

/* ---- claims ---- */

static struct vb_claim *add_claim(struct vb_register *r, const struct vb_host_device *p, struct vb_group *g,
                                  uint32_t session, pid_t client) {
    struct vb_claim *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    *c = (struct vb_claim){.group = p->group, .opened = g, .session = session, .client = client};
    strcpy(c->address, p->address);
    strcpy(c->vfio, p->vfio);
    if (g)
        g->claims++;
    LIST_INSERT_HEAD(&r->claims, c, entry);
    return c;
}

static int read_reserved(struct vb_register *r, const struct vb_host_device *p, struct vb_opened *o,
                         struct vb_error *e) {
    int n = vb_group_reserved(r->sys, p->group, o->reserved, VB_REGIONS_MAX, &o->n_reserved);

    if (n == 0 || (n == -ENOENT && p->software))
        return 0;
    return vb_fail(e, n, "cannot read the reserved regions of IOMMU group %d", p->group);
}

static int open_any(struct vb_register *r, const struct vb_host_device *p, uint32_t session, const char *with,
                    struct vb_opened *o, struct vb_group **ret_group, struct vb_error *e) {
    int n = read_reserved(r, p, o, e);

    if (n != 0)
        return n;
    return r->type1 ? open_group(r, p, session, with, o, ret_group, e) : open_device(r, p, &o->fds[0], e);
}

int vb_register_claim(struct vb_register *r, const struct vb_grant *grant, uid_t uid, uint32_t session, pid_t client,
                      const char *address, const char *with, struct vb_opened *ret, struct vb_error *e) {
    struct vb_opened o = {.fds = {-1, -1}};
    char clean[VB_ADDRESS_MAX + 1];
    struct vb_group *g = NULL;
    struct vb_host_device p;
    int n;

    /* Before anything else, so that nobody learns of devices that are not his. */
    if (!vb_grant_device(grant, address))
        return vb_refuse(e, VB_DENIED, "policy does not grant device %s to uid %u: ask the administrator",
                         vb_log_clean(address, clean, sizeof clean), uid);
    if ((n = read_device(r, address, &p, e)) != 0 || (n = check_free(r, &p, session, e)) != 0 ||
        (n = check_usable(r, &p, e)) != 0)
        return n;
    o.group = p.group;
    o.software = p.software;
    if (r->emulated) { /* backend/emulated.h, as sysfs would say it */
        o.reserved[0] = (struct vb_reserved){{0xfee00000, 0xfeefffff}, "msi"};
        o.n_reserved = 1;
    }
    if (!r->emulated)
        n = open_any(r, &p, session, with, &o, &g, e);
    if (n == 0 && !add_claim(r, &p, g, session, client))
        n = vb_fail(e, -ENOMEM, "claim of %s", address);
    if (n == 0) {
        *ret = o;
        return 0;
    }
    vb_opened_close(&o);
    if (g && g->claims == 0)
        end_group(r, g);
    return n;
}

int vb_register_adopt(struct vb_register *r, uint32_t session, pid_t client, const char *address, bool held,
                      struct vb_error *e) {
    struct vb_host_device p;
    int n;

    if ((n = read_device(r, address, &p, e)) != 0 || (n = check_free(r, &p, session, e)) != 0)
        return n;
    struct vb_group *g = r->type1 ? vb_group_find(&r->groups, session, p.group) : NULL;
    if (r->type1 && !g)
        return vb_refuse(e, VB_NOT_FOUND, "device %s is claimed by a session that does not have its group %d", address,
                         p.group);
    struct vb_claim *c = add_claim(r, &p, g, session, client);
    if (!c)
        return vb_fail(e, -ENOMEM, "claim of %s", address);
    c->held = held;
    return 0;
}

struct vb_claim *vb_register_find(struct vb_register *r, uint32_t session, const char *address) {
    struct vb_claim *c = claim_of(r, address);

    return c && c->session == session ? c : NULL;
}

void vb_register_release(struct vb_register *r, struct vb_claim *c) {
    if (c->opened && --c->opened->claims == 0)
        end_group(r, c->opened);
    LIST_REMOVE(c, entry);
    free(c);
}

void vb_register_release_all(struct vb_register *r, uint32_t session) {
    struct vb_claim *c, *next;
    struct vb_group *g, *next_group;

    LIST_FOREACH_SAFE(c, &r->claims, entry, next) {
        if (c->session == session)
            vb_register_release(r, c);
    }
    LIST_FOREACH_SAFE(g, &r->groups, entry, next_group) {
        if (g->session == session)
            end_group(r, g);
    }
}

unsigned vb_register_groups(const struct vb_register *r, uint32_t session) {
    const struct vb_group *g;
    unsigned n = 0;

    LIST_FOREACH (g, &r->groups, entry) {
        n += g->session == session;
    }
    return n;
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

    int n = read_device(r, address, &v.dev, e);
    if (n != 0)
        return n;
    bool own = (c = claim_of(r, address)) != NULL;
    if (!own && check_usable(r, &v.dev, &why) != 0) {
        v.state = VB_REGISTER_UNUSABLE;
        memcpy(v.reason, why.text, sizeof v.reason);
    } else if (own || (v.dev.group >= 0 && (c = claim_in_group(r, v.dev.group, 0)))) {
        v.state = c->held ? VB_REGISTER_HELD : VB_REGISTER_CLAIMED;
        v.session = c->session;
        if (c->held)
            find_holders(r, c);
        if (!own) /* a group is one session's as a whole */
            snprintf(v.reason, sizeof v.reason, "%s of the same IOMMU group %d is %s by session %u%s", c->address,
                     c->group, c->held ? "held" : "claimed", c->session, c->holders);
        else if (c->held)
            snprintf(v.reason, sizeof v.reason, "a process has it open still%s", c->holders);
    }
    *ret = v;
    return 0;
}

struct each {
    struct vb_register *r;
    vb_address_fn fn;
    void *data;
};

static int if_vfio(const char *address, void *data) {
    const struct each *e = data;
    struct vb_host_device p;

    if (vb_host_device_read(e->r->sys, address, &p) < 0 || (!p.vfio[0] && strncmp(p.driver, "vfio", 4) != 0))
        return 0;
    return e->fn(address, e->data);
}

int vb_register_each(struct vb_register *r, vb_address_fn fn, void *data) {
    struct each e = {.r = r, .fn = fn, .data = data};
    char address[VB_ADDRESS_MAX + 1];
    int n = 0;

    if (!r->emulated)
        return vb_host_device_each(r->sys, if_vfio, &e);
    for (unsigned i = 0; i < r->emulated && n == 0; i++) {
        snprintf(address, sizeof address, EMULATED "%u", i);
        n = fn(address, data);
    }
    return n;
}
