/* Devices: claim, bind, attach, detach, release, in the right order and in every wrong one. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "conformance.h"

static double now(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static const struct vfb_device_info *find(const struct vfb_device_info *list, size_t n, const char *address) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i].address, address) == 0)
            return &list[i];
    return NULL;
}

/* `session` is told to the session that has it; to others it is 0. */
static void state_is(struct vfb_client *c, const char *address, const char *state, uint32_t session) {
    struct vfb_device_info *list;
    const struct vfb_device_info *d;
    size_t n;

    OK(c, vfb_device_list(c, &list, &n));
    d = find(list, n, address);
    tap_check(d, "%s is not listed", address);
    tap_check(strcmp(d->state, state) == 0 && d->session == session, "%s is %s, session %u, \"%s\"", address, d->state,
              d->session, d->reason);
    free(list);
}

static void case_list(void) {
    struct vfb_client *c = join();
    struct vfb_device d = claim(c, test_devices[0]); /* the case before may still be giving them back */
    struct vfb_device_info *list;
    size_t n;

    OK(c, vfb_device_list(c, &list, &n));
    tap_check(n == 2, "%zu devices are listed, two are granted", n);
    for (unsigned i = 0; i < 2; i++) {
        const struct vfb_device_info *info = find(list, n, test_devices[i]);

        tap_check(info, "%s is not listed", test_devices[i]);
        tap_check(info->driver[0], "%s has no driver", test_devices[i]);
        tap_diag("%s %04x:%04x group %d driver %s: %s", info->address, info->vendor, info->device, info->group,
                 info->driver, info->state);
    }
    tap_check(!find(list, n, test_denied), "%s is listed, and not granted", test_denied);
    free(list);
    state_is(c, test_devices[0], "claimed", vfb_info(c)->session);
    OK(c, vfb_device_release(c, d.id));
    close(d.fd);
    vfb_client_free(c);
}

static void case_order(void) {
    struct vfb_client *c = join();
    uint32_t space = space_new(c), other = space_new(c);
    struct vfb_device d = claim(c, test_devices[0]);

    tap_check(usage(c).devices == 1, "%u devices", usage(c).devices);
    REFUSED(c, vfb_device_attach(c, d.id, space), VFB_STATE); /* before bind */
    says(c, test_devices[0]);
    REFUSED(c, vfb_device_detach(c, d.id), VFB_STATE);
    OK(c, vfb_device_bind(c, d.id));
    REFUSED(c, vfb_device_bind(c, d.id), VFB_STATE);
    says(c, test_devices[0]);
    REFUSED(c, vfb_device_detach(c, d.id), VFB_STATE);
    REFUSED(c, vfb_device_attach(c, d.id, space + 1000), VFB_NOT_FOUND);
    OK(c, vfb_device_attach(c, d.id, space));
    REFUSED(c, vfb_device_attach(c, d.id, space), VFB_STATE);
    REFUSED(c, vfb_device_attach(c, d.id, other), VFB_STATE);
    says_number(c, space);
    REFUSED(c, vfb_space_destroy(c, space), VFB_BUSY);
    says(c, test_devices[0]);
    OK(c, vfb_space_destroy(c, other));
    OK(c, vfb_device_detach(c, d.id));
    REFUSED(c, vfb_device_detach(c, d.id), VFB_STATE);
    OK(c, vfb_device_attach(c, d.id, space));
    OK(c, vfb_device_release(c, d.id)); /* detaches */
    tap_check(usage(c).devices == 0, "%u devices", usage(c).devices);
    REFUSED(c, vfb_device_bind(c, d.id), VFB_NOT_FOUND);
    REFUSED(c, vfb_device_attach(c, d.id, space), VFB_NOT_FOUND);
    REFUSED(c, vfb_device_detach(c, d.id), VFB_NOT_FOUND);
    REFUSED(c, vfb_device_release(c, d.id), VFB_NOT_FOUND);
    says_number(c, d.id);
    OK(c, vfb_space_destroy(c, space));
    close(d.fd);
    vfb_client_free(c);
}

