/* vfio-brokerctl list: a table of kinds, each with its columns and what fills a page of rows. */
#include "config.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "client/ctl/ctl.h"
#include "proto/cleanup.h"

/* ---- sessions ------------------------------------------------------------------------------------------------- */

static const struct grid_column session_columns[] = {
    {"session", "SESSION", GRID_NUMBER}, {"state", "STATE", GRID_TEXT},      {"client", "CLIENT", GRID_TEXT},
    {"name", "NAME", GRID_TEXT},         {"client_pid", "PID", GRID_NUMBER}, {"client_uid", "UID", GRID_NUMBER},
    {"lease", "LEASE", GRID_BYTES},      {"started", "STARTED", GRID_TIME},  {"pid", "SERVED BY", GRID_NUMBER},
    {"uid", NULL, GRID_NUMBER},          {"admin", NULL, GRID_FLAG},         {"devices", "DEVICES", GRID_WORDS},
};

static void add_sessions(struct grid *g, uint32_t own, const VfioBroker__InspectReply *reply) {
    for (size_t i = 0; i < reply->n_sessions; i++) {
        const VfioBroker__SessionRow *row = reply->sessions[i];

        if (row->session == own) /* vfio-brokerctl itself: people look for their VMs */
            continue;
        grid_number(g, row->session);
        grid_text(g, row->state);
        grid_text(g, row->client);
        grid_text(g, ""); /* see add_names() */
        grid_number(g, row->client_pid);
        grid_number(g, row->client_uid);
        grid_number(g, row->lease);
        grid_number(g, row->started);
        grid_number(g, row->pid);
        grid_number(g, row->uid);
        grid_number(g, row->admin);
        grid_words(g, row->devices, row->n_devices);
    }
}

#define SESSION_COLUMN_STATE 1
#define SESSION_COLUMN_NAME  3

static const struct grid_column name_columns[] = {{"name", NULL, GRID_TEXT}};

static void add_name(struct grid *g, uint32_t session, const VfioBroker__InspectReply *reply) {
    (void)session;
    grid_text(g, reply->usage ? reply->usage->name : "");
}

/* What clients call themselves is known to their sessions only. One that hangs costs the daemon's patience with it, so
 * after the first the names of the rest stay empty. */
static void add_names(struct ctl *ctl, struct grid *g) {
    for (size_t i = 0; i < grid_rows(g) && !g->failed; i++) {
        GRID struct grid name = GRID_INIT(name_columns);

        if (strcmp(grid_cell(g, i, SESSION_COLUMN_STATE)->text, "serving") != 0)
            continue;
        int r = ctl_try(ctl, VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE, (uint32_t)grid_cell(g, i, 0)->number, add_name,
                        &name);
        if (r == 0 && !name.failed && grid_rows(&name) == 1)
            grid_replace(g, i, SESSION_COLUMN_NAME, &name);
        else if (r != 0 && r != VFB_NOT_FOUND)
            return;
    }
}

/* ---- spaces --------------------------------------------------------------------------------------------------- */

static const struct grid_column space_columns[] = {
    {"session", "SESSION", GRID_NUMBER},   {"space", "SPACE", GRID_NUMBER},        {"name", "NAME", GRID_TEXT},
    {"mappings", "MAPPINGS", GRID_NUMBER}, {"mapped_bytes", "MAPPED", GRID_BYTES}, {"discarded", "DISCARDED", GRID_ID},
    {"dirty", "DIRTY", GRID_FLAG},         {"devices", "DEVICES", GRID_WORDS},     {"domains", "DOMAINS", GRID_TEXT},
};

/* "ioas 3, hwpt 5", or where there are more, or one that leaves out: "ioas 3, hwpt 5 (0000:00:04.0); ioas 3, hwpt 7
 * (0000:00:05.0; leaves out 2)". `list domains` has the same in columns. */
static void print_domains(FILE *f, const VfioBroker__SpaceRow *row) {
    for (size_t i = 0; i < row->n_domain; i++) {
        const VfioBroker__DomainRow *d = row->domain[i];

        fprintf(f, "%s%s", i ? "; " : "", d->text);
        if (row->n_domain == 1 && !d->leaves_out)
            continue;
        fputs(" (", f);
        for (size_t k = 0; k < d->n_devices; k++)
            fprintf(f, "%s%s", k ? "," : "", d->devices[k]);
        if (d->leaves_out)
            fprintf(f, "%sleaves out %" PRIu64, d->n_devices ? "; " : "", d->left_out);
        fputs(d->n_devices || d->leaves_out ? ")" : "no device)", f);
    }
    if (row->n_domain == 0) /* of a session from before there were rows of domains */
        fputs(row->domains, f);
}

