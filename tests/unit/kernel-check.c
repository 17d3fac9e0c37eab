#include "tests/unit/kernel-check.h"

#include <inttypes.h>
#include <sys/ioctl.h>

#include "backend/iommufd-abi.h"
#include "backend/iommufd-private.h"

/* drivers/iommu/iommufd/iommufd_test.h: an access of the kernel's own reads and writes what an IOAS shows. */
struct access_command {
    uint32_t size, op, id, reserved;
    uint64_t iova_or_fd, length, address;
    uint32_t flags, unused;
    uint64_t rest[3];
};
enum { CREATE_ACCESS = 5, ACCESS_RW = 8 };
#define IOMMU_TEST_CMD _IO(';', 0x80 + 32)

static struct vb_iommufd *backend(struct vb_model *m) {
    return (struct vb_iommufd *)m->backend;
}

static int access_rw(int iommufd, int access_fd, uint64_t iova, void *buf, uint64_t size, uint32_t write) {
    struct access_command c = {.size = sizeof(c),
                               .op = ACCESS_RW,
                               .id = (uint32_t)access_fd,
                               .iova_or_fd = iova,
                               .length = size,
                               .address = (uintptr_t)buf,
                               .flags = write};

    return ioctl(iommufd, IOMMU_TEST_CMD, &c) < 0 ? -errno : 0;
}

static void check_mapping(int iommufd, int access_fd, const struct vb_mapping *p, mark_fn mark) {
    static unsigned char buf[MEMORY];
    const uint64_t size = vb_range_size(p->iova);
    uint64_t at;

    assert_int_equal(access_rw(iommufd, access_fd, p->iova.first, buf, size, 0), 0);
    for (at = 0; at < size; at += PAGE)
        assert_int_equal(buf[at], mark(p->memory->id, p->offset + at));
    assert_int_equal(access_rw(iommufd, access_fd, p->iova.first, buf, 1, 1), p->prot & VB_PROT_WRITE ? 0 : -EPERM);
}

/* Unmapping what the model has not must find nothing. */
static bool is_empty(int iommufd, uint32_t ioas, uint64_t first, uint64_t end) {
    struct vb_iommu_ioas_unmap u = {.size = sizeof(u), .ioas_id = ioas, .iova = first, .length = end - first};

    if (first == end)
        return true;
    if (ioctl(iommufd, IOMMU_IOAS_UNMAP, &u) == 0)
        return false;
    assert_int_equal(errno, ENOENT);
    return true;
}

static void check_gap(int iommufd, uint32_t ioas, uint64_t first, uint64_t end) {
    if (!is_empty(iommufd, ioas, first, end))
        fail_msg("the kernel had something mapped in 0x%" PRIx64 "-0x%" PRIx64 " of IOAS %" PRIu32
                 ", the model nothing",
                 first, end - 1, ioas);
}

unsigned check_kernel_pool(struct vb_model *m, bool believing) {
    const int fd = backend(m)->fd;
    const uint32_t pool = backend(m)->pool;
    uint64_t slot, end = 0;
    bool used[VB_MEMORIES_MAX + 1] = {false};
    unsigned believed = 0;
    uint32_t i;

    for (i = 0; i < m->memories.n; i++)
        used[((struct vb_memory *)m->memories.items[i])->handle] = true;
    for (slot = 0; slot < VB_MEMORIES_MAX; slot++) {
        if (!used[slot])
            continue;
        if (believing && !is_empty(fd, pool, end, vb_iommufd_pool_iova(slot)))
            believed++;
        check_gap(fd, pool, end, vb_iommufd_pool_iova(slot));
        end = vb_iommufd_pool_iova(slot) + ((uint64_t)1 << 55); /* iommufd-pool.c */
    }
    if (believing && !is_empty(fd, pool, end, UINT64_MAX - 1))
        believed++;
    check_gap(fd, pool, end, UINT64_MAX - 1);
    return believed;
}

static void check_kernel_domain(struct vb_model *m, struct vb_space *s, const struct vb_domain *dom, mark_fn mark) {
    const int iommufd = backend(m)->fd;
    const uint32_t ioas = (uint32_t)dom->handle;
    struct access_command c = {.size = sizeof(c), .op = CREATE_ACCESS, .id = ioas};
    struct vb_mapping *p;
    uint64_t end = 0;
    int fd;

    assert_int_equal(ioctl(iommufd, IOMMU_TEST_CMD, &c), 0);
    fd = (int)(uint32_t)c.iova_or_fd;
    for (p = vb_mapping_first(&s->tree, (struct vb_range){0, UINT64_MAX}); p; p = vb_mapping_next(p)) {
        assert_false(p->leaving);
        if (p->pending || (dom->leaves_out && !vb_domain_fits(&dom->info, p->iova, p->offset)))
            continue;
        check_mapping(iommufd, fd, p, mark);
        check_gap(iommufd, ioas, end, p->iova.first);
        end = p->iova.last + 1;
    }
    close(fd);
    check_gap(iommufd, ioas, end, UINT64_MAX - 1);
}

void check_kernel_spaces(struct vb_model *m, mark_fn mark) {
    struct vb_domain *dom;
    uint32_t i;

    for (i = 0; i < m->spaces.n; i++) {
        struct vb_space *s = m->spaces.items[i];

        TAILQ_FOREACH (dom, &s->domains, entry)
            check_kernel_domain(m, s, dom, mark);
    }
}
