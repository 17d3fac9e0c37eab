/* Making sure that every page of a memory exists before the broker pins it. */
#ifndef VB_POPULATE_H
#define VB_POPULATE_H

#include <stdbool.h>

struct vfb_client;

/* Touches every page of the file behind fd without changing what it holds. Does nothing for an fd that the broker will
 * refuse anyway (no tmpfs or hugetlbfs file, wrong access, empty): the broker has the better sentence. 0 or a negative
 * errno with the client's error set. */
int vbc_populate(struct vfb_client *c, int fd, bool writable);

#endif
