/* What a client sends to its session, and what its device's socket gets, on the emulated backend without daemon.
 *
 * Input: a program. Each step is one byte, which step, and its arguments: requests are built from menus of numbers, so that
 * deep states are reached; the first kind of step is a packet as it stands. After each step the model is compared with
 * itself and with the page tables, at the end nothing may be left. */
#include "config.h"

#include <errno.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "backend/emulated.h"
#include "fuzz.h"
#include "session/dispatch.h"

#define LEASE    (1u << 20)
#define MAPPINGS 64u

static struct vb_session s;
static struct vb_emulated_knobs knobs;
static int device_fds[8];
static unsigned n_device_fds;

/* ---- fds that come with packets ---- */

enum { KINDS = 12 };
static int ram = -1; /* this one's file changes while it is registered */

static void populate(int fd, size_t size) {
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    FUZZ_CHECK(p != MAP_FAILED);
    memset(p, 1, size);
    munmap(p, size);
}

static int sized(size_t size, bool full) {
    int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    FUZZ_CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    if (full && size)
        populate(fd, size);
    return fd;
}

static int fd_of_kind(unsigned kind) {
    static int menu[KINDS];
    int sv[2];

    if (ram < 0) {
        char path[64];

        ram = menu[0] = sized(0x10000, true);
        menu[1] = sized(0x4000, true);
        snprintf(path, sizeof path, "/proc/self/fd/%d", menu[1]);
        menu[2] = open(path, O_RDONLY | O_CLOEXEC);
        menu[3] = sized(0x4000, true);
        fcntl(menu[3], F_ADD_SEALS, F_SEAL_WRITE);
        menu[4] = sized(0x4000, false);
        menu[5] = sized(0, false);
        menu[6] = sized(0x4001, true);
        menu[7] = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        menu[8] = open("/dev/null", O_RDWR | O_CLOEXEC);
        menu[9] = open(path, O_PATH | O_CLOEXEC);
        FUZZ_CHECK(pipe2(sv, O_CLOEXEC) == 0);
        menu[10] = sv[1];
        FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) == 0);
        menu[11] = sv[0];
    }
    return fcntl(menu[kind % KINDS], F_DUPFD_CLOEXEC, 3);
}

/* ---- packets ---- */

static void handle(const void *data, size_t size, unsigned n_fds, unsigned kind) {
    static struct vb_arena arena;
    VB_PACKET struct vb_packet p = {.data = data, .size = size};
    bool fatal;
    int fd = -1;

    if (!arena.base)
        FUZZ_CHECK(vb_arena_init(&arena, 4 * VB_DECODE_MAX) == 0);
    for (unsigned i = 0; i < n_fds && i < VB_PACKET_FDS; i++)
        p.fds[p.n_fds++] = fd_of_kind(kind + i);
    size_t n = vb_client_handle(&s, &p, &fd, &fatal);
    if (fd >= 0)
        close(fd);
    const VfioBroker__Reply *r = vb_decode(&arena, &vfio_broker__reply__descriptor, s.client.out, n);
    FUZZ_CHECK(r && r->body_case != VFIO_BROKER__REPLY__BODY__NOT_SET);
    FUZZ_CHECK(r->body_case != VFIO_BROKER__REPLY__BODY_ERROR || (r->error->code != 0 && r->error->text[0]));
    if (fatal) { /* the connection would be over: go on as if a new one began */
        FUZZ_CHECK(r->body_case == VFIO_BROKER__REPLY__BODY_ERROR);
        s.client.hello_done = false;
    }
}

static void ask(VfioBroker__Request *q, unsigned n_fds, unsigned kind) {
    static uint8_t buf[VB_PACKET_MAX];

    q->id = 1;
    ssize_t n = vb_encode(&q->base, buf, sizeof buf);
    FUZZ_CHECK(n > 0);
    handle(buf, (size_t)n, n_fds, kind);
}

