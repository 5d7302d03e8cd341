/* Attention between whole matrices on the device, for C.
 * Thread: the backend's.
 *
 * q k^T and p v run on tensor cores.  Where q is f32 every operand is two halves (what the first lost stands in
 * the second), so that products keep 22 bits; else each is one, but for two of the weights where all is bf16.  Keys are
 * visited in tiles at fixed places: a query's bits do not depend on its neighbours. */
#ifndef KERNELS_CUDA_CUDA_ATTN_H
#define KERNELS_CUDA_CUDA_ATTN_H
#include <cuda_runtime_api.h>

#include "kernels/ops.h"

struct cuda_attn_dense_call {
    const struct attn_item *items; /* [n_items] on the device */
    int n_items, n_heads, head_dim, max_q;
    int type, kv_type; /* enum dtype: of q and out, of k and v */
    float scale;
    int causal;
};

#ifdef __cplusplus
extern "C" {
#endif
void cuda_attn_launch(const struct cuda_attn_dense_call *a, cudaStream_t stream);
/* Above 160 dims. */
void cuda_attn_wide_launch(const struct cuda_attn_dense_call *a, cudaStream_t stream);
#ifdef __cplusplus
}
#endif
#endif
