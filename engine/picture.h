/* Pictures in the making: an image job's part of a task, and the state of each of its pictures from noise to
 * pixels, without the network's passes (pipeline.h).
 * Thread: engine, except picture_task_new and picture_task_free of one that was never queued.
 *
 * A picture's numbers are computed on its own: by its seed, its request and the network's answers for its own
 * rows.  So it is the same alone, in a batch and after a restart. */
#ifndef ENGINE_PICTURE_H
#define ENGINE_PICTURE_H
#include "base/image.h"
#include "engine/models/tiles.h"
#include "engine/prompts.h"
#include "engine/steer.h"
#include "engine/step_cache.h"
#include "engine/task.h"

struct picture {
    struct image_task *task;
    struct picture *next; /* in the pipeline's order of turns */
    double charged;       /* engine/turns.h */
    int index;
    bool begun;     /* noise was drawn */
    int call;       /* of noise_n_calls, the next one */
    int rows_out;   /* of this call, in order: of each window the prompt's, the negative one's */
    int n_partials; /* previews given out */
    bool preview_due;
    struct rng_torch rng;
    struct noise_state state;
    float *latent;      /* [h, w, c] */
    float *out[2];      /* the network's answers: to the prompt, to the negative one */
    float *clean;       /* what the latent will become, for previews; or NULL */
    float *image;       /* latent of init, or NULL */
    float *noise;       /* the first noise, for inpainting; or NULL */
    float *masked;      /* latent of init without what the mask covers, for a UNet that sees it */
    float *small;       /* [h, w, 3] what it enlarges, from its beginning on with noise; or NULL */
    struct event *held; /* the picture itself, until the safety checker has looked at it, or NULL */
    struct steer steer;
    struct step_cache cache;
    /* Of a later stage: */
    bool given;      /* the stage before is done with it */
    bool resized;    /* init is there */
    bool encoded;    /* moments are there */
    uint8_t *pixels; /* [given_h, given_w, 3] from the stage before, or NULL */
    uint8_t *init;   /* [height, width, 3] of them */
    float *moments;  /* [h, w, 2 c] of init */
    bool looked;     /* a checker of a stage before has said: */
    struct safety_result said;
};

/* What its latent begins as; with denoising_start no noise comes to it. */
enum picture_from {
    FROM_NOISE,
    FROM_INIT,   /* an encoded picture, and noise as strength says */
    FROM_LATENT, /* the latent of the stage before, enlarged, and noise as strength says */
};

/* What a task of kind JOB_IMAGE has. */
struct image_task {
    struct stage stage; /* first */
    struct task *task;
    struct image_task *next; /* in the pipeline */
    enum picture_from from;
    int given_h, given_w;       /* FROM_INIT of a later stage: size of the pixels that it gets */
    enum image_enlarge enlarge; /* of a latent that it gets */
    struct arena arena;         /* prompts */
    const struct diffusion *d;
    struct image_spec spec;             /* resolved; pointers are the job's */
    bool guided;                        /* two rows a call */
    struct image_adapters adapters;     /* when admitted */
    struct diffusion_prompt prompts[2]; /* the prompt, the negative one */
    struct prompts_entry *entries[2];   /* when admitted */
    struct noise *noise;
    struct noise_shape shape; /* of a picture that is enlarged, rounded up to what the UNet takes */
    float small_parts[2];     /* of the small picture, and of its noise */
    struct tiles_axis win_y, win_x; /* windows that the UNet sees, one by one */
    size_t memory_bytes;            /* of `memory`, known before it is taken */
    size_t state_bytes;             /* with the pixels of all events that it may give out */
    size_t unit_bytes; /* the largest pass that it asked the pipeline to make room for */
    int max_rows;      /* of a UNet's pass that this is enough for */
    float *memory;
    float *moments[2]; /* [h, w, 2 c] of init, and of init without what the mask covers */
    bool encoded[2];   /* they are there */
    float *mask;       /* [h, w] 0 or 1, or NULL */
    struct steer_task steer;
    struct picture pictures[JOB_IMAGES_MAX];
    int n_done;
    bool checked;       /* it can run at all */
    struct err refused; /* code != 0: it can never run, says why */
};

/* Checks and prepares all that does not need the engine: a first stage of t, and task->image is set. */
int picture_task_new(struct task *t, const struct diffusion *d, struct err *e);
void picture_task_free(struct task *t); /* with all stages */
/* Another stage of t with a spec of its own, whose pictures begin from what the stage before gives; given: width
 * and height of pixels that come, NULL: latents. */
int picture_stage_new(struct task *t, const struct diffusion *d, const struct image_spec *spec,
                      const int given[2], struct err *e);
void picture_stage_free(struct stage *s);
/* stage_ops.give, but for the turn that it gets. */
void picture_give(struct picture *p, const struct stage_gift *g);
/* Takes the memory that memory_bytes says.  false: there is none. */
bool picture_task_alloc(struct image_task *it);
/* Which encoder passes the task itself needs: 0 ... 2 moments. */
int picture_n_moments(const struct image_task *it);
/* The input of encoder pass `which`: [height, width, 3], -1 ... 1. */
void picture_encoder_input(const struct image_task *it, int which, float *rgb);
/* The same of a picture of a later stage. */
void picture_own_input(const struct picture *p, float *rgb);

/* picture_small.c, for a model that enlarges: what the task needs; the picture before, [h, w, 3], becomes small
 * (it ends at the shape's size, its last row and column repeated); and its noise. */
int picture_small_check(struct image_task *it, struct err *e);
void picture_small_give(struct picture *p, const struct stage_gift *g);
void picture_small_begin(struct picture *p);

/* Draws its noise; when the task's moments are there. */
void picture_begin(struct picture *p);
bool picture_is_denoised(const struct picture *p);
/* Rows of a call of the UNet for one picture: windows times sides. */
int picture_n_rows(const struct image_task *it);
int picture_n_windows(const struct image_task *it);
int picture_n_sides(const struct image_task *it); /* the prompt; and the negative one */
int picture_window(const struct picture *p);      /* of the row that comes next */
/* Whose side a row is: 0, the prompt's; 1, the negative prompt's. */
int picture_row_side(const struct image_task *it, int row);
/* SDXL's sizes as a row of that side is told them: ids [IMAGE_TIME_IDS]. */
void picture_time_ids(const struct image_task *it, int side, float *ids);
/* The UNet's input for row `row` of this call, [win_y.tile, win_x.tile, in_channels]. */
void picture_unet_input(const struct picture *p, int row, float *x);
/* The same of a ControlNet, of the window that comes next: [win_y.tile, win_x.tile, latent_channels]. */
void picture_control_input(const struct picture *p, float *x);
/* Its answer, [win_y.tile, win_x.tile, c]; rows come in order. */
void picture_unet_output(struct picture *p, const float *out);
/* All answers of this call are in out: one step on.  Events are told. */
void picture_step(struct picture *p);

/* Whether a decoder's picture is one: damaged weights make none. */
bool picture_is_finite(const struct picture *p, const float *rgb);
/* EV_IMAGE from a decoder's picture [height, width, 3]; partial: a preview.  false: no memory. */
bool picture_emit(struct picture *p, const float *rgb, bool partial);
/* The picture itself, into held; picture_release gives it out with what the checker said, changed as the
 * request's safety_action wants it. */
bool picture_hold(struct picture *p, const float *rgb);
void picture_release(struct picture *p, const struct safety_result *said);
/* A decoder's pixels as bytes. */
void picture_bytes(uint8_t *to, const float *rgb, size_t n);
/* A preview straight from the latent. */
bool picture_emit_rough(struct picture *p);
#endif