/* One request with its body `b`, whose fields the caller sets in between. */
#define BEGIN(Type, INIT) VfioBroker__##Type b = VFIO_BROKER__##INIT##__INIT
#define SEND(CASE, member, n_fds, kind)                                                                                \
    do {                                                                                                               \
        VfioBroker__Request q = VFIO_BROKER__REQUEST__INIT;                                                            \
        q.body_case = VFIO_BROKER__REQUEST__BODY_##CASE;                                                               \
        q.member = &b;                                                                                                 \
        ask(&q, n_fds, kind);                                                                                          \
    } while (0)

static uint32_t id(struct fuzz_in *in) {
    uint8_t v = fuzz_u8(in);

    return v < 0xf0 ? v & 7 : (uint32_t)fuzz_number(in);
}

static void step_map(struct fuzz_in *in) {
    VfioBroker__MapEntry e[8], *list[8];
    BEGIN(Map, MAP);

    b.space = id(in);
    b.entries = list;
    b.n_entries = fuzz_u8(in) & 7;
    for (size_t i = 0; i < b.n_entries; i++) {
        vfio_broker__map_entry__init(list[i] = &e[i]);
        e[i].iova = fuzz_number(in);
        e[i].size = fuzz_number(in);
        e[i].offset = fuzz_number(in);
        e[i].memory = id(in);
        e[i].prot = fuzz_u8(in) & 3;
    }
    SEND(MAP, map, 0, 0);
}

static void step_unmap(struct fuzz_in *in) {
    VfioBroker__UnmapEntry e[8], *list[8];
    BEGIN(Unmap, UNMAP);

    b.space = id(in);
    uint8_t n = fuzz_u8(in);
    b.all = n >> 7;
    b.entries = list;
    b.n_entries = n & 7;
    for (size_t i = 0; i < b.n_entries; i++) {
        vfio_broker__unmap_entry__init(list[i] = &e[i]);
        e[i].iova = fuzz_number(in);
        e[i].size = fuzz_number(in);
    }
    SEND(UNMAP, unmap, 0, 0);
}

static void step_discard(struct fuzz_in *in) {
    VfioBroker__UnmapEntry e[4], *list[4];
    BEGIN(Discard, DISCARD);

    b.space = id(in);
    b.entries = list;
    b.n_entries = fuzz_u8(in) & 3;
    for (size_t i = 0; i < b.n_entries; i++) {
        vfio_broker__unmap_entry__init(list[i] = &e[i]);
        e[i].iova = fuzz_number(in);
        e[i].size = fuzz_number(in);
    }
    SEND(DISCARD, discard, 0, 0);
}

static void step_need(struct fuzz_in *in) {
    VfioBroker__IovaRange r[VB_NEEDS_MAX + 1], *list[VB_NEEDS_MAX + 1];
    BEGIN(SpaceNeed, SPACE_NEED);

    b.space = id(in);
    b.ranges = list;
    b.n_ranges = fuzz_u8(in) % (VB_NEEDS_MAX + 2);
    for (size_t i = 0; i < b.n_ranges; i++) {
        vfio_broker__iova_range__init(list[i] = &r[i]);
        r[i].first = fuzz_number(in);
        r[i].last = fuzz_number(in);
    }
    SEND(SPACE_NEED, space_need, 0, 0);
}

static void step_dirty_read(struct fuzz_in *in) {
    BEGIN(DirtyRead, DIRTY_READ);

    b.space = id(in);
    b.iova = fuzz_number(in);
    b.size = fuzz_number(in);
    b.page_size = fuzz_number(in);
    b.bitmap_offset = fuzz_number(in);
    uint8_t how = fuzz_u8(in);
    b.keep = how >> 7;
    b.unmap = how >> 6 & 1;
    SEND(DIRTY_READ, dirty_read, how == 0x3f ? 0 : 1, how & 15);
}

/* What the devices can reach differs. */
static const struct vb_emulated_kind kinds[] = {
    {.address = "emulated:1",
     .aperture_last = (1ull << 32) - 1,
     .page_size = 4096,
     .n_reserved = 2,
     .reserved = {{{0x8000, 0xffff}, "direct"}, {{0xfee00000, 0xfeefffff}, "msi"}}},
    {.address = "emulated:2", .aperture_last = (1ull << 48) - 1, .page_size = 8192, .no_dirty = true},
};

