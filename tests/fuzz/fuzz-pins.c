/* What the two ends of a pin link get from a hostile session at the other end, on the emulated backend without daemon.
 *
 * Input: a program. Each step is one byte, which step, and its arguments. We are at once the daemon that joins sessions
 * (vb_control_call is wrapped), the sessions at the other ends, and the client, who is well-behaved: so every request of his is answered
 * once, or still waits for something that can come. After each step the model is compared with itself; at the end nothing
 * may be left, and no fd. Linked with --wrap=vb_control_call and --wrap=clock_gettime. */
#include "config.h"

#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "backend/emulated.h"
#include "fuzz.h"
#include "proto/clock.h"
#include "session/pins.h"

#define LEASE    (1u << 20)
#define MAPPINGS 64u
enum { ENDS = 6, IDS = 256, FDS = 1024, WANTED = 0x3000, WANTED_SIZE = 0x1800, DOUBLED = 0x14000 };

static struct vb_session s;
static struct vb_arena arena; /* what the client reads, and the hostile ends */
static int client = -1;
static int pinners[ENDS], owners[ENDS]; /* hostile ends of links of ours, and of accesses of ours; -1: none */
static uint64_t serials[ENDS];          /* of the last request that an owner got */
static unsigned n_wanted[ENDS];         /* and how many pins that wanted, of WANTED_SIZE at WANTED each */
static uint8_t asked[IDS];              /* by request id: 1 asked, 2 answered */
static unsigned n_asked;
static bool client_reads, small_buffers;
static uint64_t clock_ms, tick_ms;

/* ---- fds ---- */

static int sized(size_t size, bool full) {
    int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    FUZZ_CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    if (full) {
        void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        FUZZ_CHECK(p != MAP_FAILED);
        memset(p, 1, size);
        munmap(p, size);
    }
    return fd;
}

/* Memory, or what is none and stays open in the session for good. */
static int fd_of_kind(unsigned kind) {
    int sv[2];

    switch (kind & 3) {
    case 0:
    case 1:
        return sized(0x1000, false);
    case 2:
        return open("/dev/null", O_RDWR | O_CLOEXEC);
    default:
        FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) == 0);
        close(sv[1]);
        return sv[0];
    }
}

static void small(int fd) {
    const int bytes = 4608; /* net/core/sock.c: SOCK_MIN_SNDBUF */

    if (small_buffers)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

/* *ret_ours is hostile; the other end is the session's. */
static int pair(int *ret_ours) {
    int sv[2];

    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) == 0);
    small(sv[1]);
    *ret_ours = sv[0];
    return sv[1];
}

static unsigned which(uint8_t n) {
    return (n & 7u) % ENDS;
}

static int *free_end(int *ends) {
    for (int i = 0; i < ENDS; i++)
        if (ends[i] < 0)
            return &ends[i];
    return NULL;
}

/* The daemon: an access that is opened is an end of ours. */
int __wrap_vb_control_call(struct vb_session *unused, VfioBrokerInternal__Call *call,
                           VfioBrokerInternal__Answer **ret_answer, int ret_fds[2], struct vb_error *e);
int __wrap_vb_control_call(struct vb_session *unused, VfioBrokerInternal__Call *call,
                           VfioBrokerInternal__Answer **ret_answer, int ret_fds[2], struct vb_error *e) {
    static VfioBrokerInternal__Answer ok = VFIO_BROKER_INTERNAL__ANSWER__INIT;
    int *end = free_end(owners);

    (void)unused;
    if (call->body_case != VFIO_BROKER_INTERNAL__CALL__BODY_TOKEN_REDEEM || !end)
        return vb_refuse(e, VB_UNAVAILABLE, "vfio-brokerd is away");
    ret_fds[0] = pair(end);
    ret_fds[1] = -1;
    *ret_answer = &ok;
    serials[end - owners] = n_wanted[end - owners] = 0;
    return 0;
}

/* Of daemon/session/main.c, which is not linked: what is logged is of no interest here. */
void vb_session_log(const struct vb_session *unused, const char *fmt, ...) {
    (void)unused, (void)fmt;
}

/* ---- what comes out of the session ---- */

