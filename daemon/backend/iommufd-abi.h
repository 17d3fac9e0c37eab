/* The kernel ABI of iommufd and of VFIO device cdevs, as far as this backend uses it.
 *
 * Debian bookworm's linux-libc-dev (6.1) has neither. Transcribed from include/uapi/linux/iommufd.h and vfio.h of Linux
 * 7.2; the layouts are fixed since 6.2 and 6.6 (dirty tracking: 6.7, MAP_FILE: 6.13). Structures are as long as the oldest kernel knows them;
 * newer kernels take a shorter one as filled up with zeros. iommufd-abi.c compares with the system's headers. OPTION is for
 * the daemon, which may; a session cannot. */
#ifndef VB_BACKEND_IOMMUFD_ABI_H
#define VB_BACKEND_IOMMUFD_ABI_H

#include <linux/ioctl.h>
#include <linux/types.h>
#include <linux/vfio.h>
#if __has_include(<linux/iommufd.h>)
#include <linux/iommufd.h>
#endif

/* Requests have the kernel's names. */
#ifndef IOMMU_DESTROY
#define IOMMU_DESTROY _IO(';', 0x80)
#endif
#ifndef IOMMU_IOAS_ALLOC
#define IOMMU_IOAS_ALLOC _IO(';', 0x81)
#endif
#ifndef IOMMU_IOAS_ALLOW_IOVAS
#define IOMMU_IOAS_ALLOW_IOVAS _IO(';', 0x82)
#endif
#ifndef IOMMU_IOAS_COPY
#define IOMMU_IOAS_COPY _IO(';', 0x83)
#endif
#ifndef IOMMU_IOAS_IOVA_RANGES
#define IOMMU_IOAS_IOVA_RANGES _IO(';', 0x84)
#endif
#ifndef IOMMU_IOAS_MAP
#define IOMMU_IOAS_MAP _IO(';', 0x85)
#endif
#ifndef IOMMU_IOAS_UNMAP
#define IOMMU_IOAS_UNMAP _IO(';', 0x86)
#endif
#ifndef IOMMU_OPTION
#define IOMMU_OPTION _IO(';', 0x87)
#endif
#ifndef IOMMU_HWPT_ALLOC
#define IOMMU_HWPT_ALLOC _IO(';', 0x89)
#endif
#ifndef IOMMU_GET_HW_INFO
#define IOMMU_GET_HW_INFO _IO(';', 0x8a)
#endif
#ifndef IOMMU_HWPT_SET_DIRTY_TRACKING
#define IOMMU_HWPT_SET_DIRTY_TRACKING _IO(';', 0x8b)
#endif
#ifndef IOMMU_HWPT_GET_DIRTY_BITMAP
#define IOMMU_HWPT_GET_DIRTY_BITMAP _IO(';', 0x8c)
#endif
#ifndef IOMMU_IOAS_MAP_FILE
#define IOMMU_IOAS_MAP_FILE _IO(';', 0x8f)
#endif
#ifndef VFIO_DEVICE_BIND_IOMMUFD
#define VFIO_DEVICE_BIND_IOMMUFD _IO(VFIO_TYPE, VFIO_BASE + 18)
#endif
#ifndef VFIO_DEVICE_ATTACH_IOMMUFD_PT
#define VFIO_DEVICE_ATTACH_IOMMUFD_PT _IO(VFIO_TYPE, VFIO_BASE + 19)
#endif
#ifndef VFIO_DEVICE_DETACH_IOMMUFD_PT
#define VFIO_DEVICE_DETACH_IOMMUFD_PT _IO(VFIO_TYPE, VFIO_BASE + 20)
#endif

/* Flags of MAP, MAP_FILE and COPY. */
#define VB_IOMMU_MAP_FIXED_IOVA (1u << 0)
#define VB_IOMMU_MAP_WRITEABLE  (1u << 1)
#define VB_IOMMU_MAP_READABLE   (1u << 2)

/* Flags of HWPT_ALLOC. */
#define VB_IOMMU_HWPT_NEST_PARENT    (1u << 0)
#define VB_IOMMU_HWPT_DIRTY_TRACKING (1u << 1)

