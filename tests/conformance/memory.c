/* Registering memory: what is accepted, what is refused and why. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "conformance.h"

#ifndef MFD_HUGE_2MB /* linux/memfd.h, which clashes with sys/mman.h */
#define MFD_HUGE_2MB (21u << 26)
#endif

/* Another open file of the same memfd. */
static int reopen(int fd, int flags) {
    char path[64];
    int r;

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    r = open(path, flags | O_CLOEXEC);
    tap_check(r >= 0, "%s: %s", path, strerror(errno));
    return r;
}

static int reg(struct vfb_client *c, int fd, unsigned flags) {
    struct vfb_memory m;

    return vfb_memory_register(c, fd, flags, "fd", &m);
}

static void register_and_use(int fd, uint64_t size, uint64_t page_size, unsigned flags) {
    struct vfb_client *c = join();
    uint32_t space = space_new(c);
    struct vfb_memory m;

    OK(c, vfb_memory_register(c, fd, flags, "test", &m));
    tap_check(m.size == size && m.page_size == page_size, "size %" PRIu64 ", page size %" PRIu64, m.size, m.page_size);
    OK(c, map_prot(c, space, m.id, 0x200000, 0, size, flags & VFB_WRITABLE ? VFB_READ | VFB_WRITE : VFB_READ));
    REFUSED(c, vfb_memory_unregister(c, m.id), VFB_BUSY);
    says_number(c, m.id);
    OK(c, unmap1(c, space, 0x200000, size));
    OK(c, vfb_memory_unregister(c, m.id));
    REFUSED(c, vfb_memory_unregister(c, m.id), VFB_NOT_FOUND);
    says_number(c, m.id);
    vfb_client_free(c);
}

static void case_memfd(void) {
    register_and_use(memfd(MIB, 0), MIB, PAGE, VFB_WRITABLE);
}

static void case_memfd_read_only(void) {
    register_and_use(reopen(memfd(MIB, 0), O_RDONLY), MIB, PAGE, 0);
}

static void case_memfd_for_reading(void) {
    register_and_use(memfd(MIB, 0), MIB, PAGE, 0); /* an O_RDWR fd may be registered for reading alone */
}

static void case_tmpfs(void) {
    char path[] = "/dev/shm/vfio-broker-conformance.XXXXXX";
    int fd = mkostemp(path, O_CLOEXEC);

    if (fd < 0)
        tap_case_skip("no tmpfs at /dev/shm: %s", strerror(errno));
    unlink(path);
    tap_check(ftruncate(fd, (off_t)MIB) == 0, "ftruncate: %s", strerror(errno));
    register_and_use(fd, MIB, PAGE, VFB_WRITABLE);
}

static void use_huge(int fd) {
    const uint64_t size = 4 * MIB;

    tap_check(ftruncate(fd, (off_t)size) == 0, "ftruncate: %s", strerror(errno));
    if (mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED)
        tap_case_skip("no two huge pages of 2 MiB are free");
    register_and_use(fd, size, 2 * MIB, VFB_WRITABLE);
}

static void case_hugetlb_memfd(void) {
    int fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);

    if (fd < 0)
        tap_case_skip("this kernel has no huge pages of 2 MiB: %s", strerror(errno));
    use_huge(fd);
}

static void case_hugetlbfs(void) {
    char path[] = "/dev/hugepages/vfio-broker-conformance.XXXXXX";
    int fd = mkostemp(path, O_CLOEXEC);

    if (fd < 0)
        tap_case_skip("no hugetlbfs at /dev/hugepages that we may write to: %s", strerror(errno));
    unlink(path);
    use_huge(fd);
}