static void client_reply(const VfioBroker__Reply *r) {
    FUZZ_CHECK(r && r->body_case != VFIO_BROKER__REPLY__BODY__NOT_SET);
    if (r->id == 0) {
        FUZZ_CHECK(r->body_case == VFIO_BROKER__REPLY__BODY_EVENT);
        return;
    }
    FUZZ_CHECK(r->id < IDS && asked[r->id] == 1);
    asked[r->id] = 2;
}

static void drain(int fd, int owner) {
    static uint8_t buf[VB_PACKET_MAX];
    struct vb_packet p = VB_PACKET_INIT;

    while (fd >= 0 && vb_packet_recv(fd, buf, sizeof buf, MSG_DONTWAIT, &p) == 1) {
        if (fd == client) {
            client_reply(vb_decode(&arena, &vfio_broker__reply__descriptor, p.data, p.size));
        } else if (owner >= 0) {
            const VfioBrokerInternal__ToOwner *m =
                vb_decode(&arena, &vfio_broker_internal__to_owner__descriptor, p.data, p.size);

            FUZZ_CHECK(m && m->serial != 0 && m->body_case != VFIO_BROKER_INTERNAL__TO_OWNER__BODY__NOT_SET);
            serials[owner] = m->serial;
            n_wanted[owner] =
                m->body_case == VFIO_BROKER_INTERNAL__TO_OWNER__BODY_PIN ? (unsigned)m->pin->n_entries : 0;
        } else {
            const VfioBrokerInternal__ToPinner *m =
                vb_decode(&arena, &vfio_broker_internal__to_pinner__descriptor, p.data, p.size);

            FUZZ_CHECK(m && m->body_case != VFIO_BROKER_INTERNAL__TO_PINNER__BODY__NOT_SET);
            FUZZ_CHECK(p.n_fds == 0 || m->body_case == VFIO_BROKER_INTERNAL__TO_PINNER__BODY_PIN);
        }
        vb_packet_close(&p);
    }
}

static void turn(void) {
    for (int i = 0; i < 6; i++)
        event_base_loop(s.base, EVLOOP_NONBLOCK);
    if (client_reads)
        drain(client, -1);
}

/* Nobody's clock but ours, or a busy machine would let links rest in the middle of a program. Each look at it takes `tick_ms`. */
int __wrap_clock_gettime(clockid_t unused, struct timespec *ret);
int __wrap_clock_gettime(clockid_t unused, struct timespec *ret) {
    (void)unused;
    clock_ms += tick_ms;
    *ret = (struct timespec){.tv_sec = (time_t)(clock_ms / 1000), .tv_nsec = (long)(clock_ms % 1000 * 1000000)};
    return 0;
}

/* The client reads until nothing more waits for it: a small socket takes a few packets for each turn. Links have rested. */
static void settle(void) {
    struct vb_pin_link *l;

    client_reads = true;
    tick_ms = 0;
    clock_ms += 60000;
    for (int i = 0; i < 30; i++) { /* each turn takes a packet of each link, and a program has no more than 100 */
        TAILQ_FOREACH (l, &s.pin_links, entry)
            if (evtimer_pending(l->again, NULL))
                event_active(l->again, EV_TIMEOUT, 0);
        turn();
    }
    for (int i = 0; i < 4 || (i < 500 && !s.holding && vb_client_busy(&s)); i++)
        turn();
}

/* ---- steps: the client ---- */

static void ask(VfioBroker__Request *q) {
    static uint8_t buf[VB_PACKET_MAX];

    if (n_asked + 1 == IDS || s.holding)
        return;
    q->id = ++n_asked;
    ssize_t n = vb_encode(&q->base, buf, sizeof buf);
    FUZZ_CHECK(n > 0);
    if (vb_packet_send(client, buf, (size_t)n, NULL, 0, MSG_DONTWAIT) == 0)
        asked[q->id] = 1;
    else
        n_asked--;
}

#define BEGIN(Type, INIT) VfioBroker__##Type b = VFIO_BROKER__##INIT##__INIT
#define SEND(CASE, member)                                                                                             \
    do {                                                                                                               \
        VfioBroker__Request q = VFIO_BROKER__REQUEST__INIT;                                                            \
        q.body_case = VFIO_BROKER__REQUEST__BODY_##CASE;                                                               \
        q.member = &b;                                                                                                 \
        ask(&q);                                                                                                       \
    } while (0)

