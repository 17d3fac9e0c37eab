/* The kernel enforces too: a client of a broker whose sessions are made to lie to themselves (--test-lie, test builds
 * only) about how much they may pin. The session's ledger says yes, and the kernel must say no at the session's
 * RLIMIT_MEMLOCK, which is the lease that the daemon gave. Run by tests/system/enforce, in the VM.
 *
 * VB_TEST_BROKER: the daemon's pid; its only child is then our session. VB_TEST_DEVICES: an edu device. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/lib/tap.h"
#include "tests/lib/testdev.h"
#include "vfio-broker.h"

#define PAGE 4096ull
#define MIB  (1ull << 20)

enum { RW = VFB_READ | VFB_WRITE };

#define OK(c, call)                                                                                                    \
    do {                                                                                                               \
        int ok_r = (call);                                                                                             \
        tap_check(ok_r == 0, "%s returned %s: %s", #call, vfb_code_name(ok_r), vfb_error(c)->text);                    \
    } while (0)

/* ---- the session process, as /proc shows it ---- */

/* A number after `key` in /proc/PID/NAME, UINT64_MAX when there is none. */
static uint64_t proc_number(pid_t pid, const char *name, const char *key) {
    char path[64], line[256];
    uint64_t n = UINT64_MAX;
    FILE *f;

    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    f = fopen(path, "re");
    if (!f)
        return n;
    while (fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0) {
            sscanf(line + strlen(key), "%" SCNu64, &n);
            break;
        }
    fclose(f);
    return n;
}

static pid_t session_pid(void) {
    const char *broker = getenv("VB_TEST_BROKER");
    struct timespec pause = {.tv_nsec = 50000000};
    pid_t found = 0;

    tap_check(broker, "VB_TEST_BROKER is not set");
    for (int i = 0; i < 100; i++) { /* the session of the case before may still be ending */
        DIR *d = opendir("/proc");
        int n = 0;

        tap_check(d, "/proc: %s", strerror(errno));
        for (struct dirent *e; (e = readdir(d));) {
            pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);

            if (pid > 0 && proc_number(pid, "status", "PPid:") == strtoull(broker, NULL, 10)) {
                found = pid;
                n++;
            }
        }
        closedir(d);
        if (n == 1)
            return found;
        nanosleep(&pause, NULL);
    }
    tap_check(false, "the daemon does not have exactly one session");
    return 0;
}

struct session {
    pid_t pid;
    uint64_t lease; /* RLIMIT_MEMLOCK, bytes */
};

static struct session session_of(struct vfb_client *c) {
    struct session s = {.pid = session_pid()};
    struct vfb_usage u;

    s.lease = proc_number(s.pid, "limits", "Max locked memory");
    OK(c, vfb_usage(c, &u));
    tap_diag("session %d: RLIMIT_MEMLOCK %" PRIu64 ", its ledger believes in %" PRIu64, (int)s.pid, s.lease, u.lease);
    tap_check(s.lease >= 4 * MIB && s.lease != UINT64_MAX, "the session has no lease to speak of: %" PRIu64, s.lease);
    tap_check(u.lease > s.lease, "the session does not lie");
    return s;
}

static void within_lease(const struct session *s) {
    uint64_t pinned = proc_number(s->pid, "status", "VmPin:") * 1024,
             locked = proc_number(s->pid, "status", "VmLck:") * 1024;

    tap_diag("VmPin %" PRIu64 ", VmLck %" PRIu64 " of %" PRIu64, pinned, locked, s->lease);
    tap_check(pinned <= s->lease && locked <= s->lease,
              "VmPin %" PRIu64 ", VmLck %" PRIu64 " pass the lease of %" PRIu64, pinned, locked, s->lease);
}

/* The kernel's word, whatever name it comes under. */
static void enomem(struct vfb_client *c, int r) {
    tap_diag("%s, host errno %d: %s", vfb_code_name(r), vfb_error(c)->host_errno, vfb_error(c)->text);
    tap_check(r == -ENOMEM || (r == VFB_LIMIT && vfb_error(c)->host_errno == ENOMEM),
              "%s instead of ENOMEM of the kernel: %s", vfb_code_name(r), vfb_error(c)->text);
}

/* ---- a client ---- */

struct rig {
    struct vfb_client *c;
    uint32_t space, memory;
    uint8_t *p;
    struct vfb_device d;
    struct session s;
};

static struct rig begin(uint64_t size) {
    struct timespec pause = {.tv_nsec = 50000000};
    const char *address = getenv("VB_TEST_DEVICES");
    int fd = memfd_create("enforce", MFD_CLOEXEC), r = VFB_BUSY;
    struct vfb_memory m;
    struct rig g;

