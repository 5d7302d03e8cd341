/* Fields of the images routes that say what is done to pictures after they were made: refiner, hires, upscale.
 * Thread: loop, or one worker during api_begin. */
#ifndef API_IMAGE_PASSES_H
#define API_IMAGE_PASSES_H
#include "api/call.h"

/* Reads them into the job's spec, whose width and height are set; size, of the first pictures, becomes that of
 * the answer's. */
int image_passes_parse(struct api_call *c, const struct cJSON *body, const struct image_card *card,
                       int size[2], struct err *e);
/* Those that are used, for a picture's parameters: ", Hires upscale: 2" ... */
void image_passes_put(const struct image_spec *s, struct buf *out);
/* The model of that name that makes pictures larger; NULL or "": the first network, or else the first one that
 * takes a prompt.  NULL with *e filled. */
const struct api_model *image_passes_upscaler(const struct api *a, const char *id,
                                              const char *param, struct err *e);
#endif
