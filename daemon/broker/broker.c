#include "broker/broker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "broker/lease.h"
#include "broker/record.h"
#include "config.h"

/* ---- policy ---- */

static int load_policy(struct vb_broker *b) {
    struct vb_error e = {.code = 0};

    int r = vb_policy_load(b->options.policy, &b->policy, &e);
    if (r == -ENOENT) {
        vb_log(LOG_WARNING, "%s is missing: nobody is granted anything; see vfio-broker-policy(5)", b->options.policy);
        b->policy = vb_policy_empty(b->options.policy);
        return b->policy ? 0 : -ENOMEM;
    }
    if (r != 0)
        vb_log(LOG_ERR, "%s", e.text);
    return r;
}

/* An invalid policy changes nothing; a valid one holds for the sessions that begin from now on. */
static void reload_policy(struct vb_broker *b) {
    struct vb_error e = {.code = 0};
    struct vb_policy *p;

    if (vb_policy_load(b->options.policy, &p, &e) != 0) {
        vb_log(LOG_ERR, "%s; the policy that was read before stays in force", e.text);
        return;
    }
    vb_policy_unref(b->policy);
    b->policy = p;
    vb_log(LOG_NOTICE, "%s is read, grants: %u", p->path, p->n_grants);
}

/* ---- limits ---- */

/* Four fds for each session; and on type1 two for each group. */
static void raise_nofile(void) {
    struct rlimit rl;

    if (getrlimit(RLIMIT_NOFILE, &rl) == 0 && rl.rlim_cur < rl.rlim_max) {
        rl.rlim_cur = rl.rlim_max;
        setrlimit(RLIMIT_NOFILE, &rl);
    }
}

/* ---- signals ---- */

static void on_stop(evutil_socket_t sig, short what, void *arg) {
    struct vb_broker *b = arg;

    (void)what;
    vb_log(LOG_NOTICE, "stopped by signal %d; sessions that run on: %u", (int)sig, b->n_sessions);
    sd_notify(0, "STOPPING=1");
    event_base_loopbreak(b->base);
}

static void on_hup(evutil_socket_t sig, short what, void *arg) {
    (void)sig, (void)what;
    reload_policy(arg);
}

static int watch_signals(struct vb_broker *b) {
    static const struct {
        int signal;
        event_callback_fn fn;
    } signals[] = {{SIGTERM, on_stop}, {SIGINT, on_stop}, {SIGHUP, on_hup}};

    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        b->signals[i] = evsignal_new(b->base, signals[i].signal, signals[i].fn, b);
        if (!b->signals[i] || event_add(b->signals[i], NULL) < 0)
            return -ENOMEM;
    }
    return 0;
}

/* ---- life ---- */

static int set_up(struct vb_broker *b) {
    int r;

    b->base = event_base_new();
    b->rows = malloc(VB_PACKET_MAX);
    if (!b->base || !b->rows)
        return -ENOMEM;
    raise_nofile();
    if ((r = load_policy(b)) != 0 || (r = vb_backend_choose(b)) < 0 || (r = vb_link_buffers_init(&b->buffers)) < 0 ||
        (r = vb_uids_init(&b->uids, b->options.uid_first, b->options.uid_count)) < 0 || (r = watch_signals(b)) < 0 ||
        (r = vb_listeners_open(b)) < 0)
        return r;
    if ((r = vb_cgroups_init(&b->cgroups, b->options.cgroup, b->options.sys, b->options.proc, b->base)) < 0)
        return r;
    /* Before anybody is served, so that no uid is given twice. */
    if ((r = vb_strays_find(b)) < 0 || (r = vb_records_look(b)) < 0)
        return r;
    return vb_listeners_start(b);
}

struct vb_broker *vb_broker_new(const struct vb_options *o) {
    struct vb_broker *b = calloc(1, sizeof *b);

    if (!b) {
        vb_log(LOG_ERR, "no memory");
        return NULL;
    }
    b->options = *o;
    b->started = time(NULL);
    b->reserve_fd = b->clients.fd = b->sessions.fd = b->cgroups.dir = -1;
    b->accounts.ops = &vb_lease_ops;
    b->devices.forget = vb_fdstore_forget_group;
    b->devices.sys = o->sys;
    b->devices.dev = o->dev;
    b->devices.proc = o->proc;
    int r = set_up(b);
    if (r == 0)
        return b;
    if (r < 0)
        vb_log(LOG_ERR, "cannot start: %s", strerror(-r));
    vb_broker_free(b);
    return NULL;
}

int vb_broker_run(struct vb_broker *b) {
    vb_log(LOG_NOTICE, "version " PACKAGE_VERSION ", backend %s, grants: %u, serving %s", vb_backend_text(b),
           b->policy->n_grants, b->clients.path);
    sd_notifyf(0, "READY=1\nSTATUS=Serving %s, backend %s", b->clients.path, vb_backend_text(b));
    return event_base_dispatch(b->base) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

void vb_broker_free(struct vb_broker *b) {
    b->stopping = b->accounts.ends = true;
    b->devices.forget = NULL; /* systemd keeps what it has: sessions run on */
    vb_listeners_close(b);
    vb_strays_free(b);
    if (b->look)
        event_free(b->look);
    while (!LIST_EMPTY(&b->records))
        vb_record_free(LIST_FIRST(&b->records));
    for (size_t i = 0; i < sizeof b->signals / sizeof b->signals[0]; i++)
        if (b->signals[i])
            event_free(b->signals[i]);
    vb_link_buffers_fini(&b->buffers);
    vb_cgroups_fini(&b->cgroups);
    vb_uids_fini(&b->uids);
    vb_policy_unref(b->policy);
    free(b->rows);
    if (b->base)
        event_base_free(b->base);
    free(b);
}
