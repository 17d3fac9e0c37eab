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

#include "backend/emulated.h"
#include "backend/iommufd.h"
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

static int backend_for(const VfioBrokerInternal__Start *start, int *iommufd, struct vb_backend **ret,
                       struct vb_error *e) {
    if (strcmp(start->backend, "emulated") == 0)
        return vb_emulated_new(NULL, ret, e);
    if (strcmp(start->backend, "iommufd") == 0)
        return vb_iommufd_new(vb_steal_fd(iommufd), start->no_map_file, NULL, ret, e);
    return vb_refuse(e, VB_UNSUPPORTED, "no backend is called %s", start->backend);
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
        vb_held_add(s, start->held_devices[i], 0);
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
    int r = backend_for(start, &iommufd, &backend, e);
    if (r == 0)
        r = vb_model_new(backend, start->mappings_max, &s->model);
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
