/* Devices as sysfs shows them, and who may claim which: on a make-believe /sys, /dev and /proc. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "broker/register.h"

#define MDEV      "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
#define IDLE_MDEV "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002"

static char path_of_container[128];
static char root[] = "/tmp/vb-test-register-XXXXXX";

static void put(const char *text, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(const char *text, const char *fmt, ...) {
    char path[512];
    va_list ap;

    int n = snprintf(path, sizeof path, "%s/", root);
    va_start(ap, fmt);
    vsnprintf(path + n, sizeof path - (size_t)n, fmt, ap);
    va_end(ap);
    for (char *p = path + n; (p = strchr(p, '/')); *p++ = '/') {
        *p = 0;
        mkdir(path, 0755);
    }
    if (!text) {
        mkdir(path, 0755);
        return;
    }
    if (text[0] == '>') {
        unlink(path);
        assert_int_equal(symlink(text + 1, path), 0);
        return;
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* A device in a group, on a driver (NULL: none), with a vfio-dev child of this name and number (NULL: none). */
static void device(const char *address, int group, const char *driver, const char *vfio, const char *number) {
    char target[128];

    put("0x1234\n", "sys/bus/pci/devices/%s/vendor", address);
    put("0x11e8\n", "sys/bus/pci/devices/%s/device", address);
    put("0x00ff00\n", "sys/bus/pci/devices/%s/class", address);
    if (driver) {
        snprintf(target, sizeof target, ">../../drivers/%s", driver);
        put(target, "sys/bus/pci/devices/%s/driver", address);
    }
    if (group >= 0) {
        snprintf(target, sizeof target, ">../../../../kernel/iommu_groups/%d", group);
        put(target, "sys/bus/pci/devices/%s/iommu_group", address);
        snprintf(target, sizeof target, ">../../../../bus/pci/devices/%s", address);
        put(target, "sys/kernel/iommu_groups/%d/devices/%s", group, address);
        put("0x00000000fee00000 0x00000000feefffff msi\n", "sys/kernel/iommu_groups/%d/reserved_regions", group);
    }
    if (vfio)
        put(number, "sys/bus/pci/devices/%s/vfio-dev/%s/dev", address, vfio);
}

