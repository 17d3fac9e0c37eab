/* See pins.h. */
#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "pins.h"

double now(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void become(const struct client *c) {
    const uid_t uid = (uid_t)strtoul(getenv("VB_TEST_UID"), NULL, 10);
    const struct rlimit l = {c->memlock, c->memlock};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    tap_check(!c->memlock || setrlimit(RLIMIT_MEMLOCK, &l) == 0, "RLIMIT_MEMLOCK: %s", strerror(errno));
    tap_check(setgroups(0, NULL) == 0 && setresgid(uid, uid, uid) == 0 && setresuid(uid, uid, uid) == 0 &&
                  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL) == 0,
              "user %u: %s", (unsigned)uid, strerror(errno));
}

/* An order is the address of a function, which is the same in both processes; the answer is a byte. */
static void obey(struct client *c, int sock) {
    void (*what)(struct client *);
    char done = 0;

    while (recv(sock, &what, sizeof what, 0) == (ssize_t)sizeof what) {
        what(c);
        if (send(sock, &done, 1, MSG_NOSIGNAL) != 1)
            break;
    }
    vfb_client_free(c->c);
}

struct client *client_new(const char *name, uint64_t memlock) {
    struct client *c = mmap(NULL, sizeof *c, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int sv[2];
    pid_t pid;

    tap_check(c != MAP_FAILED && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) == 0, "%s", strerror(errno));
    *c = (struct client){.name = name, .memlock = memlock};
    pid = fork();
    tap_check(pid >= 0, "fork: %s", strerror(errno));
    if (pid == 0) {
        close(sv[0]);
        become(c);
        obey(c, sv[1]);
        _exit(0);
    }
    close(sv[1]);
    c->orders = sv[0];
    c->pid = pid;
    tell(c, do_connect);
    return c;
}

void use_device(struct client *c) {
    const char *all = getenv("VB_TEST_DEVICES");

    snprintf(c->address, sizeof c->address, "%.*s", (int)strcspn(all, " "), all);
}

void tell(struct client *c, void (*what)(struct client *)) {
    const double start = now();
    char done;

    tap_check(send(c->orders, &what, sizeof what, MSG_NOSIGNAL) == (ssize_t)sizeof what, "the %s is gone", c->name);
    tap_check(recv(c->orders, &done, 1, 0) == 1, "the %s has failed", c->name);
    c->seconds = now() - start;
}

void client_end(struct client *c) {
    int status;

    close(c->orders);
    tap_check(waitpid(c->pid, &status, 0) == c->pid && WIFEXITED(status) && WEXITSTATUS(status) == 0,
              "the %s ended with status 0x%x", c->name, (unsigned)status);
    munmap(c, sizeof *c);
}

static const struct tap_case cases[] = {
    {"attaching a real device to a space with pins pays nothing twice", case_attach_pays_nothing_twice, 120},
    {"pins on huge pages lock nothing and double nothing", case_hugetlb, 0},
    {"pinned pages stay in memory under pressure, others are swapped out", case_residency, 300},
    {"an in-kernel access ends before the device is detached", case_access_first, 0},
    {"an in-kernel access ends after the device is detached", case_detach_first, 0},
    {"a device is attached over an in-kernel access", case_access_then_attach, 0},
    {"the owner unmaps under an in-kernel access", case_unmap_under_access, 0},
    {"the owner's session is killed: the pinner hears it, its device goes on", case_owner_killed, 0},
    {"the pinner's session is killed: the owner's unmap is done at once", case_pinner_killed, 0},
    {"the pinner's session is stopped: the owner waits for the deadline only", case_pinner_stopped, 0},
    {"the pinner never reads: the owner waits for the deadline only", case_pinner_never_reads, 0},
    {"the daemon is killed between a token and its redeeming", case_daemon_between, 0},
    {"the daemon is killed while pins exist", case_daemon_killed_with_pins, 0},
};

int main(int argc, char **argv) {
    return tap_run(cases, sizeof cases / sizeof cases[0], argc > 1 ? argv[1] : NULL);
}