/* The daemon's part of a claim is left out. */
static void step_claim(struct fuzz_in *in) {
    struct vb_reserved reserved[] = {{{0xfee00000, 0xfeefffff}, "msi"}, {{0x8000, 0xffff}, "direct"}};
    uint8_t how = fuzz_u8(in);
    char address[32];
    struct vb_claim_desc c = {.address = address,
                              .group = how & 3,
                              .software = how >> 3 & 1,
                              .reserved = reserved,
                              .n_reserved = (how & 3) == 1 ? 2 : 1,
                              .fds = {-1, -1},
                              .space = how >> 4};
    struct vb_device *d;
    struct vb_error e = {.code = 0};

    snprintf(address, sizeof address, "emulated:%u", how & 3);
    if (n_device_fds == 8)
        return;
    if (vb_model_claim(s.model, &c, &d, &device_fds[n_device_fds], &e) == 0)
        fcntl(device_fds[n_device_fds++], F_SETFL, O_NONBLOCK);
}

/* As held.c does for each device whose fd is readable. False: one has left. */
static bool devices_turn(void) {
    struct vb_backend *backend = s.model->backend;

    for (uint32_t i = 0; i < s.model->devices.n; i++) {
        const vb_handle handle = ((struct vb_device *)s.model->devices.items[i])->handle;

        if (backend->ops->device_fd(backend, handle) < 0)
            continue;
        int r = backend->ops->device_ready(backend, handle);
        if (r == 1)
            vb_device_requested(&s, handle);
        if (r == -ENODEV) {
            vb_device_vanished(&s, handle);
            return false;
        }
    }
    return true;
}

/* A packet on the device's socket, then the session's turn. */
static void step_device(struct fuzz_in *in) {
    uint8_t buf[sizeof(struct vb_emulated_dma) + 256], reply[4096];
    uint8_t op = fuzz_u8(in);
    struct vb_emulated_dma head = {.op = op & 0x80 ? VB_EMULATED_HOST_WANTS + (op & 1) : op & 3};
    int before = fuzz_lowest_fd();

    head.size = (uint32_t)fuzz_number(in);
    head.iova = fuzz_number(in);
    uint8_t how = fuzz_u8(in);
    struct fuzz_in body = fuzz_part(in, how);
    if (!n_device_fds)
        return;
    int fd = device_fds[how % n_device_fds], pass = fd;
    memcpy(buf, &head, sizeof head);
    if (body.n)
        memcpy(buf + sizeof head, body.p, body.n);
    vb_packet_send(fd, buf, how == 7 ? 3 : sizeof head + body.n, &pass, how & 1, MSG_DONTWAIT);
    bool all_there = devices_turn();
    if (how & 2)
        while (recv(fd, reply, sizeof reply, MSG_DONTWAIT) > 0)
            ;
    FUZZ_CHECK(!all_there || fuzz_lowest_fd() == before);
}

/* The client's file changes. */
static void step_file(struct fuzz_in *in) {
    uint8_t how = fuzz_u8(in);
    off_t at = (off_t)(how >> 4) << 12;

    switch (how & 3) {
    case 0:
        fallocate(ram, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, 4096);
        break;
    case 1:
        FUZZ_CHECK(ftruncate(ram, at) == 0);
        break;
    default:
        FUZZ_CHECK(ftruncate(ram, 0x10000) == 0);
        populate(ram, 0x10000);
    }
}

static void step_fault(struct fuzz_in *in) {
    struct vb_emulated_fault *f = &vb_emulated_knobs(s.model->backend)->fault[fuzz_u8(in) % VB_EMULATED_CALLS];

    *f = (struct vb_emulated_fault){.nth = 1 + (fuzz_u8(in) & 7), .error = -ENOMEM};
}

static void step_text(struct fuzz_in *in, char *buf, size_t size) {
    struct fuzz_in text = fuzz_part(in, fuzz_u8(in) & 127);

    if (text.n >= size)
        text.n = size - 1;
    if (text.n)
        memcpy(buf, text.p, text.n);
    buf[text.n] = 0;
}