static void step_client(struct fuzz_in *in) {
    VfioBroker__MapEntry map = VFIO_BROKER__MAP_ENTRY__INIT, *maps[] = {&map};
    VfioBroker__UnmapEntry unmap = VFIO_BROKER__UNMAP_ENTRY__INIT, *unmaps[] = {&unmap};
    VfioBroker__PinEntry pin = VFIO_BROKER__PIN_ENTRY__INIT, *pins[] = {&pin, &pin};
    uint8_t secret[VB_TOKEN_SIZE] = {0};
    uint32_t ids[] = {0, 1};
    const uint8_t kind = fuzz_u8(in), n = fuzz_u8(in);

    switch (kind % 9) {
    case 0: {
        BEGIN(AccessOpen, ACCESS_OPEN);
        b.secret = (ProtobufCBinaryData){.data = secret, .len = n & 0x80 ? 3 : sizeof secret};
        SEND(ACCESS_OPEN, access_open);
        return;
    }
    case 1: {
        BEGIN(Pin, PIN);
        b.access = n & 7;
        pin.iova = WANTED;
        pin.size = WANTED_SIZE;
        pin.prot = 1;
        b.entries = pins;
        b.n_entries = n >> 6;
        b.n_entries = b.n_entries > 2 ? 2 : b.n_entries;
        SEND(PIN, pin);
        return;
    }
    case 2: {
        BEGIN(Unpin, UNPIN);
        b.access = n & 7;
        b.pins = ids;
        b.n_pins = n >> 7;
        SEND(UNPIN, unpin);
        return;
    }
    case 3: {
        BEGIN(AccessClose, ACCESS_CLOSE);
        b.access = n & 7;
        SEND(ACCESS_CLOSE, access_close);
        return;
    }
    case 4: {
        BEGIN(Unmap, UNMAP);
        b.space = 1 + (n & 1);
        b.all = n >> 7;
        unmap.iova = (uint64_t)(n & 0x3e) << 15;
        unmap.size = n & 0x40 ? 0x100000 : 0x10000;
        b.entries = unmaps;
        b.n_entries = !b.all;
        SEND(UNMAP, unmap);
        return;
    }
    case 5: {
        BEGIN(Map, MAP);
        b.space = 1 + (n & 1);
        b.entries = maps;
        b.n_entries = 1;
        map.iova = (uint64_t)(n & 0x3e) << 15;
        map.size = 0x10000;
        map.memory = 1 + (n >> 7);
        map.prot = n & 0x40 ? 1 : 3;
        SEND(MAP, map);
        return;
    }
    case 6: {
        BEGIN(TokenCreate, TOKEN_CREATE);
        b.space = 1 + (n & 1);
        b.first = (uint64_t)(n & 0xf0) << 12;
        b.last = n & 2 ? UINT64_MAX : b.first + 0x1ffff;
        b.name = (char *)(n & 4 ? "token" : "");
        SEND(TOKEN_CREATE, token_create);
        return;
    }
    case 7: {
        BEGIN(TokenRevoke, TOKEN_REVOKE);
        b.token = n & 7;
        SEND(TOKEN_REVOKE, token_revoke);
        return;
    }
    default: {
        BEGIN(SpaceDestroy, SPACE_DESTROY);
        b.space = 1 + (n & 1);
        SEND(SPACE_DESTROY, space_destroy);
        return;
    }
    }
}

/* ---- steps: the hostile ends ---- */

static void send_raw(int fd, const void *data, size_t size, unsigned n_fds, unsigned kind) {
    VB_PACKET struct vb_packet p = {.data = data, .size = size};

    for (unsigned i = 0; i < n_fds; i++)
        p.fds[p.n_fds++] = fd_of_kind(kind >> 2 * i);
    if (fd >= 0)
        vb_packet_send(fd, data, size, p.fds, p.n_fds, MSG_DONTWAIT);
}

static void send_message(int fd, const ProtobufCMessage *m, unsigned n_fds, unsigned kind) {
    static uint8_t buf[VB_PACKET_MAX];
    ssize_t n = vb_encode(m, buf, sizeof buf);

    if (n > 0)
        send_raw(fd, buf, (size_t)n, n_fds, kind);
}

