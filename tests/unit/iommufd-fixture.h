/* What tests of the iommufd backend on a booted kernel share: the edu devices of tests/vm/run, bound to vfio-pci, and what the
 * kernel itself says. Elsewhere `missing` says why they cannot run. Include instead of core-fixture.h. */
#ifndef TESTS_UNIT_IOMMUFD_FIXTURE_H
#define TESTS_UNIT_IOMMUFD_FIXTURE_H

#include "tests/unit/core-fixture.h"

#include "backend/iommufd-abi.h"
#include "backend/iommufd.h"

#define EDUS 3

extern const char *missing;        /* why this machine cannot run the tests; NULL: it can */
extern struct vb_workers *workers; /* real_model() gives them to the backend; NULL: none */
extern const char *const address[EDUS];
extern char cdev[EDUS][64]; /* "/dev/vfio/devices/vfio0" */

#define NEED_MACHINE()                                                                                                 \
    do {                                                                                                               \
        if (missing)                                                                                                   \
            skip();                                                                                                    \
    } while (0)

/* Set-up of a group of tests. */
int prepare(void **state);
void write_text(const char *path, const char *text);

/* As the daemon does it: the mode that charges the process which maps. */
int open_iommufd(void);
/* `iommufd` is consumed. */
struct vb_model *real_model(int iommufd, bool no_map_file);
/* As vb_model_claim(); `fd` is a cdev. n_reserved 1: the window of MSIs, 0: as if sysfs had told nothing. */
int claim_fd(struct vb_model *m, const char *name, bool software, size_t n_reserved, int fd,
             struct vb_device **ret_device, int *ret_client_fd, struct vb_error *error);
/* The IOAS behind a space's first domain. */
static inline uint32_t ioas_of(struct vb_model *m, uint32_t space) {
    return (uint32_t)TAILQ_FIRST(&vb_model_space(m, space, NULL)->domains)->handle;
}
/* Claims and binds edu number i; the client's fd is the caller's. */
struct vb_device *real_device(struct vb_model *m, int i, int *ret_client_fd);

/* nr_foll_pin_acquired - nr_foll_pin_released, of the whole kernel, so it does not depend on who is left: KERNEL.md. */
long pinned_pages(void);
/* Waits until they are `before` again: the counters are kept by CPU, and lag. */
void assert_pinned_pages(long before);
/* "VmPin", "VmLck" of /proc/self/status. */
long own_kib(const char *field);
static inline long own_pinned_kib(void) {
    return own_kib("VmPin");
}

/* ---- edu: hw/misc/edu.c of QEMU, docs/specs/edu.rst. At most 2048 bytes a transfer here, see VM.md. ---- */

struct edu {
    volatile uint64_t *bar;
    size_t size;
};

struct edu edu_open(int fd);
void edu_close(struct edu *edu);
/* Memory -> device -> memory. */
void edu_copy(struct edu *edu, uint64_t from, uint64_t to, uint64_t size);
/* Does the device reach `to`, shown at `offset` of `fd`? Its source is somewhere that it can read, not full of 0. */
bool edu_reaches(struct edu *edu, uint64_t from, uint64_t to, int fd, uint64_t offset);

/* One for each file. */
static struct vb_error e;

static inline struct vb_error *fresh(void) {
    memset(&e, 0, sizeof(e));
    return &e;
}

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        struct vb_error *e_ = fresh();                                                                                 \
        if ((call) != 0)                                                                                               \
            fail_msg("%s: %s", #call, e_->text);                                                                       \
    } while (0)

#endif
