/* What tests of the type1 backend on a booted kernel share: groups and containers, opened as the daemon does it. The edu devices and
 * what the kernel says are those of iommufd-fixture.h. The compatibility container is tested by the same programs, with the argument
 * "compat": an iommufd in the place of each container. */
#ifndef TESTS_UNIT_TYPE1_FIXTURE_H
#define TESTS_UNIT_TYPE1_FIXTURE_H

#include "tests/unit/iommufd-fixture.h"

#include <linux/vfio.h>
#include <sys/ioctl.h>

#include "backend/type1-private.h"

extern bool compat;
extern const char *no_type1;        /* why this machine cannot run the tests */
extern struct vb_backend *b;        /* of the test that runs */
extern struct vb_error *const said; /* by what of the following was called last */

#define NEED_TYPE1()                                                                                                   \
    do {                                                                                                               \
        if (no_type1)                                                                                                  \
            skip();                                                                                                    \
    } while (0)

/* Set-up of a group of tests: binds the edu devices to vfio-pci. */
int prepare_type1(void **state);
int parse_arguments(int argc, char **argv);

uint32_t group_number(int i);
/* -1 and errno if somebody has it. */
int open_group(int i);
int open_container(void);
/* Nobody has the group or a device of it any more; waits a moment, since the kernel closes late. */
void assert_group_free(int i);

/* A fresh backend in `b`, and its end: nothing is left in the kernel. */
void begin(void);
void end(void);
/* After a test that failed, so that the next one can run. */
int sweep(void **state);

/* edu number i, in a container of its own or in that of `with`. */
int try_device(int i, vb_handle with, vb_handle *ret, int *ret_client_fd);
vb_handle device(int i, vb_handle with, int *ret_client_fd);
/* Attached to its container. */
vb_handle domain_of(vb_handle dev);
void close_device(vb_handle dev);
/* Waits until nobody has it open. */
void await_not_in_use(vb_handle dev);

/* Populated; *ret_fd is the caller's. */
vb_handle memory(uint64_t size, int *ret_fd);
int try_map(vb_handle domain, vb_handle mem, uint64_t iova, uint64_t size, uint64_t offset, uint32_t prot);
void map(vb_handle domain, vb_handle mem, uint64_t iova, uint64_t size, uint64_t offset);
int unmap(vb_handle domain, uint64_t iova, uint64_t size);
/* n mappings of a page each, one after the other, from offset 0 on (again from 0 after `around` pages); 0 or what map() said. */
int map_pages(vb_handle domain, vb_handle mem, uint64_t iova, size_t n, size_t around, size_t *ret_done);

#endif
