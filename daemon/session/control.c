/* The link to the daemon. A call waits for its answer (at most VB_CALL_MS), and while it waits the daemon's questions are
 * answered: two administrators whose sessions ask each other through the daemon cannot deadlock.
 *
 * When the daemon goes away the session works on. It tries session.sock until a daemon answers there, shows it what the
 * kernel can vouch for (the client's socket, the iommufd, or groups and containers), and is adopted. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "backend/type1.h"
#include "session/pins.h"

#define ARENA_SIZE VB_DECODE_MAX

static int64_t now_ms(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void arm(struct vb_control_link *c, unsigned ms) {
    const struct timeval t = {ms / 1000, ms % 1000 * 1000};

    evtimer_add(c->timer, &t);
}

static void lose(struct vb_session *s) {
    struct vb_control_link *c = &s->control;

    if (c->readable) {
        event_free(c->readable);
        c->readable = NULL;
    }
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    if (c->state == VB_LINK_UP) {
        vb_session_log(s, "the daemon is away; mapping goes on within the lease");
        c->retry_ms = VB_RECONNECT_FIRST_MS;
    }
    c->state = VB_LINK_DOWN;
    if (c->timer)
        arm(c, c->retry_ms);
}

/* Waits until the socket can take or give something, or the time has come. */
static int wait_for(int fd, short events, int64_t deadline) {
    struct pollfd p = {.fd = fd, .events = events};
    int64_t left;

    while ((left = deadline - now_ms()) > 0) {
        int r = poll(&p, 1, (int)left);
        if (r > 0)
            return 0;
        if (r < 0 && errno != EINTR)
            return -errno;
    }
    return -ETIMEDOUT;
}

static int send_message(struct vb_session *s, const VfioBrokerInternal__ToDaemon *m, const int *fds, unsigned n_fds,
                        int64_t deadline) {
    struct vb_control_link *c = &s->control;
    ssize_t n = vb_encode(&m->base, c->out, VB_PACKET_MAX);
    int r;

    if (n < 0)
        return (int)n;
    while ((r = vb_packet_send(c->fd, c->out, (size_t)n, fds, n_fds, MSG_DONTWAIT)) == -EAGAIN) {
        r = wait_for(c->fd, POLLOUT, deadline);
        if (r < 0)
            return r;
    }
    return r;
}

static void answer_question(struct vb_session *s, const VfioBrokerInternal__Ask *ask) {
    VfioBroker__InspectReply rows = VFIO_BROKER__INSPECT_REPLY__INIT;
    VfioBrokerInternal__AskReply reply = VFIO_BROKER_INTERNAL__ASK_REPLY__INIT;
    VfioBrokerInternal__ToDaemon m = VFIO_BROKER_INTERNAL__TO_DAEMON__INIT;
    struct vb_arena *a = &s->control.arena;
    struct vb_error e;

    memset(&e, 0, sizeof e);
    reply.token = ask->token;
    if (ask->inspect && vb_inspect_rows(s, a, ask->inspect, &rows, &e) == 0) {
        size_t size = protobuf_c_message_get_packed_size(&rows.base);
        uint8_t *packed = vb_arena_alloc(a, size ? size : 1);
        if (packed) {
            reply.inspect.data = packed;
            reply.inspect.len = protobuf_c_message_pack(&rows.base, packed);
        }
    }
    m.body_case = VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_ASK_REPLY;
    m.ask_reply = &reply;
    if (send_message(s, &m, NULL, 0, now_ms() + VB_ASK_MS) == -EPIPE)
        lose(s);
}

static void adopted(struct vb_session *s, const VfioBrokerInternal__Answer *answer) {
    struct vb_control_link *c = &s->control;

    if (answer->body_case == VFIO_BROKER_INTERNAL__ANSWER__BODY_ERROR) {
        vb_session_log(s, "the new daemon does not take this session: %s", answer->error->text);
        lose(s);
        return;
    }
    c->state = VB_LINK_UP;
    c->retry_ms = VB_RECONNECT_FIRST_MS;
    evtimer_del(c->timer);
    vb_session_log(s, "found the daemon again");
    vb_lease_idle(s);
    /* What became free between our list and now. */
    vb_session_maybe_exit(s);
}

