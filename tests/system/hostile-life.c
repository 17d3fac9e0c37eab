/* Hostile lives: connections without end, clients that do not read, die, fork, or reach for other processes. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hostile.h"
#include "proto/fdpass.h"

#define MIB         (1ul << 20)
#define CONNECTIONS 10000
#define SESSIONS    48u /* that the policy of tests/system/hostile grants */

static void *shared(size_t size) {
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    CHECK(p != MAP_FAILED, "mmap: %m");
    return p;
}

/* Connects without more; -1 and errno. */
static int plain_connect(void) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    strcpy(a.sun_path, world.socket);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void test_connections_in_turn(void) {
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        int fd = plain_connect();
        CHECK(fd >= 0, "connection %u: %m", i);
        close(fd);
    }
    /* All of that is over soon, and a good client is served. */
    struct wire w;
    for (int i = 0; i < 200; i++) {
        wire_connect(&w);
        if (w_hello(&w, 1, "after the flood") == 0)
            break;
        wire_close(&w);
        sleep_ms(100);
    }
    CHECK(w.sock >= 0, "nobody is served after %u connections", CONNECTIONS);
    wire_close(&w);
}

struct crowd {
    volatile unsigned connecting, connected, serving, refused, failed, go;
};
static void one_of_the_crowd(void *arg) {
    enum { EACH = CONNECTIONS / 5 };
    static struct pollfd p[EACH];
    struct crowd *crowd = arg;
    unsigned n = 0;

    for (unsigned i = 0; i < EACH; i++) {
        int fd = plain_connect();
        if (fd < 0) {
            __sync_fetch_and_add(&crowd->failed, 1);
            continue;
        }
        p[n++] = (struct pollfd){.fd = fd, .events = POLLIN};
        __sync_fetch_and_add(&crowd->connected, 1);
    }
    __sync_fetch_and_sub(&crowd->connecting, 1);
    /* Those that are not served are told so, or closed: until no more are left than can be served. */
    uint64_t end = now_ms() + 120000;
    while (now_ms() < end && (crowd->connecting || crowd->connected - crowd->refused > SESSIONS)) {
        if (poll(p, n, 200) <= 0)
            continue;
        for (unsigned i = 0; i < n; i++)
            if (p[i].revents) {
                close(p[i].fd);
                p[i].fd = -1;
                __sync_fetch_and_add(&crowd->refused, 1);
            }
    }
    for (unsigned i = 0; i < n; i++)
        if (p[i].fd >= 0)
            __sync_fetch_and_add(&crowd->serving, 1);
    while (!crowd->go)
        sleep_ms(10);
}

static void test_connections_at_once(void) {
    struct crowd *crowd = shared(sizeof *crowd);
    pid_t pids[5];
    int before = count_sessions(), most = 0;
    unsigned long rounds = bystander->rounds;

    crowd->connecting = 5;
    for (int i = 0; i < 5; i++)
        pids[i] = spawn(A, one_of_the_crowd, crowd);
    uint64_t end = now_ms() + 200000;
    while (crowd->refused + crowd->serving + crowd->failed < CONNECTIONS && now_ms() < end) {
        int now = count_sessions();
        most = now > most ? now : most;
        sleep_ms(50);
    }
    note("%u connected, %u refused, %u served at the same time, at most %d more processes\n", crowd->connected,
         crowd->refused, crowd->serving, most - before);
    note("meanwhile the bystander did %lu rounds\n", bystander->rounds - rounds);
    CHECK(crowd->refused + crowd->serving + crowd->failed == CONNECTIONS, "not all of them are answered");
    CHECK(crowd->serving <= SESSIONS, "%u connections of one user are served, %u are granted", crowd->serving,
          SESSIONS);
    CHECK(most - before <= (int)SESSIONS + 8, "%d session processes for %u granted", most - before, SESSIONS);
    CHECK(bystander->rounds > rounds, "the bystander was not served meanwhile");
    crowd->go = 1;
    for (int i = 0; i < 5; i++)
        reap(pids[i]);
}