    tap_check(address && fd >= 0 && ftruncate(fd, (off_t)size) == 0, "memfd of %" PRIu64, size);
    g.p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    tap_check(g.p != MAP_FAILED, "mmap: %s", strerror(errno));
    memset(g.p, 0x5a, size);
    tap_check(vfb_client_new(&g.c) == 0, "no memory");
    OK(g.c, vfb_connect(g.c, NULL, "enforce"));
    g.s = session_of(g.c);
    OK(g.c, vfb_memory_register(g.c, fd, VFB_WRITABLE, "enforce", &m));
    g.memory = m.id;
    OK(g.c, vfb_space_create(g.c, "enforce", &g.space));
    for (int i = 0; i < 200 && r == VFB_BUSY; i++) {
        r = vfb_device_claim(g.c, address, &g.d);
        if (r == VFB_BUSY)
            nanosleep(&pause, NULL);
    }
    OK(g.c, r);
    OK(g.c, vfb_device_bind(g.c, g.d.id));
    return g;
}

static int map(struct rig *g, uint64_t at, uint64_t size) {
    struct vfb_map e = {.iova = 0x10000000 + at, .size = size, .offset = at, .memory = g->memory, .prot = RW};

    return vfb_map(g->c, g->space, &e, 1);
}

static void reaches(struct rig *g, uint64_t at) {
    struct testdev t;
    uint8_t buf[64];

    tap_check(testdev_open(&t, g->d.fd, vfb_info(g->c)->backend) == 0, "test device");
    testdev_scratch(&t, 0x10000000, g->p);
    memcpy(g->p + at, "what the device shall read, and it is not the same as before....", 64);
    tap_check(testdev_read(&t, 0x10000000 + at, buf, sizeof buf) == 0 && memcmp(buf, g->p + at, sizeof buf) == 0,
              "the device does not reach offset 0x%" PRIx64, at);
    testdev_close(&t);
}

static void case_attach(void) {
    struct rig g = begin(64 * MIB);

    /* Nobody pins while no device is there: the lie is believed. */
    OK(g.c, map(&g, 0, g.s.lease + PAGE));
    enomem(g.c, vfb_device_attach(g.c, g.d.id, g.space));
    within_lease(&g.s);
    /* Nothing is half done: what fits can still be had. */
    OK(g.c, vfb_unmap_all(g.c, g.space, NULL));
    OK(g.c, map(&g, 0, g.s.lease));
    OK(g.c, vfb_device_attach(g.c, g.d.id, g.space));
    within_lease(&g.s);
    reaches(&g, 4 * PAGE);
    vfb_client_free(g.c);
}

static void case_map(void) {
    struct rig g = begin(64 * MIB);
    uint64_t n = 0;
    int r = 0;

    OK(g.c, vfb_device_attach(g.c, g.d.id, g.space));
    for (; n + MIB <= 64 * MIB; n += MIB) {
        r = map(&g, n, MIB);
        within_lease(&g.s);
        if (r != 0)
            break;
    }
    tap_check(r != 0, "64 MiB are mapped, %" PRIu64 " were leased", g.s.lease);
    enomem(g.c, r);
    tap_check(n <= g.s.lease && n + MIB > g.s.lease, "%" PRIu64 " are mapped of a lease of %" PRIu64, n, g.s.lease);
    reaches(&g, 4 * PAGE);
    reaches(&g, n - MIB);
    /* Room again: the ledger and the kernel still agree about what was given back. */
    OK(g.c, vfb_unmap(g.c, g.space, &(struct vfb_unmap){.iova = 0x10000000 + MIB, .size = MIB}, 1, NULL));
    OK(g.c, map(&g, n, MIB));
    enomem(g.c, map(&g, n + MIB, MIB));
    within_lease(&g.s);
    reaches(&g, n);
    vfb_client_free(g.c);
}

static void case_two_spaces(void) {
    struct rig g = begin(64 * MIB);
    struct vfb_map e = {.iova = 0x10000000, .size = g.s.lease, .memory = g.memory, .prot = RW};
    uint32_t other;

    /* The same pages a second time are no more pins; other pages are. */
    OK(g.c, map(&g, 0, g.s.lease));
    OK(g.c, vfb_device_attach(g.c, g.d.id, g.space));
    OK(g.c, vfb_space_create(g.c, "other", &other));
    OK(g.c, vfb_map(g.c, other, &e, 1));
    e.iova = 0x40000000;
    e.size = PAGE;
    e.offset = 63 * MIB;
    OK(g.c, vfb_map(g.c, other, &e, 1));
    within_lease(&g.s);
    OK(g.c, vfb_device_detach(g.c, g.d.id));
    enomem(g.c, vfb_device_attach(g.c, g.d.id, other));
    within_lease(&g.s);
    OK(g.c, vfb_device_attach(g.c, g.d.id, g.space));
    reaches(&g, 8 * PAGE);
    vfb_client_free(g.c);
}

static const struct tap_case cases[] = {
    {"attach to a space with more than the lease: ENOMEM of the kernel", case_attach, 0},
    {"map into an attached space until the kernel says ENOMEM, at the lease", case_map, 0},
    {"pages of two spaces: the kernel counts each once", case_two_spaces, 0},
};

int main(int argc, char **argv) {
    return tap_run(cases, sizeof cases / sizeof cases[0], argc > 1 ? argv[1] : NULL);
}
