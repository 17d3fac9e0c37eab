/* The connection: its making, its Hello, its end. */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/client-private.h"
#include "proto/cleanup.h"

static void reset_info(struct vfb_client *c) {
    c->backend[0] = c->broker[0] = c->closing[0] = 0;
    c->info = (struct vfb_info){.backend = c->backend, .broker = c->broker};
}

int vfb_client_new(struct vfb_client **ret_client) {
    struct vfb_client *c = calloc(1, sizeof *c);

    if (!c)
        return -ENOMEM;
    c->fd = c->bitmap.fd = -1;
    c->hello_ms = VBC_HELLO_MS;
    TAILQ_INIT(&c->calls);
    TAILQ_INIT(&c->free_slots);
    STAILQ_INIT(&c->queue);
    STAILQ_INIT(&c->late);
    TAILQ_INIT(&c->accesses);
    for (size_t i = 0; i < VBC_ASYNC_MAX; i++)
        TAILQ_INSERT_TAIL(&c->free_slots, &c->slots[i], link);
    for (size_t i = 0; i < VB_BATCH_MAX; i++)
        c->entry_ptrs[i] = &c->entries[i];
    reset_info(c);
    vbc_error_set(&c->error, 0, "%s", "");
    if (vb_arena_init(&c->arena, VB_DECODE_MAX) < 0) {
        free(c);
        return -ENOMEM;
    }
    *ret_client = c;
    return 0;
}

static void disconnect(struct vfb_client *c) {
    vbc_queue_drop(c);
    vbc_events_drop(c);
    vbc_access_end_all(c);
    if (c->fd < 0)
        return;
    /* A child that another thread forked may have a copy of the socket, so closing ours is not the end yet. In such a
     * child, on the other hand, the connection is not ours to end. */
    if (getpid() == c->pid)
        shutdown(c->fd, SHUT_RDWR);
    close(c->fd);
    c->fd = -1;
    c->state = VBC_NEW;
}

void vfb_client_free(struct vfb_client *c) {
    if (!c)
        return;
    disconnect(c);
    vbc_bitmap_fini(&c->bitmap);
    vb_arena_fini(&c->inspect);
    vb_arena_fini(&c->arena);
    free(c);
}

/* ---- Hello ---------------------------------------------------------------------------------------------------- */

/* What was told, at most what we can: a newer broker may be able to do more. 0: an older one did not tell. */
static uint32_t bound(uint64_t told, uint32_t ours) {
    return told == 0 || told > ours ? ours : (uint32_t)told;
}

static int take_hello(struct vbc_call *call, const VfioBroker__Reply *reply, struct vb_packet *p) {
    const VfioBroker__HelloReply *h = reply->hello;
    struct vfb_client *c = call->client;
    (void)p;

    if (h->version < 1 || h->version > VB_PROTOCOL_VERSION)
        return vbc_error_set(call->error, VFB_PROTOCOL, "the broker speaks version %u of the protocol, this library %u",
                             h->version, VB_PROTOCOL_VERSION);
    vbc_text(c->backend, sizeof c->backend, h->backend);
    vbc_text(c->broker, sizeof c->broker, h->broker);
    c->info = (struct vfb_info){
        .version = h->version,
        .features = h->features,
        .session = h->session,
        .backend = c->backend,
        .broker = c->broker,
        .batch_max = VB_BATCH_MAX,
    };
    if (h->limits) {
        c->info.batch_max = bound(h->limits->batch, VB_BATCH_MAX);
        c->info.memories_max = h->limits->memories;
        c->info.spaces_max = h->limits->spaces;
        c->info.devices_max = h->limits->devices;
        c->info.mappings_max = h->limits->mappings;
        c->info.memory_bytes = h->limits->memory_bytes;
    }
    return 0;
}

static int hello(struct vfb_client *c, const char *name) {
    VfioBroker__Hello m = VFIO_BROKER__HELLO__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;

    m.version = VB_PROTOCOL_VERSION;
    m.features = VFB_FEATURE_DMA | VFB_FEATURE_SHARED_PINS | VFB_FEATURE_MAP_FILE | VFB_FEATURE_ADMIN |
                 VFB_FEATURE_PINS | VFB_FEATURE_DMA_BUF | VFB_FEATURE_DOMAINS;
    m.name = (char *)name;
    req.body_case = VFIO_BROKER__REQUEST__BODY_HELLO;
    req.hello = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_HELLO, take_hello, NULL, 0);
}

