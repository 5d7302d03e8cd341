/* The launchers of the CUDA kernels, for the C side.  All pointers are device memory; every launch is
 * queued in the stream; errors are told by the next synchronisation.  Formulas and shapes: kernels/ops.h.
 * `work` is memory that a launch needs on the side, as large as <op>_work_bytes says, 256-byte aligned.
 * Headers of their own: cuda_linear.h (linear, embed), cuda_conv.h (conv2d, lowrank), cuda_attn.h (attn), cuda_sample.h.
 * Thread: the backend's. */
#ifndef KERNELS_CUDA_CUDA_KERNELS_H
#define KERNELS_CUDA_CUDA_KERNELS_H
#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/cuda_array.h"
#include "kernels/cuda/cuda_layout.h"
#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* struct linear_pre for the device; no padding, since arguments are compared by their bytes. */
struct cuda_pre {
    const float *w, *bias;
    struct cuda_array up;
    float eps;
    enum act act;
};

/* ---- cuda_norm.cu ---- */

/* kind: RMSNORM or LAYERNORM   out, x [rows, dim], out may be x */
void cuda_norm_launch(struct cuda_array out, struct cuda_array x, enum linear_pre_kind kind,
                      const struct cuda_pre *p, int rows, int dim, cudaStream_t stream);

struct cuda_groups {
    int64_t pixels; /* of an image */
    int n, c, n_groups;
    float eps;
    enum act act;
};
size_t cuda_groupnorm_work_bytes(int n, int64_t pixels, int c);
/* out, x [n, pixels, c]   w, bias [c] */
void cuda_groupnorm_launch(struct cuda_array out, struct cuda_array x, const float *w,
                           const float *bias, const struct cuda_groups *g, void *work,
                           cudaStream_t stream);

/* ---- cuda_elem.cu: n elements; out may be a ---- */

void cuda_add_launch(struct cuda_array out, struct cuda_array a, struct cuda_array b, int64_t n,
                     cudaStream_t stream);
void cuda_glu_launch(struct cuda_array out, struct cuda_array gate, struct cuda_array up, int64_t n,
                     enum act act, cudaStream_t stream);
void cuda_act_launch(struct cuda_array out, struct cuda_array x, int64_t n, enum act act,
                     cudaStream_t stream);
/* out, x [rows, c]   slope [c] */
void cuda_prelu_launch(struct cuda_array out, struct cuda_array x, const float *slope, int64_t rows,
                       int c, cudaStream_t stream);
/* out [rows, ca + cb]   a [rows, ca]   b [rows, cb] */
void cuda_concat_launch(struct cuda_array out, struct cuda_array a, struct cuda_array b,
                        int64_t rows, int ca, int cb, cudaStream_t stream);

/* ---- cuda_cosine.cu ---- */

/* out [rows, n]   x [rows, dim]   w [n, dim]   rows <= 65535 */
void cuda_cosine_launch(float *out, const float *x, const float *w, int rows, int n, int dim,
                        cudaStream_t stream);

/* ---- cuda_rope.cu ---- */

/* x [rows, n_heads * head_dim]   pos [rows]   freq [n_rot / 2], n_rot <= 512 */
void cuda_rope_launch(float *x, const int32_t *pos, const float *freq, int rows, int n_heads,
                      int head_dim, int n_rot, float mscale, bool interleaved, cudaStream_t stream);

/* ---- pages of keys and values: cuda_kv.cu, cuda_attn_paged.cu ---- */

#define CUDA_KV_BLOCK 32 /* dimensions of a q8_0 key that share a scale */

/* Keys, or values, of one kv head in a page: [16][head_dim] of the type.  q8_0: codes [16][head_dim] s8, then for
 * keys scales [16][ceil(head_dim / 32)] f16, for values [16] f32; and padding. */
CUDA_BOTH static inline size_t cuda_kv_head_bytes(enum dtype type, int head_dim)
{
    const size_t n = (size_t)KV_PAGE_TOKENS * (size_t)head_dim;
    if (type == DTYPE_F32)
        return 4 * n;
    if (type == DTYPE_F16)
        return 2 * n;
    if (type != DTYPE_Q8_0)
        return 0;
    const size_t blocks = ((size_t)head_dim + CUDA_KV_BLOCK - 1) / CUDA_KV_BLOCK;
    const size_t scales = KV_PAGE_TOKENS * 2 * blocks; /* bytes of the keys' */
    return (n + (scales > 64 ? scales : 64) + 63) / 64 * 64;
}

/* struct kv_row for the device: its sequence's pages are pages[first ...]. */
struct cuda_kv_row {
    int32_t first, pos;
};

struct cuda_kv {
    struct kv_view view;
    const struct cuda_kv_row *rows; /* [rows] */
    const int32_t *pages;
};

/* k, v [rows, n_kv_heads * head_dim] */
void cuda_kv_store_launch(const struct cuda_kv *kv, const float *k, const float *v, int rows,
                          cudaStream_t stream);
/* Rotary embedding of q and k, with the storing. */
struct cuda_turn {
    const int32_t *pos; /* [rows] */
    const float *freq;  /* [n_rot / 2] */
    int n_heads, n_rot; /* heads of q */
    float mscale;
    int interleaved;
};
void cuda_rope_store_launch(const struct cuda_kv *kv, const struct cuda_turn *t, float *q, float *k,
                            const float *v, int rows, cudaStream_t stream);

/* Rows row0 ... row0 + n_rows - 1: one sequence, consecutive positions. */
struct cuda_attn_paged_task {
    int32_t row0, n_rows;
};

/* Rows of a task at most: it has up to 16 queries of a kv head. */
static inline int cuda_attn_paged_task_rows(int n_heads, int n_kv_heads)
{
    const int group = n_heads / n_kv_heads;
    return group >= 16 ? 1 : 16 / group;
}

struct cuda_attn_paged_call {
    float *out;     /* [rows, n_heads * head_dim] */
    const float *q; /* like out, not scaled */
    struct cuda_kv kv;
    const struct cuda_attn_paged_task *tasks; /* [n_tasks], on the device */
    int n_tasks, n_heads, window;
    int max_pos; /* no row's pos is above it */
    float scale;
    void *work;
    size_t work_bytes; /* with less than cuda_attn_paged_work_bytes long contexts are slower */
};

size_t cuda_attn_paged_work_bytes(int n_tasks, int n_heads, int n_kv_heads, int head_dim,
                                  int max_pos);
void cuda_attn_paged_launch(const struct cuda_attn_paged_call *a, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
