/* Sessions that die, stop, or whose client never reads; the daemon that goes: see pins.h. */
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pins.h"

#define SIZE (4 * MIB)

static struct client *owner_new(void) {
    struct client *o = client_new("owner", SIZE);

    o->size = SIZE;
    tell(o, do_memory);
    tell(o, do_token);
    return o;
}

static void pin(struct client *p, uint64_t size) {
    const uint64_t was = p->size;

    p->iova = IOVA;
    p->size = size;
    tell(p, do_pin);
    p->size = was;
    tap_check(p->result == 0, "pin: %s", vfb_code_name(p->result));
}

static struct client *pinner_of(struct client *o) {
    struct client *p = client_new("pinner", 0);

    memcpy(p->secret, o->token.secret, sizeof p->secret);
    tell(p, do_open);
    pin(p, SIZE);
    expect(o, "pinned", SIZE, 0, SIZE, SIZE);
    return p;
}

/* With a device and memory of its own. */
static void equip(struct client *p) {
    use_device(p);
    p->size = MIB;
    tell(p, do_memory);
    tell(p, do_claim);
    tell(p, do_attach);
    p->iova = IOVA + 0x1000;
    tell(p, do_dma);
}

static void device_goes_on(struct client *p, uint64_t offset) {
    p->iova = IOVA + offset;
    tell(p, do_dma);
}

/* Starts an unmap of everything, looks that it waits, and that nothing else does. */
static void begin_unmap(struct client *o) {
    tell(o, do_unmap_later);
    o->ms = 200;
    tell(o, do_listen);
    tap_check(o->result == WAITING, "the unmap did not wait: %s", vfb_code_name(o->result));
    tell(o, do_usage);
    tap_check(o->usage.parked == 1 && o->usage.pins == 1, "%u requests wait, %u pins", o->usage.parked, o->usage.pins);
}

static double end_unmap(struct client *o) {
    o->ms = 8000;
    tell(o, do_listen);
    tap_check(o->result == 0, "the unmap: %s", o->result == WAITING ? "no answer" : vfb_code_name(o->result));
    return o->seconds;
}

static void sends(pid_t pid, int signal) {
    tap_check(pid > 1 && kill(pid, signal) == 0, "signal %d to %d", signal, (int)pid);
}

void case_owner_killed(void) {
    struct client *o = owner_new(), *p = pinner_of(o);

    equip(p);
    sends(o->session, SIGKILL);
    for (int i = 0; i < 100 && !p->closed; i++) {
        p->ms = 20;
        tell(p, do_listen);
    }
    tap_check(p->closed == 1, "nobody told the pinner that the owner is gone");
    tell(p, do_usage);
    tap_check(p->usage.accesses == 0, "%u accesses", p->usage.accesses);
    device_goes_on(p, 0x2000);
    client_end(p);
    client_end(o);
}

void case_pinner_killed(void) {
    struct client *o = owner_new(), *p = pinner_of(o);

    begin_unmap(o);
    sends(p->session, SIGKILL);
    double s = end_unmap(o);
    tap_diag("the unmap was done %.3f s after the kill", s);
    tap_check(s < 0.7, "that is not at once");
    expect(o, "unmapped", 0, 0, 0, 0);
    tell(o, do_usage);
    tap_check(o->usage.pins == 0 && o->usage.parked == 0, "%u pins", o->usage.pins);
    client_end(p);
    client_end(o);
}

/* The owner's unmap while the pinner's side does nothing at all: nothing else waits, and it ends at the deadline. */
static void owner_gets_through(struct client *o) {
    const double start = now();
    double map;

    begin_unmap(o);
    o->iova = IOVA + 16 * MIB;
    o->offset = 0;
    tell(o, do_map_more);
    map = o->seconds;
    tap_check(o->result == WAITING || o->result == 0, "map elsewhere: %s", vfb_code_name(o->result));
    o->result = WAITING;
    end_unmap(o);
    tap_diag("a map on another range took %.3f s; the unmap was done after %.3f s", map, now() - start);
    tap_check(map < 0.5, "the map waited");
    tap_check(now() - start > 1.8 && now() - start < 3.5, "the deadline is at 2 s");
    expect(o, "pins are lost", 0, 0, SIZE, 0);
}

