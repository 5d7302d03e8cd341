/* A row by a block, four elements a thread: the norms, and what stands before a product (struct linear_pre).  The
 * kernels of cuda_norm.cu and cuda_linear_x.cu make rows by the same code, so they give the same bits.
 * Thread: all threads of the block call together. */
#ifndef KERNELS_CUDA_CUDA_ROW_CUH
#define KERNELS_CUDA_CUDA_ROW_CUH
#include "kernels/cuda/cuda_dialect.cuh"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/cuda_math.cuh"

#define ROW_THREADS 256

/* Rows of n floats from p on may be read and written 16 bytes at a time. */
__device__ static inline bool row_wide(const float *p, int n)
{
    return (reinterpret_cast<uintptr_t>(p) | (unsigned)n * 4) % 16 == 0;
}

/* Elements 4 i ... 4 i + 3 of a row of n; `beyond` behind its end. */
__device__ static inline float4 row_quad(const float *row, int i, int n, bool wide, float beyond)
{
    if (wide)
        return 4 * i < n ? reinterpret_cast<const float4 *>(row)[i]
                         : make_float4(beyond, beyond, beyond, beyond);
    float v[4];
#pragma unroll
    for (int j = 0; j < 4; j++)
        v[j] = 4 * i + j < n ? row[4 * i + j] : beyond;
    return make_float4(v[0], v[1], v[2], v[3]);
}

__device__ static inline void row_put(float *row, int i, int n, bool wide, float4 v)
{
    if (wide) {
        reinterpret_cast<float4 *>(row)[i] = v;
        return;
    }
    const float all[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int j = 0; j < 4; j++)
        if (4 * i + j < n)
            row[4 * i + j] = all[j];
}

/* Sum over the row of (x - shift)^2. */
__device__ static inline float row_squares(const float *x, int n, bool wide, float shift,
                                           float *partial)
{
    float sum = 0;
    for (int i = threadIdx.x; 4 * i < n; i += ROW_THREADS) {
        const float4 q = row_quad(x, i, n, wide, shift);
        sum = fmaf(q.x - shift, q.x - shift, sum);
        sum = fmaf(q.y - shift, q.y - shift, sum);
        sum = fmaf(q.z - shift, q.z - shift, sum);
        sum = fmaf(q.w - shift, q.w - shift, sum);
    }
    return cuda_block_sum(sum, partial);
}

__device__ static inline float row_mean(const float *x, int n, bool wide, float *partial)
{
    float sum = 0;
    for (int i = threadIdx.x; 4 * i < n; i += ROW_THREADS) {
        const float4 q = row_quad(x, i, n, wide, 0.0f);
        sum += (q.x + q.y) + (q.z + q.w);
    }
    return cuda_block_sum(sum, partial) / (float)n;
}

/* Row `row` of what stands for x [rows, n]: put(i, its elements 4 i ... 4 i + 3) for every i of the thread,
 * which are threadIdx.x, threadIdx.x + ROW_THREADS ...  What put gets behind the end of the row is 0, or NaN
 * where the row is not finite.  partial: shared memory of 32 floats. */
template <int pre, class Put>
__device__ static inline void row_make(const float *x, size_t row, int n, const struct cuda_pre &p,
                                       float *partial, const Put &put)
{
    const bool wide = row_wide(x, n);
    const float *from = x + row * n;
    if (pre == LINEAR_GLU) {
        const bool wide_up = row_wide(p.up, n);
        for (int i = threadIdx.x; 4 * i < n; i += ROW_THREADS) {
            const float4 a = row_quad(from, i, n, wide, 0.0f);
            const float4 b = row_quad(p.up + row * n, i, n, wide_up, 0.0f);
            put(i, make_float4(cuda_act(p.act, a.x) * b.x, cuda_act(p.act, a.y) * b.y,
                               cuda_act(p.act, a.z) * b.z, cuda_act(p.act, a.w) * b.w));
        }
        return;
    }
    const bool wide_w = row_wide(p.w, n),
               wide_bias = pre == LINEAR_LAYERNORM && row_wide(p.bias, n);
    const float mean = pre == LINEAR_LAYERNORM ? row_mean(from, n, wide, partial) : 0.0f;
    const float scale = 1.0f / sqrtf(row_squares(from, n, wide, mean, partial) / (float)n + p.eps);
    for (int i = threadIdx.x; 4 * i < n; i += ROW_THREADS) {
        const float4 a = row_quad(from, i, n, wide, mean), w = row_quad(p.w, i, n, wide_w, 0.0f);
        float4 v = make_float4((a.x - mean) * scale, (a.y - mean) * scale, (a.z - mean) * scale,
                               (a.w - mean) * scale);
        if (pre == LINEAR_LAYERNORM) {
            const float4 b =
                p.bias ? row_quad(p.bias, i, n, wide_bias, 0.0f) : make_float4(0, 0, 0, 0);
            put(i, make_float4(fmaf(v.x, w.x, b.x), fmaf(v.y, w.y, b.y), fmaf(v.z, w.z, b.z),
                               fmaf(v.w, w.w, b.w)));
        } else {
            put(i, make_float4(v.x * w.x, v.y * w.y, v.z * w.z, v.w * w.w));
        }
    }
}
#endif
