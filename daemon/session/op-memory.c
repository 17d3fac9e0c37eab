/* Requests about memory. */
#include "proto/cleanup.h"
#include "session/dispatch.h"

static int take_memory(struct vb_session *s, struct vb_request *rq, struct vb_memory **ret_memory, struct vb_error *e) {
    const VfioBroker__MemoryRegister *q = rq->msg->memory_register;

    if (rq->fd < 0) /* set aside by client.c */
        return vb_refuse(
            e, VB_BAD_MEMORY,
            "the fd is not memory that can be registered: it must be a memfd or a file on tmpfs or hugetlbfs");
    return vb_model_register(s->model, vb_steal_fd(&rq->fd), q->writable, 0, q->name, ret_memory, e);
}

/* client.c has set it aside, since closing what is no memory may wait; only the backend can tell a dma-buf from that, and
 * when it cannot, the fd stays where it is. */
static int take_dma_buf(struct vb_session *s, struct vb_request *rq, struct vb_memory **ret_memory,
                        struct vb_error *e) {
    const VfioBroker__MemoryRegister *q = rq->msg->memory_register;
    struct vb_client_link *c = &s->client;
    const struct vb_backend_ops *ops = s->model->backend->ops;

    if (!(ops->features(s->model->backend) & VFIO_BROKER__FEATURE__FEATURE_DMA_BUF))
        return vb_refuse(e, VB_UNSUPPORTED,
                         "device memory (dma-bufs) cannot be mapped here: it takes iommufd on Linux 6.19 or later, and "
                         "this session's backend is %s",
                         ops->name);
    if (rq->fd >= 0 || c->set_aside < 0)
        return vb_refuse(e, VB_BAD_MEMORY, "the fd is no dma-buf; register a memfd without dma_buf_size");
    int r = vb_model_register(s->model, c->set_aside, q->writable, q->dma_buf_size, q->name, ret_memory, e);
    if (r == 0) {
        c->set_aside = -1;
        c->n_foreign--;
    }
    return r;
}

int vb_op_memory_register(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    const VfioBroker__MemoryRegister *q = rq->msg->memory_register;
    struct vb_memory *memory;

    int r = vb_check_name("memory", q->name, e);
    if (r != 0)
        return r;
    VfioBroker__MemoryRegisterReply *m =
        VB_NEW(s, VfioBroker__MemoryRegisterReply, VFIO_BROKER__MEMORY_REGISTER_REPLY__INIT, e);
    if (!m)
        return e->code;
    r = q->dma_buf_size ? take_dma_buf(s, rq, &memory, e) : take_memory(s, rq, &memory, e);
    if (r != 0)
        return r;
    m->memory = memory->id;
    m->size = memory->size;
    m->page_size = memory->page_size;
    m->again = memory->registered > 1;
    rq->reply.body_case = VFIO_BROKER__REPLY__BODY_MEMORY_REGISTER;
    rq->reply.memory_register = m;
    return 0;
}

int vb_op_memory_unregister(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    return vb_model_unregister(s->model, rq->msg->memory_unregister->memory, e);
}
