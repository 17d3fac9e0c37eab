/* The domains of a space: what the kernel has of it. One for all devices that can share one; a further one for a device that
 * leaves mappings out, and where the backend's domains belong to devices (type1) for each container.
 *
 * Invariants: a mapping of the space that is not pending is in every domain that it fits (vb_domain_fits()). It fits all
 * that do not leave out: those decide what may be mapped at all. A domain without devices exists only as an eager
 * backend's first. Which mappings a domain has is not written down: it follows from domain->info, which changes only
 * when a device comes or goes.
 *
 * What is done to all domains of a space looks to the model like one backend call: vb_domains_map() and _unmap(). */
#ifndef VB_CORE_DOMAIN_H
#define VB_CORE_DOMAIN_H

#include <sys/queue.h>

#include "core/backend.h"
#include "core/mapping.h"

struct vb_model;
struct vb_space;
struct vb_device;

struct vb_domain {
    TAILQ_ENTRY(vb_domain) entry;
    vb_handle handle;
    bool leaves_out;           /* what does not fit is left out, instead of being refused */
    struct vb_space_info info; /* what its devices can use, asked again after each attach and detach */
    bool info_stale;           /* that asking failed: asked again before the next use */
    uint32_t devices;          /* attached */
    uint64_t left_out;         /* mappings of the space that are not in it */
    bool tracked;              /* dirty tracking is on in it: it may know of pages that nobody has read yet */
};
TAILQ_HEAD(vb_domain_list, vb_domain);

/* Can the devices of these reach it? */
bool vb_domain_fits(const struct vb_space_info *info, struct vb_range iova, uint64_t offset);
/* How often the mapping is paid: once, or where pins are not shared once for each domain that has it, at least once. */
uint32_t vb_domains_copies(const struct vb_model *m, const struct vb_space *s, struct vb_range iova, uint64_t offset);
/* In all domains that they fit. When it fails, any of them may be in some domain: the caller unmaps all, those behind *ret_done
 * too. restoring: what is there already stays. */
int vb_domains_map(struct vb_model *m, struct vb_space *s, const struct vb_backend_map *maps, size_t n, bool restoring,
                   size_t *ret_done, struct vb_error *e);
/* As a backend's unmap(); left out everywhere is no failure. When it fails, what was unmapped of range *ret_done is not known. */
int vb_domains_unmap(struct vb_model *m, struct vb_space *s, const struct vb_range *ranges, size_t n, size_t *ret_done,
                     struct vb_error *e);
/* The domain goes, or forgets: what it may know to be written counts as written until it is read. */
void vb_domain_dirty_lost(struct vb_space *s, struct vb_domain *dom);
/* The mapping is there, or not any more: each domain's left_out. */
void vb_domains_count(struct vb_space *s, const struct vb_mapping *mapping, bool there);
/* space->info, if that is stale, from the domains'; what is stale of those is asked again. */
int vb_domains_info(struct vb_model *m, struct vb_space *s, struct vb_error *e);
/* A device has come or gone: what its devices can use is to be asked again. */
void vb_domain_changed(struct vb_space *s, struct vb_domain *dom);
/* Puts every mapping of the space that fits into a fresh domain, which has none; progress for `d`. On failure the domain is
 * empty again. */
int vb_domain_replay(struct vb_model *m, struct vb_space *s, struct vb_domain *dom, const struct vb_device *d,
                     uint64_t *ret_mappings, uint64_t *ret_bytes, struct vb_error *e);
/* Opens one for the device, or (VB_NO_HANDLE) a space's first. Not in the space's list yet. */
int vb_domain_open(struct vb_model *m, vb_handle device, struct vb_domain **ret, struct vb_error *e);
/* The open domain with this handle of the backend, and whose it is; or NULL. */
struct vb_domain *vb_domain_find(struct vb_model *m, vb_handle handle, struct vb_space **ret_space);
/* In no list any more. NULL is fine. */
void vb_domain_close(struct vb_model *m, struct vb_domain *dom);

#endif
