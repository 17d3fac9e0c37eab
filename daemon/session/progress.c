/* How far a replay is, told to the client while its request is carried out: about twice a second, and only if nothing else
 * waits to be written, so that a client that does not read costs nothing and is not waited for. */
#include "proto/clock.h"
#include "session/dispatch.h"

#define EVERY_MS 500

static void tell(void *arg, const struct vb_device *d, uint64_t done, uint64_t total) {
    struct vb_progress *p = arg;
    VfioBroker__AttachProgress progress = VFIO_BROKER__ATTACH_PROGRESS__INIT;
    VfioBroker__Event event = VFIO_BROKER__EVENT__INIT;
    VfioBroker__Reply reply = VFIO_BROKER__REPLY__INIT;
    const uint64_t now = vb_now_ms();

    if (now < p->next_ms || vb_client_busy(p->session))
        return;
    p->next_ms = now + EVERY_MS;
    progress.device = d->id;
    progress.done = done;
    progress.total = total;
    event.body_case = VFIO_BROKER__EVENT__BODY_ATTACH_PROGRESS;
    event.attach_progress = &progress;
    reply.body_case = VFIO_BROKER__REPLY__BODY_EVENT;
    reply.event = &event;
    vb_client_send(p->session, &reply, NULL, 0);
}

void vb_progress_begin(struct vb_progress *p, struct vb_session *s) {
    *p = (struct vb_progress){.session = s, .next_ms = vb_now_ms() + EVERY_MS};
    s->model->progress = tell;
    s->model->progress_arg = p;
}

void vb_progress_end(struct vb_progress *p) {
    p->session->model->progress = NULL;
    p->session->model->progress_arg = NULL;
}
