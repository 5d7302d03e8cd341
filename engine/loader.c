/* The loading thread, and the turns it gets at the device; loader.h has the rules. */
#include "engine/loader.h"

#include <errno.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "kernels/quant.h"

enum { NICENESS = 10, GRACE_US = 1000 };

/* Set in the loading thread: its calls wait for their turn, everybody else is the device's owner. */
static _Thread_local bool loading;

/* ---- the loader's side ---- */

/* false: the engine is stopping, and the device is free for good. */
static bool take_turn(struct loader *l)
{
    pthread_mutex_lock(l->mutex);
    if (l->lent && clock_us() >= l->until_us) {
        l->lent = false;
        pthread_cond_broadcast(&l->turn);
    }
    l->wants = true;
    pthread_cond_signal(l->wake);
    while (!l->lent && !l->alone)
        pthread_cond_wait(&l->turn, l->mutex);
    l->wants = false;
    l->inside = true;
    bool go_on = !l->alone;
    pthread_mutex_unlock(l->mutex);
    return go_on;
}

/* The device may be wanted again at once: it stays lent for a moment. */
static void leave_turn(struct loader *l)
{
    pthread_mutex_lock(l->mutex);
    l->inside = false;
    l->left_us = clock_us();
    if (l->left_us >= l->until_us)
        l->lent = false;
    pthread_cond_broadcast(&l->turn);
    pthread_mutex_unlock(l->mutex);
}

static struct loader_seat *seat_of(struct backend *be)
{
    return be->owner;
}

static void loader_pause(struct backend *be)
{
    struct loader *l = seat_of(be)->loader;
    if (!loading || clock_us() < l->until_us)
        return;
    leave_turn(l);
    (void)take_turn(l);
}

/* Reads it, so that the device need not wait for a disk. */
static void read_ahead(const void *raw, size_t bytes)
{
    const volatile char *p = raw;
    for (size_t at = 0; at < bytes; at += 4096)
        (void)p[at];
}

/* The device is ours for the memory alone; packing and copying go beside what the engine thread does. */
static int fill_beside(struct backend *be, struct weight **out, const struct weight *like,
                       const void *raw, struct err *e)
{
    struct loader *l = seat_of(be)->loader;
    const struct backend *real = &seat_of(be)->real;
    struct weight *w = NULL;
    int rc = take_turn(l) ? real->weight_place(be, &w, like->type, like->n_out, like->n_in, e)
                          : err_set(e, ERR_CANCELLED, "the engine is stopping");
    leave_turn(l);
    if (rc)
        return rc;
    rc = real->weight_fill(be, w, raw, e);
    if (rc)
        be->weight_close(be, w);
    else
        *out = w;
    return rc;
}

static int loader_weight_open(struct backend *be, struct weight **out, enum dtype type,
                              int64_t n_out, int64_t n_in, const void *raw, struct err *e)
{
    struct loader *l = seat_of(be)->loader;
    const struct backend *real = &seat_of(be)->real;
    if (!loading)
        return real->weight_open(be, out, type, n_out, n_in, raw, e);
    if (real->weight_fill)
        return fill_beside(be, out, &(struct weight){.type = type, .n_out = n_out, .n_in = n_in},
                           raw, e);
    if (n_in % dtype_block(type) == 0)
        read_ahead(raw, (size_t)n_out * dtype_bytes(type, n_in));
    int rc = take_turn(l) ? real->weight_open(be, out, type, n_out, n_in, raw, e)
                          : err_set(e, ERR_CANCELLED, "the engine is stopping");
    leave_turn(l);
    return rc;
}

static const struct backend *enter(struct backend *be)
{
    if (loading)
        (void)take_turn(seat_of(be)->loader);
    return &seat_of(be)->real;
}

static void leave(struct backend *be)
{
    if (loading)
        leave_turn(seat_of(be)->loader);
}

static void loader_weight_close(struct backend *be, struct weight *w)
{
    const struct backend *real = enter(be);
    real->weight_close(be, w);
    leave(be);
}

/* ---- a device with memory of its own: that is the device too ---- */

static void *device_alloc(struct backend *be, size_t bytes, struct err *e)
{
    const struct backend *real = enter(be);
    void *p = real->alloc(be, bytes, e);
    leave(be);
    return p;
}

static void device_free(struct backend *be, void *p)
{
    const struct backend *real = enter(be);
    real->free(be, p);
    leave(be);
}

static void *device_host_alloc(struct backend *be, size_t bytes, struct err *e)
{
    const struct backend *real = enter(be);
    void *p = real->host_alloc(be, bytes, e);
    leave(be);
    return p;
}

