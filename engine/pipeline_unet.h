/* Calls of the UNet in a pipeline: those of several pictures together.
 * Included only by pipeline*.c.  Thread: engine. */
#ifndef ENGINE_PIPELINE_UNET_H
#define ENGINE_PIPELINE_UNET_H
#include "engine/pipeline.h"

/* Can rows of the two be in one pass? */
bool pipeline_unet_same(const struct image_task *a, const struct image_task *b);
/* The picture's rows and, while there is room, those of others of its size behind it. */
int pipeline_unet_begin(struct pipeline *p, struct picture *first, struct err *e);
/* Into keys [PIPELINE_UNET_KEYS]: the passes that a call with so many rows may need.  Returns how many. */
enum { PIPELINE_UNET_KEYS = 6 };
int pipeline_unet_keys(const struct image_task *it, int rows, struct pass_key *keys);
/* The pass is done: pictures all of whose rows are out go a step on. */
void pipeline_unet_end(struct pipeline *p);

/* pipeline_stage.c: are its pictures decoded, or wanted as they are? */
bool pipeline_stage_decodes(const struct image_task *it);
/* The picture to the stage after this one; pixels NULL: its latent. */
void pipeline_stage_give(struct pipeline *p, struct picture *pic, const float *pixels);
#endif
