/* What tests of the model share: the model, the last error, and an end that sees whether everything went back. set_up() is each
 * test program's own, and notes count_fds() in fds. */
#ifndef VB_TESTS_MODEL_FIXTURE_H
#define VB_TESTS_MODEL_FIXTURE_H

#include "tests/unit/core-fixture.h"

static struct vb_model *m;
static struct vb_error e;
static unsigned fds;

/* Whatever a test leaves behind, freeing the model takes everything back. */
static inline int tear_down(void **state) {
    (void)state;
    check_model(m);
    vb_model_empty(m);
    assert_int_equal(vb_emulated_objects(m->backend), 0);
    assert_int_equal(m->ledger.used, 0);
    m = vb_model_free(m);
    assert_int_equal(count_fds(), fds);
    return 0;
}

static inline struct vb_error *fresh(void) {
    memset(&e, 0, sizeof(e));
    return &e;
}

#define REFUSED(call, expected, ...)                                                                                   \
    do {                                                                                                               \
        assert_int_equal((call), (expected));                                                                          \
        assert_int_equal(e.code, (expected));                                                                          \
        assert_text(&e, __VA_ARGS__, NULL);                                                                            \
        check_model(m);                                                                                                \
    } while (0)

static inline void arm(enum vb_emulated_call call, uint64_t nth, int error, bool onwards) {
    vb_emulated_knobs(m->backend)->fault[call] =
        (struct vb_emulated_fault){.nth = nth, .error = error, .onwards = onwards};
}

#endif
