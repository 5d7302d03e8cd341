/* The fields that are lists of a picture's steps: timesteps and sigmas, as JSON or, in a form, as text with
 * commas.
 * Thread: loop, or one worker during api_begin. */
#ifndef API_IMAGE_LISTS_H
#define API_IMAGE_LISTS_H
#include "api/image_params.h"

/* Into p, whose steps are read already.  What a scheduler makes of them is the engine's to check. */
int image_lists_parse(const struct cJSON *body, struct image_params *p, struct err *e);
/* A copy of them in the job's memory, into its image. */
int image_lists_put(const struct image_params *p, struct job *job, struct err *e);
#endif
