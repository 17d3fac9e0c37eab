/* Rows about this session, for its own client and for the daemon's questions. Pages are bounded by rows: each kind's rows,
 * at their longest, fit a packet. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "proto/clock.h"
#include "session/dispatch.h"
#include "session/pins.h"

#define NOTE_SIZE   96u
#define DOMAIN_TEXT 64u
#define MEMORY_ROWS (VB_INSPECT_ROWS / 2) /* names and notes: 250 bytes */

/* A cursor in the mapping list: the next IOVA's page, and in the 12 bits below it the space's place in the table, plus 1. */
static uint64_t cursor(uint32_t index, uint64_t iova) {
    return (iova & ~(uint64_t)0xfff) | (index + 1);
}

static VfioBroker__MappingRow *mapping_row(struct vb_arena *a, const struct vb_space *space,
                                           const struct vb_mapping *m) {
    VfioBroker__MappingRow *row = vb_arena_alloc(a, sizeof *row);

    if (!row)
        return NULL;
    vfio_broker__mapping_row__init(row);
    row->space = space->id;
    row->iova = m->iova.first;
    row->size = vb_range_size(m->iova);
    row->memory = m->memory->id;
    row->offset = m->offset;
    row->prot = m->prot;
    return row;
}

static int mappings(struct vb_session *s, struct vb_arena *a, uint64_t after, VfioBroker__InspectReply *ret) {
    uint32_t index = after ? (uint32_t)(after & 0xfff) - 1 : 0;
    uint64_t iova = after & ~(uint64_t)0xfff;

    ret->mappings = vb_arena_alloc(a, VB_INSPECT_ROWS * sizeof *ret->mappings);
    if (!ret->mappings)
        return -ENOMEM;
    for (; index < s->model->spaces.n; index++, iova = 0) {
        struct vb_space *space = s->model->spaces.items[index];
        struct vb_mapping *m = vb_mapping_first(&space->tree, (struct vb_range){iova, UINT64_MAX});

        for (; m; m = vb_mapping_next(m)) {
            if (m->pending)
                continue;
            if (ret->n_mappings == VB_INSPECT_ROWS) {
                ret->next = cursor(index, m->iova.first);
                return 0;
            }
            VfioBroker__MappingRow *row = mapping_row(a, space, m);
            if (!row)
                return -ENOMEM;
            ret->mappings[ret->n_mappings++] = row;
        }
    }
    return 0;
}

/* Addresses of the devices in a space, or in one of its domains (NULL: in any). */
static char **addresses(struct vb_session *s, struct vb_arena *a, const struct vb_space *space,
                        const struct vb_domain *dom, size_t *ret_n) {
    char **list = vb_arena_alloc(a, s->model->devices.n * sizeof *list + 1);

    for (uint32_t i = 0; list && i < s->model->devices.n; i++) {
        struct vb_device *d = s->model->devices.items[i];

        if (d->space == space && (!dom || d->domain == dom))
            list[(*ret_n)++] = d->address;
    }
    return list;
}

/* A space has a domain for each of its devices at most, or one without any: all rows of all spaces are bounded by both. */
int vb_domain_rows(struct vb_session *s, struct vb_arena *a, const struct vb_space *space,
                   VfioBroker__DomainRow ***ret_rows, size_t *ret_n) {
    const struct vb_backend_ops *ops = s->model->backend->ops;
    const struct vb_domain *dom;
    size_t n = 0, i = 0;

    TAILQ_FOREACH (dom, &space->domains, entry)
        n++;
    VfioBroker__DomainRow **rows = vb_arena_alloc(a, n * sizeof *rows + 1);
    if (!rows)
        return -ENOMEM;
    TAILQ_FOREACH (dom, &space->domains, entry) {
        VfioBroker__DomainRow *row = rows[i++] = vb_arena_alloc(a, sizeof *row);
        char *text = vb_arena_alloc(a, DOMAIN_TEXT);

        if (!row || !text)
            return -ENOMEM;
        vfio_broker__domain_row__init(row);
        ops->domain_text(s->model->backend, dom->handle, text, DOMAIN_TEXT);
        row->text = text;
        row->leaves_out = dom->leaves_out;
        row->left_out = dom->left_out;
        row->devices = addresses(s, a, space, dom, &row->n_devices);
        if (!row->devices)
            return -ENOMEM;
    }
    *ret_rows = rows;
    *ret_n = n;
    return 0;
}

