/* What an owner's session says is checked before our client hears it: that session may have been taken over by its client, and
 * ours must lose no more by that than the access. Every pin that the client has is known here; so each can be invalidated
 * and lost once, and no flood of events can come. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "session/pins.h"

struct vb_known_pin {
    uint32_t id;
    bool asked; /* the client has had Invalidate */
};

/* Pins are numbered in increasing order by their owner: the array stays sorted by appending. */
static struct vb_known_pin *find(const struct vb_access *a, uint32_t id) {
    uint32_t low = 0, high = a->n_pins;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (a->pins[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < a->n_pins && a->pins[low].id == id ? &a->pins[low] : NULL;
}

static void forget(struct vb_access *a, uint32_t id) {
    struct vb_known_pin *p = find(a, id);

    if (!p)
        return;
    memmove(p, p + 1, (size_t)(a->pins + a->n_pins - (p + 1)) * sizeof *p);
    a->n_pins--;
}

int vb_access_expect(struct vb_pending *p, const VfioBrokerInternal__ToOwner *m) {
    if (m->body_case == VFIO_BROKER_INTERNAL__TO_OWNER__BODY_PIN) {
        p->n = m->pin->n_entries;
        p->ranges = malloc(p->n * sizeof *p->ranges + 1);
        for (size_t i = 0; p->ranges && i < p->n; i++)
            p->ranges[i] = (struct vb_unmap_entry){m->pin->entries[i]->iova, m->pin->entries[i]->size};
        return p->ranges ? 0 : -ENOMEM;
    }
    p->n = m->unpin->n_pins;
    p->ids = malloc(p->n * sizeof *p->ids + 1);
    if (!p->ids)
        return -ENOMEM;
    if (p->n) /* else there is nothing to copy from; the owner refuses */
        memcpy(p->ids, m->unpin->pins, p->n * sizeof *p->ids);
    return 0;
}

/* ---- replies ---- */

static bool room(struct vb_access *a, size_t more) {
    if (a->n_pins + more > VB_PINS_MAX)
        return false;
    void *pins = realloc(a->pins, (a->n_pins + more + 1) * sizeof *a->pins);
    if (pins)
        a->pins = pins;
    return pins != NULL;
}

static bool knows_memory(const struct vb_access *a, uint32_t memory) {
    for (uint32_t i = 0; i < a->n_memories; i++)
        if (a->memories[i] == memory)
            return true;
    return false;
}

static bool segments_fit(const struct vb_access *a, const VfioBroker__Pinned *p, const struct vb_unmap_entry *asked) {
    uint64_t at = asked->iova, left = asked->size;

    if (p->n_segments == 0 || p->n_segments > VB_PIN_SEGMENTS)
        return false;
    for (size_t i = 0; i < p->n_segments; i++) {
        const VfioBroker__PinSegment *g = p->segments[i];

        if (g->iova != at || g->size == 0 || g->size > left || g->offset + g->size < g->offset ||
            !knows_memory(a, g->memory))
            return false;
        at += g->size;
        left -= g->size;
    }
    return left == 0;
}

static bool pinned_fits(struct vb_access *a, const struct vb_pending *p, const VfioBroker__PinReply *m,
                        unsigned n_fds) {
    uint32_t last = a->n_pins ? a->pins[a->n_pins - 1].id : 0;

    if (m->n_pins != p->n || m->n_memories != n_fds || a->n_memories + n_fds > VB_MEMORIES_MAX || !room(a, m->n_pins))
        return false;
    for (size_t i = 0; i < m->n_memories; i++) {
        if (knows_memory(a, m->memories[i]))
            return false;
        a->memories[a->n_memories++] = m->memories[i];
    }
    for (size_t i = 0; i < m->n_pins; i++) {
        if (m->pins[i]->pin <= last || !segments_fit(a, m->pins[i], &p->ranges[i]))
            return false;
        last = m->pins[i]->pin;
        a->pins[a->n_pins++] = (struct vb_known_pin){.id = last};
    }
    return true;
}

/* An error about the connection is not another client's to send. */
static bool error_fits(const VfioBroker__Error *e) {
    return e->code > VFIO_BROKER__ERROR_CODE__ERROR_NONE && e->code != VFIO_BROKER__ERROR_CODE__ERROR_PROTOCOL &&
           e->code <= VFIO_BROKER__ERROR_CODE__ERROR_UNAVAILABLE && strlen(e->text) < VB_ERROR_TEXT &&
           (e->host_errno >= 0 && e->host_errno < 4096) && e->n_conflicts <= VB_CONFLICTS_MAX;
}

bool vb_access_reply_fits(struct vb_access *a, struct vb_pending *p, VfioBrokerInternal__ToPinner *m, unsigned n_fds) {
    if (m->body_case == VFIO_BROKER_INTERNAL__TO_PINNER__BODY_ERROR)
        return n_fds == 0 && error_fits(m->error);
    if (m->body_case != p->expect)
        return false;
    switch (m->body_case) {
    case VFIO_BROKER_INTERNAL__TO_PINNER__BODY_PIN:
        return pinned_fits(a, p, m->pin, n_fds);
    case VFIO_BROKER_INTERNAL__TO_PINNER__BODY_OPENED:
        return n_fds == 0 && m->opened->first <= m->opened->last && strlen(m->opened->name) <= VB_NAME_MAX &&
               strlen(m->opened->warning) < VB_ERROR_TEXT;
    default:
        for (size_t i = 0; i < p->n; i++)
            forget(a, p->ids[i]);
        return n_fds == 0;
    }
}

/* ---- events ---- */

bool vb_access_invalidate(struct vb_access *a, VfioBroker__Invalidate *m) {
    size_t n = 0;

    for (size_t i = 0; i < m->n_pins; i++) {
        struct vb_known_pin *p = find(a, m->pins[i]);

        if (p && !p->asked) {
            p->asked = true;
            m->pins[n++] = p->id;
        }
    }
    m->n_pins = n;
    if (m->deadline_ms == 0 || m->deadline_ms > VB_INVALIDATE_MS)
        m->deadline_ms = VB_INVALIDATE_MS;
    return n > 0;
}

bool vb_access_lost(struct vb_access *a, VfioBroker__PinsLost *m) {
    size_t n = 0;

    for (size_t i = 0; i < m->n_pins; i++) {
        const uint32_t id = m->pins[i];

        if (find(a, id)) {
            forget(a, id);
            m->pins[n++] = id;
        }
    }
    m->n_pins = n;
    if (strlen(m->reason) >= VB_ERROR_TEXT)
        m->reason = (char *)"the owner's session gives no reason";
    return n > 0 || m->closed;
}