static int make_tree(void **state) {
    char number[32];
    struct stat st;
    (void)state;

    assert_non_null(mkdtemp(root));
    /* /dev/null stands for the character devices: it is one, and can be opened. */
    assert_int_equal(stat("/dev/null", &st), 0);
    snprintf(number, sizeof number, "%u:%u\n", major(st.st_rdev), minor(st.st_rdev));
    device("0000:00:04.0", 1, "vfio-pci", "vfio0", number);
    device("0000:00:05.0", 2, "e1000e", NULL, NULL);
    device("0000:00:06.0", 3, NULL, NULL, NULL);
    device("0000:00:07.0", -1, "vfio-pci", "vfio7", number);
    device("0000:00:08.0", 4, "vfio-pci", "vfio8", number); /* shares its group with a host driver */
    device("0000:00:08.1", 4, "ahci", NULL, NULL);
    device("0000:00:09.0", 5, "vfio-pci", "vfio9", number); /* a whole group of two, and a bridge */
    device("0000:00:09.1", 5, "mlx5-vfio-pci", "vfio10", number);
    device("0000:00:09.2", 5, "pcieport", NULL, NULL);
    device("0000:00:0a.0", 6, "vfio-pci", "vfio11", number);
    put("vfio-noiommu\n", "sys/kernel/iommu_groups/6/name");
    device("0000:00:0b.0", 7, "vfio-pci", "vfio12", "511:12\n"); /* its node is another device's */
    device("0000:00:0c.0", 8, "vfio-pci", "vfio13", number);     /* its node is missing */
    device("0000:00:0d.0", 9, "vfio-pci", NULL, NULL);           /* a kernel without cdevs */
    device("0000:00:0e.0", 10, "vfio-pci", "vfio14", number);    /* unreadable reserved regions */
    put("0x0 what is this\n", "sys/kernel/iommu_groups/10/reserved_regions");
    put("0x0 0xfffff direct\n0x100000 0x1fffff direct-relaxable\n0x00000000fee00000 0x00000000feefffff msi\n"
        "0xfffffffffffff000 0xffffffffffffffff reserved\n",
        "sys/kernel/iommu_groups/1/reserved_regions");
    put(NULL, "dev/vfio/devices");
    for (int i = 0; i < 15; i++) {
        char path[512];

        snprintf(path, sizeof path, "%s/dev/vfio/devices/vfio%d", root, i);
        if (i != 13 && mknod(path, S_IFCHR | 0600, st.st_rdev) < 0)
            put("", "dev/vfio/devices/vfio%d", i); /* not root: see test_claim */
    }
    /* Groups, for type1. That of group 8 has no node, that of group 7 another one's number. */
    for (int i = 1; i < 14; i++) {
        char path[512];

        put(i == 7 ? "511:12\n" : number, i == 6 ? "sys/class/vfio/noiommu-%d/dev" : "sys/class/vfio/%d/dev", i);
        snprintf(path, sizeof path, "%s/dev/vfio/%d", root, i);
        if (i != 8 && mknod(path, S_IFCHR | 0600, st.st_rdev) < 0)
            put("", "dev/vfio/%d", i);
    }
    snprintf(path_of_container, sizeof path_of_container, "%s/dev/vfio/vfio", root);
    if (mknod(path_of_container, S_IFCHR | 0600, st.st_rdev) < 0)
        put("", "dev/vfio/vfio");
    /* An mdev, whose group the kernel names like one without IOMMU; and one that is on no driver. */
    put(">../../drivers/mtty", "sys/bus/mdev/devices/" MDEV "/driver");
    put(">../../../../kernel/iommu_groups/11", "sys/bus/mdev/devices/" MDEV "/iommu_group");
    put(">../../../../bus/mdev/devices/" MDEV, "sys/kernel/iommu_groups/11/devices/" MDEV);
    put("vfio-noiommu\n", "sys/kernel/iommu_groups/11/name");
    put(number, "sys/bus/mdev/devices/" MDEV "/vfio-dev/vfio1/dev");
    put(">../../../../kernel/iommu_groups/12", "sys/bus/mdev/devices/" IDLE_MDEV "/iommu_group");
    /* A platform device on a host driver in the group of a device that could be used. */
    device("0000:00:0f.0", 13, "vfio-pci", "vfio2", number);
    put(">../../drivers/xhci", "sys/bus/platform/devices/PNP0D10:00/driver");
    put(">../../../../bus/platform/devices/PNP0D10:00", "sys/kernel/iommu_groups/13/devices/PNP0D10:00");
    put(NULL, "proc/812/fd");
    snprintf(number, sizeof number, ">%s/dev/vfio/devices/vfio0", "");
    return 0;
}

static int remove_tree(void **state) {
    char command[128];
    (void)state;

    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command);
}

static char sys[64], dev[64], proc[64];
static struct vb_register *make(void) {
    struct vb_register *r = test_calloc(1, sizeof *r);

    snprintf(sys, sizeof sys, "%s/sys", root);
    snprintf(dev, sizeof dev, "%s/dev", root);
    snprintf(proc, sizeof proc, "%s/proc", root);
    r->sys = sys;
    r->dev = dev;
    r->proc = proc;
    return r;
}

static void end(struct vb_register *r) {
    for (uint32_t s = 1; s < 10; s++)
        vb_register_release_all(r, s);
    assert_true(LIST_EMPTY(&r->claims));
    assert_true(LIST_EMPTY(&r->groups));
    test_free(r);
}

static char granted[][VB_ADDRESS_MAX + 1] = {
    "0000:00:04.0", "0000:00:05.0", "0000:00:06.0", "0000:00:07.0", "0000:00:08.0", "0000:00:09.0", "0000:00:09.1",
    "0000:00:0a.0", "0000:00:0b.0", "0000:00:0c.0", "0000:00:0d.0", "0000:00:0e.0", "0000:00:1f.0", "emulated:0",
    "emulated:1",   "emulated:2",   "0000:00:0f.0", MDEV,           IDLE_MDEV};
static const struct vb_grant grant = {.devices = granted, .n_devices = sizeof granted / sizeof granted[0]};

