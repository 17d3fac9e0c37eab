/* What a session, which may be in its client's hands, sends to the daemon: decoding, checks, and the calls themselves, on
 * a daemon of two sessions with the emulated backend and without processes.
 *
 * Input: for each message one byte (bits 0-1: fds that come with it, bit 2: from which session, bit 3: as a session that has
 * not been adopted), two bytes of length, the packed message. */
#include "config.h"

#include <sys/socket.h>

#include "broker/lease.h"
#include "fuzz.h"

static struct vb_broker b;
static struct vb_arena arena;

static void set_up_once(void) {
    static const char text[] = "{\"version\":1,\"grants\":[{\"uid\":%u,\"devices\":[\"emulated:0\",\"emulated:1\"],"
                               "\"memory_max\":1073741824,\"sessions\":16,\"mappings\":65536,\"admin\":true}]}";
    char policy[512];
    struct vb_error e;

    if (b.base)
        return;
    int n = snprintf(policy, sizeof policy, text, (unsigned)getuid());
    b.base = event_base_new();
    b.backend = VB_BACKEND_EMULATED;
    b.options = (struct vb_options){.proc = "/proc", .sys = "/nowhere", .dev = "/nowhere", .runtime_dir = "/nowhere"};
    b.devices = (struct vb_register){.sys = "/nowhere", .dev = "/nowhere", .proc = "/nowhere", .emulated = 4};
    b.rows = malloc(VB_PACKET_MAX);
    b.reserve_fd = b.cgroups.dir = -1;
    b.accounts.ops = &vb_lease_ops;
    FUZZ_CHECK(b.base && b.rows && vb_link_buffers_init(&b.buffers) == 0 && vb_arena_init(&arena, VB_DECODE_MAX) == 0);
    FUZZ_CHECK(vb_policy_parse("policy.json", policy, (size_t)n, &b.policy, &e) == 0);
}

static void on_timer(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what, (void)arg;
}

/* A session whose process does not exist; its end of the link is *ret_peer. */
static struct vb_record *session(enum vb_record_state state, int *ret_peer) {
    struct vb_record *r = vb_record_new(&b);
    struct vb_limits limits;
    struct vb_error e;
    int sv[2];

    FUZZ_CHECK(r && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) == 0);
    r->state = state;
    FUZZ_CHECK(vb_peer_read(sv[0], "/proc", &r->peer) == 0);
    FUZZ_CHECK(vb_record_link(r, sv[0]) == 0);
    vb_record_timer(r, 3600 * 1000, on_timer);
    if (state != VB_RECORD_KNOCKING) {
        vb_record_number(r, 0);
        r->policy = vb_policy_ref(b.policy);
        r->grant = vb_policy_find(b.policy, getuid(), getgid(), NULL, 0);
        r->pid = 1; /* nothing is done to it on the emulated backend, but somebody has to be there to give lease */
        FUZZ_CHECK(r->grant && vb_lease_first(r, &limits, &e) == 0);
    }
    *ret_peer = sv[1];
    return r;
}

static bool lives(const struct vb_record *r) {
    const struct vb_record *i;

    LIST_FOREACH (i, &b.records, entry) {
        if (i == r)
            return true;
    }
    return false;
}

/* Reads away what the daemon says; it must be a message. */
static void drain(int peer) {
    static uint8_t buf[VB_PACKET_MAX];
    static struct vb_arena a;
    struct vb_packet p = VB_PACKET_INIT;

    if (!a.base)
        FUZZ_CHECK(vb_arena_init(&a, 4 * VB_DECODE_MAX) == 0);
    while (vb_packet_recv(peer, buf, sizeof buf, MSG_DONTWAIT, &p) == 1) {
        FUZZ_CHECK(vb_decode(&a, &vfio_broker_internal__to_session__descriptor, p.data, p.size));
        vb_packet_close(&p);
    }
}

/* Whatever they say, they have no more than the limit, and the book adds up. */
static void check_leases(void) {
    const struct vb_account *a;
    const struct vb_lease *l;

    LIST_FOREACH (a, &b.accounts.list, entry) {
        uint64_t sum = 0;

        LIST_FOREACH (l, &a->leases, entry) {
            FUZZ_CHECK(l->bytes <= l->booked && l->answered <= l->asked);
            sum += l->booked;
        }
        FUZZ_CHECK(sum == a->leased && sum <= 1u << 30);
    }
}

static void one(struct vb_record *r, int peer, struct fuzz_in body, unsigned n_fds) {
    VB_PACKET struct vb_packet p = {.data = body.p, .size = body.n};

    for (unsigned i = 0; i < n_fds; i++)
        p.fds[p.n_fds++] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    const VfioBrokerInternal__ToDaemon *m = vb_link_decode(&arena, p.data, p.size, p.n_fds);
    if (m && lives(r) && r->link.fd >= 0)
        vb_calls_message(&r->link, m, &p);
    drain(peer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_in in = {data, size};
    struct vb_record *r[3];
    int peer[3];

    set_up_once();
    b.lost = b.refused = (struct vb_log_limit){.window = UINT64_MAX / 2, .lines = UINT32_MAX / 2}; /* says nothing */
    int before = fuzz_lowest_fd();
    r[0] = session(VB_RECORD_SERVING, &peer[0]);
    r[1] = session(VB_RECORD_SERVING, &peer[1]);
    r[2] = session(VB_RECORD_KNOCKING, &peer[2]);
    while (in.n >= 3) {
        uint8_t kind = fuzz_u8(&in);
        unsigned who = kind & 8 ? 2 : kind >> 2 & 1;
        size_t n = (size_t)fuzz_raw(&in, 2);

        one(r[who], peer[who], fuzz_part(&in, n), kind & 3);
        check_leases();
        event_base_loop(b.base, EVLOOP_NONBLOCK);
    }
    for (int i = 0; i < 3; i++) {
        if (lives(r[i]))
            vb_record_free(r[i]);
        close(peer[i]);
    }
    FUZZ_CHECK(LIST_EMPTY(&b.records) && LIST_EMPTY(&b.asks) && LIST_EMPTY(&b.devices.claims));
    FUZZ_CHECK(LIST_EMPTY(&b.devices.groups));
    FUZZ_CHECK(LIST_EMPTY(&b.accounts.list) && b.n_sessions == 0);
    FUZZ_CHECK(fuzz_lowest_fd() == before);
    return 0;
}
