/* What a session process may ask of the kernel, whatever its client talks it into: the calls that serving and mapping
 * need, and nothing that could touch another process (signals, limits, ptrace), make one, or open a file.
 *
 * Everything else is EPERM, not death: a system call that a newer libc makes out of the blue should not end a VM. The
 * ioctl numbers are those of iommufd, VFIO devices, groups and containers (linux/iommufd.h, linux/vfio.h); the kernel compares all
 * of the 32 bits. With sanitizers the default is to allow, since their runtimes need more, and the dangerous calls are
 * denied by name. */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/iommufd-abi.h"
#include "config.h"
#include "session/session.h"

#ifdef VB_SANITIZERS
#define DEFAULT_ACTION SCMP_ACT_ALLOW
#else
#define DEFAULT_ACTION SCMP_ACT_ERRNO(EPERM)
#endif

static const int allowed[] = {
    /* the loop */
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(epoll_pwait2),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_gettime64),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(timerfd_settime),
    /* packets, log lines */
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendmsg),
    SCMP_SYS(recvfrom),
    SCMP_SYS(sendto),
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(pread64), /* bitmaps in clients' memfds, the emulated backend's DMA */
    SCMP_SYS(pwrite64),
    SCMP_SYS(eventfd2), /* the host's request for a device */
    SCMP_SYS(connect),
    SCMP_SYS(shutdown),
    SCMP_SYS(close),
    /* looking at a memory's file */
    SCMP_SYS(fstat),
    SCMP_SYS(fstat64),
    SCMP_SYS(fstatfs),
    SCMP_SYS(fstatfs64),
    SCMP_SYS(lseek),
    SCMP_SYS(_llseek),
    /* our own memory */
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(mlock),
    SCMP_SYS(munlock),
    SCMP_SYS(brk),
    SCMP_SYS(futex),
    /* threads, which began before (backend/workers.c), but perhaps not quite */
    SCMP_SYS(sched_yield),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    /* ourselves */
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(getrandom),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
};

/* Denied also where the default is to allow. */
static const int denied[] = {
    SCMP_SYS(execve),
    SCMP_SYS(execveat),
    SCMP_SYS(fork),
    SCMP_SYS(vfork),
    SCMP_SYS(setrlimit),
    SCMP_SYS(kill),
    SCMP_SYS(pidfd_send_signal),
    SCMP_SYS(pidfd_open),
    SCMP_SYS(pidfd_getfd),
    SCMP_SYS(process_vm_readv),
    SCMP_SYS(process_vm_writev),
    SCMP_SYS(open_by_handle_at),
    SCMP_SYS(bpf),
    SCMP_SYS(io_uring_setup),
    SCMP_SYS(userfaultfd),
    SCMP_SYS(mount),
    SCMP_SYS(unshare),
    SCMP_SYS(setns),
    SCMP_SYS(keyctl),
    SCMP_SYS(add_key),
};

static const unsigned long ioctls[] = {
    IOMMU_DESTROY,
    IOMMU_IOAS_ALLOC,
    IOMMU_IOAS_IOVA_RANGES,
    IOMMU_IOAS_MAP,
    IOMMU_IOAS_MAP_FILE,
    IOMMU_IOAS_COPY,
    IOMMU_IOAS_UNMAP,
    IOMMU_IOAS_ALLOW_IOVAS,
    IOMMU_GET_HW_INFO,
    IOMMU_HWPT_ALLOC,
    IOMMU_HWPT_SET_DIRTY_TRACKING,
    IOMMU_HWPT_GET_DIRTY_BITMAP,
    VFIO_DEVICE_BIND_IOMMUFD,
    VFIO_DEVICE_ATTACH_IOMMUFD_PT,
    VFIO_DEVICE_DETACH_IOMMUFD_PT,
    VFIO_DEVICE_GET_INFO,
    VFIO_DEVICE_GET_IRQ_INFO,
    VFIO_DEVICE_SET_IRQS, /* the request eventfd */
    VFIO_GET_API_VERSION, /* containers */
    VFIO_CHECK_EXTENSION,
    VFIO_SET_IOMMU,
    VFIO_IOMMU_GET_INFO,
    VFIO_IOMMU_MAP_DMA,
    VFIO_IOMMU_UNMAP_DMA,
    VFIO_IOMMU_DIRTY_PAGES,
    VFIO_GROUP_GET_STATUS, /* groups */
    VFIO_GROUP_SET_CONTAINER,
    VFIO_GROUP_UNSET_CONTAINER,
    VFIO_GROUP_GET_DEVICE_FD,
    SIOCOUTQ, /* on pin links */
};

static const int fcntls[] = {F_GETFD, F_GETFL, F_DUPFD_CLOEXEC, F_GET_SEALS};

/* A call that does not exist on this architecture (fstat64 on x86-64) cannot be allowed, and need not be. */
static int tolerate(int r) {
    return r == -EDOM ? 0 : r;
}

static int allow_with_arguments(scmp_filter_ctx f, bool emulated) {
    int r = 0;

    for (unsigned i = 0; r == 0 && i < sizeof ioctls / sizeof ioctls[0]; i++)
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1_32(SCMP_CMP_EQ, (uint32_t)ioctls[i], 0));
    for (unsigned i = 0; r == 0 && i < sizeof fcntls / sizeof fcntls[0]; i++)
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, SCMP_A1_32(SCMP_CMP_EQ, (uint32_t)fcntls[i], 0));
    if (r == 0) /* glibc's fstat is newfstatat of the fd itself: no path is looked up */
        r = tolerate(
            seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 1, SCMP_A3_32(SCMP_CMP_EQ, AT_EMPTY_PATH, 0)));
    if (r == 0) /* no code is ever mapped again */
        r = tolerate(
            seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2_32(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)));
    if (r == 0)
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, SCMP_A2_32(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (r == 0) /* to the next daemon */
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0_32(SCMP_CMP_EQ, AF_UNIX, 0));
    if (r == 0) /* abort() */
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, SCMP_A0_32(SCMP_CMP_EQ, (uint32_t)getpid(), 0));
    if (r == 0 && emulated) /* the emulated device's fd */
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socketpair), 1, SCMP_A0_32(SCMP_CMP_EQ, AF_UNIX, 0));
    return r;
}

static int load(bool emulated) {
    scmp_filter_ctx f = seccomp_init(DEFAULT_ACTION);
    int r = 0;

    if (!f)
        return -ENOMEM;
    if (DEFAULT_ACTION != SCMP_ACT_ALLOW) {
        for (unsigned i = 0; r == 0 && i < sizeof allowed / sizeof allowed[0]; i++)
            r = tolerate(seccomp_rule_add(f, SCMP_ACT_ALLOW, allowed[i], 0));
        if (r == 0)
            r = allow_with_arguments(f, emulated);
    } else {
        for (unsigned i = 0; r == 0 && i < sizeof denied / sizeof denied[0]; i++)
            r = tolerate(seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), denied[i], 0));
    }
    if (r == 0) /* looked at first: a mapping is one, and the filter may be interpreted */
        r = seccomp_syscall_priority(f, SCMP_SYS(ioctl), 255);
    if (r == 0) /* for the threads that there are already (backend/workers.c) */
        r = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);
    if (r == 0)
        r = seccomp_load(f);
    seccomp_release(f);
    return r;
}

int vb_sandbox_enter(bool emulated) {
    /* Not dumpable: /proc/PID/mem and ptrace are closed to others even of our uid. */
    if (prctl(PR_SET_DUMPABLE, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -errno;
    return load(emulated);
}
