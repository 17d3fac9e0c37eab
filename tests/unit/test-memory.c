/* What can be registered as memory, and what is noticed when a client changes the file afterwards. */
#include "tests/unit/core-fixture.h"

#include <linux/fuse.h>
#include <linux/memfd.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "core/memory.h"

/* Opens, and says why not. */
static int try(int fd, bool writable, struct vb_memory **ret, struct vb_error *e) {
    memset(e, 0, sizeof(*e));
    *ret = NULL;
    return vb_memory_open(fd, writable, "ram", ret, e);
}

static void assert_refused(int fd, bool writable, const char *text) {
    unsigned before = count_fds();
    struct vb_memory *m;
    struct vb_error e;

    assert_true(fd >= 0);
    assert_int_equal(try(fd, writable, &m, &e), VB_BAD_MEMORY);
    assert_text(&e, text, NULL);
    assert_null(m);
    assert_int_equal(count_fds(), before - 1); /* consumed */
}

static void test_memfd(void **state) {
    struct vb_memory *m;
    struct vb_error e;
    struct stat st;
    int fd = make_memory(MIB);

    (void)state;
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(lseek(fd, 12345, SEEK_SET), 12345);
    assert_int_equal(try(dup(fd), true, &m, &e), 0);
    assert_int_equal(m->size, MIB);
    assert_int_equal(m->page_size, 4096);
    assert_int_equal(m->kind, VB_MEMORY_SHMEM);
    assert_string_equal(vb_memory_kind_name(m->kind), "shmem");
    assert_true(m->writable && m->ino == st.st_ino && m->dev == st.st_dev);
    assert_string_equal(m->name, "ram");
    assert_int_equal(lseek(fd, 0, SEEK_CUR), 12345); /* the client's position is as it was */
    assert_int_equal(vb_memory_recheck(m, true, &e), 0);
    assert_null(vb_memory_free(m));
    assert_null(vb_memory_free(NULL));
    close(fd);
}

static void test_access(void **state) {
    int fd = make_memory(MIB);
    struct vb_memory *m;
    struct vb_error e;

    (void)state;
    assert_refused(reopen(fd, O_RDONLY), true, "read-only");
    assert_refused(reopen(fd, O_WRONLY), true, "write-only");
    assert_refused(reopen(fd, O_WRONLY), false, "write-only");
    assert_refused(reopen(fd, O_PATH), false, "O_PATH");
    assert_int_equal(try(reopen(fd, O_RDONLY), false, &m, &e), 0);
    assert_false(m->writable);
    vb_memory_free(m);
    assert_int_equal(try(reopen(fd, O_RDWR), true, &m, &e), 0);
    vb_memory_free(m);
    assert_int_equal(try(-1, true, &m, &e), -EBADF);
    close(fd);
}

static void test_seals(void **state) {
    int fd = make_memory(MIB);
    struct vb_memory *m;
    struct vb_error e;

    (void)state;
    assert_int_equal(try(dup(fd), true, &m, &e), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
    assert_int_equal(errno, EBUSY); /* the hold */
    vb_memory_free(m);

    assert_int_equal(try(dup(fd), false, &m, &e), 0); /* a read-only registration need not hold it */
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
    assert_int_equal(vb_memory_recheck(m, false, &e), 0);
    vb_memory_free(m);
    assert_refused(dup(fd), true, "F_SEAL_WRITE");
    assert_int_equal(try(dup(fd), false, &m, &e), 0);
    vb_memory_free(m);
    close(fd);

    fd = make_memory(MIB);
    assert_int_equal(try(dup(fd), true, &m, &e), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    assert_int_equal(vb_memory_recheck(m, true, &e), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0); /* nothing can prevent this one */
    assert_int_equal(vb_memory_recheck(m, true, &e), VB_BAD_MEMORY);
    assert_text(&e, "F_SEAL_FUTURE_WRITE", NULL);
    assert_int_equal(vb_memory_recheck(m, false, &e), 0);
    vb_memory_free(m);
    assert_refused(dup(fd), true, "F_SEAL_FUTURE_WRITE");
    close(fd);
}

static void test_size_and_holes(void **state) {
    int fd = memfd_create("holes", MFD_CLOEXEC);

    (void)state;
    assert_refused(dup(fd), true, "empty");
    assert_int_equal(ftruncate(fd, MIB), 0);
    assert_refused(dup(fd), true, "0 bytes of 1 MiB");
    assert_int_equal(fallocate(fd, 0, 0, MIB), 0);
    assert_refused(dup(fd), true, "fallocate is not enough");
    close(fd);

    fd = make_memory(MIB);
    assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0x5000, 4096), 0);
    assert_refused(dup(fd), true, "offset 0x5000");
    assert_int_equal(pwrite(fd, "x", 1, 0x5000), 1);
    assert_int_equal(ftruncate(fd, MIB + 100), 0);
    assert_refused(dup(fd), true, "not a multiple");
    assert_int_equal(ftruncate(fd, (1ll << 50) + 4096), 0);
    assert_refused(dup(fd), true, "1 PiB");
    close(fd);
}

