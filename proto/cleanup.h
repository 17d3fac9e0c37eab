/* Cleanup attributes: an owned fd or allocation is released on every path out of a block. Layer 0, header only. */
#ifndef VB_CLEANUP_H
#define VB_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>

static inline void vb_close_p(int *fd) {
    if (*fd >= 0)
        close(*fd);
}

static inline void vb_free_p(void *p) {
    free(*(void **)p);
}

#define VB_FD   __attribute__((cleanup(vb_close_p)))
#define VB_FREE __attribute__((cleanup(vb_free_p)))

/* Gives up ownership: the caller of the function that returns it closes it. */
static inline int vb_steal_fd(int *fd) {
    int r = *fd;
    *fd = -1;
    return r;
}

#define vb_steal_ptr(p)                                                                                                \
    ({                                                                                                                 \
        __typeof__(*(p)) _v = *(p);                                                                                    \
        *(p) = NULL;                                                                                                   \
        _v;                                                                                                            \
    })

#endif
