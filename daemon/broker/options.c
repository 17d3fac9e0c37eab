#include "broker/options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/policy.h"
#include "config.h"

#define EMULATED_MAX  1024u
#define UID_COUNT_MAX (1u << 24)

static const char help[] =
    "usage: vfio-brokerd [OPTION...]\n"
    "Owns the kernel's DMA-mapping objects on behalf of unprivileged VMMs and userspace drivers.\n\n"
    "  --socket=PATH            where clients connect (default: broker.sock in the runtime directory)\n"
    "  --runtime-dir=DIR        sockets live here (default: /run/vfio-broker)\n"
    "  --policy=FILE            who may have what (default: " SYSCONFDIR "/vfio-broker/policy.json)\n"
    "  --backend=iommufd        devices by their own nodes: Linux 6.6 with CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV\n"
    "            type1          VFIO containers and groups, on any kernel with VFIO\n"
    "            type1-compat   the same, and iommufds are the containers\n"
    "            emulated       devices and IOMMU are software: for development\n"
    "            auto           the first of these that the kernel has; emulated with --session-uids=none (default)\n"
    "  --emulated-devices=N     devices emulated:0 to N-1 of the emulated backend, 1 to %u (default: 2)\n"
    "  --session-uids=FIRST-COUNT  COUNT uids from FIRST on for session processes (default: %u-%u)\n"
    "                 none      run them under our own uid: for development, emulated backend only\n"
    "  --cgroup=PATH            a memory cgroup for each session, in this one, which is made the daemon's own\n"
    "           auto            in the one that systemd delegated to us, if it did (default)\n"
    "           none            sessions count as the daemon\n"
    "  --release-cgroup         for ExecStopPost= of the unit: does that only\n"
#ifdef VB_TEST_HOOKS
    "  --test-lie=BYTES         sessions believe to have that much more lease\n"
    "  --test-no-map-file       behave as on a kernel without IOMMU_IOAS_MAP_FILE\n"
#endif
    "  --help, --version\n\n"
    "SIGHUP reads the policy again. SIGTERM ends the daemon; sessions run on and are found again by the next one.\n"
    "See vfio-brokerd(8), vfio-broker-policy(5), vfio-brokerctl(1).\n";

enum {
    OPT_SOCKET = 256,
    OPT_RUNTIME_DIR,
    OPT_POLICY,
    OPT_BACKEND,
    OPT_EMULATED,
    OPT_UIDS,
    OPT_CGROUP,
    OPT_RELEASE_CGROUP,
    OPT_SESSION,
    OPT_HELP,
    OPT_VERSION,
    OPT_LIE,
    OPT_NO_MAP_FILE
};

static const struct option names[] = {
    {"socket", required_argument, NULL, OPT_SOCKET},
    {"runtime-dir", required_argument, NULL, OPT_RUNTIME_DIR},
    {"policy", required_argument, NULL, OPT_POLICY},
    {"backend", required_argument, NULL, OPT_BACKEND},
    {"emulated-devices", required_argument, NULL, OPT_EMULATED},
    {"session-uids", required_argument, NULL, OPT_UIDS},
    {"cgroup", required_argument, NULL, OPT_CGROUP},
    {"release-cgroup", no_argument, NULL, OPT_RELEASE_CGROUP},
    {"session", no_argument, NULL, OPT_SESSION},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
#ifdef VB_TEST_HOOKS
    {"test-lie", required_argument, NULL, OPT_LIE},
    {"test-no-map-file", no_argument, NULL, OPT_NO_MAP_FILE},
#endif
    {NULL, 0, NULL, 0},
};

static bool parse_number(const char *s, uint64_t max, uint32_t *ret, const char **ret_end) {
    char *end;

    if (*s < '0' || *s > '9')
        return false;
    unsigned long long n = strtoull(s, &end, 10);
    if (n > max)
        return false;
    *ret = (uint32_t)n;
    *ret_end = end;
    return true;
}

static bool parse_uids(const char *s, struct vb_options *o) {
    const char *end;

    if (strcmp(s, "none") == 0) {
        o->uid_count = 0;
        return true;
    }
    /* (uid_t)-1 is nobody's, and 0 would be root's. */
    return parse_number(s, UINT32_MAX - 1, &o->uid_first, &end) && *end == '-' &&
           parse_number(end + 1, UID_COUNT_MAX, &o->uid_count, &end) && !*end && o->uid_first > 0 && o->uid_count > 0 &&
           o->uid_count <= UINT32_MAX - o->uid_first;
}

