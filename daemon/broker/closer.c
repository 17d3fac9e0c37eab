#include "broker/closer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config.h"

/* More packets than fit into a queue: a sender has at most 2 * net.core.wmem_max (425984) bytes of skbs, of 768 each. */
#define DRAIN_MAX 640

/* Drops packets without fds, so that the peer sees what we wrote: a unix socket that is closed with unread packets gives
 * ECONNRESET first. Nothing is copied or decoded. False: there may be one with fds.
 *
 * The end of the queue cannot be told from an empty packet once the socket is shut down; so it goes on to the maximum. */
static bool drain(int fd) {
    for (int i = 0; i < DRAIN_MAX; i++) {
        struct msghdr h = {.msg_iov = NULL};

        /* Without room for control data fds show as MSG_CTRUNC; peeking does not close them. */
        if (recvmsg(fd, &h, MSG_PEEK | MSG_DONTWAIT) < 0 || (h.msg_flags & MSG_CTRUNC))
            return false;
        h = (struct msghdr){.msg_iov = NULL};
        if (recvmsg(fd, &h, MSG_DONTWAIT) < 0)
            return false;
    }
    return true;
}

/* Keeps fd open until the daemon has closed its own, and ends. An exiting process does not linger. */
static void last_owner(int fd, int wait_fd) __attribute__((noreturn));
static void last_owner(int fd, int wait_fd) {
    unsigned low = (unsigned)(fd < wait_fd ? fd : wait_fd), high = (unsigned)(fd < wait_fd ? wait_fd : fd);
    char c;

    setsid();
    if (low > 0)
        syscall(SYS_close_range, 0, low - 1, 0);
    if (high > low + 1)
        syscall(SYS_close_range, low + 1, high - 1, 0);
    syscall(SYS_close_range, high + 1, ~0u, 0);
    while (read(wait_fd, &c, 1) < 0 && errno == EINTR)
        ;
    _exit(0);
}

static void close_elsewhere(int fd) {
    sigset_t all, before;
    int gate[2];

    if (pipe2(gate, O_CLOEXEC) < 0) {
        close(fd);
        return;
    }
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid_t pid = fork();
    if (pid == 0) {
        /* Once more, so that nobody has to wait for it. */
        if (fork() == 0)
            last_owner(fd, gate[0]);
        _exit(0);
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (pid > 0)
        waitpid(pid, NULL, 0);
    close(fd);
    close(gate[0]);
    close(gate[1]);
}

void vb_close_client(int fd) {
    shutdown(fd, SHUT_RDWR); /* from now on nothing is added */
    if (drain(fd))
        close(fd);
    else
        close_elsewhere(fd);
}
