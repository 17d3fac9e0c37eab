/* Memories: registering and unregistering. */
#include "config.h"

#include <errno.h>

#include "client/client-private.h"
#include "client/populate.h"

static int take_memory(struct vbc_call *call, const VfioBroker__Reply *reply, struct vb_packet *p) {
    const VfioBroker__MemoryRegisterReply *m = reply->memory_register;
    (void)p;

    *(struct vfb_memory *)call->out = (struct vfb_memory){.id = m->memory, .size = m->size, .page_size = m->page_size};
    return 0;
}

int vfb_memory_register(struct vfb_client *c, int fd, unsigned flags, const char *name, struct vfb_memory *ret_memory) {
    VfioBroker__MemoryRegister m = VFIO_BROKER__MEMORY_REGISTER__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;
    bool writable = flags & VFB_WRITABLE;
    int r = vbc_check_connected(c);

    if (!name)
        name = "";
    if (r == 0 && fd < 0)
        r = vbc_fail(c, -EBADF, "the memory's fd is %d", fd);
    if (r == 0 && (flags & ~(unsigned)(VFB_WRITABLE | VFB_NO_POPULATE)))
        r = vbc_fail(c, VFB_INVALID, "unknown flags 0x%x", flags);
    if (r == 0)
        r = vbc_check_name(c, "memory's name", name, VB_NAME_MAX);
    if (r == 0 && !(flags & VFB_NO_POPULATE))
        r = vbc_populate(c, fd, writable);
    if (r != 0)
        return r;
    m.writable = writable;
    m.name = (char *)name;
    req.body_case = VFIO_BROKER__REQUEST__BODY_MEMORY_REGISTER;
    req.memory_register = &m;
    return vbc_blocking(c, &req, fd, VFIO_BROKER__REPLY__BODY_MEMORY_REGISTER, take_memory, ret_memory, 0);
}

int vfb_memory_unregister(struct vfb_client *c, uint32_t memory) {
    VfioBroker__MemoryUnregister m = VFIO_BROKER__MEMORY_UNREGISTER__INIT;
    VfioBroker__Request req = VFIO_BROKER__REQUEST__INIT;

    m.memory = memory;
    req.body_case = VFIO_BROKER__REQUEST__BODY_MEMORY_UNREGISTER;
    req.memory_unregister = &m;
    return vbc_blocking(c, &req, -1, VFIO_BROKER__REPLY__BODY_DONE, NULL, NULL, 0);
}
