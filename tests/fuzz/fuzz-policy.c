/* The policy parser. Root writes policy, so this is for robustness: whatever the file says is either understood whole or
 * refused with a text. */
#include "config.h"

#include "broker/policy.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const gid_t groups[] = {4, 24, 1000};
    struct vb_policy *p = NULL;
    struct vb_error e = {.code = 0};
    int before = fuzz_lowest_fd();

    int r = vb_policy_parse("policy.json", (const char *)data, size, &p, &e);
    FUZZ_CHECK(r <= 0 || r == VB_INVALID);
    if (r == 0) {
        FUZZ_CHECK(p && p->n_grants <= VB_GRANTS_MAX);
        for (uint32_t i = 0; i < p->n_grants; i++) {
            const struct vb_grant *g = &p->grants[i];

            FUZZ_CHECK(g->n_devices <= VB_GRANT_DEVICES_MAX && g->mappings <= VB_MAPPINGS_MAX);
            FUZZ_CHECK(g->memory_max <= VB_POLICY_MEMORY_MAX || g->memory_max == VB_POLICY_NO_LIMIT);
            FUZZ_CHECK(g->sessions <= VB_SESSIONS_MAX);
            FUZZ_CHECK(g->account <= VB_ACCOUNT_UNIT && g->tables_max <= VB_POLICY_MEMORY_MAX);
            FUZZ_CHECK(vb_grant_session_memory(g, VB_POLICY_MEMORY_MAX) >= VB_POLICY_SESSION_MIN);
            for (uint32_t k = 0; k < g->n_devices; k++)
                FUZZ_CHECK(memchr(g->devices[k], 0, sizeof g->devices[k]));
        }
        const struct vb_grant *g = vb_policy_find(p, 1000, 1000, groups, 3);
        if (g)
            vb_grant_device(g, "0000:00:04.0");
        vb_policy_unref(p);
    } else {
        FUZZ_CHECK(e.text[0]);
    }
    FUZZ_CHECK(fuzz_lowest_fd() == before);
    return 0;
}
