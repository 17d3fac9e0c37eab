/* What model and backends both speak of: plain numbers only. Lowest header of core. */
#ifndef VB_CORE_BACKEND_TYPES_H
#define VB_CORE_BACKEND_TYPES_H

#include <stdbool.h>
#include <stdint.h>

#include "core/range.h"
#include "proto/limits.h"

/* A backend's own number for a memory, space or device; the model stores it and passes it back, nothing else. */
typedef uint64_t vb_handle;

enum vb_prot { VB_PROT_READ = 1, VB_PROT_WRITE = 2 };

/* A range of a device or its IOMMU that must not be mapped: /sys/kernel/iommu_groups/N/reserved_regions. */
struct vb_reserved {
    struct vb_range range;
    const char *kind; /* "msi", "direct", "reserved": static strings */
};

#endif
