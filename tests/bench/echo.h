/* The least that a request can cost: a raw SOCK_SEQPACKET echo between two processes, with packets of given sizes. */
#ifndef VB_BENCH_ECHO_H
#define VB_BENCH_ECHO_H

#include <stddef.h>
#include <sys/types.h>

struct echo {
    int sock;
    pid_t pid; /* of the other process */
};

void echo_start(struct echo *e);
/* Sends `request` bytes (4 at least) and waits for `reply` bytes. */
void echo_call(struct echo *e, size_t request, size_t reply);
void echo_stop(struct echo *e);

#endif
