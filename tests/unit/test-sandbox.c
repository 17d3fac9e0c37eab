/* What a session process cannot do, whatever it is talked into. The tries are made in a child that has entered the
 * sandbox; it reports by exit status, since it can do nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
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
    if (!refused(pread(0, path, 1, 0)))
        return 8; /* only the emulated backend needs it */
    return 0;
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
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_other_process),
#ifndef VB_SANITIZERS
        cmocka_unit_test(test_no_file_and_no_other_ioctl),
        cmocka_unit_test(test_what_is_needed_works),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
