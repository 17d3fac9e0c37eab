/* See workers.h. Items are taken one by one under the mutex; a run ends when all are taken and nobody works on one. */
#include "backend/workers.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>

struct vb_workers {
    pthread_mutex_t mutex;
    pthread_cond_t wake, done;
    void (*fn)(void *arg, size_t i);
    void *arg;
    size_t next, n_items; /* of the run; equal: nothing to take */
    unsigned busy;        /* threads that work on an item */
    bool end;
    unsigned n;
    pthread_t threads[];
};

/* Takes items while there are any. With the mutex. */
static void work(struct vb_workers *w) {
    while (w->next < w->n_items) {
        const size_t i = w->next++;

        w->busy++;
        pthread_mutex_unlock(&w->mutex);
        w->fn(w->arg, i);
        pthread_mutex_lock(&w->mutex);
        w->busy--;
    }
}

static void *thread(void *arg) {
    struct vb_workers *w = arg;

    pthread_mutex_lock(&w->mutex);
    while (!w->end) {
        work(w);
        if (w->busy == 0)
            pthread_cond_signal(&w->done);
        if (!w->end)
            pthread_cond_wait(&w->wake, &w->mutex);
    }
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

struct vb_workers *vb_workers_new(unsigned n) {
    struct vb_workers *w = calloc(1, sizeof(*w) + n * sizeof(w->threads[0]));
    sigset_t all, before;

    if (!w)
        return NULL;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->wake, NULL);
    pthread_cond_init(&w->done, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (w->n < n && pthread_create(&w->threads[w->n], NULL, thread, w) == 0)
        w->n++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return w;
}

struct vb_workers *vb_workers_free(struct vb_workers *w) {
    unsigned i;

    if (!w)
        return NULL;
    pthread_mutex_lock(&w->mutex);
    w->end = true;
    pthread_cond_broadcast(&w->wake);
    pthread_mutex_unlock(&w->mutex);
    for (i = 0; i < w->n; i++)
        pthread_join(w->threads[i], NULL);
    pthread_cond_destroy(&w->done);
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->mutex);
    free(w);
    return NULL;
}

unsigned vb_workers_count(const struct vb_workers *w) {
    return w ? w->n : 0;
}

void vb_workers_run(struct vb_workers *w, size_t n_items, void (*fn)(void *arg, size_t i), void *arg) {
    size_t i;

    if (!w || w->n == 0 || n_items < 2) {
        for (i = 0; i < n_items; i++)
            fn(arg, i);
        return;
    }
    pthread_mutex_lock(&w->mutex);
    w->fn = fn;
    w->arg = arg;
    w->next = 0;
    w->n_items = n_items;
    pthread_cond_broadcast(&w->wake);
    work(w);
    while (w->busy > 0)
        pthread_cond_wait(&w->done, &w->mutex);
    w->n_items = w->next = 0;
    pthread_mutex_unlock(&w->mutex);
}
