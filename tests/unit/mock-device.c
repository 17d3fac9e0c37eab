#include "tests/unit/mock-device.h"

#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include "backend/iommufd-private.h"

/* struct iommu_test_cmd of drivers/iommu/iommufd/iommufd_test.h */
struct test_command {
    uint32_t size, op, id, reserved;
    union {
        uint64_t w[6];
        uint32_t h[12];
    };
    uint32_t last, unused;
};
enum {
    ADD_RESERVED = 1,
    MD_CHECK_MAP = 3,
    CREATE_ACCESS = 5,
    ACCESS_RW = 8,
    DOMAIN_REPLACE = 10,
    DOMAIN_FLAGS = 12,
    DIRTY = 13,
    DMABUF_GET = 22,
    DMABUF_REVOKE = 23
};
#define TEST_CMD      _IO(';', 0x80 + 32)
#define NO_DIRTY      1u
#define DATA_SELFTEST 0xdeadu
#define TABLES_LARGE  1u /* MOCK_IOMMUPT_HUGE */

#define MAX 512

/* A device: its fd stands for the cdev's, and is closed last. */
static struct {
    int fd; /* 0: free */
    const struct mock_kind *kind;
    int iommufd;
    uint32_t parked; /* IOAS where it is while it is not attached */
    uint32_t object, devid;
} devices[MAX];
/* An HWPT that the backend has allocated. */
static struct {
    int iommufd;
    uint32_t id, ioas; /* id 0: free */
    bool large;
} hwpts[MAX];

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);
int __real_close(int fd);
int __wrap_close(int fd);

static int command(int iommufd, struct test_command *c, uint32_t op, uint32_t id) {
    c->size = sizeof(*c);
    c->op = op;
    c->id = id;
    return __real_ioctl(iommufd, TEST_CMD, c);
}

static int find_device(int fd) {
    int i;

    for (i = 0; i < MAX && fd > 0; i++)
        if (devices[i].fd == fd)
            return i;
    return -1;
}

static int find_hwpt(int iommufd, uint32_t id) {
    int i;

    for (i = 0; i < MAX; i++)
        if (hwpts[i].id == id && hwpts[i].iommufd == iommufd)
            return i;
    return -1;
}

/* ---- what the backend calls ---- */

static int bind_device(int i, struct vb_vfio_bind *bind) {
    struct vb_iommu_ioas_alloc alloc = {.size = sizeof(alloc)};
    struct test_command c = {.h[3] = devices[i].kind->no_dirty ? NO_DIRTY : 0};

    if (__real_ioctl(bind->iommufd, IOMMU_IOAS_ALLOC, &alloc) < 0)
        return -1;
    if (command(bind->iommufd, &c, DOMAIN_FLAGS, alloc.out_ioas_id) < 0)
        return -1;
    devices[i].iommufd = bind->iommufd;
    devices[i].parked = alloc.out_ioas_id;
    devices[i].object = c.h[0];
    devices[i].devid = bind->out_devid = c.h[2];
    return 0;
}

static int replace(int i, uint32_t id) {
    struct test_command c = {.h[0] = id};

    return command(devices[i].iommufd, &c, DOMAIN_REPLACE, devices[i].object);
}

static int attach_device(int i, struct vb_vfio_attach *a) {
    const struct mock_kind *kind = devices[i].kind;
    const int h = find_hwpt(devices[i].iommufd, a->pt_id);

    if (h >= 0 && hwpts[h].large && !kind->large) {
        errno = EINVAL;
        return -1;
    }
    if (kind->reserved.last) {
        struct test_command c = {.w = {kind->reserved.first, vb_range_size(kind->reserved)}};

        if (command(devices[i].iommufd, &c, ADD_RESERVED, h >= 0 ? hwpts[h].ioas : a->pt_id) < 0)
            return -1;
    }
    return replace(i, a->pt_id);
}

static int alloc_hwpt(int iommufd, struct vb_iommu_hwpt_alloc *a) {
    const uint32_t tables[2] = {0, TABLES_LARGE}; /* struct iommu_hwpt_selftest */
    bool large = false;
    int i, r;

    for (i = 0; i < MAX; i++)
        if (devices[i].fd && devices[i].iommufd == iommufd && devices[i].devid == a->dev_id)
            large = devices[i].kind->large;
    if (large) {
        a->data_type = DATA_SELFTEST;
        a->data_len = sizeof(tables);
        a->data_uptr = (uintptr_t)tables;
    }
    r = __real_ioctl(iommufd, IOMMU_HWPT_ALLOC, a);
    i = r == 0 ? find_hwpt(0, 0) : -1;
    if (i >= 0) {
        hwpts[i].iommufd = iommufd;
        hwpts[i].id = a->out_hwpt_id;
        hwpts[i].ioas = a->pt_id;
        hwpts[i].large = large;
    }
    return r;
}

static int destroy(int iommufd, struct vb_iommu_destroy *d) {
    const int i = find_hwpt(iommufd, d->id), r = __real_ioctl(iommufd, IOMMU_DESTROY, d);

    if (i >= 0 && r == 0) {
        hwpts[i].id = 0;
        hwpts[i].iommufd = 0;
    }
    return r;
}

