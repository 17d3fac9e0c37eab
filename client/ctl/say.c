/* What vfio-brokerctl says to people: on stderr, after what is on stdout already. */
#include "config.h"

#include <stdarg.h>
#include <stdio.h>

#include "client/ctl/ctl.h"

void ctl_say(const char *fmt, ...) {
    va_list ap;

    fflush(stdout);
    fputs("vfio-brokerctl: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}
