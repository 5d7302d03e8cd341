/* One image model at work: its running jobs, and the passes of its network in pieces.
 * Thread: engine.
 *
 * A pass is what the network computes in one go: a chunk of a prompt through the text encoders, keys and values
 * of a prompt, a picture through the VAE's encoder or decoder or before the safety checker, or one call of
 * the UNet for pictures of one size (rows: one a picture, two with guidance).  pipeline_run goes on with the pass
 * that was begun, for as long as it is told, or begins the next: pictures take turns (turns.h), and a UNet's pass takes
 * along those of the same size that are as far, so pictures join and leave between steps, each with
 * its own call, scheduler, guidance and prompt.
 *
 * Memory.  Admission is exact (cache.h): a job is placed when the budget has room for its pictures'
 * state, its prompts' keys and values, and the largest single pass that it may need (hold_bytes is the
 * largest of all jobs: one pass runs at a time).  Passes that were opened stay open, kept in what room is
 * left, so that a step need not be recorded anew.  A job that could have more rows in a pass than there is
 * memory for gets fewer; one that could never run is refused with the numbers. */
#ifndef ENGINE_PIPELINE_H
#define ENGINE_PIPELINE_H
#include "engine/picture.h"

enum {
    PIPELINE_PASSES_MAX = 16,
    PIPELINE_SIZES_MAX = 64,
    PIPELINE_ROWS_MAX = 32,
    PIPELINE_CONTROLS_MAX = 64
};

/* What a pass computes, and what its key's a, b and c are; h, w: of the latent. */
enum pass_kind {
    PASS_TEXT,    /* text encoders: clip_skip */
    PASS_KV,      /* keys and values: tokens of the prompt */
    PASS_UNET,    /* pass_unet_rows or pass_unet_pairs, h, w of a window */
    PASS_STEERED, /* the UNet with residuals (steer.h): the same */
    PASS_CONTROL, /* a ControlNet's part in a call of it: see pipeline_steer.c */
    PASS_HINT,    /* a control looks at its picture: see pipeline_steer.c */
    PASS_ENCODE,  /* h, w */
    PASS_DECODE,  /* h, w */
    PASS_PREVIEW, /* h, w */
    PASS_SAFETY,
    PASS_RESIZE /* height << 16 | width in pixels, before and after */
};
struct pass_key {
    enum pass_kind kind;
    int a, b, c;
};

/* An open pass. */
struct pass {
    struct cache_item item; /* first */
    struct pass_key key;
    struct image_unit *unit; /* NULL: this place is free */
    uint64_t last_use;
};

struct pipeline_options {
    int max_rows;     /* of a UNet's pass */
    int max_pictures; /* running at once, besides those of a single job */
};

struct pipeline {
    const struct diffusion *d;
    struct cache *cache;
    struct pipeline_options o;
    struct prompts prompts;
    struct image_task *tasks; /* running, in order of admission */
    struct picture *head;     /* pictures of running tasks, in order of turns */
    int n_pictures;           /* of running tasks */
    size_t hold_bytes;        /* for the current pass */
    struct pass passes[PIPELINE_PASSES_MAX];
    uint64_t n_uses;
    struct pass *current; /* counted in hold_bytes; the others are kept */
    struct {
        struct pass_key key;
        size_t bytes;
    } sizes[PIPELINE_SIZES_MAX]; /* bytes of passes that were asked for */
    int n_sizes;
    /* What the current pass is computing. */
    struct {
        bool active;
        int64_t us;                  /* that it took so far */
        struct prompts_entry *entry; /* PASS_TEXT, PASS_KV: one user of it */
        struct image_task *task;     /* PASS_ENCODE, of moments `which`; PASS_HINT, of control */
        int which;                   /* or -1: of the picture in rows[0]; PASS_RESIZE as well */
        unsigned parts;              /* PASS_UNET, PASS_STEERED: of the UNet (IMAGE_HEAD ...) */
        int n_rows;                  /* PASS_UNET; PASS_DECODE, PASS_PREVIEW, PASS_SAFETY: 1 */
        struct {
            struct picture *picture; /* NULL: it was cancelled */
            int row;                 /* of its call; PASS_CONTROL: of its side */
            int control;             /* PASS_CONTROL: whose share it is */
        } rows[PIPELINE_ROWS_MAX];
    } run;
    double us_per_work;                              /* of calls so far (turns.h); 0: none */
    struct control *controls[PIPELINE_CONTROLS_MAX]; /* that passes were opened for */
    int n_controls;
    int64_t n_steps, n_images, n_flagged; /* so far: calls of the UNet for a picture, pictures */
};

void pipeline_init(struct pipeline *p, const struct diffusion *d, struct cache *c,
                   const struct pipeline_options *o);
void pipeline_fini(struct pipeline *p); /* all tasks have left */

/* Bytes that a job needs at least, and how they come together: for messages and for the default
 * budget.  0 with *e set when it cannot be computed at all. */
size_t pipeline_need(struct pipeline *p, const struct image_task *it, struct err *e);
/* Its state and prompts, and its largest pass with one row; shared: its prompts are somebody's already. */
int pipeline_need_parts(struct pipeline *p, const struct image_task *it, bool shared,
                        struct stage_need *need, struct err *e);

/* Takes the task in: 1.  0: its memory does not fit now.  -1: enough pictures are being made.  1 also
 * for one that can never fit or fails: then it->refused says why, and it has no memory. */
int pipeline_place(struct pipeline *p, struct image_task *it);
/* Out, wherever it stands; its memory is given back at once. */
void pipeline_leave(struct pipeline *p, struct image_task *it);
bool pipeline_has_work(const struct pipeline *p);

/* pipeline_stage.c: a task as a stage of its job, run by p. */
void pipeline_stage(struct pipeline *p, struct image_task *it);
/* The picture gets its turns. */
void pipeline_join(struct pipeline *p, struct picture *pic);

/* Computes until the time has come, at least one op.  The one error is the device's.  *ended: a task all of
 * whose pictures are out, or one that failed (its `refused` says how); it has not left yet.  Else
 * NULL. */
int pipeline_run(struct pipeline *p, int64_t until_us, struct image_task **ended, struct err *e);
#endif
