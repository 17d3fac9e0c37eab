#include "tests/unit/type1-fixture.h"

bool compat;
const char *no_type1;
struct vb_backend *b;
struct vb_error *const said = &e;

static long pinned_before;
static unsigned fds_before;

int parse_arguments(int argc, char **argv) {
    compat = argc > 1 && strcmp(argv[1], "compat") == 0;
    return argc > 2 || (argc > 1 && !compat) ? -1 : 0;
}

uint32_t group_number(int i) {
    char path[128], link[256];
    ssize_t n;

    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", address[i]);
    n = readlink(path, link, sizeof(link) - 1);
    assert_true(n > 0);
    link[n] = 0;
    return (uint32_t)strtoul(strrchr(link, '/') + 1, NULL, 10);
}

int open_group(int i) {
    char path[64];

    snprintf(path, sizeof(path), "/dev/vfio/%u", group_number(i));
    return open(path, O_RDWR | O_CLOEXEC);
}

int open_container(void) {
    int fd = compat ? open_iommufd() : open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

int prepare_type1(void **state) {
    char path[128];
    unsigned i;

    (void)state;
    if (access(compat ? "/dev/iommu" : "/dev/vfio/vfio", R_OK | W_OK) < 0)
        no_type1 = compat ? "no /dev/iommu that we may open" : "no /dev/vfio/vfio that we may open";
    for (i = 0; i < EDUS && !no_type1; i++) {
        snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver_override", address[i]);
        write_text(path, "vfio-pci");
        write_text("/sys/bus/pci/drivers_probe", address[i]);
        snprintf(path, sizeof(path), "/sys/bus/pci/drivers/vfio-pci/%s", address[i]);
        if (access(path, F_OK) < 0)
            no_type1 = "no edu devices at 0000:00:04.0, 05.0 and 06.0 that vfio-pci takes";
    }
    if (no_type1)
        printf("# skipped: %s; run in tests/vm/run\n", no_type1);
    return 0;
}

void assert_group_free(int i) {
    unsigned n;
    int fd = -1;

    for (n = 0; n < 200 && (fd = open_group(i)) < 0; n++)
        usleep(20000);
    if (fd < 0)
        fail_msg("group of %s: %s", address[i], strerror(errno));
    close(fd);
}

void begin(void) {
    pinned_before = pinned_pages();
    fds_before = count_fds();
    b = NULL;
    OK(vb_type1_new(&b, &e));
}

void end(void) {
    unsigned i;

    if (b)
        b->ops->close(b);
    b = NULL;
    assert_int_equal(count_fds(), fds_before);
    for (i = 0; i < EDUS; i++)
        assert_group_free((int)i);
    assert_pinned_pages(pinned_before);
}

int sweep(void **state) {
    int fd;

    (void)state;
    if (!b)
        return 0;
    b->ops->close(b);
    b = NULL;
    for (fd = (int)fds_before; fd < 512; fd++)
        close(fd);
    return 0;
}

int try_device(int i, vb_handle with, vb_handle *ret, int *ret_client_fd) {
    const bool known = vb_type1_group_find((struct vb_type1 *)b, group_number(i)) != NULL;
    struct vb_device_desc d = {.address = address[i], .group = group_number(i), .fds = {-1, -1}, .with = with};

    if (!known) {
        d.fds[0] = open_group(i);
        assert_true(d.fds[0] >= 0);
        if (with == VB_NO_HANDLE)
            d.fds[1] = open_container();
    }
    return b->ops->device_open(b, &d, ret, ret_client_fd, fresh());
}

vb_handle device(int i, vb_handle with, int *ret_client_fd) {
    vb_handle dev = VB_NO_HANDLE;

    if (try_device(i, with, &dev, ret_client_fd) != 0)
        fail_msg("%s: %s", address[i], e.text);
    OK(b->ops->device_bind(b, dev, &e));
    return dev;
}

vb_handle domain_of(vb_handle dev) {
    vb_handle domain = VB_NO_HANDLE;

    OK(b->ops->domain_open(b, dev, &domain, &e));
    OK(b->ops->device_attach(b, dev, domain, &e));
    return domain;
}

void close_device(vb_handle dev) {
    b->ops->device_close(b, dev);
}

void await_not_in_use(vb_handle dev) {
    unsigned i;

    for (i = 0; i < 200 && b->ops->in_use(b, dev); i++)
        usleep(20000);
    assert_true(i < 200);
}

vb_handle memory(uint64_t size, int *ret_fd) {
    struct vb_memory_desc d = {.fd = make_memory(size), .size = size, .writable = true};
    vb_handle h = VB_NO_HANDLE;

    OK(b->ops->memory_add(b, &d, &h, &e));
    *ret_fd = d.fd;
    return h;
}

int try_map(vb_handle domain, vb_handle mem, uint64_t iova, uint64_t size, uint64_t offset, uint32_t prot) {
    const struct vb_backend_map m = {.iova = iova, .size = size, .memory = mem, .offset = offset, .prot = prot};
    size_t done;

    return b->ops->map(b, domain, &m, 1, &done, fresh());
}

void map(vb_handle domain, vb_handle mem, uint64_t iova, uint64_t size, uint64_t offset) {
    if (try_map(domain, mem, iova, size, offset, 3) != 0)
        fail_msg("mapping 0x%llx: %s", (unsigned long long)iova, e.text);
}

int unmap(vb_handle domain, uint64_t iova, uint64_t size) {
    const struct vb_range r = {iova, iova + (size - 1)};
    size_t done;

    return b->ops->unmap(b, domain, &r, 1, &done, fresh());
}

int map_pages(vb_handle domain, vb_handle mem, uint64_t iova, size_t n, size_t around, size_t *ret_done) {
    struct vb_backend_map *m = calloc(n, sizeof(*m));
    size_t i;
    int r;

    assert_non_null(m);
    for (i = 0; i < n; i++)
        m[i] = (struct vb_backend_map){
            .iova = iova + i * 4096, .size = 4096, .memory = mem, .offset = i % around * 4096, .prot = 3};
    r = b->ops->map(b, domain, m, n, ret_done, fresh());
    free(m);
    return r;
}