static void add_domains_text(struct grid *g, const VfioBroker__SpaceRow *row) {
    VB_FREE char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);

    if (f) {
        print_domains(f, row);
        if (fclose(f) == 0) {
            grid_text(g, text);
            return;
        }
    }
    g->failed = true;
}

static void add_spaces(struct grid *g, uint32_t session, const VfioBroker__InspectReply *reply) {
    for (size_t i = 0; i < reply->n_spaces; i++) {
        const VfioBroker__SpaceRow *row = reply->spaces[i];

        grid_number(g, session);
        grid_number(g, row->space);
        grid_text(g, row->name);
        grid_number(g, row->mappings);
        grid_number(g, row->mapped_bytes);
        grid_number(g, row->discarded);
        grid_number(g, row->dirty);
        grid_words(g, row->devices, row->n_devices);
        add_domains_text(g, row);
    }
}

/* ---- domains: what the kernel has of spaces ---------------------------------------------------------------------- */

static const struct grid_column domain_columns[] = {
    {"session", "SESSION", GRID_NUMBER},     {"space", "SPACE", GRID_NUMBER},       {"domain", "DOMAIN", GRID_TEXT},
    {"leaves_out", "LEAVES OUT", GRID_FLAG}, {"left_out", "LEFT OUT", GRID_NUMBER}, {"devices", "DEVICES", GRID_WORDS},
};

static void add_domains(struct grid *g, uint32_t session, const VfioBroker__InspectReply *reply) {
    for (size_t i = 0; i < reply->n_spaces; i++) {
        const VfioBroker__SpaceRow *row = reply->spaces[i];

        for (size_t k = 0; k < row->n_domain; k++) {
            grid_number(g, session);
            grid_number(g, row->space);
            grid_text(g, row->domain[k]->text);
            grid_number(g, row->domain[k]->leaves_out);
            grid_number(g, row->domain[k]->left_out);
            grid_words(g, row->domain[k]->devices, row->domain[k]->n_devices);
        }
    }
}

/* ---- mappings ------------------------------------------------------------------------------------------------- */

static const struct grid_column mapping_columns[] = {
    {"session", "SESSION", GRID_NUMBER}, {"space", "SPACE", GRID_NUMBER},   {"iova", "IOVA", GRID_ADDRESS},
    {"size", "SIZE", GRID_BYTES},        {"memory", "MEMORY", GRID_NUMBER}, {"offset", "OFFSET", GRID_ADDRESS},
    {"prot", "PROT", GRID_TEXT},
};

static void add_mappings(struct grid *g, uint32_t session, const VfioBroker__InspectReply *reply) {
    static const char *const prots[] = {"--", "r-", "-w", "rw"};

    for (size_t i = 0; i < reply->n_mappings; i++) {
        const VfioBroker__MappingRow *row = reply->mappings[i];

        grid_number(g, session);
        grid_number(g, row->space);
        grid_number(g, row->iova);
        grid_number(g, row->size);
        grid_number(g, row->memory);
        grid_number(g, row->offset);
        grid_text(g, prots[row->prot & (VFB_READ | VFB_WRITE)]);
    }
}

/* ---- memory --------------------------------------------------------------------------------------------------- */

static const struct grid_column memory_columns[] = {
    {"session", "SESSION", GRID_NUMBER}, {"memory", "MEMORY", GRID_NUMBER},     {"name", "NAME", GRID_TEXT},
    {"kind", "KIND", GRID_TEXT},         {"size", "SIZE", GRID_BYTES},          {"page_size", "PAGES", GRID_BYTES},
    {"writable", "WRITABLE", GRID_FLAG}, {"mappings", "MAPPINGS", GRID_NUMBER}, {"paid", "PAID", GRID_BYTES},
    {"mapped", NULL, GRID_BYTES},        {"pinned", "PINNED", GRID_BYTES},      {"registered", NULL, GRID_NUMBER},
    {"note", "NOTE", GRID_TEXT},
};

static void add_memory(struct grid *g, uint32_t session, const VfioBroker__InspectReply *reply) {
    for (size_t i = 0; i < reply->n_memories; i++) {
        const VfioBroker__MemoryRow *row = reply->memories[i];

        grid_number(g, session);
        grid_number(g, row->memory);
        grid_text(g, row->name);
        grid_text(g, row->kind);
        grid_number(g, row->size);
        grid_number(g, row->page_size);
        grid_number(g, row->writable);
        grid_number(g, row->mappings);
        grid_number(g, row->paid);
        grid_number(g, row->mapped);
        grid_number(g, row->pinned);
        grid_number(g, row->registered);
        grid_text(g, row->note);
    }
}

