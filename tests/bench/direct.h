/* The ioctls that a session makes, made by root itself: what brokered mapping of an attached device is compared with. */
#ifndef VB_BENCH_DIRECT_H
#define VB_BENCH_DIRECT_H

#include <stdbool.h>
#include <stdint.h>

struct direct;

/* Opens and binds the vfio-pci device at this address, attaches it to an IOAS, and maps the first `size` bytes of a memfd in
 * a second IOAS (the pool). memfd is borrowed until direct_close(). It has to be the one that is mapped through the broker:
 * what the kernel does depends on how its pages lie in physical memory, threefold. Ends the program when something
 * fails. */
struct direct *direct_open(const char *address, int memfd, uint64_t size);
/* One mapping of the first `size` bytes and its unmapping: by IOAS_COPY from the pool, or by IOAS_MAP_FILE. */
void direct_pair(struct direct *d, bool copy, uint64_t iova, uint64_t size);
void direct_close(struct direct *d);

/* For other things made by hand. Each ends the program when it fails. */
int direct_cdev(const char *address); /* opens the cdev of a device that is bound to vfio-pci */
void direct_call(int fd, unsigned long request, void *arg, const char *what);

#endif
