/* See devices.h. */
#include <stdlib.h>
#include <string.h>

#include "devices.h"

static const struct tap_case devices[] = {
    {"blocks go to an NVMe disk and come back, by a driver of our own", case_nvme, 120},
    {"a neighbour on a driver of the host keeps the whole group from being claimed", case_group_neighbour, 0},
    {"the devices of a group belong to one session, and do DMA in one space", case_group_one_session, 120},
    {"the devices of a group cannot be in two spaces", case_group_two_spaces, 0},
    {"a group is held until the last of its devices is closed", case_group_held, 0},
    {"a device comes and goes 20 times while another one does DMA", case_plug_under_dma, 240},
    {"a late device gets every mapping", case_late_device, 120},
    {"the host unbinds a device: the client hears it, and gives it back", case_wanted_unbind, 120},
    {"the host removes a device, and finds it again", case_wanted_remove, 120},
    {"a client that ignores the host keeps its device until it dies", case_wanted_ignored, 120},
    {"an mdev is claimed, attached and held like a PCI device", case_mdev, 0},
    {"a session with an mdev pays for what the backend says", case_mdev_pays, 0},
    {"a device reaches another one's registers until they are taken back", case_dmabuf, 120},
    {"device memory goes with its device", case_dmabuf_closed, 120},
    {"what is no device memory is refused as such", case_dmabuf_refused, 0},
    {"discarded pages: devices write to the new ones, and the ledger is right in between", case_discard, 240},
    {"a bare punch leaves devices with the old pages", case_bare_punch, 120},
    {"a mapping in the MSI window is refused, or left out", case_conflict, 120},
    {"later mappings in the MSI window are left out for who leaves out", case_conflict_later, 120},
};
static const struct tap_case noiommu[] = {
    {"a device without an IOMMU is refused, and listed as such", case_noiommu, 0}};

int main(int argc, char **argv) {
    const char *only = argc > 1 ? argv[1] : NULL;

    if (strcmp(getenv("VB_TEST_SET"), "noiommu") == 0)
        return tap_run(noiommu, sizeof noiommu / sizeof noiommu[0], only);
    return tap_run(devices, sizeof devices / sizeof devices[0], only);
}