/* Of SET_DIRTY_TRACKING, of GET_DIRTY_BITMAP. */
#define VB_IOMMU_DIRTY_ENABLE   1u
#define VB_IOMMU_DIRTY_NO_CLEAR 1u

/* Answers of GET_HW_INFO. */
#define VB_IOMMU_HW_TYPE_INTEL_VTD 1u
#define VB_IOMMU_HW_CAP_DIRTY      ((__u64)1 << 0)

#define VB_IOMMU_OPTION_RLIMIT_MODE 0u
#define VB_IOMMU_OPTION_OP_SET      0u
#define VB_IOMMU_OPTION_OP_GET      1u

struct vb_iommu_destroy {
    __u32 size;
    __u32 id;
};

struct vb_iommu_ioas_alloc {
    __u32 size;
    __u32 flags;
    __u32 out_ioas_id;
};

struct vb_iommu_iova_range {
    __aligned_u64 start;
    __aligned_u64 last; /* inclusive */
};

struct vb_iommu_ioas_allow_iovas {
    __u32 size;
    __u32 ioas_id;
    __u32 num_iovas;
    __u32 reserved;
    __aligned_u64 allowed_iovas;
};

struct vb_iommu_ioas_iova_ranges {
    __u32 size;
    __u32 ioas_id;
    __u32 num_iovas; /* in: room; out: how many there are */
    __u32 reserved;
    __aligned_u64 allowed_iovas;
    __aligned_u64 out_iova_alignment;
};

struct vb_iommu_ioas_map {
    __u32 size;
    __u32 flags;
    __u32 ioas_id;
    __u32 reserved;
    __aligned_u64 user_va;
    __aligned_u64 length;
    __aligned_u64 iova;
};

struct vb_iommu_ioas_map_file {
    __u32 size;
    __u32 flags;
    __u32 ioas_id;
    __s32 fd;
    __aligned_u64 start; /* offset in the file */
    __aligned_u64 length;
    __aligned_u64 iova;
};

struct vb_iommu_ioas_copy {
    __u32 size;
    __u32 flags;
    __u32 dst_ioas_id;
    __u32 src_ioas_id;
    __aligned_u64 length;
    __aligned_u64 dst_iova;
    __aligned_u64 src_iova;
};

struct vb_iommu_ioas_unmap {
    __u32 size;
    __u32 ioas_id;
    __aligned_u64 iova;
    __aligned_u64 length; /* out: bytes unmapped; 0 and 2^64-1 in: everything */
};

struct vb_iommu_option {
    __u32 size;
    __u32 option_id;
    __u16 op;
    __u16 reserved;
    __u32 object_id;
    __aligned_u64 val64;
};

struct vb_iommu_hwpt_alloc {
    __u32 size;
    __u32 flags;
    __u32 dev_id;
    __u32 pt_id;
    __u32 out_hwpt_id;
    __u32 reserved;
    __u32 data_type;
    __u32 data_len;
    __aligned_u64 data_uptr;
};

struct vb_iommu_set_dirty_tracking {
    __u32 size;
    __u32 flags;
    __u32 hwpt_id;
    __u32 reserved;
};

struct vb_iommu_get_dirty_bitmap {
    __u32 size;
    __u32 hwpt_id;
    __u32 flags;
    __u32 reserved;
    __aligned_u64 iova;
    __aligned_u64 length;
    __aligned_u64 page_size;
    __aligned_u64 data; /* ORed into: iova_bitmap.c, iova_bitmap_set */
};

struct vb_iommu_hw_info {
    __u32 size;
    __u32 flags;
    __u32 dev_id;
    __u32 data_len;
    __aligned_u64 data_uptr;
    __u32 out_data_type;
    __u32 reserved;
    __aligned_u64 out_capabilities;
};

/* ---- VFIO device cdevs (6.6) ---- */
struct vb_vfio_bind {
    __u32 argsz;
    __u32 flags;
    __s32 iommufd;
    __u32 out_devid;
};

struct vb_vfio_attach {
    __u32 argsz;
    __u32 flags;
    __u32 pt_id; /* in: IOAS or HWPT; out: the HWPT */
};

struct vb_vfio_detach {
    __u32 argsz;
    __u32 flags;
};

#endif
