/* What ControlNets and T2I-Adapters (models/control.h) do to the pictures of a task: what each of them made of its
 * picture, which of them work in a call of the UNet, and the sum of what they give.
 * Thread: engine, except steer_check and the functions that only count.
 *
 * A picture that is made in windows is steered window by window: each control looks at what its picture has there,
 * as if that were all, and the windows of a call of the UNet come one after the other.
 *
 * A picture has a block of residuals for each side of a call (prompt, negative prompt) that is steered.
 * Adapters' features are put in when a call begins (steer_begin), and stay for the next one if nothing else was
 * added; each ControlNet's share is one row of a pass of its own (pipeline_steer.c) and is added there.
 * The order of the sum is that of the request, adapters first. */
#ifndef ENGINE_STEER_H
#define ENGINE_STEER_H
#include "engine/job.h"

struct image_task;
struct picture;

/* Of each control i: */
struct steer_task {
    float *hints[JOB_CONTROLS_MAX]; /* what it made of each window: steer_hint_floats */
    int n_looked[JOB_CONTROLS_MAX]; /* windows whose are there */
    /* Its picture in the size of the result, and behind it what is hidden; NULL: its own has that size. */
    uint8_t *seen[JOB_CONTROLS_MAX];
    bool fitted[JOB_CONTROLS_MAX]; /* it is there */
};

/* A picture's: of each side of a call, of its window that comes next. */
struct steer {
    float *residuals[2]; /* image_residual_floats, or NULL: this side is never steered */
    bool begun[2];       /* residuals are of this call */
    unsigned shares[2];  /* bit i: the share of ControlNet i is in */
    /* The residuals are of these adapters alone and may serve the next call; 0: no. */
    unsigned clean[2];
};

/* The task's controls against its model and size.  ERR_INVALID with param "control". */
int steer_check(const struct image_task *it, struct err *e);
size_t steer_hint_floats(const struct image_task *it, int control); /* of a window */
const float *steer_hint(const struct picture *p, int control);      /* of the one that comes next */
/* Bytes of `seen`, 0: none. */
size_t steer_seen_bytes(const struct image_task *it, int control);
size_t steer_residual_floats(const struct image_task *it);
bool steer_has(const struct image_task *it, int side); /* may a control work on this side? */

/* A call of the UNet with what its ControlNets do, as a multiple of one without. */
double steer_cost(const struct image_task *it);

/* Does control i work on this side in the picture's next call? */
bool steer_works(const struct picture *p, int control, int side);
/* The first ControlNet whose share is not in the side's residuals yet; -1: none. */
int steer_missing(const struct picture *p, int side);
/* Before the first share of a call.  true: no adapter works, and whoever adds first fills the block. */
bool steer_begin(struct picture *p, int side);
/* The features of the side's adapters in this call for the UNet's head, or NULL where none works. */
const float *steer_features(struct picture *p, int side);
/* A share is going to be added. */
void steer_add(struct picture *p, int side);
/* The call is over, or that of a window. */
void steer_end(struct picture *p);
/* The side's residuals of this call, or NULL where nothing works. */
const float *steer_residuals(const struct picture *p, int side);
#endif
