/* A super-resolution network at work: pictures one after the other, in pieces, as the only stage of a job or
 * the one behind a pipeline's (stage.h).
 * Thread: engine, except upscale_task_new and the freeing of a task that was never queued. */
#ifndef ENGINE_UPSCALE_H
#define ENGINE_UPSCALE_H
#include "engine/cache.h"
#include "engine/models/upscaler.h"
#include "engine/stage.h"
#include "engine/task.h"

struct upscale {
    struct upscaler *m;
    struct cache *cache;
    struct upscale_task *tasks; /* running, in order of admission */
    size_t hold_bytes;          /* for the pass */
    struct {
        struct upscale_task *task; /* NULL: nothing is under way */
        int index;
        struct upscaler_pass *pass;
        struct event *event; /* of a last stage: its pixels are the result */
    } run;
    int64_t n_images; /* so far */
};

struct upscale_task {
    struct stage stage; /* first */
    struct task *task;
    struct upscale_task *next; /* in the runner */
    int n, width, height;      /* pictures, and their size before */
    int scale;
    uint64_t seed;     /* of the first picture, for its event */
    size_t own_bytes;  /* of `memory` */
    size_t pass_bytes; /* when placed */
    uint8_t *memory;
    const uint8_t *in[JOB_IMAGES_MAX]; /* [height, width, 3] */
    uint8_t *out; /* [height * scale, width * scale, 3] for the stage after this one; or NULL */
    bool given[JOB_IMAGES_MAX], done[JOB_IMAGES_MAX];
    bool looked[JOB_IMAGES_MAX]; /* a safety checker has said: */
    struct safety_result said[JOB_IMAGES_MAX];
    int n_done;
    struct err refused;
};

/* A stage of t for n pictures of this size.  rgb: of the only picture of a first stage, else NULL. */
int upscale_task_new(struct upscale_task **out, struct task *t, const struct upscaler_info *info,
                     const struct upscale_task *like, const uint8_t *rgb, struct err *e);
/* u runs it. */
void upscale_stage(struct upscale *u, struct upscale_task *it);

bool upscale_has_work(const struct upscale *u);
/* Until then, one op at least.  *ended: a task all of whose pictures are out, or that failed (`refused`). */
int upscale_run(struct upscale *u, int64_t until_us, struct upscale_task **ended, struct err *e);
#endif
