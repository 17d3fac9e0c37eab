/* vfio-brokerctl: argv, the table of verbs, help. */
#include "config.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/ctl.h"

#define DEADLINE_SECONDS 30u
#define LOOK             (CTL_OPT_JSON | CTL_OPT_SOCKET)

const struct ctl_verb ctl_verbs[] = {
    {"status", "", "Show the broker", "Shows the daemon: version, backend, policy, sessions, devices, leased memory.\n",
     LOOK, 0, 0, cmd_status, NULL, NULL},
    {"list", "[sessions|spaces|domains|mappings|memory|devices]", "List what there is (sessions)",
     "Lists sessions (the default), or the spaces, what the kernel has of them (domains), mappings or memory of all\n"
     "sessions, or of the one that --session= names, or the devices. An administrator sees all sessions and devices,\n"
     "others the sessions of their own uid and what is granted to them. The session of vfio-brokerctl itself is left\n"
     "out.\n",
     LOOK | CTL_OPT_SESSION, 0, 1, cmd_list, cmd_list_words, cmd_list_session_words},
    {"usage", "[SESSION]", "Show who pays for how much memory",
     "Shows each account with its limit, whose limit that is, and how much of it is leased to sessions, idle,\n"
     "locked by the clients themselves (own mlock) and left; then for each session and memory what its bytes are\n"
     "for; and for an account that is full or over its limit what to do. With a session: that one and its account\n"
     "in detail. An administrator sees all, others the accounts and sessions of their own uid. The session of\n"
     "vfio-brokerctl itself is left out.\n",
     LOOK | CTL_OPT_SESSION, 0, 1, cmd_usage, NULL, NULL},
    {"pins", "[SESSION]", "Show pins of software devices",
     "Shows which ranges of the sessions' spaces are pinned, and by whom: for all sessions, or for the one given, as\n"
     "owner of the memory. \"asked\": an unmap waits until its client unpins, \"kept\": beyond the deadline for "
     "that.\n",
     LOOK | CTL_OPT_SESSION, 0, 1, cmd_pins, NULL, NULL},
    {"bind", "ADDRESS...", "Give PCI devices to vfio-pci",
     "Takes each PCI device from its host driver and gives it to vfio-pci, so that it can be claimed. The host loses "
     "the\n"
     "device: check first that nothing there needs it. For root; needs no broker. Each address has --deadline= "
     "seconds.\n",
     CTL_OPT_JSON | CTL_OPT_DEADLINE, 1, -1, cmd_bind, NULL, NULL},
    {"unbind", "ADDRESS...", "Give PCI devices back to their host drivers",
     "Takes each PCI device from vfio-pci and gives it back to its host driver. It cannot finish while any process "
     "has\n"
     "the device open: after --deadline= seconds it gives up, and the kernel finishes when the device is closed. For "
     "root;\n"
     "needs no broker.\n",
     CTL_OPT_JSON | CTL_OPT_DEADLINE, 1, -1, cmd_unbind, NULL, NULL},
    {"completion", "", "Print a completion script for bash",
     "Prints a script for bash that asks vfio-brokerctl itself. In ~/.bashrc:  . <(vfio-brokerctl completion)\n", 0, 0,
     0, cmd_completion, NULL, NULL},
    {"__complete", "LINE", NULL, NULL, 0, 1, 1, cmd_complete, NULL, NULL}, /* what that script calls */
};
const unsigned ctl_n_verbs = sizeof ctl_verbs / sizeof *ctl_verbs;

enum { OPT_JSON = 256, OPT_SOCKET, OPT_SESSION, OPT_DEADLINE, OPT_VERSION };
static const struct option options[] = {
    {"json", required_argument, NULL, OPT_JSON},
    {"socket", required_argument, NULL, OPT_SOCKET},
    {"session", required_argument, NULL, OPT_SESSION},
    {"deadline", required_argument, NULL, OPT_DEADLINE},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, OPT_VERSION},
    {NULL, 0, NULL, 0},
};
const struct ctl_option_word ctl_option_words[] = {
    {"--json=", CTL_OPT_JSON},
    {"--socket=", CTL_OPT_SOCKET},
    {"--session=", CTL_OPT_SESSION},
    {"--deadline=", CTL_OPT_DEADLINE},
    {"--help", 0},
    {"--version", 0},
    {NULL, 0},
};

static const struct {
    unsigned option;
    const char *text;
} option_help[] = {
    {CTL_OPT_JSON, "      --json=short|pretty|off  JSON instead of a table\n"},
    {CTL_OPT_SOCKET, "      --socket=PATH            The broker's socket (default " VFB_SOCKET ")\n"},
    {CTL_OPT_SESSION, "      --session=NUMBER         Only this session (lists of its things; usage, pins)\n"},
    {CTL_OPT_DEADLINE,
     "      --deadline=SECONDS       How long to wait for the kernel, 1 to 86400 (bind, unbind: 30)\n"},
};

static void help_options(unsigned which) {
    puts("\nOptions:");
    for (size_t i = 0; i < sizeof option_help / sizeof *option_help; i++)
        if (which & option_help[i].option)
            fputs(option_help[i].text, stdout);
    puts("  -h, --help                   This text, or with a command that command's");
    puts("      --version                Version of this program");
}

