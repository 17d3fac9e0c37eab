/* The table writer: for people. No colours, no padding at the ends of lines; sizes are exact. */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "client/ctl/grid.h"

#define CELL_MAX 512 /* characters of a cell that are shown */

struct size_text size_text(uint64_t bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    struct size_text t;
    unsigned u = 0;

    if (bytes == UINT64_MAX) {
        snprintf(t.s, sizeof t.s, "unlimited");
        return t;
    }
    while (bytes && bytes % 1024 == 0) {
        bytes /= 1024;
        u++;
    }
    snprintf(t.s, sizeof t.s, "%" PRIu64 " %s", bytes, units[u]);
    return t;
}

static void time_text(int64_t seconds, char *to, size_t size) {
    time_t t = (time_t)seconds;
    struct tm tm;

    if (seconds <= 0 || !localtime_r(&t, &tm) || !strftime(to, size, "%Y-%m-%d %H:%M:%S", &tm))
        snprintf(to, size, "-");
}

static void words_text(const char *words, char *to, size_t size) {
    size_t n = strlen(words);

    snprintf(to, size, "%.*s", n ? (int)n - 1 : 0, words); /* without the last newline */
    for (char *p = to; *p; p++)
        if (*p == '\n')
            *p = ',';
}

static void cell_text(const struct grid *g, size_t row, size_t column, char to[CELL_MAX]) {
    const struct grid_cell *c = grid_cell(g, row, column);

    switch (g->columns[column].type) {
    case GRID_TEXT:
        snprintf(to, CELL_MAX, "%s", c->text);
        break;
    case GRID_WORDS:
    case GRID_NUMBERS:
        words_text(c->text, to, CELL_MAX);
        break;
    case GRID_ID:
        to[0] = 0;
        if (c->number == 0)
            break;
        /* fall through */
    case GRID_NUMBER:
        snprintf(to, CELL_MAX, "%" PRId64, c->number);
        break;
    case GRID_BYTES:
        snprintf(to, CELL_MAX, "%s", size_text((uint64_t)c->number).s);
        break;
    case GRID_ADDRESS:
        snprintf(to, CELL_MAX, "0x%" PRIx64, (uint64_t)c->number);
        break;
    case GRID_FLAG:
        snprintf(to, CELL_MAX, "%s", c->number ? "yes" : "no");
        break;
    case GRID_TIME:
        time_text(c->number, to, CELL_MAX);
        break;
    }
    if (!to[0])
        snprintf(to, CELL_MAX, "-");
}

static bool right_aligned(enum grid_type t) {
    return t == GRID_NUMBER || t == GRID_ID || t == GRID_BYTES || t == GRID_ADDRESS;
}

static int width_of(const struct grid *g, size_t column) {
    size_t width = strlen(g->columns[column].title);
    char text[CELL_MAX];

    for (size_t row = 0; row < grid_rows(g); row++) {
        cell_text(g, row, column, text);
        if (strlen(text) > width)
            width = strlen(text);
    }
    return (int)width;
}

static size_t last_shown(const struct grid *g) {
    size_t i = g->n_columns;

    while (i > 0 && !g->columns[i - 1].title)
        i--;
    return i - 1;
}

#define COLUMNS_MAX 24

int table_print(const struct grid *g, const char *what) {
    int width[COLUMNS_MAX] = {0};
    size_t last = last_shown(g);
    char text[CELL_MAX];

    if (g->failed)
        return -ENOMEM;
    if (grid_rows(g) == 0) {
        printf("No %s.\n", what);
        return 0;
    }
    for (size_t i = 0; i <= last && i < COLUMNS_MAX; i++)
        if (g->columns[i].title)
            width[i] = width_of(g, i);
    for (size_t row = 0; row <= grid_rows(g); row++) { /* row 0: the titles */
        for (size_t i = 0; i <= last && i < COLUMNS_MAX; i++) {
            if (!g->columns[i].title)
                continue;
            if (row == 0)
                snprintf(text, sizeof text, "%s", g->columns[i].title);
            else
                cell_text(g, row - 1, i, text);
            if (right_aligned(g->columns[i].type))
                printf("%*s", width[i], text);
            else
                printf("%-*s", i == last ? 0 : width[i], text);
            fputs(i == last ? "\n" : "  ", stdout);
        }
    }
    return 0;
}

int table_print_record(const struct grid *g) {
    int width = 0;
    char text[CELL_MAX];

    if (g->failed)
        return -ENOMEM;
    for (size_t i = 0; i < g->n_columns; i++)
        if (g->columns[i].title && (int)strlen(g->columns[i].title) > width)
            width = (int)strlen(g->columns[i].title);
    for (size_t i = 0; i < g->n_columns; i++) {
        if (!g->columns[i].title)
            continue;
        cell_text(g, 0, i, text);
        printf("%*s: %s\n", width, g->columns[i].title, text);
    }
    return 0;
}
