/* A session process from Start to its exit. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "backend/emulated.h"
#include "backend/iommufd.h"
#include "backend/type1.h"
#include "backend/workers.h"
#include "config.h"
#include "proto/cleanup.h"
#include "session/session.h"

void vb_session_log(const struct vb_session *s, const char *fmt, ...) {
    char text[VB_ERROR_TEXT];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    dprintf(STDERR_FILENO, "%ssession %u: %s\n", getenv("JOURNAL_STREAM") ? "<6>" : "", s->id, text);
}

/* Threads that help to pin: before the sandbox, which lets none begin. broker/spawn.c lets as many be. */
static struct vb_workers *start_workers(void) {
    long n = sysconf(_SC_NPROCESSORS_ONLN);

    if (n > VB_SESSION_THREADS)
        n = VB_SESSION_THREADS;
    return n > 1 ? vb_workers_new((unsigned)n - 1) : NULL;
}

static int backend_for(struct vb_session *s, const VfioBrokerInternal__Start *start, int *iommufd,
                       struct vb_backend **ret, struct vb_error *e) {
    if (strcmp(start->backend, "emulated") == 0)
        return vb_emulated_new(NULL, ret, e);
    if (strcmp(start->backend, "type1") == 0)
        return vb_type1_new(ret, e);
    if (strcmp(start->backend, "iommufd") == 0) {
        s->workers = start_workers();
        return vb_iommufd_new(vb_steal_fd(iommufd), start->no_map_file, s->workers, ret, e);
    }
    return vb_refuse(e, VB_UNSUPPORTED, "no backend is called %s", start->backend);
}

/* The packets behind Start: what a dead session had on type1. */
static int take_groups(struct vb_backend *b, int control_fd, uint32_t n, struct vb_error *e) {
    struct vb_arena arena = {.base = NULL};
    uint8_t buf[256];
    int r = vb_arena_init(&arena, 65536);

    for (uint32_t i = 0; i < n && r == 0; i++) {
        VB_PACKET struct vb_packet p = VB_PACKET_INIT;
        const VfioBrokerInternal__ToSession *m = NULL;

        r = vb_packet_recv(control_fd, buf, sizeof buf, 0, &p);
        if (r == 1)
            m = vb_decode(&arena, &vfio_broker_internal__to_session__descriptor, p.data, p.size);
        if (r == 1 && (!m || m->body_case != VFIO_BROKER_INTERNAL__TO_SESSION__BODY_HOLD_GROUP || p.n_fds != 2))
            r = -EPROTO;
        else if (r == 1)
            r = vb_type1_hold_group(b, m->hold_group->group, vb_packet_steal_fd(&p, 0), vb_packet_steal_fd(&p, 1), e);
        else
            r = r < 0 ? r : -EPIPE;
    }
    vb_arena_fini(&arena);
    return r < 0 && !e->code ? vb_fail(e, r, "cannot take the groups of a session that ended") : r;
}

static void hold(struct vb_session *s, const VfioBrokerInternal__Start *start) {
    const struct vb_backend_ops *ops = s->model->backend->ops;
    const struct timespec pause = {.tv_nsec = 5000000};

    s->holding = s->taken_over = true;
    while (ops->take_over && !ops->take_over(s->model->backend))
        nanosleep(&pause, NULL);
    if (start->n_held_devices)
        vb_session_log(s, "took the memory away from %zu device(s) of a session that ended", start->n_held_devices);
    vb_control_holding(s);
    for (size_t i = 0; i < start->n_held_devices && i < VB_DEVICES_MAX; i++)
        vb_held_add(s, start->held_devices[i], 0, false);
}