/* "ioas 3, hwpt 5; ioas 3, hwpt 7" */
static char *joined(struct vb_arena *a, VfioBroker__DomainRow *const *rows, size_t n) {
    char *text = vb_arena_alloc(a, n * (DOMAIN_TEXT + 2) + 1), *p = text;

    for (size_t i = 0; text && i < n; i++)
        p += sprintf(p, "%s%s", i ? "; " : "", rows[i]->text);
    return text;
}

static VfioBroker__SpaceRow *space_row(struct vb_session *s, struct vb_arena *a, const struct vb_space *space) {
    VfioBroker__SpaceRow *row = vb_arena_alloc(a, sizeof *row);

    if (!row)
        return NULL;
    vfio_broker__space_row__init(row);
    row->space = space->id;
    row->name = (char *)space->name;
    row->mappings = space->mappings;
    row->mapped_bytes = space->mapped_bytes;
    row->dirty = space->dirty;
    row->discarded = space->discarded;
    row->devices = addresses(s, a, space, NULL, &row->n_devices);
    if (!row->devices || vb_domain_rows(s, a, space, &row->domain, &row->n_domain) < 0)
        return NULL;
    row->domains = joined(a, row->domain, row->n_domain);
    return row->domains ? row : NULL;
}

static int spaces(struct vb_session *s, struct vb_arena *a, VfioBroker__InspectReply *ret) {
    const struct vb_table *t = &s->model->spaces;

    ret->spaces = vb_arena_alloc(a, t->n * sizeof *ret->spaces + 1);
    if (!ret->spaces)
        return -ENOMEM;
    for (uint32_t i = 0; i < t->n; i++) {
        VfioBroker__SpaceRow *row = space_row(s, a, t->items[i]);
        if (!row)
            return -ENOMEM;
        ret->spaces[ret->n_spaces++] = row;
    }
    return 0;
}

/* Why pages of it are paid more than once: the same file with the other access has a page set of its own in the kernel,
 * and so pins of its own (core/model-memory.c). "" when they are not. */
static char *memory_note(const struct vb_table *t, const struct vb_memory *m, struct vb_arena *a) {
    for (uint32_t i = 0; i < t->n; i++) {
        const struct vb_memory *other = t->items[i];
        char *note;

        if (other == m || m->kind == VB_MEMORY_DMA_BUF || other->kind == VB_MEMORY_DMA_BUF || other->dev != m->dev ||
            other->ino != m->ino || !vb_charge_paid(&m->charge) || !vb_charge_paid(&other->charge))
            continue;
        note = vb_arena_alloc(a, NOTE_SIZE);
        if (note)
            snprintf(note, NOTE_SIZE, "registered %s as memory %" PRIu32 " too: the kernel pins for each access anew",
                     other->writable ? "writable" : "read-only", other->id);
        return note;
    }
    return (char *)"";
}

static VfioBroker__MemoryRow *memory_row(const struct vb_table *t, const struct vb_memory *m, struct vb_arena *a) {
    VfioBroker__MemoryRow *row = vb_arena_alloc(a, sizeof *row);
    char *note = memory_note(t, m, a);

    if (!row || !note)
        return NULL;
    vfio_broker__memory_row__init(row);
    row->memory = m->id;
    row->name = (char *)m->name;
    row->kind = (char *)vb_memory_kind_name(m->kind);
    row->size = m->size;
    row->page_size = m->page_size;
    row->writable = m->writable;
    row->mappings = m->mappings;
    row->paid = vb_charge_paid(&m->charge);
    row->mapped = vb_charge_mapped(&m->charge);
    row->pinned = m->charge.has_pinned ? m->charge.pinned.covered : 0;
    row->registered = m->registered;
    row->note = note;
    return row;
}

/* Pages begin at the first memory above the cursor, a memory's number; the table is in their order. */
static int memories(struct vb_session *s, struct vb_arena *a, uint64_t after, VfioBroker__InspectReply *ret) {
    const struct vb_table *t = &s->model->memories;

    ret->memories = vb_arena_alloc(a, MEMORY_ROWS * sizeof *ret->memories);
    for (uint32_t i = 0; ret->memories && i < t->n; i++) {
        const struct vb_memory *m = t->items[i];

        if (m->id <= after)
            continue;
        if (ret->n_memories == MEMORY_ROWS) {
            ret->next = ret->memories[MEMORY_ROWS - 1]->memory;
            break;
        }
        VfioBroker__MemoryRow *row = memory_row(t, m, a);
        if (!row)
            return -ENOMEM;
        ret->memories[ret->n_memories++] = row;
    }
    return ret->memories ? 0 : -ENOMEM;
}