static void test_changed_afterwards(void **state) {
    int fd = make_memory(MIB);
    struct vb_memory *m;
    struct vb_error e;

    (void)state;
    assert_int_equal(try(dup(fd), true, &m, &e), 0);
    assert_int_equal(ftruncate(fd, 2 * MIB), 0); /* longer does not matter */
    assert_int_equal(vb_memory_recheck(m, true, &e), 0);
    assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), 0);
    assert_int_equal(vb_memory_recheck(m, false, &e), VB_BAD_MEMORY);
    assert_text(&e, "taken out", "1020 KiB of 1 MiB", NULL);
    assert_int_equal(pwrite(fd, "x", 1, 0), 1);
    assert_int_equal(vb_memory_recheck(m, false, &e), 0);
    assert_int_equal(ftruncate(fd, 4096), 0);
    assert_int_equal(vb_memory_recheck(m, true, &e), VB_BAD_MEMORY);
    assert_text(&e, "shrunk", NULL);
    vb_memory_free(m);
    close(fd);
}

static void test_other_files(void **state) {
    static const char *const proc[] = {"/proc/self/maps", "/proc/self/mem", "/proc/uptime", "/sys/kernel/mm/hugepages"};
    char path[] = "test-memory.XXXXXX";
    int sv[2], p[2], fd;
    size_t i;

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv), 0);
    assert_refused(sv[0], true, "not memory");
    close(sv[1]);
    assert_int_equal(pipe(p), 0);
    assert_refused(p[0], false, "not memory");
    close(p[1]);
    assert_refused(open("/", O_RDONLY | O_DIRECTORY), false, "not memory");
    assert_refused(open("/dev/shm", O_RDONLY | O_DIRECTORY), false, "not memory"); /* a directory on tmpfs */
    assert_refused(open("/dev/zero", O_RDWR), true, "not memory");
    assert_refused(open("/dev/null", O_RDWR), true, "not memory");
    for (i = 0; i < sizeof(proc) / sizeof(*proc); i++)
        if ((fd = open(proc[i], O_RDONLY)) >= 0)
            assert_refused(fd, false, "not memory");
    fd = mkstemp(path); /* whatever file system this is: not tmpfs, or it is memory */
    if (fd >= 0) {
        unlink(path);
        if (fcntl(fd, F_GET_SEALS) < 0)
            assert_refused(dup(fd), true, "not memory");
        close(fd);
    }
    fd = (int)syscall(447 /* memfd_secret, the same everywhere */, 0);
    if (fd >= 0) {
        assert_int_equal(ftruncate(fd, 4096), 0);
        assert_refused(fd, true, "memfd_secret");
    } else {
        printf("# no memfd_secret: %s\n", strerror(errno));
    }
}