static int claim_with(struct vb_register *r, uint32_t session, const char *address, const char *with, unsigned *ret_fds,
                      struct vb_error *e) {
    struct vb_opened o = {.fds = {-1, -1}};

    memset(e, 0, sizeof *e);
    int n = vb_register_claim(r, &grant, 1000, session, 800 + (pid_t)session, address, with, &o, e);
    *ret_fds = (o.fds[0] >= 0) + (o.fds[1] >= 0);
    assert_true(o.fds[0] >= 0 || o.fds[1] < 0);
    vb_opened_close(&o);
    return n;
}

static int claim(struct vb_register *r, uint32_t session, const char *address, struct vb_error *e) {
    unsigned ignored;

    return claim_with(r, session, address, "", &ignored, e);
}

#define refused(r, session, address, wanted, says)                                                                     \
    do {                                                                                                               \
        struct vb_error _e;                                                                                            \
        int _n = claim(r, session, address, &_e);                                                                      \
        if (_n != (wanted) || !strstr(_e.text, says))                                                                  \
            fail_msg("%s: %d \"%s\", not %d \"%s\"", address, _n, _e.text, wanted, says);                              \
    } while (0)

static void test_addresses(void **state) {
    static const char *const right[] = {"0000:00:04.0", "ffff:ff:1f.7", "10000:e1:00.0", MDEV};
    static const char *const wrong[] = {"",
                                        "00:04.0",
                                        "0000:00:04.8",
                                        "0000:00:04.",
                                        "0000:00:04.00",
                                        "0000:00:4.0",
                                        "0000:00:0G.0",
                                        "0000:0A:04.0",
                                        "../..:00:04.0",
                                        "0000:00:04,0",
                                        "000:00:04.0",
                                        "123456789:00:04.0",
                                        "83B8f4f2-509f-382f-3c1e-e6bfe0fa1001",
                                        "83b8f4f2-509f-382f-3c1e-e6bfe0fa100",
                                        "83b8f4f2-509f-382f-3c1ee-6bfe0fa1001",
                                        "83b8f4f2/509f-382f-3c1e-e6bfe0fa1001",
                                        "83b8f4f2-509f-382f-3c1e-e6bfe0fa10011"};
    (void)state;

    for (size_t i = 0; i < sizeof right / sizeof right[0]; i++)
        assert_true(vb_address_valid(right[i]));
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_false(vb_address_valid(wrong[i]));
}

static void test_read(void **state) {
    struct vb_register *r = make();
    struct vb_host_device p;
    (void)state;

    assert_int_equal(vb_host_device_read(r->sys, "0000:00:04.0", &p), 0);
    assert_string_equal(p.driver, "vfio-pci");
    assert_string_equal(p.vfio, "vfio0");
    assert_int_equal(p.vendor, 0x1234);
    assert_int_equal(p.device, 0x11e8);
    assert_int_equal(p.pci_class, 0x00ff00);
    assert_int_equal(p.group, 1);
    assert_false(p.noiommu);
    assert_int_equal(vb_host_device_read(r->sys, "0000:00:06.0", &p), 0);
    assert_string_equal(p.driver, "");
    assert_int_equal(vb_host_device_read(r->sys, "0000:00:1f.0", &p), -ENODEV);
    assert_int_equal(vb_host_device_read(r->sys, "../x", &p), -ENODEV);
    end(r);
}

static void test_reserved(void **state) {
    struct vb_register *r = make();
    struct vb_reserved list[4];
    uint32_t n = 0;
    (void)state;

    assert_int_equal(vb_group_reserved(r->sys, 1, list, 4, &n), 0);
    assert_int_equal(n, 3); /* without the relaxable one */
    assert_string_equal(list[0].kind, "direct");
    assert_int_equal(list[0].range.last, 0xfffff);
    assert_string_equal(list[1].kind, "msi");
    assert_string_equal(list[2].kind, "reserved");
    assert_true(list[2].range.last == UINT64_MAX);
    assert_int_equal(vb_group_reserved(r->sys, 1, list, 2, &n), -E2BIG);
    assert_int_equal(vb_group_reserved(r->sys, 10, list, 4, &n), -EBADMSG);
    assert_int_equal(vb_group_reserved(r->sys, 99, list, 4, &n), -ENOENT);
    end(r);
}

