/* The policy file: what it grants, and every way in which it is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/policy.h"

static int parse(const char *text, struct vb_policy **ret, struct vb_error *e) {
    memset(e, 0, sizeof *e);
    return vb_policy_parse("p.json", text, strlen(text), ret, e);
}

/* Parses what must be right. */
static struct vb_policy *good(const char *text) {
    struct vb_policy *p = NULL;
    struct vb_error e;

    if (parse(text, &p, &e) != 0)
        fail_msg("%s", e.text);
    return p;
}

#define GRANTS(g) "{\"version\":1,\"grants\":[" g "]}"

static void test_refusals_name_file_and_key(void **state) {
    static const struct {
        const char *text, *says; /* must be part of the refusal */
    } cases[] = {
        {"", "p.json: line 1: not JSON"},
        {"{", "p.json: line 1: not JSON: it ends too early"},
        {"{\n", "p.json: line 1: not JSON: it ends too early"},
        {"{\n\"version\": 1,\n\n", "line 2: not JSON: it ends too early"},
        {"{}\n\n x", "line 3: not JSON"},
        {"{\"version\":1,}", "not JSON"},
        {"{/*no*/}", "not JSON"},
        {"{'version':1,\"grants\":[]}", "has single quotes"},
        {"\"\xff\"", "not JSON"},
        {"[]", "top level must be an object"},
        {"null", "not JSON"},
        {"{}", "version is missing"},
        {"{\"version\":1}", "grants is missing"},
        {"{\"version\":2,\"grants\":[]}", "version is 2, but must be 1"},
        {"{\"version\":1.0,\"grants\":[]}", "version must be a whole number"},
        {"{\"version\":\"1\",\"grants\":[]}", "version must be a whole number"},
        {"{\"version\":1,\"grants\":null}", "grants must be an array"},
        {"{\"version\":1,\"grants\":{}}", "grants must be an array"},
        {"{\"version\":1,\"grant\":[]}", "grant is not a key"},
        {"{\"version\":1,\"grants\":[],\"grants\":[]}", "grants is there twice"},
        {"{\"version\":1,\"grants\":[[[[[[[[[[]]]]]]]]]}", "not JSON"},
        {GRANTS("1"), "grants[0] must be an object"},
        {GRANTS("{}"), "grants[0] has neither uid nor gid"},
        {GRANTS("{\"admin\":true}"), "grants[0] has neither uid nor gid"},
        {GRANTS("{\"uid\":1,\"gid\":1}"), "grants[0] has both uid and gid"},
        {GRANTS("{\"uid\":1},{\"uid\":2,\"uid\":3}"), "grants[1].uid is there twice"},
        {GRANTS("{\"uid\":2,\"\\u0061dmin\":true}"), "has an escape in the key"},
        {GRANTS("{\"uid\":1},{\"gid\":1},{\"uid\":1}"), "grants[2].uid 1 has its grant in grants[0] already"},
        {GRANTS("{\"uid\":-1}"), "grants[0].uid is -1"},
        {GRANTS("{\"uid\":4294967295}"), "grants[0].uid is 4294967295"},
        {GRANTS("{\"uid\":18446744073709551617}"), "grants[0].uid is 18446744073709551615"},
        {GRANTS("{\"uid\":1.5}"), "grants[0].uid must be a number or a name"},
        {GRANTS("{\"uid\":true}"), "grants[0].uid must be a number or a name"},
        {GRANTS("{\"uid\":\"no such user\"}"), "grants[0].uid names \"no such user\""},
        {GRANTS("{\"gid\":\"no\\tgroup\"}"), "grants[0].gid names \"no?group\""},
        {GRANTS("{\"uid\":1,\"device\":[]}"), "grants[0].device is not a key"},
        {GRANTS("{\"uid\":1,\"devices\":\"0000:00:04.0\"}"), "grants[0].devices must be an array"},
        {GRANTS("{\"uid\":1,\"devices\":[4]}"), "grants[0].devices has \"\" at 0"},
        {GRANTS("{\"uid\":1,\"devices\":[\"00:04.0\"]}"), "grants[0].devices has \"00:04.0\" at 0"},
        {GRANTS("{\"uid\":1,\"devices\":[\"0000:00:0A.0\"]}"), "lower case"},
        {GRANTS("{\"uid\":1,\"devices\":[\"0000:00:04.8\"]}"), "devices has"},
        {GRANTS("{\"uid\":1,\"devices\":[\"83B8F4F2-509F-382F-3C1E-E6BFE0FA1001\"]}"),
         "the UUID of an mdev (lower case)"},
        {GRANTS("{\"uid\":1,\"devices\":[\"83b8f4f2-509f-382f-3c1e-e6bfe0fa100\"]}"), "devices has"},
        {GRANTS("{\"uid\":1,\"devices\":[\"../0:00:04.0\"]}"), "devices has"},
        {GRANTS("{\"uid\":1,\"devices\":[\"emulated:\"]}"), "devices has"},
        {GRANTS("{\"uid\":1,\"devices\":[\"emulated:1x\"]}"), "devices has"},
        {GRANTS("{\"uid\":1,\"devices\":[\"0000:00:04.0\",\"0000:00:04.0\"]}"), "devices has 0000:00:04.0 twice"},
        {GRANTS("{\"uid\":1,\"memory_max\":-1}"), "memory_max is -1"},
        {GRANTS("{\"uid\":1,\"memory_max\":1e9}"), "memory_max must be a whole number"},
        {GRANTS("{\"uid\":1,\"memory_max\":\"1 MB\"}"), "memory_max is \"1 MB\""},
        {GRANTS("{\"uid\":1,\"memory_max\":\"3000 TiB\"}"), "memory_max is \"3000 TiB\""},
        {GRANTS("{\"uid\":1,\"memory_max\":null}"), "memory_max must be a whole number"},
        {GRANTS("{\"uid\":1,\"sessions\":0}"), "sessions is 0, but must be between 1 and 4096"},
        {GRANTS("{\"uid\":1,\"sessions\":4097}"), "sessions is 4097"},
        {GRANTS("{\"uid\":1,\"mappings\":4194305}"), "mappings is 4194305"},
        {GRANTS("{\"uid\":1,\"account\":\"user\"}"), "grants[0].account must be \"process\", \"uid\" or \"unit\""},
        {GRANTS("{\"uid\":1,\"account\":1}"), "grants[0].account must be"},
        {GRANTS("{\"uid\":1,\"own_mlock\":\"no\"}"), "grants[0].own_mlock must be true or false"},
        {GRANTS("{\"uid\":1,\"tables_max\":-1}"), "grants[0].tables_max is -1"},
        {GRANTS("{\"uid\":1,\"tables_max\":\"1 GB\"}"), "grants[0].tables_max is \"1 GB\""},
        {GRANTS("{\"uid\":1,\"tables_max\":[]}"), "grants[0].tables_max must be a whole number"},
        {GRANTS("{\"uid\":1,\"session_memory\":4096}"),
         "grants[0].session_memory is 4 KiB, but a session process needs 16 MiB"},
        {GRANTS("{\"uid\":1},{\"uid\":2,\"session_memory\":\"32 MiB\",\"tables_max\":\"33 MiB\"}"),
         "grants[1].session_memory is 32 MiB, less than tables_max (33 MiB)"},
        {GRANTS("{\"uid\":1,\"admin\":1}"), "grants[0].admin must be true or false"},
        {GRANTS("{\"uid\":1,\"admin\":\"false\"}"), "grants[0].admin must be true or false"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct vb_policy *p = NULL;
        struct vb_error e;

        if (parse(cases[i].text, &p, &e) != VB_INVALID || !strstr(e.text, cases[i].says))
            fail_msg("%s: said \"%s\", not \"%s\"", cases[i].text, e.text, cases[i].says);
        assert_null(p);
    }
}

static void test_zero_bytes_and_size(void **state) {
    static const char zero[] = GRANTS("") "\0x";
    struct vb_policy *p = NULL;
    struct vb_error e = {.code = 0};
    (void)state;

    assert_int_equal(vb_policy_parse("p.json", zero, sizeof zero - 1, &p, &e), VB_INVALID);
    assert_non_null(strstr(e.text, "zero byte"));
    char *large = malloc(VB_POLICY_SIZE_MAX + 1);
    memset(large, ' ', VB_POLICY_SIZE_MAX + 1);
    assert_int_equal(vb_policy_parse("p.json", large, VB_POLICY_SIZE_MAX + 1, &p, &e), VB_INVALID);
    assert_non_null(strstr(e.text, "larger than 1 MiB"));
    free(large);
}

static void test_too_many(void **state) {
    char *text = malloc(64 * 1024), *end = text;
    struct vb_policy *p = NULL;
    struct vb_error e;
    (void)state;

    end += sprintf(end, "{\"version\":1,\"grants\":[{\"uid\":1,\"devices\":[");
    for (unsigned i = 0; i <= VB_GRANT_DEVICES_MAX; i++)
        end += sprintf(end, "%s\"0000:%02x:%02x.0\"", i ? "," : "", i / 256, i % 256);
    sprintf(end, "]}]}");
    assert_int_equal(parse(text, &p, &e), VB_INVALID);
    assert_non_null(strstr(e.text, "at most 256"));
    end = text + sprintf(text, "{\"version\":1,\"grants\":[");
    for (unsigned i = 0; i <= VB_GRANTS_MAX; i++)
        end += sprintf(end, "%s{\"uid\":%u}", i ? "," : "", i + 1);
    sprintf(end, "]}");
    assert_int_equal(parse(text, &p, &e), VB_INVALID);
    assert_non_null(strstr(e.text, "grants has 1025 entries"));
    free(text);
}

static void test_what_is_granted(void **state) {
    struct vb_policy *p = good(GRANTS("{\"uid\":1000,\"devices\":[\"0000:00:04.0\",\"emulated:1\","
                                      "\"83b8f4f2-509f-382f-3c1e-e6bfe0fa1001\"],\"memory_max\":\"512 MiB\","
                                      "\"sessions\":3,\"mappings\":100,\"admin\":true},"
                                      "{\"uid\":\"root\",\"memory_max\":4096}"));
    (void)state;

    assert_int_equal(p->n_grants, 2);
    const struct vb_grant *g = vb_policy_find(p, 1000, 1, NULL, 0);
    assert_ptr_equal(g, &p->grants[0]);
    assert_true(g->admin);
    assert_int_equal(g->memory_max, 512ull << 20);
    assert_int_equal(g->sessions, 3);
    assert_int_equal(g->mappings, 100);
    assert_true(vb_grant_device(g, "0000:00:04.0"));
    assert_true(vb_grant_device(g, "emulated:1"));
    assert_true(vb_grant_device(g, "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"));
    assert_false(vb_grant_device(g, "0000:00:04.1"));
    assert_false(vb_grant_device(g, ""));
    g = vb_policy_find(p, 0, 0, NULL, 0);
    assert_ptr_equal(g, &p->grants[1]);
    assert_false(g->admin);
    assert_int_equal(g->memory_max, 4096);
    assert_int_equal(g->sessions, VB_SESSIONS_DEFAULT);
    assert_int_equal(g->mappings, VB_MAPPINGS_DEFAULT);
    vb_policy_unref(p);
}

static void test_accounts_and_bounds(void **state) {
    struct vb_policy *p =
        good(GRANTS("{\"uid\":1,\"account\":\"uid\",\"own_mlock\":false,\"tables_max\":\"128 MiB\","
                    "\"session_memory\":\"1 GiB\"},"
                    "{\"uid\":2,\"account\":\"unit\",\"own_mlock\":true,\"tables_max\":0,\"session_memory\":0},"
                    "{\"uid\":3,\"account\":\"process\"},{\"uid\":4}"));
    const struct vb_grant *g = p->grants;
    (void)state;

    assert_int_equal(g[0].account, VB_ACCOUNT_UID);
    assert_false(g[0].own_mlock);
    assert_int_equal(vb_grant_tables_max(&g[0], 1ull << 40), 128ull << 20);
    assert_int_equal(vb_grant_session_memory(&g[0], 1ull << 40), 1ull << 30);
    assert_int_equal(g[1].account, VB_ACCOUNT_UNIT);
    assert_int_equal(g[2].account, VB_ACCOUNT_PROCESS);
    assert_int_equal(g[3].account, VB_ACCOUNT_PROCESS);
    for (unsigned i = 1; i < 4; i++) {
        assert_true(g[i].own_mlock);
        assert_int_equal(vb_grant_tables_max(&g[i], 1ull << 30), VB_TABLES_BASE + (32ull << 20));
        assert_int_equal(vb_grant_session_memory(&g[i], 1ull << 30), VB_TABLES_BASE + (96ull << 20));
        assert_true(vb_grant_session_memory(&g[i], VB_POLICY_MEMORY_MAX) > vb_grant_tables_max(&g[i], 1ull << 51));
    }
    assert_int_equal(vb_grant_tables_max(NULL, 1ull << 30), 0);
    assert_true(vb_policy_find(p, 0, 0, NULL, 0)->own_mlock);
    vb_policy_unref(p);
}

static void test_first_match_wins(void **state) {
    struct vb_policy *p = good(GRANTS("{\"gid\":50,\"sessions\":1},{\"uid\":1000,\"sessions\":2},{\"gid\":60}"));
    const gid_t groups[] = {10, 50};
    (void)state;

    assert_int_equal(vb_policy_find(p, 1000, 1000, groups, 2)->sessions, 1);
    assert_int_equal(vb_policy_find(p, 1000, 50, NULL, 0)->sessions, 1);
    assert_int_equal(vb_policy_find(p, 1000, 1000, groups, 1)->sessions, 2);
    assert_ptr_equal(vb_policy_find(p, 7, 60, groups, 1), &p->grants[2]);
    /* A gid is no uid and the other way round. */
    assert_null(vb_policy_find(p, 60, 1000, groups, 1));
    vb_policy_unref(p);
}

static void test_default_deny(void **state) {
    struct vb_policy *p = good(GRANTS(""));
    (void)state;

    assert_null(vb_policy_find(p, 1000, 1000, NULL, 0));
    const struct vb_grant *root = vb_policy_find(p, 0, 0, NULL, 0);
    assert_true(root->admin);
    assert_int_equal(root->n_devices, 0);
    vb_policy_unref(p);
}

static void test_sizes(void **state) {
    static const struct {
        const char *text;
        uint64_t bytes;
    } right[] = {{"0", 0},         {"4096", 4096},        {"1 bytes", 1},        {"64 KiB", 65536},
                 {"64KiB", 65536}, {"2 GiB", 2ull << 30}, {"1 TiB", 1ull << 40}, {"2048 TiB", 1ull << 51}};
    static const char *const wrong[] = {
        "", " 1", "-1", "+1", "1 kib", "1 KiB ", "2049 TiB", "99999999999999999999", "0x10", "1.5 GiB"};
    uint64_t n;
    (void)state;

    for (size_t i = 0; i < sizeof right / sizeof right[0]; i++) {
        assert_true(vb_size_parse(right[i].text, &n));
        assert_int_equal(n, right[i].bytes);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_false(vb_size_parse(wrong[i], &n));
}

static void test_files(void **state) {
    char path[] = "/tmp/vb-test-policy-XXXXXX";
    struct vb_policy *p = NULL;
    struct vb_error e = {.code = 0};
    int fd = mkstemp(path);
    (void)state;

    assert_true(fd >= 0);
    assert_true(write(fd, GRANTS(""), strlen(GRANTS(""))) > 0);
    assert_int_equal(vb_policy_load(path, &p, &e), 0);
    assert_string_equal(p->path, path);
    p = vb_policy_unref(p);
    assert_int_equal(fchmod(fd, 0666), 0);
    assert_int_equal(vb_policy_load(path, &p, &e), VB_INVALID);
    assert_non_null(strstr(e.text, "everybody may write it"));
    close(fd);
    unlink(path);
    assert_int_equal(vb_policy_load(path, &p, &e), -ENOENT);
    assert_int_equal(vb_policy_load("/tmp", &p, &e), VB_INVALID);
    assert_int_equal(vb_policy_load("/dev/zero", &p, &e), VB_INVALID);
    assert_null(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals_name_file_and_key),
        cmocka_unit_test(test_zero_bytes_and_size),
        cmocka_unit_test(test_too_many),
        cmocka_unit_test(test_what_is_granted),
        cmocka_unit_test(test_accounts_and_bounds),
        cmocka_unit_test(test_first_match_wins),
        cmocka_unit_test(test_default_deny),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests_name("policy", tests, NULL, NULL);
}
