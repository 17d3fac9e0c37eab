/* Pins of the kernel's own beside a device's and another client's: see pins.h. What IOMMU_TEST_OP_ACCESS_PAGES pins is what a
 * mediated device would by vfio_pin_pages(). Root makes it on the session's iommufd; the ledger, which pays what is mapped, does
 * not have to know. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pins-iommufd-test.h"
#include "pins.h"

#define SIZE   (8 * MIB)
#define ACCESS (2 * MIB) /* at IOVA: the kernel pins it */
#define SOFT   (4 * MIB) /* at IOVA: the other client pins it */

struct scene {
    struct client *o, *p;
    int iommufd, access; /* access: -1, or its fd */
    uint64_t before;
};

/* A dup of what the session has; it is not dumpable, which CAP_SYS_PTRACE passes. */
static int take_iommufd(pid_t session) {
    int pidfd = (int)syscall(SYS_pidfd_open, session, 0);

    tap_check(pidfd >= 0, "pidfd_open: %s", strerror(errno));
    for (int fd = 0; fd < 256; fd++) {
        char path[64], target[64] = "";

        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)session, fd);
        if (readlink(path, target, sizeof target - 1) <= 0 || strcmp(target, "/dev/iommu") != 0)
            continue;
        fd = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
        tap_check(fd >= 0, "pidfd_getfd: %s", strerror(errno));
        close(pidfd);
        return fd;
    }
    tap_check(false, "session process %d has no iommufd", (int)session);
    return -1;
}

static struct scene begin(void) {
    struct scene s = {.before = all_pinned_pages(), .access = -1};

    s.o = client_new("owner", SIZE);
    s.p = client_new("pinner", 0);
    s.o->size = SIZE;
    use_device(s.o);
    tell(s.o, do_memory);
    tell(s.o, do_token);
    tell(s.o, do_claim);
    tell(s.o, do_ioas);
    memcpy(s.p->secret, s.o->token.secret, sizeof s.p->secret);
    tell(s.p, do_open);
    s.p->iova = IOVA;
    s.p->size = SOFT;
    tell(s.p, do_pin);
    tap_check(s.p->result == 0, "pin: %s", vfb_code_name(s.p->result));
    s.iommufd = take_iommufd(s.o->session);
    expect(s.o, "pinned by a client", SOFT, 0, SIZE, SOFT);
    return s;
}

/* locked: without what the other client's pins lock. Twice: what is pinned is what the whole machine has more. */
static void state(struct scene *s, const char *when, uint64_t pinned) {
    expect(s->o, when, pinned + SOFT, pinned, SIZE, SOFT);
    tap_check(all_pinned_pages() - s->before == pinned / PAGE, "%s: the kernel holds %" PRIu64 " pages", when,
              all_pinned_pages() - s->before);
}

static void access_begin(struct scene *s) {
    struct iommu_test_cmd create = {
        .size = sizeof create, .op = IOMMU_TEST_OP_CREATE_ACCESS, .id = (uint32_t)s->o->ioas};
    struct iommu_test_cmd pin = {.size = sizeof pin, .op = IOMMU_TEST_OP_ACCESS_PAGES};

    create.create_access.flags = MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES;
    tap_check(ioctl(s->iommufd, IOMMU_TEST_CMD, &create) == 0, "CREATE_ACCESS on ioas %d: %s", s->o->ioas,
              strerror(errno));
    s->access = (int)create.create_access.out_access_fd;
    pin.id = (uint32_t)s->access;
    pin.access_pages.flags = MOCK_FLAGS_ACCESS_WRITE;
    pin.access_pages.iova = IOVA;
    pin.access_pages.length = ACCESS;
    tap_check(ioctl(s->iommufd, IOMMU_TEST_CMD, &pin) == 0, "ACCESS_PAGES: %s", strerror(errno));
}

static void access_end(struct scene *s) {
    close(s->access);
    s->access = -1;
}

static void device(struct scene *s, uint64_t offset) {
    s->o->iova = IOVA + offset;
    tell(s->o, do_dma);
}

static void end(struct scene *s) {
    if (s->access >= 0)
        access_end(s);
    close(s->iommufd);
    tell(s->p, do_unpin);
    expect(s->o, "unpinned", 0, 0, s->o->usage.used, 0);
    client_end(s->p);
    client_end(s->o);
    for (int i = 0; i < 100 && all_pinned_pages() != s->before; i++)
        usleep(50000);
    tap_diag("pages pinned on the whole machine: %" PRIu64 " before, %" PRIu64 " after", s->before, all_pinned_pages());
    tap_check(all_pinned_pages() == s->before, "pages are left pinned");
}

void case_access_first(void) {
    struct scene s = begin();

    tell(s.o, do_attach);
    state(&s, "attached", SIZE);
    access_begin(&s);
    state(&s, "attached, accessed", SIZE);
    device(&s, MIB);
    access_end(&s);
    state(&s, "access ended, attached", SIZE);
    device(&s, MIB);
    tell(s.o, do_detach);
    state(&s, "detached", 0);
    end(&s);
}

void case_detach_first(void) {
    struct scene s = begin();

    tell(s.o, do_attach);
    access_begin(&s);
    state(&s, "attached, accessed", SIZE);
    tell(s.o, do_detach);
    state(&s, "detached, accessed", ACCESS);
    access_end(&s);
    state(&s, "access ended", 0);
    end(&s);
}

void case_access_then_attach(void) {
    struct scene s = begin();

    access_begin(&s);
    state(&s, "accessed", ACCESS);
    tell(s.o, do_attach);
    state(&s, "accessed, attached", SIZE);
    device(&s, MIB);
    tell(s.o, do_detach);
    state(&s, "accessed, detached", ACCESS);
    tell(s.o, do_attach);
    access_end(&s);
    state(&s, "access ended, attached again", SIZE);
    device(&s, 3 * MIB);
    tell(s.o, do_detach);
    state(&s, "detached", 0);
    end(&s);
}

/* The kernel asks the access to let go, as it asks a mediated device; that one does. */
void case_unmap_under_access(void) {
    struct scene s = begin();

    tell(s.o, do_attach);
    access_begin(&s);
    state(&s, "attached, accessed", SIZE);
    tell(s.p, do_unpin);
    expect(s.o, "unpinned", SIZE, SIZE, SIZE, 0);
    tell(s.o, do_unmap);
    expect(s.o, "unmapped", 0, 0, 0, 0);
    tap_check(all_pinned_pages() == s.before, "%" PRIu64 " pages are pinned", all_pinned_pages() - s.before);
    s.o->iova = IOVA;
    s.o->offset = 0;
    tell(s.o, do_map_more);
    tap_check(s.o->result == 0, "map: %s", vfb_code_name(s.o->result));
    tell(s.p, do_pin);
    tap_check(s.p->result == 0, "pin: %s", vfb_code_name(s.p->result));
    state(&s, "mapped and pinned again", SIZE);
    access_end(&s);
    tell(s.o, do_detach);
    state(&s, "detached", 0);
    end(&s);
}
