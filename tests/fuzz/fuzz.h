/* What the fuzz targets share: taking an input apart.
 *
 * A target is one source file with LLVMFuzzerTestOneInput(). Linked with libFuzzer it fuzzes; linked with replay.c it runs
 * the inputs it is given, with any compiler. Whatever is wrong ends in abort(), so that both notice. */
#ifndef VB_TESTS_FUZZ_H
#define VB_TESTS_FUZZ_H

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_CHECK(cond)                                                                                               \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                                                 \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

struct fuzz_in {
    const uint8_t *p;
    size_t n;
};

static inline uint8_t fuzz_u8(struct fuzz_in *in) {
    if (in->n == 0)
        return 0;
    in->n--;
    return *in->p++;
}

static inline uint64_t fuzz_raw(struct fuzz_in *in, unsigned bytes) {
    uint64_t v = 0;

    while (bytes--)
        v = v << 8 | fuzz_u8(in);
    return v;
}

/* Numbers that mean something to the model, or any. */
static inline uint64_t fuzz_number(struct fuzz_in *in) {
    static const uint64_t menu[] = {0,          1,          0x1000,     0x2000,     0x4000,           0x8000,
                                    0x10000,    0x100000,   0x101000,   0xfee00000, 0xfedff000,       0xfff,
                                    1ull << 32, 1ull << 47, 1ull << 48, 1ull << 63, ~0ull - 0xfffull, ~0ull,
                                    0xffffffff};
    uint8_t b = fuzz_u8(in);

    if (b < sizeof menu / sizeof *menu)
        return menu[b];
    return b < 0x80 ? (uint64_t)(b & 0x3f) << 12 : b < 0xf0 ? b : fuzz_raw(in, 8);
}

/* The next n bytes at most. */
static inline struct fuzz_in fuzz_part(struct fuzz_in *in, size_t n) {
    struct fuzz_in part = {in->p, n < in->n ? n : in->n};

    in->p += part.n;
    in->n -= part.n;
    return part;
}

/* The lowest free fd: the same before and after an input, or a fd has leaked. */
static inline int fuzz_lowest_fd(void) {
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    if (fd >= 0)
        close(fd);
    return fd;
}

#endif
