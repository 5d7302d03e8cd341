/* The layers that image models are built of: their weights from a checkpoint (nn_load.c), and how a forward
 * pass records them (nn.c).  Feature maps are [n, h, w, c]; as rows, [n * h * w, c].
 * Thread: engine.
 *
 * Loading walks the model twice with the same code: first every shape is held against the configuration,
 * so that a wrong file fails at once; then weights are repacked one by one.  The first error sticks in
 * the loader, and later calls do nothing.  Names are relative to a path that is pushed and popped.
 *
 * What would take long is recorded in slices of about nn_slice() flops, so that a run can stop between
 * them; a slice is some rows of the result, which does not change the result. */
#ifndef ENGINE_MODELS_NN_H
#define ENGINE_MODELS_NN_H
#include <stdatomic.h>

#include "engine/checkpoint.h"
#include "kernels/program.h"

#define NN_SLICE_FLOPS 4e9 /* 40 ms at 100 GFLOP/s */
#define NN_MAX_DIM     (1 << 17)

extern double nn_slice_flops; /* NN_SLICE_FLOPS; tests make it small before a unit is opened */

/* What the backend that p is for does in one slice: a GPU needs large ones to be filled. */
double nn_slice(struct program *p);

/* Where a matrix of a checkpoint went, for adapters (nn_lora.h). */
struct nn_place {
    char *name; /* without ".weight" */
    enum checkpoint_part part;
    const struct weight *w; /* [n_out, kernel * kernel * c_in] */
    int kernel;             /* of a convolution; 1: a matrix */
    int which, of;          /* rows [which * n_out, ..) of the file's, which has of * n_out */
};

/* What was loaded, for freeing it together. */
struct nn_store {
    struct backend *be;
    struct weight **weights;
    void **vectors;
    int n_weights, n_vectors;
    size_t bytes;     /* memory of all */
    bool keep_places; /* set before loading */
    struct nn_place *places;
    int n_places;
};
void nn_store_free(struct nn_store *s);

struct nn_linear {
    struct weight *w;   /* [n_out, n_in] */
    struct tensor bias; /* [n_out]; data NULL: none */
};
struct nn_conv {
    struct weight *w;   /* [c_out, kernel * kernel * c_in] */
    struct tensor bias; /* [c_out]; data NULL: none */
    int kernel, c_in, c_out;
};
struct nn_norm {
    struct tensor w, bias; /* [dim] */
};

/* ---- loading ---- */

struct nn_loader {
    struct checkpoint *c;
    enum checkpoint_part part;
    struct nn_store *store;
    bool load; /* the second walk */
    const struct checkpoint_tensor **used;
    int n_used;
    char path[192];
    size_t path_len;
    atomic_int *progress; /* goes from `from` to `to` as weights are loaded, or NULL */
    int from, to;
    size_t done_bytes, all_bytes;
    int rc;
    struct err *e;
};
typedef void nn_walk_fn(struct nn_loader *l, void *model);

/* Walks `model` twice, and refuses a file with tensors that nobody asked for.  On failure what was
 * loaded is in the store, for nn_store_free. */
int nn_load(struct nn_loader *l, nn_walk_fn *walk, void *model);

/* A table [n, dim] that no file has in this form. */
void nn_make_table(struct nn_loader *l, struct tensor *to, const float *values, int64_t n,
                   int64_t dim);
/* Returns the length before, for nn_pop. */
size_t nn_push(struct nn_loader *l, const char *fmt, ...) PRINTF_LIKE(2, 3);
void nn_pop(struct nn_loader *l, size_t len);
bool nn_has(const struct nn_loader *l, const char *name);
/* A tensor that is known to be there in some files and means nothing here. */
void nn_ignore(struct nn_loader *l, const char *name);

enum nn_bias { NN_NO_BIAS, NN_BIAS };
void nn_load_linear(struct nn_loader *l, struct nn_linear *to, const char *name, int64_t n_out,
                    int64_t n_in, enum nn_bias bias);
/* One matrix of the file as several: the first n_out rows, the next n_out ...; with their biases. */
#define NN_SPLIT_MAX 3
struct nn_split {
    int n;
    int64_t n_out, n_in;
    enum nn_bias bias;
};
void nn_load_split(struct nn_loader *l, struct nn_linear *to, const char *name,
                   const struct nn_split *as);
/* kernel, c_in and c_out stand in *to. */
void nn_load_conv(struct nn_loader *l, struct nn_conv *to, const char *name, enum nn_bias bias);
/* An average of 2 x 2 pixels and the 1x1 convolution behind it, in one: kernel 2, to be used with stride
 * 2.  c_in and c_out stand in *to.  name NULL: the average alone, c_in == c_out. */