static void nobody(void *arg) {
    (void)arg;
    for (int i = 0; i < 300; i++) {
        struct wire w;

        wire_connect(&w);
        int r = i % 2 ? w_hello(&w, 1, "nobody") : -EPIPE;
        CHECK(r == -EPIPE || r == ERR(DENIED), "a user without a grant: %s", code_name(r));
        wire_expect_end(&w, "a user without a grant");
        CHECK(w.refused == ERR(DENIED), "refused with %s", code_name(w.refused));
        wire_close(&w);
    }
}
static void test_nobody(void) {
    int before = count_sessions(), most = before;
    pid_t pid = spawn(NOBODY, nobody, NULL);

    for (int i = 0; i < 1000 && proc_status(pid, "VmRSS") > 0; i++) {
        int n = count_sessions();
        most = n > most ? n : most;
        sleep_ms(2);
    }
    reap(pid);
    CHECK(most == before, "session processes: %d before, %d meanwhile", before, most);
}

/* Asks and asks, and reads nothing. */
static void test_never_reads(void) {
    static struct entry e[VB_BATCH_MAX];
    VfioBroker__Inspect b = VFIO_BROKER__INSPECT__INIT;
    VfioBroker__Request q = VFIO_BROKER__REQUEST__INIT;
    uint8_t buf[256];
    struct wire w;
    unsigned asked = 0, answered = 0;

    wire_open(&w);
    struct ready r = w_ready(&w, MIB);
    for (unsigned i = 0; i < VB_BATCH_MAX; i++)
        e[i] = (struct entry){16 * MIB + i * 8192, 4096, i % 256 * 4096, r.memory, 3};
    expect(w_map(&w, r.space, e, VB_BATCH_MAX), 0, "map");
    pid_t session = w_session_pid(&w);
    long rss = proc_status(session, "VmRSS");
    b.kind = VFIO_BROKER__INSPECT_KIND__INSPECT_MAPPINGS;
    q.body_case = VFIO_BROKER__REQUEST__BODY_INSPECT, q.inspect = &b;
    uint64_t first = w.id + 1, stuck = 0;
    while (!stuck || now_ms() < stuck + 1500) {
        size_t n = wire_pack(&w, &q, buf, sizeof buf);
        int k = vb_packet_send(w.sock, buf, n, NULL, 0, MSG_DONTWAIT);
        CHECK(k == 0 || k == -EAGAIN, "send: %s", strerror(-k));
        if (k == 0) {
            asked++, stuck = 0;
            CHECK(asked < 1000000, "a million requests are taken without an answer being read");
            continue;
        }
        w.id--;
        stuck = stuck ? stuck : now_ms();
        sleep_ms(20);
    }
    long full = proc_status(session, "VmRSS");
    note("%u requests are in flight; the session has %ld KiB, %ld before\n", asked, full, rss);
    CHECK(full < rss + GROWTH_KIB, "the session grew from %ld to %ld KiB", rss, full);
    while (answered < asked) {
        CHECK(wire_recv(&w, 20000) == 1, "answer %u of %u does not come", answered, asked);
        CHECK(w.reply->id == first + answered, "answer %u has id %ju", answered, (uintmax_t)w.reply->id);
        answered++;
    }
    wire_expect_alive(&w, "after reading at last");
    wire_close(&w);
}

/* The same, and dies with everything unread. */
static void test_never_reads_dies(void) {
    struct wire w;
    VfioBroker__SpaceCreate b = VFIO_BROKER__SPACE_CREATE__INIT;
    VfioBroker__Request q = VFIO_BROKER__REQUEST__INIT;
    uint8_t buf[256];

    q.body_case = VFIO_BROKER__REQUEST__BODY_SPACE_CREATE, q.space_create = &b;
    wire_open(&w);
    for (int i = 0; i < 100000; i++) {
        size_t n = wire_pack(&w, &q, buf, sizeof buf);
        if (vb_packet_send(w.sock, buf, n, NULL, 0, MSG_DONTWAIT) < 0)
            break;
    }
    kill(getpid(), SIGKILL);
}
static void never_reads_dies(void *arg) {
    (void)arg;
    test_never_reads_dies();
}
static void test_never_reads_and_dies(void) {
    for (int i = 0; i < 5; i++) {
        pid_t pid = spawn(A, never_reads_dies, NULL);
        sleep_ms(300);
        kill_and_reap(pid);
    }
}

