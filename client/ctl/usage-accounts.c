/* Accounts, as the daemon tells them, with what can be said only when their sessions are known: what is idle, and whether
 * anything is left. See usage.h. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/usage.h"
#include "proto/limits.h"

const struct grid_column usage_account_columns[USAGE_ACCOUNT_COLUMNS] = {
    {"account", "ACCOUNT", GRID_TEXT},
    {"kind", NULL, GRID_TEXT},
    {"uid", NULL, GRID_NUMBER},
    {"limit", "LIMIT", GRID_BYTES},
    {"leased", "LEASED", GRID_BYTES},
    {"idle", "IDLE", GRID_BYTES},
    {"own_mlock", "OWN MLOCK", GRID_BYTES},
    {"left", "LEFT", GRID_BYTES},
    {"over", NULL, GRID_BYTES},
    {"state", "STATE", GRID_TEXT},
    {"sessions", "SESSIONS", GRID_NUMBERS},
    {"limit_whose", "LIMITED BY", GRID_TEXT},
    {"advice", NULL, GRID_TEXT},
};

/* A session's number in an account's list: 0 at its end. */
static uint32_t next_session(const char **list) {
    char *end;

    if (!**list)
        return 0;
    uint32_t n = (uint32_t)strtoul(*list, &end, 10);
    *list = end + 1; /* behind the newline */
    return n;
}

bool usage_pays_for(const struct grid *accounts, size_t row, uint32_t session) {
    const char *list = usage_text(accounts, row, USAGE_ACCOUNT_SESSIONS);

    for (uint32_t n; (n = next_session(&list)) != 0;)
        if (n == session)
            return true;
    return false;
}

static void add_account(struct grid *g, const VfioBroker__AccountRow *row) {
    grid_text(g, row->name);
    grid_text(g, row->kind);
    grid_number(g, row->uid);
    grid_number(g, row->limit);
    grid_number(g, row->leased);
    grid_number(g, 0); /* see finish() */
    grid_number(g, row->own);
    grid_number(g, 0);
    grid_number(g, row->over);
    grid_text(g, row->over ? "over" : *row->limit_whose ? "ok" : "ending");
    grid_numbers(g, row->sessions, row->n_sessions);
    grid_text(g, row->limit_whose);
    grid_text(g, row->state);
}

/* Asked for all: `own` is vfio-brokerctl's session, which is not shown. */
static void add_accounts(struct grid *g, uint32_t own, const VfioBroker__InspectReply *reply) {
    for (size_t i = 0; i < reply->n_accounts; i++)
        if (reply->accounts[i]->n_sessions != 1 || reply->accounts[i]->sessions[0] != own)
            add_account(g, reply->accounts[i]);
}

/* Asked for the account of one session. */
static void add_its_account(struct grid *g, uint32_t session, const VfioBroker__InspectReply *reply) {
    (void)session;
    for (size_t i = 0; i < reply->n_accounts; i++)
        add_account(g, reply->accounts[i]);
}

static struct grid_cell *cell(struct grid *g, size_t row, size_t column) {
    return &g->cells[row * g->n_columns + column];
}

static void set_text(struct grid *g, size_t row, size_t column, const char *to) {
    static const struct grid_column one[] = {{"", NULL, GRID_TEXT}};
    GRID struct grid with = GRID_INIT(one);

    grid_text(&with, to);
    if (with.failed)
        g->failed = true;
    else
        grid_replace(g, row, column, &with);
}

/* vfio-brokerctl's own session, which pays for nothing, is left out of an account that it shares with others. */
static void drop_own(struct ctl *ctl, struct grid *a, size_t row) {
    static const struct grid_column one[] = {{"", NULL, GRID_NUMBERS}};
    GRID struct grid usage = GRID_INIT(usage_session_columns);
    GRID struct grid with = GRID_INIT(one);
    uint32_t own = vfb_info(ctl->client)->session, others[VB_SESSIONS_MAX], n_others = 0;
    const char *list = usage_text(a, row, USAGE_ACCOUNT_SESSIONS);

    if (!usage_pays_for(a, row, own))
        return;
    for (uint32_t n; (n = next_session(&list)) != 0 && n_others < VB_SESSIONS_MAX;)
        if (n != own)
            others[n_others++] = n;
    grid_numbers(&with, others, n_others);
    if (with.failed || ctl_try(ctl, VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE, 0, usage_add_session, &usage) != 0 ||
        usage.failed || grid_rows(&usage) != 1)
        return;
    grid_replace(a, row, USAGE_ACCOUNT_SESSIONS, &with);
    cell(a, row, USAGE_ACCOUNT_LEASED)->number =
        (int64_t)usage_less(usage_number(a, row, USAGE_ACCOUNT_LEASED), usage_number(&usage, 0, USAGE_SESSION_LEASE));
}

/* What the account's sessions could give back. */
static uint64_t idle_of_all(struct ctl *ctl, const struct usage_view *v, size_t row) {
    const char *list = usage_text(&v->accounts, row, USAGE_ACCOUNT_SESSIONS);
    uint64_t sum = 0;

    for (uint32_t n; (n = next_session(&list)) != 0;) {
        GRID struct grid other = GRID_INIT(usage_session_columns);
        size_t i = 0;

        while (i < grid_rows(&v->sessions) && usage_number(&v->sessions, i, USAGE_SESSION_NUMBER) != n)
            i++;
        if (i < grid_rows(&v->sessions))
            sum += usage_idle(&v->sessions, i);
        else if (ctl->has_session && /* of this account, but not the one asked for */
                 ctl_try(ctl, VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE, n, usage_add_session, &other) == 0 &&
                 !other.failed && grid_rows(&other) == 1)
            sum += usage_idle(&other, 0);
    }
    return sum;
}

/* An account is full when nothing is left that a session could get, from another one's idle lease either. */
static void finish(struct ctl *ctl, struct usage_view *v, size_t row) {
    struct grid *a = &v->accounts;
    char advice[256];

    drop_own(ctl, a, row);
    uint64_t idle = idle_of_all(ctl, v, row), limit = usage_number(a, row, USAGE_ACCOUNT_LIMIT);
    uint64_t left = usage_less(usage_less(limit, usage_number(a, row, USAGE_ACCOUNT_LEASED)),
                               usage_number(a, row, USAGE_ACCOUNT_OWN));
    cell(a, row, USAGE_ACCOUNT_IDLE)->number = (int64_t)idle;
    cell(a, row, USAGE_ACCOUNT_LEFT)->number = (int64_t)left;
    if (strcmp(usage_text(a, row, USAGE_ACCOUNT_STATE), "ok") != 0 || left > 0 || idle > 0)
        return;
    set_text(a, row, USAGE_ACCOUNT_STATE, "full");
    if (*usage_text(a, row, USAGE_ACCOUNT_ADVICE))
        return;
    snprintf(advice, sizeof advice, "all of %s is in use: raise %.100s, or have something unmapped", size_text(limit).s,
             usage_text(a, row, USAGE_ACCOUNT_WHOSE));
    set_text(a, row, USAGE_ACCOUNT_ADVICE, advice);
}

int usage_ask_accounts(struct ctl *ctl, struct usage_view *v) {
    int status = ctl_ask(ctl, VFIO_BROKER__INSPECT_KIND__INSPECT_ACCOUNTS, ctl->has_session ? ctl->session : 0,
                         ctl->has_session ? add_its_account : add_accounts, &v->accounts);

    for (size_t row = 0; row < grid_rows(&v->accounts) && !v->accounts.failed && !v->sessions.failed; row++)
        finish(ctl, v, row);
    return status;
}
