/* What the tests of core and of the backends share. Include first: it brings what cmocka.h needs before it. */
#ifndef TESTS_UNIT_CORE_FIXTURE_H
#define TESTS_UNIT_CORE_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/emulated.h"
#include "core/model.h"

#define KIB (1024ull)
#define MIB (1024 * KIB)

/* The text must have all the parts, which end with NULL. */
static inline void assert_text(const struct vb_error *e, ...) {
    const char *part;
    va_list ap;

    va_start(ap, e);
    while ((part = va_arg(ap, const char *)))
        if (!strstr(e->text, part))
            fail_msg("\"%s\" does not say \"%s\"", e->text, part);
    va_end(ap);
}

static inline unsigned count_fds(void) {
    unsigned n = 0;
    int fd;

    for (fd = 0; fd < 512; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* A populated memfd; its bytes are their page's number. */
static inline int make_memory(uint64_t size) {
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    unsigned char page[4096];
    uint64_t i;

    assert_true(fd >= 0);
    for (i = 0; i < size / sizeof(page); i++) {
        memset(page, (int)i, sizeof(page));
        assert_int_equal(pwrite(fd, page, sizeof(page), (off_t)(i * sizeof(page))), sizeof(page));
    }
    return fd;
}

static inline int reopen(int fd, int flags) {
    char path[64];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    fd = open(path, flags | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

/* Random tests say their seed, and take it from SEED. */
static inline unsigned start_random(void) {
    const char *given = getenv("SEED");
    unsigned seed = given ? (unsigned)strtoul(given, NULL, 0) : (unsigned)time(NULL) ^ (unsigned)getpid();

    printf("# SEED=%u\n", seed);
    srand(seed);
    return seed;
}

static inline unsigned random_below(unsigned n) {
    return (unsigned)rand() % n;
}

static inline struct vb_model *make_model(uint64_t lease) {
    struct vb_backend *b = NULL;
    struct vb_model *m = NULL;

    assert_int_equal(vb_emulated_new(NULL, &b, NULL), 0);
    assert_int_equal(vb_model_new(b, VB_MAPPINGS_DEFAULT, &m), 0);
    m->ledger.lease = m->ledger.limit = lease;
    strcpy(m->ledger.whose, "RLIMIT_MEMLOCK of pid 1");
    return m;
}

static inline struct vb_memory *add_memory(struct vb_model *m, uint64_t size) {
    struct vb_memory *memory = NULL;

    assert_int_equal(vb_model_register(m, make_memory(size), true, "ram", &memory, NULL), 0);
    return memory;
}

static inline struct vb_space *add_space(struct vb_model *m) {
    struct vb_space *s = NULL;

    assert_int_equal(vb_model_space_create(m, "bus", &s, NULL), 0);
    return s;
}

static const struct vb_reserved msi_window = {{0xfee00000, 0xfeefffff}, "msi"};

/* Claims, binds; the client's fd is the caller's. */
static inline struct vb_device *add_device(struct vb_model *m, const char *address, int *ret_fd) {
    struct vb_device *d = NULL;

    assert_int_equal(vb_model_claim(m, address, 1, &msi_window, 1, -1, &d, ret_fd, NULL), 0);
    assert_int_equal(vb_model_bind(m, d->id, NULL), 0);
    return d;
}

static inline int map1(struct vb_model *m, uint32_t space, uint32_t memory, uint64_t iova, uint64_t size,
                       uint64_t offset, uint32_t prot, struct vb_error *e) {
    const struct vb_map_entry t = {.iova = iova, .size = size, .offset = offset, .memory = memory, .prot = prot};

    return vb_model_map(m, space, &t, 1, e);
}

static inline int unmap1(struct vb_model *m, uint32_t space, uint64_t iova, uint64_t size, uint64_t *ret_mappings,
                         uint64_t *ret_bytes, struct vb_error *e) {
    const struct vb_unmap_entry t = {.iova = iova, .size = size};

    return vb_model_unmap(m, space, &t, 1, ret_mappings, ret_bytes, e);
}

/* What must hold between any two operations; every mapping is compared with the emulated page table. */
static inline void check_model(struct vb_model *m) {
    uint64_t covered = 0, mappings = 0;
    uint32_t i;

    for (i = 0; i < m->memories.n; i++)
        covered += vb_charge_paid(&((struct vb_memory *)m->memories.items[i])->charge);
    assert_int_equal(covered, m->ledger.used);
    for (i = 0; i < m->spaces.n; i++) {
        struct vb_space *s = m->spaces.items[i];
        struct vb_mapping *p = vb_mapping_first(&s->tree, (struct vb_range){0, UINT64_MAX});
        size_t n = vb_emulated_dump(m->backend, s->handle, NULL, 0), k;
        struct vb_backend_map *maps = malloc((n + 1) * sizeof(*maps));
        uint64_t bytes = 0;

        vb_emulated_dump(m->backend, s->handle, maps, n);
        assert_int_equal(n, s->mappings);
        for (k = 0; k < n; k++, p = vb_mapping_next(p)) {
            assert_non_null(p);
            assert_false(p->pending || p->leaving);
            assert_int_equal(p->iova.first, maps[k].iova);
            assert_int_equal(vb_range_size(p->iova), maps[k].size);
            assert_int_equal(p->offset, maps[k].offset);
            assert_int_equal(p->prot, maps[k].prot);
            assert_int_equal(p->memory->handle, maps[k].memory);
            bytes += maps[k].size;
        }
        assert_null(p);
        assert_int_equal(bytes, s->mapped_bytes);
        mappings += n;
        free(maps);
    }
    assert_int_equal(mappings, m->mappings);
}

#endif
