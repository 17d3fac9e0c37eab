/* A few threads that share out one batch of work at a time: pinning in the kernel is most of what a large map or attach takes,
 * and runs in parallel for different pieces of memory (see iommufd-pool.c).
 *
 * The model and the backends are of one thread all the same: vb_workers_run() returns when everything is done, and what the
 * items do meanwhile is system calls, on plain numbers. Made before the sandbox, whose filter the threads get too (TSYNC). */
#ifndef VB_BACKEND_WORKERS_H
#define VB_BACKEND_WORKERS_H

#include <stddef.h>

struct vb_workers;

/* n threads besides the caller, with all signals blocked. Fewer, or none, if the system gives no more: that only takes
 * longer. NULL: no memory; fine everywhere below. */
struct vb_workers *vb_workers_new(unsigned n);
/* Ends the threads. NULL is fine. Returns NULL. */
struct vb_workers *vb_workers_free(struct vb_workers *w);
/* Besides the caller; NULL: 0. */
unsigned vb_workers_count(const struct vb_workers *w);
/* fn(arg, i) for each i below n_items, in any order and at the same time; the caller works too. NULL: in order, one after
 * another. One caller at a time. */
void vb_workers_run(struct vb_workers *w, size_t n_items, void (*fn)(void *arg, size_t i), void *arg);

#endif
