/* The other session of a client: the two share an account, and so a limit. See ledger-run.h. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ledger-run.h"

void sibling_join(struct user *u) {
    struct vfb_memory m;
    int r = vfb_client_new(&u->sibling);

    u->doing = "sibling";
    doing(u, "connect");
    if (u->sibling_fd < 0) {
        u->sibling_fd = memfd_create("sibling", MFD_CLOEXEC);
        if (u->sibling_fd < 0 || ftruncate(u->sibling_fd, SIBLING_PAGES * O_PAGE) < 0)
            mismatch(u, "memfd: %s", strerror(errno));
    }
    if (r == 0)
        r = vfb_connect(u->sibling, NULL, "ledger sibling");
    if (r == 0)
        r = vfb_memory_register(u->sibling, u->sibling_fd, VFB_WRITABLE, "sibling", &m);
    if (r == 0)
        r = vfb_space_create(u->sibling, "sibling", &u->sibling_space);
    if (r != 0)
        mismatch(u, "%s: %s", vfb_code_name(r), u->sibling ? vfb_error(u->sibling)->text : "");
    u->sibling_memory = m.id;
}

/* It maps another number of pages, in the place of what it has. */
enum outcome do_sibling(struct user *u) {
    const uint64_t size = chance(u, 3) ? 0 : (1 + below(u, SIBLING_PAGES)) * O_PAGE;
    struct vfb_map e = {.size = size, .memory = u->sibling_memory, .prot = VFB_READ};
    struct vfb_usage usage;
    uint64_t lease;
    bool fits;
    int r;

    doing(u, "the other session maps %" PRIu64 " bytes instead of %" PRIu64, size, u->o.sibling);
    if (vfb_unmap_all(u->sibling, u->sibling_space, NULL) != 0 || vfb_usage(u->sibling, &usage) != 0)
        mismatch(u, "unmap everything, or usage: %s", vfb_error(u->sibling)->text);
    u->o.sibling = 0;
    equal(u, "its used", usage.used, 0);
    if (!size)
        return DONE;
    lease = usage.lease;
    fits = u->o.paid + u->o.own + size <= u->o.limit || size <= lease;
    r = vfb_map(u->sibling, u->sibling_space, &e, 1);
    if (r != (fits ? 0 : VFB_LIMIT))
        mismatch(u,
                 "the answer is %s, though it %s: %" PRIu64 " paid, %" PRIu64 " locked, limit %" PRIu64
                 ", its lease %" PRIu64 ": %s",
                 r ? vfb_code_name(r) : "success", fits ? "fits" : "does not fit", u->o.paid, u->o.own, u->o.limit,
                 lease, r ? vfb_error(u->sibling)->text : "");
    u->o.sibling = fits ? size : 0;
    if (vfb_usage(u->sibling, &usage) != 0)
        mismatch(u, "usage: %s", vfb_error(u->sibling)->text);
    equal(u, "its used", usage.used, u->o.sibling);
    if (usage.lease > lease && usage.lease + u->o.own + u->o.paid > u->o.limit)
        mismatch(u,
                 "its lease has grown to %" PRIu64 ", %" PRIu64 " are locked, %" PRIu64 " paid, the limit is %" PRIu64,
                 usage.lease, u->o.own, u->o.paid, u->o.limit);
    if (!fits)
        u->board->refused[u->number][VFB_LIMIT]++;
    return fits ? DONE : REFUSED;
}
