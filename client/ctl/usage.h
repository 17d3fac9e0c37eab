/* What is paid, collected from the daemon and the sessions for `vfio-brokerctl usage`: three grids that are about the same
 * bytes. Of an account, own mlock + leased is what is in use of its limit; leased is the sum of its sessions' leases; and
 * the reasons that are counted add up to the same: mapping + pin + lease idle is a session's lease, "other leases" the rest.
 *
 * Rows are read one after the other while sessions go on, so sums can be off for a moment. */
#ifndef CTL_USAGE_H
#define CTL_USAGE_H

#include "client/ctl/ctl.h"

enum usage_account_column {
    USAGE_ACCOUNT_NAME,
    USAGE_ACCOUNT_LIMIT = 3,
    USAGE_ACCOUNT_LEASED,
    USAGE_ACCOUNT_IDLE,
    USAGE_ACCOUNT_OWN,
    USAGE_ACCOUNT_LEFT,
    USAGE_ACCOUNT_OVER,
    USAGE_ACCOUNT_STATE,
    USAGE_ACCOUNT_SESSIONS,
    USAGE_ACCOUNT_WHOSE,
    USAGE_ACCOUNT_ADVICE,
};

enum usage_session_column {
    USAGE_SESSION_NUMBER,
    USAGE_SESSION_NAME,
    USAGE_SESSION_USED,
    USAGE_SESSION_LEASE,
    USAGE_SESSION_MAPPED_PAID = 5,
    USAGE_SESSION_PINNED_PAID,
    USAGE_SESSION_TABLES = 9,
    USAGE_SESSION_TABLES_MAX,
};

/* The columns of the three grids; the first two in the order of the enums above. */
#define USAGE_ACCOUNT_COLUMNS 13
#define USAGE_SESSION_COLUMNS 22
#define USAGE_REASON_COLUMNS  9
extern const struct grid_column usage_account_columns[USAGE_ACCOUNT_COLUMNS];
extern const struct grid_column usage_session_columns[USAGE_SESSION_COLUMNS];
extern const struct grid_column usage_reason_columns[USAGE_REASON_COLUMNS];

struct usage_view {
    struct grid accounts, sessions, reasons;
};
#define USAGE_VIEW __attribute__((cleanup(usage_fini)))

void usage_init(struct usage_view *v);
void usage_fini(struct usage_view *v);
/* Asks for the session of ctl and its account, or else for everything that may be seen. A status; it has been said what
 * failed, and what came is there. */
int usage_collect(struct ctl *ctl, struct usage_view *v);

/* ---- among the files usage*.c ---- */
static inline uint64_t usage_number(const struct grid *g, size_t row, size_t column) {
    return (uint64_t)grid_cell(g, row, column)->number;
}
static inline const char *usage_text(const struct grid *g, size_t row, size_t column) {
    return grid_cell(g, row, column)->text;
}
/* a - b; rows are of different moments, so that b may be more. */
static inline uint64_t usage_less(uint64_t a, uint64_t b) {
    return a > b ? a - b : 0;
}
/* A page of USAGE, for ctl_ask(). */
void usage_add_session(struct grid *g, uint32_t session, const VfioBroker__InspectReply *reply);
/* What a session could give back. */
uint64_t usage_idle(const struct grid *sessions, size_t row);
/* Does the account in that row pay for the session? */
bool usage_pays_for(const struct grid *accounts, size_t row, uint32_t session);
/* Asks for accounts, when the sessions are there. A status. */
int usage_ask_accounts(struct ctl *ctl, struct usage_view *v);
/* What the bytes are for, when both are there. */
void usage_add_reasons(struct ctl *ctl, struct usage_view *v);

#endif
