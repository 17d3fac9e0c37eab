/* Layer 0: packets with fds, and the bounded decoder. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/codec.h"
#include "proto/fdpass.h"
#include "vfio-broker.pb-c.h"

static int open_fds(void) {
    int n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void pair(int sv[2]) {
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
}

static void test_fds_travel_with_their_packet(void **state) {
    (void)state;
    int before = open_fds(), sv[2], pipefd[2];
    char buf[16];
    struct vb_packet p = VB_PACKET_INIT;

    pair(sv);
    assert_int_equal(pipe(pipefd), 0);
    assert_int_equal(vb_packet_send(sv[0], "one", 3, pipefd, 2, 0), 0);
    assert_int_equal(vb_packet_send(sv[0], "two", 3, NULL, 0, 0), 0);
    assert_int_equal(vb_packet_recv(sv[1], buf, sizeof buf, 0, &p), 1);
    assert_int_equal(p.n_fds, 2);
    assert_memory_equal(p.data, "one", 3);
    int fd = vb_packet_steal_fd(&p, 1);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    vb_packet_close(&p);
    assert_int_equal(vb_packet_recv(sv[1], buf, sizeof buf, 0, &p), 1);
    assert_int_equal(p.n_fds, 0);
    assert_int_equal(vb_packet_recv(sv[1], buf, sizeof buf, MSG_DONTWAIT, &p), -EAGAIN);
    close(sv[0]);
    assert_int_equal(vb_packet_recv(sv[1], buf, sizeof buf, 0, &p), 0);
    close(sv[1]), close(fd), close(pipefd[0]), close(pipefd[1]);
    assert_int_equal(open_fds(), before);
}

static void test_truncation_is_told_and_leaks_nothing(void **state) {
    (void)state;
    int before = open_fds(), sv[2], fds[VB_PACKET_FDS + 4];
    char buf[8], big[64] = {0};
    struct vb_packet p = VB_PACKET_INIT;

    pair(sv);
    for (unsigned i = 0; i < VB_PACKET_FDS + 4; i++)
        fds[i] = sv[0];
    assert_int_equal(vb_packet_send(sv[0], big, sizeof big, fds, 3, 0), 0);
    assert_int_equal(vb_packet_recv(sv[1], buf, sizeof buf, 0, &p), -EMSGSIZE);
    assert_int_equal(p.n_fds, 3);
    vb_packet_close(&p);
    assert_int_equal(open_fds(), before + 2);

    /* More fds than we have room for: our own sender refuses, so speak sendmsg. */
    assert_int_equal(vb_packet_send(sv[0], "x", 1, fds, VB_PACKET_FDS + 1, 0), -EINVAL);
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof fds)];
    } c = {0};
    struct iovec iov = {"x", 1};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = c.room, .msg_controllen = sizeof c.room};
    CMSG_FIRSTHDR(&h)->cmsg_level = SOL_SOCKET;
    CMSG_FIRSTHDR(&h)->cmsg_type = SCM_RIGHTS;
    CMSG_FIRSTHDR(&h)->cmsg_len = CMSG_LEN(sizeof fds);
    memcpy(CMSG_DATA(CMSG_FIRSTHDR(&h)), fds, sizeof fds);
    assert_int_equal(sendmsg(sv[0], &h, 0), 1);
    assert_int_equal(vb_packet_recv(sv[1], buf, sizeof buf, 0, &p), -EMSGSIZE);
    assert_int_equal(p.n_fds, VB_PACKET_FDS);
    vb_packet_close(&p);

    /* And where none are wanted, none is installed. */
    assert_int_equal(vb_packet_send(sv[0], "x", 1, fds, 1, 0), 0);
    for (int i = 0; i < 2; i++) /* and it stays where it is */
        assert_int_equal(vb_packet_recv_no_fds(sv[1], buf, sizeof buf, 0, &p), -EMSGSIZE);
    assert_int_equal(p.n_fds, 0);
    assert_int_equal(open_fds(), before + 2);
    assert_int_equal(vb_packet_recv(sv[1], buf, sizeof buf, 0, &p), 1);
    vb_packet_close(&p);
    assert_int_equal(vb_packet_recv_no_fds(sv[1], buf, sizeof buf, MSG_DONTWAIT, &p), -EAGAIN);
    assert_int_equal(vb_packet_send(sv[0], "x", 1, NULL, 0, 0), 0);
    assert_int_equal(vb_packet_recv_no_fds(sv[1], buf, sizeof buf, 0, &p), 1);
    assert_int_equal(p.size, 1);
    close(sv[0]), close(sv[1]);
    assert_int_equal(open_fds(), before);
}

