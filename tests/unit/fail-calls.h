/* Failures on demand: the n-th system call of what is tested, without making it (linked with --wrap), or the n-th allocation or
 * copy from and to us inside the kernel (Documentation/fault-injection/fault-injection.rst). */
#ifndef TESTS_UNIT_FAIL_CALLS_H
#define TESTS_UNIT_FAIL_CALLS_H

#include <stdbool.h>

/* Each call can fail in so many ways; the last one is EINTR where that may be. */
#define FAIL_WAYS 6

/* The n-th call from now on fails, and with `onwards` all that follow. */
void fail_call(unsigned nth, unsigned way, bool onwards);
/* Ends that; returns how many were made to fail. */
unsigned fail_call_end(void);

/* False: this kernel cannot, or we may not. */
bool fail_kernel_prepare(void);
void fail_kernel(unsigned nth);
/* Ends that; did it happen? */
bool fail_kernel_end(void);

#endif
