/* What `vfio-brokerctl list` makes of a broker's rows of spaces, domains and devices, as a table and as JSON; and that bind says
 * what is wrong with an mdev's name. Our own session is 7, as the scripted broker says in Hello. */
#include "config.h"

#include "fake-broker.h"

#include "client/ctl/ctl.h"

/* In vfio-brokerctl's main file, which is not linked here. */
const struct ctl_verb ctl_verbs[] = {{.name = "none"}};
const unsigned ctl_n_verbs = 0;
const struct ctl_option_word ctl_option_words[] = {{NULL, 0}};

/* ---- the broker ------------------------------------------------------------------------------------------------- */

static VfioBroker__SpaceRow *space(uint32_t number, const char *name) {
    static VfioBroker__SpaceRow rows[8];
    VfioBroker__SpaceRow *row = &rows[number];
    vfio_broker__space_row__init(row);
    row->space = number;
    row->name = (char *)name;
    return row;
}

/* One domain; two, one of which leaves out; one that leaves out; none yet (type1); one without devices beside another; as a
 * session from before there were rows of domains tells it. */
static void spaces(VfioBroker__InspectReply *m) {
    static VfioBroker__SpaceRow *list[6];
    static VfioBroker__DomainRow rows[6], *of[6];
    static char *devices[] = {"0000:00:04.0", "0000:00:05.0", "evil\x1b"};
    static const struct {
        const char *text;
        size_t device, n;
        int leaves_out, left_out;
    } domains[6] = {
        {"ioas 3, hwpt 5", 0, 2, 0, 0},       {"ioas 3, hwpt 5", 0, 1, 0, 0}, {"ioas 7, hwpt 8", 1, 1, 1, 3},
        {"container of group 4", 2, 1, 1, 0}, {"ioas 9", 0, 0, 0, 0},         {"ioas 10\x1b", 0, 1, 0, 0},
    };
    for (int i = 0; i < 6; i++) {
        vfio_broker__domain_row__init(&rows[i]);
        rows[i].text = (char *)domains[i].text;
        rows[i].devices = devices + domains[i].device;
        rows[i].n_devices = domains[i].n;
        rows[i].leaves_out = domains[i].leaves_out;
        rows[i].left_out = (uint64_t)domains[i].left_out;
        of[i] = &rows[i];
    }
    static const size_t first[6] = {0, 1, 3, 0, 4, 0}, n[6] = {1, 2, 1, 0, 2, 0};
    for (uint32_t i = 0; i < 6; i++) {
        list[i] = space(i + 1, i == 0 ? "bus\033 0" : "");
        list[i]->domain = of + first[i];
        list[i]->n_domain = n[i];
        list[i]->domains = i == 5 ? "ioas 11, of old" : "not looked at";
    }
    list[0]->mappings = 2;
    list[0]->mapped_bytes = 1 << 20;
    list[0]->devices = devices;
    list[0]->n_devices = 2;
    list[1]->dirty = 1;
    list[2]->discarded = 4;
    list[3]->domains = "";
    m->spaces = list;
    m->n_spaces = 6;
}

static void devices(VfioBroker__InspectReply *m) {
    static VfioBroker__DeviceRow rows[3], *list[3] = {&rows[0], &rows[1], &rows[2]};
    for (int i = 0; i < 3; i++) {
        vfio_broker__device_row__init(&rows[i]);
        rows[i].group = 7;
        rows[i].granted = 1;
        rows[i].state = "free";
    }
    rows[0].address = "0000:00:04.0";
    rows[0].vendor = 0x1234;
    rows[0].device = 0x11e8;
    rows[0].pci_class = 0xff00;
    rows[0].driver = "vfio-pci";
    rows[1].address = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    rows[1].driver = "mtty";
    rows[1].group = 9;
    rows[2].address = "0000:00:05.0";
    rows[2].vendor = 0x8086;
    rows[2].driver = "e1000e";
    rows[2].state = "unusable";
    rows[2].reason = "0000:00:06.0 of its group is on host driver e1000e";
    m->devices = list;
    m->n_devices = 3;
}

static void script(int s, int i) {
    VfioBroker__Request *req;
    (void)i;
    greet(s);
    while ((req = get(s))) {
        static VfioBroker__SessionRow session, *sessions[] = {&session};
        REPLY(m, INSPECT, inspect, InspectReply, INSPECT_REPLY);
        CHECK(req->body_case == VFIO_BROKER__REQUEST__BODY_INSPECT);
        m.id = req->id;
        vfio_broker__session_row__init(&session);
        session.session = 2;
        if (req->inspect->kind == VFIO_BROKER__INSPECT_KIND__INSPECT_SESSIONS) {
            m_body.sessions = sessions;
            m_body.n_sessions = 1;
        } else if (req->inspect->kind == VFIO_BROKER__INSPECT_KIND__INSPECT_SPACES) {
            CHECK(req->inspect->session == 2);
            spaces(&m_body);
        } else {
            CHECK(req->inspect->kind == VFIO_BROKER__INSPECT_KIND__INSPECT_DEVICES);
            devices(&m_body);
        }
        put(s, &m);
    }
}

/* ---- what is printed -------------------------------------------------------------------------------------------- */

static char out[65536];

/* Runs a verb and takes what it writes to `fd`. The exit status. */
static int run(int (*verb)(struct ctl *, int, char **), enum ctl_json json, char *argument, int fd) {
    struct ctl ctl = {.json = json, .socket = fake_path};
    char *args[] = {argument};
    int saved = dup(fd);
    FILE *f = tmpfile();
    fflush(stdout);
    dup2(fileno(f), fd);
    int status = verb(&ctl, 1, args);
    fflush(stdout);
    dup2(saved, fd);
    close(saved);
    rewind(f);
    out[fread(out, 1, sizeof out - 1, f)] = 0;
    fclose(f);
    vfb_client_free(ctl.client);
    return status;
}