static void step_of_domains(struct fuzz_in *in, unsigned which) {
    switch (which) {
    case 0:
    case 1:
        step_discard(in);
        return;
    case 2: {
        BEGIN(DiscardEnd, DISCARD_END);
        b.space = id(in);
        b.forget = fuzz_u8(in) & 1;
        SEND(DISCARD_END, discard_end, 0, 0);
        return;
    }
    case 3: {
        BEGIN(DirtySet, DIRTY_SET);
        b.space = id(in);
        b.on = !(fuzz_u8(in) & 1);
        SEND(DIRTY_SET, dirty_set, 0, 0);
        return;
    }
    case 4:
    case 5:
        step_dirty_read(in);
        return;
    case 6:
        step_need(in);
        return;
    default: {
        BEGIN(DeviceAttach, DEVICE_ATTACH);
        b.device = id(in);
        b.space = id(in);
        b.leave_out = true;
        SEND(DEVICE_ATTACH, device_attach, 0, 0);
        return;
    }
    }
}

static void step(struct fuzz_in *in) {
    char text[128];
    uint8_t which = fuzz_u8(in);

    if (which >= 0xe0) { /* these came later than the corpus */
        step_of_domains(in, which & 7);
        return;
    }
    switch (which % 19) {
    case 0: {
        unsigned n_fds = fuzz_u8(in) & 3, kind = fuzz_u8(in);
        struct fuzz_in raw = fuzz_part(in, (size_t)fuzz_raw(in, 2));
        handle(raw.p, raw.n, n_fds, kind);
        return;
    }
    case 1: {
        BEGIN(Hello, HELLO);
        b.version = fuzz_u8(in);
        step_text(in, b.name = text, sizeof text);
        SEND(HELLO, hello, 0, 0);
        return;
    }
    case 2: {
        BEGIN(MemoryRegister, MEMORY_REGISTER);
        uint8_t kind = fuzz_u8(in);
        b.writable = kind >> 7;
        b.dma_buf_size = kind == 0x7d ? 0x4000 : 0;
        SEND(MEMORY_REGISTER, memory_register, kind == 0x7f ? 2 : 1, kind & 15);
        return;
    }
    case 3: {
        BEGIN(MemoryUnregister, MEMORY_UNREGISTER);
        b.memory = id(in);
        SEND(MEMORY_UNREGISTER, memory_unregister, 0, 0);
        return;
    }
    case 4: {
        BEGIN(SpaceCreate, SPACE_CREATE);
        step_text(in, b.name = text, sizeof text);
        SEND(SPACE_CREATE, space_create, 0, 0);
        return;
    }
    case 5: {
        BEGIN(SpaceDestroy, SPACE_DESTROY);
        b.space = id(in);
        SEND(SPACE_DESTROY, space_destroy, 0, 0);
        return;
    }
    case 6: {
        BEGIN(SpaceDescribe, SPACE_DESCRIBE);
        b.space = id(in);
        SEND(SPACE_DESCRIBE, space_describe, 0, 0);
        return;
    }
    case 7:
    case 8:
        step_map(in);
        return;
    case 9:
        step_unmap(in);
        return;
    case 10:
        step_claim(in);
        return;
    case 11: {
        BEGIN(DeviceBind, DEVICE_BIND);
        b.device = id(in);
        SEND(DEVICE_BIND, device_bind, 0, 0);
        return;
    }
    case 12: {
        BEGIN(DeviceAttach, DEVICE_ATTACH);
        b.device = id(in);
        b.space = id(in);
        SEND(DEVICE_ATTACH, device_attach, 0, 0);
        return;
    }
    case 13: {
        BEGIN(DeviceDetach, DEVICE_DETACH);
        b.device = id(in);
        SEND(DEVICE_DETACH, device_detach, 0, 0);
        return;
    }
    case 14: {
        BEGIN(DeviceRelease, DEVICE_RELEASE);
        b.device = id(in);
        SEND(DEVICE_RELEASE, device_release, 0, 0);
        return;
    }
    case 15: {
        BEGIN(Inspect, INSPECT);
        b.kind = (VfioBroker__InspectKind)(fuzz_u8(in) & 15);
        b.session = id(in);
        b.after = fuzz_number(in);
        SEND(INSPECT, inspect, 0, 0);
        return;
    }
    case 16:
        step_device(in);
        return;
    case 17:
        step_file(in);
        return;
    default:
        step_fault(in);
        return;
    }
}

