/* The whole vocabulary of the models: one argument struct an op.
 * To add an op: a struct here with its shapes, a line in BACKEND_OPS, then follow the compiler
 * (docs/KERNELS.md has the steps).
 *
 * Activations are f32.  On a CUDA device tensors may also be f16 or bf16, each of an op for itself, in linear,
 * rmsnorm, layernorm, groupnorm, conv2d, lowrank, attn, add, act, glu and concat; norms' w, biases and slopes stay
 * f32.  Sums are f32, and a result is rounded once, where it is written; what f16 cannot hold becomes infinite.
 * Products multiply an x of f16 or bf16 without loss (docs/CUDA.md, Numbers).
 *
 * Shapes were checked when the model was opened; inside an op assert states them.  A row of the result depends
 * only on its own inputs and, bit for bit, never on how many rows came together or on the number of threads. */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H
#include <stdbool.h>

#include "kernels/tensor.h"

struct weight; /* a matrix [n_out, n_in] in the backend's own layout: backend.h */

/* out[r, :] = w[ids[r], :]        out [rows, dim]   ids [rows], each within w's rows
 * there [rows] or NULL: ids that are on the device, instead (struct op_choose); -1 stands for any
 * own [rows] or NULL: where own[r] is not NULL its dim floats are the row instead (learned tokens) */
struct op_embed {
    struct tensor *out;
    const struct weight *w;
    const int32_t *ids;
    const float *const *own;
    const int32_t *there;
};

/* SILU x sigmoid(x); GELU x Phi(x) with the error function, GELU_TANH its approximation by tanh
 * (Hendrycks & Gimpel 2016), QUICK_GELU x sigmoid(1.702 x); RELU max(x, 0). */
enum act { ACT_NONE, ACT_SILU, ACT_GELU, ACT_GELU_TANH, ACT_QUICK_GELU, ACT_RELU };

#define LINEAR_MAX 3

/* What linear multiplies in the place of x, made where x is rounded: with the bits of the op of that name
 * (below), in x's type, without its pass over memory.  Where others read the result as well, it is an op. */
enum linear_pre_kind { LINEAR_AS_IS, LINEAR_RMSNORM, LINEAR_LAYERNORM, LINEAR_GLU };
struct linear_pre {
    enum linear_pre_kind kind;
    const struct tensor *w, *bias; /* norms: [in], bias of LAYERNORM or NULL */
    const struct tensor *up;       /* GLU: [rows, in]; x is its gate */
    float eps;
    enum act act;
};

/* out[i] = pre(x) w[i]^T + bias[i] (+ add for i == 0), for every i with w[i]: matrices over the same x
 * share its quantisation.     x [rows, in]   w[i] [n_out_i, in]   bias[i] [n_out_i] or NULL
 *                             out[i], add [rows, n_out_i]   add may be NULL or out[0] itself */
struct op_linear {
    struct tensor *out[LINEAR_MAX];
    const struct weight *w[LINEAR_MAX];
    const struct tensor *bias[LINEAR_MAX];
    const struct tensor *x, *add;
    struct linear_pre pre;
    /* F16 or BF16, on a device with such activations: matrices of that type multiply x of f32, or what pre makes of
     * it, rounded to it (rows of f16 scaled, so that they do not overflow).  F32: without loss. */
    enum dtype x_type;
    /* A backend that rounds x for block weights to 8 bits keeps more where x is large. */
    bool precise;
};

/* out[r, :] = x[r, :] / sqrt(mean(x[r, :]^2) + eps) * w      x, out [rows, dim]   w [dim]
 * (Zhang & Sennrich 2019) */
struct op_rmsnorm {
    struct tensor *out;
    const struct tensor *x, *w;
    float eps;
};

/* Rotary embedding in place (Su et al. 2021).   x [rows, n_heads * head_dim]
 * Pairs are (2i, 2i+1) when interleaved (GGUF's llama files are permuted for this), else
 * (i, i + n_rot/2).  Angle of pair i at position p: p * freq[i]; the result is scaled by mscale
 * (YaRN's attention factor, else 1). */
struct op_rope {
    struct tensor *x;
    const int32_t *pos;  /* [rows] */
    const float *freq;   /* [n_rot / 2] */
    int head_dim, n_rot; /* n_rot <= head_dim: the rest is left alone */
    float mscale;
    bool interleaved;
};

