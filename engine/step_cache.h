/* What calls of the UNet leave for the next ones of the same picture, so that these compute only a part of it.
 * Thread: engine, except the functions that only check and count.
 *
 * A branch b cuts the UNet (models/unet.h): its head makes skips 0 ... b on the way down, its tail reads them on the
 * way up, and the deep part between them changes little from one step to the next.
 *
 * deepcache (Ma et al. 2023): every interval-th call is whole and leaves what the deep part made; the others
 * compute head and tail over it.
 * first_block: every call computes the head of branch 1, that is conv_in and the first layer.  What the layer
 * changed, r = skip 1 - skip 0, is held against r0 of the last whole call: while |r - r0| <= threshold * |r0|
 * (sums over absolute values) for the prompt's row and the negative one's, the call computes only the tail.
 *
 * Each row of a picture has its own: rows of one batch are whole or not independently of each other, those that
 * compute the same parts go together (pipeline_unet.c), and a picture's bits do not depend on its neighbours. */
#ifndef ENGINE_STEP_CACHE_H
#define ENGINE_STEP_CACHE_H
#include "engine/job.h"

struct image_card;
struct image_model;
struct image_row;
struct image_task;
struct picture;

/* A picture's; rows as in picture_n_rows. */
struct step_cache {
    float *deep;    /* [rows]: what the deep part made last */
    float *head;    /* first_block, [rows]: skips 0 and 1 of this call */
    float *change;  /* first_block, [rows]: r0 */
    uint8_t *reuse; /* first_block, [windows]: this call's rows reuse deep */
    int n_heads;    /* rows whose head of this call is there */
};

/* What the model offers, into its card, by which step_cache_fits (job.h) judges. */
void step_cache_card(const struct image_model *m, struct image_card *to);
/* Against the task's model.  An optional one that does not fit is left off; else ERR_INVALID with param
 * "step_cache". */
int step_cache_check(struct image_task *it, struct err *e);
size_t step_cache_floats(const struct image_task *it); /* of a picture; 0: it has none */
void step_cache_open(struct picture *p, float *memory);
/* A call, as a part of one without a cache: what is known of it before. */
double step_cache_cost(const struct image_task *it);

int step_cache_branch(const struct image_task *it); /* -1: none */
/* What the row computes next (IMAGE_HEAD ...). */
unsigned step_cache_parts(const struct picture *p, int row);
/* The first row that waits to compute these parts. */
int step_cache_at(const struct picture *p, unsigned parts);
/* The row's blocks for a pass. */
void step_cache_fill(const struct picture *p, int row, struct image_row *to);
/* One more row's head is there. */
void step_cache_add_head(struct picture *p);
/* The call is over. */
void step_cache_end(struct picture *p);
#endif
