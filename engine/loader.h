/* Loads a model on a thread of its own while the engine thread goes on with others.
 * Thread: engine, unless said otherwise.
 *
 * The device belongs to one thread at a time.  Between two units of its own the engine thread lends it to the
 * loader until a time; when that is over the loader gives it back in the middle of whatever weight it is at
 * (struct backend's pause), and before, when it has no use for it.  Reading files, converting and
 * checking need no device and wait for nobody; the thread has a low priority (nice), so it gets what the
 * workers leave.  A device that can copy a weight beside the engine's steps (struct backend's weight_fill)
 * is lent only while memory for the weight is taken. */
#ifndef ENGINE_LOADER_H
#define ENGINE_LOADER_H
#include <pthread.h>

#include "engine/model.h"
#include "kernels/team.h"

/* Between a backend and its users; a backend's owner. */
struct loader_seat {
    struct loader *loader;
    struct backend *be;
    struct backend real; /* its functions as they were */
};

struct loader {
    struct backend *be;
    struct loader_seat seats[TEAM_MAX]; /* of be, then of the others of its team */
    int n_seats;
    /* Under the engine's mutex. */
    pthread_mutex_t *mutex;
    pthread_cond_t *wake; /* the engine thread sleeps on it */
    pthread_cond_t turn;  /* something of these changed */
    bool wants;           /* the loader waits for the device */
    bool lent, inside;    /* it may use the device; it does */
    bool ended;
    bool alone;                /* the engine thread does nothing but wait for the end */
    int64_t until_us, left_us; /* lent until; not inside since */
    /* The engine thread's. */
    bool running;
    pthread_t thread;
    /* What is loaded, and what came of it: the loader's until it has ended. */
    const char *id, *path;
    struct model_options o;
    struct model *model;
    int rc;
    struct err err;
};

/* Puts itself between the backend (its team) and its users.  mutex, wake: what the engine thread sleeps with. */
void loader_init(struct loader *l, struct backend *be, pthread_mutex_t *mutex,
                 pthread_cond_t *wake);
void loader_fini(struct loader *l); /* the backend is as it was; an unfinished load is given up */
/* Begins.  id and path must live until the end. */
int loader_start(struct loader *l, const char *id, const char *path, const struct model_options *o,
                 struct err *e);
/* Under the mutex: is there reason to call one of the next two? */
bool loader_calls(const struct loader *l);
/* Lends the device until then, if it is wanted: true. */
bool loader_turn(struct loader *l, int64_t until_us);
/* The load is over: true, and l->rc, l->model or l->err say how. */
bool loader_join(struct loader *l);
#endif