/* One message. 1: it answers `serial`, and *ret_answer is set; 0: something else, dealt with; <0: no link any more. */
static int receive(struct vb_session *s, uint64_t serial, VfioBrokerInternal__Answer **ret_answer, int ret_fds[2]) {
    struct vb_control_link *c = &s->control;
    VB_PACKET struct vb_packet p = VB_PACKET_INIT;

    int r = vb_packet_recv(c->fd, c->in, VB_PACKET_MAX, MSG_DONTWAIT, &p);
    if (r == -EAGAIN)
        return 0;
    if (r <= 0) {
        lose(s);
        return -EPIPE;
    }
    VfioBrokerInternal__ToSession *m =
        vb_decode(&c->arena, &vfio_broker_internal__to_session__descriptor, p.data, p.size);
    if (!m) {
        vb_session_log(s, "the daemon sent something else than a message");
        lose(s);
        return -EPIPE;
    }
    if (m->body_case == VFIO_BROKER_INTERNAL__TO_SESSION__BODY_ASK) {
        answer_question(s, m->ask);
        return c->fd < 0 ? -EPIPE : 0;
    }
    if (m->body_case == VFIO_BROKER_INTERNAL__TO_SESSION__BODY_PIN_LINK) {
        vb_pin_link_offered(s, m->pin_link, vb_packet_steal_fd(&p, 0));
        return 0;
    }
    if (m->body_case == VFIO_BROKER_INTERNAL__TO_SESSION__BODY_LEASE_RECLAIM) {
        vb_lease_reclaimed(s);
        return c->fd < 0 ? -EPIPE : 0;
    }
    if (m->body_case != VFIO_BROKER_INTERNAL__TO_SESSION__BODY_ANSWER)
        return 0;
    if (c->state == VB_LINK_ADOPTING) {
        /* Groups come first (send_adopt): their answers tell nothing, but a refusal of one is one of all. */
        if (m->answer->serial == c->serial || m->answer->body_case == VFIO_BROKER_INTERNAL__ANSWER__BODY_ERROR)
            adopted(s, m->answer);
        return 0;
    }
    if (!ret_answer || m->answer->serial != serial) { /* too late: its call has timed out */
        if (m->answer->body_case == VFIO_BROKER_INTERNAL__ANSWER__BODY_LEASE)
            vb_lease_came_late(s, m->answer->lease->granted);
        return 0;
    }
    *ret_answer = m->answer;
    for (unsigned i = 0; ret_fds && i < 2; i++)
        ret_fds[i] = i < p.n_fds ? vb_packet_steal_fd(&p, i) : -1;
    return 1;
}

static int away(struct vb_error *e) {
    return vb_refuse(
        e, VB_UNAVAILABLE,
        "vfio-brokerd is away (stopped, or being upgraded): claims and more lease wait for it, mapping within the "
        "lease goes on; try again");
}

int vb_control_call(struct vb_session *s, VfioBrokerInternal__Call *call, VfioBrokerInternal__Answer **ret_answer,
                    int ret_fds[2], struct vb_error *e) {
    struct vb_control_link *c = &s->control;
    VfioBrokerInternal__ToDaemon m = VFIO_BROKER_INTERNAL__TO_DAEMON__INIT;
    VfioBrokerInternal__Answer *answer = NULL;
    const int64_t deadline = now_ms() + VB_CALL_MS;
    int fds[2] = {-1, -1};

    if (ret_fds)
        ret_fds[0] = ret_fds[1] = -1;
    if (c->state != VB_LINK_UP)
        return away(e);
    call->serial = ++c->serial;
    m.body_case = VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_CALL;
    m.call = call;
    int r = send_message(s, &m, NULL, 0, deadline);
    if (r == -EPIPE || r == -ECONNRESET)
        lose(s);
    while (r == 0) {
        r = wait_for(c->fd, POLLIN, deadline);
        if (r == 0)
            r = receive(s, call->serial, &answer, fds);
    }
    if (r < 0 && c->state != VB_LINK_UP)
        return away(e);
    if (r < 0)
        return vb_fail(e, r, "vfio-brokerd does not answer");
    for (unsigned i = 0; i < 2; i++) {
        bool wanted = ret_fds && answer->body_case != VFIO_BROKER_INTERNAL__ANSWER__BODY_ERROR;

        if (!wanted && fds[i] >= 0)
            close(fds[i]);
        else if (wanted)
            ret_fds[i] = fds[i];
    }
    if (answer->body_case == VFIO_BROKER_INTERNAL__ANSWER__BODY_ERROR)
        return vb_error_from_message(e, answer->error);
    *ret_answer = answer;
    return 0;
}

