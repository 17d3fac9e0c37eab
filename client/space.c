/* Spaces: one DMA address space each. */
#include "config.h"

#include "client/client-private.h"

static int take_space(struct vbc_call *call, const VfioBroker__Reply *reply, struct vb_packet *p) {
    (void)p;
    *(uint32_t *)call->out = reply->space_create->space;
    return 0;
}

int vfb_space_create(struct vfb_client *c, const char *name, uint32_t *ret_space) {
    VfioBroker__SpaceCreate m = VFIO_BROKER__SPACE_CREATE__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;
    int r;

    if (!name)
        name = "";
    r = vbc_check_name(c, "space's name", name, VB_NAME_MAX);
    if (r != 0)
        return r;
    m.name = (char *)name;
    req.body_case = VFIO_BROKER__REQUEST__BODY_SPACE_CREATE;
    req.space_create = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_SPACE_CREATE, take_space, ret_space, 0);
}

int vfb_space_destroy(struct vfb_client *c, uint32_t space) {
    VfioBroker__SpaceDestroy m = VFIO_BROKER__SPACE_DESTROY__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;

    m.space = space;
    req.body_case = VFIO_BROKER__REQUEST__BODY_SPACE_DESTROY;
    req.space_destroy = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_DONE, NULL, NULL, 0);
}

static int take_description(struct vbc_call *call, const VfioBroker__Reply *reply, struct vb_packet *p) {
    const VfioBroker__SpaceDescribeReply *m = reply->space_describe;
    struct vfb_space_info *info = call->out;
    const size_t room = sizeof info->usable / sizeof *info->usable;
    (void)p;

    *info = (struct vfb_space_info){
        .page_sizes = m->page_sizes,
        .mappings = m->mappings,
        .mappings_max = m->mappings_max,
        .mapped_bytes = m->mapped_bytes,
        .n_usable = m->n_usable < room ? m->n_usable : room,
        .dirty = m->dirty,
    };
    for (size_t i = 0; i < info->n_usable; i++)
        info->usable[i] = (struct vfb_range){.first = m->usable[i]->first, .last = m->usable[i]->last};
    return 0;
}

int vfb_space_describe(struct vfb_client *c, uint32_t space, struct vfb_space_info *ret_info) {
    VfioBroker__SpaceDescribe m = VFIO_BROKER__SPACE_DESCRIBE__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;

    m.space = space;
    req.body_case = VFIO_BROKER__REQUEST__BODY_SPACE_DESCRIBE;
    req.space_describe = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_SPACE_DESCRIBE, take_description, ret_info, 0);
}

int vfb_space_need(struct vfb_client *c, uint32_t space, const struct vfb_range *ranges, size_t n) {
    VfioBroker__SpaceNeed m = VFIO_BROKER__SPACE_NEED__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;
    VfioBroker__IovaRange built[VB_NEEDS_MAX], *list[VB_NEEDS_MAX];
    int r = vbc_check_feature(c, VFB_FEATURE_DOMAINS, "needs of a space");

    if (r != 0)
        return r;
    if (n > VB_NEEDS_MAX || (n && !ranges))
        return vbc_fail(c, VFB_INVALID, "a space can need %u ranges, not %zu", VB_NEEDS_MAX, n);
    for (size_t i = 0; i < n; i++) {
        vfio_broker__iova_range__init(&built[i]);
        built[i].first = ranges[i].first;
        built[i].last = ranges[i].last;
        list[i] = &built[i];
    }
    m.space = space;
    m.n_ranges = n;
    m.ranges = list;
    req.body_case = VFIO_BROKER__REQUEST__BODY_SPACE_NEED;
    req.space_need = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_DONE, NULL, NULL, 0);
}