/* ---- invariants ---- */

static void check(void) {
    const struct vb_model *m = s.model;
    uint64_t mappings = 0, covered = 0;

    FUZZ_CHECK(m->ledger.used <= m->ledger.lease && m->mappings <= m->mappings_max);
    for (uint32_t i = 0; i < m->spaces.n; i++) {
        const struct vb_space *space = m->spaces.items[i];

        const struct vb_domain *dom;

        mappings += space->mappings + space->discarded;
        TAILQ_FOREACH (dom, &space->domains, entry) {
            FUZZ_CHECK(vb_emulated_dump(m->backend, dom->handle, NULL, 0) == space->mappings - dom->left_out);
            FUZZ_CHECK(dom->leaves_out || dom->left_out == 0);
        }
    }
    FUZZ_CHECK(mappings == m->mappings);
    mappings = 0;
    for (uint32_t i = 0; i < m->memories.n; i++) {
        const struct vb_memory *memory = m->memories.items[i];

        mappings += memory->mappings;
        covered += vb_charge_paid(&memory->charge);
    }
    FUZZ_CHECK(mappings == m->mappings && covered == m->ledger.used);
}

static void set_up(uint8_t how) {
    struct vb_backend *backend;
    struct vb_error e;

    memset(&s, 0, sizeof s);
    s.base = event_base_new();
    s.client_pidfd = s.iommufd = -1;
    s.id = 1;
    LIST_INIT(&s.watches);
    vb_outbox_init(&s.client.later);
    TAILQ_INIT(&s.pin_links);
    knobs = (struct vb_emulated_knobs){
        .kinds = kinds, .n_kinds = sizeof kinds / sizeof *kinds, .containers = how & 2, .coarse = how & 4};
    FUZZ_CHECK(s.base && vb_emulated_new(&knobs, &backend, &e) == 0 && vb_model_new(backend, MAPPINGS, &s.model) == 0);
    s.model->ledger.lease = s.model->ledger.limit = LEASE;
    FUZZ_CHECK(vb_control_start(&s, -1) == 0 && vb_client_start(&s, -1) == 0);
    n_device_fds = 0;
}

static void tear_down(bool devices_first) {
    for (unsigned i = 0; devices_first && i < n_device_fds; i++)
        close(device_fds[i]);
    vb_session_end(&s);
    FUZZ_CHECK(s.model->ledger.used == 0 && s.model->mappings == 0);
    FUZZ_CHECK(s.model->spaces.n == 0 && s.model->memories.n == 0 && s.model->devices.n == 0);
    for (unsigned i = 0; !devices_first && i < n_device_fds; i++)
        close(device_fds[i]);
    vb_unwatch_all(&s);
    vb_control_stop(&s);
    s.model = vb_model_free(s.model);
    if (s.held_timer)
        event_free(s.held_timer);
    event_base_free(s.base);
}

/* Of daemon/session/main.c, which is not linked: what is logged is of no interest here. */
void vb_session_log(const struct vb_session *unused, const char *fmt, ...) {
    (void)unused, (void)fmt;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_in in = {data, size};

    close(fd_of_kind(0));
    FUZZ_CHECK(ftruncate(ram, 0x10000) == 0);
    populate(ram, 0x10000);
    int before = fuzz_lowest_fd();
    uint8_t how = fuzz_u8(&in);
    set_up(how);
    for (int i = 0; in.n && i < 200; i++) {
        step(&in);
        check();
    }
    tear_down(how & 1);
    FUZZ_CHECK(fuzz_lowest_fd() == before);
    return 0;
}
