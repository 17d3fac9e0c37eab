/* See bind-job.h. */
#include "config.h"

#include "client/ctl/bind-job.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/ctl/ctl.h"
#include "client/ctl/holders.h"
#include "proto/cleanup.h"

#define VFIO_PCI    "vfio-pci"
#define PROGRESS_MS 2000 /* between looks at who has the device open */

#define SETTLE_US 100000u

enum step { STEP_SETTLE, STEP_OVERRIDE, STEP_UNBIND, STEP_PROBE, STEP_END };
static const char *const step_names[] = {"see the end of an earlier unbinding", "set driver_override",
                                         "take it from its driver", "have its drivers probed", ""};

/* What the child tells before each step, and when one failed. */
struct told {
    enum step step;
    int error; /* negative errno, or 0 */
};

/* ---- the child ------------------------------------------------------------------------------------------------ */

static void tell(int out, enum step step, int error) {
    struct told t = {.step = step, .error = error};

    if (write(out, &t, sizeof t) != sizeof t) /* EPIPE: the parent has given up, and so no other step begins */
        _exit(1);
}

static void must(int out, enum step step, int error) {
    if (error == 0)
        return;
    tell(out, step, error);
    _exit(1);
}

/* An unbinding that a run before this one left to the kernel. */
static void settle(const struct bind_job *job, int out) {
    while (pci_unbinding(job->sysfs, job->address)) {
        struct pollfd p = {.fd = out};

        if (poll(&p, 1, 0) > 0) /* POLLERR: no reader */
            _exit(1);
        usleep(SETTLE_US);
    }
}

static void child(const struct bind_job *job, int out) {
    char driver[PCI_NAME_SIZE] = "";
    /* A caller that waits for the end of our output must not wait for this process, nor ^C reach it. */
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    for (int fd = 0; fd <= 2 && null >= 0; fd++)
        dup2(null, fd);
    setsid();
    signal(SIGPIPE, SIG_IGN);
    tell(out, STEP_SETTLE, 0);
    settle(job, out);
    tell(out, STEP_OVERRIDE, 0);
    must(out, STEP_OVERRIDE, pci_override(job->sysfs, job->address, job->bind ? VFIO_PCI : ""));
    must(out, STEP_UNBIND, pci_driver(job->sysfs, job->address, driver));
    if (driver[0] && (strcmp(driver, VFIO_PCI) == 0) != job->bind) {
        tell(out, STEP_UNBIND, 0);
        must(out, STEP_UNBIND, pci_unbind(job->sysfs, job->address, driver));
    }
    tell(out, STEP_PROBE, 0);
    must(out, STEP_PROBE, pci_probe(job->sysfs, job->address));
    tell(out, STEP_END, 0);
    _exit(0);
}

/* ---- the parent ----------------------------------------------------------------------------------------------- */

