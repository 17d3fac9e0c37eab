/* A client with one space and up to two edu devices, whose mappings are single pages: what tests/system/entries does with
 * the number of mappings that a type1 container can have. Everything here ends the test case when it fails.
 *
 * Page i of the space lies at page_iova(g, i) and shows page i % pages of one memory. With stride 1 pages are adjacent, in IOVA
 * and, but for where the memory begins anew, in offset; with stride 2 no two are. One page more, a mapping of its own, is what
 * testdev needs (tests/lib/testdev.h). */
#ifndef VB_TESTS_ENTRIES_H
#define VB_TESTS_ENTRIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/lib/tap.h"
#include "tests/lib/testdev.h"
#include "vfio-broker.h"

#define PAGE  4096ull
#define BATCH 1024u  /* vfb_info()->batch_max */
#define LIMIT 65535u /* dma_entry_limit (drivers/vfio/vfio_iommu_type1.c) */

#define OK(g, call)                                                                                                    \
    do {                                                                                                               \
        int ok_r = (call);                                                                                             \
        tap_check(ok_r == 0, "%s returned %s: %s", #call, vfb_code_name(ok_r), vfb_error((g)->c)->text);               \
    } while (0)

struct device {
    char address[64];
    struct vfb_device d;
    struct testdev dma;
};

struct rig {
    struct vfb_client *c;
    uint32_t space, memory;
    uint64_t pages, stride;
    uint8_t *p;       /* the memory */
    uint8_t *scratch; /* the one page more, at SCRATCH_IOVA of every space */
    uint32_t scratch_memory;
    struct device device[2];
};

#define SCRATCH_IOVA 0x10000ull

/* A connection, the memory, a space with the scratch page in it. No device. */
struct rig rig_new(uint64_t pages, uint64_t stride);
void map_scratch(struct rig *g, uint32_t space);
void use_device(struct rig *g, unsigned i); /* claims and binds it */
void attach(struct rig *g, unsigned i);

uint64_t page_iova(const struct rig *g, uint64_t i);
/* Pages first to first + n - 1, in batches of `batch`; stops at the first batch that fails and returns its result. *ret_done:
 * pages that are mapped. */
int map_pages(struct rig *g, uint64_t first, uint64_t n, size_t batch, uint64_t *ret_done);
/* In one request, an entry for each `step`th of the pages; all have to be there. */
void unmap_pages(struct rig *g, uint64_t first, uint64_t n, uint64_t step);

/* Device i reads page `page` as it is in memory, and what it writes arrives there. */
void reaches(struct rig *g, unsigned i, uint64_t page);
void faults(struct rig *g, unsigned i, uint64_t page);

/* What the broker says it has: to be the same before and after what was refused. */
struct state {
    uint64_t mappings, bytes, used, tables, session_mappings;
};
struct state state_of(struct rig *g);
void same_state(const struct state *was, struct rig *g, const char *after);
/* VFB_LIMIT, and its text tells the number, the device and the way out. */
void clearly_refused(struct rig *g, int result);

#endif
