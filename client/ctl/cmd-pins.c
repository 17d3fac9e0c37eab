/* vfio-brokerctl pins: who holds references on whose memory. */
#include "config.h"

#include "client/ctl/ctl.h"

static const struct grid_column columns[] = {
    {"session", "SESSION", GRID_NUMBER}, {"pin", "PIN", GRID_NUMBER},    {"space", "SPACE", GRID_NUMBER},
    {"iova", "IOVA", GRID_ADDRESS},      {"size", "SIZE", GRID_BYTES},   {"prot", "PROT", GRID_TEXT},
    {"by_session", "BY", GRID_NUMBER},   {"by_pid", "PID", GRID_NUMBER}, {"state", "STATE", GRID_TEXT},
    {"token", "TOKEN", GRID_TEXT},
};

static void add(struct grid *g, uint32_t session, const VfioBroker__InspectReply *reply) {
    static const char *const prots[] = {"--", "r-", "-w", "rw"};

    for (size_t i = 0; i < reply->n_pins; i++) {
        const VfioBroker__PinRow *row = reply->pins[i];

        grid_number(g, session);
        grid_number(g, row->pin);
        grid_number(g, row->space);
        grid_number(g, row->iova);
        grid_number(g, row->size);
        grid_text(g, prots[row->prot & (VFB_READ | VFB_WRITE)]);
        grid_number(g, row->session);
        grid_number(g, row->client_pid);
        grid_text(g, row->state);
        grid_text(g, row->token);
    }
}

int cmd_pins(struct ctl *ctl, int n, char **args) {
    GRID struct grid g = GRID_INIT(columns);
    int status = ctl_session_argument(ctl, n, args), shown;

    if (status == CTL_OK)
        status = ctl_connect(ctl);
    if (status == CTL_OK)
        status = ctl_ask_sessions(ctl, VFIO_BROKER__INSPECT_KIND__INSPECT_PINS, add, &g);
    if (status != CTL_OK && grid_rows(&g) == 0)
        return status;
    shown = ctl_show(ctl, &g, "pins", false);
    return status != CTL_OK ? status : shown;
}
