/* The kernel's mock devices (drivers/iommu/iommufd/selftest.c, CONFIG_IOMMUFD_TEST) in place of VFIO devices, for a real iommufd
 * backend: ioctl() and close() are wrapped (link with --wrap=ioctl,--wrap=close). Their HWPTs are page tables in memory whose
 * dirty bits can be set, so what comes back can be compared exactly.
 *
 * A kind tells how a device differs: what its IOMMU can track and address, and which IOVAs it reserves. Two things are done
 * here as IOMMU drivers do them, since mock devices do not: a device with small tables cannot be attached to an HWPT with large
 * ones (intel/iommu.c, paging_domain_compatible: EINVAL), and what a device reserves is reserved in the IOAS at each attach (but
 * stays so: IOMMU_TEST_OP_ADD_RESERVED has no way back). */
#ifndef TESTS_UNIT_MOCK_DEVICE_H
#define TESTS_UNIT_MOCK_DEVICE_H

#include "tests/unit/iommufd-fixture.h"

struct mock_kind {
    const char *name;
    bool no_dirty;
    bool large;               /* IOVAs 0 to 2^56-1; else 2^24 to 2^31-1 */
    struct vb_range reserved; /* last 0: none */
    bool told;                /* the claim tells of it, as sysfs does; else only the kernel knows */
};

/* Sets `missing` if this kernel has no mock devices. */
int mock_prepare(void **state);
/* Claims and binds one. */
struct vb_device *mock_device(struct vb_model *m, const char *name, const struct mock_kind *kind);
/* The HWPT that it is attached to; 0: none. */
uint32_t mock_hwpt(struct vb_model *m, const struct vb_device *d);
/* Neighbouring pages of memory get one entry in the page tables, and its dirty bit is that of all: not in this IOAS, which has
 * neither mappings nor devices yet. */
void mock_small_pages(struct vb_model *m, uint32_t ioas);
/* Its device wrote these pages: bit n of `bits` is iova + n * page. Returns how many. */
uint64_t mock_dirty(struct vb_model *m, uint32_t hwpt, uint64_t iova, uint64_t size, uint64_t page,
                    const uint64_t *bits);
/* Does the HWPT show these pages there, which are mapped at `p` in this process? */
bool mock_shows(struct vb_model *m, uint32_t hwpt, uint64_t iova, uint64_t size, const void *p);
/* A dma-buf as of vfio-pci: fd. */
int mock_dma_buf(struct vb_model *m, uint32_t size);
void mock_revoke(struct vb_model *m, int dma_buf);
/* An access of the kernel's own to an IOAS, as a software device has: can it read there? */
bool mock_access_reads(struct vb_model *m, uint32_t ioas, uint64_t iova);

#endif
