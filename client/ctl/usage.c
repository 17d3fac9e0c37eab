/* See usage.h: sessions, and the order in which everything is asked. */
#include "config.h"

#include "client/ctl/usage.h"

const struct grid_column usage_session_columns[USAGE_SESSION_COLUMNS] = {
    {"session", "Session", GRID_NUMBER},
    {"name", "Name", GRID_TEXT},
    {"used", "Used", GRID_BYTES},
    {"lease", "Lease", GRID_BYTES},
    {"limit", "Limit at the last grant", GRID_BYTES},
    {"mapped_paid", "Paid for mappings", GRID_BYTES},
    {"pinned_paid", "Paid for pins alone", GRID_BYTES},
    {"doubled", "Mapped and pinned", GRID_BYTES},
    {"mapped", "Mapped, each alias", GRID_BYTES},
    {"tables", "Tables by estimate", GRID_BYTES},
    {"tables_max", "Tables at most", GRID_BYTES},
    {"mappings", "Mappings", GRID_NUMBER},
    {"mappings_max", "Mappings at most", GRID_NUMBER},
    {"memories", "Memories", GRID_NUMBER},
    {"spaces", "Spaces", GRID_NUMBER},
    {"devices", "Devices", GRID_NUMBER},
    {"tokens", "Tokens", GRID_NUMBER},
    {"pins", "Pins of others", GRID_NUMBER},
    {"accesses", "Accesses to others", GRID_NUMBER},
    {"parked", "Requests that wait for pins", GRID_NUMBER},
    {"leftovers", "Kernel objects left over", GRID_NUMBER},
    {"limit_whose", "Limited by", GRID_TEXT},
};

void usage_init(struct usage_view *v) {
    *v = (struct usage_view){.accounts = GRID_INIT(usage_account_columns),
                             .sessions = GRID_INIT(usage_session_columns),
                             .reasons = GRID_INIT(usage_reason_columns)};
}

void usage_fini(struct usage_view *v) {
    grid_fini(&v->accounts);
    grid_fini(&v->sessions);
    grid_fini(&v->reasons);
}

void usage_add_session(struct grid *g, uint32_t session, const VfioBroker__InspectReply *reply) {
    const VfioBroker__UsageRow *row = reply->usage;

    if (!row)
        return;
    grid_number(g, session);
    grid_text(g, row->name);
    grid_number(g, row->used);
    grid_number(g, row->lease);
    grid_number(g, row->limit);
    grid_number(g, row->mapped_paid);
    grid_number(g, row->pinned_paid);
    grid_number(g, row->doubled);
    grid_number(g, row->mapped);
    grid_number(g, row->tables);
    grid_number(g, row->tables_max);
    grid_number(g, row->mappings);
    grid_number(g, row->mappings_max);
    grid_number(g, row->memories);
    grid_number(g, row->spaces);
    grid_number(g, row->devices);
    grid_number(g, row->tokens);
    grid_number(g, row->pins);
    grid_number(g, row->accesses);
    grid_number(g, row->parked);
    grid_number(g, row->leftovers);
    grid_text(g, row->limit_whose);
}

uint64_t usage_idle(const struct grid *sessions, size_t row) {
    return usage_less(usage_number(sessions, row, USAGE_SESSION_LEASE),
                      usage_number(sessions, row, USAGE_SESSION_USED));
}

int usage_collect(struct ctl *ctl, struct usage_view *v) {
    int status = ctl_ask_sessions(ctl, VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE, usage_add_session, &v->sessions);

    if (status != CTL_OK && grid_rows(&v->sessions) == 0)
        return status;
    int asked = usage_ask_accounts(ctl, v);
    if (!v->accounts.failed && !v->sessions.failed)
        usage_add_reasons(ctl, v);
    return status != CTL_OK ? status : asked;
}
