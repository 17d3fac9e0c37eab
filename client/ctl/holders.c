/* Holders are recognised by
 *   - what fdinfo says of a device's file, however it was opened: since Linux 6.18 it has the device's path in sysfs
 *     (drivers/vfio/vfio_main.c, vfio_device_show_fdinfo());
 *   - before that, an open character device with the number of the device's cdev (/dev/vfio/devices/vfioN) or of its
 *     group's node (/dev/vfio/GROUP): whoever has a device from its group has the group open too. */
#include "config.h"

#include "client/ctl/holders.h"

#include <ctype.h>
#include <dirent.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "client/ctl/pci.h"

static void add_node(struct holders *h, const char *dev_file) {
    unsigned major_, minor_;
    FILE *f = fopen(dev_file, "re");

    if (!f)
        return;
    if (fscanf(f, "%u:%u", &major_, &minor_) == 2 && h->n_nodes < HOLDERS_NODES)
        h->nodes[h->n_nodes++] = makedev(major_, minor_);
    fclose(f);
}

void holders_prepare(struct holders *h, const char *sysfs, const char *address) {
    *h = (struct holders){.address = address};
    int group = pci_group(sysfs, h->address);
    char path[PATH_MAX];
    struct dirent *e;

    if (group >= 0) {
        snprintf(path, sizeof path, "%s/class/vfio/%d/dev", sysfs, group);
        add_node(h, path);
    }
    snprintf(path, sizeof path, "%s/bus/pci/devices/%s/vfio-dev", sysfs, h->address);
    DIR *d = opendir(path);
    while (d && (e = readdir(d))) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/bus/pci/devices/%s/vfio-dev/%.64s/dev", sysfs, h->address, e->d_name);
        add_node(h, path);
    }
    if (d)
        closedir(d);
}

/* fdinfo says "vfio-device-syspath: /sys/devices/pci0000:00/0000:00:04.0". */
static bool is_device_file(const struct holders *h, const char *pid, const char *fd) {
    char path[PATH_MAX], line[PATH_MAX];
    bool found = false;

    snprintf(path, sizeof path, "/proc/%s/fdinfo/%s", pid, fd);
    FILE *f = fopen(path, "re");
    while (f && !found && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        const char *slash = strrchr(line, '/');
        found = strncmp(line, "vfio-device-syspath:", 20) == 0 && slash && strcmp(slash + 1, h->address) == 0;
    }
    if (f)
        fclose(f);
    return found;
}

static bool is_wanted(const struct holders *h, const char *pid, const char *fd) {
    char path[PATH_MAX], target[64];
    struct stat st;

    snprintf(path, sizeof path, "/proc/%s/fd/%s", pid, fd);
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n < 0)
        return false;
    target[n] = 0;
    if (strcmp(target, "anon_inode:[vfio-device]") == 0)
        return is_device_file(h, pid, fd);
    if (target[0] != '/' || stat(path, &st) < 0 || !S_ISCHR(st.st_mode))
        return false;
    if (is_device_file(h, pid, fd))
        return true;
    for (unsigned i = 0; i < h->n_nodes; i++)
        if (st.st_rdev == h->nodes[i])
            return true;
    return false;
}

static bool holds(const struct holders *h, const char *pid) {
    char path[PATH_MAX];
    bool found = false;
    struct dirent *e;

    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    DIR *d = opendir(path);
    while (d && !found && (e = readdir(d)))
        found = isdigit((unsigned char)e->d_name[0]) && is_wanted(h, pid, e->d_name);
    if (d)
        closedir(d);
    return found;
}

static void read_name(const char *pid, char *name, size_t size) {
    char path[PATH_MAX];

    snprintf(name, size, "?");
    snprintf(path, sizeof path, "/proc/%s/comm", pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return;
    if (fgets(name, (int)size, f))
        name[strcspn(name, "\n")] = 0;
    fclose(f);
    for (char *p = name; *p; p++)
        if (!isprint((unsigned char)*p))
            *p = '?';
}

void holders_find(const struct holders *h, char *ret_text, size_t size) {
    size_t used = 0;
    struct dirent *e;

    ret_text[0] = 0;
    DIR *d = opendir("/proc");
    while (d && (e = readdir(d))) {
        char name[32];

        if (!isdigit((unsigned char)e->d_name[0]) || !holds(h, e->d_name))
            continue;
        read_name(e->d_name, name, sizeof name);
        int n = snprintf(ret_text + used, size - used, "%spid %s (%s)", used ? ", " : "", e->d_name, name);
        if (n < 0 || (size_t)n >= size - used)
            break; /* cut off: the first ones will do */
        used += (size_t)n;
    }
    if (d)
        closedir(d);
}
