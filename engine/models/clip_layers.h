/* The transformer that both of CLIP's towers are made of: configuration, weights, and the recording of a layer.
 *
 *     x += o(attention(q, k, v of norm1(x)))     causal over text
 *     x += fc2(act(fc1(norm2(x))))
 *
 * Thread: engine. */
#ifndef ENGINE_MODELS_CLIP_LAYERS_H
#define ENGINE_MODELS_CLIP_LAYERS_H
#include "engine/models/nn.h"

enum { CLIP_MAX_LAYERS = 128, CLIP_MAX_WIDTH = 1 << 14 };

struct clip_layer {
    struct nn_norm norm1, norm2;
    struct nn_linear q, k, v, o; /* [dim, dim] */
    struct nn_linear fc1, fc2;   /* [n_ff, dim], [dim, n_ff] */
};

struct clip_layers {
    int n_layers, dim, n_ff, n_heads;
    float eps;
    enum act act;
    bool causal;
    struct clip_layer *layers; /* [n_layers] */
};

/* The numbers that stand in m are what a configuration without them means.  Takes memory for the layers:
 * clip_layers_free, also after an error. */
int clip_layers_read(struct clip_layers *m, const struct cJSON *config, struct err *e);
void clip_layers_free(struct clip_layers *m);
/* "encoder.layers.0.layer_norm1.weight" ... */
void clip_layers_walk(struct nn_loader *l, struct clip_layers *m);
/* Layer i of one sequence x [n_tokens, dim] into y, which is a tensor of its own. */
void clip_layers_record(const struct clip_layers *m, struct program *p, int i,
                        const struct tensor *x, struct tensor *y);
#endif
