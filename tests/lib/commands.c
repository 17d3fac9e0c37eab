#include "tests/lib/commands.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void say(const char *fmt, ...) {
    va_list ap;

    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
    fflush(stdout);
}

static const struct command *find(const struct command *commands, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(name, commands[i].name) == 0)
            return &commands[i];
    return NULL;
}

void commands_serve(const struct command *commands, size_t n) {
    char line[256];

    while (fgets(line, sizeof line, stdin)) {
        char *arg = line + strcspn(line, " \n");

        if (*arg)
            *arg++ = '\0';
        arg[strcspn(arg, "\n")] = '\0';
        const struct command *c = find(commands, n, line);
        if (c)
            c->run(arg);
        else
            say("failed no command %s", line);
    }
}
