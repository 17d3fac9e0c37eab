/* Closing a client's socket without being held up by what the client left in it.
 *
 * The last close of a socket drops the packets in its queue and closes the fds in them, in the process that closes: a TCP
 * socket with SO_LINGER makes that wait for as long as its owner likes (seen: 8 seconds each). So a socket with fds in
 * its queue gets its last close in a process that does nothing else. */
#ifndef VB_BROKER_CLOSER_H
#define VB_BROKER_CLOSER_H

/* For sockets of clients and of sessions alike. It is shut down for everybody who has it; what is in the queue is dropped;
 * the peer still gets what was sent to it. When not even a process can be started, the fd stays open. */
void vb_close_client(int fd /* consumed */);
/* For a socket that somebody else goes on serving, if he tells the truth: it is not shut down. */
void vb_close_elsewhere(int fd /* consumed */);

#endif
