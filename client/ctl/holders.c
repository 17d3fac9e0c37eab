/* Holders are recognised by
 *   - an open character device with the number of the device's cdev (/dev/vfio/devices/vfioN) or of its group's node
 *     (/dev/vfio/GROUP): whatever path it was opened by;
 *   - a device fd that came from a group, which is an anonymous file: since Linux 6.18 its fdinfo has the device's path
 *     in sysfs (drivers/vfio/vfio_main.c, vfio_device_show_fdinfo()). */
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

#define NODES_MAX 4 /* a cdev and a group node, and room */

struct wanted {
    const char *address;
    dev_t nodes[NODES_MAX];
    unsigned n_nodes;
};

static void add_node(struct wanted *w, const char *dev_file) {
    unsigned major_, minor_;
    FILE *f = fopen(dev_file, "re");

    if (!f)
        return;
    if (fscanf(f, "%u:%u", &major_, &minor_) == 2 && w->n_nodes < NODES_MAX)
        w->nodes[w->n_nodes++] = makedev(major_, minor_);
    fclose(f);
}

static void find_nodes(struct wanted *w, const char *sysfs) {
    int group = pci_group(sysfs, w->address);
    char path[PATH_MAX];
    struct dirent *e;

    if (group >= 0) {
        snprintf(path, sizeof path, "%s/class/vfio/%d/dev", sysfs, group);
        add_node(w, path);
    }
    snprintf(path, sizeof path, "%s/bus/pci/devices/%s/vfio-dev", sysfs, w->address);
    DIR *d = opendir(path);
    while (d && (e = readdir(d))) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/bus/pci/devices/%s/vfio-dev/%.64s/dev", sysfs, w->address, e->d_name);
        add_node(w, path);
    }
    if (d)
        closedir(d);
}

/* fdinfo says "vfio-device-syspath: /sys/devices/pci0000:00/0000:00:04.0". */
static bool is_device_file(const struct wanted *w, const char *pid, const char *fd) {
    char path[PATH_MAX], line[PATH_MAX];
    bool found = false;

    snprintf(path, sizeof path, "/proc/%s/fdinfo/%s", pid, fd);
    FILE *f = fopen(path, "re");
    while (f && !found && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        const char *slash = strrchr(line, '/');
        found = strncmp(line, "vfio-device-syspath:", 20) == 0 && slash && strcmp(slash + 1, w->address) == 0;
    }
    if (f)
        fclose(f);
    return found;
}

static bool is_wanted(const struct wanted *w, const char *pid, const char *fd) {
    char path[PATH_MAX], target[64];
    struct stat st;

    snprintf(path, sizeof path, "/proc/%s/fd/%s", pid, fd);
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n < 0)
        return false;
    target[n] = 0;
    if (strcmp(target, "anon_inode:[vfio-device]") == 0)
        return is_device_file(w, pid, fd);
    if (strncmp(target, "/dev/", 5) != 0 || stat(path, &st) < 0 || !S_ISCHR(st.st_mode))
        return false;
    for (unsigned i = 0; i < w->n_nodes; i++)
        if (st.st_rdev == w->nodes[i])
            return true;
    return false;
}

static bool holds(const struct wanted *w, const char *pid) {
    char path[PATH_MAX];
    bool found = false;
    struct dirent *e;

    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    DIR *d = opendir(path);
    while (d && !found && (e = readdir(d)))
        found = isdigit((unsigned char)e->d_name[0]) && is_wanted(w, pid, e->d_name);
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

void holders_find(const char *sysfs, const char *address, char *ret_text, size_t size) {
    struct wanted w = {.address = address};
    size_t used = 0;
    struct dirent *e;

    ret_text[0] = 0;
    find_nodes(&w, sysfs);
    DIR *d = opendir("/proc");
    while (d && (e = readdir(d))) {
        char name[32];

        if (!isdigit((unsigned char)e->d_name[0]) || !holds(&w, e->d_name))
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