static void test_decoder_is_bounded_and_zeroing(void **state) {
    (void)state;
    struct vb_arena a;
    static uint8_t buf[VB_PACKET_MAX];

    assert_int_equal(vb_arena_init(&a, 4096), 0);
    memset(a.base, 0xff, a.size);
    VfioBroker__Map map = VFIO_BROKER__MAP__INIT;
    VfioBroker__MapEntry entry = VFIO_BROKER__MAP_ENTRY__INIT, *entries[VB_BATCH_MAX];
    entry.iova = UINT64_MAX, entry.size = 4096, entry.offset = 1ull << 40, entry.memory = 3, entry.prot = 3;
    for (unsigned i = 0; i < VB_BATCH_MAX; i++)
        entries[i] = &entry;
    map.entries = entries;
    map.n_entries = 2;
    ssize_t n = vb_encode(&map.base, buf, sizeof buf);
    assert_true(n > 0);
    VfioBroker__Map *got = vb_decode(&a, &vfio_broker__map__descriptor, buf, (size_t)n);
    assert_non_null(got);
    assert_int_equal(got->n_entries, 2);
    assert_int_equal(got->entries[1]->iova, UINT64_MAX);
    assert_int_equal(got->space, 0);

    /* The worst batch fits a packet and the decode limit of limits.h, and does not fit a small arena. */
    VfioBroker__Request r = VFIO_BROKER__REQUEST__INIT;
    r.id = UINT64_MAX, r.body_case = VFIO_BROKER__REQUEST__BODY_MAP, r.map = &map;
    map.n_entries = VB_BATCH_MAX, map.space = UINT32_MAX;
    entry.size = UINT64_MAX, entry.memory = UINT32_MAX, entry.prot = UINT32_MAX;
    n = vb_encode(&r.base, buf, sizeof buf);
    assert_true(n > 0);
    assert_null(vb_decode(&a, &vfio_broker__request__descriptor, buf, (size_t)n));
    vb_arena_fini(&a);
    assert_int_equal(vb_arena_init(&a, VB_DECODE_MAX), 0);
    assert_non_null(vb_decode(&a, &vfio_broker__request__descriptor, buf, (size_t)n));
    assert_int_equal(vb_encode(&r.base, buf, (size_t)n - 1), -EMSGSIZE);
    vb_arena_fini(&a);
}

static void test_garbage_does_not_decode_to_harm(void **state) {
    (void)state;
    struct vb_arena a;
    uint8_t buf[512];

    assert_int_equal(vb_arena_init(&a, VB_DECODE_MAX), 0);
    srandom(1);
    for (int round = 0; round < 20000; round++) {
        size_t n = (size_t)random() % sizeof buf;
        for (size_t i = 0; i < n; i++)
            buf[i] = (uint8_t)random();
        VfioBroker__Request *r = vb_decode(&a, &vfio_broker__request__descriptor, buf, n);
        assert_true(a.used <= a.size);
        if (r)
            assert_ptr_equal(r->base.descriptor, &vfio_broker__request__descriptor);
    }
    vb_arena_fini(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fds_travel_with_their_packet),
        cmocka_unit_test(test_truncation_is_told_and_leaks_nothing),
        cmocka_unit_test(test_decoder_is_bounded_and_zeroing),
        cmocka_unit_test(test_garbage_does_not_decode_to_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