/* A secret is shown to us as owner. */
static void step_link(struct fuzz_in *in) {
    VfioBrokerInternal__PinLink m = VFIO_BROKER_INTERNAL__PIN_LINK__INIT;
    const uint8_t how = fuzz_u8(in);
    uint8_t secret[VB_TOKEN_SIZE] = {0};
    int *end = free_end(pinners);

    if (!end || s.holding)
        return;
    if (s.tokens.n > 0)
        memcpy(secret, ((struct vb_token *)s.tokens.items[how % s.tokens.n])->secret, sizeof secret);
    if (how & 0x40)
        secret[how & 31] ^= how;
    m.secret = (ProtobufCBinaryData){.data = secret, .len = how & 0x80 ? how & 63 : sizeof secret};
    m.secret.len = m.secret.len > sizeof secret ? sizeof secret : m.secret.len;
    m.session = how;
    vb_pin_link_offered(&s, &m, pair(end));
}

static void step_to_owner(struct fuzz_in *in) {
    VfioBrokerInternal__ToOwner m = VFIO_BROKER_INTERNAL__TO_OWNER__INIT;
    VfioBroker__PinEntry e[4], *list[VB_PIN_BATCH + 1];
    VfioBroker__Pin pin = VFIO_BROKER__PIN__INIT;
    VfioBroker__Unpin unpin = VFIO_BROKER__UNPIN__INIT;
    uint32_t pins[4];
    const uint8_t head = fuzz_u8(in), n = fuzz_u8(in);
    const int fd = pinners[which(head)];

    m.serial = n & 0x80 ? 0 : 1 + n;
    if (head & 0x80) {
        m.body_case = VFIO_BROKER_INTERNAL__TO_OWNER__BODY_UNPIN;
        m.unpin = &unpin;
        unpin.pins = pins;
        unpin.n_pins = n & 3;
        for (size_t i = 0; i < unpin.n_pins; i++)
            pins[i] = fuzz_u8(in);
    } else {
        m.body_case = VFIO_BROKER_INTERNAL__TO_OWNER__BODY_PIN;
        m.pin = &pin;
        pin.entries = list;
        pin.n_entries = n & 0x40 ? VB_PIN_BATCH + (n & 1) : n & 3;
        for (size_t i = 0; i < 4; i++) {
            vfio_broker__pin_entry__init(&e[i]);
            if (i < (n & 3u) || i == 0) {
                e[i].iova = fuzz_number(in);
                e[i].size = fuzz_number(in);
                e[i].prot = fuzz_u8(in) & 7;
            }
        }
        for (size_t i = 0; i < pin.n_entries; i++)
            list[i] = &e[(n & 3u) ? i % (n & 3u) : 0];
    }
    send_message(fd, &m.base, head & 0x40 ? 1 : 0, n);
}

/* Pins as they were asked for, or nearly. */
static void make_pins(VfioBroker__PinReply *m, unsigned who, uint8_t how, VfioBroker__Pinned *rows,
                      VfioBroker__Pinned **list, VfioBroker__PinSegment *segments, VfioBroker__PinSegment **parts) {
    for (unsigned i = 0; i < 2; i++) {
        vfio_broker__pin_segment__init(parts[i] = &segments[i]);
        segments[i].iova = WANTED + (i ? WANTED_SIZE / 2 : 0);
        segments[i].size = how & 0x80 ? WANTED_SIZE : WANTED_SIZE / 2;
        segments[i].offset = how & 0x40 ? UINT64_MAX : 0;
        segments[i].memory = 1 + (how & 3);
        vfio_broker__pinned__init(list[i] = &rows[i]);
        rows[i].pin = 1u + (how >> 2 & 7u) + i;
        rows[i].segments = parts;
        rows[i].n_segments = 2;
    }
    m->pins = list;
    m->n_pins = n_wanted[who] + (how >> 5 & 1u);
    m->n_pins = m->n_pins > 2 ? 2 : m->n_pins;
}

