/* Opening a device for a session: its node; or on type1 its group, and a container for that. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include "broker/log.h"
#include "broker/register-private.h"
#include "host/files.h"
#include "host/vfio.h"
#include "proto/cleanup.h"

static int open_device(struct vb_register *r, const struct vb_host_device *p, int *ret, struct vb_error *e) {
    char path[PATH_MAX];

    if (!vb_path(path, sizeof path, "%s/vfio/devices/%s", r->dev, p->vfio))
        return vb_fail(e, -ENAMETOOLONG, "%s", p->vfio);
    VB_FD int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return vb_fail(e, -errno, "cannot open %s of device %s", path, p->address);
    if (!vb_fd_is_rdev(fd, p->rdev))
        return vb_fail(e, -ENXIO, "%s is not the device node of %s that sysfs names", path, p->address);
    *ret = vb_steal_fd(&fd);
    return 0;
}

/* The container: that of the device `with`, or a fresh one. ret_fresh: the session needs it too. */
static int open_container(struct vb_register *r, uint32_t session, const char *with, int *ret, bool *ret_fresh,
                          struct vb_error *e) {
    struct vb_claim *c = with[0] ? vb_register_find(r, session, with) : NULL;
    char clean[VB_ADDRESS_MAX + 1];

    if (with[0] && (!c || !c->opened))
        return vb_refuse(e, VB_NOT_FOUND, "session %u has no device %s whose container could be shared", session,
                         vb_log_clean(with, clean, sizeof clean));
    *ret_fresh = !c;
    int fd =
        c ? fcntl(c->opened->container, F_DUPFD_CLOEXEC, 0) : vb_vfio_container_open(r->dev, r->iommufd_containers);
    if (fd < 0)
        return vb_fail(e, c ? -errno : fd, "cannot open %s/%s as a container", r->dev,
                       r->iommufd_containers ? "iommu" : "vfio/vfio");
    *ret = fd;
    return 0;
}

/* The group, and what of it the session does not have yet. */
static int open_group(struct vb_register *r, const struct vb_host_device *p, uint32_t session, const char *with,
                      struct vb_opened *o, struct vb_group **ret, struct vb_error *e) {
    bool fresh = true;

    *ret = vb_group_find(&r->groups, session, p->group);
    if (*ret)
        return 0;
    VB_FD int container = -1;
    int n = open_container(r, session, with, &container, &fresh, e);
    if (n != 0)
        return n;
    VB_FD int fd = vb_vfio_group_open(r->dev, p->group, p->group_rdev);
    r->busy_node = fd == -EBUSY;
    if (fd == -EBUSY)
        return vb_register_refuse_open(r, p, e);
    if (fd < 0)
        return vb_fail(e, fd, "cannot open %s/vfio/%d of device %s", r->dev, p->group, p->address);
    o->fds[0] = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    o->fds[1] = fresh ? fcntl(container, F_DUPFD_CLOEXEC, 0) : -1;
    if (o->fds[0] < 0 || (fresh && o->fds[1] < 0))
        return vb_fail(e, -errno, "group %d of device %s", p->group, p->address);
    *ret = vb_group_new(&r->groups, session, p->group, vb_steal_fd(&fd), vb_steal_fd(&container));
    return *ret ? 0 : vb_fail(e, -ENOMEM, "group %d of device %s", p->group, p->address);
}

void vb_register_end_group(struct vb_register *r, struct vb_group *g) {
    if (r->forget)
        r->forget(&r->groups, g);
    vb_group_free(g);
}

void vb_opened_close(struct vb_opened *o) {
    for (unsigned i = 0; i < 2; i++) {
        vb_close_p(&o->fds[i]);
        o->fds[i] = -1;
    }
}

static int read_reserved(struct vb_register *r, const struct vb_host_device *p, struct vb_opened *o,
                         struct vb_error *e) {
    int n = vb_group_reserved(r->sys, p->group, o->reserved, VB_REGIONS_MAX, &o->n_reserved);

    if (n == 0 || (n == -ENOENT && p->software))
        return 0;
    return vb_fail(e, n, "cannot read the reserved regions of IOMMU group %d", p->group);
}

int vb_register_open(struct vb_register *r, const struct vb_host_device *p, uint32_t session, const char *with,
                     struct vb_opened *o, struct vb_group **ret_group, struct vb_error *e) {
    int n = read_reserved(r, p, o, e);

    if (n != 0)
        return n;
    return r->type1 ? open_group(r, p, session, with, o, ret_group, e) : open_device(r, p, &o->fds[0], e);
}
