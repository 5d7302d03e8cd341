/* What vision transformers begin with (Dosovitskiy et al. 2021): the numbers that a picture's bytes become, and
 * its patches as tokens behind one for the class.  BLIP's tower and CLIP's share it.
 * Thread: engine. */
#ifndef ENGINE_MODELS_VIT_H
#define ENGINE_MODELS_VIT_H
#include "base/image.h"
#include "engine/models/nn.h"

/* A byte p becomes (p * scale - mean) / std. */
struct vit_pixels {
    enum image_filter filter; /* that resizes pictures */
    float scale, mean[3], std[3];
};
/* As CLIP has it, where nothing else is said. */
extern const struct vit_pixels vit_pixels_default;
/* From a preprocessor_config.json of transformers; sizes are the model's own business. */
int vit_pixels_read(struct vit_pixels *p, const struct cJSON *config, struct err *e);
/* rgb [n, 3] to [n, 3]. */
void vit_pixels_fill(const struct vit_pixels *p, const uint8_t *rgb, size_t n, float *to);

struct vit_patches {
    int size, patch, dim;
    int n_tokens;           /* patches + 1 */
    struct tensor class;    /* [1, dim] */
    struct tensor position; /* [n_tokens, dim] */
    struct nn_conv conv;    /* with or without a bias */
};
/* Checks size, patch and dim (at most VIT_MAX_SIDE patches a side) and fills in the rest. */
enum { VIT_MAX_SIDE = 256 };
int vit_patches_init(struct vit_patches *v, struct err *e);
/* pixels [1, size, size, 3] -> [n_tokens, dim]: row 0 is the class token, the others are patches from the
 * top left; positions are added. */
struct tensor vit_patches_record(const struct vit_patches *v, struct program *p,
                                 const struct tensor *pixels);
#endif
