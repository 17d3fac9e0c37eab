/* What the bytes are for: memory by memory, and what belongs to no memory. See usage.h. */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "client/ctl/usage.h"

const struct grid_column usage_reason_columns[USAGE_REASON_COLUMNS] = {
    {"account", "ACCOUNT", GRID_TEXT}, {"session", "SESSION", GRID_ID},   {"name", "NAME", GRID_TEXT},
    {"memory", "MEMORY", GRID_ID},     {"memory_name", "", GRID_TEXT},    {"reason", "REASON", GRID_TEXT},
    {"bytes", "BYTES", GRID_BYTES},    {"counted", "COUNTED", GRID_FLAG}, {"note", "NOTE", GRID_TEXT},
};

enum { MEMORY_NUMBER, MEMORY_NAME, MEMORY_MAPPED, MEMORY_PINNED, MEMORY_PAID, MEMORY_NOTE, MEMORY_KIND };
static const struct grid_column memory_columns[] = {
    {"memory", NULL, GRID_NUMBER}, {"name", NULL, GRID_TEXT},  {"mapped", NULL, GRID_BYTES},
    {"pinned", NULL, GRID_BYTES},  {"paid", NULL, GRID_BYTES}, {"note", NULL, GRID_TEXT},
    {"kind", NULL, GRID_TEXT},
};

struct payer { /* for whom the bytes are */
    const char *account, *name;
    uint32_t session;
};

static void add_reason(struct grid *g, const struct payer *p, uint64_t memory, const char *memory_name,
                       const char *reason, uint64_t bytes, bool counted, const char *note) {
    if (bytes == 0)
        return;
    grid_text(g, p->account);
    grid_number(g, p->session);
    grid_text(g, p->name);
    grid_number(g, memory);
    grid_text(g, memory_name);
    grid_text(g, reason);
    grid_number(g, bytes);
    grid_number(g, counted);
    grid_text(g, note);
}

/* Pages of hugetlbfs are not locked (mm/mlock.c), so they are counted once. */
static const char *both_note(const char *kind) {
    return strcmp(kind, "hugetlb") == 0 ? "paid with its mapping"
                                        : "paid with its mapping; the kernel counts it twice in the session's VmLck";
}

/* Where the daemon has no reason of its own: what a mapping costs. */
static const char *mapping_note(const struct ctl *ctl, const char *told) {
    if (*told || (vfb_info(ctl->client)->features & VFB_FEATURE_SHARED_PINS))
        return told;
    return "paid anew for each mapping in each domain: this backend cannot share pins";
}

static void add_memory(struct grid *g, uint32_t session, const VfioBroker__InspectReply *reply) {
    (void)session;
    for (size_t i = 0; i < reply->n_memories; i++) {
        const VfioBroker__MemoryRow *row = reply->memories[i];

        grid_number(g, row->memory);
        grid_text(g, row->name);
        grid_number(g, row->mapped);
        grid_number(g, row->pinned);
        grid_number(g, row->paid);
        grid_text(g, row->note);
        grid_text(g, row->kind);
    }
}

static void add_reasons_of(struct ctl *ctl, struct usage_view *v, size_t session, const char *account) {
    const struct grid *s = &v->sessions;
    struct grid *g = &v->reasons;
    const struct payer p = {account, usage_text(s, session, USAGE_SESSION_NAME),
                            (uint32_t)usage_number(s, session, USAGE_SESSION_NUMBER)};
    GRID struct grid memory = GRID_INIT(memory_columns);
    char note[96];

    if (ctl_try(ctl, VFIO_BROKER__INSPECT_KIND__INSPECT_MEMORY, p.session, add_memory, &memory) != 0) {
        /* It ended, or hangs: what it said of the whole. */
        add_reason(g, &p, 0, "", "mapping", usage_number(s, session, USAGE_SESSION_MAPPED_PAID), true, "");
        add_reason(g, &p, 0, "", "pin", usage_number(s, session, USAGE_SESSION_PINNED_PAID), true, "");
        grid_fini(&memory);
    }
    g->failed |= memory.failed;
    for (size_t i = 0; i < grid_rows(&memory); i++) {
        uint64_t id = usage_number(&memory, i, MEMORY_NUMBER), mapped = usage_number(&memory, i, MEMORY_MAPPED);
        uint64_t pins_alone = usage_less(usage_number(&memory, i, MEMORY_PAID), mapped);
        const char *name = usage_text(&memory, i, MEMORY_NAME);

        add_reason(g, &p, id, name, "mapping", mapped, true, mapping_note(ctl, usage_text(&memory, i, MEMORY_NOTE)));
        add_reason(g, &p, id, name, "pin", pins_alone, true, "no mapping shows it any more");
        add_reason(g, &p, id, name, "mapping and pin", usage_less(usage_number(&memory, i, MEMORY_PINNED), pins_alone),
                   false, both_note(usage_text(&memory, i, MEMORY_KIND)));
    }
    add_reason(g, &p, 0, "", "lease idle", usage_idle(s, session), true,
               "kept for what comes next, up to 64 MiB; given back when others need it");
    snprintf(note, sizeof note, "an estimate; at most %s (tables_max)",
             size_text(usage_number(s, session, USAGE_SESSION_TABLES_MAX)).s);
    add_reason(g, &p, 0, "", "table estimate", usage_number(s, session, USAGE_SESSION_TABLES), false, note);
}

void usage_add_reasons(struct ctl *ctl, struct usage_view *v) {
    const struct grid *a = &v->accounts, *s = &v->sessions;

    for (size_t row = 0; row < grid_rows(a); row++) {
        const struct payer clients = {.account = usage_text(a, row, USAGE_ACCOUNT_NAME)};

        add_reason(&v->reasons, &clients, 0, "", "own mlock", usage_number(a, row, USAGE_ACCOUNT_OWN), true,
                   "by the client itself");
        uint64_t others = usage_number(a, row, USAGE_ACCOUNT_LEASED);
        for (size_t i = 0; i < grid_rows(s); i++) {
            if (!usage_pays_for(a, row, (uint32_t)usage_number(s, i, USAGE_SESSION_NUMBER)))
                continue;
            add_reasons_of(ctl, v, i, clients.account);
            others = usage_less(others, usage_number(s, i, USAGE_SESSION_LEASE));
        }
        add_reason(&v->reasons, &clients, 0, "", "other leases", others, true,
                   "of sessions that are not shown here, or did not answer");
    }
}