/* Many small requests at once; and calls that the session has to bring before the daemon. */
static void flood(struct wire *w, unsigned n, VfioBroker__Request *q) {
    uint8_t buf[256];
    unsigned sent = 0, got = 0;

    while (got < n) {
        while (sent < n && sent < got + 64) {
            size_t size = wire_pack(w, q, buf, sizeof buf);
            CHECK(wire_raw(w, buf, size, NULL, 0) == 0, "send: %m");
            sent++;
        }
        CHECK(wire_recv(w, 20000) == 1, "answer %u of a flood does not come", got);
        got++;
    }
}
static void test_flood(void) {
    VfioBroker__SpaceDescribe b = VFIO_BROKER__SPACE_DESCRIBE__INIT;
    VfioBroker__Request q = VFIO_BROKER__REQUEST__INIT;
    struct wire w;

    wire_open(&w);
    expect(w_space(&w, &b.space), 0, "space");
    q.body_case = VFIO_BROKER__REQUEST__BODY_SPACE_DESCRIBE, q.space_describe = &b;
    flood(&w, world.kernel ? 5000 : 50000, &q);
    wire_close(&w);
}
static void call_flood(void *arg) {
    VfioBroker__Inspect b = VFIO_BROKER__INSPECT__INIT;
    VfioBroker__Request q = VFIO_BROKER__REQUEST__INIT;
    struct wire w;
    (void)arg;

    wire_open(&w);
    b.kind = VFIO_BROKER__INSPECT_KIND__INSPECT_STATUS;
    q.body_case = VFIO_BROKER__REQUEST__BODY_INSPECT, q.inspect = &b;
    flood(&w, 3 * VB_CALLS_PER_SECOND, &q);
    wire_close(&w);
}
static void test_call_flood(void) {
    pid_t pids[4];
    uint64_t worst = 0;

    for (int i = 0; i < 4; i++)
        pids[i] = spawn(A, call_flood, NULL);
    for (int i = 0; i < 20; i++) { /* new sessions and calls of others go on */
        struct wire w;
        uint64_t t = now_ms();

        wire_open(&w);
        expect(w_inspect(&w, VFIO_BROKER__INSPECT_KIND__INSPECT_STATUS, 0, 0), 0, "status");
        wire_close(&w);
        worst = now_ms() - t > worst ? now_ms() - t : worst;
        sleep_ms(50);
    }
    note("connect, Hello and one call of others took at most %ju ms\n", (uintmax_t)worst);
    for (int i = 0; i < 4; i++)
        reap(pids[i]);
    CHECK(worst < 5000, "others waited for %ju ms", (uintmax_t)worst);
}

/* ---- death ---- */