static void case_not_ours(void) {
    struct vfb_client *c = join();
    struct vfb_device d = {.id = 77, .fd = 77};

    REFUSED(c, vfb_device_claim(c, test_denied, &d), VFB_DENIED);
    says(c, test_denied);
    says_number(c, (uint64_t)getuid());
    REFUSED(c, vfb_device_claim(c, "0000:7f:1f.7", &d), VFB_DENIED); /* nor does it tell what exists */
    REFUSED(c, vfb_device_claim(c, "", &d), VFB_INVALID);
    REFUSED(c, vfb_device_claim(c, NULL, &d), VFB_INVALID);
    REFUSED(c, vfb_device_claim(c, "0123456789012345678901234567890123456789012345678901234567890123456789", &d),
            VFB_INVALID);
    REFUSED(c, vfb_device_claim(c, "../../dev/mem", &d), VFB_DENIED);
    tap_check(d.id == 77 && d.fd == 77, "an output was touched on failure");
    tap_check(usage(c).devices == 0, "%u devices", usage(c).devices);
    vfb_client_free(c);
}

static void case_second_claim(void) {
    struct vfb_client *a = join(), *b = join();
    struct vfb_device d = claim(a, test_devices[0]), e;

    REFUSED(a, vfb_device_claim(a, test_devices[0], &e), VFB_BUSY);
    says(a, test_devices[0]);
    REFUSED(b, vfb_device_claim(b, test_devices[0], &e), VFB_BUSY);
    says(b, test_devices[0]);
    says_number(b, vfb_info(a)->session);
    state_is(a, test_devices[0], "claimed", vfb_info(a)->session);
    state_is(b, test_devices[0], "claimed", 0);
    REFUSED(b, vfb_device_bind(b, d.id), VFB_NOT_FOUND); /* a's number means nothing to b */
    OK(a, vfb_device_bind(a, d.id));
    e = claim(b, test_devices[1]);
    OK(b, vfb_device_release(b, e.id));
    vfb_client_free(a);
    close(d.fd);
    d = claim(b, test_devices[0]);
    vfb_client_free(b);
}

static void case_release_and_claim(void) {
    struct vfb_client *c = join();
    uint32_t space = space_new(c);
    struct vfb_device d;

    for (unsigned i = 0; i < 3; i++) {
        d = claim(c, test_devices[0]);

        OK(c, vfb_device_bind(c, d.id));
        OK(c, vfb_device_attach(c, d.id, space));
        close(d.fd); /* before the release: then nobody has it open */
        OK(c, vfb_device_release(c, d.id));
    }
    d = claim(c, test_devices[0]); /* waits until it is free: the daemon may close the fd that it passed on after us */
    close(d.fd);
    OK(c, vfb_device_release(c, d.id));
    state_is(c, test_devices[0], "free", 0); /* never bound, so nothing can hold it */
    vfb_client_free(c);
}

static void case_held(void) {
    struct vfb_client *c = join(), *other = join();
    struct vfb_device d = claim_bound(c, test_devices[0]), again;
    double start;

    OK(c, vfb_device_release(c, d.id));
    REFUSED(other, vfb_device_claim(other, test_devices[0], &again), VFB_BUSY); /* our fd is still open */
    says(other, test_devices[0]);
    says(other, "held");
    state_is(other, test_devices[0], "held", 0);
    close(d.fd);
    start = now();
    again = claim(other, test_devices[0]);
    tap_diag("claimable %.2f s after the last copy was closed", now() - start);
    vfb_client_free(c);
    vfb_client_free(other);
}

static void case_unbound_release(void) {
    struct vfb_client *c = join();
    struct vfb_device d = claim(c, test_devices[0]);

    close(d.fd);
    OK(c, vfb_device_release(c, d.id));
    d = claim(c, test_devices[0]);
    OK(c, vfb_device_bind(c, d.id));
    vfb_client_free(c);
}

