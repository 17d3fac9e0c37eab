#include "core/pin.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/model.h"
#include "proto/cleanup.h"

struct vb_pin *vb_pin_overlapping(struct vb_space *s, struct vb_pin *p, struct vb_range r) {
    for (p = p ? p : TAILQ_FIRST(&s->pins); p; p = TAILQ_NEXT(p, entry))
        if (vb_range_overlaps(p->iova, r))
            return p;
    return NULL;
}

/* What is paid and locked: whole pages of the system. A mapping consists of such pages, so this stays within it. */
static struct vb_range pages(const struct vb_pin_part *part) {
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    const uint64_t last = part->offset + (part->iova.last - part->iova.first);

    return (struct vb_range){part->offset & ~(page - 1), last | (page - 1)};
}

/* Cuts the range at the mappings under it. */
static int find_parts(struct vb_pin *p, struct vb_error *e) {
    struct vb_space *s = p->space;
    struct vb_mapping *mapping = vb_mapping_first(&s->tree, p->iova);
    uint64_t at = p->iova.first, last;

    for (;; mapping = vb_mapping_next(mapping)) {
        if (!mapping || mapping->iova.first > at)
            return vb_refuse(e, VB_NOT_FOUND, "nothing is mapped at 0x%" PRIx64 " of 0x%" PRIx64 "-0x%" PRIx64, at,
                             p->iova.first, p->iova.last);
        if (mapping->pending)
            return vb_refuse(e, VB_BUSY, "0x%" PRIx64 "-0x%" PRIx64 " is being discarded; try again",
                             mapping->iova.first, mapping->iova.last);
        if (mapping->memory->kind == VB_MEMORY_DMA_BUF)
            return vb_refuse(e, VB_UNSUPPORTED,
                             "0x%" PRIx64 "-0x%" PRIx64 " is device memory (a dma-buf), which cannot be pinned",
                             mapping->iova.first, mapping->iova.last);
        if (p->prot & ~mapping->prot)
            return vb_refuse(e, VB_DENIED, "0x%" PRIx64 "-0x%" PRIx64 " is mapped for reading only; pin it for reading",
                             mapping->iova.first, mapping->iova.last);
        if (p->n_parts == VB_PIN_SEGMENTS)
            return vb_refuse(e, VB_LIMIT, "0x%" PRIx64 "-0x%" PRIx64 " touches more than %u mappings; pin it in parts",
                             p->iova.first, p->iova.last, VB_PIN_SEGMENTS);
        last = mapping->iova.last < p->iova.last ? mapping->iova.last : p->iova.last;
        p->parts[p->n_parts++] =
            (struct vb_pin_part){{at, last}, mapping->offset + (at - mapping->iova.first), mapping->memory};
        if (last == p->iova.last)
            return 0;
        at = last + 1;
    }
}

/* mlock takes time for each page, and the session serves nobody meanwhile. */
static int check_bytes(struct vb_pin *p, struct vb_error *e) {
    uint32_t i;

    for (i = 0; i < p->n_parts; i++)
        if (p->parts[i].memory->kind == VB_MEMORY_SHMEM)
            p->locked += vb_range_size(pages(&p->parts[i]));
    if (p->locked <= VB_PIN_BYTES)
        return 0;
    vb_error_limit(e, p->locked, 0, VB_PIN_BYTES, "one pin");
    return vb_refuse(e, VB_LIMIT, "0x%" PRIx64 "-0x%" PRIx64 " has more than %s that must be locked; pin it in parts",
                     p->iova.first, p->iova.last, VB_SIZE(VB_PIN_BYTES));
}

static int check_numbers(const struct vb_model *m, const struct vb_pin *p, struct vb_error *e) {
    if (m->last_pin == UINT32_MAX) /* pinners count on growing numbers */
        return vb_refuse(e, VB_LIMIT,
                         "the numbers of pins of this session have run out; its client has to connect again");
    if (m->n_pins < VB_PINS_MAX && m->pin_parts + p->n_parts <= VB_PIN_PARTS_MAX)
        return 0;
    vb_error_limit(e, 1, m->n_pins, VB_PINS_MAX, "pins on a session");
    return vb_refuse(e, VB_LIMIT,
                     "%" PRIu32 " pins exist on the spaces of this session, with %" PRIu32 " parts; %u pins and %u "
                     "parts are possible; unpin something",
                     m->n_pins, m->pin_parts, VB_PINS_MAX, VB_PIN_PARTS_MAX);
}

