/* vfio-brokerctl's insides: the table and JSON writers, strict addresses, and the bind job on a copy of sysfs that does
 * not answer. A FIFO that nobody reads is an `unbind` that waits for ever. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "client/ctl/bind-job.h"
#include "client/ctl/ctl.h"

/* In vfio-brokerctl's main file, which is not linked here. */
const struct ctl_verb ctl_verbs[] = {{.name = "none"}};
const unsigned ctl_n_verbs = 0;
const struct ctl_option_word ctl_option_words[] = {{NULL, 0}};

/* ---- what is printed ------------------------------------------------------------------------------------------ */

static char out[65536];
static int saved = -1;
static FILE *file;

static void capture(void) {
    fflush(stdout);
    saved = dup(1);
    file = tmpfile();
    dup2(fileno(file), 1);
}

static const char *captured(void) {
    fflush(stdout);
    rewind(file);
    out[fread(out, 1, sizeof out - 1, file)] = 0;
    dup2(saved, 1);
    close(saved);
    fclose(file);
    return out;
}

static const struct grid_column columns[] = {
    {"text", "TEXT", GRID_TEXT},    {"number", "NUMBER", GRID_NUMBER},
    {"bytes", "BYTES", GRID_BYTES}, {"at", "AT", GRID_ADDRESS},
    {"flag", "FLAG", GRID_FLAG},    {"time", NULL, GRID_TIME},
    {"words", "WORDS", GRID_WORDS}, {"id", "ID", GRID_ID},
    {"of", "OF", GRID_NUMBERS},
};

static void add(struct grid *g, const char *text, int64_t n, uint64_t bytes, uint64_t at, char **words,
                size_t n_words) {
    grid_text(g, text);
    grid_number(g, (uint64_t)n);
    grid_number(g, bytes);
    grid_number(g, at);
    grid_number(g, n_words > 0);
    grid_number(g, 1000000000);
    grid_words(g, words, n_words);
    grid_number(g, n_words);
    grid_numbers(g, (uint32_t[]){3, UINT32_MAX}, n_words);
}

static void test_table(void **state) {
    (void)state;
    GRID struct grid g = GRID_INIT(columns);
    capture();
    assert_int_equal(table_print(&g, "things"), 0);
    assert_string_equal(captured(), "No things.\n");
    add(&g, "esc\033[31m\n\xff", -1, 3 << 20, UINT64_MAX, (char *[]){"a", "b\n"}, 2);
    add(&g, NULL, 7, 4097, 0, NULL, 0);
    capture();
    assert_int_equal(table_print(&g, "things"), 0);
    assert_string_equal(captured(), "TEXT        NUMBER   BYTES                  AT  FLAG  WORDS  ID  OF\n"
                                    "esc?[31m??      -1   3 MiB  0xffffffffffffffff  yes   a,b?    2  3,4294967295\n"
                                    "-                7  4097 B                 0x0  no    -       -  -\n");
    capture();
    assert_int_equal(table_print_record(&g), 0);
    assert_non_null(strstr(captured(), "NUMBER: -1\n"));
}

static void unspace(char *text) {
    char *to = text;
    for (; *text; text++)
        if (*text != ' ' && *text != '\n')
            *to++ = *text;
    *to = 0;
}

static void test_json(void **state) {
    (void)state;
    GRID struct grid g = GRID_INIT(columns);
    capture();
    assert_int_equal(json_print(&g, "things", false, false), 0);
    assert_string_equal(captured(), "{\"version\":1,\"things\":[]}\n");
    add(&g, "a/b\"", -1, UINT64_MAX, UINT64_MAX, (char *[]){"w"}, 1);
    capture();
    assert_int_equal(json_print(&g, "things", false, false), 0);
    assert_string_equal(captured(), "{\"version\":1,\"things\":[{\"text\":\"a/b\\\"\",\"number\":-1,"
                                    "\"bytes\":18446744073709551615,\"at\":\"0xffffffffffffffff\",\"flag\":true,"
                                    "\"time\":1000000000,\"words\":[\"w\"],\"id\":1,\"of\":[3]}]}\n");
    add(&g, NULL, 0, 0, 0, NULL, 0);
    capture();
    assert_int_equal(json_print(&g, "things", false, true), 0);
    assert_non_null(strstr(captured(), "\n"));
    unspace(out);
    assert_non_null(strstr(out, "\"words\":[],\"id\":0,\"of\":[]}]}")); /* arrays without words, at the end */
    capture();
    assert_int_equal(json_print(&g, "thing", true, false), 0);
    assert_memory_equal(captured(), "{\"version\":1,\"thing\":{\"text\"", 28);
    GRID struct grid empty = GRID_INIT(columns);
    const struct grid_part parts[] = {{"a", &empty, false}, {"b", &empty, false}};
    capture();
    assert_int_equal(json_print_parts(parts, 2, false), 0);
    assert_string_equal(captured(), "{\"version\":1,\"a\":[],\"b\":[]}\n");
}

