/* The life of one client. See ledger-run.h. */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "ledger-run.h"

const struct operation operations[] = {
    {"register", 24, do_register, 0},
    {"unregister", 8, do_unregister, 0},
    {"space create", 12, do_space_create, 0},
    {"space destroy", 2, do_space_destroy, 0},
    {"map one", 100, do_map, 0},
    {"map batch", 36, do_map_batch, 0},
    {"unmap one", 36, do_unmap, 0},
    {"unmap batch", 16, do_unmap_batch, 0},
    {"unmap all", 2, do_unmap_all, 0},
    {"claim", 14, do_claim, 0},
    {"bind", 14, do_bind, 0},
    {"attach", 34, do_attach, 'd'},
    {"detach", 28, do_detach, 'd'},
    {"release", 2, do_release, 0},
    {"punch", 6, do_punch, 'p'},
    {"truncate", 4, do_truncate, 't'},
    {"populate", 44, do_populate, 0},
    {"limit", 12, do_limit, 0},
    {"mlock of its own", 8, do_own_lock, 0},
    {"sibling maps", 12, do_sibling, 0},
    {"pin", 24, do_pin, 0},
    {"unpin", 10, do_unpin, 0},
};
const unsigned n_operations = sizeof operations / sizeof operations[0];

/* ---- a connection ---- */

static void join(struct user *u) {
    int r = vfb_client_new(&u->c);

    u->doing = "connect";
    u->detail[0] = 0;
    if (r == 0)
        r = vfb_connect(u->c, NULL, "ledger");
    if (r != 0)
        mismatch(u, "%s: %s", vfb_code_name(r), u->c ? vfb_error(u->c)->text : "");
    u->pins = strcmp(vfb_info(u->c)->backend, "emulated") != 0;
    u->o.n_max = vfb_info(u->c)->mappings_max;
    if (u->o.n_max > O_MAPPINGS)
        mismatch(u, "policy grants %" PRIu64 " mappings, the oracle has room for %d", u->o.n_max, O_MAPPINGS);
    memset(u->memory_ids, 0xff, sizeof u->memory_ids);
    memset(u->space_ids, 0xff, sizeof u->space_ids);
    memset(u->device_ids, 0xff, sizeof u->device_ids);
    host_find_session(u);
    compare(u);
    sibling_join(u);
}

/* Everything back by request: nothing may be left. */
static void give_back(struct user *u) {
    u->doing = "give back";
    for (unsigned d = 0; d < O_DEVICES; d++)
        if (u->o.devices[d].state != O_FREE) {
            close(u->device_fds[d]);
            u->device_fds[d] = -1;
            judge(u, vfb_device_release(u->c, u->device_ids[d]), 0);
            if (u->o.devices[d].state == O_ATTACHED)
                oracle_attached(&u->o, d, u->o.devices[d].space, -1);
            u->o.devices[d].state = O_FREE;
        }
    equal(u, "the oracle's VmPin", u->o.pinned, 0);
    compare(u);
    for (unsigned s = 0; s < O_SPACES; s++)
        if (u->o.spaces[s].live) {
            judge(u, vfb_space_destroy(u->c, u->space_ids[s]), 0);
            unmapped(u, s, 0, UINT64_MAX);
            u->o.spaces[s].live = false;
            u->accesses[s] = 0;
        }
    equal(u, "the oracle's sum", u->o.paid + u->o.mapped + u->o.n_mappings, 0);
    for (unsigned m = 0; m < O_MEMORIES; m++)
        for (; u->o.memories[m].registered; u->o.memories[m].registered--)
            judge(u, vfb_memory_unregister(u->c, u->memory_ids[m]), 0);
    compare(u);
}

/* Files stay as they are; everything else goes with the connection. */
static void leave(struct user *u) {
    u->doing = "leave";
    for (unsigned d = 0; d < O_DEVICES; d++) {
        if (u->device_fds[d] >= 0)
            close(u->device_fds[d]);
        u->device_fds[d] = -1;
        if (u->o.devices[d].state == O_ATTACHED)
            oracle_attached(&u->o, d, u->o.devices[d].space, -1);
        u->o.devices[d].state = O_FREE;
    }
    for (unsigned s = 0; s < O_SPACES; s++) {
        unmapped(u, s, 0, UINT64_MAX);
        u->o.spaces[s].live = false;
        u->accesses[s] = 0;
    }
    for (unsigned m = 0; m < O_MEMORIES; m++)
        u->o.memories[m].registered = 0;
    vfb_client_free(u->sibling);
    vfb_client_free(u->c);
    u->sibling = u->c = NULL;
    u->o.sibling = u->o.lease = 0;
    close(u->status);
    close(u->limits);
    host_session_gone(u);
}

/* ---- rounds ---- */

static void step(struct user *u, unsigned total) {
    enum outcome out = SKIPPED;
    const struct operation *op;
    struct tally *t;
    uint64_t at;

    while (out == SKIPPED) {
        at = below(u, total);
        for (op = operations; at >= op->weight; op++)
            at -= op->weight;
        u->doing = op->name;
        out = op->run(u);
    }
    t = &u->board->tally[u->number][op - operations];
    if (out == DONE)
        t->done++;
    else
        t->refused++;
    compare(u);
    u->operation++;
}

/* Whose is which device in this round? All clients must agree. */
static void deal(struct user *u) {
    for (unsigned d = 0; d < u->options->n_devices; d++) {
        uint64_t x = (u->options->seed + 1) * 0x9e3779b97f4a7c15ull + u->round * 7 + d * 1000003;

        x ^= x >> 31;
        x *= 0xbf58476d1ce4e5b9ull;
        x ^= x >> 29;
        u->mine[d] = x % u->options->clients == u->number;
    }
}

void client_main(struct user *u) {
    const struct options *options = u->options;
    unsigned total = 0;
    bool back;

    for (unsigned i = 0; i < n_operations; i++)
        total += operations[i].weight;
    u->random = (options->seed + 1) * 0x9e3779b97f4a7c15ull ^ (u->number + 1) * 0xd1342543de82ef95ull;
    for (unsigned d = 0; d < O_DEVICES; d++)
        u->device_fds[d] = -1;
    u->sibling_fd = -1;
    u->doing = "set up";
    host_setup(u);
    pinner_start(u);
    for (u->round = 0; u->round < options->rounds; u->round++) {
        const uint64_t end = options->operations / options->clients * (u->round + 1) / options->rounds;
        const bool last = u->round + 1 == options->rounds;

        pthread_barrier_wait(&u->board->barrier); /* all devices are given back */
        deal(u);
        if (!u->c) {
            host_low_limit(u); /* else the first lease is all that it ever needs */
            join(u);
        }
        while (u->operation < end)
            step(u, total);
        back = last || !chance(u, 3);
        if (back)
            give_back(u);
        if (last || !back || chance(u, 2))
            leave(u);
    }
    pinner_stop(u);
    pthread_barrier_wait(&u->board->barrier);
}
