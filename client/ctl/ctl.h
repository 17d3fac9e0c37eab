/* vfio-brokerctl: one verb, one file. ctl.c has the table of verbs and parses the options for all of them. */
#ifndef CTL_CTL_H
#define CTL_CTL_H

#include <stdbool.h>
#include <stdint.h>

#include "client/ctl/grid.h"
#include "client/inspect.h"

/* Exit statuses, as vfio-brokerctl(1) documents them. */
enum ctl_exit { CTL_OK = 0, CTL_FAILED = 1, CTL_USAGE = 2, CTL_NO_BROKER = 3 };

enum ctl_json { CTL_JSON_OFF, CTL_JSON_SHORT, CTL_JSON_PRETTY };

/* What was said on the command line. */
struct ctl {
    enum ctl_json json;
    const char *socket; /* NULL: the library's default */
    bool has_session;
    uint32_t session;
    unsigned deadline; /* seconds */
    bool none_of_uid;  /* this user has no sessions, and may see no others */
    struct vfb_client *client;
};

/* Which options a verb understands. */
enum ctl_options { CTL_OPT_JSON = 1, CTL_OPT_SOCKET = 2, CTL_OPT_SESSION = 4, CTL_OPT_DEADLINE = 8 };

struct ctl_verb {
    const char *name, *arguments, *summary, *help;
    unsigned options;
    int min_args, max_args;                          /* -1: any number */
    int (*run)(struct ctl *ctl, int n, char **args); /* returns an enum ctl_exit */
    const char *const *words;                        /* what the first argument may be, NULL-terminated; or NULL */
    const char *const *session_words;                /* with which of them --session= goes; NULL: it needs none */
};
extern const struct ctl_verb ctl_verbs[];
extern const unsigned ctl_n_verbs;
/* Ends with a NULL word. `word` has the = of those that take a value; option: 0 for what goes with every verb. */
struct ctl_option_word {
    const char *word;
    unsigned option;
};
extern const struct ctl_option_word ctl_option_words[];
/* Which options the verb takes with that first argument (NULL: not said yet). */
unsigned ctl_verb_options(const struct ctl_verb *v, const char *first);

int cmd_status(struct ctl *ctl, int n, char **args);
int cmd_list(struct ctl *ctl, int n, char **args);
int cmd_usage(struct ctl *ctl, int n, char **args);
int cmd_pins(struct ctl *ctl, int n, char **args);
int cmd_bind(struct ctl *ctl, int n, char **args);
int cmd_unbind(struct ctl *ctl, int n, char **args);
int cmd_completion(struct ctl *ctl, int n, char **args);
int cmd_complete(struct ctl *ctl, int n, char **args);
extern const char *const cmd_list_words[], *const cmd_list_session_words[];

/* ---- argument.c ---- */
/* The whole text is a number between low and high. */
bool ctl_number(const char *text, unsigned long low, unsigned long high, unsigned long *ret);
/* The session that a verb takes as its argument, or by --session=. CTL_OK or CTL_USAGE. */
int ctl_session_argument(struct ctl *ctl, int n, char **args);

/* "vfio-brokerctl: …" on stderr. */
void ctl_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* ---- ask.c: asking the broker; on failure they have said why and return an exit status ---- */
int ctl_connect(struct ctl *ctl);
/* Calls fn for each page. session: 0 for our own. */
typedef void (*ctl_page_fn)(struct grid *g, uint32_t session, const VfioBroker__InspectReply *reply);
/* Says nothing; 0 or what the library returned. */
int ctl_try(struct ctl *ctl, VfioBroker__InspectKind kind, uint32_t session, ctl_page_fn fn, struct grid *g);
int ctl_ask(struct ctl *ctl, VfioBroker__InspectKind kind, uint32_t session, ctl_page_fn fn, struct grid *g);
/* The same for the session that --session names, or else for all sessions that we may see, without vfio-brokerctl's own.
 * Sessions that end meanwhile are left out. */
int ctl_ask_sessions(struct ctl *ctl, VfioBroker__InspectKind kind, ctl_page_fn fn, struct grid *g);
/* So many sessions are listed, without our own: for what ctl_show() says of an empty list. */
void ctl_note_none(struct ctl *ctl, size_t sessions);
/* Writes the grid as --json says. */
int ctl_show(const struct ctl *ctl, const struct grid *g, const char *what, bool single);

#endif