static int set_up(struct vb_session *s, const VfioBrokerInternal__Start *start, struct vb_packet *p, int *client_fd,
                  int *control_fd, struct vb_error *e) {
    struct vb_backend *backend;
    unsigned i = 0;
    VB_FD int iommufd = -1;

    s->id = start->session;
    s->client_pid = start->client_pid;
    s->client_uid = start->client_uid;
    s->admin = start->admin;
    if (!start->hold)
        s->client_pidfd = vb_packet_steal_fd(p, i++);
    if (strcmp(start->backend, "iommufd") == 0) {
        iommufd = vb_packet_steal_fd(p, i++);
        s->iommufd = fcntl(iommufd, F_DUPFD_CLOEXEC, 0);
    }
    snprintf(s->control.socket_path, sizeof s->control.socket_path, "%s", start->session_socket);
    int r = backend_for(s, start, &iommufd, &backend, e);
    if (r == 0)
        r = vb_model_new(backend, start->mappings_max, &s->model);
    if (r == 0 && start->hold && strcmp(start->backend, "type1") == 0)
        r = take_groups(backend, *control_fd, start->n_groups, e);
    if (r != 0)
        return r;
    s->model->ledger.lease = start->lease;
#ifdef VB_TEST_HOOKS
    s->model->ledger.lease += start->lie;
    s->lies = start->lie != 0;
#endif
    s->model->ledger.limit = start->limit;
    snprintf(s->model->ledger.whose, sizeof s->model->ledger.whose, "%s", start->limit_whose);
    s->model->ledger.tables_max = start->tables_max;
    r = vb_lease_start(s);
    if (r == 0)
        r = vb_control_start(s, vb_steal_fd(control_fd));
    if (r == 0 && !start->hold)
        r = vb_client_start(s, vb_steal_fd(client_fd));
    if (r == 0)
        r = vb_sandbox_enter(strcmp(start->backend, "emulated") == 0);
    if (r < 0)
        return vb_fail(e, r, "cannot set the session up");
    return 0;
}

/* The first packet on the control socket; the daemon wrote it before we ran. */
static int read_start(struct vb_arena *a, int control_fd, uint8_t *buf, struct vb_packet *p,
                      const VfioBrokerInternal__Start **ret) {
    int r = vb_packet_recv(control_fd, buf, VB_PACKET_MAX, 0, p);
    if (r <= 0)
        return r < 0 ? r : -EPIPE;
    const VfioBrokerInternal__ToSession *m =
        vb_decode(a, &vfio_broker_internal__to_session__descriptor, p->data, p->size);
    if (!m || m->body_case != VFIO_BROKER_INTERNAL__TO_SESSION__BODY_START)
        return -EPROTO;
    *ret = m->start;
    return 0;
}

int vb_session_main(int client_fd, int control_fd) {
    struct vb_session s = {
        .client_pidfd = -1, .iommufd = -1, .client = {.fd = -1, .out_fd = -1}, .control = {.fd = -1}};
    struct vb_arena arena = {.base = NULL};
    VB_PACKET struct vb_packet p = VB_PACKET_INIT;
    const VfioBrokerInternal__Start *start = NULL;
    struct vb_error e = {.code = 0};
    VB_FREE uint8_t *buf = malloc(VB_PACKET_MAX);

    signal(SIGPIPE, SIG_IGN);
    LIST_INIT(&s.watches);
    vb_outbox_init(&s.client.later);
    TAILQ_INIT(&s.pin_links);
    s.base = event_base_new();
    int r = s.base && buf ? vb_arena_init(&arena, VB_PACKET_MAX) : -ENOMEM;
    if (r == 0)
        r = read_start(&arena, control_fd, buf, &p, &start);
    if (r < 0)
        vb_fail(&e, r, "cannot begin");
    else
        r = set_up(&s, start, &p, &client_fd, &control_fd, &e);
    if (r == 0 && start->hold)
        hold(&s, start);
    if (r != 0)
        vb_session_log(&s, "%s", e.text);
    vb_arena_fini(&arena);
    vb_packet_close(&p);
    vb_session_maybe_exit(&s);
    while (r == 0 && !(s.holding && s.n_held == 0))
        if (event_base_loop(s.base, EVLOOP_ONCE) < 0)
            r = -EIO;
    vb_pins_stop(&s);
    vb_client_stop(&s);
    vb_unwatch_all(&s);
    vb_lease_stop(&s);
    s.model = vb_model_free(s.model);
    s.workers = vb_workers_free(s.workers);
    vb_control_stop(&s); /* the daemon takes this for the end */
    if (s.held_timer)
        event_free(s.held_timer);
    if (s.base)
        event_base_free(s.base);
    int fds[] = {client_fd, control_fd, s.iommufd, s.client_pidfd};
    for (unsigned i = 0; i < sizeof fds / sizeof fds[0]; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    return r == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
