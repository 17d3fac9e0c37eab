/* What the parts of tests/bench/attach share.
 *
 * A space and its devices made by hand: the ioctls that a session makes, made by root itself. What attaching through the broker
 * is compared with; one way for each kind of backend.
 *
 * The harder comparison: root has CAP_IPC_LOCK, so the kernel charges nobody for these pins. Everything ends the program when it
 * fails. */
#ifndef VB_BENCH_ATTACH_H
#define VB_BENCH_ATTACH_H

#include <stddef.h>
#include <stdint.h>

#include "client/vfio-broker.h"

struct hand_map {
    uint64_t iova, size, offset; /* offset in the memfd */
};

struct hand_ops {
    /* Both devices are opened and bound, neither is attached. memfd of `size` bytes: borrowed. container: type1's, as
     * /dev/vfio/vfio; iommufd takes no notice of it. */
    void *(*open)(int memfd, uint64_t size, const char *const devices[2], const char *container);
    /* The space has these mappings from now on, in place of others; nothing is attached. maps: borrowed. */
    void (*fill)(void *hand, const struct hand_map *maps, size_t n);
    void (*attach)(void *hand, unsigned device);
    void (*detach)(void *hand, unsigned device);
    /* One mapping of the whole memfd at `iova` by so many threads (1 or 2), each of an equal part; a device is attached. NULL:
     * the kernel pins for one at a time (vfio_iommu_type1.c holds iommu->lock). */
    void (*pin)(void *hand, uint64_t iova, unsigned threads);
    void (*unpin)(void *hand, uint64_t iova);
    void (*close)(void *hand);
};

extern const struct hand_ops hand_iommufd, hand_type1;

/* A client of a broker: the same through that. */
struct end {
    struct vfb_client *client;
    uint32_t memory, space;
    struct vfb_device device[2];
};

/* socket: NULL for $VFIO_BROKER_SOCKET. The memfd is registered, the space empty. */
struct end end_open(const char *socket, int memfd);
void end_claim(struct end *e, unsigned i, const char *address); /* and binds it */
void end_release(struct end *e, unsigned i);
void end_map(struct end *e, const struct hand_map *maps, size_t n);

#endif
