/* Runs the conformance suite: `conformance [WORD]` runs the cases whose name contains WORD; `conformance --no-grant` is run
 * as somebody to whom policy grants nothing. See tests/conformance/run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conformance.h"

char test_devices[2][64];
char test_denied[64];

static void case_no_grant(void) {
    struct vfb_client *c;

    tap_check(vfb_client_new(&c) == 0, "no memory");
    REFUSED(c, vfb_connect(c, NULL, "nobody"), VFB_DENIED);
    says_number(c, (uint64_t)getuid());
    vfb_client_free(c);
}

static const struct tap_case no_grant_cases[] = {{"a user to whom policy grants nothing is refused", case_no_grant, 0}};

static size_t append(struct tap_case *to, size_t n, const struct tap_case *from, size_t n_from) {
    memcpy(to + n, from, n_from * sizeof *from);
    return n + n_from;
}

int main(int argc, char **argv) {
    const char *devices = getenv("VB_TEST_DEVICES"), *denied = getenv("VB_TEST_DENIED");
    static struct tap_case all[200];
    size_t n = 0;

    if (argc > 1 && strcmp(argv[1], "--no-grant") == 0)
        return tap_run(no_grant_cases, 1, NULL);
    if (argc > 2 || (argc > 1 && argv[1][0] == '-') || !devices || !denied || strlen(denied) >= sizeof test_denied ||
        sscanf(devices, "%63s %63s", test_devices[0], test_devices[1]) != 2) {
        fprintf(stderr, "usage: VFIO_BROKER_SOCKET=PATH VB_TEST_DEVICES='ADDRESS ADDRESS' VB_TEST_DENIED=ADDRESS "
                        "conformance [WORD | --no-grant]\n");
        return 2;
    }
    strcpy(test_denied, denied);
    n = append(all, n, connection_cases, n_connection_cases);
    n = append(all, n, memory_cases, n_memory_cases);
    n = append(all, n, mapping_cases, n_mapping_cases);
    n = append(all, n, limit_cases, n_limit_cases);
    n = append(all, n, views_cases, n_views_cases);
    n = append(all, n, device_cases, n_device_cases);
    n = append(all, n, dma_cases, n_dma_cases);
    n = append(all, n, loop_cases, n_loop_cases);
    n = append(all, n, pins_cases, n_pins_cases);
    n = append(all, n, domains_cases, n_domains_cases);
    n = append(all, n, dirty_cases, n_dirty_cases);
    n = append(all, n, discard_cases, n_discard_cases);
    n = append(all, n, events_cases, n_events_cases);
    return tap_run(all, n, argc > 1 ? argv[1] : NULL);
}
