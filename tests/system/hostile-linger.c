/* Sockets that wait when they are closed: TCP with SO_LINGER, a full send buffer and a peer that does not read. Left in
 * the queue of a socket, they wait in whoever closes that one last. The daemon must not be it. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "hostile.h"
#include "proto/fdpass.h"

#define LINGER_SECONDS 8
#define SLOW_MS        3000 /* for a connection; under emulation it takes half a second */

/* In the VM the loopback interface is up; the peer stays open in this process. */
static int lingering(void) {
    static const struct linger linger = {1, LINGER_SECONDS};
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    static char full[65536];
    socklen_t size = sizeof a;
    int l = socket(AF_INET, SOCK_STREAM, 0), s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

    CHECK(l >= 0 && bind(l, (struct sockaddr *)&a, sizeof a) == 0 && listen(l, 1) == 0 &&
              getsockname(l, (struct sockaddr *)&a, &size) == 0,
          "listen: %m");
    CHECK(connect(s, (struct sockaddr *)&a, sizeof a) == 0 || errno == EINPROGRESS, "connect: %m");
    CHECK(accept(l, NULL, NULL) >= 0, "accept: %m");
    for (int idle = 0; idle < 5; idle++) {
        while (write(s, full, sizeof full) > 0)
            idle = 0;
        sleep_ms(10);
    }
    CHECK(fcntl(s, F_SETFL, 0) == 0 && setsockopt(s, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0, "linger: %m");
    close(l);
    return s;
}

/* Leaves `empty` empty packets and a lingering socket in a queue at `file` beside broker.sock, and goes. */
static void leave(const char *file, unsigned empty, bool garbage) {
    const char *dir_end = strrchr(world.socket, '/');
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int room = 4 << 20, fd = lingering();
    int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    snprintf(a.sun_path, sizeof a.sun_path, "%.*s/%s", (int)(dir_end - world.socket), world.socket, file);
    setsockopt(s, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    CHECK(s >= 0 && connect(s, (struct sockaddr *)&a, sizeof a) == 0, "%s: %m", a.sun_path);
    if (garbage)
        vb_packet_send(s, "\xff\xff", 2, NULL, 0, MSG_DONTWAIT);
    for (unsigned i = 0; i < empty; i++)
        if (vb_packet_send(s, "", 0, NULL, 0, MSG_DONTWAIT) < 0)
            break;
    vb_packet_send(s, "x", 1, &fd, 1, MSG_DONTWAIT);
    close(fd);
    sleep_ms(20);
    close(s);
}

struct plan {
    const char *file;
    unsigned empty;
    bool garbage;
};
static void leave_some(void *arg) {
    const struct plan *p = arg;

    for (int i = 0; i < 8; i++)
        leave(p->file, p->empty, p->garbage);
    pause(); /* the peers stay */
}

static void attack(enum who who, const struct plan *p) {
    uint64_t end = now_ms() + 3000, worst = 0;
    pid_t pid = spawn(who, leave_some, (void *)p);

    while (now_ms() < end) {
        struct wire w;
        uint64_t t = now_ms();

        wire_open(&w);
        expect(w_inspect(&w, VFIO_BROKER__INSPECT_KIND__INSPECT_STATUS, 0, 0), 0, "status");
        wire_close(&w);
        t = now_ms() - t;
        worst = t > worst ? t : worst;
    }
    kill_and_reap(pid);
    CHECK(worst < SLOW_MS, "another client waited %ju ms", (uintmax_t)worst);
    note("%s, %u empty packets before%s: others waited %ju ms at most\n", p->file, p->empty,
         p->garbage ? ", and garbage" : "", (uintmax_t)worst);
}

static void test_refused(void) {
    attack(NOBODY, &(struct plan){"broker.sock", 0, false});
    attack(NOBODY, &(struct plan){"broker.sock", 1500, false});
}
static void test_session_sock(void) {
    attack(NOBODY, &(struct plan){"session.sock", 0, false});
    attack(NOBODY, &(struct plan){"session.sock", 1500, false});
}
static void test_granted(void) {
    attack(A, &(struct plan){"broker.sock", 0, true});
    attack(A, &(struct plan){"broker.sock", 100, false});
}

const struct hostile_test linger_tests[] = {
    {"linger: left by a user without a grant", test_refused, AS_ROOT | NEEDS_UIDS, 0},
    {"linger: left at session.sock", test_session_sock, AS_ROOT | NEEDS_UIDS, 0},
    {"linger: left behind garbage by a client", test_granted, AS_ROOT | NEEDS_UIDS, 0},
    {NULL, NULL, 0, 0},
};
