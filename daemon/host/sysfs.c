#include "host/sysfs.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "host/files.h"

static bool hex(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isdigit((unsigned char)s[i]) && !(s[i] >= 'a' && s[i] <= 'f'))
            return false;
    return true;
}

bool vb_pci_address_valid(const char *a) {
    size_t domain = strcspn(a, ":"); /* 4 digits; more behind some bridges (vmd) */

    if (domain < 4 || domain > 8 || !hex(a, domain) || strlen(a) != domain + 8)
        return false;
    a += domain;
    return a[0] == ':' && hex(a + 1, 2) && a[3] == ':' && hex(a + 4, 2) && a[6] == '.' && a[7] >= '0' && a[7] <= '7';
}

static uint32_t read_hex(const char *sys, const char *address, const char *file) {
    char path[PATH_MAX], text[32];

    if (!vb_path(path, sizeof path, "%s/bus/pci/devices/%s/%s", sys, address, file) ||
        vb_file_line(path, text, sizeof text) <= 0)
        return 0;
    return (uint32_t)strtoul(text, NULL, 16);
}

/* Since 6.1 a driver of the VFIO family has a child vfio-dev/vfioN; its `dev` exists only with CONFIG_VFIO_DEVICE_CDEV. */
static void read_vfio_dev(const char *dir, struct vb_pci *p) {
    char path[PATH_MAX], text[32];
    unsigned maj, min;
    struct dirent *e;

    if (!vb_path(path, sizeof path, "%s/vfio-dev", dir))
        return;
    DIR *d = opendir(path);
    if (!d)
        return;
    while ((e = readdir(d)))
        if (strncmp(e->d_name, "vfio", 4) == 0 && strlen(e->d_name) < sizeof p->vfio)
            strcpy(p->vfio, e->d_name);
    closedir(d);
    if (p->vfio[0] && vb_path(path, sizeof path, "%s/vfio-dev/%s/dev", dir, p->vfio) &&
        vb_file_line(path, text, sizeof text) > 0 && sscanf(text, "%u:%u", &maj, &min) == 2)
        p->rdev = makedev(maj, min);
}

static int read_group(const char *sys, const char *dir, struct vb_pci *p) {
    char path[PATH_MAX], text[64];
    char *end;

    p->group = -1;
    if (!vb_path(path, sizeof path, "%s/iommu_group", dir))
        return -ENAMETOOLONG;
    int r = vb_link_name(path, text, sizeof text);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return r;
    unsigned long n = strtoul(text, &end, 10);
    if (*end || end == text || n > INT_MAX)
        return -EBADMSG;
    p->group = (int)n;
    if (vb_path(path, sizeof path, "%s/kernel/iommu_groups/%d/name", sys, p->group) &&
        vb_file_line(path, text, sizeof text) > 0)
        p->noiommu = strcmp(text, "vfio-noiommu") == 0;
    return 0;
}

int vb_pci_read(const char *sys, const char *address, struct vb_pci *ret) {
    struct vb_pci p = {.group = -1};
    char dir[PATH_MAX], path[PATH_MAX + 16];

    if (!vb_pci_address_valid(address) || strlen(address) >= sizeof p.address)
        return -ENODEV;
    if (!vb_path(dir, sizeof dir, "%s/bus/pci/devices/%s", sys, address))
        return -ENAMETOOLONG;
    DIR *d = opendir(dir);
    if (!d)
        return errno == ENOENT ? -ENODEV : -errno;
    closedir(d);
    strcpy(p.address, address);
    p.vendor = read_hex(sys, address, "vendor");
    p.device = read_hex(sys, address, "device");
    p.pci_class = read_hex(sys, address, "class");
    snprintf(path, sizeof path, "%s/driver", dir);
    int r = vb_link_name(path, p.driver, sizeof p.driver);
    if (r < 0 && r != -ENOENT)
        return r;
    r = read_group(sys, dir, &p);
    if (r < 0)
        return r;
    read_vfio_dev(dir, &p);
    *ret = p;
    return 0;
}

bool vb_pci_driver_harmless(const struct vb_pci *p) {
    return !p->driver[0] || p->vfio[0] || strncmp(p->driver, "vfio", 4) == 0 || strcmp(p->driver, "pci-stub") == 0 ||
           strcmp(p->driver, "pcieport") == 0;
}

static int each(const char *path, vb_pci_fn fn, void *data) {
    DIR *d = opendir(path);
    struct dirent *e;
    int r = 0;

    if (!d)
        return -errno;
    while (r == 0 && (e = readdir(d)))
        if (vb_pci_address_valid(e->d_name))
            r = fn(e->d_name, data);
    closedir(d);
    return r;
}

int vb_pci_each_in_group(const char *sys, int group, vb_pci_fn fn, void *data) {
    char path[PATH_MAX];

    if (!vb_path(path, sizeof path, "%s/kernel/iommu_groups/%d/devices", sys, group))
        return -ENAMETOOLONG;
    return each(path, fn, data);
}

int vb_pci_each(const char *sys, vb_pci_fn fn, void *data) {
    char path[PATH_MAX];

    if (!vb_path(path, sizeof path, "%s/bus/pci/devices", sys))
        return -ENAMETOOLONG;
    return each(path, fn, data);
}

int vb_group_reserved(const char *sys, int group, struct vb_reserved *ret, uint32_t max, uint32_t *ret_n) {
    char path[PATH_MAX], text[8192], type[32];
    uint64_t first, last;
    uint32_t n = 0;
    int used;

    if (!vb_path(path, sizeof path, "%s/kernel/iommu_groups/%d/reserved_regions", sys, group))
        return -ENAMETOOLONG;
    int r = vb_file_read(path, text, sizeof text);
    if (r < 0)
        return r;
    for (const char *p = text; *p; p += used) {
        if (sscanf(p, "%" SCNx64 " %" SCNx64 " %31s%n", &first, &last, type, &used) != 3 || first > last)
            return -EBADMSG;
        while (isspace((unsigned char)p[used]))
            used++;
        if (strcmp(type, "direct-relaxable") == 0)
            continue;
        if (n == max)
            return -E2BIG;
        ret[n++] = (struct vb_reserved){.range = {first, last},
                                        .kind = strcmp(type, "msi") == 0      ? "msi"
                                                : strcmp(type, "direct") == 0 ? "direct"
                                                                              : "reserved"};
    }
    *ret_n = n;
    return 0;
}
