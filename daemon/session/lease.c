/* More lease for the ledger: asks the daemon, which reads the client's limits anew, raises our RLIMIT_MEMLOCK, and only
 * then answers. */
#include <errno.h>
#include <stdio.h>

#include "session/session.h"

int vb_lease_want(struct vb_ledger *l, uint64_t need, uint64_t doubled, struct vb_error *e) {
    struct vb_session *s = l->arg;
    VfioBrokerInternal__LeaseWant want = VFIO_BROKER_INTERNAL__LEASE_WANT__INIT;
    VfioBrokerInternal__Call call = VFIO_BROKER_INTERNAL__CALL__INIT;
    VfioBrokerInternal__Answer *answer;

    want.need = want.wish = need;
    want.doubled = doubled;
    call.body_case = VFIO_BROKER_INTERNAL__CALL__BODY_LEASE;
    call.lease = &want;
    int r = vb_control_call(s, &call, &answer, NULL, e);
    if (r != 0)
        return r;
    if (answer->body_case != VFIO_BROKER_INTERNAL__ANSWER__BODY_LEASE)
        return vb_fail(e, -EPROTO, "vfio-brokerd answered something else than a lease");
    l->lease += answer->lease->granted;
    l->doubled_granted = doubled;
    l->limit = answer->lease->limit;
    snprintf(l->whose, sizeof l->whose, "%s", answer->lease->limit_whose);
    return 0;
}
