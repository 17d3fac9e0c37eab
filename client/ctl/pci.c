/* See pci.h. Sources: Documentation/ABI/testing/sysfs-bus-pci, drivers/pci/pci-driver.c. */
#include "config.h"

#include "client/ctl/pci.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/ctl/ctl.h"
#include "proto/cleanup.h"

/* ---- addresses ------------------------------------------------------------------------------------------------ */

static int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* Reads between low and high digits; returns how many, or 0. */
static int digits(const char *p, int low, int high, unsigned *ret) {
    int n = 0;

    for (*ret = 0; n < high && hex_digit(p[n]) >= 0; n++)
        *ret = *ret << 4 | (unsigned)hex_digit(p[n]);
    return n >= low ? n : 0;
}

bool pci_address_parse(const char *text, char ret_address[PCI_ADDRESS_SIZE]) {
    unsigned domain, bus, device, function;
    const char *p = text;
    int n;

    if (!(n = digits(p, 4, 8, &domain)) || *(p += n) != ':')
        return false;
    if (!(n = digits(++p, 2, 2, &bus)) || *(p += n) != ':')
        return false;
    if (!(n = digits(++p, 2, 2, &device)) || *(p += n) != '.' || device > 0x1f)
        return false;
    if (!(n = digits(++p, 1, 1, &function)) || p[n] || function > 7)
        return false;
    snprintf(ret_address, PCI_ADDRESS_SIZE, "%04x:%02x:%02x.%x", domain, bus, device, function);
    return true;
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

static void device_path(char to[PATH_MAX], const char *sysfs, const char *address, const char *what) {
    snprintf(to, PATH_MAX, "%s/bus/pci/devices/%s/%s", sysfs, address, what);
}

bool pci_exists(const char *sysfs, const char *address) {
    char path[PATH_MAX];

    device_path(path, sysfs, address, "");
    return access(path, F_OK) == 0;
}

/* The last component of what a link points to. 0 or negative errno. */
static int link_name(const char *path, char *to, size_t size) {
    char target[PATH_MAX];
    ssize_t n = readlink(path, target, sizeof target - 1);

    if (n < 0)
        return -errno;
    target[n] = 0;
    const char *slash = strrchr(target, '/');
    const char *name = slash ? slash + 1 : target;
    if (strlen(name) >= size)
        return -ENAMETOOLONG;
    strcpy(to, name);
    return 0;
}

int pci_driver(const char *sysfs, const char *address, char ret_driver[PCI_NAME_SIZE]) {
    char path[PATH_MAX];

    device_path(path, sysfs, address, "driver");
    int r = link_name(path, ret_driver, PCI_NAME_SIZE);
    if (r != -ENOENT)
        return r;
    ret_driver[0] = 0;
    return 0;
}

/* drivers/base/dd.c, __device_release_driver(): driver_sysfs_remove() comes before the driver's remove(), which may wait;
 * dev->driver is cleared after it. */
bool pci_unbinding(const char *sysfs, const char *address) {
    char path[PATH_MAX], line[256], driver[PCI_NAME_SIZE];
    bool has_driver = false;

    device_path(path, sysfs, address, "uevent");
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        has_driver = has_driver || strncmp(line, "DRIVER=", 7) == 0;
    if (f)
        fclose(f);
    return has_driver && pci_driver(sysfs, address, driver) == 0 && !driver[0];
}

int pci_group(const char *sysfs, const char *address) {
    char path[PATH_MAX], name[32];

    device_path(path, sysfs, address, "iommu_group");
    if (link_name(path, name, sizeof name) < 0 || name[0] < '0' || name[0] > '9')
        return -1;
    return atoi(name);
}

bool pci_vfio_loaded(const char *sysfs) {
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/bus/pci/drivers/vfio-pci", sysfs);
    return access(path, F_OK) == 0;
}

/* ---- writing -------------------------------------------------------------------------------------------------- */

static int write_file(const char *path, const char *text) {
    VB_FD int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    return write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

int pci_override(const char *sysfs, const char *address, const char *driver) {
    char path[PATH_MAX], text[PCI_NAME_SIZE + 1];

    device_path(path, sysfs, address, "driver_override");
    snprintf(text, sizeof text, "%s\n", driver); /* an empty line clears it */
    return write_file(path, text);
}

int pci_unbind(const char *sysfs, const char *address, const char *driver) {
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/bus/pci/drivers/%s/unbind", sysfs, driver);
    return write_file(path, address);
}

int pci_probe(const char *sysfs, const char *address) {
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/bus/pci/drivers_probe", sysfs);
    return write_file(path, address);
}

/* ---- the group ------------------------------------------------------------------------------------------------ */

/* Drivers that make no DMA mappings of their own and may stay: drivers/vfio/vfio_main.c and iommu_group_claim_dma_owner()
 * leave these be (driver_managed_dma in their struct pci_driver). */
static bool harmless(const char *driver) {
    static const char *const names[] = {"", "vfio-pci", "pci-stub", "pcieport", "shpchp"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(driver, names[i]) == 0)
            return true;
    return false;
}

void pci_warn_group(const char *sysfs, const char *address) {
    int group = pci_group(sysfs, address);
    char path[PATH_MAX], other[PCI_ADDRESS_SIZE], driver[PCI_NAME_SIZE];
    struct dirent *e;

    if (group < 0)
        return;
    device_path(path, sysfs, address, "iommu_group/devices");
    DIR *d = opendir(path);
    while (d && (e = readdir(d))) {
        if (!pci_address_parse(e->d_name, other) || strcmp(other, address) == 0)
            continue;
        if (pci_driver(sysfs, other, driver) < 0 || harmless(driver))
            continue;
        ctl_say("warning: %s is in the same IOMMU group %d and on host driver %s, so the group cannot be claimed yet; "
                "if the host can do without it: vfio-brokerctl bind %s",
                other, group, driver, other);
    }
    if (d)
        closedir(d);
}
