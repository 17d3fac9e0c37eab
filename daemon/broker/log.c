#include "broker/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = {"emergency", "alert",  "critical", "error",
                                          "warning",   "notice", "info",     "debug"};

static void log_line(int level, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
static void log_line(int level, const char *fmt, va_list ap) {
    char line[1024];
    int n;

    level &= 7;
    if (getenv("JOURNAL_STREAM"))
        n = snprintf(line, sizeof line, "<%d>", level);
    else
        n = snprintf(line, sizeof line, "vfio-brokerd: %s: ", level_names[level]);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    if (m < 0)
        return;
    size_t size = (size_t)n + (size_t)m;
    if (size > sizeof line - 2)
        size = sizeof line - 2;
    line[size++] = '\n';
    /* One write for each line, so that lines of sessions do not mix with it. A lost line is not an error. */
    if (write(STDERR_FILENO, line, size) < 0)
        return;
}

void vb_log(int level, const char *fmt, ...) {
    va_list ap;

    va_start(ap, fmt);
    log_line(level, fmt, ap);
    va_end(ap);
}

void vb_log_limited(struct vb_log_limit *l, int level, const char *fmt, ...) {
    uint64_t now = vb_now_ms();
    va_list ap;

    if (l->window == 0 || now - l->window >= VB_LOG_WINDOW_MS) {
        if (l->dropped > 0)
            vb_log(level, "%u more lines like the next were left out", l->dropped);
        *l = (struct vb_log_limit){.window = now};
    }
    if (++l->lines > VB_LOG_BURST) {
        l->dropped++;
        return;
    }
    va_start(ap, fmt);
    log_line(level, fmt, ap);
    va_end(ap);
}

const char *vb_log_clean(const char *in, char *out, size_t size) {
    size_t i = 0;

    for (; in[i] && i + 1 < size; i++)
        out[i] = in[i] >= 0x20 && in[i] < 0x7f ? in[i] : '?';
    out[i] = 0;
    return out;
}
