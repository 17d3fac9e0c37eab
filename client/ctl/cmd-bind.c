/* vfio-brokerctl bind and unbind: root's own act on sysfs; the broker has no part in it. */
#include "config.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "client/ctl/bind-job.h"
#include "client/ctl/ctl.h"

static const struct grid_column columns[] = {
    {"address", "ADDRESS", GRID_TEXT}, {"ok", "OK", GRID_FLAG},       {"driver", "DRIVER", GRID_TEXT},
    {"group", "GROUP", GRID_NUMBER},   {"text", "RESULT", GRID_TEXT},
};

/* 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001: how mdevs are named. */
static bool is_uuid(const char *text) {
    static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    size_t i = 0;

    while (form[i] && (form[i] == '-' ? text[i] == '-' : isxdigit((unsigned char)text[i])))
        i++;
    return !form[i] && !text[i];
}

/* All of them, before the first device is touched. */
static int check_addresses(int n, char **args) {
    char address[PCI_ADDRESS_SIZE];

    for (int i = 0; i < n; i++) {
        if (pci_address_parse(args[i], address))
            continue;
        if (is_uuid(args[i]))
            ctl_say("%s is an mdev: it is made by its host driver, on the driver that it needs, and is not bound or "
                    "unbound; "
                    "vfio-brokerctl list devices says whether it can be claimed",
                    args[i]);
        else
            ctl_say("%s is not a PCI address such as 0000:00:04.0: see lspci -D", args[i]);
        return CTL_USAGE;
    }
    return CTL_OK;
}

static int run(struct ctl *ctl, bool bind, int n, char **args) {
    GRID struct grid g = GRID_INIT(columns);
    int status = check_addresses(n, args);

    if (status != CTL_OK)
        return status;
    if (geteuid() != 0 && faccessat(AT_FDCWD, PCI_SYSFS "/bus/pci/drivers_probe", W_OK, AT_EACCESS) != 0) {
        ctl_say("%s needs root: run it with sudo", bind ? "bind" : "unbind");
        return CTL_FAILED;
    }
    /* A copy of the device's fd that a shell let us inherit would make the unbinding wait for ourselves, for ever. */
    close_range(3, ~0u, 0);
    for (int i = 0; i < n; i++) {
        struct bind_job job = {.sysfs = PCI_SYSFS, .bind = bind, .deadline = ctl->deadline};
        struct bind_result result;

        pci_address_parse(args[i], job.address);
        bind_job_run(&job, &result);
        grid_text(&g, job.address);
        grid_number(&g, result.ok);
        grid_text(&g, result.driver);
        grid_number(&g, (uint64_t)(int64_t)pci_group(job.sysfs, job.address));
        grid_text(&g, result.text);
        if (!result.ok) {
            status = CTL_FAILED;
            ctl_say("%s: %s", job.address, result.text);
        } else if (ctl->json == CTL_JSON_OFF) {
            printf("%s: %s\n", job.address, result.text);
        }
    }
    /* After all of them, since the others of a group may have been among them. */
    for (int i = 0; bind && i < n; i++) {
        char address[PCI_ADDRESS_SIZE];

        if (grid_cell(&g, (size_t)i, 1)->number && pci_address_parse(args[i], address))
            pci_warn_group(PCI_SYSFS, address);
    }
    if (ctl->json != CTL_JSON_OFF && ctl_show(ctl, &g, "devices", false) != CTL_OK)
        return CTL_FAILED;
    return status;
}

int cmd_bind(struct ctl *ctl, int n, char **args) {
    return run(ctl, true, n, args);
}

int cmd_unbind(struct ctl *ctl, int n, char **args) {
    return run(ctl, false, n, args);
}