static void test_refusals(void **state) {
    struct vb_register *r = make();
    (void)state;

    refused(r, 1, "0000:00:08.1", VB_DENIED, "policy does not grant device 0000:00:08.1 to uid 1000");
    refused(r, 1, "0000:\n00:08.1", VB_DENIED, "0000:?00:08.1");
    refused(r, 1, "0000:00:1f.0", VB_NOT_FOUND, "there is no device 0000:00:1f.0");
    refused(r, 1, "0000:00:05.0", VB_STATE,
            "not bound to vfio-pci but to e1000e: run `vfio-brokerctl bind 0000:00:05.0`");
    refused(r, 1, "0000:00:06.0", VB_STATE, "no driver: run `vfio-brokerctl bind 0000:00:06.0`");
    refused(r, 1, "0000:00:07.0", VB_STATE, "no IOMMU group");
    refused(r, 1, "0000:00:08.0", VB_STATE, "0000:00:08.1 of the same IOMMU group 4 is on the host's driver ahci");
    refused(r, 1, "0000:00:0a.0", VB_STATE, "no-IOMMU group: nothing translates");
    refused(r, 1, "0000:00:0f.0", VB_STATE,
            "PNP0D10:00 of the same IOMMU group 13 is on the host's driver xhci: unbind it");
    refused(r, 1, IDLE_MDEV, VB_STATE, "mdev " IDLE_MDEV " is on no driver of VFIO");
    refused(r, 1, "0000:00:0b.0", -ENXIO, "is not the device node");
    refused(r, 1, "0000:00:0c.0", -ENOENT, "cannot open");
    refused(r, 1, "0000:00:0d.0", VB_STATE, "CONFIG_VFIO_DEVICE_CDEV");
    refused(r, 1, "0000:00:0e.0", -EBADMSG, "reserved regions");
    refused(r, 1, "emulated:0", VB_NOT_FOUND, "there is no device emulated:0");
    end(r); /* nothing of it left a claim */
}

static void test_claim(void **state) {
    struct vb_register *r = make();
    struct vb_error e = {.code = 0};
    struct vb_opened o;
    (void)state;

    if (getuid() != 0) {
        end(r);
        skip(); /* needs mknod for a character device */
    }
    assert_int_equal(vb_register_claim(r, &grant, 1000, 1, 801, "0000:00:04.0", "", &o, &e), 0);
    assert_true(o.fds[0] >= 0 && o.fds[1] < 0);
    assert_true(fcntl(o.fds[0], F_GETFD) & FD_CLOEXEC);
    assert_int_equal(o.group, 1);
    assert_false(o.software);
    assert_int_equal(o.n_reserved, 3);
    vb_opened_close(&o);
    refused(r, 1, "0000:00:04.0", VB_BUSY, "claimed by this session already");
    refused(r, 2, "0000:00:04.0", VB_BUSY, "claimed by session 1 (client pid 801)");
    /* One session has the whole group. */
    assert_int_equal(claim(r, 1, "0000:00:09.0", &e), 0);
    refused(r, 2, "0000:00:09.1", VB_BUSY, "is in IOMMU group 5, of which 0000:00:09.0 is claimed by session 1");
    assert_int_equal(claim(r, 1, "0000:00:09.1", &e), 0);
    assert_null(vb_register_find(r, 2, "0000:00:09.1"));
    vb_register_release(r, vb_register_find(r, 1, "0000:00:09.1"));
    refused(r, 2, "0000:00:09.1", VB_BUSY, "group 5");
    vb_register_release(r, vb_register_find(r, 1, "0000:00:09.0"));
    assert_int_equal(claim(r, 2, "0000:00:09.1", &e), 0);
    end(r);
}

