/* What the daemon says to its administrator: one line on stderr for each event, with a level.
 *
 * Under the journal (JOURNAL_STREAM is set) lines carry the "<N>" prefix of sd-daemon(3), else the level's name. Text
 * that a client chose reaches a line only through vb_log_clean(). What a client can cause as often as it likes goes
 * through vb_log_limited(). Levels are those of syslog(3). */
#ifndef VB_BROKER_LOG_H
#define VB_BROKER_LOG_H

#include <stddef.h>
#include <stdint.h>
#include <syslog.h>

#include "proto/clock.h"

/* Lets VB_LOG_BURST lines through in each VB_LOG_WINDOW_MS; what was left out is counted in the next window. */
#define VB_LOG_BURST     20u
#define VB_LOG_WINDOW_MS 10000u
struct vb_log_limit {
    uint64_t window; /* start, monotonic ms */
    unsigned lines, dropped;
};

void vb_log(int level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void vb_log_limited(struct vb_log_limit *l, int level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Copies `in`, cut to `size`, with everything but printable ASCII shown as '?'. Returns `out`. */
const char *vb_log_clean(const char *in, char *out, size_t size);

#endif
