#include "core/tables.h"

#include <stdbool.h>

#include "core/mapping.h"

#define TABLE_SIZE   4096u
#define MAPPING_SIZE 320u

static const unsigned levels[] = {21, 30, 39};

/* Huge pages need no lowest table where IOVA and offset are aligned to them: iommupt takes the largest page that fits. */
static bool huge(const struct vb_mapping *m) {
    const uint64_t page = (uint64_t)1 << levels[0];

    return m->memory->page_size >= page && ((m->iova.first | m->offset | (m->iova.last + 1)) & (page - 1)) == 0;
}

uint64_t vb_tables_cost(const struct vb_mapping *m, const uint64_t *below, const uint64_t *above) {
    uint64_t first, last, n = 0;
    bool shared_first, shared_last;
    unsigned i;

    for (i = huge(m) ? 1 : 0; i < sizeof levels / sizeof levels[0]; i++) {
        first = m->iova.first >> levels[i];
        last = m->iova.last >> levels[i];
        shared_first = below && *below >> levels[i] == first;
        shared_last = above && *above >> levels[i] == last;
        n += last - first + 1 - shared_first - shared_last;
        if (first == last && shared_first && shared_last)
            n++;
    }
    return MAPPING_SIZE + n * TABLE_SIZE;
}
