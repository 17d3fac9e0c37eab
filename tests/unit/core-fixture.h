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
#include <sys/socket.h>
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

static inline struct vb_model *make_model_with(const struct vb_emulated_knobs *knobs, uint64_t lease) {
    struct vb_backend *b = NULL;
    struct vb_model *m = NULL;

    assert_int_equal(vb_emulated_new(knobs, &b, NULL), 0);
    assert_int_equal(vb_model_new(b, VB_MAPPINGS_DEFAULT, &m), 0);
    m->ledger.lease = m->ledger.limit = lease;
    strcpy(m->ledger.whose, "RLIMIT_MEMLOCK of pid 1");
    return m;
}

static inline struct vb_model *make_model(uint64_t lease) {
    return make_model_with(NULL, lease);
}

static inline struct vb_memory *add_memory(struct vb_model *m, uint64_t size) {
    struct vb_memory *memory = NULL;

    assert_int_equal(vb_model_register(m, make_memory(size), true, 0, "ram", &memory, NULL), 0);
    return memory;
}

static inline struct vb_space *add_space(struct vb_model *m) {
    struct vb_space *s = NULL;

    assert_int_equal(vb_model_space_create(m, "bus", &s, NULL), 0);
    return s;
}

static const struct vb_reserved msi_window = {{0xfee00000, 0xfeefffff}, "msi"};

static inline int claim_device(struct vb_model *m, const char *address, uint32_t group,
                               const struct vb_reserved *reserved, size_t n_reserved, uint32_t space,
                               struct vb_device **ret_device, int *ret_fd, struct vb_error *e) {
    const struct vb_claim_desc c = {.address = address,
                                    .group = group,
                                    .reserved = reserved,
                                    .n_reserved = n_reserved,
                                    .fds = {-1, -1},
                                    .space = space};

    return vb_model_claim(m, &c, ret_device, ret_fd, e);
}

/* Claims, binds; the client's fd is the caller's. */
static inline struct vb_device *add_device_for(struct vb_model *m, const char *address, uint32_t space, int *ret_fd) {
    static uint32_t group;
    struct vb_device *d = NULL;

    assert_int_equal(claim_device(m, address, ++group, &msi_window, 1, space, &d, ret_fd, NULL), 0);
    assert_int_equal(vb_model_bind(m, d->id, NULL), 0);
    return d;
}

static inline struct vb_device *add_device(struct vb_model *m, const char *address, int *ret_fd) {
    return add_device_for(m, address, 0, ret_fd);
}

static inline int attach1(struct vb_model *m, uint32_t device, uint32_t space, struct vb_error *e) {
    struct vb_attached ret = {0};

    return vb_model_attach(m, device, space, false, &ret, e);
}

/* Leaving out what it cannot reach; returns how many mappings that are. */
static inline uint64_t attach_leaving_out(struct vb_model *m, uint32_t device, uint32_t space) {
    struct vb_attached ret = {0};

    assert_int_equal(vb_model_attach(m, device, space, true, &ret, NULL), 0);
    return ret.left_out;
}