static int64_t now_ms(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void progress(const struct bind_job *job, const struct holders *h, char *last, size_t size) {
    char who[256];

    holders_find(h, who, sizeof who);
    if (last[0] && strcmp(who, last + 1) == 0)
        return; /* nothing new */
    if (who[0])
        ctl_say("waiting for %s: still open in %s", job->address, who);
    else
        ctl_say("waiting for %s: the kernel is not finished, and no process is seen with it open", job->address);
    snprintf(last, size, "=%s", who);
}

static void give_up(const struct bind_job *job, const struct holders *h, enum step at, struct bind_result *ret) {
    char who[256];

    holders_find(h, who, sizeof who);
    if (at == STEP_UNBIND || at == STEP_SETTLE)
        snprintf(ret->text, sizeof ret->text,
                 "gave up after %u s%s%s; the kernel takes it from its driver by itself as soon as nobody has it open: "
                 "then run vfio-brokerctl %s %s again",
                 job->deadline, who[0] ? ": still open in " : "", who, job->bind ? "bind" : "unbind", job->address);
    else
        snprintf(ret->text, sizeof ret->text, "gave up after %u s: the kernel still tries to %s", job->deadline,
                 step_names[at]);
}

static void explain(const struct bind_job *job, struct told t, struct bind_result *ret) {
    const char *hint = t.error == -EACCES || t.error == -EPERM    ? "; run it as root"
                       : t.error == -EROFS                        ? "; /sys is read-only here: run it on the host"
                       : t.error == -ENODEV || t.error == -ENOENT ? "; the device or its driver has gone meanwhile"
                                                                  : "";

    snprintf(ret->text, sizeof ret->text, "cannot %s of %s: %s%s", step_names[t.step], job->address, strerror(-t.error),
             hint);
}

/* True: every step was done. */
static bool watch(const struct bind_job *job, const struct holders *h, int in, struct bind_result *ret) {
    int64_t end = now_ms() + (int64_t)job->deadline * 1000;
    enum step at = STEP_SETTLE;
    char last[260] = "";

    for (;;) {
        struct pollfd p = {.fd = in, .events = POLLIN};
        int64_t left = end - now_ms();
        struct told t;

        if (left <= 0) {
            give_up(job, h, at, ret);
            return false;
        }
        int r = poll(&p, 1, left < PROGRESS_MS ? (int)left : PROGRESS_MS);
        if (r <= 0) {
            if (r == 0)
                progress(job, h, last, sizeof last);
            continue;
        }
        if (read(in, &t, sizeof t) != sizeof t) {
            snprintf(ret->text, sizeof ret->text, "the process that writes to sysfs died");
            return false;
        }
        if (t.error) {
            explain(job, t, ret);
            return false;
        }
        if (t.step == STEP_END)
            return true;
        at = t.step;
    }
}

static bool steps(const struct bind_job *job, struct bind_result *ret) {
    struct holders h;
    int pipes[2];

    holders_prepare(&h, job->sysfs, job->address);
    if (pipe2(pipes, O_CLOEXEC) < 0) {
        snprintf(ret->text, sizeof ret->text, "cannot make a pipe: %s", strerror(errno));
        return false;
    }
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        close(pipes[0]);
        child(job, pipes[1]);
    }
    int e = errno;
    close(pipes[1]);
    bool done = false;
    if (pid < 0)
        snprintf(ret->text, sizeof ret->text, "cannot start a process: %s", strerror(e));
    else
        done = watch(job, &h, pipes[0], ret);
    close(pipes[0]); /* a child that is left behind stops at its next step */
    if (pid > 0)
        waitpid(pid, NULL, done ? 0 : WNOHANG);
    return done;
}

/* What the kernel made of it. */
static void verify(const struct bind_job *job, struct bind_result *ret) {
    int r = pci_driver(job->sysfs, job->address, ret->driver);

    if (r < 0) {
        snprintf(ret->text, sizeof ret->text, "cannot read its driver: %s", strerror(-r));
        return;
    }
    ret->ok = (strcmp(ret->driver, VFIO_PCI) == 0) == job->bind;
    if (ret->ok && ret->driver[0])
        snprintf(ret->text, sizeof ret->text, "now on %s", ret->driver);
    else if (ret->ok)
        snprintf(ret->text, sizeof ret->text, "free of vfio-pci; no host driver has taken it (is its module loaded?)");
    else if (!job->bind)
        snprintf(ret->text, sizeof ret->text, "still on vfio-pci: is it listed in vfio-pci's ids= option?");
    else if (pci_group(job->sysfs, job->address) < 0)
        snprintf(
            ret->text, sizeof ret->text,
            "vfio-pci did not take it, since it is in no IOMMU group: is the IOMMU switched on in firmware and on the "
            "kernel's command line (intel_iommu=on)? Undo with: vfio-brokerctl unbind %s",
            job->address);
    else
        snprintf(
            ret->text, sizeof ret->text,
            "vfio-pci did not take it (on %s now): see the kernel's log, dmesg. Undo with: vfio-brokerctl unbind %s",
            ret->driver[0] ? ret->driver : "no driver", job->address);
}

void bind_job_run(const struct bind_job *job, struct bind_result *ret) {
    char driver[PCI_NAME_SIZE] = "";

    *ret = (struct bind_result){.ok = false};
    if (!pci_exists(job->sysfs, job->address)) {
        snprintf(ret->text, sizeof ret->text, "there is no such PCI device: see lspci -D");
        return;
    }
    int r = pci_driver(job->sysfs, job->address, driver);
    if (r < 0) {
        snprintf(ret->text, sizeof ret->text, "cannot read its driver: %s", strerror(-r));
        return;
    }
    bool on_vfio = strcmp(driver, VFIO_PCI) == 0;
    strcpy(ret->driver, driver);
    if (job->bind ? on_vfio : driver[0] && !on_vfio) {
        ret->ok = true;
        snprintf(ret->text, sizeof ret->text, "already on %s", driver);
        return;
    }
    if (job->bind && !pci_vfio_loaded(job->sysfs)) {
        snprintf(ret->text, sizeof ret->text, "vfio-pci is not loaded: modprobe vfio-pci");
        return;
    }
    if (steps(job, ret))
        verify(job, ret);
    else
        pci_driver(job->sysfs, job->address, ret->driver);
}