static void case_contents_kept(void) {
    struct vfb_client *c = join();
    struct mem m = {.fd = memfd(MIB, 0), .size = MIB};
    struct vfb_memory reply;

    tap_check(pwrite(m.fd, "begin", 5, 0) == 5 && pwrite(m.fd, "end", 3, MIB - 3) == 3, "pwrite");
    tap_check(lseek(m.fd, 4242, SEEK_SET) == 4242, "lseek");
    OK(c, vfb_memory_register(c, m.fd, VFB_WRITABLE, NULL, &reply));
    map_host(&m);
    tap_check(memcmp(m.p, "begin", 5) == 0 && memcmp(m.p + MIB - 3, "end", 3) == 0, "populating changed the contents");
    tap_check(lseek(m.fd, 0, SEEK_CUR) == 4242, "the file position of the client was moved");
    tap_check(usage(c).used == 0, "registering cost %" PRIu64 " bytes", usage(c).used);
    vfb_client_free(c);
}

static void case_not_memory(void) {
    struct vfb_client *c = join();
    char path[] = "/var/tmp/vfio-broker-conformance.XXXXXX";
    int p[2], s[2], file;

    tap_check(pipe2(p, O_CLOEXEC) == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s) == 0, "pipe");
    REFUSED(c, reg(c, p[0], 0), VFB_BAD_MEMORY);
    REFUSED(c, reg(c, s[0], VFB_WRITABLE), VFB_BAD_MEMORY);
    REFUSED(c, reg(c, open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), 0), VFB_BAD_MEMORY);
    REFUSED(c, reg(c, open("/dev/null", O_RDWR | O_CLOEXEC), VFB_WRITABLE), VFB_BAD_MEMORY);
    REFUSED(c, reg(c, open("/proc/self/status", O_RDONLY | O_CLOEXEC), 0), VFB_BAD_MEMORY);
    file = open("/bin/sh", O_RDONLY | O_CLOEXEC);
    REFUSED(c, reg(c, file, 0), VFB_BAD_MEMORY);
    file = mkostemp(path, O_CLOEXEC);
    tap_check(file >= 0, "%s: %s", path, strerror(errno));
    unlink(path);
    REFUSED(c, reg(c, reopen(memfd(PAGE, 0), O_PATH), 0), VFB_BAD_MEMORY);
    REFUSED(c, reg(c, -1, 0), -EBADF);
    REFUSED(c, reg(c, memfd(PAGE, 0), 1u << 20), VFB_INVALID);
    tap_check(usage(c).memories == 0, "%u memories", usage(c).memories);
    vfb_client_free(c);
}

static void case_sizes(void) {
    struct vfb_client *c = join();

    REFUSED(c, reg(c, memfd(0, 0), VFB_WRITABLE), VFB_BAD_MEMORY);
    says(c, "empty");
    REFUSED(c, reg(c, memfd(PAGE + 1, 0), VFB_WRITABLE), VFB_BAD_MEMORY);
    says_number(c, PAGE + 1);
    OK(c, reg(c, memfd(PAGE, 0), VFB_WRITABLE));
    vfb_client_free(c);
}

static void case_access(void) {
    struct vfb_client *c = join();
    uint32_t space = space_new(c);
    struct vfb_memory m;
    int fd = memfd(PAGE, 0), ro = reopen(fd, O_RDONLY);

    REFUSED(c, reg(c, ro, VFB_WRITABLE), VFB_BAD_MEMORY);
    says(c, "read-only");
    REFUSED(c, reg(c, reopen(fd, O_WRONLY), VFB_WRITABLE), VFB_BAD_MEMORY);
    says(c, "write-only");
    OK(c, vfb_memory_register(c, ro, 0, "ro", &m));
    REFUSED_ENTRY(c, map1(c, space, m.id, 0, 0, PAGE), VFB_BAD_MEMORY, 0);
    says_number(c, m.id);
    OK(c, map_prot(c, space, m.id, 0, 0, PAGE, VFB_READ));
    vfb_client_free(c);
}