static int recheck(const struct vb_pin *p, struct vb_error *e) {
    uint32_t i;
    int r = 0;

    for (i = 0; i < p->n_parts && r == 0; i++)
        r = vb_memory_recheck(p->parts[i].memory, false, e);
    return r;
}

static void uncharge(struct vb_pin *p, uint32_t n) {
    while (n-- > 0)
        vb_charge_sub(&p->parts[n].memory->charge, VB_BY_PIN, pages(&p->parts[n]));
}

/* Counts the parts; ret_cost: what they add. -ENOMEM changes nothing. */
static int charge(struct vb_pin *p, struct vb_cost *ret_cost) {
    struct vb_cost one, sum = {0};
    uint32_t i;
    int r;

    for (i = 0; i < p->n_parts; i++) {
        r = vb_charge_add(&p->parts[i].memory->charge, VB_BY_PIN, pages(&p->parts[i]), &one);
        if (r < 0) {
            uncharge(p, i);
            return r;
        }
        vb_cost_add(&sum, one);
    }
    *ret_cost = sum;
    return 0;
}

/* Takes all parts back: what no pin needs any more is unlocked, then released. */
static void give_back(struct vb_model *m, struct vb_pin *p) {
    struct vb_cost sum = {0};
    struct vb_range run;
    uint64_t at, pins;
    uint32_t i;

    for (i = 0; i < p->n_parts; i++)
        vb_cost_add(&sum, vb_charge_sub(&p->parts[i].memory->charge, VB_BY_PIN, pages(&p->parts[i])));
    for (i = 0; i < p->n_parts; i++) {
        const struct vb_range r = pages(&p->parts[i]);

        for (at = r.first; vb_extents_run(&p->parts[i].memory->charge.pinned, r, at, &run, &pins); at = run.last + 1)
            if (pins == 0)
                vb_memory_unlock(p->parts[i].memory, run);
    }
    vb_ledger_release(&m->ledger, sum);
}

static int reserve_and_lock(struct vb_model *m, struct vb_pin *p, struct vb_error *e) {
    struct vb_cost cost;
    uint32_t i;
    int r;

    r = charge(p, &cost);
    if (r < 0)
        return vb_fail(e, r, "pin");
    r = vb_ledger_reserve(&m->ledger, cost, e);
    if (r != 0) {
        uncharge(p, p->n_parts);
        return r;
    }
    for (i = 0; i < p->n_parts && r == 0; i++) /* what other pins have locked already stays as it is */
        r = vb_memory_lock(p->parts[i].memory, pages(&p->parts[i]), e);
    if (r != 0)
        give_back(m, p);
    return r;
}

int vb_model_pin(struct vb_model *m, struct vb_space *s, struct vb_range iova, uint32_t prot, void *access,
                 struct vb_pin **ret_pin, struct vb_error *e) {
    VB_FREE struct vb_pin *p = calloc(1, sizeof(*p));
    int r;

    if (!p)
        return vb_fail(e, -ENOMEM, "pin");
    p->space = s;
    p->iova = iova;
    p->prot = (uint8_t)prot;
    p->access = access;
    if (!(prot & VB_PROT_READ) || (prot & ~(uint32_t)(VB_PROT_READ | VB_PROT_WRITE)))
        return vb_refuse(e, VB_INVALID, "prot %" PRIu32 " is neither READ (1) nor READ and WRITE (3)", prot);
    r = find_parts(p, e);
    if (r == 0)
        r = check_numbers(m, p, e);
    if (r == 0)
        r = check_bytes(p, e);
    if (r == 0)
        r = recheck(p, e);
    if (r == 0)
        r = reserve_and_lock(m, p, e);
    if (r != 0)
        return r;
    p->id = ++m->last_pin;
    m->n_pins++;
    m->pin_parts += p->n_parts;
    s->n_pins++;
    TAILQ_INSERT_TAIL(&s->pins, p, entry);
    *ret_pin = vb_steal_ptr(&p);
    return 0;
}

struct vb_pin *vb_model_unpin(struct vb_model *m, struct vb_pin *p) {
    if (!p)
        return NULL;
    give_back(m, p);
    TAILQ_REMOVE(&p->space->pins, p, entry);
    p->space->n_pins--;
    m->n_pins--;
    m->pin_parts -= p->n_parts;
    free(p);
    return NULL;
}
