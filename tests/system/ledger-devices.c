/* Operations on devices. See ledger-run.h. */
#include <inttypes.h>
#include <time.h>
#include <unistd.h>

#include "ledger-run.h"

/* One of ours in this round, most often in the state where the call does something. -1: there is none. */
static int pick_device(struct user *u, enum oracle_state state) {
    const unsigned start = (unsigned)below(u, O_DEVICES);
    int found = -1;

    for (unsigned i = 0; i < O_DEVICES; i++) {
        const unsigned d = (start + i) % O_DEVICES;

        if (!u->mine[d])
            continue;
        if (u->o.devices[d].state == state)
            return (int)d;
        found = (int)d;
    }
    return chance(u, 6) ? found : -1;
}

/* A device is free some time after its release, when the kernel has closed it. */
static int claim(struct user *u, unsigned device, struct vfb_device *ret) {
    const bool again = u->o.devices[device].state == O_FREE;
    struct timespec pause = {.tv_nsec = 20000000};
    int r = VFB_BUSY;

    for (int i = 0; i < 1000; i++) {
        r = vfb_device_claim(u->c, u->options->devices[device], ret);
        if (r != VFB_BUSY || !again)
            break;
        nanosleep(&pause, NULL);
    }
    return r;
}

enum outcome do_claim(struct user *u) {
    const int d = pick_device(u, O_FREE);
    struct vfb_device got;

    if (d < 0)
        return SKIPPED;
    doing(u, "claim %s", u->options->devices[d]);
    if (judge(u, claim(u, (unsigned)d, &got), u->o.devices[d].state == O_FREE ? 0 : 1u << VFB_BUSY) == REFUSED)
        return REFUSED;
    u->o.devices[d].state = O_CLAIMED;
    u->device_ids[d] = got.id;
    u->device_fds[d] = got.fd;
    return DONE;
}

enum outcome do_bind(struct user *u) {
    const int d = pick_device(u, O_CLAIMED);
    enum outcome out;
    unsigned why;

    if (d < 0)
        return SKIPPED;
    why = u->o.devices[d].state == O_CLAIMED ? 0 : 1u << (u->o.devices[d].state == O_FREE ? VFB_NOT_FOUND : VFB_STATE);
    doing(u, "bind %s", u->options->devices[d]);
    out = judge(u, vfb_device_bind(u->c, u->device_ids[d]), why);
    if (out == DONE)
        u->o.devices[d].state = O_BOUND;
    return out;
}

enum outcome do_attach(struct user *u) {
    const int d = pick_device(u, O_BOUND);
    uint32_t space = (uint32_t)below(u, O_SPACES);
    enum outcome out;

    if (d < 0)
        return SKIPPED;
    for (int tries = 0; tries < 4 && oracle_attach(&u->o, (uint32_t)d, space) && !chance(u, 12); tries++)
        space = (uint32_t)below(u, O_SPACES);
    doing(u, "attach %s to space %" PRIu32, u->options->devices[d], space);
    out = judge(u, vfb_device_attach(u->c, u->device_ids[d], u->space_ids[space]),
                oracle_attach(&u->o, (uint32_t)d, space));
    if (out == DONE)
        oracle_attached(&u->o, (uint32_t)d, space, 1);
    return out;
}

enum outcome do_detach(struct user *u) {
    const int d = pick_device(u, O_ATTACHED);
    enum outcome out;
    unsigned why = 0;

    if (d < 0)
        return SKIPPED;
    if (u->o.devices[d].state != O_ATTACHED)
        why = 1u << (u->o.devices[d].state == O_FREE ? VFB_NOT_FOUND : VFB_STATE);
    doing(u, "detach %s", u->options->devices[d]);
    out = judge(u, vfb_device_detach(u->c, u->device_ids[d]), why);
    if (out == DONE)
        oracle_attached(&u->o, (uint32_t)d, u->o.devices[d].space, -1);
    return out;
}

enum outcome do_release(struct user *u) {
    const int d = pick_device(u, (enum oracle_state)below(u, 4));

    if (d < 0)
        return SKIPPED;
    doing(u, "release %s", u->options->devices[d]);
    if (u->device_fds[d] >= 0)
        close(u->device_fds[d]);
    u->device_fds[d] = -1;
    if (judge(u, vfb_device_release(u->c, u->device_ids[d]),
              u->o.devices[d].state == O_FREE ? 1u << VFB_NOT_FOUND : 0) == REFUSED)
        return REFUSED;
    if (u->o.devices[d].state == O_ATTACHED)
        oracle_attached(&u->o, (uint32_t)d, u->o.devices[d].space, -1);
    u->o.devices[d].state = O_FREE;
    return DONE;
}