static void device_host_free(struct backend *be, void *p)
{
    const struct backend *real = enter(be);
    real->host_free(be, p);
    leave(be);
}

static void device_upload(struct backend *be, void *to, const void *from, size_t bytes)
{
    const struct backend *real = enter(be);
    real->upload(be, to, from, bytes);
    leave(be);
}

static int device_sync(struct backend *be, struct err *e)
{
    const struct backend *real = enter(be);
    int rc = real->sync(be, e);
    leave(be);
    return rc;
}

static void *loader_main(void *arg)
{
    struct loader *l = arg;
    loading = true;
    /* Of this thread alone; where it is not allowed the load only disturbs more. */
    (void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICENESS);
    l->rc = model_open(&l->model, l->id, l->path, l->be, &l->o, &l->err);
    pthread_mutex_lock(l->mutex);
    l->ended = true;
    pthread_cond_signal(l->wake);
    pthread_mutex_unlock(l->mutex);
    return NULL;
}

/* ---- the engine thread's side ---- */

static void take_seat(struct loader *l, struct loader_seat *seat, struct backend *be)
{
    *seat = (struct loader_seat){.loader = l, .be = be, .real = *be};
    be->owner = seat;
    be->pause = loader_pause;
    be->weight_open = loader_weight_open;
    be->weight_close = loader_weight_close;
    if (be->host_memory)
        return;
    be->alloc = device_alloc;
    be->free = device_free;
    be->host_alloc = device_host_alloc;
    be->host_free = device_host_free;
    be->upload = device_upload;
    be->sync = device_sync;
}

void loader_init(struct loader *l, struct backend *be, pthread_mutex_t *mutex, pthread_cond_t *wake)
{
    *l = (struct loader){.be = be, .mutex = mutex, .wake = wake};
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->turn, &attr);
    pthread_condattr_destroy(&attr);
    l->n_seats = be->team ? be->team->n : 1;
    for (int i = 0; i < l->n_seats; i++)
        take_seat(l, &l->seats[i], i == 0 ? be : be->team->members[i]);
}

void loader_fini(struct loader *l)
{
    if (!l->be)
        return;
    if (l->running) {
        pthread_mutex_lock(l->mutex);
        l->alone = true;
        pthread_cond_broadcast(&l->turn);
        pthread_mutex_unlock(l->mutex);
        pthread_join(l->thread, NULL);
        if (l->rc == 0)
            model_close(l->model);
    }
    pthread_cond_destroy(&l->turn);
    for (int i = 0; i < l->n_seats; i++)
        *l->seats[i].be = l->seats[i].real;
    *l = (struct loader){0};
}

int loader_start(struct loader *l, const char *id, const char *path, const struct model_options *o,
                 struct err *e)
{
    l->id = id;
    l->path = path;
    l->o = *o;
    l->model = NULL;
    l->ended = false;
    l->err = (struct err){0};
    errno = pthread_create(&l->thread, NULL, loader_main, l);
    if (errno)
        return err_set(e, ERR_NOMEM, "cannot start a thread to load the model: %m");
    l->running = true;
    return 0;
}

bool loader_calls(const struct loader *l)
{
    return l->running && (l->wants || l->ended);
}

/* Under the mutex, until the device is the engine thread's again. */
static void wait_for_device(struct loader *l)
{
    while (l->lent) {
        if (l->inside || l->wants) {
            pthread_cond_wait(&l->turn, l->mutex);
            continue;
        }
        int64_t at_us = l->left_us + GRACE_US;
        struct timespec at = {.tv_sec = at_us / 1000000, .tv_nsec = at_us % 1000000 * 1000};
        pthread_cond_timedwait(&l->turn, l->mutex, &at);
        if (!l->inside && !l->wants && clock_us() >= at_us)
            l->lent = false;
    }
}

bool loader_turn(struct loader *l, int64_t until_us)
{
    if (!l->running)
        return false;
    pthread_mutex_lock(l->mutex);
    bool wanted = l->wants;
    if (wanted) {
        l->until_us = until_us;
        l->lent = true;
        pthread_cond_broadcast(&l->turn);
        wait_for_device(l);
    }
    pthread_mutex_unlock(l->mutex);
    return wanted;
}

bool loader_join(struct loader *l)
{
    if (!l->running)
        return false;
    pthread_mutex_lock(l->mutex);
    bool ended = l->ended;
    pthread_mutex_unlock(l->mutex);
    if (!ended)
        return false;
    pthread_join(l->thread, NULL);
    l->running = false;
    return true;
}
