/* What steers a UNet by a picture: a ControlNet (Zhang et al. 2023; diffusers' ControlNetModel) or a T2I-Adapter
 * (Mou et al. 2023; diffusers' T2IAdapter).  Both give residuals that are added to the UNet's feature maps
 * (models/unet.h has the places).
 * Thread: engine; control_info never changes after control_open and may be read by any.
 *
 * Units are those of image_model.h: opened for a shape, run in pieces, any number of times.  What they
 * compute for a row depends bit for bit on that row alone. */
#ifndef ENGINE_MODELS_CONTROL_H
#define ENGINE_MODELS_CONTROL_H
#include "engine/models/image_model.h"

struct control;
struct control_info {
    bool adapter; /* a T2I-Adapter: its residuals are the same in all steps of a picture */
    bool pooled;  /* a ControlNet that gives one value a channel: for the prompt's row alone */
    int scale;    /* a ControlNet's: pixels of a latent's side */
    const char *family; /* "sd15", "sd21", "sdxl", or "sd" for what is like none of them */
    int64_t n_params;
    enum dtype type; /* of most weights' bytes */
    size_t weight_bytes;
};

/* The checkpoint, of which it is the part CHECKPOINT_CONTROL, may be closed afterwards.  progress: per
 * mille, or NULL. */
int control_open(struct control **out, struct checkpoint *c, struct backend *be,
                 atomic_int *progress, struct err *e);
void control_close(struct control *c); /* after its units; NULL is nothing */
const struct control_info *control_info(const struct control *c);
/* Does it belong to this model?  ERR_INVALID says what does not fit. */
int control_fits(const struct control *c, const struct image_model *m, struct err *e);

/* What it makes of a picture, once for all steps: a ControlNet's embedding, an adapter's features. */
struct control_hint {
    struct image_unit unit;
    int height, width; /* pixels */
    float *hint;       /* out: control_hint_floats of the caller, set before image_run */
};
/* The picture of the next run: rgb [height, width, 3]; hidden [height, width], not 0 where the network gets
 * -1 instead, or NULL. */
void control_hint_look(struct control_hint *u, const uint8_t *rgb, const uint8_t *hidden);
int control_hint_open(struct control_hint **out, struct control *c, int height, int width,
                      struct err *e);
size_t control_hint_bytes(struct control *c, int height, int width, struct err *e);
size_t control_hint_floats(const struct control *c, int height, int width);
int control_multiple(const struct control *c); /* of which a picture's sides must be */

/* A ControlNet's row: as a UNet's, and what it looks at. */
struct control_row {
    const float *context; /* [n_tokens, context_dim] of the prompt */
    float timestep;
    const float *pooled; /* [pooled_dim], or NULL where there is none */
    float time_ids[IMAGE_TIME_IDS];
    const float *hint; /* of control_hint */
    float scale;
    bool guess;       /* less from the upper levels (guess mode) */
    float *residuals; /* block of n_residuals floats: the result is added to it; NULL: to none */
    size_t n_residuals;
    bool fresh; /* nothing is in the block yet */
};

/* One forward pass of n rows at one latent size.  rows and x are read in the first piece of a run,
 * `residuals` in the last ones. */
struct control_net {
    struct image_unit unit;
    struct control_size {
        int n, h, w, n_tokens;
        int n_skips; /* residuals of the first so many skips are made (a UNet without its deep part); 0: all */
    } size;
    struct control_row *rows; /* [n] in */
    float *x;                 /* [n, h, w, latent channels] in, scaled as the scheduler wants */
};
int control_net_open(struct control_net **out, struct control *c, struct control_size size,
                     struct err *e);
size_t control_net_bytes(struct control *c, struct control_size size, struct err *e);

/* An adapter's features (control_hint's result) of a picture of height, width: times scale, they are added
 * to a block of the model's residuals. */
struct control_features {
    const float *hint;
    int height, width;
    float scale;
};
void control_add_features(const struct control *c, const struct image_model *m,
                          const struct control_features *f, float *residuals);
#endif
