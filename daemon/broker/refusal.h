/* Telling a client or a session that something is refused. The daemon never reads from a client's socket; this is the one
 * thing that it writes there. */
#ifndef VB_BROKER_REFUSAL_H
#define VB_BROKER_REFUSAL_H

#include "core/error.h"
#include "vfio-broker.pb-c.h"

struct vb_wire_error {
    VfioBroker__Error error;
    VfioBroker__LimitDetail limit;
};
/* The message for an error; refers to `e` and `ret`. */
void vb_wire_error_fill(struct vb_wire_error *ret, const struct vb_error *e);
/* Sends Reply{id 0, error} if the socket takes it at once, and closes the socket. */
void vb_refuse_client(int fd /* consumed */, const struct vb_error *e);

#endif
