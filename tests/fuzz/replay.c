/* Runs a fuzz target over files and folders of inputs: `replay-NAME PATH...`. What crashed once stays in the corpus, and is
 * run again with every compiler and sanitizer that we build with. */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>

#include "fuzz.h"

static unsigned n_inputs;

static int run_file(const char *path) {
    static uint8_t buf[1 << 20];
    FILE *f = fopen(path, "rb");

    if (!f) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return 1;
    }
    size_t n = fread(buf, 1, sizeof buf, f);
    fclose(f);
    /* An exact copy, so that a sanitizer sees a read past its end. */
    uint8_t *exact = malloc(n ? n : 1);
    FUZZ_CHECK(exact);
    memcpy(exact, buf, n);
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    n_inputs++;
    return 0;
}

static int run_path(const char *path) {
    struct dirent **list;
    struct stat st;
    int bad = 0;

    if (stat(path, &st) || !S_ISDIR(st.st_mode))
        return run_file(path);
    int n = scandir(path, &list, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char name[4096];

        snprintf(name, sizeof name, "%s/%s", path, list[i]->d_name);
        if (list[i]->d_name[0] != '.')
            bad |= run_file(name);
        free(list[i]);
    }
    if (n >= 0)
        free(list);
    return bad | (n < 0);
}

int main(int argc, char **argv) {
    int bad = 0;

    LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
    for (int i = 1; i < argc; i++)
        bad |= run_path(argv[i]);
    printf("%u inputs\n", n_inputs);
    return bad;
}
