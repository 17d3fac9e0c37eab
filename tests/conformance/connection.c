/* Connecting, Hello, and what a client may do before and after. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conformance.h"

static void case_hello(void) {
    struct vfb_client *c = join();
    const struct vfb_info *i = vfb_info(c);

    tap_diag("backend %s, broker %s, features 0x%" PRIx64 ", memory %" PRIu64, i->backend, i->broker, i->features,
             i->memory_bytes);
    tap_check(i->version == 1, "version %u", i->version);
    tap_check(i->session > 0, "no session number");
    tap_check(strcmp(i->backend, "iommufd") == 0 || strcmp(i->backend, "type1") == 0 ||
                  strcmp(i->backend, "emulated") == 0,
              "backend %s", i->backend);
    tap_check(i->broker[0], "no broker version");
    tap_check(i->batch_max >= 1024 && i->memories_max >= 256 && i->spaces_max >= 64 && i->devices_max >= 64,
              "batch %u, memories %u, spaces %u, devices %u", i->batch_max, i->memories_max, i->spaces_max,
              i->devices_max);
    tap_check(i->mappings_max == 65536, "mappings %" PRIu64, i->mappings_max);
    tap_check(i->memory_bytes > 0, "no memory limit");
    tap_check(!(i->features & VFB_FEATURE_ADMIN), "a client without the grant is an administrator");
    tap_check(!(i->features & VFB_FEATURE_DMA) == (strcmp(i->backend, "emulated") == 0), "features 0x%" PRIx64,
              i->features);
    tap_check(vfb_fd(c) >= 0, "no fd");
    vfb_client_free(c);
}

static void case_two_clients(void) {
    struct vfb_client *a = join(), *b = join();
    uint32_t in_a = space_new(a), in_b;
    struct vfb_space_info i;

    tap_check(vfb_info(a)->session != vfb_info(b)->session, "one session for two connections");
    REFUSED(b, vfb_space_describe(b, in_a, &i), VFB_NOT_FOUND);
    says_number(b, in_a);
    in_b = space_new(b);
    OK(a, vfb_space_destroy(a, in_a));
    describe(b, in_b);
    vfb_client_free(a);
    describe(b, in_b);
    vfb_client_free(b);
}

static void case_not_connected(void) {
    struct vfb_client *c;
    uint32_t space = 77;

    tap_check(vfb_client_new(&c) == 0, "no memory");
    tap_check(vfb_fd(c) == -1, "an fd before connecting");
    tap_check(vfb_error(c) && vfb_error(c)->code == 0, "an error before anything failed");
    REFUSED(c, vfb_space_create(c, "early", &space), VFB_STATE);
    tap_check(space == 77, "an output was touched on failure");
    REFUSED(c, vfb_connect(c, "/nonexistent/broker.sock", NULL), -ENOENT);
    says(c, "/nonexistent/broker.sock");
    OK(c, vfb_connect(c, NULL, NULL)); /* a failed connect is no obstacle */
    REFUSED(c, vfb_connect(c, NULL, NULL), VFB_STATE);
    OK(c, vfb_space_create(c, "now", &space));
    vfb_client_free(c);
    vfb_client_free(NULL);
}

static void case_names(void) {
    struct vfb_client *c;
    char name[65];
    uint32_t space;

    memset(name, 'x', sizeof name);
    name[64] = '\0';
    tap_check(vfb_client_new(&c) == 0, "no memory");
    REFUSED(c, vfb_connect(c, NULL, name), VFB_INVALID);
    says_number(c, 63);
    REFUSED(c, vfb_connect(c, NULL, "line\nbreak"), VFB_INVALID);
    OK(c, vfb_connect(c, NULL, name + 1));
    REFUSED(c, vfb_space_create(c, name, &space), VFB_INVALID);
    OK(c, vfb_space_create(c, name + 1, &space));
    OK(c, vfb_space_create(c, NULL, &space));
    vfb_client_free(c);
}

static void case_codes_have_names(void) {
    tap_check(strcmp(vfb_code_name(VFB_LIMIT), "VFB_LIMIT") == 0, "%s", vfb_code_name(VFB_LIMIT));
    tap_check(strcmp(vfb_code_name(-ENOENT), "ENOENT") == 0, "%s", vfb_code_name(-ENOENT));
    for (int i = -4100; i < 100; i++)
        tap_check(vfb_code_name(i) && vfb_code_name(i)[0], "%d has no name", i);
}

static void case_forked_child(void) {
    struct vfb_client *c = join();
    uint32_t space = space_new(c);
    int status;
    pid_t pid = fork();

    tap_check(pid >= 0, "fork: %s", strerror(errno));
    if (pid == 0) {
        vfb_client_free(c); /* a copy of the fd: not the connection's end */
        _exit(0);
    }
    tap_check(waitpid(pid, &status, 0) == pid && status == 0, "child: %d", status);
    describe(c, space);
    vfb_client_free(c);
}

DEFINE_CASES(connection, {"hello tells version, backend, features and limits", case_hello, 0},
             {"two clients have nothing in common", case_two_clients, 0},
             {"calls before connecting, connecting twice, no broker there", case_not_connected, 0},
             {"names have a length and an alphabet", case_names, 0},
             {"every code has a name", case_codes_have_names, 0},
             {"a forked child cannot end the connection", case_forked_child, 0});
