/* What `vfio-brokerctl usage` and `pins` make of a broker's rows: the whole output, and that its sums fit. Our own session
 * is 7, as the scripted broker says in Hello. */
#include "config.h"

#include "fake-broker.h"

#include "client/ctl/ctl.h"

/* In vfio-brokerctl's main file, which is not linked here. */
const struct ctl_verb ctl_verbs[] = {{.name = "none"}};
const unsigned ctl_n_verbs = 0;
const struct ctl_option_word ctl_option_words[] = {{NULL, 0}};

#define MIB (1ull << 20)

/* ---- the broker ----------------------------------------------------------------------------------------------- */

static void sessions(VfioBroker__InspectReply *m) {
    static VfioBroker__SessionRow rows[4], *list[4];
    static const uint32_t numbers[] = {1, 2, 3, 7};

    for (unsigned i = 0; i < 4; i++) {
        vfio_broker__session_row__init(&rows[i]);
        rows[i].session = numbers[i];
        list[i] = &rows[i];
    }
    m->n_sessions = 4;
    m->sessions = list;
}

/* 1 has all that its account has; 2 has some to give back; ours has a little. */
static void usage(VfioBroker__InspectReply *m, uint32_t session) {
    static VfioBroker__UsageRow row;

    vfio_broker__usage_row__init(&row);
    row.name = session == 1 ? "qemu\033[31m vm-1" : session == 2 ? "qemu vm-2" : "vfio-brokerctl";
    row.used = session == 1 ? 768 * MIB : session == 2 ? 100 * MIB : 0;
    row.lease = session == 1 ? 768 * MIB : session == 2 ? 160 * MIB : 4 * MIB;
    row.mapped_paid = session == 1 ? 768 * MIB : 96 * MIB;
    row.pinned_paid = session == 2 ? 4 * MIB : 0;
    row.doubled = session == 2 ? 8 * MIB : 0;
    row.tables = session == 1 ? 2 * MIB : 0;
    row.tables_max = 96 * MIB;
    row.limit_whose = "somebody";
    m->usage = &row;
}

static void memory(VfioBroker__InspectReply *m, uint32_t session) {
    static VfioBroker__MemoryRow rows[3], *list[3] = {&rows[0], &rows[1], &rows[2]};

    for (unsigned i = 0; i < 3; i++)
        vfio_broker__memory_row__init(&rows[i]);
    rows[0].memory = 1;
    rows[0].name = "pc.ram";
    rows[0].kind = "shmem";
    rows[0].mapped = rows[0].paid = 512 * MIB;
    rows[1].memory = 4;
    rows[1].name = "pc.ram, read";
    rows[1].kind = "shmem";
    rows[1].mapped = rows[1].paid = 256 * MIB;
    rows[1].note = "registered writable as memory 1 too: the kernel pins for each access anew";
    rows[2].memory = 5;
    rows[2].name = "unused";
    m->n_memories = 3;
    m->memories = list;
    if (session == 1)
        return;
    rows[0].mapped = 64 * MIB; /* 8 under both, 4 under pins alone */
    rows[0].pinned = 12 * MIB;
    rows[0].paid = 68 * MIB;
    rows[1].kind = "hugetlb";
    rows[1].note = "";
    rows[1].mapped = rows[1].paid = 32 * MIB;
    rows[1].pinned = 2 * MIB;
    m->n_memories = 2;
}

static uint64_t more; /* bytes leased that no session tells of */

/* In two pages; `alone`: vfio-brokerctl has an account of its own. */
static void accounts(VfioBroker__InspectReply *m, const VfioBroker__Inspect *q, bool alone) {
    static VfioBroker__AccountRow rows[3], *list[3] = {&rows[0], &rows[1], &rows[2]};
    static uint32_t of[3][2] = {{1}, {2, 7}, {7}};

    for (unsigned i = 0; i < 3; i++) {
        vfio_broker__account_row__init(&rows[i]);
        rows[i].limit_whose = "policy memory_max of uid 1000";
        rows[i].uid = 1000;
        rows[i].sessions = of[i];
        rows[i].n_sessions = 1;
    }
    rows[0].name = "pid 812 (qemu)";
    rows[0].kind = "process";
    rows[0].limit = 1024 * MIB;
    rows[0].leased = 768 * MIB;
    rows[0].own = 256 * MIB;
    rows[1].name = "uid 1000";
    rows[1].kind = "uid";
    rows[1].limit = 100 * MIB;
    rows[1].leased = (alone ? 160 * MIB : 164 * MIB) + more;
    rows[1].n_sessions = alone ? 1 : 2;
    rows[1].over = rows[1].leased - rows[1].limit;
    rows[1].state = "unmap something";
    rows[2].name = "pid 99 (vfio-brokerctl)";
    rows[2].kind = "process";
    m->accounts = list;
    m->n_accounts = 1;
    if (q->session)
        m->accounts = &list[q->session - 1];
    else if (q->after == 0)
        m->next = 1;
    else {
        m->accounts = &list[1];
        m->n_accounts = alone ? 2 : 1;
    }
}