enum { STEPS = 12 };
static void die_after(void *arg) {
    const int step = *(int *)arg;
    struct wire w;
    uint32_t memory = 0, space = 0, device = 0;
    int fd, k = 0;
    unsigned char *p;
    uint8_t buf[4096];
    VfioBroker__Unmap b = VFIO_BROKER__UNMAP__INIT;
    VfioBroker__Request q = VFIO_BROKER__REQUEST__INIT;

#define STEP(n)                                                                                                        \
    do {                                                                                                               \
        CHECK(k == 0, "step %d: %s", (n), code_name(k));                                                               \
        if (step == (n))                                                                                               \
            kill(getpid(), SIGKILL);                                                                                   \
    } while (0)
    wire_connect(&w);
    STEP(0);
    k = w_hello(&w, 1, "mortal");
    STEP(1);
    fd = memfd(MIB, &p);
    k = w_register(&w, fd, true, &memory);
    STEP(2);
    k = w_space(&w, &space);
    STEP(3);
    k = w_map1(&w, space, memory, MIB, MIB, 0);
    STEP(4);
    /* The device of the one who died before is free as soon as its session is gone. */
    for (int i = 0; i < 200 && (k = w_claim(&w, world.device[0], &device, NULL)) == ERR(BUSY); i++)
        sleep_ms(50);
    STEP(5);
    k = w_bind(&w, device);
    STEP(6);
    k = w_attach(&w, device, space);
    STEP(7);
    k = w_map1(&w, space, memory, 8 * MIB, MIB, 0);
    STEP(8);
    k = w_unmap1(&w, space, MIB, MIB);
    STEP(9);
    /* An answer that nobody reads. */
    b.space = space, b.all = 1;
    q.body_case = VFIO_BROKER__REQUEST__BODY_UNMAP, q.unmap = &b;
    k = wire_raw(&w, buf, wire_pack(&w, &q, buf, sizeof buf), NULL, 0);
    STEP(10);
    VfioBroker__MemoryRegister m = VFIO_BROKER__MEMORY_REGISTER__INIT;
    q.body_case = VFIO_BROKER__REQUEST__BODY_MEMORY_REGISTER, q.memory_register = &m;
    for (int i = 0; i < 50 && k == 0; i++)
        k = wire_raw(&w, buf, wire_pack(&w, &q, buf, sizeof buf), &fd, 1);
    STEP(11);
#undef STEP
}

static void test_death(void) {
    for (int step = 0; step < STEPS; step++) {
        pid_t pid = spawn(A, die_after, &step);
        int status;
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        if (!WIFSIGNALED(status))
            _exit(1); /* it has told why */
    }
}

/* A client that dies at any moment, not only between requests. */
static void live(void *arg) {
    struct wire w;
    (void)arg;

    wire_open(&w);
    struct ready r = w_ready(&w, MIB);
    for (;;) {
        w_map1(&w, r.space, r.memory, MIB, MIB, 0);
        w_unmap_all(&w, r.space);
    }
}
static void test_random_death(void) {
    for (unsigned i = 0; i < 40; i++) {
        pid_t pid = spawn(A, live, NULL);
        sleep_ms(i * 7 % 50 + (world.kernel ? 50 : 0));
        kill_and_reap(pid);
    }
}

/* The connection belongs to the process that made it, not to a child that has a copy. */
struct heir {
    volatile int ready, result; /* 1: the connection has ended */
};
static void parent_of_heir(void *arg) {
    struct heir *heir = arg;
    struct wire w;

    wire_open(&w);
    struct ready r = w_ready(&w, MIB);
    expect(w_map1(&w, r.space, r.memory, MIB, MIB, 0), 0, "map");
    if (fork() == 0) {
        int k;
        prctl(PR_SET_PDEATHSIG, 0);
        heir->ready = 1;
        while ((k = wire_recv(&w, 15000)) == 1)
            ;
        heir->result = k == 0 ? 1 : -1;
        _exit(0);
    }
    pause();
}
static void test_heir(void) {
    struct heir *heir = shared(sizeof *heir);
    pid_t pid = spawn(A, parent_of_heir, heir);

    for (int i = 0; i < 1000 && !heir->ready; i++)
        sleep_ms(10);
    CHECK(heir->ready, "the parent is not ready");
    kill_and_reap(pid);
    for (int i = 0; i < 1700 && !heir->result; i++)
        sleep_ms(10);
    CHECK(heir->result == 1, "a child goes on with the connection of its dead parent");
}

/* ---- other processes ---- */

static void untouchable(pid_t pid, const char *what) {
    char path[64];
    struct rlimit r = {4096, 4096};

    CHECK(kill(pid, 0) < 0 && errno == EPERM, "%s can be signalled", what);
    CHECK(kill(pid, SIGKILL) < 0 && errno == EPERM, "%s can be killed", what);
    CHECK(prlimit(pid, RLIMIT_MEMLOCK, &r, NULL) < 0 && errno == EPERM, "limits of %s can be set", what);
    CHECK(ptrace(PTRACE_SEIZE, pid, 0, 0) < 0, "%s can be traced", what);
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    CHECK(open(path, O_RDWR | O_CLOEXEC) < 0, "memory of %s can be opened", what);
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    CHECK(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) < 0, "fds of %s can be listed", what);
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    CHECK(pidfd < 0 || syscall(SYS_pidfd_getfd, pidfd, 0, 0) < 0, "fds of %s can be taken", what);
    if (pidfd >= 0)
        close(pidfd);
}

