/* Who has a device open: processes that /proc shows with its VFIO node or device file. */
#ifndef CTL_HOLDERS_H
#define CTL_HOLDERS_H

#include <stddef.h>

/* "pid 812 (qemu), pid 900 (spdk_tgt)", or "" when nobody is seen (or may be seen: root sees all of them). */
void holders_find(const char *sysfs, const char *address, char *ret_text, size_t size);

#endif