static void case_seals(void) {
    static const int write_seals[] = {F_SEAL_WRITE, F_SEAL_FUTURE_WRITE};
    struct vfb_client *c = join();
    uint32_t space = space_new(c);

    for (unsigned i = 0; i < 2; i++) {
        int fd = memfd(PAGE, 0);
        struct vfb_memory m;

        tap_check(pwrite(fd, "x", 1, 0) == 1, "pwrite");
        tap_check(fcntl(fd, F_ADD_SEALS, write_seals[i]) == 0, "seal: %s", strerror(errno));
        REFUSED(c, reg(c, fd, VFB_WRITABLE), VFB_BAD_MEMORY);
        says(c, i ? "F_SEAL_FUTURE_WRITE" : "F_SEAL_WRITE");
        OK(c, vfb_memory_register(c, fd, 0, "sealed", &m));
        OK(c, map_prot(c, space, m.id, i * PAGE, 0, PAGE, VFB_READ));
    }
    vfb_client_free(c);
}

static void case_seal_later(void) {
    struct vfb_client *c = join();
    uint32_t space = space_new(c);
    struct vfb_memory m;
    int fd = memfd(2 * PAGE, 0);

    OK(c, vfb_memory_register(c, fd, VFB_WRITABLE, "sealed later", &m));
    tap_check(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0 && errno == EBUSY, "F_SEAL_WRITE while registered: %s",
              strerror(errno));
    OK(c, map1(c, space, m.id, 0, 0, PAGE));
    tap_check(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0, "F_SEAL_FUTURE_WRITE: %s", strerror(errno));
    REFUSED_ENTRY(c, map1(c, space, m.id, PAGE, PAGE, PAGE), VFB_BAD_MEMORY, 0);
    OK(c, map_prot(c, space, m.id, PAGE, PAGE, PAGE, VFB_READ));
    OK(c, vfb_unmap_all(c, space, NULL));
    OK(c, vfb_memory_unregister(c, m.id));
    tap_check(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0, "F_SEAL_WRITE after unregistering: %s", strerror(errno));
    vfb_client_free(c);
}

static void case_holes(void) {
    struct vfb_client *c = join();
    uint32_t space = space_new(c);
    struct vfb_memory reply;
    struct mem m = {.fd = memfd(16 * PAGE, 0), .size = 16 * PAGE};

    REFUSED(c, reg(c, m.fd, VFB_WRITABLE | VFB_NO_POPULATE), VFB_BAD_MEMORY);
    map_host(&m);
    for (unsigned i = 0; i < 16; i++)
        if (i != 9)
            m.p[i * PAGE] = 1;
    REFUSED(c, reg(c, m.fd, VFB_WRITABLE | VFB_NO_POPULATE), VFB_BAD_MEMORY);
    says_number(c, 9 * PAGE);
    m.p[9 * PAGE] = 1;
    OK(c, vfb_memory_register(c, m.fd, VFB_WRITABLE | VFB_NO_POPULATE, "full", &reply));
    OK(c, map1(c, space, reply.id, 0, 0, PAGE));

    /* Punched, then shrunk, after registration. */
    tap_check(fallocate(m.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5 * PAGE, PAGE) == 0, "punch: %s",
              strerror(errno));
    REFUSED_ENTRY(c, map1(c, space, reply.id, 0x100000, 4 * PAGE, 4 * PAGE), VFB_BAD_MEMORY, 0);
    says_number(c, reply.id);
    m.p[5 * PAGE] = 1;
    OK(c, map1(c, space, reply.id, 0x100000, 4 * PAGE, 4 * PAGE));
    tap_check(ftruncate(m.fd, 8 * PAGE) == 0, "ftruncate: %s", strerror(errno));
    REFUSED_ENTRY(c, map1(c, space, reply.id, 0x200000, 0, PAGE), VFB_BAD_MEMORY, 0);
    says_number(c, 8 * PAGE);
    tap_check(describe(c, space).mappings == 2, "%" PRIu64 " mappings", describe(c, space).mappings);
    vfb_client_free(c);
}

static int open_again(int fd) {
    char path[32];

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    fd = open(path, O_RDWR | O_CLOEXEC);
    tap_check(fd >= 0, "%s: %s", path, strerror(errno));
    return fd;
}