static VfioBroker__PinRow *pin_row(const struct vb_pin *p, uint64_t now, struct vb_arena *a) {
    const struct vb_pin_link *link = p->access;
    VfioBroker__PinRow *row = vb_arena_alloc(a, sizeof *row);

    if (!row)
        return NULL;
    vfio_broker__pin_row__init(row);
    row->pin = p->id;
    row->space = p->space->id;
    row->iova = p->iova.first;
    row->size = vb_range_size(p->iova);
    row->prot = p->prot;
    row->session = link->pinner;
    row->client_pid = link->client_pid;
    row->token = link->token->name;
    row->state = (char *)(p->deadline_ms == 0 ? "pinned" : now < p->deadline_ms ? "asked" : "kept");
    return row;
}

/* The cursor is the number of the pin before, and in the 12 bits below it the space's place in the table, plus 1. In the list
 * of a space pins are in the order of their numbers. */
static int pins(struct vb_session *s, struct vb_arena *a, uint64_t after, VfioBroker__InspectReply *ret) {
    uint32_t index = after ? (uint32_t)(after & 0xfff) - 1 : 0;
    uint64_t last = after >> 12, now = vb_now_ms();
    struct vb_pin *p;

    ret->pins = vb_arena_alloc(a, VB_INSPECT_ROWS * sizeof *ret->pins);
    if (!ret->pins)
        return -ENOMEM;
    for (; index < s->model->spaces.n; index++, last = 0) {
        struct vb_space *space = s->model->spaces.items[index];

        TAILQ_FOREACH (p, &space->pins, entry) {
            if (p->id <= last)
                continue;
            if (ret->n_pins == VB_INSPECT_ROWS) {
                ret->next = last << 12 | (index + 1);
                return 0;
            }
            VfioBroker__PinRow *row = pin_row(p, now, a);
            if (!row)
                return -ENOMEM;
            ret->pins[ret->n_pins++] = row;
            last = p->id;
        }
    }
    return 0;
}

static int usage(struct vb_session *s, struct vb_arena *a, VfioBroker__InspectReply *ret) {
    const struct vb_model *m = s->model;
    VfioBroker__UsageRow *row = vb_arena_alloc(a, sizeof *row);

    if (!row)
        return -ENOMEM;
    vfio_broker__usage_row__init(row);
    row->limit = m->ledger.limit;
    row->limit_whose = (char *)m->ledger.whose;
    row->lease = m->ledger.lease;
    row->used = m->ledger.used;
    row->memories = m->memories.n;
    row->spaces = m->spaces.n;
    row->devices = m->devices.n;
    row->mappings_max = m->mappings_max;
    row->leftovers = m->backend->ops->leftovers(m->backend);
    row->name = s->name;
    row->doubled = m->ledger.doubled;
    row->tables = m->ledger.tables;
    row->tables_max = m->ledger.tables_max;
    row->tokens = s->tokens.n;
    row->pins = m->n_pins;
    row->accesses = s->accesses.n;
    row->parked = s->park.n;
    for (uint32_t i = 0; i < m->memories.n; i++) {
        const struct vb_charge *c = &((struct vb_memory *)m->memories.items[i])->charge;

        row->mapped_paid += vb_charge_mapped(c);
        row->pinned_paid += vb_charge_paid(c) - vb_charge_mapped(c);
    }
    for (uint32_t i = 0; i < m->spaces.n; i++) {
        row->mappings += ((struct vb_space *)m->spaces.items[i])->mappings;
        row->mapped += ((struct vb_space *)m->spaces.items[i])->mapped_bytes;
    }
    ret->usage = row;
    return 0;
}

int vb_inspect_rows(struct vb_session *s, struct vb_arena *a, const VfioBroker__Inspect *q,
                    VfioBroker__InspectReply *ret, struct vb_error *e) {
    int r;

    switch (q->kind) {
    case VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE:
        r = usage(s, a, ret);
        break;
    case VFIO_BROKER__INSPECT_KIND__INSPECT_SPACES:
        r = spaces(s, a, ret);
        break;
    case VFIO_BROKER__INSPECT_KIND__INSPECT_MAPPINGS:
        r = mappings(s, a, q->after, ret);
        break;
    case VFIO_BROKER__INSPECT_KIND__INSPECT_MEMORY:
        r = memories(s, a, q->after, ret);
        break;
    case VFIO_BROKER__INSPECT_KIND__INSPECT_PINS:
        r = pins(s, a, q->after, ret);
        break;
    default:
        return vb_refuse(e, VB_UNSUPPORTED, "kind %d of rows is unknown here", (int)q->kind);
    }
    return r < 0 ? vb_fail(e, r, "the rows do not fit") : 0;
}