/* ---- connecting ----------------------------------------------------------------------------------------------- */

static bool not_a_socket(const char *path) {
    struct stat st;

    return stat(path, &st) == 0 && !S_ISSOCK(st.st_mode);
}

static const char *connect_hint(const char *path, int e) {
    if (e != ENOENT && e != ECONNREFUSED)
        return "";
    return strcmp(path, VFB_SOCKET) == 0 ? "; is vfio-broker.socket started?" : "; is a vfio-brokerd started there?";
}

/* connect(2) waits while the broker's backlog is full, as a stopped broker's is some time: SO_SNDTIMEO bounds that. */
static int connect_in_time(struct vfb_client *c, int fd, const struct sockaddr_un *a) {
    const struct timeval none = {.tv_sec = 0};
    int r, e;

    do {
        int64_t left = c->connect_until - vbc_now_ms();
        struct timeval t = {.tv_sec = left / 1000, .tv_usec = left % 1000 * 1000};

        if (left <= 0)
            return -EAGAIN;
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
        r = connect(fd, (const struct sockaddr *)a, sizeof *a);
        e = errno;
    } while (r < 0 && e == EINTR); /* nothing has begun then */
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof none);
    return r < 0 ? -e : 0;
}

static int open_socket(struct vfb_client *c, const char *path, int *ret_fd) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    VB_FD int fd = -1;
    int r;

    if (strlen(path) >= sizeof a.sun_path)
        return vbc_fail(c, -ENAMETOOLONG, "the socket's path is longer than %zu bytes: %.100s…", sizeof a.sun_path - 1,
                        path);
    strcpy(a.sun_path, path);
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return vbc_fail(c, -errno, "cannot make a socket: %s", strerror(errno));
    r = connect_in_time(c, fd, &a);
    if (r == -EAGAIN)
        return vbc_fail_silent(c);
    if (r == -ECONNREFUSED && not_a_socket(path))
        return vbc_fail(c, r, "cannot connect to vfio-brokerd: %s is not a socket", path);
    if (r < 0)
        return vbc_fail(c, r, "cannot connect to vfio-brokerd at %s: %s%s", path, strerror(-r), connect_hint(path, -r));
    *ret_fd = vb_steal_fd(&fd);
    return 0;
}

/* Connects and says Hello, by c->connect_until. */
static int connect_client(struct vfb_client *c, const char *path, const char *name) {
    int r = open_socket(c, path, &c->fd);

    if (r != 0)
        return r;
    c->pid = getpid();
    c->state = VBC_CONNECTING;
    reset_info(c);
    r = hello(c, name);
    if (r == 0) {
        c->state = VBC_CONNECTED;
        return 0;
    }
    /* Refused: the client can try again. An event handler may have left calls behind: they end here. */
    struct vbc_error e;
    vbc_error_copy(&e, &c->error);
    vbc_lose(c, r, "%s", e.text);
    vbc_error_copy(&c->error, &e);
    disconnect(c);
    return r;
}

int vfb_connect(struct vfb_client *c, const char *path, const char *name) {
    int r;

    if (c->state == VBC_LOST)
        return vbc_check_connected(c);
    if (c->state != VBC_NEW)
        return vbc_fail(c, VFB_STATE, "already connected, as session %u", c->info.session);
    if (!path)
        path = getenv(VFB_SOCKET_ENV);
    if (!path || !*path)
        path = VFB_SOCKET;
    if (!name)
        name = "";
    r = vbc_check_name(c, "client's name", name, VB_NAME_MAX);
    if (r != 0)
        return r;
    c->path = path;
    c->connect_until = vbc_now_ms() + c->hello_ms;
    r = connect_client(c, path, name);
    c->path = NULL;
    c->connect_until = 0;
    return r;
}

const struct vfb_info *vfb_info(const struct vfb_client *c) {
    return &c->info;
}
