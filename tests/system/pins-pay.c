/* What pins and devices cost together: see pins.h. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "pins.h"

static void start(struct client **owner, struct client **pinner, uint64_t size, bool huge) {
    *owner = client_new("owner", size);
    *pinner = client_new("pinner", 0);
    (*owner)->size = size;
    (*owner)->huge = huge;
    use_device(*owner);
    tell(*owner, do_memory);
    tell(*owner, do_token);
    memcpy((*pinner)->secret, (*owner)->token.secret, sizeof(*pinner)->secret);
    tell(*pinner, do_open);
    tell(*owner, do_claim);
}

static void pin_all(struct client *pinner, uint64_t size) {
    pinner->iova = IOVA;
    pinner->size = size;
    tell(pinner, do_pin);
    tap_check(pinner->result == 0, "pin: %s", vfb_code_name(pinner->result));
}

static void dma(struct client *owner, uint64_t offset) {
    owner->iova = IOVA + offset;
    tell(owner, do_dma);
}

static void no_more(struct client *owner) {
    owner->iova = IOVA + 2 * owner->size;
    tell(owner, do_other_page);
    tap_check(owner->result == VFB_LIMIT, "one page more can be mapped: %s", vfb_code_name(owner->result));
}

static void again_costs_nothing(struct client *owner) {
    owner->iova = IOVA + 4 * owner->size;
    owner->offset = 0;
    tell(owner, do_map_more);
    tap_check(owner->result == 0, "the same pages in another place: %s", vfb_code_name(owner->result));
}

void case_attach_pays_nothing_twice(void) {
    const uint64_t m = 32 * MIB, before = all_pinned_pages();
    struct client *o, *p;

    start(&o, &p, m, false);
    expect(o, "mapped", 0, 0, m, 0);
    pin_all(p, m);
    expect(o, "pinned", m, 0, m, m);
    tell(o, do_attach);
    expect(o, "pinned, attached", 2 * m, m, m, m);
    tap_check(all_pinned_pages() - before == m / PAGE, "the kernel holds %" PRIu64 " pages",
              all_pinned_pages() - before);
    tap_check(o->usage.limit == m && limit_bytes(o->session) == 2 * m, "limit %" PRIu64, o->usage.limit);
    dma(o, 3 * MIB);
    no_more(o);
    expect(o, "refused", 2 * m, m, m, m);
    tell(o, do_detach);
    expect(o, "detached, pinned", m, 0, m, m);
    tell(p, do_unpin);
    expect(o, "unpinned", 0, 0, m, 0);

    tell(o, do_attach);
    expect(o, "attached", m, m, m, 0);
    pin_all(p, m);
    expect(o, "attached, pinned", 2 * m, m, m, m);
    dma(o, 5 * MIB);
    no_more(o);
    again_costs_nothing(o);
    expect(o, "mapped a second time", 2 * m, m, m, m);
    tell(p, do_unpin);
    expect(o, "unpinned, attached", m, m, m, 0);
    dma(o, 7 * MIB);
    tell(o, do_detach);
    expect(o, "detached", 0, 0, m, 0);
    tell(o, do_unmap);
    expect(o, "unmapped", 0, 0, 0, 0);
    tap_check(all_pinned_pages() == before, "%" PRIu64 " pages are left pinned", all_pinned_pages() - before);
    client_end(p);
    client_end(o);
}

void case_hugetlb(void) {
    const uint64_t m = 16 * MIB;
    struct client *o, *p;

    start(&o, &p, m, true);
    pin_all(p, m);
    expect(o, "huge pages pinned", 0, 0, m, 0);
    tell(o, do_attach);
    expect(o, "huge pages pinned, attached", m, m, m, 0);
    dma(o, 3 * MIB);
    no_more(o);
    tell(p, do_unpin);
    expect(o, "huge pages attached", m, m, m, 0);
    tell(o, do_detach);
    expect(o, "huge pages mapped", 0, 0, m, 0);
    client_end(p);
    client_end(o);
}
