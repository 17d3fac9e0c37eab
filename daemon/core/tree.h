/* Red-black trees of libbsd's <sys/tree.h>, with a static generator: the one there needs BSD's __unused, which is the
 * name of a struct member in Linux headers. */
#ifndef VB_CORE_TREE_H
#define VB_CORE_TREE_H

#include <bsd/sys/tree.h>
#include <stddef.h>

#define VB_TREE_GENERATE(name, type, field, compare)                                                                   \
    RB_GENERATE_INTERNAL(name, type, field, compare, __attribute__((unused)) static)

#endif
