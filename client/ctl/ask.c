/* Asking the broker, page by page, and telling people what to do when it does not answer. */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/ctl/ctl.h"
#include "proto/cleanup.h"

static int refused(struct ctl *ctl, int r) {
    const struct vfb_error *e = vfb_error(ctl->client);

    ctl_say("%s (%s)", e->text[0] ? e->text : "the broker gave no reason", vfb_code_name(r));
    return r == -EPIPE ? CTL_NO_BROKER : CTL_FAILED;
}

/* The socket that vfb_connect() takes. */
static const char *socket_path(const struct ctl *ctl) {
    const char *path = ctl->socket ? ctl->socket : getenv(VFB_SOCKET_ENV);

    return path && *path ? path : VFB_SOCKET;
}

/* What the library says, with the socket's path. */
static void say_unconnected(const struct ctl *ctl, const char *path) {
    const char *text = vfb_error(ctl->client)->text;

    if (strstr(text, path))
        ctl_say("%s", text);
    else
        ctl_say("%s: %s", path, text[0] ? text : "the broker gave no reason");
}

int ctl_connect(struct ctl *ctl) {
    const char *path = socket_path(ctl);
    int r = vfb_client_new(&ctl->client);

    if (r < 0) {
        ctl_say("out of memory");
        return CTL_FAILED;
    }
    r = vfb_connect(ctl->client, ctl->socket, "vfio-brokerctl");
    if (r == 0)
        return CTL_OK;
    say_unconnected(ctl, path);
    if (r == -ENOENT || r == -ECONNREFUSED || r == -EPIPE || r == -ETIMEDOUT) {
        if (strcmp(path, VFB_SOCKET) == 0)
            ctl_say("look at it with: systemctl status vfio-broker.socket vfio-brokerd.service");
        return CTL_NO_BROKER;
    }
    if (r == VFB_DENIED)
        ctl_say("run it as root, or have this user granted something in the policy: see vfio-broker-policy(5)");
    else if (r == -EACCES)
        ctl_say("run it as root, or as a member of the group that owns the socket");
    return CTL_FAILED;
}

int ctl_try(struct ctl *ctl, VfioBroker__InspectKind kind, uint32_t session, ctl_page_fn fn, struct grid *g) {
    const VfioBroker__InspectReply *reply;
    uint64_t after = 0;

    do {
        int r = vfb_inspect(ctl->client, kind, session, after, &reply);

        if (r != 0)
            return r;
        fn(g, session ? session : vfb_info(ctl->client)->session, reply);
        after = reply->next;
    } while (after != 0 && !g->failed);
    return 0;
}

int ctl_ask(struct ctl *ctl, VfioBroker__InspectKind kind, uint32_t session, ctl_page_fn fn, struct grid *g) {
    int r = ctl_try(ctl, kind, session, fn, g);

    return r == 0 ? CTL_OK : refused(ctl, r);
}

static const struct grid_column number_columns[] = {{"session", "SESSION", GRID_NUMBER}};

static void note_numbers(struct grid *g, uint32_t own, const VfioBroker__InspectReply *reply) {
    for (size_t i = 0; i < reply->n_sessions; i++)
        if (reply->sessions[i]->session != own)
            grid_number(g, reply->sessions[i]->session);
}

void ctl_note_none(struct ctl *ctl, size_t sessions) {
    ctl->none_of_uid = sessions == 0 && !(vfb_info(ctl->client)->features & VFB_FEATURE_ADMIN);
}

int ctl_ask_sessions(struct ctl *ctl, VfioBroker__InspectKind kind, ctl_page_fn fn, struct grid *g) {
    GRID struct grid numbers = GRID_INIT(number_columns);
    int status;

    if (ctl->has_session)
        return ctl_ask(ctl, kind, ctl->session, fn, g);
    status = ctl_ask(ctl, VFIO_BROKER__INSPECT_KIND__INSPECT_SESSIONS, 0, note_numbers, &numbers);
    if (status != CTL_OK)
        return status;
    ctl_note_none(ctl, grid_rows(&numbers));
    for (size_t i = 0; i < grid_rows(&numbers); i++) {
        uint32_t session = (uint32_t)grid_cell(&numbers, i, 0)->number;
        int r = ctl_try(ctl, kind, session, fn, g);

        if (r == -EPIPE)
            return refused(ctl, r);
        if (r == 0 || r == VFB_NOT_FOUND) /* ended since */
            continue;
        ctl_say("session %u is left out: %s (%s)", session, vfb_error(ctl->client)->text, vfb_code_name(r));
        status = CTL_FAILED;
    }
    return status;
}

int ctl_show(const struct ctl *ctl, const struct grid *g, const char *what, bool single) {
    int r;

    if (ctl->json == CTL_JSON_OFF && ctl->none_of_uid && grid_rows(g) == 0 && !g->failed) {
        printf("No sessions of uid %u (an administrator sees all).\n", (unsigned)geteuid());
        return CTL_OK;
    }
    if (ctl->json != CTL_JSON_OFF)
        r = json_print(g, what, single, ctl->json == CTL_JSON_PRETTY);
    else
        r = single ? table_print_record(g) : table_print(g, what);
    if (r == 0)
        return CTL_OK;
    ctl_say("out of memory");
    return CTL_FAILED;
}
