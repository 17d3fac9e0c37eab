/* A client shows the secret of a token: its session and that of the token's owner get the two ends of a socket pair, and
 * speak with each other from then on. The daemon only finds the owner, by the session's number in the first four bytes of
 * the secret; whether the rest is right is for the owner's session to say. Nothing is kept here, so tokens and pins do not
 * mind a restart. */
#include <errno.h>
#include <limits.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "broker/record.h"
#include "proto/cleanup.h"

/* A wrong secret costs another client's session some work: so many messages of the asker's share of a second. */
#define COST 32

/* Offers must not fill an owner's socket, or answers to its own calls would find no room (and it would be killed for not
 * reading them): vb_answer(). A session that is pinning much does not read for some seconds. */
#define UNREAD_MAX 16384

static int unread(const struct vb_record *owner) {
    int bytes = 0;

    return ioctl(owner->link.fd, SIOCOUTQ, &bytes) < 0 ? INT_MAX
                                                       : bytes; /* net/unix/af_unix.c: what is not received yet */
}

static int offer(struct vb_record *owner, struct vb_record *r, const ProtobufCBinaryData *secret, int fd) {
    VfioBrokerInternal__ToSession m = VFIO_BROKER_INTERNAL__TO_SESSION__INIT;
    VfioBrokerInternal__PinLink link = VFIO_BROKER_INTERNAL__PIN_LINK__INIT;

    link.secret = *secret;
    link.session = r->id;
    link.client_pid = (uint32_t)r->peer.pid;
    link.client_uid = r->peer.uid;
    m.body_case = VFIO_BROKER_INTERNAL__TO_SESSION__BODY_PIN_LINK;
    m.pin_link = &link;
    return vb_link_send(&owner->link, &m, &fd, 1);
}

static int redeem(struct vb_record *r, const ProtobufCBinaryData *secret, int *ret_fd, struct vb_error *e) {
    const uint8_t *p = secret->data;
    struct vb_record *owner = NULL;
    int pair[2];

    if (secret->len == VB_TOKEN_SIZE)
        owner = vb_record_by_id(r->broker, (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]);
    if (!owner || owner->state != VB_RECORD_SERVING)
        return vb_refuse(e, VB_DENIED, "no such token: it was revoked, or its owner is gone");
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return vb_fail(e, -errno, "cannot join two sessions");
    VB_FD int owners = pair[0];
    VB_FD int pinners = pair[1];
    int n = unread(owner) > UNREAD_MAX ? -EAGAIN : offer(owner, r, secret, owners);
    if (n < 0)
        return vb_refuse(e, VB_UNAVAILABLE, "the session of the token's owner does not answer; try again");
    *ret_fd = vb_steal_fd(&pinners);
    return 0;
}

void vb_call_redeem(struct vb_record *r, const VfioBrokerInternal__Call *call, struct vb_packet *p) {
    VfioBrokerInternal__Answer a = VFIO_BROKER_INTERNAL__ANSWER__INIT;
    VfioBrokerInternal__Ok ok = VFIO_BROKER_INTERNAL__OK__INIT;
    struct vb_error e = {.code = 0};
    VB_FD int fd = -1;

    (void)p;
    vb_link_charge(&r->link, COST);
    if (redeem(r, &call->token_redeem->secret, &fd, &e) != 0) {
        vb_answer_error(r, call->serial, &e);
        return;
    }
    a.serial = call->serial;
    a.body_case = VFIO_BROKER_INTERNAL__ANSWER__BODY_OK;
    a.ok = &ok;
    vb_answer(r, &a, &fd, 1);
}
