/* vfio-brokerctl status: the broker in a few lines. */
#include "config.h"

#include "client/ctl/ctl.h"

#define COLUMN_LEASED 9
static const struct grid_column columns[] = {
    {"program", "Version", GRID_TEXT},
    {"backend", "Backend", GRID_TEXT},
    {"pid", "PID", GRID_NUMBER},
    {"started", "Started", GRID_TIME},
    {"sessions", "Sessions", GRID_NUMBER},
    {"sessions_max", "Sessions at most", GRID_NUMBER},
    {"devices", "Devices", GRID_NUMBER},
    {"devices_claimed", "Devices claimed", GRID_NUMBER},
    {"devices_held", "Devices held", GRID_NUMBER},
    {"leased_bytes", "Leased", GRID_BYTES},
    {"policy", "Policy", GRID_TEXT},
    {"grants", "Grants", GRID_NUMBER},
};

static void add(struct grid *g, uint32_t session, const VfioBroker__InspectReply *reply) {
    const VfioBroker__StatusRow *row = reply->status;
    (void)session;

    if (!row)
        return;
    grid_text(g, row->version);
    grid_text(g, row->backend);
    grid_number(g, row->pid);
    grid_number(g, row->started);
    grid_number(g, row->sessions > 0 ? row->sessions - 1 : 0); /* without the one that asks */
    grid_number(g, row->sessions_max);
    grid_number(g, row->devices);
    grid_number(g, row->devices_claimed);
    grid_number(g, row->devices_held);
    grid_number(g, row->leased_bytes);
    grid_text(g, row->policy);
    grid_number(g, row->grants);
}

/* What vfio-brokerctl's own session adds to the sum. */
static const struct grid_column own_columns[] = {{"lease", NULL, GRID_BYTES}};

static void add_own(struct grid *g, uint32_t session, const VfioBroker__InspectReply *reply) {
    (void)session;
    grid_number(g, reply->usage ? reply->usage->lease : 0);
}

static void subtract_own(struct ctl *ctl, struct grid *g) {
    GRID struct grid own = GRID_INIT(own_columns);
    struct grid_cell *leased = &g->cells[COLUMN_LEASED];

    if (ctl_try(ctl, VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE, 0, add_own, &own) != 0 || grid_rows(&own) != 1)
        return;
    uint64_t n = (uint64_t)grid_cell(&own, 0, 0)->number, sum = (uint64_t)leased->number;
    leased->number = (int64_t)(sum > n ? sum - n : 0);
}

int cmd_status(struct ctl *ctl, int n, char **args) {
    GRID struct grid g = GRID_INIT(columns);
    int status = ctl_connect(ctl);
    (void)n, (void)args;

    if (status == CTL_OK)
        status = ctl_ask(ctl, VFIO_BROKER__INSPECT_KIND__INSPECT_STATUS, 0, add, &g);
    if (status != CTL_OK)
        return status;
    if (grid_rows(&g) != 1) {
        ctl_say("the broker told no status");
        return CTL_FAILED;
    }
    subtract_own(ctl, &g);
    return ctl_show(ctl, &g, "status", true);
}
