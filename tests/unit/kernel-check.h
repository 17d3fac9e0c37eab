/* What the kernel has mapped, against what the model says, on the iommufd backend: each mapping is read by an access of the
 * kernel's own (IOMMU_TEST_OP_ACCESS_RW), and every gap must be empty. Both fail the test. */
#ifndef TESTS_UNIT_KERNEL_CHECK_H
#define TESTS_UNIT_KERNEL_CHECK_H

#include "tests/unit/core-fixture.h"

#define PAGE   4096ull
#define MEMORY (64 * PAGE) /* the largest mapping */

/* What every byte of that page of a memory is. */
typedef unsigned char (*mark_fn)(uint32_t memory, uint64_t offset);

void check_kernel_spaces(struct vb_model *m, mark_fn mark);
/* No files but those of memories are in the pool. The kernel's fault injection also makes iommufd_get_object() say ENOENT (main.c),
 * which it never says of an IOAS that is there: the backend then believes that a slot is empty. With `believing` such files are taken
 * away and counted. */
unsigned check_kernel_pool(struct vb_model *m, bool believing);

#endif
