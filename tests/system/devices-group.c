/* Two edus and a virtio device behind one bridge: one IOMMU group. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices.h"

static void free_neighbour(void) {
    ROOT("[ ! -e $pci/%s/driver ] || unbind %s", NEIGHBOUR, NEIGHBOUR); /* no driver does no harm */
}

/* The claim is refused and nothing is left of it; "" for text: whatever it says. */
static void not_claimed(struct vfb_client *c, const char *address, int code, const char *text) {
    struct vfb_device d = {.fd = -1};
    uint32_t devices = usage(c).devices;

    REFUSED(c, vfb_device_claim(c, address, &d), code);
    says(c, address);
    says(c, text);
    tap_check(d.fd == -1 && usage(c).devices == devices, "something was claimed");
}

void case_group_neighbour(void) {
    struct vfb_client *c = join();
    struct rig r;

    ROOT("give_back %s && driver_of %s", NEIGHBOUR, NEIGHBOUR);
    tap_check(strcmp(root_said(), "virtio-pci") == 0, "%s is bound to %s", NEIGHBOUR, root_said());
    not_claimed(c, IN_GROUP_A, VFB_STATE, NEIGHBOUR);
    tap_diag("%s", vfb_error(c)->text);
    not_claimed(c, IN_GROUP_B, VFB_STATE, "virtio-pci");
    ROOT("state_of %s", IN_GROUP_A);
    tap_check(strstr(root_said(), "unusable") && strstr(root_said(), NEIGHBOUR), "listed as: %s", root_said());

    free_neighbour();
    r = rig_new(c, IN_GROUP_A);
    does_dma(&r);
    rig_release(&r);
}

void case_group_one_session(void) {
    struct vfb_client *other = join();
    struct rig a, b;
    struct mem m;

    free_neighbour();
    a = rig_new(join(), IN_GROUP_A);
    m = mem_new(a.c, MIB);
    OK(a.c, map1(a.c, a.space, m.id, IOVA, 0, MIB));
    not_claimed(other, IN_GROUP_B, VFB_BUSY, IN_GROUP_A);
    tap_diag("%s", vfb_error(other)->text);
    ROOT("state_of %s", IN_GROUP_B);
    tap_check(!strstr(root_said(), "\"free\""), "the other device of a claimed group is listed as: %s", root_said());

    b = rig_beside(&a, IN_GROUP_B); /* the same session has it */
    dma_reaches(&a, IOVA, m.p);
    dma_reaches(&b, IOVA + 0x8000, m.p + 0x8000);
    tap_check(usage(a.c).used == MIB + 2 * PAGE, "used %llu: a group's devices share what is pinned",
              (unsigned long long)usage(a.c).used);

    /* One of them leaves: the other goes on, and the group stays this session's. */
    rig_release(&b);
    dma_reaches(&a, IOVA + 0x10000, m.p + 0x10000);
    not_claimed(other, IN_GROUP_B, VFB_BUSY, IN_GROUP_A);
    OK(a.c, unmap1(a.c, a.space, SCRATCH_B, PAGE));
    b = rig_beside(&a, IN_GROUP_B); /* and comes back */
    dma_reaches(&b, IOVA + 0x18000, m.p + 0x18000);
    OK(a.c, vfb_device_detach(a.c, a.d.id));
    dma_reaches(&b, IOVA + 0x20000, m.p + 0x20000);
    rig_release(&a);
    dma_reaches(&b, IOVA + 0x28000, m.p + 0x28000);
    not_claimed(other, IN_GROUP_A, VFB_BUSY, IN_GROUP_B);
    rig_release(&b);
    claim(other, IN_GROUP_A); /* the last one has left */
}

void case_group_two_spaces(void) {
    struct rig a;
    struct vfb_device b;
    struct mem m;
    uint32_t other;
    struct vfb_usage before;
    int r;

    free_neighbour();
    a = rig_new(join(), IN_GROUP_A);
    m = mem_new(a.c, PAGE);
    other = space_new(a.c);
    OK(a.c, map1(a.c, other, m.id, IOVA, 0, PAGE));
    b = claim_bound(a.c, IN_GROUP_B);
    before = usage(a.c);
    r = vfb_device_attach(a.c, b.id, other);
    tap_diag("attach to another space: %s: %s", vfb_code_name(r), vfb_error(a.c)->text);
    tap_check(r == VFB_BUSY || r == VFB_STATE || r == VFB_UNSUPPORTED || r == VFB_RESERVED,
              "two spaces for one group: %s", vfb_code_name(r));
    says(a.c, IN_GROUP_B);
    says(a.c, "group");
    tap_check(usage(a.c).used == before.used, "a refused attach is paid");
    /* Nothing has changed: the first one works, and the second one can join it, and move with it. */
    does_dma(&a);
    OK(a.c, vfb_device_attach(a.c, b.id, a.space));
    OK(a.c, vfb_device_detach(a.c, b.id));
    OK(a.c, vfb_device_detach(a.c, a.d.id));
    OK(a.c, vfb_device_attach(a.c, b.id, other));
    REFUSED(a.c, vfb_device_attach(a.c, a.d.id, a.space), r);
    OK(a.c, map1(a.c, other, a.scratch.id, SCRATCH_IOVA, 0, PAGE));
    OK(a.c, vfb_device_attach(a.c, a.d.id, other));
    a.t.known = 0;
    dma_reaches(&a, IOVA, m.p);
    rig_release(&a);
    OK(a.c, vfb_device_release(a.c, b.id));
    close(b.fd);
}

void case_group_held(void) {
    struct vfb_client *c = join(), *other = join();
    struct vfb_device a, b;
    int pipe_fds[2];
    pid_t keeper;

    free_neighbour();
    a = claim_bound(c, IN_GROUP_A);
    b = claim_bound(c, IN_GROUP_B);
    tap_check(pipe(pipe_fds) == 0 && (keeper = fork()) >= 0, "%s", strerror(errno));
    if (keeper == 0) { /* has a copy of b until the pipe ends */
        char byte;

        close(pipe_fds[1]);
        close(a.fd);
        _exit(read(pipe_fds[0], &byte, 1) == 0 ? 0 : 1);
    }
    close(pipe_fds[0]);
    OK(c, vfb_device_release(c, a.id));
    OK(c, vfb_device_release(c, b.id));
    close(a.fd);
    close(b.fd);
    becomes(IN_GROUP_B, "\"held\"");
    not_claimed(other, IN_GROUP_B, VFB_BUSY, "held");
    tap_diag("%s", vfb_error(other)->text);
    not_claimed(other, IN_GROUP_A, VFB_BUSY, "group"); /* closed, but its group is not free */
    close(pipe_fds[1]);
    tap_check(waitpid(keeper, NULL, 0) == keeper, "%s", strerror(errno));
    b = claim(other, IN_GROUP_B);
    OK(other, vfb_device_bind(other, b.id));
}
