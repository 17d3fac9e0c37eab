/* Looking into the broker: what vfio-brokerctl and tests show. NOT STABLE: exported with the symbol version
 * VFIO_BROKER_PRIVATE, for programs built from this tree; it changes with the wire, without notice. */
#ifndef VB_INSPECT_H
#define VB_INSPECT_H

#include <stdint.h>

#include "client/vfio-broker.h"
#include "proto/vfio-broker.pb-c.h"

/* One page of rows. session: 0 for this one; after: 0, or `next` of the page before. *ret_reply belongs to the client
 * until its next vfb_inspect() or its end (so do not call it from a callback); strings in it come from the broker as they are, control characters and all.
 * Another's session without VFB_FEATURE_ADMIN: VFB_DENIED. */
int vfb_inspect(struct vfb_client *c, VfioBroker__InspectKind kind, uint32_t session, uint64_t after,
                const VfioBroker__InspectReply **ret_reply);

#endif
