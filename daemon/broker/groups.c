#include "broker/groups.h"

#include <stdlib.h>

#include "host/vfio.h"
#include "proto/cleanup.h"

static uint32_t last_container;

void vb_group_note_container(uint32_t id) {
    if (id > last_container)
        last_container = id;
}

struct vb_group *vb_group_new(struct vb_group_list *l, uint32_t session, int number, int fd, int container) {
    struct vb_group *g = calloc(1, sizeof *g), *other;

    if (!g) {
        vb_close_p(&fd);
        vb_close_p(&container);
        return NULL;
    }
    *g = (struct vb_group){.number = number,
                           .session = session,
                           .fd = fd,
                           .container = container,
                           .container_id = ++last_container,
                           .stored = VB_NOT_STORED};
    LIST_FOREACH (other, l, entry) {
        if (other->session == session && vb_fd_same(other->container, container))
            g->container_id = other->container_id;
    }
    LIST_INSERT_HEAD(l, g, entry);
    return g;
}

struct vb_group *vb_group_free(struct vb_group *g) {
    LIST_REMOVE(g, entry);
    vb_close_p(&g->fd);
    vb_close_p(&g->container);
    free(g);
    return NULL;
}

struct vb_group *vb_group_find(const struct vb_group_list *l, uint32_t session, int number) {
    struct vb_group *g;

    LIST_FOREACH (g, l, entry) {
        if (g->session == session && g->number == number)
            return g;
    }
    return NULL;
}

struct vb_group *vb_group_sharing(const struct vb_group_list *l, const struct vb_group *g) {
    struct vb_group *other;

    LIST_FOREACH (other, l, entry) {
        if (other != g && other->container_id == g->container_id)
            return other;
    }
    return NULL;
}