static void pins(VfioBroker__InspectReply *m, uint32_t session) {
    static VfioBroker__PinRow row, *list[] = {&row};

    vfio_broker__pin_row__init(&row);
    row.pin = 9;
    row.space = 2;
    row.iova = 0xfffff000;
    row.size = 4097;
    row.prot = 3;
    row.session = 2;
    row.client_pid = 813;
    row.token = "vhost \001blk";
    row.state = "asked";
    m->pins = list;
    m->n_pins = session == 1;
}

static void serve(int s, bool alone) {
    VfioBroker__Request *req;

    greet(s);
    while ((req = get(s))) {
        const VfioBroker__Inspect *q = req->inspect;
        REPLY(m, INSPECT, inspect, InspectReply, INSPECT_REPLY);

        CHECK(req->body_case == VFIO_BROKER__REQUEST__BODY_INSPECT);
        m.id = req->id;
        if (q->session == 3) {
            put_error(s, req->id, VFIO_BROKER__ERROR_CODE__ERROR_NOT_FOUND, "there is no session 3");
            continue;
        }
        if (q->kind == VFIO_BROKER__INSPECT_KIND__INSPECT_SESSIONS)
            sessions(&m_body);
        else if (q->kind == VFIO_BROKER__INSPECT_KIND__INSPECT_USAGE)
            usage(&m_body, q->session);
        else if (q->kind == VFIO_BROKER__INSPECT_KIND__INSPECT_MEMORY)
            memory(&m_body, q->session);
        else if (q->kind == VFIO_BROKER__INSPECT_KIND__INSPECT_ACCOUNTS)
            accounts(&m_body, q, alone);
        else if (q->kind == VFIO_BROKER__INSPECT_KIND__INSPECT_PINS)
            pins(&m_body, q->session);
        put(s, &m);
    }
}

static void script_alone(int s, int i) {
    (void)i;
    serve(s, true);
}

/* Somebody whose lease is not told has 10 MiB of it. */
static void script_more(int s, int i) {
    (void)i;
    more = 10 * MIB;
    serve(s, false);
}

static void script_shared(int s, int i) {
    (void)i;
    serve(s, false);
}

/* Nobody but ourselves. */
static void script_nothing(int s, int i) {
    VfioBroker__Request *req;
    (void)i;

    greet(s);
    while ((req = get(s))) {
        REPLY(m, INSPECT, inspect, InspectReply, INSPECT_REPLY);

        m.id = req->id;
        put(s, &m);
    }
}

/* ---- what is printed ------------------------------------------------------------------------------------------ */

static char out[65536];

/* Runs a verb and takes its stdout; stderr goes to nothing. The exit status. */
static int run(int (*verb)(struct ctl *, int, char **), struct ctl ctl, char *argument) {
    int saved = dup(1), saved_err = dup(2), null = open("/dev/null", O_WRONLY);
    FILE *f = tmpfile();
    char *args[] = {argument};

    ctl.socket = fake_path;
    fflush(stdout);
    dup2(fileno(f), 1);
    dup2(null, 2);
    int status = verb(&ctl, argument != NULL, args);
    fflush(stdout);
    dup2(saved, 1);
    dup2(saved_err, 2);
    close(saved);
    close(saved_err);
    close(null);
    rewind(f);
    out[fread(out, 1, sizeof out - 1, f)] = 0;
    fclose(f);
    vfb_client_free(ctl.client);
    return status;
}

#define PLAIN ((struct ctl){.json = CTL_JSON_OFF})
#define JSON  ((struct ctl){.json = CTL_JSON_SHORT})

