/* Enlarging what a picture is made of before it is made again: latents, as torch.nn.functional.interpolate does
 * it, and pixels by a filter, as a unit that stops and goes on.
 * Thread: engine. */
#ifndef ENGINE_ENLARGE_H
#define ENGINE_ENLARGE_H
#include "engine/job.h"
#include "engine/models/image_model.h"
#include "engine/noise.h"
#include "engine/stage.h"

/* out [to->h, to->w, to->c] from the gift's latent [h, w, c]: nearest, bilinear (align_corners false) or bicubic
 * (the same, a = -0.75), and bilinear for what is none of these. */
void enlarge_latent(float *out, const struct stage_gift *g, const struct noise_shape *to,
                    enum image_enlarge how);

/* Pixels to another size (Lanczos, as PIL does it), in pieces. */
struct enlarge_unit {
    struct image_unit unit;
    const uint8_t *in; /* of the caller, set before a run */
    uint8_t *out;
};
/* from, to: width and height. */
int enlarge_open(struct enlarge_unit **out, const int from[2], const int to[2], struct err *e);
size_t enlarge_bytes(const int from[2], const int to[2]);
#endif
