/* Memories: registering and unregistering. */
#include "config.h"

#include <errno.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "client/client-private.h"
#include "client/populate.h"

static int take_memory(struct vbc_call *call, const VfioBroker__Reply *reply, struct vb_packet *p) {
    const VfioBroker__MemoryRegisterReply *m = reply->memory_register;
    (void)p;

    *(struct vfb_memory *)call->out = (struct vfb_memory){.id = m->memory, .size = m->size, .page_size = m->page_size};
    return 0;
}

#ifndef DMA_BUF_MAGIC /* Linux 5.3, include/uapi/linux/magic.h */
#define DMA_BUF_MAGIC 0x444d4142
#endif

/* What is no dma-buf is not seeked in: that would move the caller's file offset. */
static int dma_buf_size(struct vfb_client *c, int fd, uint64_t *ret_size) {
    int r = vbc_check_feature(c, VFB_FEATURE_DMA_BUF, "device memory (dma-bufs)");
    struct statfs fs;
    off_t size;

    if (r != 0)
        return r;
    if (fstatfs(fd, &fs) < 0)
        return vbc_fail(c, -errno, "cannot look at the dma-buf's fd: %s", strerror(errno));
    if ((uint32_t)fs.f_type != DMA_BUF_MAGIC)
        return vbc_fail(c, VFB_BAD_MEMORY, "the fd is no dma-buf: register it without VFB_DMA_BUF");
    size = lseek(fd, 0, SEEK_END); /* drivers/dma-buf/dma-buf.c, dma_buf_llseek(): tells the size, moves nothing */
    if (size < 0)
        return vbc_fail(c, -errno, "cannot ask the dma-buf for its size: %s", strerror(errno));
    if (size == 0)
        return vbc_fail(c, VFB_BAD_MEMORY, "the dma-buf is empty");
    *ret_size = (uint64_t)size;
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
    if (r == 0 && (flags & ~(unsigned)(VFB_WRITABLE | VFB_NO_POPULATE | VFB_DMA_BUF)))
        r = vbc_fail(c, VFB_INVALID, "unknown flags 0x%x", flags);
    if (r == 0)
        r = vbc_check_name(c, "memory's name", name, VB_NAME_MAX);
    if (r == 0 && (flags & VFB_DMA_BUF))
        r = dma_buf_size(c, fd, &m.dma_buf_size);
    else if (r == 0 && !(flags & VFB_NO_POPULATE))
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
