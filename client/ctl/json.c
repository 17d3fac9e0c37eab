/* The JSON writer: for programs. The shape depends on the columns only, never on the data: an empty list is [], one row
 * is an array of one; sizes are integers in bytes, addresses are "0x…" strings; "version" changes if a key ever does. */
#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/grid.h"

#define JSON_SHAPE_VERSION 1

static struct json_object *words_value(const char *words, bool numbers) {
    struct json_object *a = json_object_new_array();

    for (const char *end; a && (end = strchr(words, '\n')); words = end + 1) {
        struct json_object *s = numbers ? json_object_new_int64(strtoll(words, NULL, 10))
                                        : json_object_new_string_len(words, (int)(end - words));

        if (!s || json_object_array_add(a, s) < 0) {
            json_object_put(s);
            json_object_put(a);
            return NULL;
        }
    }
    return a;
}

static struct json_object *value(enum grid_type type, const struct grid_cell *c) {
    char text[32];

    switch (type) {
    case GRID_TEXT:
        return json_object_new_string(c->text);
    case GRID_WORDS:
    case GRID_NUMBERS:
        return words_value(c->text, type == GRID_NUMBERS);
    case GRID_BYTES:
        return json_object_new_uint64((uint64_t)c->number);
    case GRID_NUMBER:
    case GRID_ID:
    case GRID_TIME:
        return json_object_new_int64(c->number);
    case GRID_FLAG:
        return json_object_new_boolean(c->number != 0);
    case GRID_ADDRESS:
        snprintf(text, sizeof text, "0x%" PRIx64, (uint64_t)c->number);
        return json_object_new_string(text);
    }
    return NULL;
}

/* Takes `child` over, whatever happens. */
static bool put(struct json_object *o, const char *key, struct json_object *child) {
    if (child && json_object_object_add(o, key, child) == 0)
        return true;
    json_object_put(child);
    return false;
}

static struct json_object *row_value(const struct grid *g, size_t row) {
    struct json_object *o = json_object_new_object();

    for (size_t i = 0; o && i < g->n_columns; i++) {
        if (put(o, g->columns[i].key, value(g->columns[i].type, grid_cell(g, row, i))))
            continue;
        json_object_put(o);
        return NULL;
    }
    return o;
}

static struct json_object *rows_value(const struct grid *g) {
    struct json_object *a = json_object_new_array();

    for (size_t row = 0; a && row < grid_rows(g); row++) {
        struct json_object *o = row_value(g, row);

        if (!o || json_object_array_add(a, o) < 0) {
            json_object_put(o);
            json_object_put(a);
            return NULL;
        }
    }
    return a;
}

static bool put_part(struct json_object *o, const struct grid_part *p) {
    return !p->grid->failed && put(o, p->what, p->single ? row_value(p->grid, 0) : rows_value(p->grid));
}

int json_print_parts(const struct grid_part *parts, size_t n, bool pretty) {
    int flags = pretty ? JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED : JSON_C_TO_STRING_PLAIN;
    struct json_object *o = json_object_new_object();
    const char *text = NULL;
    bool ok = o && put(o, "version", json_object_new_int(JSON_SHAPE_VERSION));

    for (size_t i = 0; ok && i < n; i++)
        ok = put_part(o, &parts[i]);
    if (ok)
        text = json_object_to_json_string_ext(o, flags | JSON_C_TO_STRING_NOSLASHESCAPE);
    if (text)
        puts(text);
    json_object_put(o);
    return text ? 0 : -ENOMEM;
}

int json_print(const struct grid *g, const char *what, bool single, bool pretty) {
    const struct grid_part part = {.what = what, .grid = g, .single = single};

    return json_print_parts(&part, 1, pretty);
}
