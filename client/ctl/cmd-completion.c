/* vfio-brokerctl completion: a script for bash that asks the binary, so that it can never be out of date. */
#include "config.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/ctl/ctl.h"
#include "client/ctl/pci.h"

/* COMP_WORDBREAKS has : and =, so readline replaces only what follows the last of them. */
static const char script[] = "# bash completion for vfio-brokerctl:  . <(vfio-brokerctl completion)\n"
                             "_vfio_brokerctl() {\n"
                             "    local line=${COMP_LINE:0:COMP_POINT} word prefix i\n"
                             "    word=${line##* }\n"
                             "    prefix=${word%\"${word##*[:=]}\"}\n"
                             "    mapfile -t COMPREPLY < <(\"$1\" __complete \"$line\" 2>/dev/null)\n"
                             "    for i in \"${!COMPREPLY[@]}\"; do\n"
                             "        COMPREPLY[i]=${COMPREPLY[i]#\"$prefix\"}\n"
                             "    done\n"
                             "    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace\n"
                             "}\n"
                             "complete -F _vfio_brokerctl vfio-brokerctl\n";

int cmd_completion(struct ctl *ctl, int n, char **args) {
    (void)ctl, (void)n, (void)args;
    fputs(script, stdout);
    return CTL_OK;
}

static void offer(const char *word, const char *prefix) {
    if (strncmp(word, prefix, strlen(prefix)) == 0)
        puts(word);
}

static void offer_all(const char *const *words, const char *prefix) {
    for (; words && *words; words++)
        offer(*words, prefix);
}

static void offer_devices(const char *prefix) {
    DIR *d = opendir(PCI_SYSFS "/bus/pci/devices");
    struct dirent *e;

    while (d && (e = readdir(d)))
        if (e->d_name[0] != '.')
            offer(e->d_name, prefix);
    if (d)
        closedir(d);
}

static const struct grid_column number_columns[] = {{"session", "SESSION", GRID_NUMBER}};

static void add_numbers(struct grid *g, uint32_t own, const VfioBroker__InspectReply *reply) {
    for (size_t i = 0; i < reply->n_sessions; i++)
        if (reply->sessions[i]->session != own)
            grid_number(g, reply->sessions[i]->session);
}

/* Sessions that this user sees; `option` stands before each. Nothing if the broker takes long: somebody waits at the
 * prompt. */
static void offer_sessions(struct ctl *ctl, const char *option, const char *prefix) {
    GRID struct grid g = GRID_INIT(number_columns);
    char word[32];

    alarm(2);
    if (ctl_connect(ctl) != CTL_OK ||
        ctl_try(ctl, VFIO_BROKER__INSPECT_KIND__INSPECT_SESSIONS, 0, add_numbers, &g) != 0 || g.failed)
        return;
    for (size_t i = 0; i < grid_rows(&g); i++) {
        snprintf(word, sizeof word, "%s%" PRIi64, option, grid_cell(&g, i, 0)->number);
        offer(word, prefix);
    }
}

unsigned ctl_verb_options(const struct ctl_verb *v, const char *first) {
    if (!v->session_words)
        return v->options;
    for (const char *const *w = v->session_words; first && *w; w++)
        if (strcmp(*w, first) == 0)
            return v->options;
    return v->options & ~(unsigned)CTL_OPT_SESSION;
}

static void offer_options(const struct ctl_verb *v, const char *first, const char *prefix) {
    for (const struct ctl_option_word *w = ctl_option_words; w->word; w++)
        if (!v || !w->option || (w->option & ctl_verb_options(v, first)))
            offer(w->word, prefix);
}

static const struct ctl_verb *verb_of(const char *word, size_t size) {
    for (unsigned i = 0; i < ctl_n_verbs; i++)
        if (ctl_verbs[i].help && strlen(ctl_verbs[i].name) == size && strncmp(ctl_verbs[i].name, word, size) == 0)
            return &ctl_verbs[i];
    return NULL;
}

int cmd_complete(struct ctl *ctl, int n, char **args) {
    static const char *const json_words[] = {"--json=short", "--json=pretty", "--json=off", NULL};
    const struct ctl_verb *v = NULL;
    const char *p = args[0];
    char first[16] = "";
    int words = 0; /* that are no options, after the program's name and before the one to complete */
    (void)n;

    for (const char *end; (end = strchr(p, ' ')); p = end + 1) {
        if (end == p || *p == '-')
            continue;
        if (words == 2)
            snprintf(first, sizeof first, "%.*s", (int)(end - p), p);
        if (words == 1)
            v = verb_of(p, (size_t)(end - p));
        words++;
    }
    if (strncmp(p, "--json=", 7) == 0 && (!v || (v->options & CTL_OPT_JSON))) {
        offer_all(json_words, p);
    } else if (strncmp(p, "--session=", 10) == 0 && v && (ctl_verb_options(v, first) & CTL_OPT_SESSION)) {
        offer_sessions(ctl, "--session=", p);
    } else if (*p == '-') {
        offer_options(v, first, p);
    } else if (words <= 1) {
        for (unsigned i = 0; i < ctl_n_verbs; i++)
            if (ctl_verbs[i].help)
                offer(ctl_verbs[i].name, p);
    } else if (v && v->words && words == 2) {
        offer_all(v->words, p);
    } else if (v && (v->options & CTL_OPT_SESSION) && !v->words && words == 2) {
        offer_sessions(ctl, "", p);
    } else if (v && v->max_args < 0) {
        offer_devices(p);
    }
    return CTL_OK;
}
