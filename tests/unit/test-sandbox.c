/* What a session process cannot do, whatever it is talked into. The tries are made in a child that has entered the
 * sandbox; it reports by exit status, since it can do nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config.h"
#include "session/session.h"

/* Exit status of a child that ran `f` inside the sandbox. */
static int inside(int (*f)(void)) {
    int status;

    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (vb_sandbox_enter(false) < 0)
            _exit(99);
        _exit(f());
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int refused(long r) {
    return r == -1 && errno == EPERM;
}

/* Each returns 0 when refused, else the number of the try that went through. */
static int try_processes(void) {
    char *argv[] = {"true", NULL};

    if (!refused(syscall(SYS_execve, "/bin/true", argv, argv)))
        return 1;
    if (!refused(syscall(SYS_kill, getppid(), 0)))
        return 2;
    if (!refused(syscall(SYS_pidfd_open, getppid(), 0)))
        return 3;
    if (!refused(syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0)))
        return 4;
    return 0;
}

#ifndef VB_SANITIZERS
static int try_more(void) {
    struct rlimit r = {0, 0};

    if (!refused(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)))
        return 1;
    if (!refused(ptrace(PTRACE_TRACEME, 0, 0, 0)))
        return 2;
    if (!refused(syscall(SYS_prlimit64, 0, RLIMIT_MEMLOCK, &r, NULL)))
        return 3;
    if (!refused(syscall(SYS_tgkill, getppid(), getppid(), 0)))
        return 4;
    if (!refused(prctl(PR_SET_DUMPABLE, 1)))
        return 5;
    return 0;
}

static int try_files(void) {
    char path[] = "/dev/null";
    int pair[2];

    if (!refused(syscall(SYS_openat, AT_FDCWD, path, O_RDONLY)))
        return 1;
    if (!refused(syscall(SYS_unlinkat, AT_FDCWD, path, 0)))
        return 2;
    if (!refused(socket(AF_INET, SOCK_STREAM, 0)))
        return 3;
    if (!refused(ioctl(0, 0x5412 /* TIOCSTI */, "x")))
        return 4;
    if (!refused(ioctl(0, 0x5412ull | 1ull << 32, "x")))
        return 5;
    if (!refused((long)mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)))
        return 6;
    if (!refused(fcntl(0, F_SETLEASE, F_RDLCK)))
        return 7;
    if (!refused(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair)))
        return 8; /* only the emulated backend needs it */
    if (!refused(ioctl(0, VFIO_DEVICE_RESET)))
        return 9; /* the client's affair */
    return 0;
}

/* What type1, dirty tracking and the host's request need: stdin knows none of these ioctls, but hears of them. */
static int try_what_backends_need(void) {
    static const unsigned long requests[] = {VFIO_GET_API_VERSION,
                                             VFIO_CHECK_EXTENSION,
                                             VFIO_SET_IOMMU,
                                             VFIO_IOMMU_GET_INFO,
                                             VFIO_IOMMU_MAP_DMA,
                                             VFIO_IOMMU_UNMAP_DMA,
                                             VFIO_IOMMU_DIRTY_PAGES,
                                             VFIO_GROUP_GET_STATUS,
                                             VFIO_GROUP_SET_CONTAINER,
                                             VFIO_GROUP_UNSET_CONTAINER,
                                             VFIO_GROUP_GET_DEVICE_FD,
                                             VFIO_DEVICE_GET_INFO,
                                             VFIO_DEVICE_GET_IRQ_INFO,
                                             VFIO_DEVICE_SET_IRQS,
                                             _IO(';', 0x82) /* IOAS_ALLOW_IOVAS */,
                                             _IO(';', 0x89) /* HWPT_ALLOC */,
                                             _IO(';', 0x8b) /* HWPT_SET_DIRTY_TRACKING */,
                                             _IO(';', 0x8c) /* HWPT_GET_DIRTY_BITMAP */};
    char c = 0;

    for (unsigned i = 0; i < sizeof requests / sizeof requests[0]; i++)
        if (ioctl(0, requests[i], &c) != -1 || errno == EPERM)
            return 1 + (int)i;
    int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (event < 0)
        return 50;
    if (pwrite(event, &c, 1, 0) != -1 || errno != ESPIPE || pread(event, &c, 1, 0) != -1 || errno != ESPIPE)
        return 51;
    return sched_yield() == 0 ? 0 : 52;
}

/* A thread that began before the sandbox is in it too. */
static int go[2];

static void *outside(void *arg) {
    char c;

    if (read(go[0], &c, 1) != 1)
        return arg;
    return refused(syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDONLY)) ? NULL : arg;
}

static void test_threads_too(void **state) {
    int status;
    (void)state;

    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        pthread_t t;
        void *r;

        if (pipe(go) < 0 || pthread_create(&t, NULL, outside, go) != 0 || vb_sandbox_enter(false) < 0 ||
            write(go[1], "x", 1) != 1 || pthread_join(t, &r) != 0)
            _exit(99);
        _exit(r ? 1 : 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static int try_what_is_needed(void) {
    int sv = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (sv < 0 || p == MAP_FAILED || close(sv) < 0 || munmap(p, 4096) < 0)
        return 1;
    if (fcntl(0, F_GETFD) < 0)
        return 2;
    /* an iommufd ioctl reaches the file: stdin does not know it */
    if (ioctl(0, _IO(';', 0x80), p) != -1 || errno == EPERM)
        return 3;
    return prctl(PR_GET_DUMPABLE) == 0 ? 4 : 0; /* prctl itself is refused: -1 */
}
#endif

static void test_no_other_process(void **state) {
    (void)state;
    assert_int_equal(inside(try_processes), 0);
#ifndef VB_SANITIZERS
    assert_int_equal(inside(try_more), 0);
#endif
}

#ifndef VB_SANITIZERS /* those builds allow what is not denied by name */
static void test_no_file_and_no_other_ioctl(void **state) {
    (void)state;
    assert_int_equal(inside(try_files), 0);
}

static void test_what_is_needed_works(void **state) {
    (void)state;
    assert_int_equal(inside(try_what_is_needed), 0);
    assert_int_equal(inside(try_what_backends_need), 0);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_other_process),
#ifndef VB_SANITIZERS
        cmocka_unit_test(test_no_file_and_no_other_ioctl),
        cmocka_unit_test(test_what_is_needed_works),
        cmocka_unit_test(test_threads_too),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
