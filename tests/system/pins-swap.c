/* Residency under memory pressure: see pins.h. The owner's memory is charged to a cgroup of its own, out of which everything
 * that can go is reclaimed (memory.reclaim, cgroup v2); tests/system/pins has made swap. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pins.h"

#define CGROUP "/sys/fs/cgroup"
#define GROUP  CGROUP "/pins-owner"

static int put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    int r = fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;

    if (fd >= 0)
        close(fd);
    return r;
}

static void enter_group(pid_t pid) {
    char text[32];

    snprintf(text, sizeof text, "%d", (int)pid);
    tap_check(put(CGROUP "/cgroup.subtree_control", "+memory") == 0, "no memory controller: %s", strerror(errno));
    tap_check((mkdir(GROUP, 0755) == 0 || errno == EEXIST) && put(GROUP "/cgroup.procs", text) == 0, "%s: %s", GROUP,
              strerror(errno));
}

static void get(const char *path, char *text, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);

    tap_check(n > 0, "%s: %s", path, strerror(errno));
    text[n] = 0;
    close(fd);
}

static uint64_t group_bytes(void) {
    char text[32];

    get(GROUP "/memory.current", text, sizeof text);
    return strtoull(text, NULL, 10);
}

/* Until nothing more goes. Asked for more than there is, the kernel does what it can and says EAGAIN. Which list it looks at
 * depends on statistics that it gathers every two seconds only, or when somebody reads memory.stat (mm/vmscan.c,
 * prepare_scan_control). */
static void press(void) {
    char text[8192];

    for (int i = 0, idle = 0; i < 200 && idle < 5; i++) {
        const uint64_t before = group_bytes();
        int r;

        get(GROUP "/memory.stat", text, sizeof text);
        r = put(GROUP "/memory.reclaim", "64M");
        tap_check(r == 0 || r == -EAGAIN, "memory.reclaim: %s", strerror(-r));
        idle = group_bytes() < before ? 0 : idle + 1;
        usleep(20000);
    }
}

static void look(struct client *o, const char *when, uint64_t n, uint64_t *ret_first, uint64_t *ret_second) {
    *ret_first = resident(o, 0, n / 2);
    *ret_second = resident(o, n / 2, n / 2);
    tap_diag("%s: %" PRIu64 " of %" PRIu64 " pages of the first half are in memory, %" PRIu64
             " of the second; VmLck %" PRIu64 " kB; cgroup %" PRIu64 " kB",
             when, *ret_first, n / 2, *ret_second, status_bytes(o->session, "VmLck:") >> 10, group_bytes() >> 10);
}

void case_residency(void) {
    const uint64_t m = 64 * MIB, n = m / PAGE, few = n / 2 / 20; /* a twentieth of a half */
    struct client *o = client_new("owner", 2 * m), *p = client_new("pinner", 0);
    uint64_t first, second;

    enter_group(o->pid);
    o->size = m;
    tell(o, do_memory);
    tell(o, do_token);
    memcpy(p->secret, o->token.secret, sizeof p->secret);
    tell(p, do_open);
    p->iova = IOVA;
    p->size = m / 2;
    tell(p, do_pin);
    tap_check(p->result == 0, "pin: %s", vfb_code_name(p->result));
    look(o, "before", n, &first, &second);
    tap_check(first == n / 2 && second == n / 2, "pages are missing from the beginning");
    press();
    look(o, "one half pinned, under pressure", n, &first, &second);
    tap_check(first == n / 2, "pinned pages went");
    tap_check(second <= few, "pages that are not pinned stay: there was no pressure");
    expect(o, "one half pinned", m / 2, 0, m, m / 2);
    tell(o, do_check_bytes); /* comes in again, all of it */
    look(o, "read again", n, &first, &second);
    tap_check(first == n / 2 && second == n / 2, "not all came back");
    tell(p, do_unpin);
    expect(o, "unpinned", 0, 0, m, 0);
    press();
    look(o, "unpinned, under pressure", n, &first, &second);
    tap_check(first <= few && second <= few, "unpinned pages stay");
    tell(o, do_check_bytes);
    client_end(p);
    client_end(o);
}