static void given_back(struct vb_session *s, const char *address, bool held) {
    VfioBrokerInternal__DeviceFree body = VFIO_BROKER_INTERNAL__DEVICE_FREE__INIT;
    VfioBrokerInternal__ToDaemon m = VFIO_BROKER_INTERNAL__TO_DAEMON__INIT;

    body.address = (char *)address;
    body.held = held;
    m.body_case = VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_DEVICE_FREE;
    m.device_free = &body;
    if (s->control.state == VB_LINK_UP && send_message(s, &m, NULL, 0, now_ms() + VB_CALL_MS) < 0)
        lose(s);
}

void vb_control_device_free(struct vb_session *s, const char *address) {
    given_back(s, address, false);
}

void vb_control_device_held(struct vb_session *s, const char *address) {
    given_back(s, address, true);
}

void vb_control_holding(struct vb_session *s) {
    VfioBrokerInternal__Holding body = VFIO_BROKER_INTERNAL__HOLDING__INIT;
    VfioBrokerInternal__ToDaemon m = VFIO_BROKER_INTERNAL__TO_DAEMON__INIT;

    m.body_case = VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_HOLDING;
    m.holding = &body;
    if (s->control.state == VB_LINK_UP && send_message(s, &m, NULL, 0, now_ms() + VB_CALL_MS) < 0)
        lose(s);
}

void vb_control_give(struct vb_session *s, const struct vb_give *g, bool asked) {
    VfioBrokerInternal__LeaseGive body = VFIO_BROKER_INTERNAL__LEASE_GIVE__INIT;
    VfioBrokerInternal__ToDaemon m = VFIO_BROKER_INTERNAL__TO_DAEMON__INIT;

    body.bytes = g->bytes;
    body.doubled = g->doubled;
    body.asked = asked;
    m.body_case = VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_LEASE_GIVE;
    m.lease_give = &body;
    if (s->control.state == VB_LINK_UP && send_message(s, &m, NULL, 0, now_ms() + VB_CALL_MS) < 0)
        lose(s);
}

static void on_readable(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    receive(arg, 0, NULL, NULL);
}

static int watch(struct vb_session *s) {
    struct vb_control_link *c = &s->control;

    c->readable = event_new(s->base, c->fd, EV_READ | EV_PERSIST, on_readable, s);
    return c->readable && event_add(c->readable, NULL) == 0 ? 0 : -ENOMEM;
}

/* Each group that the backend has, before Adopt. */
static int send_group(void *arg, uint32_t group, int group_fd, int container_fd) {
    VfioBrokerInternal__AdoptGroup body = VFIO_BROKER_INTERNAL__ADOPT_GROUP__INIT;
    VfioBrokerInternal__Call call = VFIO_BROKER_INTERNAL__CALL__INIT;
    VfioBrokerInternal__ToDaemon m = VFIO_BROKER_INTERNAL__TO_DAEMON__INIT;
    struct vb_session *s = arg;
    const int fds[] = {group_fd, container_fd};

    body.group = group;
    call.serial = ++s->control.serial;
    call.body_case = VFIO_BROKER_INTERNAL__CALL__BODY_ADOPT_GROUP;
    call.adopt_group = &body;
    m.body_case = VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_CALL;
    m.call = &call;
    return send_message(s, &m, fds, 2, now_ms());
}