static void test_held(void **state) {
    struct vb_register *r = make();
    struct vb_device_view v;
    struct vb_error e = {.code = 0};
    char target[128];
    uint32_t claimed, held;
    const char *list[4];
    (void)state;

    snprintf(target, sizeof target, ">%s/dev/vfio/devices/vfio0", root);
    put(target, "proc/812/fd/7");
    assert_int_equal(vb_register_adopt(r, 3, 803, "0000:00:04.0", false, &e), 0);
    assert_int_equal(vb_register_adopt(r, 4, 804, "0000:00:04.0", false, &e), VB_BUSY);
    assert_int_equal(vb_register_adopt(r, 4, 804, "0000:00:1f.0", false, &e), VB_NOT_FOUND);
    vb_register_hold_all(r, 3);
    vb_register_count(r, &claimed, &held);
    assert_int_equal(claimed, 0);
    assert_int_equal(held, 1);
    assert_int_equal(vb_register_of(r, 3, list, 4), 1);
    assert_string_equal(list[0], "0000:00:04.0");
    refused(r, 4, "0000:00:04.0", VB_BUSY, "is held: session 3 (client pid 803)");
    refused(r, 4, "0000:00:04.0", VB_BUSY, "(open in pid 812)");
    refused(r, 3, "0000:00:04.0", VB_BUSY, "is held");
    assert_int_equal(vb_register_look(r, "0000:00:04.0", &v, &e), 0);
    assert_int_equal(v.state, VB_REGISTER_HELD);
    assert_int_equal(v.session, 3);
    vb_register_release(r, vb_register_find(r, 3, "0000:00:04.0"));
    assert_int_equal(vb_register_look(r, "0000:00:04.0", &v, &e), 0);
    assert_int_equal(v.state, VB_REGISTER_FREE);
    assert_int_equal(vb_register_look(r, "0000:00:05.0", &v, &e), 0);
    assert_int_equal(v.state, VB_REGISTER_UNUSABLE);
    assert_non_null(strstr(v.reason, "vfio-brokerctl bind"));
    assert_int_equal(vb_register_look(r, "0000:00:1f.0", &v, &e), VB_NOT_FOUND);
    end(r);
}

/* ---- type1 ---- */

static unsigned forgotten;

static void forget(struct vb_group_list *l, struct vb_group *g) {
    assert_ptr_equal(vb_group_find(l, g->session, g->number), g);
    assert_int_equal(g->claims, 0);
    forgotten++;
}