#define KV_PAGE_TOKENS 16

/* One layer's view of the paged KV pool.  Page p starts at base + p * page_bytes; in it this layer's
 * keys stand at k_offset and its values at v_offset, each in the kv_bytes and the order that the
 * backend chooses (kernels/cpu/attn.h). */
struct kv_view {
    char *base;
    size_t page_bytes, k_offset, v_offset;
    int n_kv_heads, head_dim;
    enum dtype type; /* DTYPE_F16, DTYPE_F32 or DTYPE_Q8_0 */
};

/* Where one row of a batch stands in its sequence. */
struct kv_row {
    const int32_t *pages; /* page ids of the sequence, in order */
    int32_t pos;          /* of this row: it sees positions 0 ... pos */
};

/* Stores k, v [rows, n_kv_heads * head_dim] at rows[r].pos. */
struct op_kv_store {
    struct kv_view kv;
    const struct tensor *k, *v;
    const struct kv_row *rows; /* [rows] */
};

/* rope of q and of k, in place, then kv_store of k and v.  q [rows, n_heads * head_dim], k and v as in kv_store;
 * the rest as in rope.  One pass where a device has a kernel for it; the bits are those of the three. */
struct op_rope_store {
    struct kv_view kv;
    struct tensor *q, *k;
    const struct tensor *v;
    const struct kv_row *rows; /* [rows] */
    const int32_t *pos;        /* [rows] */
    const float *freq;         /* [n_rot / 2] */
    int n_rot;
    float mscale;
    bool interleaved;
};

/* Causal attention over pages: out[r] = softmax(q[r] K^T * scale) V over positions
 * max(0, pos - window + 1) ... pos (window 0: all).    q, out [rows, n_heads * head_dim]
 * Query head h reads kv head h / (n_heads / n_kv_heads).  The KV positions are visited in fixed
 * chunks, so that a row's bits do not depend on the batch. */
struct op_attn_paged {
    struct tensor *out;
    const struct tensor *q;
    struct kv_view kv;
    const struct kv_row *rows; /* [rows] */
    int n_heads, window;
    float scale;
};

/* out = act(gate) * up      gate, up, out [rows, dim] (out may be gate) */
struct op_glu {
    struct tensor *out;
    const struct tensor *gate, *up;
    enum act act;
};

/* out = act(x), same shapes (out may be x).  With slope [dim of the last axis], whatever act is:
 * out[r, c] = max(x, 0) + slope[c] * min(x, 0), the parametric ReLU of He et al. 2015. */
struct op_act {
    struct tensor *out;
    const struct tensor *x, *slope; /* slope may be NULL */
    enum act act;
};

/* out = a + b, same shapes (out may be a) */
struct op_add {
    struct tensor *out;
    const struct tensor *a, *b;
};

/* out[r, :] = a[r, :] then b[r, :]    out [..., ca + cb]   a [..., ca]   b [..., cb]
 * Leading dims count as rows, so feature maps [n, h, w, c] are joined along their channels. */
struct op_concat {
    struct tensor *out;
    const struct tensor *a, *b;
};

/* out = (x - mean) / sqrt(var + eps) * w + bias over the last dim (Ba et al. 2016).
 * x, out [..., dim] (out may be x)    w, bias [dim], bias may be NULL */
struct op_layernorm {
    struct tensor *out;
    const struct tensor *x, *w, *bias;
    float eps;
};

/* The same over the pixels and the c / n_groups channels of a group, of each image, then act (Wu & He
 * 2018).   x, out [n, ..., c] (out may be x)    w, bias [c]    c is a multiple of n_groups */
struct op_groupnorm {
    struct tensor *out;
    const struct tensor *x, *w, *bias;
    int n_groups;
    float eps;
    enum act act;
};

