/* The conformance suite: every request of the client API against a running broker, the same source for every backend.
 *
 * Each case is a process and a connection of its own (tests/lib/tap.h) and ends at the first thing that is wrong. The
 * environment says what to test with: VFIO_BROKER_SOCKET, VB_TEST_DEVICES (two granted addresses), VB_TEST_DENIED (one
 * that exists and is not granted). The backend is learnt from vfb_info(). */
#ifndef VB_CONFORMANCE_H
#define VB_CONFORMANCE_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/lib/tap.h"
#include "tests/lib/testdev.h"
#include "vfio-broker.h"

#define PAGE 4096ull
#define MIB  (1ull << 20)
/* Every device of the tests reserves it: VT-d's, and the emulated backend's. */
#define MSI_FIRST 0xfee00000ull
#define MSI_LAST  0xfeefffffull

extern char test_devices[2][64];
extern char test_denied[64];

/* The call succeeds, or the case fails with what the broker said. */
#define OK(client, call)                                                                                               \
    do {                                                                                                               \
        int ok_r = (call);                                                                                             \
        tap_check(ok_r == 0, "%s returned %s: %s", #call, vfb_code_name(ok_r), vfb_error(client)->text);               \
    } while (0)
/* The call is refused with exactly this code, and a sentence. More is looked at by says() and says_number(). */
#define REFUSED(client, call, expected)                                                                                \
    do {                                                                                                               \
        int rf_r = (call);                                                                                             \
        tap_check(rf_r == (expected), "%s returned %s instead of %s: %s", #call, vfb_code_name(rf_r),                  \
                  vfb_code_name(expected), rf_r ? vfb_error(client)->text : "it was accepted");                        \
        tap_check(vfb_error(client)->code == (expected) && vfb_error(client)->text[0], "vfb_error() is %s: \"%s\"",    \
                  vfb_code_name(vfb_error(client)->code), vfb_error(client)->text);                                    \
    } while (0)
#define REFUSED_ENTRY(client, call, expected, n)                                                                       \
    do {                                                                                                               \
        REFUSED(client, call, expected);                                                                               \
        tap_check(vfb_error(client)->entry == (n), "entry is %ld: %s", vfb_error(client)->entry,                       \
                  vfb_error(client)->text);                                                                            \
    } while (0)

/* The last error's sentence has this in it. */
void says(struct vfb_client *c, const char *word);
/* ... this number, in hexadecimal, decimal or as "64 MiB". */
void says_number(struct vfb_client *c, uint64_t n);

struct vfb_client *join(void);

/* A registered memory that we see too. */
struct mem {
    int fd;
    uint8_t *p;
    uint64_t size;
    uint32_t id;
};
int memfd(uint64_t size, unsigned flags);
void map_host(struct mem *m);
/* A memfd, filled with a pattern that differs from byte to byte and has no zeros, registered writable. */
struct mem mem_new(struct vfb_client *c, uint64_t size);
void fill(uint8_t *p, uint64_t size, unsigned seed);

uint32_t space_new(struct vfb_client *c);
/* One mapping, read-write; and its removal. */
int map1(struct vfb_client *c, uint32_t space, uint32_t memory, uint64_t iova, uint64_t offset, uint64_t size);
int map_prot(struct vfb_client *c, uint32_t space, uint32_t memory, uint64_t iova, uint64_t offset, uint64_t size,
             uint32_t prot);
int unmap1(struct vfb_client *c, uint32_t space, uint64_t iova, uint64_t size);
struct vfb_usage usage(struct vfb_client *c);
/* What is paid: each page once (VFB_FEATURE_SHARED_PINS), or each mapping, in each domain that has it. */
bool shares(struct vfb_client *c);
uint64_t paid(struct vfb_client *c, uint64_t shared, uint64_t each);
struct vfb_space_info describe(struct vfb_client *c, uint32_t space);

/* Claims, waiting up to 10 s while the session of the case before still gives the device back. */
struct vfb_device claim(struct vfb_client *c, const char *address);
struct vfb_device claim_bound(struct vfb_client *c, const char *address);
/* Claims for a space, and binds. */
struct vfb_device claim_for(struct vfb_client *c, const char *address, uint32_t space);

/* A device attached to a space, able to do DMA. Its scratch page is mapped at SCRATCH_IOVA of the space by rig_new(). */
#define SCRATCH_IOVA 0x10000ull
struct rig {
    struct vfb_client *c;
    uint32_t space;
    struct vfb_device d;
    struct testdev t;
    struct mem scratch;
};
struct rig rig_new(struct vfb_client *c, const char *address);
struct rig rig_in(struct vfb_client *c, const char *address, uint32_t space, struct mem scratch);
/* With a device that is attached already. */
struct rig rig_of(struct vfb_client *c, struct vfb_device d, uint32_t space, struct mem scratch);
void rig_end(struct rig *r); /* with the client */
/* What the device reads at iova is what memory has at p; what it writes there arrives at p. */
void dma_reaches(struct rig *r, uint64_t iova, uint8_t *p);
/* Neither reading nor writing gets through, and the bytes at p (NULL: none) stay as they are. */
void dma_refused(struct rig *r, uint64_t iova, const uint8_t *p);

#define CASES(family)                                                                                                  \
    extern const struct tap_case family##_cases[];                                                                     \
    extern const size_t n_##family##_cases
CASES(connection);
CASES(memory);
CASES(mapping);
CASES(limit);
CASES(device);
CASES(dma);
CASES(loop);
CASES(views);
CASES(pins);
CASES(domains);
CASES(dirty);
CASES(discard);
CASES(events);
#define DEFINE_CASES(family, ...)                                                                                      \
    const struct tap_case family##_cases[] = {__VA_ARGS__};                                                            \
    const size_t n_##family##_cases = sizeof family##_cases / sizeof family##_cases[0]

#endif
