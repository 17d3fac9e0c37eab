/* The iommufd backend: real DMA. One context for each session, made by the daemon with OPTION_RLIMIT_MODE=1, so that the
 * kernel charges what is pinned to the session's own locked_vm and holds it against its RLIMIT_MEMLOCK.
 *
 *   pool     one IOAS that no device can attach. A memory has a slot of 1<<55 bytes from 1<<63 on and is mapped there once.
 *   domain   one IOAS and its HWPTs, one for each kind of IOMMU under it (iommufd-hwpt.c). Each mapping is an IOAS_COPY of a part of
 *            the pool, so a page is pinned once whatever the client does with its file or its mappings (DESIGN 1.3),
 *            in however many domains it is.
 *   device   a VFIO cdev fd of ours; the client has a dup and may attach, detach and re-attach it to any IOAS behind our
 *            back (drivers/vfio/device_cdev.c asks nobody), which gains it nothing: an IOAS holds only what is paid for.
 *            A software device (mdev) is attached to the IOAS itself, and can be to the pool.
 *
 * Kernel facts were read in Linux 7.3 and are named where they are used. */
#ifndef VB_BACKEND_IOMMUFD_H
#define VB_BACKEND_IOMMUFD_H

#include "core/backend.h"

struct vb_workers;

/* `iommufd` is consumed in every case. no_map_file: map by address, as before Linux 6.13, even if MAP_FILE is there. workers:
 * pin large mappings in parallel; borrowed, may be NULL. */
int vb_iommufd_new(int iommufd, bool no_map_file, struct vb_workers *workers, struct vb_backend **ret,
                   struct vb_error *e);

#endif
