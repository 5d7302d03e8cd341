/* What layers with their norms behind the sums are made of (Vaswani et al. 2017): BERT's and BLIP's text layers.
 *
 *     x = norm(x + linear(from))
 *
 * Runs at once, on rows of floats; shapes are those of the tensors that are given.  Thread: engine. */
#ifndef ENGINE_MODELS_POST_NORM_H
#define ENGINE_MODELS_POST_NORM_H
#include "engine/models/nn.h"

/* What all layers of a model share. */
struct post_norm {
    struct backend *be;
    float eps;
    enum act act; /* of the feed-forward block */
};

/* q, k, v [n, dim] of the rows of x [n, dim]; each of to its own projection. */
void post_norm_project(const struct post_norm *p, const struct nn_linear *const qkv[3],
                       const struct tensor *x, struct tensor *const to[3]);
/* x [n, dim] = norm(x + l(from [n, any])) */
void post_norm_close(const struct post_norm *p, const struct nn_linear *l,
                     const struct nn_norm *norm, const struct tensor *from, struct tensor *x);
/* x = norm(x + fc2(act(fc1(x)))); ff [n, n_ff] is scratch. */
struct post_norm_ff {
    const struct nn_linear *fc1, *fc2;
    const struct nn_norm *norm;
};
void post_norm_feed(const struct post_norm *p, const struct post_norm_ff *l, struct tensor *ff,
                    struct tensor *x);
#endif
