/* Requests about memory. */
#include "proto/cleanup.h"
#include "session/dispatch.h"

int vb_op_memory_register(struct vb_session *s, struct vb_request *rq, struct vb_error *e) {
    const VfioBroker__MemoryRegister *q = rq->msg->memory_register;
    struct vb_memory *memory;

    int r = vb_check_name("memory", q->name, e);
    if (r != 0)
        return r;
    if (rq->fd < 0) /* set aside by client.c */
        return vb_refuse(
            e, VB_BAD_MEMORY,
            "the fd is not memory that can be registered: it must be a memfd or a file on tmpfs or hugetlbfs");
    VfioBroker__MemoryRegisterReply *m =
        VB_NEW(s, VfioBroker__MemoryRegisterReply, VFIO_BROKER__MEMORY_REGISTER_REPLY__INIT, e);
    if (!m)
        return e->code;
    r = vb_model_register(s->model, vb_steal_fd(&rq->fd), q->writable, q->name, &memory, e);
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
