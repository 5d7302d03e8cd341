/* Embedding jobs of one model: texts of many requests go through the network together, some of each
 * request at a time, so that a list of thousands does not keep a single text waiting.
 * Thread: engine. */
#ifndef ENGINE_EMBED_H
#define ENGINE_EMBED_H
#include <stdbool.h>

#include "engine/models/bert.h"
#include "engine/task.h"

#define EMBED_MAX_TASKS 64  /* taken in at a time; more wait in the queue */
#define EMBED_MAX_TEXTS 256 /* of a batch */

/* What a task of kind JOB_EMBED has. */
struct embed_task {
    struct task *task;
    struct embed_task *next; /* in the order of turns */
    int n_sent, n_done;      /* texts that are in a batch or through; vectors given out */
    bool broken;             /* a vector was not of finite numbers */
};

struct embed {
    struct bert *bert; /* NULL: not open */
    struct embed_task *tasks;
    int n_tasks;
    int32_t *ids;            /* [bert_max_rows] of a batch */
    float *vectors;          /* [EMBED_MAX_TEXTS, dim] */
    int64_t n_texts, n_rows; /* done so far */
};

/* bert is kept.  ERR_NOMEM. */
int embed_init(struct embed *m, struct bert *bert, struct err *e);
void embed_fini(struct embed *m);

/* 1: taken in, -1: it waits for others. */
int embed_place(struct embed *m, struct embed_task *t);
void embed_leave(struct embed *m, struct embed_task *t); /* nothing when it was not taken in */
bool embed_has_work(const struct embed *m);
/* One batch; vectors are told as EV_VECTOR.  0 or ERR_DEVICE. */
int embed_run(struct embed *m, struct err *e);
/* A task whose vectors are all out, or NULL. */
struct embed_task *embed_ended(const struct embed *m);
#endif
