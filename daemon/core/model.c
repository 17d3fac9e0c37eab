#include "core/model.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define FEATURE_SHARED_PINS 2u /* proto/vfio-broker.proto */

int vb_model_new(struct vb_backend *backend, uint64_t mappings_max, struct vb_model **ret_model) {
    struct vb_model *m = calloc(1, sizeof(*m));

    if (!m) {
        backend->ops->close(backend);
        return -ENOMEM;
    }
    m->backend = backend;
    m->mappings_max = mappings_max < VB_MAPPINGS_MAX ? mappings_max : VB_MAPPINGS_MAX;
    m->ledger.tables_max = UINT64_MAX;
    m->shared = backend->ops->features(backend) & FEATURE_SHARED_PINS;
    vb_table_init(&m->memories, VB_MEMORIES_MAX);
    vb_table_init(&m->spaces, VB_SPACES_MAX);
    vb_table_init(&m->devices, VB_DEVICES_MAX);
    *ret_model = m;
    return 0;
}

static void forget_mappings(struct vb_model *m, struct vb_space *s) {
    struct vb_mapping *mapping;

    while ((mapping = vb_mapping_first(&s->tree, (struct vb_range){0, UINT64_MAX}))) {
        vb_ledger_release(&m->ledger, vb_mapping_uncharge(&s->tree, mapping));
        mapping->memory->mappings--;
        m->mappings--;
        vb_mapping_free(mapping);
    }
    s->mappings = s->mapped_bytes = s->discarded = 0;
}

/* Memory first: closing a device may wait for its reset, and a copy of its fd elsewhere keeps it running. */
void vb_model_unmap_kernel(struct vb_model *m) {
    const struct vb_range everything = {0, UINT64_MAX};
    size_t done;

    for (uint32_t i = 0; i < m->spaces.n; i++) {
        struct vb_space *s = m->spaces.items[i];

        struct vb_domain *dom;

        if (s->mappings) /* what the kernel refuses here, domain_close tries again and puts on the tombstone list */
            TAILQ_FOREACH (dom, &s->domains, entry)
                m->backend->ops->unmap(m->backend, dom->handle, &everything, 1, &done, NULL);
    }
}

void vb_model_empty(struct vb_model *m) {
    struct vb_backend *b = m->backend;

    vb_model_unmap_kernel(m);
    for (uint32_t i = 0; i < m->spaces.n; i++) {
        struct vb_space *s = m->spaces.items[i];

        while (!TAILQ_EMPTY(&s->pins))
            vb_model_unpin(m, TAILQ_FIRST(&s->pins));
    }
    for (; m->devices.n; m->devices.n--) {
        struct vb_device *d = m->devices.items[m->devices.n - 1];

        b->ops->device_close(b, d->handle);
        free(d);
    }
    for (; m->spaces.n; m->spaces.n--) {
        struct vb_space *s = m->spaces.items[m->spaces.n - 1];

        struct vb_domain *dom;

        while ((dom = TAILQ_FIRST(&s->domains))) {
            TAILQ_REMOVE(&s->domains, dom, entry);
            vb_domain_close(m, dom);
        }
        forget_mappings(m, s);
        free(s);
    }
    while (m->software)
        vb_model_software_gone(m);
    for (; m->memories.n; m->memories.n--) {
        struct vb_memory *memory = m->memories.items[m->memories.n - 1];

        b->ops->memory_remove(b, memory->handle);
        vb_memory_free(memory);
    }
    assert(m->ledger.used == 0 && m->mappings == 0);
}

struct vb_model *vb_model_free(struct vb_model *m) {
    if (!m)
        return NULL;
    vb_model_empty(m);
    m->backend->ops->close(m->backend);
    vb_table_fini(&m->memories);
    vb_table_fini(&m->spaces);
    vb_table_fini(&m->devices);
    free(m);
    return NULL;
}
