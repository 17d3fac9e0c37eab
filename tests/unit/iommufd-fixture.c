#include "tests/unit/iommufd-fixture.h"

#include <dirent.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>

const char *missing;
struct vb_workers *workers;
const char *const address[EDUS] = {"0000:00:04.0", "0000:00:05.0", "0000:00:06.0"};
char cdev[EDUS][64];

/* ---- the machine ---- */

void write_text(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        if (write(fd, text, strlen(text)) < 0)
            printf("# %s: %s\n", path, strerror(errno));
        close(fd);
    }
}

static bool find_cdev(const char *pci, char *ret, size_t size) {
    char path[128];
    struct dirent *d;
    DIR *dir;

    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver_override", pci);
    write_text(path, "vfio-pci");
    write_text("/sys/bus/pci/drivers_probe", pci);
    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev", pci);
    dir = opendir(path);
    if (!dir)
        return false;
    ret[0] = 0;
    while ((d = readdir(dir)))
        if (d->d_name[0] != '.')
            snprintf(ret, size, "/dev/vfio/devices/%.32s", d->d_name);
    closedir(dir);
    return ret[0] != 0;
}

int prepare(void **state) {
    unsigned i;

    (void)state;
    if (access("/dev/iommu", R_OK | W_OK) < 0)
        missing = "no /dev/iommu that we may open";
    for (i = 0; i < EDUS && !missing; i++)
        if (!find_cdev(address[i], cdev[i], sizeof(cdev[i])))
            missing = "no edu devices at 0000:00:04.0, 05.0 and 06.0 with a VFIO cdev";
    if (missing)
        printf("# skipped: %s; run in tests/vm/run\n", missing);
    return 0;
}

int open_iommufd(void) {
    struct vb_iommu_option o = {
        .size = sizeof(o), .option_id = VB_IOMMU_OPTION_RLIMIT_MODE, .op = VB_IOMMU_OPTION_OP_SET, .val64 = 1};
    int fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(ioctl(fd, IOMMU_OPTION, &o), 0);
    return fd;
}

struct vb_model *real_model(int iommufd, bool no_map_file) {
    struct vb_backend *b = NULL;
    struct vb_model *m = NULL;

    if (vb_iommufd_new(iommufd, no_map_file, workers, &b, fresh()) != 0)
        fail_msg("%s", e.text);
    assert_int_equal(vb_model_new(b, VB_MAPPINGS_DEFAULT, &m), 0);
    m->ledger.lease = m->ledger.limit = 1ull << 40;
    return m;
}

int claim_fd(struct vb_model *m, const char *name, bool software, size_t n_reserved, int fd,
             struct vb_device **ret_device, int *ret_client_fd, struct vb_error *error) {
    const struct vb_claim_desc c = {.address = name,
                                    .group = 1,
                                    .software = software,
                                    .reserved = &msi_window,
                                    .n_reserved = n_reserved,
                                    .fds = {fd, -1}};

    assert_true(fd >= 0);
    return vb_model_claim(m, &c, ret_device, ret_client_fd, error);
}

struct vb_device *real_device(struct vb_model *m, int i, int *ret_client_fd) {
    struct vb_device *d = NULL;

    OK(claim_fd(m, address[i], false, 1, open(cdev[i], O_RDWR | O_CLOEXEC), &d, ret_client_fd, &e));
    OK(vb_model_bind(m, d->id, &e));
    return d;
}

/* ---- what the kernel says ---- */

long pinned_pages(void) {
    long acquired = 0, released = 0;
    char line[128];
    FILE *f = fopen("/proc/sys/vm/stat_refresh", "r"); /* folds the counters of each processor in */

    if (f && !fgets(line, sizeof(line), f))
        line[0] = 0;
    if (f)
        fclose(f);
    f = fopen("/proc/vmstat", "r");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        sscanf(line, "nr_foll_pin_acquired %ld", &acquired);
        sscanf(line, "nr_foll_pin_released %ld", &released);
    }
    fclose(f);
    return acquired - released;
}

void assert_pinned_pages(long before) {
    unsigned i;

    for (i = 0; i < 250 && labs(pinned_pages() - before) > 8; i++)
        usleep(20000);
    assert_true(labs(pinned_pages() - before) <= 8);
}

long own_kib(const char *field) {
    const size_t length = strlen(field);
    char line[128];
    long kib = -1;
    FILE *f = fopen("/proc/self/status", "r");

    assert_non_null(f);
    while (fgets(line, sizeof(line), f))
        if (strncmp(line, field, length) == 0 && line[length] == ':')
            kib = strtol(line + length + 1, NULL, 10);
    fclose(f);
    return kib;
}

/* ---- edu ---- */

enum { EDU_SOURCE = 0x80 / 8, EDU_DESTINATION = 0x88 / 8, EDU_COUNT = 0x90 / 8, EDU_COMMAND = 0x98 / 8 };
#define EDU_BUFFER 0x40000ull

struct edu edu_open(int fd) {
    struct vfio_region_info bar = {.argsz = sizeof(bar), .index = VFIO_PCI_BAR0_REGION_INDEX};
    struct vfio_region_info config = {.argsz = sizeof(config), .index = VFIO_PCI_CONFIG_REGION_INDEX};
    const uint16_t command = 6; /* memory and bus master */
    struct edu edu;

    assert_int_equal(ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, &bar), 0);
    assert_int_equal(ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, &config), 0);
    assert_int_equal(pwrite(fd, &command, 2, (off_t)config.offset + 4), 2);
    edu.size = bar.size;
    edu.bar = mmap(NULL, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)bar.offset);
    assert_true(edu.bar != MAP_FAILED);
    return edu;
}

void edu_close(struct edu *edu) {
    munmap((void *)edu->bar, edu->size);
}

static void edu_run(struct edu *edu, uint64_t source, uint64_t destination, uint64_t size, uint64_t command) {
    unsigned i;

    edu->bar[EDU_SOURCE] = source;
    edu->bar[EDU_DESTINATION] = destination;
    edu->bar[EDU_COUNT] = size;
    edu->bar[EDU_COMMAND] = command;
    for (i = 0; (edu->bar[EDU_COMMAND] & 1) && i < 5000; i++)
        usleep(1000);
    assert_false(edu->bar[EDU_COMMAND] & 1);
}

void edu_copy(struct edu *edu, uint64_t from, uint64_t to, uint64_t size) {
    edu_run(edu, from, EDU_BUFFER, size, 1);
    edu_run(edu, EDU_BUFFER, to, size, 1 | 2);
}

bool edu_reaches(struct edu *edu, uint64_t from, uint64_t to, int fd, uint64_t offset) {
    unsigned char zero[64] = {0}, got[64];

    assert_int_equal(pwrite(fd, zero, 64, (off_t)offset), 64);
    edu_copy(edu, from, to, 64);
    assert_int_equal(pread(fd, got, 64, (off_t)offset), 64);
    return memcmp(got, zero, 64) != 0;
}
