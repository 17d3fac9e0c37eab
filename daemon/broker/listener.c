/* The two sockets: broker.sock for clients, session.sock for sessions that look for a new daemon. Both are made by
 * systemd, or here. Everybody may connect; policy, and the uid range, decide who is served.
 *
 * When fds run out, one that is kept in reserve lets the next client be told so; then the socket rests, instead of
 * reporting a connection that cannot be accepted over and over. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "broker/record.h"
#include "proto/cleanup.h"

/* Connections taken in one turn of the loop, so that everything else has its turn. */
#define ACCEPT_AT_ONCE 16
#define REST_MS        100

static int open_reserve(void) {
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/* ---- accepting ---- */

static void rest(struct vb_listener *l) {
    static const struct timeval t = {REST_MS / 1000, REST_MS % 1000 * 1000};

    event_del(l->readable);
    evtimer_add(l->resume, &t);
}

static void on_resume(evutil_socket_t fd, short what, void *arg) {
    struct vb_listener *l = arg;

    (void)fd, (void)what;
    event_add(l->readable, NULL);
}

static void out_of_fds(struct vb_listener *l, int error) {
    struct vb_broker *b = l->broker;
    struct vb_error e = {.code = 0};

    vb_log_limited(&b->lost, LOG_ERR, "cannot accept at %s: %s", l->path, strerror(error));
    vb_close_p(&b->reserve_fd);
    int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
        vb_fail(&e, -error, "the broker can take no more clients now");
        vb_refuse_client(fd, &e);
    }
    b->reserve_fd = open_reserve();
    rest(l);
}

static void on_readable(evutil_socket_t unused, short what, void *arg) {
    struct vb_listener *l = arg;

    (void)unused, (void)what;
    /* Clients wait until the sessions of an earlier daemon are back: those have numbers, leases and devices already. */
    if (l == &l->broker->clients && vb_strays_expected(l->broker)) {
        rest(l);
        return;
    }
    for (int i = 0; i < ACCEPT_AT_ONCE; i++) {
        int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd >= 0)
            l->accepted(l->broker, fd);
        else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            out_of_fds(l, errno);
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return;
        }
    }
}

/* ---- opening ---- */

/* A path is ours when nobody listens there. */
static int remove_stale(const struct sockaddr_un *a) {
    struct ucred cred = {.pid = 0};
    socklen_t size = sizeof cred;
    struct stat st;

    if (lstat(a->sun_path, &st) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode)) {
        vb_log(LOG_ERR, "%s is there and is no socket", a->sun_path);
        return -EEXIST;
    }
    VB_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)a, sizeof *a) == 0 || errno == EAGAIN) {
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size);
        vb_log(LOG_ERR, "another vfio-brokerd (pid %d) serves %s", (int)cred.pid, a->sun_path);
        return -EADDRINUSE;
    }
    return unlink(a->sun_path) < 0 && errno != ENOENT ? -errno : 0;
}

static int open_socket(struct vb_listener *l) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    strcpy(a.sun_path, l->path);
    int r = remove_stale(&a);
    if (r < 0)
        return r;
    VB_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    mode_t before = umask(0111); /* 0666 from the first moment */
    r = bind(fd, (struct sockaddr *)&a, sizeof a) < 0 ? -errno : 0;
    umask(before);
    if (r < 0)
        return r;
    if (listen(fd, VB_BACKLOG) < 0)
        return -errno;
    l->fd = vb_steal_fd(&fd);
    return 0;
}

/* From systemd, by name. 1: taken; 0: there is none. */
static int take_socket(struct vb_listener *l, const char *name) {
    struct sockaddr_un a = {.sun_family = AF_UNSPEC};
    socklen_t size = sizeof a;
    char **names = NULL;
    int found = -1;

    int n = sd_listen_fds_with_names(0, &names);
    for (int i = 0; i < n; i++) {
        if (found < 0 && strcmp(names[i], name) == 0)
            found = SD_LISTEN_FDS_START + i;
        free(names[i]);
    }
    free(names);
    if (found < 0)
        return 0;
    if (sd_is_socket_unix(found, SOCK_SEQPACKET, 1, NULL, 0) <= 0 ||
        getsockname(found, (struct sockaddr *)&a, &size) < 0 || size >= sizeof a) {
        vb_log(LOG_ERR, "systemd's socket \"%s\" is no listening SOCK_SEQPACKET socket with a path", name);
        return -EINVAL;
    }
    ((char *)&a)[size] = 0;
    strcpy(l->path, a.sun_path);
    if (fcntl(found, F_SETFL, O_NONBLOCK) < 0)
        return -errno;
    l->fd = found;
    return 1;
}

static int set_path(struct vb_listener *l, const char *path, const char *dir, const char *file) {
    int n =
        path ? snprintf(l->path, sizeof l->path, "%s", path) : snprintf(l->path, sizeof l->path, "%s/%s", dir, file);

    return n > 0 && (size_t)n < sizeof l->path ? 0 : -ENAMETOOLONG;
}

static int listener_open(struct vb_broker *b, struct vb_listener *l, const char *name, const char *path,
                         const char *file, void (*accepted)(struct vb_broker *b, int fd)) {
    l->broker = b;
    l->accepted = accepted;
    int r = take_socket(l, name);
    if (r == 0 && (r = set_path(l, path, b->options.runtime_dir, file)) == 0)
        r = open_socket(l);
    if (r >= 0) {
        l->readable = event_new(b->base, l->fd, EV_READ | EV_PERSIST, on_readable, l);
        l->resume = evtimer_new(b->base, on_resume, l);
        r = l->readable && l->resume ? 0 : -ENOMEM;
    }
    if (r < 0)
        vb_log(LOG_ERR, "cannot listen at %s: %s", l->path[0] ? l->path : name, strerror(-r));
    return r;
}

int vb_listeners_open(struct vb_broker *b) {
    if (mkdir(b->options.runtime_dir, 0755) < 0 && errno != EEXIST) {
        int r = -errno;
        vb_log(LOG_ERR, "cannot make %s: %s", b->options.runtime_dir, strerror(-r));
        return r;
    }
    b->reserve_fd = open_reserve();
    int r = listener_open(b, &b->clients, "broker", b->options.socket, "broker.sock", vb_sessions_connect);
    if (r == 0)
        r = listener_open(b, &b->sessions, "session", NULL, "session.sock", vb_sessions_knock);
    return r;
}

int vb_listeners_start(struct vb_broker *b) {
    return event_add(b->clients.readable, NULL) < 0 || event_add(b->sessions.readable, NULL) < 0 ? -ENOMEM : 0;
}

void vb_listeners_close(struct vb_broker *b) {
    struct vb_listener *both[] = {&b->clients, &b->sessions};

    for (unsigned i = 0; i < 2; i++) {
        if (both[i]->readable)
            event_free(both[i]->readable);
        if (both[i]->resume)
            event_free(both[i]->resume);
        both[i]->readable = both[i]->resume = NULL;
        vb_close_p(&both[i]->fd);
        both[i]->fd = -1;
    }
    vb_close_p(&b->reserve_fd);
    b->reserve_fd = -1;
}
