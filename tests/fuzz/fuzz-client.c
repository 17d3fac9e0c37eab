/* The client library against a hostile broker: everything that it reads comes from the input, with fds.
 *
 * connect(2) is ours (-Wl,--wrap=connect): it gives the library a socket in which all packets wait already, and nobody
 * answers. Input: one byte, how many calls; so many bytes, which calls; then packets: one byte (bits 0-4: fds, bit 5: the
 * reply gets the id of the request that it could answer), two bytes of length, the bytes. */
#include "config.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "client/inspect.h"
#include "client/vfio-broker.h"
#include "fuzz.h"
#include "proto/fdpass.h"

static struct fuzz_in packets;
static int memory_fd = -1;

int __real_connect(int fd, const struct sockaddr *a, socklen_t n);
int __wrap_connect(int fd, const struct sockaddr *a, socklen_t n);

static void fill(int sock) {
    int fds[VB_PACKET_FDS];
    uint8_t id = 0, buf[2 + 4096];

    for (unsigned i = 0; i < VB_PACKET_FDS; i++)
        fds[i] = memory_fd;
    while (packets.n >= 3) {
        uint8_t kind = fuzz_u8(&packets);
        struct fuzz_in body = fuzz_part(&packets, (size_t)fuzz_raw(&packets, 2));
        unsigned n_fds = kind & 31;
        size_t at = 0;

        if (kind & 32)
            buf[at++] = 1 << 3, buf[at++] = ++id & 127;
        if (body.n > 4096)
            body.n = 4096;
        if (body.n)
            memcpy(buf + at, body.p, body.n);
        if (vb_packet_send(sock, buf, at + body.n, fds, n_fds > VB_PACKET_FDS ? VB_PACKET_FDS : n_fds, MSG_DONTWAIT) <
            0)
            return;
    }
}

int __wrap_connect(int fd, const struct sockaddr *a, socklen_t n) {
    static int keep = -1; /* the broker's end stays open: requests go nowhere */
    int sv[2];

    (void)a, (void)n;
    if (keep >= 0)
        close(keep);
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) == 0);
    fill(sv[1]);
    shutdown(sv[1], SHUT_WR);
    FUZZ_CHECK(dup3(sv[0], fd, O_CLOEXEC) == fd);
    close(sv[0]);
    keep = sv[1];
    return 0;
}

static void done(struct vfb_client *c, int result, void *arg) {
    (void)result;
    ++*(unsigned *)arg;
    FUZZ_CHECK(strlen(vfb_error(c)->text) < 4096);
}

/* What the library says was pinned is what was asked, whatever the broker said. */
static int pin(struct vfb_client *c, uint32_t access, size_t n) {
    static const struct vfb_pin_range ranges[2] = {{0x1000, 0x3000, VFB_READ | VFB_WRITE}, {0x8000, 1, VFB_READ}};
    struct vfb_pin pins[2];
    int r = vfb_pin(c, access, ranges, n, pins);

    for (size_t i = 0; r == 0 && i < n; i++) {
        uint64_t done = 0;

        FUZZ_CHECK(pins[i].n_segments >= 1 && pins[i].n_segments <= VFB_PIN_SEGMENTS);
        for (uint32_t k = 0; k < pins[i].n_segments; k++) {
            const struct vfb_segment *s = &pins[i].segments[k];

            FUZZ_CHECK(s->iova == ranges[i].iova + done && s->size > 0 && fcntl(s->fd, F_GETFD) >= 0);
            done += s->size;
        }
        FUZZ_CHECK(done == ranges[i].size);
    }
    return r;
}