static void step_to_pinner(struct fuzz_in *in) {
    VfioBrokerInternal__ToPinner m = VFIO_BROKER_INTERNAL__TO_PINNER__INIT;
    VfioBroker__Error error = VFIO_BROKER__ERROR__INIT;
    VfioBroker__AccessOpenReply opened = VFIO_BROKER__ACCESS_OPEN_REPLY__INIT;
    VfioBroker__PinReply pin = VFIO_BROKER__PIN_REPLY__INIT;
    VfioBroker__Pinned rows[2], *list[2];
    VfioBroker__PinSegment segments[2], *parts[2];
    VfioBroker__Done done = VFIO_BROKER__DONE__INIT;
    VfioBroker__Invalidate invalidate = VFIO_BROKER__INVALIDATE__INIT;
    VfioBroker__PinsLost lost = VFIO_BROKER__PINS_LOST__INIT;
    uint32_t ids[] = {1, 2, 3, 4};
    const uint8_t head = fuzz_u8(in), n = fuzz_u8(in), kind = fuzz_u8(in);
    const unsigned who = which(head);

    m.serial = head & 0x80 ? fuzz_u8(in) : head & 0x40 ? 0 : serials[who];
    m.body_case = (VfioBrokerInternal__ToPinner__BodyCase)(2 + (n & 7) % 6);
    switch (m.body_case) {
    case VFIO_BROKER_INTERNAL__TO_PINNER__BODY_ERROR:
        m.error = &error;
        error.code = (VfioBroker__ErrorCode)(kind & 15);
        error.text = (char *)"no";
        break;
    case VFIO_BROKER_INTERNAL__TO_PINNER__BODY_OPENED:
        m.opened = &opened;
        opened.access = n;
        break;
    case VFIO_BROKER_INTERNAL__TO_PINNER__BODY_PIN:
        m.pin = &pin;
        pin.memories = ids;
        pin.n_memories = (n >> 3 & 3) + (n >> 6 & 1);
        make_pins(&pin, who, fuzz_u8(in), rows, list, segments, parts);
        break;
    case VFIO_BROKER_INTERNAL__TO_PINNER__BODY_DONE:
        m.done = &done;
        break;
    case VFIO_BROKER_INTERNAL__TO_PINNER__BODY_INVALIDATE:
        m.invalidate = &invalidate;
        invalidate.pins = ids;
        invalidate.n_pins = kind & 3;
        break;
    default:
        m.pins_lost = &lost;
        lost.closed = kind & 1;
        lost.reason = (char *)(kind & 2 ? "because" : "");
    }
    send_message(owners[who], &m.base, n >> 3 & 3, kind);
}

static void close_end(int *end) {
    if (*end >= 0)
        close(*end);
    *end = -1;
}

/* ---- steps: time, and who reads ---- */

static void step_time(struct fuzz_in *in) {
    const uint8_t n = fuzz_u8(in);

    if (s.holding)
        return;
    if (n & 0x80 && s.accesses.n > 0) {
        struct vb_access *a = s.accesses.items[n % s.accesses.n];

        if (evtimer_pending(a->patience, NULL))
            event_active(a->patience, EV_TIMEOUT, 0);
    } else {
        vb_pins_expire(&s, vb_now_ms() + 2 * VB_INVALIDATE_MS);
        vb_park_poke(&s);
    }
}

static void step(struct fuzz_in *in) {
    const uint8_t what = fuzz_u8(in);

    switch (what % 12) {
    case 0: {
        const uint8_t n = fuzz_u8(in), kind = fuzz_u8(in);
        struct fuzz_in raw = fuzz_part(in, (size_t)fuzz_raw(in, 2));

        send_raw((n & 0x80 ? owners : pinners)[which(n)], raw.p, raw.n, n >> 4 & 3, kind);
        return;
    }
    case 1:
    case 2:
        step_client(in);
        return;
    case 3:
        step_link(in);
        return;
    case 4:
    case 5:
        step_to_owner(in);
        return;
    case 6:
    case 7:
        step_to_pinner(in);
        return;
    case 8: {
        const uint8_t n = fuzz_u8(in);

        close_end(&(n & 0x80 ? owners : pinners)[which(n)]);
        return;
    }
    case 9:
        step_time(in);
        return;
    case 10: {
        const uint8_t n = fuzz_u8(in);

        client_reads = n & 0x40 ? !client_reads : client_reads;
        drain((n & 0x80 ? owners : pinners)[which(n)], n & 0x80 ? (int)which(n) : -1);
        return;
    }
    default:
        for (int i = 0; i < ENDS; i++) {
            drain(pinners[i], -1);
            drain(owners[i], i);
        }
    }
}

/* ---- invariants ---- */

