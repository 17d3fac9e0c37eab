/* In a VM without IOMMU, with enable_unsafe_noiommu_mode of the module vfio: vfio-pci makes groups that translate nothing. */
#include <string.h>

#include "devices.h"

void case_noiommu(void) {
    struct vfb_client *c = join();
    struct vfb_device d = {.fd = -1};
    struct vfb_device_info *list;
    size_t n, seen = 0;

    ROOT("driver_of %s", DEVICE_A);
    tap_check(strcmp(root_said(), "vfio-pci") == 0, "%s is bound to %s", DEVICE_A, root_said());
    ROOT("cat $pci/%s/iommu_group/name", DEVICE_A);
    tap_check(strcmp(root_said(), "vfio-noiommu") == 0, "its group is %s", root_said());
    REFUSED(c, vfb_device_claim(c, DEVICE_A, &d), VFB_STATE);
    says(c, "no-IOMMU");
    says(c, "all memory");
    tap_diag("%s", vfb_error(c)->text);
    tap_check(d.fd == -1 && usage(c).devices == 0, "something was claimed");
    ROOT("ls /dev/vfio/noiommu-*"); /* it is there to be opened, and was not */
    ROOT("! ls -l /proc/$broker_pid/fd /proc/[0-9]*/fd 2>/dev/null | grep noiommu");
    OK(c, vfb_device_list(c, &list, &n));
    for (size_t i = 0; i < n; i++) {
        tap_diag("%s %s: %s", list[i].address, list[i].state, list[i].reason);
        if (strcmp(list[i].address, DEVICE_A) != 0)
            continue;
        seen++;
        tap_check(strcmp(list[i].state, "unusable") == 0 && strstr(list[i].reason, "no-IOMMU"), "%s: %s", list[i].state,
                  list[i].reason);
    }
    tap_check(seen == 1, "%s is listed %zu times", DEVICE_A, seen);
    ROOT("state_of %s", DEVICE_A);
    tap_check(strstr(root_said(), "unusable") && strstr(root_said(), "no-IOMMU"), "%s", root_said());
}