static const char all[] =
    "ACCOUNT           LIMIT   LEASED    IDLE  OWN MLOCK  LEFT  STATE  SESSIONS  LIMITED BY\n"
    "pid 812 (qemu)    1 GiB  768 MiB     0 B    256 MiB   0 B  full   1         policy memory_max of uid 1000\n"
    "uid 1000        100 MiB  160 MiB  60 MiB        0 B   0 B  over   2         policy memory_max of uid 1000\n"
    "\n"
    "ACCOUNT         SESSION  NAME            MEMORY                REASON             BYTES  COUNTED  NOTE\n"
    "pid 812 (qemu)        -  -                    -  -             own mlock        256 MiB  yes      by the client "
    "itself\n"
    "pid 812 (qemu)        1  qemu?[31m vm-1       1  pc.ram        mapping          512 MiB  yes      -\n"
    "pid 812 (qemu)        1  qemu?[31m vm-1       4  pc.ram, read  mapping          256 MiB  yes      registered "
    "writable as memory 1 too: the kernel pins for each access anew\n"
    "pid 812 (qemu)        1  qemu?[31m vm-1       -  -             table estimate     2 MiB  no       an estimate; at "
    "most 96 MiB (tables_max)\n"
    "uid 1000              2  qemu vm-2            1  pc.ram        mapping           64 MiB  yes      -\n"
    "uid 1000              2  qemu vm-2            1  pc.ram        pin                4 MiB  yes      no mapping "
    "shows "
    "it any more\n"
    "uid 1000              2  qemu vm-2            1  pc.ram        mapping and pin    8 MiB  no       paid with its "
    "mapping; the kernel counts it twice in the session's VmLck\n"
    "uid 1000              2  qemu vm-2            4  pc.ram, read  mapping           32 MiB  yes      -\n"
    "uid 1000              2  qemu vm-2            4  pc.ram, read  mapping and pin    2 MiB  no       paid with its "
    "mapping\n"
    "uid 1000              2  qemu vm-2            -  -             lease idle        60 MiB  yes      kept for what "
    "comes next, up to 64 MiB; given back when others need it\n"
    "\n"
    "pid 812 (qemu): all of 1 GiB is in use: raise policy memory_max of uid 1000, or have something unmapped\n"
    "\n"
    "uid 1000: unmap something\n";

static void test_usage(void **state) {
    (void)state;
    start(script_alone, 1);
    assert_int_equal(run(cmd_usage, PLAIN, NULL), CTL_OK);
    assert_string_equal(out, all);
    stop();
}

/* A backend that cannot share pins: what a mapping costs is said, where the session has nothing to say about it. */
static void test_type1(void **state) {
    static const char note[] = "paid anew for each mapping in each domain: this backend cannot share pins\n";
    (void)state;
    fake_features &= ~(uint64_t)VFB_FEATURE_SHARED_PINS;
    start(script_alone, 1);
    assert_int_equal(run(cmd_usage, PLAIN, NULL), CTL_OK);
    unsigned n = 0;
    for (const char *p = out; (p = strstr(p, note)); p++)
        n++;
    assert_int_equal(n, 3);
    assert_non_null(strstr(out, "registered writable as memory 1 too: the kernel pins for each access anew\n"));
    stop();
}

/* Our own session's lease and number are left out of an account that it shares: the same is shown. */
static void test_shared(void **state) {
    (void)state;
    start(script_shared, 1);
    assert_int_equal(run(cmd_usage, PLAIN, NULL), CTL_OK);
    assert_string_equal(out, all);
    stop();
}

static void test_one_session(void **state) {
    (void)state;
    start(script_shared, 3);
    assert_int_equal(run(cmd_usage, PLAIN, "2"), CTL_OK);
    assert_non_null(strstr(out, "\nuid 1000  100 MiB  160 MiB  60 MiB        0 B   0 B  over   2  "));
    assert_non_null(strstr(out, "                       Used: 100 MiB\n"));
    assert_non_null(strstr(out, "          Mapped and pinned: 8 MiB\n"));
    assert_non_null(strstr(out, "\nuid 1000: unmap something\n"));
    assert_null(strstr(out, "812"));
    assert_null(strstr(out, "other leases"));
    assert_int_equal(run(cmd_usage, PLAIN, "3"), CTL_FAILED);
    assert_string_equal(out, "");
    struct ctl named = PLAIN;
    named.has_session = true;
    named.session = 2;
    assert_int_equal(run(cmd_usage, named, "2"), CTL_OK);
    stop();
    assert_int_equal(run(cmd_usage, named, "1"), CTL_USAGE);
    assert_int_equal(run(cmd_usage, PLAIN, "0"), CTL_USAGE);
    assert_int_equal(run(cmd_pins, PLAIN, "-1"), CTL_USAGE);
    assert_int_equal(run(cmd_pins, PLAIN, "4294967296"), CTL_USAGE);
}

