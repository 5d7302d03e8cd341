/* Low-rank additions to the weights of a model (LoRA; Hu et al. 2021), without touching the weights:
 *
 *     y = x w^T + sum over the adapters of the row's image: scale * (x down^T) up^T
 *
 * A pass that is to take adapters is recorded after nn_lora_begin: nn_emit_linear and nn_emit_conv then add an op
 * behind each product, with room for the terms of every image.  Before a run nn_lora_set says which adapters
 * an image has; one without any has the bits of a pass without sites.
 * Thread: engine. */
#ifndef ENGINE_MODELS_NN_LORA_H
#define ENGINE_MODELS_NN_LORA_H
#include "engine/models/nn.h"

enum { NN_LORA_MAX = 8 }; /* adapters of one image */

/* What an adapter adds to one weight. */
struct nn_delta {
    const struct weight *w;
    struct weight *down, *up;
    float scale; /* alpha / rank */
};
struct nn_lora {
    struct nn_delta *deltas; /* [n], by the address of w once nn_lora_sort was called */
    int n;
};
void nn_lora_sort(struct nn_lora *l);

/* An adapter as a request wants it. */
struct nn_lora_use {
    const struct nn_lora *lora;
    float scale;
};

struct nn_site;
struct nn_lora_sites {
    struct nn_site *first; /* memory of the program */
    int n_images, n_now;
};
/* At the start of recording: the pass has n_images, and rows of each op are as many for every one.  s must
 * live until the second recording is over. */
void nn_lora_begin(struct nn_lora_sites *s, struct program *p, int n_images);
/* From here on the ops have rows of the first n images only; nothing where the program takes no adapters. */
void nn_lora_images(struct program *p, int n);
/* Before a run: uses [n], n <= NN_LORA_MAX. */
void nn_lora_set(const struct nn_lora_sites *s, int image, const struct nn_lora_use *uses, int n);

/* ---- for nn.c: after the product with w, nothing where the program takes no adapters ---- */

struct nn_lora_rows {
    int64_t first, total; /* where op's rows stand among those of all images */
};
void nn_lora_linear(struct program *p, const struct weight *w, const struct tensor *x,
                    const struct tensor *out, struct nn_lora_rows rows);
void nn_lora_conv(struct program *p, const struct op_conv2d *op);
#endif