static int help(const struct ctl_verb *v, const char *first) {
    if (v) {
        printf("Usage: vfio-brokerctl %s%s%s [OPTION...]\n\n%s", v->name, *v->arguments ? " " : "", v->arguments,
               v->help);
        /* Without an argument: what goes with any. */
        help_options(first ? ctl_verb_options(v, first) : v->options);
        return CTL_OK;
    }
    puts("Usage: vfio-brokerctl COMMAND [ARGUMENT...] [OPTION...]\n\n"
         "Look at vfio-brokerd, and hand devices to it.\n\nCommands:");
    for (unsigned i = 0; i < ctl_n_verbs; i++)
        if (ctl_verbs[i].summary)
            printf("  %-12s %-26s %s\n", ctl_verbs[i].name,
                   strlen(ctl_verbs[i].arguments) > 26 ? "[WHAT]" : ctl_verbs[i].arguments, ctl_verbs[i].summary);
    help_options(~0u);
    puts("\nExit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no broker. See vfio-brokerctl(1).");
    return CTL_OK;
}

static bool parse_json(const char *text, enum ctl_json *ret) {
    static const char *const names[] = {
        [CTL_JSON_OFF] = "off", [CTL_JSON_SHORT] = "short", [CTL_JSON_PRETTY] = "pretty"};

    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i], text) == 0) {
            *ret = (enum ctl_json)i;
            return true;
        }
    }
    return false;
}

/* What the command line says beside the options' values. */
struct said {
    bool help, version;
    unsigned options; /* enum ctl_options */
};

static int parse_options(int argc, char **argv, struct ctl *ctl, struct said *said) {
    unsigned long n = 0;
    int o;

    while ((o = getopt_long(argc, argv, "h", options, NULL)) >= 0) {
        switch (o) {
        case 'h':
            said->help = true;
            break;
        case OPT_VERSION:
            said->version = true;
            break;
        case OPT_JSON:
            said->options |= CTL_OPT_JSON;
            if (parse_json(optarg, &ctl->json))
                break;
            ctl_say("--json= is short, pretty or off, not %s", optarg);
            return CTL_USAGE;
        case OPT_SOCKET:
            said->options |= CTL_OPT_SOCKET;
            ctl->socket = optarg;
            break;
        case OPT_SESSION:
            said->options |= CTL_OPT_SESSION;
            if (ctl_number(optarg, 1, UINT32_MAX, &n)) {
                ctl->has_session = true;
                ctl->session = (uint32_t)n;
                break;
            }
            ctl_say("--session= is a number from `vfio-brokerctl list sessions`, not %s", optarg);
            return CTL_USAGE;
        case OPT_DEADLINE:
            said->options |= CTL_OPT_DEADLINE;
            if (ctl_number(optarg, 1, 86400, &n)) {
                ctl->deadline = (unsigned)n;
                break;
            }
            ctl_say("--deadline= is a number of seconds from 1 to 86400, not %s", optarg);
            return CTL_USAGE;
        default: /* getopt has said it */
            return CTL_USAGE;
        }
    }
    return CTL_OK;
}

static const struct ctl_verb *find_verb(const char *name) {
    for (unsigned i = 0; i < ctl_n_verbs; i++)
        if (strcmp(ctl_verbs[i].name, name) == 0)
            return &ctl_verbs[i];
    return NULL;
}

static int check_usage(const struct ctl_verb *v, unsigned said, int n) {
    if (said & ~v->options) {
        ctl_say("%s does not take that option: see vfio-brokerctl %s --help", v->name, v->name);
        return CTL_USAGE;
    }
    if (n < v->min_args || (v->max_args >= 0 && n > v->max_args)) {
        ctl_say("usage: vfio-brokerctl %s%s%s", v->name, *v->arguments ? " " : "", v->arguments);
        return CTL_USAGE;
    }
    return CTL_OK;
}

/* A full disk or a closed pipe is a failure too. */
static int flushed(int status) {
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    ctl_say("cannot write the output: %s", strerror(errno));
    return status == CTL_OK ? CTL_FAILED : status;
}

int main(int argc, char **argv) {
    struct ctl ctl = {.deadline = DEADLINE_SECONDS};
    struct said said = {.help = false};
    const struct ctl_verb *v = NULL;
    int status = parse_options(argc, argv, &ctl, &said);

    if (status != CTL_OK)
        return status;
    if (said.version) {
        puts("vfio-brokerctl " PACKAGE_VERSION);
        return flushed(CTL_OK);
    }
    if (optind < argc) {
        v = find_verb(argv[optind]);
        if (!v || (said.help && !v->help)) {
            ctl_say("there is no command %s: see vfio-brokerctl --help", argv[optind]);
            return CTL_USAGE;
        }
    }
    if (said.help)
        return flushed(help(v, optind + 1 < argc ? argv[optind + 1] : NULL));
    if (!v) {
        ctl_say("which command? See vfio-brokerctl --help");
        return CTL_USAGE;
    }
    status = check_usage(v, said.options, argc - optind - 1);
    if (status == CTL_OK)
        status = flushed(v->run(&ctl, argc - optind - 1, argv + optind + 1));
    vfb_client_free(ctl.client);
    return status;
}
