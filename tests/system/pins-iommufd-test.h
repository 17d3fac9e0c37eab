/* What pins-access.c needs of the kernel's test interface, which is no uapi: drivers/iommu/iommufd/iommufd_test.h (Linux 7.3; the
 * same since 6.2), with CONFIG_IOMMUFD_TEST. Its structure has grown by members of the union that are no larger than these. */
#ifndef VB_TESTS_PINS_IOMMUFD_TEST_H
#define VB_TESTS_PINS_IOMMUFD_TEST_H

#include <linux/ioctl.h>
#include <stddef.h>
#include <stdint.h>

enum {
    IOMMU_TEST_OP_CREATE_ACCESS = 5,
    IOMMU_TEST_OP_DESTROY_ACCESS_PAGES = 6,
    IOMMU_TEST_OP_ACCESS_PAGES = 7,
    MOCK_FLAGS_ACCESS_WRITE = 1,
    MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES = 1,
};

struct iommu_test_cmd {
    uint32_t size, op, id, reserved;
    union {
        struct {
            uint32_t out_access_fd, flags;
        } create_access;
        struct {
            uint32_t access_pages_id;
        } destroy_access_pages;
        struct {
            uint32_t flags, out_access_pages_id;
            uint64_t iova, length, uptr;
        } access_pages;
        struct { /* the largest: it makes the size */
            uint32_t flags;
            uint64_t iova, length, page_size, uptr, out_nr_dirty;
        } dirty;
    };
    uint32_t last;
};
_Static_assert(offsetof(struct iommu_test_cmd, access_pages.iova) == 24 && sizeof(struct iommu_test_cmd) == 72,
               "not as the kernel has it");

#define IOMMU_TEST_CMD _IO(';', 0x80 + 32) /* IOMMUFD_TYPE, IOMMUFD_CMD_BASE */

#endif