/* A FUSE server that lets a file be opened, and answers nothing more. */
static void fuse_server(int dev) {
    static char buf[FUSE_MIN_READ_BUFFER + 65536];
    const struct fuse_in_header *in = (const void *)buf;

    for (;;) {
        struct {
            struct fuse_out_header header;
            union {
                struct fuse_init_out init;
                struct fuse_entry_out entry;
                struct fuse_open_out open;
                struct fuse_attr_out attr;
            };
        } out = {.header = {.len = sizeof(out.header)}};

        if (read(dev, buf, sizeof(buf)) <= 0)
            _exit(0);
        out.header.unique = in->unique;
        if (in->opcode == FUSE_INIT) {
            out.init = (struct fuse_init_out){.major = FUSE_KERNEL_VERSION, .minor = 31, .max_write = 4096};
            out.header.len += sizeof(out.init);
        } else if (in->opcode == FUSE_LOOKUP) {
            out.entry = (struct fuse_entry_out){.nodeid = 2,
                                                .attr = {.ino = 2, .size = 4096, .mode = S_IFREG | 0666, .nlink = 1}};
            out.header.len += sizeof(out.entry);
        } else if (in->opcode == FUSE_OPEN) {
            out.header.len += sizeof(out.open);
        } else if (in->opcode == FUSE_GETATTR && in->nodeid == 1) {
            out.attr.attr = (struct fuse_attr){.ino = 1, .mode = S_IFDIR | 0777, .nlink = 2};
            out.header.len += sizeof(out.attr);
        } else if (in->opcode == FUSE_FLUSH) {
            out.header.error = -ENOSYS;
        } else {
            continue;
        }
        if (write(dev, &out, out.header.len) < 0)
            _exit(1);
    }
}

static void test_a_server_that_does_not_answer(void **state) {
    char dir[] = "/tmp/test-memory.XXXXXX", path[64], options[96];
    int dev = open("/dev/fuse", O_RDWR | O_CLOEXEC), fd, status;
    pid_t server, victim;
    struct stat st;

    (void)state;
    snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", dev);
    if (dev < 0 || !mkdtemp(dir) || mount("fuse", dir, "fuse", MS_NOSUID | MS_NODEV, options) < 0) {
        printf("# no FUSE file system can be mounted here: %s\n", strerror(errno));
        rmdir(dir);
        if (dev >= 0)
            close(dev);
        skip();
    }
    fflush(NULL);
    server = fork();
    if (server == 0)
        fuse_server(dev);
    close(dev);
    snprintf(path, sizeof(path), "%s/file", dir);
    fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    victim = fork(); /* what would become of us */
    if (victim == 0)
        _exit(fstat(fd, &st) != 0);
    alarm(10);
    assert_refused(dup(fd), true, "not memory");
    assert_refused(dup(fd), false, "not memory");
    alarm(0);
    usleep(200000);
    assert_int_equal(waitpid(victim, &status, WNOHANG), 0); /* still waits for GETATTR */
    kill(victim, SIGKILL);
    kill(server, SIGKILL);
    assert_int_equal(waitpid(server, &status, 0), server);
    assert_int_equal(waitpid(victim, &status, 0), victim);
    close(fd);
    assert_int_equal(umount2(dir, MNT_DETACH), 0);
    rmdir(dir);
}

static void test_tmpfs_file(void **state) {
    char path[] = "/dev/shm/test-memory.XXXXXX", page[4096] = {1};
    struct vb_memory *m;
    struct vb_error e;
    int fd = mkstemp(path);

    (void)state;
    if (fd < 0)
        skip();
    unlink(path);
    assert_int_equal(write(fd, page, sizeof(page)), sizeof(page));
    assert_int_equal(try(fd, true, &m, &e), 0);
    vb_memory_free(m);
}

static void test_hugetlb(void **state) {
    const uint64_t size = 4 * MIB;
    int fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
    struct vb_memory *m;
    struct vb_error e;
    char *p = MAP_FAILED;

    (void)state;
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0 ||
        (p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED) {
        printf("# no huge pages of 2 MiB\n");
        if (fd >= 0)
            close(fd);
        skip();
    }
    p[0] = 1;
    assert_refused(dup(fd), true, "2 MiB of 4 MiB");
    p[2 * MIB] = 1;
    assert_int_equal(try(dup(fd), true, &m, &e), 0);
    assert_int_equal(m->kind, VB_MEMORY_HUGETLB);
    assert_int_equal(m->page_size, 2 * MIB);
    assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 2 * MIB), 0);
    assert_int_equal(vb_memory_recheck(m, true, &e), VB_BAD_MEMORY);
    vb_memory_free(m);
    munmap(p, size);
    close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memfd),
        cmocka_unit_test(test_access),
        cmocka_unit_test(test_seals),
        cmocka_unit_test(test_size_and_holes),
        cmocka_unit_test(test_changed_afterwards),
        cmocka_unit_test(test_other_files),
        cmocka_unit_test(test_a_server_that_does_not_answer),
        cmocka_unit_test(test_tmpfs_file),
        cmocka_unit_test(test_hugetlb),
    };

    return cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}
