/* Why a range cannot be used: which reserved region it runs into, or which edge of what can be addressed. All functions add
 * to `e` (may be NULL) the pairs of ranges that clash, as many as it lists, and say whether there are any. */
#ifndef VB_CORE_CONFLICT_H
#define VB_CORE_CONFLICT_H

#include "core/model.h"

/* With regions that the device reserves. */
bool vb_conflict_reserved(struct vb_error *e, struct vb_range r, const struct vb_device *d);
/* With what `info` says: a gap between the usable ranges ("aperture"), or its page size ("alignment"); `device` may be NULL.
 * False: it fits. */
bool vb_conflict_usable(struct vb_error *e, struct vb_range r, uint64_t offset, const struct vb_space_info *info,
                        const char *device);
/* Of all mappings of the space with the device: its reserved regions, and `info` (may be NULL: not known yet) for those that
 * hit none. Returns how many mappings cannot be reached; *ret_first the first. */
uint64_t vb_conflict_mappings(struct vb_error *e, struct vb_space *s, const struct vb_device *d,
                              const struct vb_space_info *info, struct vb_range *ret_first);
/* Of what the space needs with the device. 0, or VB_RESERVED with the text. */
int vb_conflict_needs(struct vb_error *e, const struct vb_space *s, const struct vb_device *d,
                      const struct vb_space_info *info);

#endif
