/* The stages of an image job: pictures are made, refined, enlarged, made again at a larger size ... one stage
 * after the other, each by its own model's pipeline (pipeline.h) or upscaler (upscale.h), which gives each
 * picture on to the next stage as soon as it is done.
 * Thread: engine.
 *
 * A job is admitted with all of its stages or not at all: what they need together is held at once, so that
 * a job that has begun never waits for memory. */
#ifndef ENGINE_STAGE_H
#define ENGINE_STAGE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct safety_result; /* engine/job.h */
struct task;          /* engine/task.h */
struct cache;         /* engine/cache.h */
struct stage;

/* Memory that a stage needs at least.  Of the passes of one owner only the largest is held. */
struct stage_need {
    size_t own, pass; /* bytes of its own, of its largest pass */
};

/* A picture on its way to the next stage: a latent, or pixels. */
struct stage_gift {
    const float *latent;                /* [h, w, c] or NULL */
    const float *pixels;                /* [h, w, 3], -1 ... 1, or NULL */
    const uint8_t *rgb;                 /* [h, w, 3] or NULL */
    const struct safety_result *safety; /* what a checker said of the pixels, or NULL */
    int h, w;
};

struct stage_ops {
    /* beside: an earlier stage of the job with the same owner, or NULL.  ERR_... when it can never run. */
    int (*need)(struct stage *s, const struct stage *beside, struct stage_need *need,
                struct err *e);
    /* Holds its memory: 1.  0: it does not fit now.  -1: its owner has enough to do. */
    int (*place)(struct stage *s, struct err *e);
    void (*leave)(struct stage *s); /* placed: all is given back */
    void (*give)(struct stage *s, int index, const struct stage_gift *g);
    void (*free)(struct stage *s);
};

/* First member of struct image_task and struct upscale_task. */
struct stage {
    const struct stage_ops *ops;
    struct task *task;
    struct stage *next; /* NULL: what it makes is the answer */
    void *owner;        /* the pipeline or upscaler that runs it */
    int model;          /* of the engine's list */
    bool later;         /* its pictures come from the stage before */
    bool wants_latent;  /* and as latents */
    bool makes;         /* pictures anew: those before are seen by nobody */
    bool placed;
    const bool *closed;     /* its model is not loaded, or must go; or NULL */
    int step_base, n_steps; /* steps of the stages before; of the whole job */
};

/* The job's stages, t->stages ...: held together.  1: placed, or t->refused says why never; 0, -1 as above. */
int stage_place(struct task *t, struct cache *c);
void stage_leave(struct task *t); /* all of them, wherever they stand */
void stage_free(struct task *t);
/* Appends. */
void stage_add(struct task *t, struct stage *s);
/* Counts the steps of all, when every stage knows its own: step_base becomes what comes before. */
void stage_number(struct task *t);
#endif
