/* vfio-brokerctl usage: what each session may use and uses. */
#include "config.h"

#include "client/ctl/ctl.h"

static const struct grid_column columns[] = {
    {"session", "SESSION", GRID_NUMBER},      {"name", "NAME", GRID_TEXT},         {"used", "USED", GRID_BYTES},
    {"lease", "LEASE", GRID_BYTES},           {"limit", "LIMIT", GRID_BYTES},      {"mapped", "MAPPED", GRID_BYTES},
    {"mappings", "MAPPINGS", GRID_NUMBER},    {"mappings_max", NULL, GRID_NUMBER}, {"memories", "MEMORY", GRID_NUMBER},
    {"spaces", "SPACES", GRID_NUMBER},        {"devices", "DEVICES", GRID_NUMBER}, {"leftovers", NULL, GRID_NUMBER},
    {"limit_whose", "LIMITED BY", GRID_TEXT},
};

static void add(struct grid *g, uint32_t session, const VfioBroker__InspectReply *reply) {
    const VfioBroker__UsageRow *row = reply->usage;

    if (!row)
        return;
    grid_number(g, session);
    grid_text(g, row->name);
    grid_number(g, row->used);
    grid_number(g, row->lease);
    grid_number(g, row->limit);
    grid_number(g, row->mapped);
    grid_number(g, row->mappings);
    grid_number(g, row->mappings_max);
    grid_number(g, row->memories);
    grid_number(g, row->spaces);
    grid_number(g, row->devices);
    grid_number(g, row->leftovers);
    grid_text(g, row->limit_whose);
}

int cmd_usage(struct ctl *ctl, int n, char **args) {
    GRID struct grid g = GRID_INIT(columns);
    int status = ctl_connect(ctl), shown;
    (void)n, (void)args;

    if (status == CTL_OK)
        status = ctl_ask_sessions(ctl, VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE, add, &g);
    if (status != CTL_OK && grid_rows(&g) == 0)
        return status;
    shown = ctl_show(ctl, &g, "usage", false);
    return status != CTL_OK ? status : shown;
}