/* The deadline, or whether the access goes on, says what the handler does: anything, at any depth. */
static void event(struct vfb_client *c, const struct vfb_event *e, void *arg) {
    static unsigned depth;
    uint64_t sum = 0, again = 0;
    (void)arg;

    FUZZ_CHECK(++depth < 64);
    FUZZ_CHECK(strlen(e->text) < 4096 && e->n_pins <= 64);
    for (size_t i = 0; i < e->n_pins; i++)
        sum += e->pins[i];
    if (e->kind == VFB_EVENT_INVALIDATE && e->deadline_ms % 4 == 0)
        vfb_unpin(c, e->access, e->pins, e->n_pins);
    else if (e->kind == VFB_EVENT_INVALIDATE && e->deadline_ms % 4 == 1)
        vfb_access_close(c, e->access);
    else if (e->kind == VFB_EVENT_PINS_LOST || (e->kind == VFB_EVENT_INVALIDATE && e->deadline_ms % 4 == 2))
        pin(c, e->access, 1);
    for (size_t i = 0; i < e->n_pins; i++)
        again += e->pins[i];
    FUZZ_CHECK(sum == again);
    depth--;
}

static int leaving_out(struct vfb_client *c) {
    struct vfb_conflict conflicts[20];
    uint64_t left_out;
    size_t n = 0;
    int r = vfb_device_attach_leaving_out(c, 1, 1, &left_out, conflicts, 20, &n);

    FUZZ_CHECK(n <= VB_CONFLICTS_MAX);
    for (size_t i = 0; i < n; i++)
        FUZZ_CHECK(strlen(conflicts[i].kind) < 16 && strlen(conflicts[i].device) <= VB_ADDRESS_MAX);
    return r;
}

/* Nobody writes into the bitmap: whatever is said, no bit is set. */
static int dirty_read(struct vfb_client *c, uint64_t pages) {
    static uint64_t words[VB_DIRTY_PAGES_MAX / 64 + 3];
    uint64_t found = 0;
    int r = vfb_dirty_read(c, 1, 0x1000, pages * 4096, 4096, VFB_DIRTY_UNMAP, words, &found);

    FUZZ_CHECK(found == 0);
    for (size_t i = 0; i < pages / 64 + 1; i++)
        FUZZ_CHECK(words[i] == 0);
    return r;
}

/* A discard inside another is refused, whatever the broker says. */
static int punch(void *arg) {
    const struct vfb_unmap u = {.iova = 0x100000, .size = 4096};

    FUZZ_CHECK(vfb_discard(arg, 1, &u, 1, punch, arg) != 0);
    return vfb_process(arg);
}