/* out[n, y, x, o] = act(sum over ky, kx, c of w[o, ky, kx, c] * x[n, y * stride + ky - pad_before, ..., c]
 *                       + bias[o] + add_image[n, o] + add[n, y, x, o])
 * where pixels outside of x are 0.    x [n, h, w, c_in]    out [n, ho, wo, c_out]
 *     ho = (h + pad_before + pad_after - kernel) / stride + 1, wo alike
 *     upsample: stride 1, pad_before = pad_after = kernel / 2; ho = 2 h or 2 h - 1, wo alike
 *     w a plain matrix [c_out, kernel * kernel * c_in], columns in the order (ky, kx, c)
 *     bias [c_out] or NULL   add_image [n, c_out] or NULL   add like out, may be out, or NULL
 * out is not x.  1x1 convolutions are op_linear. */
struct op_conv2d {
    struct tensor *out;
    const struct tensor *x;
    const struct weight *w; /* F32, F16 or BF16 */
    const struct tensor *bias, *add_image, *add;
    int kernel, stride, pad_before, pad_after; /* pads: above and left, below and right */
    bool upsample; /* x is read as if every pixel stood there 2 x 2 (nearest), cut to ho x wo */
    int y_begin, y_end; /* rows y of out to compute, the others are left alone; 0, 0: all */
    enum act act;
};

/* One low-rank addition: down [rank, kernel * kernel * c_in], up [c_out, rank], both F32, F16 or BF16. */
struct lowrank_term {
    const struct weight *down, *up;
    float scale;
};
/* Those of one image of a batch. */
struct lowrank_image {
    const struct lowrank_term *terms;
    int n; /* 0: its rows stay as they are */
};

/* out[r, :] += scale * (x[r] down^T) up^T for each term of the row's image, one after the other (LoRA; Hu et
 * al. 2021), where x[r] is the row of a matrix, or the window of a convolution as in conv2d:
 *     h[j] = scale * (sum over taps of (sum over k of down[j, k] * x[k]))     both ascending
 *     out[o] = fma(up[o, j], h[j], out[o])                    j ascending
 * (one chain of fma a tap, and taps outside of the picture left out).
 * Rows are numbered through all images, image_rows each; out is rows [first, first + its rows).
 *     kernel 1, stride 1: x is the same rows of a matrix [.., c_in]
 *     else                x [n, h, w, c_in], whole, with rows (y, x) of out_w pixels; upsample as in conv2d */
struct op_lowrank {
    struct tensor *out; /* [rows, c_out] */
    const struct tensor *x;
    const struct lowrank_image *images; /* [n]; may be filled between runs of a program */
    int64_t image_rows, first, out_w;
    int kernel, stride, pad_before;
    bool upsample;
};

/* out[r, k] = (x[r, :] . w[k, :]) / |x[r, :]|: cosines, where the rows of w have length 1.  NaN where |x[r, :]|
 * is 0 or too large for f32.   x [rows, dim]   w [n, dim]   out [rows, n] */
struct op_cosine {
    struct tensor *out;
    const struct tensor *x, *w;
};

#define ATTN_MAX_HEAD_DIM 512

/* One sequence of queries over one sequence of keys and values.  Rows hold n_heads * head_dim elements
 * and begin `stride` elements apart, so q, k and v may stand in one matrix. */
struct attn_item {
    const void *q, *k, *v; /* [n_q], [n_k], [n_k] rows */
    void *out;             /* [n_q] rows; may be q */
    int n_q, n_k, q_stride, kv_stride, out_stride;
};

/* out = softmax(q k^T * scale) v, every head for itself.  causal: query i sees keys up to
 * i + n_k - n_q.  The keys are visited in fixed chunks. */
struct op_attn {
    const struct attn_item *items;  /* [n_items]; their shapes may differ */
    int n_items, n_heads, head_dim; /* head_dim <= ATTN_MAX_HEAD_DIM */
    enum dtype type, kv_type;       /* of q and out; of k and v.  0 is DTYPE_F32 */
    float scale;
    bool causal; /* needs n_k >= n_q */
};

/* clang-format off */
#define BACKEND_OPS(X) \
    X(embed) X(linear) X(rmsnorm) X(rope) X(kv_store) X(rope_store) X(attn_paged) X(glu) X(add) \
    X(act) X(concat) X(layernorm) X(groupnorm) X(conv2d) X(lowrank) X(attn) X(cosine)
struct backend;
struct backend_ops {
#define X(op) void (*op)(struct backend *be, const struct op_##op *p);
    BACKEND_OPS(X)
#undef X
};
/* clang-format on */
#endif