int __wrap_ioctl(int fd, unsigned long request, void *arg) {
    const int i = find_device(fd);

    if (i >= 0) {
        switch (request) {
        case VFIO_DEVICE_BIND_IOMMUFD:
            return bind_device(i, arg);
        case VFIO_DEVICE_ATTACH_IOMMUFD_PT:
            return attach_device(i, arg);
        case VFIO_DEVICE_DETACH_IOMMUFD_PT:
            return replace(i, devices[i].parked);
        default:
            errno = ENOTTY;
            return -1;
        }
    }
    if (request == IOMMU_HWPT_ALLOC)
        return alloc_hwpt(fd, arg);
    if (request == IOMMU_DESTROY)
        return destroy(fd, arg);
    return __real_ioctl(fd, request, arg);
}

int __wrap_close(int fd) {
    const int i = find_device(fd);
    int k;

    if (i >= 0) {
        struct vb_iommu_destroy d = {.size = sizeof(d), .id = devices[i].object};

        if (devices[i].object)
            assert_int_equal(__real_ioctl(devices[i].iommufd, IOMMU_DESTROY, &d), 0);
        memset(&devices[i], 0, sizeof(devices[i]));
    }
    for (k = 0; k < MAX; k++) /* an iommufd: its objects go with it */
        if (hwpts[k].iommufd == fd) {
            hwpts[k].iommufd = 0;
            hwpts[k].id = 0;
        }
    return __real_close(fd);
}

/* ---- what tests call ---- */

static int iommufd_of(struct vb_model *m) {
    return ((struct vb_iommufd *)m->backend)->fd;
}

int mock_prepare(void **state) {
    struct vb_iommu_ioas_alloc alloc = {.size = sizeof(alloc)};
    struct test_command c = {0};
    int fd;

    (void)state;
    fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        missing = "no /dev/iommu that we may open";
    } else {
        if (__real_ioctl(fd, IOMMU_IOAS_ALLOC, &alloc) < 0 || command(fd, &c, DOMAIN_FLAGS, alloc.out_ioas_id) < 0)
            missing = "this kernel has no mock devices (CONFIG_IOMMUFD_TEST)";
        __real_close(fd);
    }
    if (missing)
        printf("# skipped: %s; run in tests/vm/run\n", missing);
    return 0;
}

struct vb_device *mock_device(struct vb_model *m, const char *name, const struct mock_kind *kind) {
    const struct vb_reserved reserved = {kind->reserved, "reserved"};
    const int fd = eventfd(0, EFD_CLOEXEC);
    struct vb_claim_desc c = {
        .address = name, .reserved = &reserved, .n_reserved = kind->reserved.last && kind->told, .fds = {fd, -1}};
    struct vb_device *d = NULL;
    int k = 0, client = -1;

    assert_true(fd > 0);
    while (k < MAX && devices[k].fd)
        k++;
    assert_true(k < MAX);
    devices[k].fd = fd;
    devices[k].kind = kind;
    OK(vb_model_claim(m, &c, &d, &client, &e));
    __real_close(client);
    OK(vb_model_bind(m, d->id, &e));
    return d;
}

uint32_t mock_hwpt(struct vb_model *m, const struct vb_device *d) {
    return ((struct vb_iommufd *)m->backend)->devices[d->handle].hwpt;
}

void mock_small_pages(struct vb_model *m, uint32_t ioas) {
    struct vb_iommu_option o = {
        .size = sizeof(o), .option_id = 1 /* HUGE_PAGES */, .op = VB_IOMMU_OPTION_OP_SET, .object_id = ioas};

    assert_int_equal(__real_ioctl(iommufd_of(m), IOMMU_OPTION, &o), 0);
}

uint64_t mock_dirty(struct vb_model *m, uint32_t hwpt, uint64_t iova, uint64_t size, uint64_t page,
                    const uint64_t *bits) {
    struct test_command c = {.w = {0, iova, size, page, (uintptr_t)bits}};

    assert_int_equal(command(iommufd_of(m), &c, DIRTY, hwpt), 0);
    return c.w[5];
}

bool mock_shows(struct vb_model *m, uint32_t hwpt, uint64_t iova, uint64_t size, const void *p) {
    struct test_command c = {.w = {iova, size, (uintptr_t)p}};

    return command(iommufd_of(m), &c, MD_CHECK_MAP, hwpt) == 0;
}

int mock_dma_buf(struct vb_model *m, uint32_t size) {
    struct test_command c = {.h = {size, O_RDWR | O_CLOEXEC}};
    const int next = dup(0);
    int r;

    __real_close(next);
    r = command(iommufd_of(m), &c, DMABUF_GET, 0); /* 7.3 makes a fd, and says 0 */
    assert_true(r >= 0);
    return r > 0 ? r : next;
}

void mock_revoke(struct vb_model *m, int dma_buf) {
    struct test_command c = {.h = {(uint32_t)dma_buf, 1}};

    assert_int_equal(command(iommufd_of(m), &c, DMABUF_REVOKE, 0), 0);
}

bool mock_access_reads(struct vb_model *m, uint32_t ioas, uint64_t iova) {
    struct test_command c = {0}, rw = {0};
    unsigned char byte;
    int fd, r;

    assert_int_equal(command(iommufd_of(m), &c, CREATE_ACCESS, ioas), 0);
    fd = (int)c.h[0];
    rw.w[0] = iova;
    rw.w[1] = 1;
    rw.w[2] = (uintptr_t)&byte;
    r = command(iommufd_of(m), &rw, ACCESS_RW, (uint32_t)fd);
    __real_close(fd);
    return r == 0;
}