static int call(struct vfb_client *c, uint8_t which, unsigned *waiting, unsigned *finished) {
    struct vfb_map m = {.iova = 0x100000, .size = 4096, .memory = 1, .prot = VFB_READ | VFB_WRITE};
    struct vfb_unmap u = {.iova = 0x100000, .size = 4096};
    struct vfb_space_info info;
    struct vfb_memory memory;
    struct vfb_device device = {.fd = -1};
    struct vfb_device_info *list = NULL;
    struct vfb_usage usage;
    struct vfb_token token;
    struct vfb_access access;
    const uint8_t secret[VFB_TOKEN_SIZE] = {0};
    const uint32_t pins[2] = {1, 2};
    struct vfb_dirty_info dirty;
    uint64_t bytes;
    uint32_t id;
    size_t n;
    int r;

    switch (which % 34) {
    case 0:
        return vfb_memory_register(c, memory_fd, VFB_WRITABLE, "ram", &memory);
    case 1:
        return vfb_memory_unregister(c, 1);
    case 2:
        return vfb_space_create(c, "bus 0", &id);
    case 3:
        return vfb_space_destroy(c, 1);
    case 4:
        r = vfb_space_describe(c, 1, &info);
        FUZZ_CHECK(r != 0 || info.n_usable <= 64);
        return r;
    case 5:
        return vfb_map(c, 1, &m, 1);
    case 6:
        return vfb_unmap(c, 1, &u, 1, &bytes);
    case 7:
        return vfb_unmap_all(c, 1, NULL);
    case 8:
        r = vfb_device_claim(c, "0000:00:04.0", &device);
        if (r == 0)
            FUZZ_CHECK(close(device.fd) == 0);
        else
            FUZZ_CHECK(device.fd == -1);
        return r;
    case 9:
        return vfb_device_bind(c, 1);
    case 10:
        return vfb_device_attach(c, 1, 1);
    case 11:
        return vfb_device_detach(c, 1);
    case 12:
        return vfb_device_release(c, 1);
    case 13:
        r = vfb_usage(c, &usage);
        FUZZ_CHECK(r != 0 || memchr(usage.limit_whose, 0, sizeof usage.limit_whose));
        return r;
    case 14:
        r = vfb_device_list(c, &list, &n);
        for (size_t i = 0; r == 0 && i < n; i++)
            FUZZ_CHECK(memchr(list[i].address, 0, sizeof list[i].address) &&
                       memchr(list[i].reason, 0, sizeof list[i].reason));
        free(list);
        return r;
    case 15:
        r = vfb_map_async(c, 1, &m, 1, done, finished);
        *waiting += r == 0;
        return r;
    case 16:
        r = vfb_device_detach_async(c, 1, done, finished);
        *waiting += r == 0;
        return r;
    case 18:
        r = vfb_token_create(c, 1, 0x1000, 0xffff, "disk 0", &token);
        FUZZ_CHECK(r != 0 || memchr(token.warning, 0, sizeof token.warning));
        return r;
    case 19:
        return vfb_token_revoke(c, 1);
    case 20:
        r = vfb_access_open(c, secret, &access);
        FUZZ_CHECK(r != 0 || (memchr(access.name, 0, sizeof access.name) && access.range.first <= access.range.last));
        return r;
    case 21:
        return vfb_access_close(c, 1);
    case 22:
        return pin(c, 1, 1);
    case 23:
        return pin(c, 1, 2);
    case 24:
        return vfb_unpin(c, 1, pins, 2);
    case 25:
        r = vfb_unpin_async(c, 1, pins, 2, done, finished);
        *waiting += r == 0;
        return r;
    case 26:
        r = vfb_device_claim_for(c, "0000:00:04.0", 1, &device);
        if (r == 0)
            FUZZ_CHECK(close(device.fd) == 0);
        return r;
    case 27:
        return leaving_out(c);
    case 28:
        return vfb_space_need(c, 1, &(struct vfb_range){0x1000, 0xffff}, 1);
    case 29:
        r = vfb_dirty_start(c, 1, &dirty);
        FUZZ_CHECK(r != 0 || (dirty.page_size && !(dirty.page_size & (dirty.page_size - 1))));
        return r;
    case 30:
        return vfb_dirty_stop(c, 1);
    case 31:
        return dirty_read(c, 100);
    case 32: /* more than one request */
        return dirty_read(c, VB_DIRTY_PAGES_MAX + 100);
    case 33:
        return vfb_discard(c, 1, &u, 1, punch, c);
    default: /* 17 */
        return vfb_process(c);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_in in = {data, size};
    struct vfb_client *c;
    unsigned waiting = 0, finished = 0;
    static bool warm;

    if (memory_fd < 0) {
        memory_fd = memfd_create("fuzz", MFD_CLOEXEC);
        FUZZ_CHECK(memory_fd >= 0 && ftruncate(memory_fd, 8192) == 0);
    }
    struct fuzz_in calls = fuzz_part(&in, fuzz_u8(&in) & 15);
    int before = fuzz_lowest_fd();
    packets = in;
    FUZZ_CHECK(vfb_client_new(&c) == 0);
    vfb_set_event_handler(c, event, NULL);
    int r = vfb_connect(c, "/nowhere", "fuzz");
    FUZZ_CHECK(r != 0 || vfb_info(c)->batch_max <= VB_BATCH_MAX);
    while (calls.n) {
        r = call(c, fuzz_u8(&calls), &waiting, &finished);
        FUZZ_CHECK(r == 0 || vfb_error(c)->code == r || r == -EAGAIN);
        FUZZ_CHECK(vfb_error(c)->text && vfb_code_name(r));
    }
    while (vfb_process(c) == 0)
        ; /* to the end of the packets */
    FUZZ_CHECK(waiting == finished);
    vfb_client_free(c);
    /* The broker's end of the last connection is kept: the first input has one fd more. */
    FUZZ_CHECK(!warm || fuzz_lowest_fd() == before);
    warm = true;
    return 0;
}
