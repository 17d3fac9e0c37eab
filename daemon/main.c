/* vfio-brokerd: the daemon, and with --session one of its session processes. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "broker/broker.h"
#include "broker/cgroup-place.h"
#include "broker/options.h"
#include "session/session.h"

/* Where broker/spawn.c puts them. */
#define CLIENT_FD  3
#define CONTROL_FD 4

/* A missing standard fd would be the number of some socket. */
static void open_standard_fds(void) {
    int fd;

    do
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

static int session(void) {
    prctl(PR_SET_NAME, "vfio-broker-ses");
    return vb_session_main(fcntl(CLIENT_FD, F_GETFD) < 0 ? -1 : CLIENT_FD, CONTROL_FD);
}

int main(int argc, char **argv) {
    struct vb_options options;
    struct vb_broker *broker;

    int status = vb_options_parse(argc, argv, &options);
    if (status >= 0)
        return status;
    if (options.session)
        return session();
    if (options.release_cgroup)
        return vb_cgroup_release(options.sys, options.proc);
    open_standard_fds();
    broker = vb_broker_new(&options);
    if (!broker)
        return EXIT_FAILURE;
    status = vb_broker_run(broker);
    vb_broker_free(broker);
    return status;
}