static void test_spaces(void **state) {
    (void)state;
    start(script, 2);
    assert_int_equal(run(cmd_list, CTL_JSON_OFF, "spaces", 1), CTL_OK);
    static const char want[] =
        "SESSION  SPACE  NAME    MAPPINGS  MAPPED  DISCARDED  DIRTY  DEVICES                    DOMAINS\n"
        "      2      1  bus? 0         2   1 MiB          -  no     0000:00:04.0,0000:00:05.0  ioa"
        "s 3, hwpt 5\n"
        "      2      2  -              0     0 B          -  yes    -                          ioa"
        "s 3, hwpt 5 (0000:00:04.0); ioas 7, hwpt 8 (0000:00:05.0; leaves out 3)\n"
        "      2      3  -              0     0 B          4  no     -                          con"
        "tainer of group 4 (evil?; leaves out 0)\n"
        "      2      4  -              0     0 B          -  no     -                          -\n"
        "      2      5  -              0     0 B          -  no     -                          ioa"
        "s 9 (no device); ioas 10? (0000:00:04.0)\n"
        "      2      6  -              0     0 B          -  no     -                          ioa"
        "s 11, of old\n";
    assert_string_equal(out, want);
    assert_int_equal(run(cmd_list, CTL_JSON_SHORT, "spaces", 1), CTL_OK);
    static const char first[] = "{\"version\":1,\"spaces\":[{\"session\":2,\"space\":1,\"name\":\"bus? "
                                "0\",\"mappings\":2,\"mapped_bytes\":1048576,"
                                "\"discarded\":0,\"dirty\":false,\"devices\":[\"0000:00:04.0\",\"0000:00:05.0\"],"
                                "\"domains\":\"ioas 3, hwpt 5\"},";
    assert_memory_equal(out, first, sizeof first - 1);
    assert_non_null(strstr(out, "\"discarded\":4,\"dirty\":false,"));
    assert_non_null(strstr(out, "\"dirty\":true,"));
    stop();
}

static void test_domains(void **state) {
    (void)state;
    start(script, 2);
    assert_int_equal(run(cmd_list, CTL_JSON_OFF, "domains", 1), CTL_OK);
    assert_string_equal(out, "SESSION  SPACE  DOMAIN                LEAVES OUT  LEFT OUT  DEVICES\n"
                             "      2      1  ioas 3, hwpt 5        no                 0  0000:00:04.0,0000:00:05.0\n"
                             "      2      2  ioas 3, hwpt 5        no                 0  0000:00:04.0\n"
                             "      2      2  ioas 7, hwpt 8        yes                3  0000:00:05.0\n"
                             "      2      3  container of group 4  yes                0  evil?\n"
                             "      2      5  ioas 9                no                 0  -\n"
                             "      2      5  ioas 10?              no                 0  0000:00:04.0\n");
    assert_int_equal(run(cmd_list, CTL_JSON_SHORT, "domains", 1), CTL_OK);
    assert_non_null(strstr(out, "{\"session\":2,\"space\":2,\"domain\":\"ioas 7, hwpt 8\",\"leaves_out\":true,"
                                "\"left_out\":3,\"devices\":[\"0000:00:05.0\"]}"));
    assert_non_null(strstr(out, "\"devices\":[]}"));
    stop();
}

static void test_devices(void **state) {
    (void)state;
    start(script, 2);
    assert_int_equal(run(cmd_list, CTL_JSON_OFF, "devices", 1), CTL_OK);
    assert_string_equal(
        out, "ADDRESS                               ID         GROUP  DRIVER    STATE     SESSION  GRANTED  REASON\n"
             "0000:00:04.0                          1234:11e8      7  vfio-pci  free            0  yes      -\n"
             "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001  -              9  mtty      free            0  yes      -\n"
             "0000:00:05.0                          8086:0000      7  e1000e    unusable        0  yes      "
             "0000:00:06.0 of its "
             "group is on host driver e1000e\n");
    assert_int_equal(run(cmd_list, CTL_JSON_SHORT, "devices", 1), CTL_OK);
    assert_non_null(strstr(out,
                           "{\"address\":\"83b8f4f2-509f-382f-3c1e-e6bfe0fa1001\",\"pci_id\":\"\",\"class\":\"0x0\","
                           "\"group\":9,\"driver\":\"mtty\","));
    stop();
}

static void test_bind_mdev(void **state) {
    (void)state;
    assert_int_equal(run(cmd_bind, CTL_JSON_OFF, "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", 2), CTL_USAGE);
    assert_non_null(strstr(out, "is an mdev: it is made by its host driver"));
    assert_int_equal(run(cmd_unbind, CTL_JSON_OFF, "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", 2), CTL_USAGE);
    assert_non_null(strstr(out, "is an mdev"));
    static char *const bad[] = {"83b8f4f2-509f-382f-3c1e-e6bfe0fa100", "83b8f4f2-509f-382f-3c1e-e6bfe0fa10011",
                                "83b8f4f2-509f-382f-3c1e-e6bfe0fa100g", "83b8f4f25-09f-382f-3c1e-e6bfe0fa1001", ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(run(cmd_bind, CTL_JSON_OFF, bad[i], 2), CTL_USAGE);
        assert_non_null(strstr(out, "is not a PCI address"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        FAKE_TEST(test_spaces),
        FAKE_TEST(test_domains),
        FAKE_TEST(test_devices),
        FAKE_TEST(test_bind_mdev),
    };
    return cmocka_run_group_tests_name("ctl-list", tests, NULL, NULL);
}