static void case_reserved(void) {
    struct vfb_client *c = join();
    struct mem m = mem_new(c, MIB);
    uint32_t space = space_new(c);
    struct vfb_space_info i;
    struct vfb_device d;
    const struct vfb_error *e = vfb_error(c);

    /* Mapped first: the device cannot come. */
    OK(c, map1(c, space, m.id, MSI_FIRST - PAGE, 0, 2 * PAGE));
    d = claim_bound(c, test_devices[0]);
    REFUSED(c, vfb_device_attach(c, d.id, space), VFB_RESERVED);
    says_number(c, MSI_FIRST - PAGE);
    says(c, test_devices[0]);
    tap_check(e->n_conflicts == 1 && e->conflicts[0].first == MSI_FIRST - PAGE &&
                  e->conflicts[0].last == MSI_FIRST + PAGE - 1 && e->conflicts[0].with_first == MSI_FIRST &&
                  e->conflicts[0].with_last == MSI_LAST && strcmp(e->conflicts[0].kind, "msi") == 0 &&
                  strcmp(e->conflicts[0].device, test_devices[0]) == 0,
              "%zu conflicts, the first with %s", e->n_conflicts, e->n_conflicts ? e->conflicts[0].kind : "nothing");
    tap_check(describe(c, space).n_usable == 1, "a refused attach changed the space");
    OK(c, unmap1(c, space, MSI_FIRST - PAGE, 2 * PAGE));

    /* The device first: nothing can be mapped there. */
    OK(c, vfb_device_attach(c, d.id, space));
    i = describe(c, space);
    for (size_t k = 0; k < i.n_usable; k++) {
        tap_diag("usable 0x%" PRIx64 "-0x%" PRIx64, i.usable[k].first, i.usable[k].last);
        tap_check(i.usable[k].last < MSI_FIRST || i.usable[k].first > MSI_LAST, "the MSI window is called usable");
    }
    REFUSED_ENTRY(c, map1(c, space, m.id, MSI_FIRST, 0, PAGE), VFB_RESERVED, 0);
    says_number(c, MSI_FIRST);
    tap_check(e->n_conflicts >= 1 && e->conflicts[0].with_first == MSI_FIRST && e->conflicts[0].with_last == MSI_LAST,
              "%zu conflicts", e->n_conflicts);
    REFUSED_ENTRY(c, map1(c, space, m.id, MSI_FIRST - PAGE, 0, 2 * PAGE), VFB_RESERVED, 0);
    REFUSED_ENTRY(c, map1(c, space, m.id, MSI_LAST + 1 - PAGE, 0, 2 * PAGE), VFB_RESERVED, 0);
    OK(c, map1(c, space, m.id, MSI_FIRST - PAGE, 0, PAGE));
    OK(c, map1(c, space, m.id, MSI_LAST + 1, 0, PAGE));
    OK(c, vfb_unmap_all(c, space, NULL));
    OK(c, vfb_device_detach(c, d.id));
    OK(c, map1(c, space, m.id, MSI_FIRST, 0, PAGE)); /* without a device it is an IOVA like any other */
    vfb_client_free(c);
}

static void case_killed(void) {
    struct vfb_client *c = join();
    double start;
    int ready[2], status;
    char byte;
    pid_t pid;

    tap_check(pipe(ready) == 0, "pipe");
    pid = fork();
    tap_check(pid >= 0, "fork: %s", strerror(errno));
    if (pid == 0) {
        struct vfb_client *mine = join();
        struct rig r = rig_new(mine, test_devices[0]);

        (void)r;
        tap_check(write(ready[1], "x", 1) == 1, "pipe");
        pause();
    }
    close(ready[1]);
    tap_check(read(ready[0], &byte, 1) == 1, "the child could not set its device up");
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    start = now();
    claim(c, test_devices[0]);
    tap_diag("claimable %.2f s after its client was killed", now() - start);
    vfb_client_free(c);
}

DEFINE_CASES(device, {"the list has what is granted", case_list, 0},
             {"bind, attach, detach and release in every wrong order", case_order, 0},
             {"devices that are not granted, and none, are refused", case_not_ours, 0},
             {"a second claim is refused, and another device is not", case_second_claim, 0},
             {"release and claim again", case_release_and_claim, 0},
             {"a released device that is open still is held", case_held, 0},
             {"released without ever being bound", case_unbound_release, 0},
             {"reserved ranges: mapped before and after attaching", case_reserved, 0},
             {"a killed client's device can be claimed", case_killed, 0});