static void test_reach(void) {
    struct wire w;

    wire_open(&w);
    untouchable(w_session_pid(&w), "the own session");
    untouchable(world.daemon, "the daemon");
    wire_close(&w);
}

struct meeting {
    volatile pid_t session[2];
    volatile int go;
};
static void first_in_meeting(void *arg) {
    struct meeting *m = arg;
    struct wire w;

    wire_open(&w);
    m->session[0] = w_session_pid(&w);
    while (!m->go)
        sleep_ms(10);
    wire_expect_alive(&w, "after an attack by another session's uid");
}
static void second_in_meeting(void *arg) {
    struct meeting *m = arg;
    struct wire w;

    wire_open(&w);
    m->session[1] = w_session_pid(&w);
    while (!m->go)
        sleep_ms(10);
}
static void session_that_turned(void *arg) {
    struct meeting *m = arg;
    uid_t uid = (uid_t)proc_status(m->session[1], "Uid");

    CHECK(setresgid(uid, uid, uid) == 0 && setresuid(uid, uid, uid) == 0, "cannot become uid %u: %m", uid);
    untouchable(m->session[0], "another session");
    untouchable(world.daemon, "the daemon");
}
static void test_sessions_apart(void) {
    struct meeting *m = shared(sizeof *m);
    pid_t a = spawn(A, first_in_meeting, m), b = spawn(A, second_in_meeting, m);

    for (int i = 0; i < 1000 && !(m->session[0] && m->session[1]); i++)
        sleep_ms(10);
    CHECK(m->session[0] && m->session[1], "the sessions are not ready");
    for (int i = 0; i < 2; i++) {
        pid_t p = m->session[i];
        CHECK(proc_status(p, "Uid") > 0 && proc_status(p, "Uid") != proc_status(world.daemon, "Uid"),
              "a session is uid %ld", proc_status(p, "Uid"));
        CHECK(proc_status(p, "CapPrm") == 0 && proc_status(p, "CapEff") == 0 && proc_status(p, "CapAmb") == 0 &&
                  proc_status(p, "CapInh") == 0,
              "a session has capabilities");
        CHECK(proc_status(p, "NoNewPrivs") == 1, "a session may gain privileges");
        CHECK(proc_status(p, "Seccomp") == 2, "a session has no system-call filter");
        CHECK(count_fds(p) < 40, "a session has %d fds", count_fds(p));
    }
    CHECK(proc_status(m->session[0], "Uid") != proc_status(m->session[1], "Uid"), "two sessions share a uid");
    reap(spawn(ADMIN, session_that_turned, m));
    m->go = 1;
    reap(a);
    reap(b);
}

const struct hostile_test life_tests[] = {
    {"life: a user without a grant gets no session process", test_nobody, AS_ROOT | NEEDS_UIDS, 0},
    {"life: death after every step", test_death, AS_ROOT, 120},
    {"life: death at any moment", test_random_death, AS_ROOT, 120},
    {"life: a child with a copy of the connection", test_heir, AS_ROOT, 0},
    {"life: a client that never reads", test_never_reads, 0, 0},
    {"life: a client that never reads, and dies", test_never_reads_and_dies, AS_ROOT, 0},
    {"life: a flood of requests", test_flood, 0, 120},
    {"life: a flood of calls to the daemon", test_call_flood, AS_ROOT, 120},
    {"life: reaching for sessions and daemon", test_reach, NEEDS_UIDS, 0},
    {"life: sessions cannot reach each other", test_sessions_apart, AS_ROOT | NEEDS_UIDS, 0},
    {"life: 10,000 connections one after the other", test_connections_in_turn, 0, 240},
    {"life: 10,000 connections at once", test_connections_at_once, AS_ROOT, 240},
    {NULL, NULL, 0, 0},
};