static bool link_lives(const struct vb_pin_link *l) {
    const struct vb_pin_link *i;

    TAILQ_FOREACH (i, &s.pin_links, entry)
        if (i == l)
            return true;
    return false;
}

static void check_pins(const struct vb_space *space, uint32_t *n, uint32_t *parts) {
    uint32_t here = 0;
    struct vb_pin *p;

    TAILQ_FOREACH (p, &((struct vb_space *)space)->pins, entry) {
        const struct vb_pin_link *l = p->access;

        FUZZ_CHECK(link_lives(l) && l->token->space == space && p->space == space);
        FUZZ_CHECK(vb_range_contains(l->token->range, p->iova) && p->n_parts > 0);
        for (uint32_t i = 0; i < p->n_parts; i++) {
            const struct vb_pin_part *part = &p->parts[i];
            struct vb_mapping *mapping = vb_mapping_first(&((struct vb_space *)space)->tree, part->iova);

            FUZZ_CHECK(mapping && vb_range_contains(mapping->iova, part->iova) && mapping->memory == part->memory);
            FUZZ_CHECK(mapping->offset + (part->iova.first - mapping->iova.first) == part->offset);
            FUZZ_CHECK(part->memory->charge.pinned.covered > 0 && (part->memory->resident || s.holding));
        }
        here++;
        *parts += p->n_parts;
    }
    FUZZ_CHECK(here == space->n_pins);
    *n += here;
}

static void check(void) {
    const struct vb_model *m = s.model;
    uint64_t mappings = 0, covered = 0, doubled = 0;
    uint32_t n = 0, parts = 0, links = 0;
    const struct vb_pin_link *l;

    for (uint32_t i = 0; i < m->spaces.n; i++) {
        const struct vb_space *space = m->spaces.items[i];

        mappings += space->mappings;
        check_pins(space, &n, &parts);
    }
    FUZZ_CHECK(mappings == m->mappings && n == m->n_pins && parts == m->pin_parts);
    for (uint32_t i = 0; i < m->memories.n; i++) {
        const struct vb_memory *memory = m->memories.items[i];

        covered += vb_charge_paid(&memory->charge);
        doubled += memory->charge.both;
        FUZZ_CHECK(!memory->resident == (!memory->charge.has_pinned || memory->charge.pinned.covered == 0));
    }
    FUZZ_CHECK(covered == m->ledger.used && doubled == m->ledger.doubled && covered <= m->ledger.lease);
    FUZZ_CHECK(doubled <= DOUBLED);
    TAILQ_FOREACH (l, &s.pin_links, entry) {
        FUZZ_CHECK(l->n_sent <= VB_MEMORIES_MAX && vb_table_find(&s.tokens, l->token->id) == l->token);
        links++;
    }
    FUZZ_CHECK(links == s.n_pin_links && s.park.n <= VB_PARKED_MAX);
    for (unsigned i = 0; i < VB_PARKED_MAX; i++) /* what could answer it is there */
        FUZZ_CHECK(!s.pending[i].request || vb_table_find(&s.accesses, s.pending[i].access));
}

/* Once everybody reads, every request of the client is answered, or waits for an owner or for pins to end. */
static void check_answers(void) {
    unsigned waiting = s.park.n, unanswered = 0;

    if (s.holding)
        return;
    for (unsigned i = 0; i < VB_PARKED_MAX; i++)
        waiting += s.pending[i].request != 0;
    for (unsigned i = 1; i <= n_asked; i++)
        unanswered += asked[i] == 1;
    FUZZ_CHECK(unanswered == waiting);
}

/* ---- */

static void add(uint32_t space, uint32_t memory, uint64_t iova, uint64_t size, uint64_t offset, uint32_t prot) {
    const struct vb_map_entry e = {.iova = iova, .size = size, .offset = offset, .memory = memory, .prot = prot};

    FUZZ_CHECK(vb_model_map(s.model, space, &e, 1, NULL) == 0);
}

/* The account has as much lease as there is, and RLIMIT_MEMLOCK room for DOUBLED. */
static int want(struct vb_ledger *l, uint64_t need, uint64_t doubled, struct vb_error *e) {
    if (need > 0 || doubled > DOUBLED)
        return vb_refuse(e, VB_LIMIT, "there is no more");
    vb_ledger_granted(l, 0, doubled);
    return 0;
}

