/* The host wants a device back: drivers/vfio/vfio_main.c, vfio_unregister_group_dev(), asks by the request eventfd, and waits. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices.h"

enum { HEARD_S = 15, DONE_S = 15 };

static struct rig listening(struct heard *h) {
    struct vfb_client *c = join();

    ROOT("[ -e $pci/%s ] || rescan %s", DEVICE_C, DEVICE_C);
    ROOT("[ \"$(driver_of %s)\" = vfio-pci ] || bind_vfio %s", DEVICE_C, DEVICE_C); /* whatever the case before did */
    vfb_set_event_handler(c, on_event, h);
    return rig_new(c, DEVICE_C);
}

/* The event names the device, and root still waits. */
static void is_asked(struct rig *r, struct heard *h) {
    tap_check(hear(r->c, &h->requested, 1, HEARD_S), "the client hears nothing in %d s", HEARD_S);
    tap_check(h->device == r->d.id && h->gone == 0, "device %u is asked for, not %u", h->device, r->d.id);
    tap_check(root("test -e $work/done") != 0, "the device is gone without the client");
    does_dma(r); /* it has the device still */
}

void case_wanted_unbind(void) {
    struct heard h = {0};
    struct rig r = listening(&h);
    struct vfb_device d;

    ROOT("unbind_later %s", DEVICE_C);
    is_asked(&r, &h);
    rig_release(&r);
    ROOT("done_within %d", DONE_S);
    becomes(DEVICE_C, "\"unusable\"");
    REFUSED(r.c, vfb_device_claim(r.c, DEVICE_C, &d), VFB_STATE);
    says(r.c, "not bound to vfio-pci");
    ROOT("bind_vfio %s", DEVICE_C);
    r = rig_new(r.c, DEVICE_C);
    does_dma(&r);
    rig_release(&r);
}

void case_wanted_remove(void) {
    struct heard h = {0};
    struct rig r = listening(&h);
    struct vfb_device d;

    ROOT("remove_later %s", DEVICE_C);
    is_asked(&r, &h);
    rig_release(&r);
    ROOT("done_within %d", DONE_S);
    REFUSED(r.c, vfb_device_claim(r.c, DEVICE_C, &d), VFB_NOT_FOUND);
    ROOT("state_of %s", DEVICE_C); /* policy names it */
    tap_check(strstr(root_said(), "\"unusable\"") && strstr(root_said(), "there is no device"),
              "a removed device is listed as: %s", root_said());
    ROOT("rescan %s && bind_vfio %s", DEVICE_C, DEVICE_C);
    r = rig_new(r.c, DEVICE_C);
    does_dma(&r);
    rig_release(&r);
}

void case_wanted_ignored(void) {
    int ready[2];
    char byte;
    pid_t pid;

    tap_check(pipe(ready) == 0 && (pid = fork()) >= 0, "%s", strerror(errno));
    if (pid == 0) {
        struct heard h = {0};
        struct rig r = listening(&h);

        if (write(ready[1], "1", 1) != 1)
            _exit(1);
        hear(r.c, &h.requested, 1, HEARD_S);
        for (int i = 0; i < 3; i++) { /* it goes on as if nothing had been said */
            does_dma(&r);
            OK(r.c, map1(r.c, r.space, r.scratch.id, IOVA, 0, PAGE));
            OK(r.c, unmap1(r.c, r.space, IOVA, PAGE));
        }
        if (write(ready[1], h.requested == 1 ? "2" : "?", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ready[1]);
    tap_check(read(ready[0], &byte, 1) == 1 && byte == '1', "the client has failed");
    ROOT("unbind_later %s", DEVICE_C);
    tap_check(read(ready[0], &byte, 1) == 1 && byte == '2', "the client has failed, or heard nothing");
    tap_check(root("test -e $work/done") != 0, "a client that uses its device has lost it");
    ROOT("state_of %s", DEVICE_C);
    tap_check(strstr(root_said(), "\"claimed\""), "%s", root_said());
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    ROOT("done_within %d", DONE_S);
    becomes(DEVICE_C, "\"unusable\"");
    ROOT("bind_vfio %s", DEVICE_C);
    becomes(DEVICE_C, "\"free\"");
}