static void test_sizes(void **state) {
    (void)state;
    assert_string_equal(size_text(0).s, "0 B");
    assert_string_equal(size_text(1023).s, "1023 B");
    assert_string_equal(size_text(4096).s, "4 KiB");
    assert_string_equal(size_text(4097).s, "4097 B");
    assert_string_equal(size_text(3ull << 40).s, "3 TiB");
    assert_string_equal(size_text(1ull << 63).s, "8 EiB");
    assert_string_equal(size_text(UINT64_MAX).s, "unlimited");
}

static void test_replace(void **state) {
    static const struct grid_column one[] = {{"text", "TEXT", GRID_TEXT}};
    (void)state;
    GRID struct grid g = GRID_INIT(columns);
    GRID struct grid with = GRID_INIT(one);
    add(&g, "old", 1, 2, 3, NULL, 0);
    grid_text(&with, "new");
    grid_replace(&g, 0, 0, &with);
    assert_string_equal(grid_cell(&g, 0, 0)->text, "new");
}

/* ---- options -------------------------------------------------------------------------------------------------- */

static void test_options(void **state) {
    const struct ctl_verb list = {.options = CTL_OPT_JSON | CTL_OPT_SESSION, .session_words = cmd_list_session_words};
    const struct ctl_verb usage = {.options = CTL_OPT_JSON | CTL_OPT_SESSION};
    (void)state;
    assert_int_equal(ctl_verb_options(&usage, NULL), CTL_OPT_JSON | CTL_OPT_SESSION);
    assert_int_equal(ctl_verb_options(&list, "mappings"), CTL_OPT_JSON | CTL_OPT_SESSION);
    assert_int_equal(ctl_verb_options(&list, "sessions"), CTL_OPT_JSON);
    assert_int_equal(ctl_verb_options(&list, NULL), CTL_OPT_JSON);
}

/* ---- addresses ------------------------------------------------------------------------------------------------ */

static void test_addresses(void **state) {
    static const char *const bad[] = {
        "",
        "00:04.0",
        "0000:00:04",
        "0000:00:04.",
        "0000:00:04.8",
        "0000:00:20.0",
        "0000:00:4.0",
        "000:00:04.0",
        "000000000:00:04.0",
        "0000:00:04.0 ",
        " 0000:00:04.0",
        "0000:00:04.0\n",
        "0000:00:04.0/..",
        "../../../etc",
        "0000:00:04.00",
        "0x00:00:04.0",
        "0000:00:-4.0",
        "0000:00:04.0:",
    };
    char a[PCI_ADDRESS_SIZE];
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(pci_address_parse(bad[i], a));
    assert_true(pci_address_parse("0000:00:04.0", a));
    assert_string_equal(a, "0000:00:04.0");
    assert_true(pci_address_parse("00010000:3B:1F.7", a));
    assert_string_equal(a, "10000:3b:1f.7");
    assert_true(pci_address_parse("ffffffff:ff:1f.7", a));
    assert_string_equal(a, "ffffffff:ff:1f.7");
}

/* ---- binding -------------------------------------------------------------------------------------------------- */

static char root[64];
#define ADDRESS "0000:00:04.0"

static void shell(const char *fmt, ...) {
    char line[1024] = "cd ", command[900];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(command, sizeof command, fmt, ap);
    va_end(ap);
    strcat(strcat(strcat(line, root), " && "), command);
    assert_int_equal(system(line), 0);
}

static int setup(void **state) {
    (void)state;
    strcpy(root, "/tmp/ctl-test-XXXXXX");
    assert_non_null(mkdtemp(root));
    shell("mkdir -p bus/pci/devices/" ADDRESS
          " bus/pci/drivers/vfio-pci bus/pci/drivers/e1000 bus/pci/groups/7/devices");
    shell("touch bus/pci/devices/" ADDRESS "/driver_override bus/pci/drivers/vfio-pci/unbind"
          " bus/pci/drivers/e1000/unbind bus/pci/drivers_probe");
    shell("ln -s ../../groups/7 bus/pci/devices/" ADDRESS "/iommu_group");
    alarm(60);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    char line[128];
    snprintf(line, sizeof line, "rm -r %s", root);
    return system(line);
}

