/* See grid.h. */
#include "config.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/grid.h"

void grid_fini(struct grid *g) {
    for (size_t i = 0; i < g->n_cells; i++)
        free(g->cells[i].text);
    free(g->cells);
    g->cells = NULL;
    g->n_cells = g->room = 0;
}

static struct grid_cell *add(struct grid *g) {
    if (g->failed)
        return NULL;
    if (g->n_cells == g->room) {
        size_t room = g->room ? g->room * 2 : 64;
        struct grid_cell *cells = reallocarray(g->cells, room, sizeof *cells);

        if (!cells) {
            g->failed = true;
            return NULL;
        }
        g->cells = cells;
        g->room = room;
    }
    g->cells[g->n_cells] = (struct grid_cell){.number = 0};
    return &g->cells[g->n_cells++];
}

static enum grid_type type_of_next(const struct grid *g) {
    return g->columns[g->n_cells % g->n_columns].type;
}

/* Copies n characters, the unprintable ones replaced; returns the end. */
static char *put(char *to, const char *from, size_t n) {
    for (size_t i = 0; i < n; i++)
        *to++ = from[i] >= 0x20 && from[i] < 0x7f ? from[i] : '?';
    return to;
}

void grid_text(struct grid *g, const char *text) {
    size_t n = text ? strlen(text) : 0;

    assert(g->failed || type_of_next(g) == GRID_TEXT);
    struct grid_cell *cell = add(g);
    if (!cell)
        return;
    cell->text = malloc(n + 1);
    if (!cell->text)
        g->failed = true;
    else
        *put(cell->text, text, n) = 0;
}

void grid_words(struct grid *g, char *const *words, size_t n) {
    size_t size = 1;

    assert(g->failed || type_of_next(g) == GRID_WORDS);
    struct grid_cell *cell = add(g);
    if (!cell)
        return;
    for (size_t i = 0; i < n; i++)
        size += strlen(words[i]) + 1;
    char *p = cell->text = malloc(size);
    if (!p) {
        g->failed = true;
        return;
    }
    for (size_t i = 0; i < n; i++) {
        p = put(p, words[i], strlen(words[i]));
        *p++ = '\n';
    }
    *p = 0;
}

void grid_numbers(struct grid *g, const uint32_t *numbers, size_t n) {
    assert(g->failed || type_of_next(g) == GRID_NUMBERS);
    struct grid_cell *cell = add(g);
    if (!cell)
        return;
    char *p = cell->text = malloc(n * sizeof "4294967295" + 1);
    if (!p) {
        g->failed = true;
        return;
    }
    *p = 0;
    for (size_t i = 0; i < n; i++)
        p += sprintf(p, "%" PRIu32 "\n", numbers[i]);
}

static bool is_text(enum grid_type t) {
    return t == GRID_TEXT || t == GRID_WORDS || t == GRID_NUMBERS;
}

void grid_number(struct grid *g, uint64_t n) {
    assert(g->failed || !is_text(type_of_next(g)));
    struct grid_cell *cell = add(g);
    if (cell)
        cell->number = (int64_t)n;
}

void grid_replace(struct grid *g, size_t row, size_t column, struct grid *with) {
    struct grid_cell *to = &g->cells[row * g->n_columns + column];

    assert(g->columns[column].type == with->columns[0].type);
    free(to->text);
    *to = with->cells[0];
    with->cells[0].text = NULL;
}
