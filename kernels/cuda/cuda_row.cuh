/* A row by a block, four elements a thread: the norms, and what stands before a product (struct linear_pre).  The
 * kernels of cuda_norm.cu and cuda_linear_x.cu make rows by the same code, so they give the same bits.
 * Thread: all threads of the block call together. */
#ifndef KERNELS_CUDA_CUDA_ROW_CUH
#define KERNELS_CUDA_CUDA_ROW_CUH
#include "kernels/cuda/cuda_array.cuh"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/cuda_math.cuh"

#define ROW_THREADS 256 /* at most, where something is summed over the row */

/* Threads for rows of n elements, at most `most`: no warp without any. Which changes no bit, since the sums of such
 * warps are 0. */
static inline int row_threads(int n, int most)
{
    const int threads = ((n + 3) / 4 + CUDA_WARP - 1) / CUDA_WARP * CUDA_WARP;
    return threads < most ? threads : most;
}

/* Rows of n elements may be read and written by fours. */
__device__ static inline bool row_wide(const struct cuda_array &a, int n)
{
    const unsigned four = a.type == DTYPE_F32 ? 16 : 8;
    return (reinterpret_cast<uintptr_t>(a.data) | (unsigned)n * (four / 4)) % four == 0;
}

/* Elements 4 i ... 4 i + 3 of row `row` of n; `beyond` behind its end. */
__device__ static inline float4 row_quad(const struct cuda_array &a, int64_t row, int i, int n,
                                         bool wide, float beyond)
{
    const int64_t at = row * n;
    if (wide)
        return 4 * i < n ? cuda_get4(a, at / 4 + i) : make_float4(beyond, beyond, beyond, beyond);
    float v[4];
#pragma unroll
    for (int j = 0; j < 4; j++)
        v[j] = 4 * i + j < n ? cuda_get(a, at + 4 * i + j) : beyond;
    return make_float4(v[0], v[1], v[2], v[3]);
}

__device__ static inline void row_put(const struct cuda_array &a, int64_t row, int i, int n,
                                      bool wide, float4 v)
{
    const int64_t at = row * n;
    if (wide) {
        cuda_set4(a, at / 4 + i, v);
        return;
    }
    const float all[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int j = 0; j < 4; j++)
        if (4 * i + j < n)
            cuda_set(a, at + 4 * i + j, all[j]);
}

/* A vector of f32 that all rows share. */
__device__ static inline struct cuda_array row_shared(const float *v)
{
    const struct cuda_array a = {const_cast<float *>(v), DTYPE_F32};
    return a;
}

/* Sum over a row of (x - shift)^2. */
__device__ static inline float row_squares(const struct cuda_array &x, int64_t row, int n,
                                           bool wide, float shift, float *partial)
{
    float sum = 0;
    for (int i = threadIdx.x; 4 * i < n; i += blockDim.x) {
        const float4 q = row_quad(x, row, i, n, wide, shift);
        sum = fmaf(q.x - shift, q.x - shift, sum);
        sum = fmaf(q.y - shift, q.y - shift, sum);
        sum = fmaf(q.z - shift, q.z - shift, sum);
        sum = fmaf(q.w - shift, q.w - shift, sum);
    }
    return cuda_block_sum(sum, partial);
}

__device__ static inline float row_mean(const struct cuda_array &x, int64_t row, int n, bool wide,
                                        float *partial)
{
    float sum = 0;
    for (int i = threadIdx.x; 4 * i < n; i += blockDim.x) {
        const float4 q = row_quad(x, row, i, n, wide, 0.0f);
        sum += (q.x + q.y) + (q.z + q.w);
    }
    return cuda_block_sum(sum, partial) / (float)n;
}

/* Row `row` of what stands for x [rows, n]: put(i, its elements 4 i ... 4 i + 3) for every i of the thread,
 * which are threadIdx.x, threadIdx.x + blockDim.x ...  What put gets behind the end of the row is 0, or NaN
 * where the row is not finite.  partial: shared memory of 32 floats. */
template <int pre, class Put>
__device__ static inline void row_make(const struct cuda_array &x, int64_t row, int n,
                                       const struct cuda_pre &p, float *partial, const Put &put)
{
    const bool wide = row_wide(x, n);
    if (pre == LINEAR_GLU) {
        const bool wide_up = row_wide(p.up, n);
        for (int i = threadIdx.x; 4 * i < n; i += blockDim.x) {
            const float4 a = row_quad(x, row, i, n, wide, 0.0f);
            const float4 b = row_quad(p.up, row, i, n, wide_up, 0.0f);
            put(i, make_float4(cuda_act(p.act, a.x) * b.x, cuda_act(p.act, a.y) * b.y,
                               cuda_act(p.act, a.z) * b.z, cuda_act(p.act, a.w) * b.w));
        }
        return;
    }
    const struct cuda_array w = row_shared(p.w), bias = row_shared(p.bias);
    const bool wide_w = row_wide(w, n), wide_bias = pre == LINEAR_LAYERNORM && row_wide(bias, n);
    const float mean = pre == LINEAR_LAYERNORM ? row_mean(x, row, n, wide, partial) : 0.0f;
    const float scale =
        1.0f / sqrtf(row_squares(x, row, n, wide, mean, partial) / (float)n + p.eps);
    for (int i = threadIdx.x; 4 * i < n; i += blockDim.x) {
        const float4 a = row_quad(x, row, i, n, wide, mean), f = row_quad(w, 0, i, n, wide_w, 0.0f);
        float4 v = make_float4((a.x - mean) * scale, (a.y - mean) * scale, (a.z - mean) * scale,
                               (a.w - mean) * scale);
        if (pre == LINEAR_LAYERNORM) {
            const float4 b =
                p.bias ? row_quad(bias, 0, i, n, wide_bias, 0.0f) : make_float4(0, 0, 0, 0);
            put(i, make_float4(fmaf(v.x, f.x, b.x), fmaf(v.y, f.y, b.y), fmaf(v.z, f.z, b.z),
                               fmaf(v.w, f.w, b.w)));
        } else {
            put(i, make_float4(v.x * f.x, v.y * f.y, v.z * f.z, v.w * f.w));
        }
    }
}
#endif
