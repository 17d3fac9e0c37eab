/* What a client uses, and the devices it could have: the stable part of what vfb_inspect() shows. Rows are
 * copied while the reply is decoded. */
#include "config.h"

#include <errno.h>
#include <stdlib.h>

#include "client/client-private.h"

/* A broker that says "there is more" for ever must end somewhere. */
#define PAGES_MAX 4096u
#define ROWS_MAX  65536u

static int take_usage(struct vbc_call *call, const VfioBroker__Reply *reply, struct vb_packet *p) {
    const VfioBroker__UsageRow *row = reply->inspect->usage;
    struct vfb_usage *u = call->out;
    (void)p;

    if (!row)
        return vbc_error_set(call->error, VFB_PROTOCOL, "the broker's reply has no usage in it");
    *u = (struct vfb_usage){
        .limit = row->limit,
        .lease = row->lease,
        .used = row->used,
        .mapped = row->mapped,
        .mappings = row->mappings,
        .mappings_max = row->mappings_max,
        .memories = row->memories,
        .spaces = row->spaces,
        .devices = row->devices,
        .mapped_paid = row->mapped_paid,
        .pinned_paid = row->pinned_paid,
        .doubled = row->doubled,
        .tables = row->tables,
        .tables_max = row->tables_max,
        .tokens = row->tokens,
        .pins = row->pins,
        .accesses = row->accesses,
        .parked = row->parked,
    };
    vbc_text(u->limit_whose, sizeof u->limit_whose, row->limit_whose);
    return 0;
}

int vfb_usage(struct vfb_client *c, struct vfb_usage *ret_usage) {
    return vbc_inspect(c, VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE, 0, 0, take_usage, ret_usage);
}

/* ---- devices -------------------------------------------------------------------------------------------------- */

struct list {
    struct vfb_device_info *rows; /* owned */
    size_t n;
    uint64_t next;
};

static void fill(struct vfb_device_info *d, const VfioBroker__DeviceRow *row) {
    *d = (struct vfb_device_info){
        .vendor = (uint16_t)row->vendor,
        .device = (uint16_t)row->device,
        .group = row->group,
        .session = row->session,
    };
    vbc_text(d->address, sizeof d->address, row->address);
    vbc_text(d->driver, sizeof d->driver, row->driver);
    vbc_text(d->state, sizeof d->state, row->state);
    vbc_text(d->reason, sizeof d->reason, row->reason);
}

static int take_devices(struct vbc_call *call, const VfioBroker__Reply *reply, struct vb_packet *p) {
    const VfioBroker__InspectReply *m = reply->inspect;
    struct list *l = call->out;
    (void)p;

    if (l->n + m->n_devices > ROWS_MAX)
        return vbc_error_set(call->error, VFB_PROTOCOL, "the broker's list of devices does not end");
    /* One more than needed, so that an empty list is not NULL. */
    struct vfb_device_info *rows = reallocarray(l->rows, l->n + m->n_devices + 1, sizeof *rows);
    if (!rows)
        return vbc_error_set(call->error, -ENOMEM, "no memory for %zu devices", l->n + m->n_devices);
    l->rows = rows;
    for (size_t i = 0; i < m->n_devices; i++)
        fill(&rows[l->n++], m->devices[i]);
    l->next = m->next;
    return 0;
}

int vfb_device_list(struct vfb_client *c, struct vfb_device_info **ret_devices, size_t *ret_n) {
    struct list l = {.next = 0};

    for (unsigned page = 0; page < PAGES_MAX; page++) {
        int r = vbc_inspect(c, VFIO_BROKER__INSPECT_KIND__INSPECT_DEVICES, 0, l.next, take_devices, &l);

        if (r != 0) {
            free(l.rows);
            return r;
        }
        if (l.next == 0) {
            *ret_devices = l.rows;
            *ret_n = l.n;
            return 0;
        }
    }
    free(l.rows);
    vbc_lose(c, VFB_PROTOCOL, "the broker's list of devices does not end");
    return VFB_PROTOCOL;
}