/* ---- devices -------------------------------------------------------------------------------------------------- */

static const struct grid_column device_columns[] = {
    {"address", "ADDRESS", GRID_TEXT},   {"pci_id", "ID", GRID_TEXT},       {"class", NULL, GRID_ADDRESS},
    {"group", "GROUP", GRID_NUMBER},     {"driver", "DRIVER", GRID_TEXT},   {"state", "STATE", GRID_TEXT},
    {"session", "SESSION", GRID_NUMBER}, {"granted", "GRANTED", GRID_FLAG}, {"reason", "REASON", GRID_TEXT},
};

static void add_devices(struct grid *g, uint32_t session, const VfioBroker__InspectReply *reply) {
    (void)session;
    for (size_t i = 0; i < reply->n_devices; i++) {
        const VfioBroker__DeviceRow *row = reply->devices[i];
        char id[16];

        id[0] = 0; /* an mdev, say, is on no PCI bus */
        if (row->vendor || row->device)
            snprintf(id, sizeof id, "%04x:%04x", row->vendor & 0xffff, row->device & 0xffff);
        grid_text(g, row->address);
        grid_text(g, id);
        grid_number(g, row->pci_class);
        grid_number(g, (uint64_t)(int64_t)row->group);
        grid_text(g, row->driver);
        grid_text(g, row->state);
        grid_number(g, row->session);
        grid_number(g, row->granted);
        grid_text(g, row->reason);
    }
}

/* ---- the verb ------------------------------------------------------------------------------------------------- */

#define COLUMNS(c) c, sizeof(c) / sizeof *(c)

static const struct kind {
    const char *name; /* also the key in JSON */
    VfioBroker__InspectKind kind;
    bool per_session;
    ctl_page_fn add;
    const struct grid_column *columns;
    size_t n_columns;
} kinds[] = {
    {"sessions", VFIO_BROKER__INSPECT_KIND__INSPECT_SESSIONS, false, add_sessions, COLUMNS(session_columns)},
    {"spaces", VFIO_BROKER__INSPECT_KIND__INSPECT_SPACES, true, add_spaces, COLUMNS(space_columns)},
    {"domains", VFIO_BROKER__INSPECT_KIND__INSPECT_SPACES, true, add_domains, COLUMNS(domain_columns)},
    {"mappings", VFIO_BROKER__INSPECT_KIND__INSPECT_MAPPINGS, true, add_mappings, COLUMNS(mapping_columns)},
    {"memory", VFIO_BROKER__INSPECT_KIND__INSPECT_MEMORY, true, add_memory, COLUMNS(memory_columns)},
    {"devices", VFIO_BROKER__INSPECT_KIND__INSPECT_DEVICES, false, add_devices, COLUMNS(device_columns)},
};
#define N_KINDS (sizeof kinds / sizeof *kinds)
const char *const cmd_list_words[] = {"sessions", "spaces", "domains", "mappings", "memory", "devices", NULL};
const char *const cmd_list_session_words[] = {"spaces", "domains", "mappings", "memory", NULL};

int cmd_list(struct ctl *ctl, int n, char **args) {
    const char *name = n > 0 ? args[0] : "sessions";
    const struct kind *k = NULL;
    int status, shown;

    for (size_t i = 0; i < N_KINDS; i++)
        if (strcmp(kinds[i].name, name) == 0)
            k = &kinds[i];
    if (!k) {
        ctl_say("there is no list of %s: sessions, spaces, domains, mappings, memory, devices", name);
        return CTL_USAGE;
    }
    if (ctl->has_session && !k->per_session) {
        ctl_say("--session= goes with spaces, domains, mappings and memory");
        return CTL_USAGE;
    }
    GRID struct grid g = {.columns = k->columns, .n_columns = k->n_columns};
    status = ctl_connect(ctl);
    if (status == CTL_OK)
        status = k->per_session ? ctl_ask_sessions(ctl, k->kind, k->add, &g) : ctl_ask(ctl, k->kind, 0, k->add, &g);
    if (status == CTL_OK && k->add == add_sessions) {
        ctl_note_none(ctl, grid_rows(&g));
        add_names(ctl, &g);
    }
    if (status != CTL_OK && grid_rows(&g) == 0)
        return status;
    shown = ctl_show(ctl, &g, k->name, false);
    return status != CTL_OK ? status : shown;
}