static void case_twice(void) {
    struct vfb_client *c = join();
    struct mem m = mem_new(c, PAGE);

    struct vfb_memory again, read_only;
    uint32_t space = space_new(c);
    int same = open_again(m.fd);

    OK(c, vfb_memory_register(c, same, VFB_WRITABLE, "again", &again)); /* another open file, the same inode */
    tap_check(again.id == m.id && again.size == PAGE, "memory %u is %u now", m.id, again.id);
    OK(c, vfb_memory_register(c, m.fd, 0, "read-only", &read_only)); /* pages that the kernel pins anew */
    tap_check(read_only.id != m.id, "one number for two accesses");
    OK(c, map1(c, space, m.id, 0, 0, PAGE));
    OK(c, map1(c, space, again.id, PAGE, 0, PAGE));
    tap_check(usage(c).used == paid(c, PAGE, 2 * PAGE) && usage(c).memories == 2, "%" PRIu64 " bytes paid",
              usage(c).used);
    OK(c, map_prot(c, space, read_only.id, 2 * PAGE, 0, PAGE, VFB_READ));
    tap_check(usage(c).used == paid(c, 2 * PAGE, 3 * PAGE), "%" PRIu64 " bytes paid", usage(c).used);
    OK(c, vfb_memory_unregister(c, m.id)); /* registered once more */
    OK(c, map1(c, space, m.id, 3 * PAGE, 0, PAGE));
    REFUSED(c, vfb_memory_unregister(c, m.id), VFB_BUSY);
    OK(c, vfb_unmap_all(c, space, NULL));
    OK(c, vfb_memory_unregister(c, m.id));
    REFUSED(c, vfb_memory_unregister(c, m.id), VFB_NOT_FOUND);
    OK(c, reg(c, m.fd, VFB_WRITABLE));
    tap_check(ftruncate(m.fd, 4 * PAGE) == 0, "ftruncate: %s", strerror(errno));
    REFUSED(c, reg(c, m.fd, VFB_WRITABLE), VFB_BUSY); /* it has grown: one number cannot mean both */
    vfb_client_free(c);
}

static void case_memories_max(void) {
    struct vfb_client *c = join();
    uint32_t max = vfb_info(c)->memories_max, first = 0, unused;
    struct vfb_memory m;

    for (uint32_t i = 0; i < max; i++) {
        int fd = memfd(PAGE, 0);

        OK(c, vfb_memory_register(c, fd, VFB_WRITABLE, "one of many", &m));
        close(fd);
        if (!first)
            first = m.id;
    }
    REFUSED(c, vfb_memory_register(c, memfd(PAGE, 0), VFB_WRITABLE, "too many", &m), VFB_LIMIT);
    says_number(c, max);
    tap_check(vfb_error(c)->limit == max && vfb_error(c)->used == max, "used %" PRIu64 ", limit %" PRIu64,
              vfb_error(c)->used, vfb_error(c)->limit);
    OK(c, vfb_memory_unregister(c, first));
    unused = first;
    OK(c, vfb_memory_register(c, memfd(PAGE, 0), VFB_WRITABLE, "fits again", &m));
    tap_check(m.id != unused, "the id of an unregistered memory was given out again");
    vfb_client_free(c);
}

DEFINE_CASES(memory, {"register a memfd", case_memfd, 0}, {"register a read-only memfd", case_memfd_read_only, 0},
             {"register a memfd for reading alone", case_memfd_for_reading, 0},
             {"register a hugetlb memfd", case_hugetlb_memfd, 0}, {"register a file on tmpfs", case_tmpfs, 0},
             {"register a file on hugetlbfs", case_hugetlbfs, 0},
             {"registering keeps contents and file position, and costs nothing", case_contents_kept, 0},
             {"fds that are no memory are refused", case_not_memory, 0},
             {"empty and odd sizes are refused", case_sizes, 0},
             {"read-only and write-only fds do not become writable", case_access, 0},
             {"sealed memory does not become writable", case_seals, 0},
             {"sealing after registration", case_seal_later, 0},
             {"holes, punched and shrunk files are refused", case_holes, 0},
             {"a file that is registered again is found again", case_twice, 0},
             {"the number of memories is limited", case_memories_max, 0});
