#include "broker/closer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config.h"

/* Packets that are dropped here; a longer queue gets its last close elsewhere as well. */
#define DRAIN_MAX 64
/* A child that was forked before its exec may still have the socket; it must not be the last. */
#define GRACE_MS 250

/* Drops packets without fds, so that the peer sees what we wrote: a unix socket that is closed with unread packets gives
 * ECONNRESET first. True: the queue is empty, and stays so, since the socket is shut down.
 *
 * With SO_PASSCRED every packet shows the sender's credentials, an empty one too, but the end of the queue does not. There
 * is room for those alone, so fds show as MSG_CTRUNC; peeking does not close them (net/unix/af_unix.c, unix_peek_fds). */
static bool drain(int fd) {
    static const int on = 1;

    if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0)
        return false;
    for (int i = 0; i < DRAIN_MAX; i++) {
        union {
            struct cmsghdr align;
            char room[CMSG_SPACE(sizeof(struct ucred))];
        } c;
        struct msghdr h = {.msg_control = c.room, .msg_controllen = sizeof c.room};

        ssize_t n = recvmsg(fd, &h, MSG_PEEK | MSG_DONTWAIT);
        if (n < 0 && errno == ECONNRESET)
            continue; /* said once */
        if (n < 0 || (h.msg_flags & MSG_CTRUNC))
            return false;
        if (n == 0 && h.msg_controllen == 0)
            return true;
        h = (struct msghdr){.msg_iov = NULL};
        if (recvmsg(fd, &h, MSG_DONTWAIT) < 0)
            return false;
    }
    return false;
}

/* Keeps all our fds open until the daemon has closed its own, and ends. An exiting process does not linger
 * (net/ipv4/af_inet.c, inet_release), and files in a queue are not flushed. */
static void last_owner(const int gate[2]) __attribute__((noreturn));
static void last_owner(const int gate[2]) {
    char c;

    setsid();
    close(gate[1]);
    while (read(gate[0], &c, 1) < 0 && errno == EINTR)
        ;
    poll(NULL, 0, GRACE_MS);
    _exit(0);
}

void vb_close_elsewhere(int fd) {
    sigset_t all, before;
    int gate[2];

    if (pipe2(gate, O_CLOEXEC) < 0)
        return; /* rather a leaked fd than a daemon that waits */
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid_t pid = fork();
    if (pid == 0) {
        /* Once more, so that nobody has to wait for it. */
        pid = fork();
        if (pid == 0)
            last_owner(gate);
        _exit(pid < 0);
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    int status = 1;
    if (pid > 0)
        waitpid(pid, &status, 0);
    if (status == 0)
        close(fd);
    close(gate[0]);
    close(gate[1]);
}

void vb_close_client(int fd) {
    shutdown(fd, SHUT_RDWR); /* from now on nothing is added */
    if (drain(fd))
        close(fd);
    else
        vb_close_elsewhere(fd);
}
