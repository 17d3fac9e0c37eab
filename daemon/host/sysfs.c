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
#include <unistd.h>

#include "host/files.h"

static bool hex(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isdigit((unsigned char)s[i]) && !(s[i] >= 'a' && s[i] <= 'f'))
            return false;
    return true;
}

static bool pci_address(const char *a) {
    size_t domain = strcspn(a, ":"); /* 4 digits; more behind some bridges (vmd) */

    if (domain < 4 || domain > 8 || !hex(a, domain) || strlen(a) != domain + 8)
        return false;
    a += domain;
    return a[0] == ':' && hex(a + 1, 2) && a[3] == ':' && hex(a + 4, 2) && a[6] == '.' && a[7] >= '0' && a[7] <= '7';
}

/* As the kernel prints it (%pUl, drivers/vfio/mdev/mdev_core.c). */
static bool uuid(const char *a) {
    return strlen(a) == 36 && hex(a, 8) && a[8] == '-' && hex(a + 9, 4) && a[13] == '-' && hex(a + 14, 4) &&
           a[18] == '-' && hex(a + 19, 4) && a[23] == '-' && hex(a + 24, 12);
}

static const struct {
    const char *name;
    bool (*address)(const char *a);
    bool software;
} buses[] = {{"pci", pci_address, false}, {"mdev", uuid, true}};
#define N_BUSES (sizeof buses / sizeof buses[0])

bool vb_address_valid(const char *a) {
    for (size_t i = 0; i < N_BUSES; i++)
        if (buses[i].address(a))
            return true;
    return false;
}

static uint32_t read_hex(const char *dir, const char *file) {
    char path[PATH_MAX], text[32];

    if (!vb_path(path, sizeof path, "%s/%s", dir, file) || vb_file_line(path, text, sizeof text) <= 0)
        return 0;
    return (uint32_t)strtoul(text, NULL, 16);
}

static dev_t read_dev(const char *path) {
    char text[32];
    unsigned maj, min;

    if (vb_file_line(path, text, sizeof text) <= 0 || sscanf(text, "%u:%u", &maj, &min) != 2)
        return 0;
    return makedev(maj, min);
}

/* Since 6.1 a driver of the VFIO family has a child vfio-dev/vfioN; its `dev` exists only with CONFIG_VFIO_DEVICE_CDEV. */
static void read_vfio_dev(const char *dir, struct vb_host_device *p) {
    char path[PATH_MAX];
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
    if (p->vfio[0] && vb_path(path, sizeof path, "%s/vfio-dev/%s/dev", dir, p->vfio))
        p->rdev = read_dev(path);
}

dev_t vb_group_rdev(const char *sys, int group) {
    char path[PATH_MAX];

    return vb_path(path, sizeof path, "%s/class/vfio/%d/dev", sys, group) ? read_dev(path) : 0;
}

static int read_group(const char *sys, const char *dir, struct vb_host_device *p) {
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
        p->noiommu =
            strcmp(text, "vfio-noiommu") == 0 && !p->software; /* drivers/vfio/group.c gives mdevs such a name too */
    if (vb_path(path, sizeof path, "%s/class/vfio/noiommu-%d", sys, p->group) && access(path, F_OK) == 0)
        p->noiommu = true;
    p->group_rdev = vb_group_rdev(sys, p->group);
    return 0;
}

/* Fills in what the directory says. */
static int read_dir(const char *sys, const char *dir, struct vb_host_device *p) {
    char path[PATH_MAX + 16];

    DIR *d = opendir(dir);
    if (!d)
        return errno == ENOENT ? -ENODEV : -errno;
    closedir(d);
    p->vendor = read_hex(dir, "vendor");
    p->device = read_hex(dir, "device");
    p->pci_class = read_hex(dir, "class");
    snprintf(path, sizeof path, "%s/driver", dir);
    int r = vb_link_name(path, p->driver, sizeof p->driver);
    if (r < 0 && r != -ENOENT)
        return r;
    r = read_group(sys, dir, p);
    if (r < 0)
        return r;
    read_vfio_dev(dir, p);
    return 0;
}

int vb_host_device_read(const char *sys, const char *address, struct vb_host_device *ret) {
    struct vb_host_device p = {.group = -1};
    char dir[PATH_MAX];

    for (size_t i = 0; i < N_BUSES; i++) {
        if (!buses[i].address(address))
            continue;
        if (!vb_path(dir, sizeof dir, "%s/bus/%s/devices/%s", sys, buses[i].name, address))
            return -ENAMETOOLONG;
        strcpy(p.address, address);
        p.software = buses[i].software;
        int r = read_dir(sys, dir, &p);
        if (r == 0)
            *ret = p;
        return r;
    }
    return -ENODEV;
}

int vb_group_member_read(const char *sys, int group, const char *name, struct vb_host_device *ret) {
    struct vb_host_device p = {.group = -1};
    char dir[PATH_MAX];

    if (!vb_path(dir, sizeof dir, "%s/kernel/iommu_groups/%d/devices/%s", sys, group, name))
        return -ENAMETOOLONG;
    snprintf(p.address, sizeof p.address, "%s", name);
    int r = read_dir(sys, dir, &p);
    if (r == 0)
        *ret = p;
    return r;
}

bool vb_driver_harmless(const struct vb_host_device *p) {
    return !p->driver[0] || p->vfio[0] || strncmp(p->driver, "vfio", 4) == 0 || strcmp(p->driver, "pci-stub") == 0 ||
           strcmp(p->driver, "pcieport") == 0;
}

static bool any_name(const char *name) {
    return name[0] != '.';
}

static int each(const char *path, bool (*is_one)(const char *name), vb_address_fn fn, void *data) {
    DIR *d = opendir(path);
    struct dirent *e;
    int r = 0;

    if (!d)
        return -errno;
    while (r == 0 && (e = readdir(d)))
        if (is_one(e->d_name))
            r = fn(e->d_name, data);
    closedir(d);
    return r;
}

int vb_group_each(const char *sys, int group, vb_address_fn fn, void *data) {
    char path[PATH_MAX];

    if (!vb_path(path, sizeof path, "%s/kernel/iommu_groups/%d/devices", sys, group))
        return -ENAMETOOLONG;
    return each(path, any_name, fn, data);
}

int vb_host_device_each(const char *sys, vb_address_fn fn, void *data) {
    char path[PATH_MAX];
    int r = 0;

    for (size_t i = 0; i < N_BUSES && r == 0; i++) {
        if (!vb_path(path, sizeof path, "%s/bus/%s/devices", sys, buses[i].name))
            return -ENAMETOOLONG;
        r = each(path, buses[i].address, fn, data);
        if (r == -ENOENT) /* a host without this bus */
            r = 0;
    }
    return r;
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
