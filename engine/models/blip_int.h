/* What the files of BLIP share: blip.c (configuration, weights), blip_vision.c (the picture), blip_text.c
 * (the text stacks), blip_look.c (one after the other).  Thread: engine. */
#ifndef ENGINE_MODELS_BLIP_INT_H
#define ENGINE_MODELS_BLIP_INT_H
#include "engine/models/blip.h"
#include "engine/models/nn.h"
#include "engine/models/vit.h"

struct blip_vision_layer {
    struct nn_norm norm1, norm2;
    struct nn_linear qkv[3], o; /* [dim, dim] */
    struct nn_linear fc1, fc2;  /* [n_ff, dim], [dim, n_ff] */
};

struct blip_vision {
    int dim, n_ff, n_layers, n_heads;
    float eps;
    enum act act;
    struct vit_pixels colours;
    struct vit_patches in;
    struct blip_vision_layer *layers;
    struct nn_norm norm;
    struct program *pass;
    struct tensor pixels; /* [1, size, size, 3], the pass's input */
    struct tensor seen;   /* [n_tokens, dim], and its result */
    float *host_pixels;   /* where the host fills them */
};

struct blip_text_layer {
    struct nn_linear q, k, v, o;     /* [dim, dim] */
    struct nn_linear cq, ck, cv, co; /* [dim, dim], [dim, n_from], [dim, n_from], [dim, dim] */
    struct nn_norm norm, cross_norm, ff_norm;
    struct nn_linear fc1, fc2; /* [n_ff, dim], [dim, n_ff] */
};

/* A BERT with cross attention. */
struct blip_stack {
    struct weight *word, *position; /* [n_vocab, dim], [n_positions, dim] */
    struct nn_norm norm;
    struct blip_text_layer *layers;
};

struct blip_text {
    int dim, n_ff, n_layers, n_heads, head_dim, n_positions, n_vocab, n_from, n_project;
    float eps;
    enum act act;
};

/* Tensors of one step, [rows, dim] unless said. */
struct blip_scratch {
    float *x, *h, *q, *k, *v, *att, *ff; /* ff [rows, n_ff] */
    float *last, *last2;                 /* [max_logits, dim] */
    float *states;                       /* [n_question, dim]: the question as far as it is read */
    float *cross;                        /* [2, n_image, dim]: keys and values of one layer of it */
    struct backend_mirror head;          /* [2 * n_project + 2] */
    float *logits;           /* [max_logits, n_vocab]; NULL: the caller's is the device's */
    struct attn_item *items; /* [rows], of the host */
    int32_t *pos;            /* [rows], of the host */
};

struct blip {
    struct text_model base; /* first */
    struct blip_info info;
    struct backend *be;
    struct nn_store store;
    int max_rows, max_logits;
    bool tied; /* the decoder's output is its word embedding */
    struct blip_vision vision;
    struct blip_text text;
    struct blip_stack encoder, decoder; /* which of them there are: kind */
    struct nn_linear transform, output; /* [dim, dim], [n_vocab, dim] */
    struct nn_norm transform_norm;
    struct nn_linear itm, vision_proj, text_proj; /* [2, dim], [n_project, vision dim or dim] */
    struct blip_scratch s;
};

/* blip_vision.c */
void blip_vision_walk(struct nn_loader *l, struct blip_vision *v);
int blip_vision_open(struct blip *m, struct err *e); /* its pass */
void blip_vision_pixels(struct blip *m, const uint8_t *rgb);

/* blip_text.c */
void blip_text_walk(struct nn_loader *l, const struct blip_text *t, struct blip_stack *s);
int blip_text_scratch(struct blip *m, struct err *e);
/* Keys and values [n, dim] that a layer's cross attention has of `from` [n, n_from]. */
void blip_text_cross(struct blip *m, const struct blip_text_layer *l, const struct tensor *from,
                     float *k, float *v);
/* The embedding of n tokens at positions 0 ... into x. */
void blip_text_embed(struct blip *m, const struct blip_stack *s, const int32_t *ids,
                     const int32_t *pos, struct tensor *x);
/* One layer of the encoder over x; view NULL: without cross attention. */
void blip_text_read(struct blip *m, const struct blip_text_layer *l, struct tensor *x,
                    const struct text_view *view);
int blip_text_forward(struct text_model *base, char *kv_base, const struct text_batch *b,
                      struct err *e);

static inline struct tensor blip_rows(float *data, int64_t rows, int64_t dim)
{
    return (struct tensor){.data = data, .type = DTYPE_F32, .ndim = 2, .dims = {rows, dim}};
}
#endif
