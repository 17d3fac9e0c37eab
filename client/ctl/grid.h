/* Rows of typed cells: what a verb found, before anybody decides how it looks. The table writer (table.c) and the JSON
 * writer (json.c) are its two readers, so both always show the same things.
 *
 * Cells are added row by row, in the order of the columns. Running out of memory is noted and told by the writers.
 * Text comes from other people's processes: what is not printable ASCII is replaced here, once for both. */
#ifndef CTL_GRID_H
#define CTL_GRID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum grid_type {
    GRID_TEXT,
    GRID_NUMBER,
    GRID_ID,      /* table: 0 is "-" */
    GRID_BYTES,   /* table: "64 MiB"; JSON: an integer */
    GRID_ADDRESS, /* both: "0x…"; JSON has no 64-bit integers that everybody reads exactly */
    GRID_FLAG,    /* table: yes, no */
    GRID_TIME,    /* seconds since the epoch; table: local time */
    GRID_WORDS,   /* table: joined by commas; JSON: an array */
    GRID_NUMBERS, /* the same, of integers */
};

struct grid_column {
    const char *key;   /* in JSON; never changes its meaning */
    const char *title; /* in tables; NULL: in JSON only */
    enum grid_type type;
};

struct grid_cell {
    int64_t number;
    char *text; /* owned; GRID_WORDS, GRID_NUMBERS: each ends with a newline, which text cannot have */
};

struct grid {
    const struct grid_column *columns;
    size_t n_columns;
    struct grid_cell *cells; /* owned; row-major */
    size_t n_cells, room;
    bool failed; /* out of memory */
};

#define GRID_INIT(cols)                                                                                                \
    { .columns = (cols), .n_columns = sizeof(cols) / sizeof *(cols) }
#define GRID __attribute__((cleanup(grid_fini)))

void grid_fini(struct grid *g);
void grid_text(struct grid *g, const char *text); /* NULL is "" */
void grid_words(struct grid *g, char *const *words, size_t n);
void grid_numbers(struct grid *g, const uint32_t *numbers, size_t n);
/* Puts another grid's first cell, of the same type, in place of one; the other's is empty then. */
void grid_replace(struct grid *g, size_t row, size_t column, struct grid *with);
/* Every type that is a single number. */
void grid_number(struct grid *g, uint64_t n);

static inline size_t grid_rows(const struct grid *g) {
    return g->n_cells / g->n_columns;
}
static inline const struct grid_cell *grid_cell(const struct grid *g, size_t row, size_t column) {
    return &g->cells[row * g->n_columns + column];
}

/* Titles and aligned columns, or one line that says there is nothing. `what`: "sessions". */
int table_print(const struct grid *g, const char *what);
/* The first row, one line for each column. */
int table_print_record(const struct grid *g);
struct grid_part {
    const char *what;
    const struct grid *grid;
    bool single;
};
/* {"version":1,"what":[{…},…]}, a key for each part; single: "what":{…}. */
int json_print_parts(const struct grid_part *parts, size_t n, bool pretty);
/* The same with one part. */
int json_print(const struct grid *g, const char *what, bool single, bool pretty);

/* The largest unit in which it is a whole number: "64 MiB", "4097 B"; ~0 is "unlimited". */
struct size_text {
    char s[32];
};
struct size_text size_text(uint64_t bytes);

#endif