static inline int release1(struct vb_model *m, uint32_t device, vb_handle *ret_handle, struct vb_error *e) {
    bool software;

    return vb_model_release(m, device, ret_handle, &software, e);
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

/* A domain's page table has exactly those mappings of the space that are not taken out and that it can have. */
static inline void check_domain(struct vb_model *m, struct vb_space *s, struct vb_domain *dom) {
    struct vb_mapping *p = vb_mapping_first(&s->tree, (struct vb_range){0, UINT64_MAX});
    size_t n = vb_emulated_dump(m->backend, dom->handle, NULL, 0), k = 0;
    struct vb_backend_map *maps = malloc((n + 1) * sizeof(*maps));
    uint64_t left_out = 0;

    if (dom->devices || !s->dirty)
        assert_int_equal(vb_emulated_tracks(m->backend, dom->handle), s->dirty);
    vb_emulated_dump(m->backend, dom->handle, maps, n);
    for (; p; p = vb_mapping_next(p)) {
        if (p->pending)
            continue;
        if (!vb_domain_fits(&dom->info, p->iova, p->offset) && dom->leaves_out) {
            left_out++;
            continue;
        }
        assert_true(k < n);
        assert_int_equal(p->iova.first, maps[k].iova);
        assert_int_equal(vb_range_size(p->iova), maps[k].size);
        assert_int_equal(p->offset, maps[k].offset);
        assert_int_equal(p->prot, maps[k].prot);
        assert_int_equal(p->memory->handle, maps[k].memory);
        k++;
    }
    assert_int_equal(k, n);
    assert_int_equal(left_out, dom->left_out);
    free(maps);
}

/* What must hold between any two operations; every mapping is compared with the emulated page tables. */
static inline void check_model(struct vb_model *m) {
    uint64_t covered = 0, each = 0, mappings = 0, pinned = 0;
    uint32_t i, attached = 0, k;

    for (i = 0; i < m->memories.n; i++) {
        const struct vb_charge *c = &((struct vb_memory *)m->memories.items[i])->charge;

        covered += vb_charge_paid(c);
        pinned += c->has_pinned ? c->pinned.covered - c->both : 0;
    }
    assert_int_equal(covered, m->ledger.used);
    for (i = 0; i < m->spaces.n; i++) {
        struct vb_space *s = m->spaces.items[i];
        struct vb_mapping *p = vb_mapping_first(&s->tree, (struct vb_range){0, UINT64_MAX});
        uint64_t n = 0, bytes = 0, out = 0;
        uint32_t devices = 0;
        struct vb_domain *dom;

        for (; p; p = vb_mapping_next(p)) {
            assert_false(p->leaving);
            each += vb_range_size(p->iova) * vb_domains_copies(m, s, p->iova, p->offset);
            out += p->pending;
            n += !p->pending;
            bytes += p->pending ? 0 : vb_range_size(p->iova);
        }
        assert_int_equal(n, s->mappings);
        assert_int_equal(out, s->discarded);
        assert_int_equal(bytes, s->mapped_bytes);
        mappings += n + out;
        TAILQ_FOREACH (dom, &s->domains, entry) {
            check_domain(m, s, dom);
            devices += dom->devices;
            assert_true(dom->devices || (m->backend->ops->eager && dom == TAILQ_FIRST(&s->domains)));
        }
        assert_int_equal(devices, s->devices);
        for (k = 0; k < m->devices.n; k++)
            attached += ((struct vb_device *)m->devices.items[k])->space == s;
        assert_int_equal(attached, devices);
        attached = 0;
    }
    assert_int_equal(mappings, m->mappings);
    if (!m->shared) /* each mapping is paid in each domain that has it */
        assert_int_equal(each + pinned, m->ledger.used);
}

/* The device writes `size` bytes, 64 at most. The reply's status. */
static inline int32_t dma_write(struct vb_model *m, const struct vb_device *d, int fd, uint64_t iova, uint32_t size) {
    union {
        struct vb_emulated_dma dma;
        uint8_t bytes[sizeof(struct vb_emulated_dma) + 64];
    } q = {.dma = {.op = VB_EMULATED_DMA_WRITE, .size = size, .iova = iova}};
    struct vb_emulated_dma_reply a;

    memset(q.dma.data, 0x77, size);
    assert_int_equal(send(fd, &q, sizeof(q.dma) + size, 0), sizeof(q.dma) + size);
    assert_int_equal(m->backend->ops->device_ready(m->backend, d->handle), 0);
    assert_int_equal(recv(fd, &a, sizeof(a), MSG_DONTWAIT), sizeof(a));
    return a.status;
}

/* Does the device reach these IOVAs? Asked of the page table, without DMA. */
static inline bool reaches(struct vb_model *m, const struct vb_device *d, uint64_t iova, uint64_t size) {
    return vb_emulated_reaches(m->backend, d->handle, (struct vb_range){iova, iova + (size - 1)});
}

#endif