static unsigned open_fds(void) {
    unsigned n = 0;

    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static struct vb_register *make_type1(void) {
    struct vb_register *r = make();

    r->type1 = true;
    r->forget = forget;
    forgotten = 0;
    return r;
}

static void test_groups_refused(void **state) {
    struct vb_register *r = make_type1();
    unsigned fds = open_fds();
    (void)state;

    refused(r, 1, "0000:00:08.0", VB_STATE, "0000:00:08.1 of the same IOMMU group 4 is on the host's driver ahci");
    refused(r, 1, "0000:00:0a.0", VB_STATE, "no-IOMMU group: nothing translates");
    refused(r, 1, "0000:00:0f.0", VB_STATE, "PNP0D10:00");
    if (getuid() == 0) {
        refused(r, 1, "0000:00:0b.0", -ENXIO, "cannot open");
        refused(r, 1, "0000:00:0c.0", -ENOENT, "cannot open");
    }
    refused(r, 1, "0000:00:07.0", VB_STATE, "no IOMMU group");
    end(r);
    assert_int_equal(open_fds(), fds);
}

/* [group, container], none for a further device of it, [group] for one that shares the container; and back. */
static void test_groups(void **state) {
    struct vb_register *r = make_type1();
    unsigned before = open_fds(), fds;
    struct vb_error e;
    (void)state;

    if (getuid() != 0) {
        end(r);
        skip(); /* needs mknod for a character device */
    }
    assert_int_equal(claim_with(r, 1, "0000:00:09.0", "", &fds, &e), 0);
    assert_int_equal(fds, 2);
    assert_int_equal(open_fds(), before + 2); /* ours */
    assert_int_equal(vb_register_groups(r, 1), 1);
    assert_int_equal(claim_with(r, 1, "0000:00:09.1", "0000:00:09.0", &fds, &e), 0);
    assert_int_equal(fds, 0);
    assert_int_equal(vb_register_groups(r, 1), 1);
    assert_int_equal(claim_with(r, 1, "0000:00:04.0", "0000:00:09.1", &fds, &e), 0);
    assert_int_equal(fds, 1);
    assert_int_equal(open_fds(), before + 4);
    /* Not with a device that is not ours, or not there. */
    assert_int_equal(claim_with(r, 2, "0000:00:0d.0", "0000:00:09.0", &fds, &e), VB_NOT_FOUND);
    assert_non_null(strstr(e.text, "session 2 has no device 0000:00:09.0 whose container could be shared"));
    assert_int_equal(claim_with(r, 1, "0000:00:0d.0", "0000:00:1e.0", &fds, &e), VB_NOT_FOUND);
    refused(r, 2, "0000:00:09.1", VB_BUSY, "claimed by session 1");
    /* The group goes with its last claim. */
    vb_register_release(r, vb_register_find(r, 1, "0000:00:09.0"));
    assert_int_equal(forgotten, 0);
    refused(r, 2, "0000:00:09.0", VB_BUSY, "is in IOMMU group 5, of which 0000:00:09.1 is claimed by session 1");
    vb_register_release(r, vb_register_find(r, 1, "0000:00:09.1"));
    assert_int_equal(forgotten, 1);
    assert_int_equal(vb_register_groups(r, 1), 1);
    assert_int_equal(open_fds(), before + 2);
    assert_int_equal(claim_with(r, 2, "0000:00:09.1", "", &fds, &e), 0);
    assert_int_equal(fds, 2);
    /* A kernel without cdevs is good enough; an mdev has no reserved regions to read. */
    assert_int_equal(claim_with(r, 2, "0000:00:0d.0", "", &fds, &e), 0);
    assert_int_equal(fds, 2);
    assert_int_equal(claim_with(r, 2, MDEV, "", &fds, &e), 0);
    assert_int_equal(fds, 2);
    end(r);
    assert_int_equal(forgotten, 5);
    assert_int_equal(open_fds(), before);
}

static void test_mdev(void **state) {
    struct vb_register *r = make();
    struct vb_host_device p;
    struct vb_opened o;
    struct vb_error e = {.code = 0};
    (void)state;

    assert_int_equal(vb_host_device_read(r->sys, MDEV, &p), 0);
    assert_string_equal(p.driver, "mtty");
    assert_string_equal(p.vfio, "vfio1");
    assert_int_equal(p.group, 11);
    assert_true(p.software);
    assert_false(p.noiommu); /* though its group is called so */
    assert_int_equal(vb_host_device_read(r->sys, "83B8f4f2-509f-382f-3c1e-e6bfe0fa1001", &p), -ENODEV);
    assert_int_equal(vb_host_device_read(r->sys, "83b8f4f2-509f-382f-3c1e-e6bfe0fa1003", &p), -ENODEV);
    if (getuid() == 0) {
        assert_int_equal(vb_register_claim(r, &grant, 1000, 1, 801, MDEV, "", &o, &e), 0);
        assert_true(o.software && o.fds[0] >= 0 && o.n_reserved == 0);
        vb_opened_close(&o);
    }
    end(r);
}

/* A session of an earlier daemon: its devices are booked when it has shown their groups. */
static void test_groups_adopted(void **state) {
    struct vb_register *r = make_type1();
    unsigned before = open_fds();
    struct vb_error e = {.code = 0};
    (void)state;

    assert_int_equal(vb_register_adopt(r, 3, 803, "0000:00:09.0", false, &e), VB_NOT_FOUND);
    assert_non_null(strstr(e.text, "does not have its group 5"));
    assert_non_null(vb_group_new(&r->groups, 3, 5, open("/dev/null", O_RDWR), open("/dev/null", O_RDWR)));
    assert_int_equal(vb_register_adopt(r, 3, 803, "0000:00:09.0", false, &e), 0);
    assert_int_equal(vb_register_adopt(r, 3, 803, "0000:00:09.1", true, &e), 0);
    vb_register_release(r, vb_register_find(r, 3, "0000:00:09.0"));
    assert_int_equal(vb_register_groups(r, 3), 1);
    /* A group that no claim needs ends with the session. */
    assert_non_null(vb_group_new(&r->groups, 3, 1, open("/dev/null", O_RDWR), open("/dev/null", O_RDWR)));
    vb_register_release_all(r, 3);
    assert_int_equal(forgotten, 2);
    end(r);
    assert_int_equal(open_fds(), before);
}

/* Who has a device open that was opened through its group: the kernel tells by fdinfo. */
static void test_group_holders(void **state) {
    struct vb_register *r = make_type1();
    struct vb_error e = {.code = 0};
    (void)state;

    put(">anon_inode:[vfio-device]", "proc/813/fd/5");
    put(">anon_inode:[eventpoll]", "proc/814/fd/5");
    assert_non_null(vb_group_new(&r->groups, 3, 1, open("/dev/null", O_RDWR), open("/dev/null", O_RDWR)));
    assert_int_equal(vb_register_adopt(r, 3, 803, "0000:00:04.0", true, &e), 0);
    refused(r, 4, "0000:00:04.0", VB_BUSY, "still (VFIO devices are open in pid 813): it");
    end(r);
}

/* Other devices of a claimed group are not free, and why is said. */
static void test_group_is_shown(void **state) {
    struct vb_register *r = make();
    struct vb_device_view v;
    struct vb_error e = {.code = 0};
    (void)state;

    assert_int_equal(vb_register_adopt(r, 3, 803, "0000:00:09.0", false, &e), 0);
    assert_int_equal(vb_register_look(r, "0000:00:09.1", &v, &e), 0);
    assert_int_equal(v.state, VB_REGISTER_CLAIMED);
    assert_int_equal(v.session, 3);
    assert_string_equal(v.reason, "0000:00:09.0 of the same IOMMU group 5 is claimed by session 3");
    vb_register_hold_all(r, 3);
    assert_int_equal(vb_register_look(r, "0000:00:09.1", &v, &e), 0);
    assert_int_equal(v.state, VB_REGISTER_HELD);
    assert_int_equal(vb_register_look(r, "0000:00:09.2", &v, &e), 0);
    assert_int_equal(v.state, VB_REGISTER_UNUSABLE); /* a bridge: nobody could claim it */
    assert_int_equal(vb_register_look(r, "0000:00:0a.0", &v, &e), 0);
    assert_int_equal(v.state, VB_REGISTER_UNUSABLE);
    assert_non_null(strstr(v.reason, "no-IOMMU"));
    end(r);
}

static int count(const char *address, void *data) {
    (void)address;
    ++*(int *)data;
    return 0;
}

static void test_list(void **state) {
    struct vb_register *r = make();
    int n = 0;
    (void)state;

    assert_int_equal(vb_register_each(r, count, &n), 0);
    assert_int_equal(n, 12); /* those on a driver of the VFIO family, an mdev among them */
    end(r);
}

static void test_emulated(void **state) {
    struct vb_register *r = make();
    struct vb_error e = {.code = 0};
    int n = 0;
    (void)state;

    r->emulated = 2;
    assert_int_equal(claim(r, 1, "emulated:0", &e), 0);
    refused(r, 2, "emulated:0", VB_BUSY, "claimed by session 1");
    assert_int_equal(claim(r, 2, "emulated:1", &e), 0);
    refused(r, 1, "emulated:2", VB_NOT_FOUND, "there is no device emulated:2");
    refused(r, 1, "0000:00:04.0", VB_NOT_FOUND, "there is no device 0000:00:04.0");
    assert_int_equal(vb_register_each(r, count, &n), 0);
    assert_int_equal(n, 2);
    end(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses),      cmocka_unit_test(test_read),
        cmocka_unit_test(test_reserved),       cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_claim),          cmocka_unit_test(test_held),
        cmocka_unit_test(test_list),           cmocka_unit_test(test_emulated),
        cmocka_unit_test(test_groups_refused), cmocka_unit_test(test_groups),
        cmocka_unit_test(test_mdev),           cmocka_unit_test(test_groups_adopted),
        cmocka_unit_test(test_group_holders),  cmocka_unit_test(test_group_is_shown),
    };
    return cmocka_run_group_tests_name("register", tests, make_tree, remove_tree);
}