static void test_json(void **state) {
    static const char account[] =
        "{\"version\":1,\"accounts\":[{\"account\":\"pid 812 (qemu)\",\"kind\":\"process\",\"uid\":1000,"
        "\"limit\":1073741824,\"leased\":805306368,\"idle\":0,\"own_mlock\":268435456,\"left\":0,\"over\":0,"
        "\"state\":\"full\",\"sessions\":[1],\"limit_whose\":\"policy memory_max of uid 1000\",\"advice\":\"all of";
    static const char session[] =
        "\"usage\":[{\"session\":1,\"name\":\"qemu?[31m vm-1\",\"used\":805306368,\"lease\":805306368,\"limit\":0,"
        "\"mapped_paid\":805306368,\"pinned_paid\":0,\"doubled\":0,\"mapped\":0,\"tables\":2097152,"
        "\"tables_max\":100663296,\"mappings\":0,\"mappings_max\":0,\"memories\":0,\"spaces\":0,\"devices\":0,"
        "\"tokens\":0,\"pins\":0,\"accesses\":0,\"parked\":0,\"leftovers\":0,\"limit_whose\":\"somebody\"},";
    static const char reason[] =
        "\"reasons\":[{\"account\":\"pid 812 (qemu)\",\"session\":0,\"name\":\"\",\"memory\":0,"
        "\"memory_name\":\"\",\"reason\":\"own mlock\",\"bytes\":268435456,\"counted\":true,"
        "\"note\":\"by the client itself\"},";
    (void)state;

    start(script_shared, 1);
    assert_int_equal(run(cmd_usage, JSON, NULL), CTL_OK);
    assert_memory_equal(out, account, sizeof account - 1);
    assert_non_null(strstr(out, session));
    assert_non_null(strstr(out, reason));
    assert_non_null(strstr(out, "\"over\":67108864,\"state\":\"over\",\"sessions\":[2],"));
    stop();
}

static void test_nothing(void **state) {
    char none[128];
    (void)state;

    snprintf(none, sizeof none, "No sessions of uid %u (an administrator sees all).\n", (unsigned)geteuid());
    start(script_nothing, 3);
    assert_int_equal(run(cmd_usage, JSON, NULL), CTL_OK);
    assert_string_equal(out, "{\"version\":1,\"accounts\":[],\"usage\":[],\"reasons\":[]}\n");
    assert_int_equal(run(cmd_usage, PLAIN, NULL), CTL_OK);
    assert_string_equal(out, none);
    assert_int_equal(run(cmd_pins, PLAIN, NULL), CTL_OK);
    assert_string_equal(out, none);
    stop();
}

static uint64_t sum_of(const char *key, const char *from, const char *filter) {
    uint64_t sum = 0;

    for (const char *p = from; (p = strstr(p, key)); p++) {
        const char *end = strchr(p, '}');
        const char *is = strstr(p, filter);

        if (is && is < end)
            sum += strtoull(p + strlen(key), NULL, 10);
    }
    return sum;
}

/* Of all accounts together: what is counted is what is in use, whatever sessions say. */
static void test_sums(void **state) {
    static char *const sessions_asked[] = {NULL, "1", "2"};
    (void)state;

    start(script_more, 3);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(run(cmd_usage, JSON, sessions_asked[i]), CTL_OK);
        const char *reasons = strstr(out, "\"reasons\"");
        assert_non_null(reasons);
        assert_int_equal(sum_of("\"bytes\":", reasons, "\"counted\":true"),
                         sum_of("\"leased\":", out, "") + sum_of("\"own_mlock\":", out, ""));
        assert_int_equal(sum_of("\"reason\":\"other leases\",\"bytes\":", reasons, "true"), i == 1 ? 0 : 10 * MIB);
    }
    stop();
}

static void test_pins(void **state) {
    (void)state;
    start(script_alone, 3);
    assert_int_equal(run(cmd_pins, PLAIN, NULL), CTL_OK);
    assert_string_equal(out, "SESSION  PIN  SPACE        IOVA    SIZE  PROT  BY  PID  STATE  TOKEN\n"
                             "      1    9      2  0xfffff000  4097 B  rw     2  813  asked  vhost ?blk\n");
    assert_int_equal(run(cmd_pins, JSON, "1"), CTL_OK);
    assert_string_equal(out, "{\"version\":1,\"pins\":[{\"session\":1,\"pin\":9,\"space\":2,\"iova\":\"0xfffff000\","
                             "\"size\":4097,\"prot\":\"rw\",\"by_session\":2,\"by_pid\":813,\"state\":\"asked\","
                             "\"token\":\"vhost ?blk\"}]}\n");
    assert_int_equal(run(cmd_pins, JSON, "2"), CTL_OK);
    assert_string_equal(out, "{\"version\":1,\"pins\":[]}\n");
    stop();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        FAKE_TEST(test_usage),   FAKE_TEST(test_shared), FAKE_TEST(test_one_session), FAKE_TEST(test_json),
        FAKE_TEST(test_nothing), FAKE_TEST(test_pins),   FAKE_TEST(test_sums),        FAKE_TEST(test_type1),
    };

    return cmocka_run_group_tests_name("ctl-usage", tests, NULL, NULL);
}
