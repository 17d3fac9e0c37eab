/* The oracle of the randomised run: what a session must answer, pay and pin, known from the public header alone.
 *
 * It counts for every 4 KiB page of a memory how many mappings show it, and how many of those a device reaches. That is slow,
 * and too simple to be wrong in the same way as the daemon, which counts runs of pages.
 *
 * A *memory* is a file with one access: number 2 * file, plus 1 if it may be written. The same file with the same access is
 * one memory however often it is registered; with the other access it is another one, pinned and paid for itself.
 *
 * Questions return the reasons for which a call must be refused, a set of 1 << enum vfb_code; none: it must succeed. What has then
 * happened is told to the oracle by the verbs. Entries name memories by the numbers above. */
#ifndef VB_TESTS_LEDGER_ORACLE_H
#define VB_TESTS_LEDGER_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vfio-broker.h"

enum { O_PAGE = 4096, O_FILES = 3, O_MEMORIES = 2 * O_FILES, O_SPACES = 4, O_DEVICES = 4, O_MAPPINGS = 512 };

enum oracle_state { O_FREE, O_CLAIMED, O_BOUND, O_ATTACHED };

struct oracle_file {
    uint64_t n, size; /* pages of 4 KiB: when registered; now */
    uint8_t *present; /* for each of n */
    bool hugetlb;
};

struct oracle_memory {
    struct oracle_file *file;
    bool writable;
    uint32_t registered, mappings;
    uint16_t *shown, *reached, *locked; /* for each page: mappings; those that a device reaches; pins */
};

struct oracle_mapping {
    bool live;
    uint32_t space;
    struct oracle_memory *memory;
    uint64_t page; /* of the memory, the first */
    uint64_t iova, size;
};

struct oracle {
    struct oracle_file files[O_FILES];
    struct oracle_memory memories[O_MEMORIES];
    struct {
        bool live;
        uint32_t devices; /* attached */
    } spaces[O_SPACES];
    struct {
        enum oracle_state state;
        uint32_t space; /* when attached */
    } devices[O_DEVICES];
    struct oracle_mapping mappings[O_MAPPINGS];
    uint64_t n_mappings, n_max;
    uint64_t mapped, paid, pinned, locked; /* bytes: aliases counted; the ledger's; VmPin; mlocked for pins */
    uint64_t limit, own, sibling;          /* bytes: the client's; its own VmLck; paid by its other session */
    uint64_t lease;                        /* bytes: of the session, just before the question */
};

unsigned oracle_register(const struct oracle_memory *m);
unsigned oracle_unregister(const struct oracle_memory *m);
/* ret_fresh: bytes that nothing has paid yet. */
unsigned oracle_map(struct oracle *o, uint32_t space, const struct vfb_map *entries, size_t n, uint64_t *ret_fresh);
unsigned oracle_unmap(struct oracle *o, uint32_t space, const struct vfb_unmap *entries, size_t n, uint64_t *ret_bytes);
unsigned oracle_attach(struct oracle *o, uint32_t device, uint32_t space);

void oracle_mapped(struct oracle *o, uint32_t space, const struct vfb_map *entries, size_t n);
/* Whatever lies in the range. */
void oracle_unmapped(struct oracle *o, uint32_t space, uint64_t iova, uint64_t size);
/* step 1: attached; -1: detached. */
void oracle_attached(struct oracle *o, uint32_t device, uint32_t space, int step);
/* One pin more (step 1) or less (-1): what it covers is locked, where it could be swapped. Returns why it must be refused, then it
 * has to be taken back. */
unsigned oracle_pinned(struct oracle *o, uint32_t space, uint64_t iova, uint64_t size, int step);

#endif