static void drive(const char *driver) {
    shell("ln -sfn ../../drivers/%s bus/pci/devices/" ADDRESS "/driver", driver);
}

static struct bind_result go(bool bind) {
    struct bind_job job = {.sysfs = root, .address = ADDRESS, .bind = bind, .deadline = 1};
    struct bind_result r;
    bind_job_run(&job, &r);
    return r;
}

static const char *content(const char *name) {
    static char text[128];
    char path[256];
    snprintf(path, sizeof path, "%s/bus/pci/%s", root, name);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    return text;
}

static void test_bind(void **state) {
    (void)state;
    drive("vfio-pci");
    struct bind_result r = go(true);
    assert_true(r.ok);
    assert_string_equal(r.text, "already on vfio-pci");
    assert_string_equal(content("devices/" ADDRESS "/driver_override"), "");

    drive("e1000"); /* the copy of sysfs does nothing, so the driver is still the old one afterwards */
    r = go(true);
    assert_false(r.ok);
    assert_string_equal(r.driver, "e1000");
    assert_non_null(strstr(r.text, "vfio-brokerctl unbind " ADDRESS));
    assert_string_equal(content("devices/" ADDRESS "/driver_override"), "vfio-pci\n");
    assert_string_equal(content("drivers/e1000/unbind"), ADDRESS);
    assert_string_equal(content("drivers_probe"), ADDRESS);
    r = go(false);
    assert_true(r.ok);
    assert_string_equal(r.text, "already on e1000");

    shell("rm bus/pci/devices/" ADDRESS "/driver");
    r = go(false); /* no driver: the host is asked again */
    assert_true(r.ok);
    assert_int_equal(content("devices/" ADDRESS "/driver_override")[0], '\n');
    shell("rm -r bus/pci/drivers/vfio-pci");
    r = go(true);
    assert_false(r.ok);
    assert_non_null(strstr(r.text, "modprobe"));
    shell("rm -r bus/pci/devices/" ADDRESS);
    r = go(true);
    assert_false(r.ok);
    assert_non_null(strstr(r.text, "no such PCI device"));
}

static void test_failures(void **state) {
    (void)state;
    drive("vfio-pci");
    shell("rm bus/pci/drivers/vfio-pci/unbind && mkdir bus/pci/drivers/vfio-pci/unbind");
    struct bind_result r = go(false);
    assert_false(r.ok);
    assert_non_null(strstr(r.text, "take it from its driver"));
    assert_string_equal(content("drivers_probe"), ""); /* no step after the one that failed */
}

static void test_deadline(void **state) {
    (void)state;
    drive("vfio-pci");
    shell("rm bus/pci/drivers/vfio-pci/unbind && mkfifo bus/pci/drivers/vfio-pci/unbind");
    struct bind_result r = go(false);
    assert_false(r.ok);
    assert_non_null(strstr(r.text, "gave up after 1 s"));
    assert_non_null(strstr(r.text, "vfio-brokerctl unbind " ADDRESS " again"));
    /* the kernel comes round: the process that was left behind ends without another step */
    char path[256], got[64] = "";
    snprintf(path, sizeof path, "%s/bus/pci/drivers/vfio-pci/unbind", root);
    int fd = open(path, O_RDONLY);
    ssize_t n = 0, k;
    while ((k = read(fd, got + n, sizeof got - 1 - (size_t)n)) > 0)
        n += k;
    close(fd);
    assert_string_equal(got, ADDRESS);
    usleep(50000);
    assert_string_equal(content("drivers_probe"), "");
}

/* What a run before left to the kernel: the link is gone, and nobody may say that the device is free. */
static void test_unbinding(void **state) {
    (void)state;
    shell("echo DRIVER=vfio-pci > bus/pci/devices/" ADDRESS "/uevent");
    struct bind_result r = go(false);
    assert_false(r.ok);
    assert_non_null(strstr(r.text, "gave up after 1 s"));
    r = go(true);
    assert_false(r.ok);
    assert_string_equal(content("devices/" ADDRESS "/driver_override"), "");
    shell("(sleep 0.3; echo PCI_ID=1 > bus/pci/devices/" ADDRESS "/uevent) &");
    r = go(false);
    assert_true(r.ok);
    assert_string_equal(content("drivers_probe"), ADDRESS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_replace),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test_setup_teardown(test_bind, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failures, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deadline, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unbinding, setup, teardown),
    };
    return cmocka_run_group_tests_name("ctl", tests, NULL, NULL);
}
