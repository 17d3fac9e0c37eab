/* Which mappings a request takes out: shared by unmapping and discarding. */
#ifndef VB_CORE_SELECT_H
#define VB_CORE_SELECT_H

#include "core/model.h"

struct vb_selection {
    struct vb_range *ranges; /* each from the first byte to the last of whole mappings, which are marked `leaving` */
    size_t n;
};

/* Each entry covers one or more whole mappings, none of which is pinned or being discarded, and no other entry covers. On
 * failure nothing is marked. */
int vb_select(struct vb_model *m, struct vb_space *s, const struct vb_unmap_entry *entries, size_t n,
              struct vb_selection *ret, struct vb_error *e);
/* Takes the marks away and frees; mappings that are gone are none's concern. */
void vb_selection_end(struct vb_space *s, struct vb_selection *sel);
/* 0, or VB_BUSY. */
int vb_select_unpinned(struct vb_space *s, struct vb_range r, struct vb_error *e);
/* What the backend has, or may have, unmapped of sel->ranges up to `done` is mapped again, and what cannot be is forgotten, which
 * `e` says. Ends the selection. Returns r. */
int vb_unmap_failed(struct vb_model *m, struct vb_space *s, struct vb_selection *sel, size_t done, int r,
                    struct vb_error *e);
/* The model forgets a mapping that no domain has any more. */
void vb_unmap_forget(struct vb_model *m, struct vb_space *s, struct vb_mapping *mapping);

#endif
