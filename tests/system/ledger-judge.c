/* Drawing, comparing, and saying what is not as predicted. See ledger-run.h. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "ledger-run.h"

/* xorshift64* (Vigna): the same everywhere. */
uint64_t below(struct user *u, uint64_t n) {
    u->random ^= u->random >> 12;
    u->random ^= u->random << 25;
    u->random ^= u->random >> 27;
    return n ? (u->random * 0x2545f4914f6cdd1dull >> 11) % n : 0;
}

bool chance(struct user *u, unsigned of) {
    return below(u, of) == 0;
}

void doing(struct user *u, const char *fmt, ...) {
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(u->detail, sizeof u->detail, fmt, ap);
    va_end(ap);
}

void mismatch(struct user *u, const char *fmt, ...) {
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    printf("# MISMATCH: seed %" PRIu64 ", client %u, round %" PRIu64 ", operation %" PRIu64 " (%s: %s): %s\n",
           u->options->seed, u->number, u->round, u->operation, u->doing, u->detail, text);
    fflush(stdout);
    _exit(1);
}

/* The names of a set of codes. */
static const char *names(unsigned why, char *buf, size_t size) {
    size_t used = 0;

    buf[0] = 0;
    for (int code = 0; code < CODES && used < size; code++)
        if (why & 1u << code)
            used += (size_t)snprintf(buf + used, size - used, "%s%s", used ? " or " : "", vfb_code_name(code));
    return why ? buf : "success";
}

enum outcome judge_text(struct user *u, int r, unsigned why, const char *text) {
    char buf[256];

    if (r == 0 && why == 0)
        return DONE;
    if (r > 0 && r < CODES && why & 1u << r) {
        u->board->refused[u->number][r]++;
        return REFUSED;
    }
    mismatch(u, "the answer is %s instead of %s: %s", r ? vfb_code_name(r) : "success", names(why, buf, sizeof buf),
             r ? text : "");
}

enum outcome judge(struct user *u, int r, unsigned why) {
    return judge_text(u, r, why, vfb_error(u->c)->text);
}

void equal(struct user *u, const char *what, uint64_t is, uint64_t expected) {
    if (is != expected)
        mismatch(u, "%s is %" PRIu64 " instead of %" PRIu64, what, is, expected);
}

/* Raised before the lease, lowered after it; what is pinned and mlocked counts twice. The lease is read last: idle lease may go back
 * at any moment, and only we make it grow. */
static void compare_memlock(struct user *u) {
    const uint64_t memlock = host_session_memlock(u);
    struct vfb_usage now;
    int r = vfb_usage(u->c, &now);

    if (r != 0)
        mismatch(u, "usage: %s: %s", vfb_code_name(r), vfb_error(u->c)->text);
    if (memlock < now.lease + u->o.locked)
        mismatch(u, "RLIMIT_MEMLOCK of the session is %" PRIu64 ", its lease %" PRIu64 ", and %" PRIu64 " are locked",
                 memlock, now.lease, u->o.locked);
}

void compare(struct user *u) {
    uint64_t memories = 0, spaces = 0, devices = 0, pins = 0, pinned, locked;
    int r = vfb_usage(u->c, &u->usage);

    if (r != 0)
        mismatch(u, "usage: %s: %s", vfb_code_name(r), vfb_error(u->c)->text);
    for (unsigned i = 0; i < O_MEMORIES; i++)
        memories += u->o.memories[i].registered > 0;
    for (unsigned i = 0; i < O_SPACES; i++)
        spaces += u->o.spaces[i].live;
    for (unsigned i = 0; i < O_DEVICES; i++)
        devices += u->o.devices[i].state != O_FREE;
    equal(u, "used", u->usage.used, u->o.paid);
    equal(u, "mapped", u->usage.mapped, u->o.mapped);
    equal(u, "number of mappings", u->usage.mappings, u->o.n_mappings);
    equal(u, "number of memories", u->usage.memories, memories);
    equal(u, "number of spaces", u->usage.spaces, spaces);
    equal(u, "number of devices", u->usage.devices, devices);
    for (unsigned i = 0; i < PINS_MAX; i++)
        pins += u->pinned[i].live;
    equal(u, "number of pins", u->usage.pins, pins);
    equal(u, "paid under mappings", u->usage.mapped_paid, u->o.paid);
    equal(u, "paid under pins alone", u->usage.pinned_paid, 0); /* nothing is unmapped before its pins end */
    equal(u, "both mapped and locked", u->usage.doubled, u->o.locked);
    host_session_pins(u, &pinned, &locked);
    equal(u, "VmPin", pinned, u->pins ? u->o.pinned : 0);
    equal(u, "VmLck", locked, (u->pins ? u->o.pinned : 0) + (u->options->no_locks ? 0 : u->o.locked));
    if (u->usage.used > u->usage.lease)
        mismatch(u, "used %" PRIu64 " passes the lease of %" PRIu64, u->usage.used, u->usage.lease);
    if (u->pins && (u->o.locked || u->operation % 8 == 0))
        compare_memlock(u);
    /* The oracle takes the lease as it is, so it must have been within the limit when it grew. */
    if (u->usage.lease > u->o.lease && u->usage.lease + u->o.own + u->o.sibling > u->o.limit)
        mismatch(u,
                 "the lease has grown to %" PRIu64 ", %" PRIu64 " are locked, the other session has paid %" PRIu64
                 ", the limit is %" PRIu64,
                 u->usage.lease, u->o.own, u->o.sibling, u->o.limit);
    if (u->o.paid == 0)
        equal(u, "tables, with nothing mapped,", u->usage.tables, 0);
    u->o.lease = u->usage.lease;
    u->board->comparisons[u->number]++;
    u->board->mappings[u->number] += u->o.n_mappings;
    u->board->paid[u->number] += u->o.paid / O_PAGE;
    u->board->pinned[u->number] += pinned / O_PAGE;
}
