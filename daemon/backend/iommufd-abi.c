/* Compares iommufd-abi.h with the system's headers where those are new enough; has no code. */
#include "backend/iommufd-abi.h"

#include <stddef.h>

#if __has_include(<linux/iommufd.h>)

#define SAME_FIELD(ours, theirs, field)                                                                                \
    _Static_assert(offsetof(struct ours, field) == offsetof(struct theirs, field), #ours "." #field)
#define SAME_SIZE(ours, theirs)   _Static_assert(sizeof(struct ours) == sizeof(struct theirs), #ours)
#define SAME_NUMBER(ours, theirs) _Static_assert((ours) == (theirs), #ours)

SAME_NUMBER(VB_IOMMU_MAP_FIXED_IOVA, IOMMU_IOAS_MAP_FIXED_IOVA);
SAME_NUMBER(VB_IOMMU_MAP_WRITEABLE, IOMMU_IOAS_MAP_WRITEABLE);
SAME_NUMBER(VB_IOMMU_MAP_READABLE, IOMMU_IOAS_MAP_READABLE);
SAME_SIZE(vb_iommu_destroy, iommu_destroy);
SAME_SIZE(vb_iommu_ioas_alloc, iommu_ioas_alloc);
SAME_SIZE(vb_iommu_iova_range, iommu_iova_range);
SAME_SIZE(vb_iommu_ioas_allow_iovas, iommu_ioas_allow_iovas);
SAME_FIELD(vb_iommu_ioas_allow_iovas, iommu_ioas_allow_iovas, allowed_iovas);
SAME_SIZE(vb_iommu_ioas_iova_ranges, iommu_ioas_iova_ranges);
SAME_FIELD(vb_iommu_ioas_iova_ranges, iommu_ioas_iova_ranges, allowed_iovas);
SAME_SIZE(vb_iommu_ioas_map, iommu_ioas_map);
SAME_FIELD(vb_iommu_ioas_map, iommu_ioas_map, user_va);
SAME_FIELD(vb_iommu_ioas_map, iommu_ioas_map, iova);
SAME_SIZE(vb_iommu_ioas_copy, iommu_ioas_copy);
SAME_FIELD(vb_iommu_ioas_copy, iommu_ioas_copy, src_ioas_id);
SAME_FIELD(vb_iommu_ioas_copy, iommu_ioas_copy, src_iova);
SAME_SIZE(vb_iommu_ioas_unmap, iommu_ioas_unmap);
SAME_FIELD(vb_iommu_ioas_unmap, iommu_ioas_unmap, length);
SAME_SIZE(vb_iommu_option, iommu_option);
SAME_FIELD(vb_iommu_option, iommu_option, val64);
#ifdef IOMMU_HWPT_ALLOC
SAME_FIELD(vb_iommu_hwpt_alloc, iommu_hwpt_alloc, out_hwpt_id);
SAME_FIELD(vb_iommu_hwpt_alloc, iommu_hwpt_alloc, data_uptr);
#endif
#ifdef IOMMU_HWPT_GET_DIRTY_BITMAP
SAME_NUMBER(VB_IOMMU_HWPT_NEST_PARENT, IOMMU_HWPT_ALLOC_NEST_PARENT);
SAME_NUMBER(VB_IOMMU_HWPT_DIRTY_TRACKING, IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
SAME_NUMBER(VB_IOMMU_DIRTY_ENABLE, IOMMU_HWPT_DIRTY_TRACKING_ENABLE);
SAME_NUMBER(VB_IOMMU_DIRTY_NO_CLEAR, IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR);
SAME_NUMBER(VB_IOMMU_HW_TYPE_INTEL_VTD, IOMMU_HW_INFO_TYPE_INTEL_VTD);
SAME_NUMBER(VB_IOMMU_HW_CAP_DIRTY, IOMMU_HW_CAP_DIRTY_TRACKING);
SAME_SIZE(vb_iommu_set_dirty_tracking, iommu_hwpt_set_dirty_tracking);
SAME_SIZE(vb_iommu_get_dirty_bitmap, iommu_hwpt_get_dirty_bitmap);
SAME_FIELD(vb_iommu_get_dirty_bitmap, iommu_hwpt_get_dirty_bitmap, data);
#endif
#ifdef IOMMU_GET_HW_INFO
SAME_FIELD(vb_iommu_hw_info, iommu_hw_info, dev_id);
SAME_FIELD(vb_iommu_hw_info, iommu_hw_info, data_uptr);
#endif
#ifdef IOMMU_IOAS_MAP_FILE
SAME_SIZE(vb_iommu_ioas_map_file, iommu_ioas_map_file);
SAME_FIELD(vb_iommu_ioas_map_file, iommu_ioas_map_file, start);
SAME_FIELD(vb_iommu_ioas_map_file, iommu_ioas_map_file, iova);
#endif
#endif

#ifdef VFIO_DEVICE_ATTACH_PASID /* a name that only headers since 6.15 have */
_Static_assert(offsetof(struct vb_vfio_bind, out_devid) == offsetof(struct vfio_device_bind_iommufd, out_devid),
               "bind");
_Static_assert(offsetof(struct vb_vfio_attach, pt_id) == offsetof(struct vfio_device_attach_iommufd_pt, pt_id),
               "attach");
#endif
