#include "tests/bench/echo.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/limits.h"
#include "tests/bench/bench.h"

static _Alignas(8) uint8_t buffer[VB_PACKET_MAX];

/* The first four bytes of a request are the size of the reply. */
static void serve(int sock) {
    for (;;) {
        uint32_t reply;

        if (recv(sock, buffer, sizeof(buffer), 0) < (ssize_t)sizeof(reply))
            return;
        memcpy(&reply, buffer, sizeof(reply));
        if (reply > sizeof(buffer) || send(sock, buffer, reply, MSG_NOSIGNAL) < 0)
            return;
    }
}

void echo_start(struct echo *e) {
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        bench_die("socketpair: %s", strerror(errno));
    e->pid = fork();
    if (e->pid < 0)
        bench_die("fork: %s", strerror(errno));
    if (e->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(pair[0]);
        serve(pair[1]);
        _exit(0);
    }
    close(pair[1]);
    e->sock = pair[0];
}

void echo_call(struct echo *e, size_t request, size_t reply) {
    uint32_t size = (uint32_t)reply;
    ssize_t n;

    memcpy(buffer, &size, sizeof(size));
    if (send(e->sock, buffer, request, MSG_NOSIGNAL) < 0)
        bench_die("echo: send: %s", strerror(errno));
    n = recv(e->sock, buffer, sizeof(buffer), 0);
    if (n != (ssize_t)reply)
        bench_die("echo: %zd bytes instead of %zu", n, reply);
}

void echo_stop(struct echo *e) {
    close(e->sock);
    while (waitpid(e->pid, NULL, 0) < 0 && errno == EINTR)
        ;
}