void nn_load_halving(struct nn_loader *l, struct nn_conv *to, const char *name);
void nn_load_norm(struct nn_loader *l, struct nn_norm *to, const char *name, int64_t dim);
/* The first `rows` of [at least rows, dim] as floats. */
void nn_load_table(struct nn_loader *l, struct tensor *to, const char *name, int64_t rows,
                   int64_t dim);
/* [1, rows, dim] as floats [rows, dim]. */
void nn_load_rows(struct nn_loader *l, struct tensor *to, const char *name, int64_t rows,
                  int64_t dim);
/* A vector that has no ".weight" behind its name. */
void nn_load_vector(struct nn_loader *l, struct tensor *to, const char *name, int64_t dim);
/* A matrix whose number of rows the file decides (at most max_rows); *n_rows is filled. */
void nn_load_embedding(struct nn_loader *l, struct weight **to, const char *name, int64_t *n_rows,
                       int64_t dim);

/* What no file has: a vector of one value; the matrix that scales by a factor. */
void nn_make_vector(struct nn_loader *l, struct tensor *to, int64_t dim, float value);
void nn_make_scale(struct nn_loader *l, struct nn_linear *to, int64_t dim, float factor);

/* Adds the numbers of a part's tensors to *n_params; *type: what most bytes have, if more than *type has. */
void nn_count(const struct checkpoint *c, enum checkpoint_part part, int64_t *n_params,
              enum dtype *type);

/* ---- recording ---- */

struct tensor nn_rows(const struct tensor *t); /* [.., c] as [rows, c] */
/* x, pinned; or a pinned copy where x is not f32. */
struct tensor nn_pin(struct program *p, const struct tensor *x);
struct tensor nn_some_rows(const struct tensor *t, int64_t begin, int64_t n);
struct tensor nn_like(struct program *p, const struct tensor *t);

/* An op in slices of rows.  Where the program takes adapters (nn_lora.h), what they add comes after it. */
void nn_emit_linear(struct program *p, const struct op_linear *op);
/* Not cut: op's rows are [first, first + rows) of `total`. */
void nn_emit_linear_part(struct program *p, const struct op_linear *op, int64_t first,
                         int64_t total);
void nn_emit_conv(struct program *p, const struct op_conv2d *op);

/* x w^T + bias + add, a new tensor [rows of x, n_out].  add may be NULL. */
struct tensor nn_linear(struct program *p, const struct nn_linear *l, const struct tensor *x,
                        const struct tensor *add);
/* The same on a feature map, as a 1x1 convolution: [n, h, w, n_out]. */
struct tensor nn_conv1x1(struct program *p, const struct nn_linear *l, const struct tensor *x,
                         const struct tensor *add);

/* The fields of op_conv2d that a layer may use; zeros: stride 1, padding that keeps the size. */
struct nn_conv_with {
    int stride;
    bool pad_after_only; /* 0 above and left, 1 below and right */
    bool upsample;       /* to 2h x 2w, or to h x w of `like` */
    const struct tensor *like;
    const struct tensor *add_image, *add;
    enum act act;
};
struct tensor nn_conv(struct program *p, const struct nn_conv *l, const struct tensor *x,
                      const struct nn_conv_with *with);

struct tensor nn_layernorm(struct program *p, const struct nn_norm *l, const struct tensor *x,
                           float eps);
struct nn_group {
    int n_groups;
    float eps;
};
struct tensor nn_groupnorm(struct program *p, const struct nn_norm *l, const struct tensor *x,
                           struct nn_group g, enum act act);

/* Attention of n sequences, n_q queries over n_k keys each; rows of `dim` = n_heads * head_dim elements that
 * follow each other.  k and v NULL: the caller fills them in the items before each run, of f32. */
struct nn_attn {
    const struct tensor *q, *k, *v; /* [n * n_q, dim], [n * n_k, dim] */
    const struct tensor *out;       /* [n * n_q, dim], of q's type; may be q */
    int n, n_q, n_k, n_heads, head_dim;
    bool causal;
};
/* The items of sequence i are [i * *per_sequence, (i + 1) * *per_sequence). */
struct attn_item *nn_attn(struct program *p, const struct nn_attn *a, int *per_sequence);

/* A residual block (He et al. 2016) of the UNet and the VAE. */
struct nn_resnet {
    struct nn_norm norm1, norm2;
    struct nn_conv conv1, conv2;
    struct nn_linear time;     /* [c_out, time_dim]; w NULL in the VAE */
    struct nn_linear shortcut; /* [c_out, c_in]; w NULL where c_in == c_out */
};
void nn_load_resnet(struct nn_loader *l, struct nn_resnet *to, int c_in, int c_out, int time_dim);
/* time: silu of the time embedding [n, time_dim], or NULL. */
struct tensor nn_resnet(struct program *p, const struct nn_resnet *r, const struct tensor *x,
                        const struct tensor *time, struct nn_group g);
#endif
