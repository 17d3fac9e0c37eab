/* Programs that do what their stdin says, a command a line with an argument perhaps, and answer with a line each. */
#ifndef VB_TESTS_COMMANDS_H
#define VB_TESTS_COMMANDS_H

#include <stddef.h>

struct command {
    const char *name;
    void (*run)(const char *arg); /* "" when there is none */
};

/* An answer: a line, at once. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Until the end of stdin. A command that is none of these is answered by "failed". */
void commands_serve(const struct command *commands, size_t n);

#endif
