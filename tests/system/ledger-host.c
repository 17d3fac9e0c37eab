/* Operations behind the broker's back: on the files, on the client's own limit and locked memory. And what /proc tells. See
 * ledger-run.h. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "ledger-run.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* ---- files ---- */

static const uint64_t small_pages[O_FILES] = {64, 512, 1024}, huge_pages[O_FILES] = {1, 4, 10};

void host_setup(struct user *u) {
    const char *sizes = u->options->page_size;

    for (unsigned f = 0; f < O_FILES; f++) {
        const bool huge = strcmp(sizes, "2m") == 0 || (strcmp(sizes, "mixed") == 0 && f == 1);
        struct oracle_file *file = &u->o.files[f];

        u->unit[f] = huge ? 512 : 1;
        file->hugetlb = huge;
        file->n = file->size = huge ? 512 * huge_pages[f] : small_pages[f];
        file->present = calloc(file->n, 1);
        u->fds[f] = memfd_create("ledger", MFD_CLOEXEC | (huge ? MFD_HUGETLB : 0));
        if (!file->present || u->fds[f] < 0 || ftruncate(u->fds[f], (off_t)(file->n * O_PAGE)) < 0)
            mismatch(u, "memfd of %" PRIu64 " pages: %s", file->n, strerror(errno));
        u->host[f] = mmap(NULL, file->n * O_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, u->fds[f], 0);
        if (u->host[f] == MAP_FAILED)
            mismatch(u, "mmap of %" PRIu64 " pages: %s", file->n, strerror(errno));
        u->window += 4 * file->n;
        for (unsigned i = 0; i < 2; i++) {
            struct oracle_memory *m = &u->o.memories[2 * f + i];

            *m = (struct oracle_memory){.file = file, .writable = i == 1};
            m->shown = calloc(file->n, sizeof *m->shown);
            m->reached = calloc(file->n, sizeof *m->reached);
            m->locked = calloc(file->n, sizeof *m->locked);
            if (!m->shown || !m->reached || !m->locked)
                mismatch(u, "no memory");
        }
    }
    u->own = mmap(NULL, OWN_PAGES * O_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (u->own == MAP_FAILED)
        mismatch(u, "mmap: %s", strerror(errno));
}

void host_populate(struct user *u, unsigned file, uint64_t first, uint64_t n) {
    if (n && madvise(u->host[file] + first * O_PAGE, n * O_PAGE, MADV_POPULATE_WRITE) < 0)
        mismatch(u, "MADV_POPULATE_WRITE: %s", strerror(errno));
    memset(u->o.files[file].present + first, 1, n);
}

/* Some pages of the file, whole ones, as far as it reaches now. */
static void pick_pages(struct user *u, unsigned file, uint64_t *ret_first, uint64_t *ret_n) {
    const uint64_t unit = u->unit[file], pages = u->o.files[file].size / unit, first = below(u, pages),
                   most = pages - first > 16 ? 16 : pages - first;

    *ret_first = first * unit;
    *ret_n = (1 + below(u, most)) * unit;
}

enum outcome do_punch(struct user *u) {
    const unsigned f = (unsigned)below(u, O_FILES);
    uint64_t first, n;

    pick_pages(u, f, &first, &n);
    doing(u, "punch %" PRIu64 " pages at %" PRIu64 " out of file %u", n, first, f);
    if (fallocate(u->fds[f], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(first * O_PAGE), (off_t)(n * O_PAGE)) <
        0)
        mismatch(u, "fallocate: %s", strerror(errno));
    memset(u->o.files[f].present + first, 0, n);
    if (chance(u, 3)) /* other pages in their place at once: nobody can see it but by the pages themselves */
        host_populate(u, f, first, n);
    return DONE;
}

enum outcome do_truncate(struct user *u) {
    const unsigned f = (unsigned)below(u, O_FILES);
    struct oracle_file *file = &u->o.files[f];
    const uint64_t pages = file->n / u->unit[f];
    uint64_t size = file->n;

    if (file->size == file->n) {
        size = (1 + below(u, pages)) * u->unit[f];
        if (size == file->n)
            return SKIPPED;
    }
    doing(u, "truncate file %u from %" PRIu64 " to %" PRIu64 " pages", f, file->size, size);
    if (ftruncate(u->fds[f], (off_t)(size * O_PAGE)) < 0)
        mismatch(u, "ftruncate: %s", strerror(errno));
    memset(file->present + size, 0, file->n - size);
    file->size = size;
    return DONE;
}

enum outcome do_populate(struct user *u) {
    const unsigned f = (unsigned)below(u, O_FILES);
    struct oracle_file *file = &u->o.files[f];
    uint64_t first = 0, n = file->size;

    if (file->size < file->n) { /* grown again at once, else nothing could be mapped for long */
        doing(u, "truncate file %u from %" PRIu64 " back to %" PRIu64 " pages", f, file->size, file->n);
        if (ftruncate(u->fds[f], (off_t)(file->n * O_PAGE)) < 0)
            mismatch(u, "ftruncate: %s", strerror(errno));
        n = file->size = file->n;
    }
    if (chance(u, 4))
        pick_pages(u, f, &first, &n);
    doing(u, "populate %" PRIu64 " pages at %" PRIu64 " of file %u", n, first, f);
    host_populate(u, f, first, n);
    return DONE;
}

/* ---- the client's limit ---- */

void host_limit(struct user *u, uint64_t bytes) {
    struct rlimit l;

    if (getrlimit(RLIMIT_MEMLOCK, &l) < 0)
        mismatch(u, "getrlimit: %s", strerror(errno));
    l.rlim_cur = bytes < l.rlim_max ? bytes : l.rlim_max;
    if (setrlimit(RLIMIT_MEMLOCK, &l) < 0)
        mismatch(u, "setrlimit: %s", strerror(errno));
    u->o.limit = l.rlim_cur;
}

/* Somewhere between next to nothing and half of all memories. */
void host_low_limit(struct user *u) {
    uint64_t pages = 0;

    for (unsigned f = 0; f < O_FILES; f++)
        pages += 2 * u->o.files[f].n;
    host_limit(u, (pages / 32 + below(u, pages / 2)) * O_PAGE);
}

enum outcome do_limit(struct user *u) {
    if (chance(u, 10))
        host_limit(u, u->options->memlock);
    else
        host_low_limit(u);
    doing(u, "limit of %" PRIu64 " bytes", u->o.limit);
    return DONE;
}

/* The system calls, since AddressSanitizer makes mlock() do nothing. */
enum outcome do_own_lock(struct user *u) {
    const uint64_t size = chance(u, 2) ? 0 : (1 + below(u, OWN_PAGES)) * O_PAGE;
    const bool fits = size <= u->o.limit;

    doing(u, "mlock %" PRIu64 " bytes of our own", size);
    if (syscall(SYS_munlock, u->own, OWN_PAGES * O_PAGE) < 0)
        mismatch(u, "munlock: %s", strerror(errno));
    u->o.own = 0;
    if (size && (syscall(SYS_mlock, u->own, size) == 0) != fits)
        mismatch(u, "mlock %s: %s", fits ? "fails" : "succeeds", strerror(errno));
    u->o.own = fits ? size : 0;
    return fits ? DONE : REFUSED;
}

/* ---- /proc ---- */

void host_find_session(struct user *u) {
    char command[512], buf[65536], key[32], *at;
    size_t n = 0;
    FILE *f;

    snprintf(command, sizeof command, "%s --json=short list sessions", u->options->ctl);
    f = popen(command, "re");
    if (f) {
        n = fread(buf, 1, sizeof buf - 1, f);
        pclose(f);
    }
    buf[n] = 0;
    snprintf(key, sizeof key, "\"session\":%" PRIu32 ",", vfb_info(u->c)->session);
    at = strstr(buf, key);
    at = at ? strstr(at, "\"pid\":") : NULL;
    if (!at)
        mismatch(u, "no process serves session %" PRIu32 ": %s", vfb_info(u->c)->session, buf);
    u->session = (pid_t)strtol(at + 6, NULL, 10);
    snprintf(buf, sizeof buf, "/proc/%d/status", (int)u->session);
    u->status = open(buf, O_RDONLY | O_CLOEXEC);
    if (u->status < 0)
        mismatch(u, "%s: %s", buf, strerror(errno));
    snprintf(buf, sizeof buf, "/proc/%d/limits", (int)u->session);
    u->limits = open(buf, O_RDONLY | O_CLOEXEC);
    if (u->limits < 0)
        mismatch(u, "%s: %s", buf, strerror(errno));
}

uint64_t host_session_memlock(struct user *u) {
    static const char key[] = "Max locked memory";
    char limits[4096];
    const ssize_t n = pread(u->limits, limits, sizeof limits - 1, 0);
    const char *at;

    limits[n > 0 ? n : 0] = 0;
    at = strstr(limits, key);
    if (!at)
        mismatch(u, "there is no %s in /proc/%d/limits: has the session ended?", key, (int)u->session);
    return strtoull(at + strlen(key), NULL, 10); /* "unlimited" reads as 0: nobody has given that */
}

static uint64_t kib(struct user *u, const char *status, const char *key) {
    const char *at = strstr(status, key);

    if (!at)
        mismatch(u, "there is no %s in /proc/%d/status: has the session ended?", key, (int)u->session);
    return strtoull(at + strlen(key), NULL, 10) * 1024;
}

void host_session_pins(struct user *u, uint64_t *ret_pinned, uint64_t *ret_locked) {
    char status[8192];
    ssize_t n = pread(u->status, status, sizeof status - 1, 0);

    status[n > 0 ? n : 0] = 0;
    *ret_locked = kib(u, status, "\nVmLck:");
    *ret_pinned = kib(u, status, "\nVmPin:");
}

void host_session_gone(struct user *u) {
    struct timespec pause = {.tv_nsec = 5000000};
    char path[64];

    snprintf(path, sizeof path, "/proc/%d", (int)u->session);
    for (int i = 0; i < 4000; i++) {
        if (access(path, F_OK) < 0)
            return;
        nanosleep(&pause, NULL);
    }
    mismatch(u, "session process %d has not ended", (int)u->session);
}