/* Two spaces with mappings of two memories, and a token for all of the first. */
static void set_up(void) {
    struct vb_backend *backend;
    struct vb_memory *memory;
    struct vb_space *space;
    struct vb_token *token;
    struct vb_error e;

    memset(&s, 0, sizeof s);
    s.base = event_base_new();
    s.client_pidfd = s.iommufd = -1;
    s.id = 1;
    LIST_INIT(&s.watches);
    vb_outbox_init(&s.client.later);
    TAILQ_INIT(&s.pin_links);
    FUZZ_CHECK(s.base && vb_emulated_new(NULL, &backend, &e) == 0 && vb_model_new(backend, MAPPINGS, &s.model) == 0);
    s.model->ledger.lease = s.model->ledger.limit = LEASE;
    s.model->ledger.want = want;
    FUZZ_CHECK(vb_control_start(&s, -1) == 0 && vb_client_start(&s, pair(&client)) == 0);
    s.client.hello_done = true;
    for (unsigned i = 0; i < 2; i++)
        FUZZ_CHECK(vb_model_register(s.model, sized(0x20000, true), true, 0, "ram", &memory, &e) == 0);
    for (unsigned i = 0; i < 2; i++)
        FUZZ_CHECK(vb_model_space_create(s.model, "space", &space, &e) == 0);
    add(1, 1, 0, 0x10000, 0, 3);
    add(1, 2, 0x10000, 0x10000, 0x8000, 1);
    add(1, 1, 0x100000, 0x8000, 0x4000, 3);
    for (uint64_t i = 0; i < 20; i++)
        add(2, 1, i * 0x1000, 0x1000, i * 0x1000, 3);
    FUZZ_CHECK(
        vb_token_create(&s, vb_model_space(s.model, 1, &e), (struct vb_range){0, UINT64_MAX}, "all", &token, &e) == 0);
}

static void tear_down(bool ends_first) {
    for (int i = 0; i < ENDS && ends_first; i++) {
        close_end(&pinners[i]);
        close_end(&owners[i]);
    }
    if (ends_first) {
        settle();
        check();
        FUZZ_CHECK(s.n_pin_links == 0 && s.model->n_pins == 0);
        check_answers();
    }
    vb_session_end(&s);
    FUZZ_CHECK(s.model->ledger.used == 0 && s.model->ledger.doubled == 0 && s.model->mappings == 0);
    FUZZ_CHECK(s.model->n_pins == 0 && s.model->pin_parts == 0 && s.n_pin_links == 0 && s.park.n == 0);
    FUZZ_CHECK(s.model->spaces.n == 0 && s.model->memories.n == 0);
    for (int i = 0; i < ENDS; i++) {
        close_end(&pinners[i]);
        close_end(&owners[i]);
    }
    close_end(&client);
    vb_unwatch_all(&s);
    vb_control_stop(&s);
    s.model = vb_model_free(s.model);
    if (s.held_timer)
        event_free(s.held_timer);
    event_base_free(s.base);
}

static unsigned open_fds(bool *open) {
    unsigned n = 0;

    for (int fd = 0; fd < FDS; fd++)
        n += open[fd] = fcntl(fd, F_GETFD) >= 0;
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static bool before[FDS], after[FDS];
    struct fuzz_in in = {data, size};
    unsigned foreign, n;

    if (!arena.base)
        FUZZ_CHECK(vb_arena_init(&arena, 4 * VB_DECODE_MAX) == 0);
    memset(asked, 0, sizeof asked);
    n_asked = 0;
    for (int i = 0; i < ENDS; i++)
        pinners[i] = owners[i] = -1;
    n = open_fds(before);
    const uint8_t how = fuzz_u8(&in);
    small_buffers = how & 2;
    clock_ms = 1000;
    tick_ms = how >> 2 & 3;
    client_reads = true;
    set_up();
    for (int i = 0; in.n && i < 100; i++) {
        step(&in);
        turn();
        check();
    }
    settle();
    check();
    check_answers();
    tear_down(how & 1);
    foreign = s.client.n_foreign + s.n_foreign_owners; /* left open on purpose: session/client.c */
    FUZZ_CHECK(open_fds(after) == n + foreign);
    for (int fd = 0; fd < FDS && foreign; fd++)
        if (after[fd] && !before[fd])
            close(fd);
    return 0;
}
