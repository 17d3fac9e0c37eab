/* vfio-brokerctl usage: who pays for how much, and what to do when nothing is left. */
#include "config.h"

#include <stdio.h>

#include "client/ctl/usage.h"

static int print_json(const struct ctl *ctl, const struct usage_view *v) {
    const struct grid_part parts[] = {{.what = "accounts", .grid = &v->accounts},
                                      {.what = "usage", .grid = &v->sessions},
                                      {.what = "reasons", .grid = &v->reasons}};

    return json_print_parts(parts, sizeof parts / sizeof *parts, ctl->json == CTL_JSON_PRETTY);
}

static void print_advice(const struct grid *accounts) {
    for (size_t row = 0; row < grid_rows(accounts); row++) {
        const char *advice = grid_cell(accounts, row, USAGE_ACCOUNT_ADVICE)->text;

        if (*advice)
            printf("\n%s: %s\n", grid_cell(accounts, row, USAGE_ACCOUNT_NAME)->text, advice);
    }
}

/* The accounts, the session if it is one that is asked for, what its bytes are for, and the way out. */
static int print_text(const struct ctl *ctl, const struct usage_view *v) {
    int r = table_print(&v->accounts, ctl->has_session ? "account pays for it" : "accounts");

    if (r == 0 && ctl->has_session && grid_rows(&v->sessions) > 0) {
        putchar('\n');
        r = table_print_record(&v->sessions);
    }
    if (r == 0 && grid_rows(&v->reasons) > 0) {
        putchar('\n');
        r = table_print(&v->reasons, "reasons");
    }
    if (r == 0)
        print_advice(&v->accounts);
    return r;
}

int cmd_usage(struct ctl *ctl, int n, char **args) {
    struct usage_view v USAGE_VIEW;
    int status = ctl_session_argument(ctl, n, args), r;

    usage_init(&v);
    if (status == CTL_OK)
        status = ctl_connect(ctl);
    if (status == CTL_OK)
        status = usage_collect(ctl, &v);
    if (status != CTL_OK && grid_rows(&v.sessions) == 0)
        return status;
    if (ctl->json == CTL_JSON_OFF && ctl->none_of_uid && grid_rows(&v.accounts) == 0)
        return ctl_show(ctl, &v.accounts, "accounts", false);
    r = ctl->json == CTL_JSON_OFF ? print_text(ctl, &v) : print_json(ctl, &v);
    if (r == 0 && !v.accounts.failed && !v.sessions.failed && !v.reasons.failed)
        return status;
    ctl_say("out of memory");
    return CTL_FAILED;
}
