#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/log.h"
#include "broker/register-private.h"

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

/* ---- taken ---- */

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
    vb_register_holders(r, c);
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

int vb_register_claim(struct vb_register *r, const struct vb_grant *grant, uid_t uid, uint32_t session, pid_t client,
                      const char *address, const char *with, struct vb_opened *ret, struct vb_error *e) {
    struct vb_opened o = {.fds = {-1, -1}};
    char clean[VB_ADDRESS_MAX + 1];
    struct vb_group *g = NULL;
    struct vb_host_device p;
    int n;

    /* Before anything else, so that nobody learns of devices that are not his. */
    if (!vb_grant_device(grant, address))
        return vb_refuse(
            e, VB_DENIED,
            "policy does not grant device %s to uid %u: ask the administrator; what was granted since holds for new "
            "connections",
            vb_log_clean(address, clean, sizeof clean), uid);
    if ((n = vb_register_read(r, address, &p, e)) != 0 || (n = check_free(r, &p, session, e)) != 0 ||
        (n = vb_register_usable(r, &p, e)) != 0)
        return n;
    o.group = p.group;
    o.software = p.software;
    if (r->emulated) { /* backend/emulated.h, as sysfs would say it */
        o.reserved[0] = (struct vb_reserved){{0xfee00000, 0xfeefffff}, "msi"};
        o.n_reserved = 1;
    }
    if (!r->emulated)
        n = vb_register_open(r, &p, session, with, &o, &g, e);
    if (n == 0 && !add_claim(r, &p, g, session, client))
        n = vb_fail(e, -ENOMEM, "claim of %s", address);
    if (n == 0) {
        *ret = o;
        return 0;
    }
    vb_opened_close(&o);
    if (g && g->claims == 0)
        vb_register_end_group(r, g);
    return n;
}

int vb_register_adopt(struct vb_register *r, uint32_t session, pid_t client, const char *address, bool held,
                      struct vb_error *e) {
    struct vb_host_device p;
    int n;

    if ((n = vb_register_read(r, address, &p, e)) != 0 || (n = check_free(r, &p, session, e)) != 0)
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
        vb_register_end_group(r, c->opened);
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
            vb_register_end_group(r, g);
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

    int n = vb_register_read(r, address, &v.dev, e);
    if (n != 0)
        return n;
    bool own = (c = claim_of(r, address)) != NULL;
    if (!own && vb_register_usable(r, &v.dev, &why) != 0) {
        v.state = VB_REGISTER_UNUSABLE;
        memcpy(v.reason, why.text, sizeof v.reason);
    } else if (own || (v.dev.group >= 0 && (c = claim_in_group(r, v.dev.group, 0)))) {
        v.state = c->held ? VB_REGISTER_HELD : VB_REGISTER_CLAIMED;
        v.session = c->session;
        if (c->held)
            vb_register_holders(r, c);
        if (!own) /* a group is one session's as a whole */
            snprintf(v.reason, sizeof v.reason, "%s of the same IOMMU group %d is %s by session %u%s", c->address,
                     c->group, c->held ? "held" : "claimed", c->session, c->holders);
        else if (c->held)
            snprintf(v.reason, sizeof v.reason, "a process has it open still%s", c->holders);
    }
    *ret = v;
    return 0;
}