void case_pinner_stopped(void) {
    struct client *o = owner_new(), *p = pinner_of(o);

    equip(p);
    sends(p->session, SIGSTOP);
    owner_gets_through(o);
    device_goes_on(p, 0x2000);
    sends(p->session, SIGCONT);
    for (int i = 0; i < 100 && !p->lost; i++) {
        p->ms = 20;
        tell(p, do_listen);
    }
    tap_check(p->invalidates == 1 && p->lost == 1 && p->closed == 0, "%u Invalidates, %u pins lost, %u accesses closed",
              p->invalidates, p->lost, p->closed);
    p->iova = IOVA + 16 * MIB;
    p->size = PAGE;
    tell(p, do_pin); /* the access is as good as before */
    tap_check(p->result == 0, "pin: %s", vfb_code_name(p->result));
    client_end(p);
    client_end(o);
}

void case_pinner_never_reads(void) {
    struct client *o = owner_new(), *p = pinner_of(o);

    tell(p, do_flood);
    tap_diag("the pinner's session took %" PRIu64 " requests until it waited for its client to read", p->packets);
    tap_check(p->packets > 0, "none");
    owner_gets_through(o);
    sends(p->pid, SIGKILL);
    tell(o, do_unmap);
    expect(o, "unmapped", 0, 0, 0, 0);
    client_end(o);
}

void case_daemon_between(void) {
    struct client *o = owner_new(), *p;

    p = client_new("pinner", 0);
    memcpy(p->secret, o->token.secret, sizeof p->secret);
    daemon_does("kill");
    daemon_does("start");
    tell(p, do_open);
    tap_diag("redeemed %.3f s after the new daemon listened", p->seconds);
    pin(p, SIZE);
    expect(o, "pinned", SIZE, 0, SIZE, SIZE);
    tell(p, do_unpin);
    expect(o, "unpinned", 0, 0, SIZE, 0);
    client_end(p);
    client_end(o);
}

void case_daemon_killed_with_pins(void) {
    struct client *o = owner_new(), *p = pinner_of(o);

    daemon_does("kill");
    expect(o, "no daemon", SIZE, 0, SIZE, SIZE);
    begin_unmap(o); /* the two sessions need no daemon to talk */
    for (int i = 0; i < 100 && !p->invalidates; i++) {
        p->ms = 20;
        tell(p, do_listen);
    }
    tap_check(p->invalidates == 1, "%u Invalidates", p->invalidates);
    tell(p, do_unpin);
    tap_check(p->result == 0, "unpin: %s", vfb_code_name(p->result));
    end_unmap(o);
    expect(o, "no daemon, unmapped", 0, 0, 0, 0);
    o->iova = IOVA;
    o->offset = 0;
    tell(o, do_map_more);
    tap_check(o->result == 0, "map: %s", vfb_code_name(o->result));
    pin(p, SIZE);
    expect(o, "no daemon, pinned again", SIZE, 0, SIZE, SIZE);
    daemon_does("start");
    p->ms = 200;
    tell(p, do_listen);
    expect(o, "a new daemon", SIZE, 0, SIZE, SIZE);
    tell(p, do_open); /* another access by the same token */
    tell(p, do_usage);
    tap_check(p->usage.accesses == 2, "%u accesses", p->usage.accesses);
    client_end(p);
    for (int i = 0; i < 100 && (tell(o, do_usage), o->usage.pins); i++)
        usleep(20000);
    expect(o, "the pinner is gone", 0, 0, SIZE, 0);
    client_end(o);
}
