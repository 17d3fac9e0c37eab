/* Numbers on the command line, and the session that a verb's argument or --session= names. */
#include "config.h"

#include <errno.h>
#include <stdlib.h>

#include "client/ctl/ctl.h"

bool ctl_number(const char *text, unsigned long low, unsigned long high, unsigned long *ret) {
    unsigned long n;
    char *end;

    if (text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    n = strtoul(text, &end, 10);
    if (errno || *end || n < low || n > high)
        return false;
    *ret = n;
    return true;
}

int ctl_session_argument(struct ctl *ctl, int n, char **args) {
    unsigned long number = 0;

    if (n == 0)
        return CTL_OK;
    if (!ctl_number(args[0], 1, UINT32_MAX, &number)) {
        ctl_say("a session is a number from `vfio-brokerctl list sessions`, not %s", args[0]);
        return CTL_USAGE;
    }
    if (ctl->has_session && ctl->session != number) {
        ctl_say("session %lu, or --session=%u?", number, ctl->session);
        return CTL_USAGE;
    }
    ctl->has_session = true;
    ctl->session = (uint32_t)number;
    return CTL_OK;
}