static int send_adopt(struct vb_session *s) {
    VfioBrokerInternal__Adopt adopt = VFIO_BROKER_INTERNAL__ADOPT__INIT;
    VfioBrokerInternal__Call call = VFIO_BROKER_INTERNAL__CALL__INIT;
    VfioBrokerInternal__ToDaemon m = VFIO_BROKER_INTERNAL__TO_DAEMON__INIT;
    char *devices[VB_DEVICES_MAX], *held[2 * VB_DEVICES_MAX];
    int fds[2];
    unsigned n_fds = 0;

    for (uint32_t i = 0; i < s->model->devices.n && adopt.n_devices < VB_DEVICES_MAX; i++)
        devices[adopt.n_devices++] = ((struct vb_device *)s->model->devices.items[i])->address;
    for (unsigned i = 0; i < s->n_held; i++)
        held[adopt.n_held++] = s->held[i].address;
    adopt.devices = devices;
    adopt.held = held;
    adopt.session = s->id;
    adopt.holding = s->holding;
    adopt.client_pid = s->client_pid;
    adopt.client_uid = s->client_uid;
    adopt.version = VB_PROTOCOL_VERSION;
    adopt.lease = s->model->ledger.lease;
    adopt.doubled = s->model->ledger.doubled_granted;
    if (s->client.fd >= 0)
        fds[n_fds++] = s->client.fd;
    if (s->iommufd >= 0)
        fds[n_fds++] = s->iommufd;
    adopt.backend = (char *)s->model->backend->ops->name;
    if (strcmp(adopt.backend, "type1") == 0) {
        int r = vb_type1_each_group(s->model->backend, send_group, s);

        if (r != 0)
            return r;
    }
    call.serial = ++s->control.serial;
    call.body_case = VFIO_BROKER_INTERNAL__CALL__BODY_ADOPT;
    call.adopt = &adopt;
    m.body_case = VFIO_BROKER_INTERNAL__TO_DAEMON__BODY_CALL;
    m.call = &call;
    return send_message(s, &m, fds, n_fds, now_ms()); /* a fresh socket takes it at once */
}

/* Time to look for a daemon, or an adoption got no answer. */
static void on_timer(evutil_socket_t unused, short what, void *arg) {
    struct vb_session *s = arg;
    struct vb_control_link *c = &s->control;
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    (void)unused, (void)what;
    if (c->state == VB_LINK_ADOPTING)
        lose(s);
    if (c->state != VB_LINK_DOWN)
        return;
    c->retry_ms = c->retry_ms * 2 > VB_RECONNECT_LAST_MS ? VB_RECONNECT_LAST_MS : c->retry_ms * 2;
    snprintf(a.sun_path, sizeof a.sun_path, "%s", c->socket_path);
    c->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&a, sizeof a) < 0 || watch(s) < 0 || send_adopt(s) < 0) {
        lose(s);
        return;
    }
    c->state = VB_LINK_ADOPTING;
    arm(c, VB_CALL_MS);
}

int vb_control_start(struct vb_session *s, int fd) {
    struct vb_control_link *c = &s->control;

    c->fd = fd;
    c->state = fd >= 0 ? VB_LINK_UP : VB_LINK_DOWN;
    c->retry_ms = VB_RECONNECT_FIRST_MS;
    c->in = malloc(VB_PACKET_MAX);
    c->out = malloc(VB_PACKET_MAX);
    if (!c->in || !c->out || vb_arena_init(&c->arena, ARENA_SIZE) < 0)
        return -ENOMEM;
    if (fd < 0)
        return 0; /* tests without a daemon */
    c->timer = evtimer_new(s->base, on_timer, s);
    return c->timer ? watch(s) : -ENOMEM;
}

void vb_control_stop(struct vb_session *s) {
    struct vb_control_link *c = &s->control;

    if (c->timer)
        event_free(c->timer);
    c->timer = NULL;
    if (c->readable)
        event_free(c->readable);
    c->readable = NULL;
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->state = VB_LINK_DOWN;
    free(c->in);
    free(c->out);
    c->in = c->out = NULL;
    vb_arena_fini(&c->arena);
}
