/* A second client, in a process of its own, that does what it is told: opens accesses with tokens, pins and unpins. What it is
 * asked to give up it gives up at once. See ledger-run.h. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ledger-run.h"

static void on_event(struct vfb_client *c, const struct vfb_event *e, void *arg) {
    (void)arg;
    if (e->kind != VFB_EVENT_INVALIDATE)
        return;
    for (size_t i = 0; i < e->n_pins; i += 64)
        vfb_unpin(c, e->access, e->pins + i, e->n_pins - i < 64 ? e->n_pins - i : 64);
}

static struct answer obey(struct vfb_client *c, const struct order *o) {
    struct answer a = {.result = -EINVAL};
    struct vfb_access access = {0};
    struct vfb_pin pin = {0};

    switch (o->kind) {
    case ORDER_OPEN:
        a.result = vfb_access_open(c, o->secret, &access);
        a.id = access.id;
        break;
    case ORDER_PIN:
        a.result = vfb_pin(c, o->access, &o->range, 1, &pin);
        a.id = pin.id;
        break;
    case ORDER_UNPIN:
        a.result = vfb_unpin(c, o->access, &o->pin, 1);
        break;
    }
    snprintf(a.text, sizeof a.text, "%s", a.result ? vfb_error(c)->text : "");
    return a;
}

/* Ends when its master closes the socket. */
static int serve(int master) {
    struct vfb_client *c;
    struct answer a;
    struct order o;

    if (vfb_client_new(&c) != 0 || vfb_connect(c, NULL, "ledger pinner") != 0)
        return 1;
    vfb_set_event_handler(c, on_event, NULL);
    for (;;) {
        struct pollfd p[2] = {{.fd = master, .events = POLLIN}, {.fd = vfb_fd(c), .events = vfb_events(c)}};

        if (poll(p, 2, -1) < 0)
            return 1;
        if (p[1].revents && vfb_process(c) != 0)
            return 1;
        if (!p[0].revents)
            continue;
        if (recv(master, &o, sizeof o, 0) != (ssize_t)sizeof o)
            break;
        a = obey(c, &o);
        if (send(master, &a, sizeof a, MSG_NOSIGNAL) != (ssize_t)sizeof a)
            break;
    }
    vfb_client_free(c);
    return 0;
}

void pinner_start(struct user *u) {
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 || (u->pinner_pid = fork()) < 0)
        mismatch(u, "second client: %s", strerror(errno));
    if (u->pinner_pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(pair[0]);
        _exit(serve(pair[1]));
    }
    close(pair[1]);
    u->pinner = pair[0];
}

struct answer pinner_ask(struct user *u, const struct order *o) {
    struct answer a;

    if (send(u->pinner, o, sizeof *o, MSG_NOSIGNAL) != (ssize_t)sizeof *o ||
        recv(u->pinner, &a, sizeof a, 0) != (ssize_t)sizeof a)
        mismatch(u, "the second client has ended");
    return a;
}

void pinner_stop(struct user *u) {
    int status;

    close(u->pinner);
    if (waitpid(u->pinner_pid, &status, 0) < 0 || status != 0)
        mismatch(u, "the second client ended with status 0x%x", (unsigned)status);
}
