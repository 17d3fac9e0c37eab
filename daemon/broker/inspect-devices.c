/* The rows of devices: what policy grants to the asker, and for an administrator everything that is known. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/inspect.h"

struct address_list {
    char (*items)[VB_ADDRESS_MAX + 1];
    size_t n, room;
};

static int add_address(const char *address, void *data) {
    struct address_list *l = data;

    if (l->n == l->room) {
        size_t more = l->room ? 2 * l->room : 64;
        void *items = realloc(l->items, more * sizeof l->items[0]);

        if (!items)
            return -ENOMEM;
        l->items = items;
        l->room = more;
    }
    snprintf(l->items[l->n++], sizeof l->items[0], "%s", address);
    return 0;
}

static int compare(const void *a, const void *b) {
    return strcmp(a, b);
}

/* Sorted, without doubles: what this client may know of. */
static int list_addresses(struct vb_record *r, struct address_list *ret) {
    struct address_list l = {.items = NULL};
    const struct vb_policy *policy = r->broker->policy;
    size_t kept = 0;
    int n = 0;

    for (uint32_t i = 0; r->grant && i < r->grant->n_devices && n == 0; i++)
        n = add_address(r->grant->devices[i], &l);
    if (r->grant && r->grant->admin) {
        for (uint32_t i = 0; i < policy->n_grants; i++)
            for (uint32_t j = 0; j < policy->grants[i].n_devices && n == 0; j++)
                n = add_address(policy->grants[i].devices[j], &l);
        if (n == 0)
            n = vb_register_each(&r->broker->devices, add_address, &l);
    }
    if (n < 0 && n != -ENOENT) { /* a host without PCI has no such directory */
        free(l.items);
        return n;
    }
    if (l.n > 0)
        qsort(l.items, l.n, sizeof l.items[0], compare);
    for (size_t i = 0; i < l.n; i++)
        if (kept == 0 || strcmp(l.items[kept - 1], l.items[i]) != 0)
            memmove(l.items[kept++], l.items[i], sizeof l.items[0]);
    l.n = kept;
    *ret = l;
    return 0;
}

static VfioBroker__DeviceRow *device_row(struct vb_record *r, struct vb_page *p, const char *address) {
    static const char *const states[] = {"free", "claimed", "held", "unusable"};
    VfioBroker__DeviceRow *d = vb_arena_alloc(p->arena, sizeof *d);
    struct vb_device_view v = {.dev.group = -1, .state = VB_REGISTER_UNUSABLE};
    struct vb_error e = {.code = 0};

    if (!d)
        return NULL;
    if (vb_register_look(&r->broker->devices, address, &v, &e) != 0)
        memcpy(v.reason, e.text, sizeof v.reason);
    vfio_broker__device_row__init(d);
    d->address = vb_page_keep(p, address);
    d->driver = vb_page_keep(p, v.dev.driver);
    d->vendor = v.dev.vendor;
    d->device = v.dev.device;
    d->pci_class = v.dev.pci_class;
    d->group = v.dev.group;
    d->state = (char *)states[v.state];
    d->reason = vb_page_keep(p, v.reason);
    /* Whose session it is, is not everybody's to know; that it is taken is. */
    d->session = r->grant->admin || v.session == r->id ? v.session : 0;
    d->granted = vb_grant_device(r->grant, address);
    return d;
}

int vb_show_devices(struct vb_record *r, const VfioBroker__Inspect *q, struct vb_page *p, struct vb_error *e) {
    struct address_list l;

    int n = list_addresses(r, &l);
    if (n < 0)
        return vb_fail(e, n, "cannot list devices");
    p->reply.devices = vb_arena_alloc(p->arena, VB_INSPECT_ROWS * sizeof p->reply.devices[0]);
    if (!p->reply.devices)
        n = vb_fail(e, -ENOMEM, "devices");
    for (size_t i = q->after < l.n ? q->after : l.n; n == 0 && i < l.n; i++) {
        VfioBroker__DeviceRow *row = device_row(r, p, l.items[i]);

        if (!row || !vb_page_room(p, p->reply.n_devices, protobuf_c_message_get_packed_size(&row->base))) {
            p->reply.next = i;
            break;
        }
        p->reply.devices[p->reply.n_devices++] = row;
    }
    free(l.items);
    vb_link_charge(&r->link, 1 + (unsigned)p->reply.n_devices); /* some ten files of sysfs each */
    if (n == 0 && p->reply.next == q->after && p->reply.next != 0)
        return vb_fail(e, -ENOMEM, "devices");
    return n;
}