static bool parse_backend(const char *s, enum vb_backend_choice *ret) {
    static const char *const backends[] = {"auto", "iommufd", "type1", "type1-compat", "emulated"};

    for (unsigned i = 0; i < sizeof backends / sizeof backends[0]; i++)
        if (strcmp(s, backends[i]) == 0) {
            *ret = (enum vb_backend_choice)i;
            return true;
        }
    return false;
}

/* What --name=value may be. */
static void say_impossible(const char *name, int c, const char *value) {
    fprintf(stderr, "vfio-brokerd: --%s=%s is not possible: ", name, value);
    switch (c) {
    case OPT_BACKEND:
        fputs("it is auto, iommufd, type1, type1-compat or emulated\n", stderr);
        break;
    case OPT_EMULATED:
        fprintf(stderr, "it is a number from 1 to %u\n", EMULATED_MAX);
        break;
    case OPT_UIDS:
        fprintf(
            stderr,
            "it is FIRST-COUNT, the first uid (1 or more) and how many from there on (1 to %u, within 32 bits), such "
            "as %u-%u; or none\n",
            UID_COUNT_MAX, VB_SESSION_UID_FIRST, VB_SESSION_UID_COUNT);
        break;
    case OPT_CGROUP:
        fputs("it is auto, none or an absolute path\n", stderr);
        break;
    case OPT_LIE:
        fputs("it is a size such as \"1 MiB\"\n", stderr);
        break;
    default:
        fputs("it must not be empty\n", stderr);
    }
}

static bool parse_one(int c, struct vb_options *o) {
    const char *end;

    switch (c) {
    case OPT_SOCKET:
        o->socket = optarg;
        return *optarg;
    case OPT_RUNTIME_DIR:
        o->runtime_dir = optarg;
        return *optarg;
    case OPT_POLICY:
        o->policy = optarg;
        return *optarg;
    case OPT_BACKEND:
        return parse_backend(optarg, &o->backend);
    case OPT_EMULATED:
        return parse_number(optarg, EMULATED_MAX, &o->emulated_devices, &end) && !*end && o->emulated_devices > 0;
    case OPT_UIDS:
        return parse_uids(optarg, o);
    case OPT_CGROUP:
        o->cgroup = optarg;
        return *optarg == '/' || strcmp(optarg, "auto") == 0 || strcmp(optarg, "none") == 0;
    case OPT_RELEASE_CGROUP:
        return o->release_cgroup = true;
    case OPT_LIE:
        return vb_size_parse(optarg, &o->test_lie);
    case OPT_NO_MAP_FILE:
        return o->test_no_map_file = true;
    default:
        return o->session = true;
    }
}

int vb_options_parse(int argc, char **argv, struct vb_options *ret) {
    struct vb_options o = {.runtime_dir = "/run/vfio-broker",
                           .policy = SYSCONFDIR "/vfio-broker/policy.json",
                           .cgroup = "auto",
                           .emulated_devices = 2,
                           .uid_first = VB_SESSION_UID_FIRST,
                           .uid_count = VB_SESSION_UID_COUNT,
                           .sys = "/sys",
                           .dev = "/dev",
                           .proc = "/proc"};
    int c, index;

    while ((c = getopt_long(argc, argv, "", names, &index)) != -1) {
        if (c == OPT_HELP) {
            printf(help, EMULATED_MAX, VB_SESSION_UID_FIRST, VB_SESSION_UID_COUNT);
            return EXIT_SUCCESS;
        }
        if (c == OPT_VERSION) {
            puts("vfio-brokerd " PACKAGE_VERSION);
            return EXIT_SUCCESS;
        }
        if (c == '?') {
            fputs("vfio-brokerd: see --help\n", stderr);
            return EXIT_FAILURE;
        }
        if (!parse_one(c, &o)) {
            say_impossible(names[index].name, c, optarg);
            return EXIT_FAILURE;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "vfio-brokerd: %s: no arguments but options; see --help\n", argv[optind]);
        return EXIT_FAILURE;
    }
    *ret = o;
    return -1;
}
