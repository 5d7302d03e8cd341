/* Rows of x to records of halves (cuda_fragment.cuh): a block a row. */
#include "kernels/cuda/cuda_fragment.cuh"
#include "kernels/cuda/cuda_linear_kernels.cuh"
#include "kernels/cuda/cuda_math.cuh"

#define X_THREADS 128

/* Two elements as a register, and what they lost. */
__device__ static inline uint32_t x_pack(float a, float b, bool bf16, float *lost_a, float *lost_b)
{
    const uint32_t low = cuda_half_bits(a, bf16, lost_a), high = cuda_half_bits(b, bf16, lost_b);
    return low | high << 16;
}

/* x [rows, n_in]   records [rows, n_records, CUDA_RECORD(parts)]   up [rows] */
template <int parts, bool bf16>
__global__ void __launch_bounds__(X_THREADS)
    linear_x_kernel(uint8_t *records, float *up, const float *x, int n_in, int n_records)
{
    SHARED(float, partial, [CUDA_WARP]);
    const float *row = x + (size_t)blockIdx.x * n_in;
    uint8_t *to = records + (size_t)blockIdx.x * n_records * CUDA_RECORD(parts);
    const bool wide = (reinterpret_cast<uintptr_t>(x) | (unsigned)n_in * 4) % 16 == 0;
    float down = 1.0f, scale = 1.0f;
    if (!bf16) {
        float top = 0.0f;
        for (int k = threadIdx.x; k < n_in; k += X_THREADS)
            top = fmaxf(top, fabsf(row[k]));
        top = cuda_warp_max(top);
        if (threadIdx.x % CUDA_WARP == 0)
            partial[threadIdx.x / CUDA_WARP] = top;
        __syncthreads();
        for (int i = 0; i < X_THREADS / CUDA_WARP; i++)
            top = fmaxf(top, partial[i]);
        cuda_scales_of(top, &down, &scale);
    }
    if (threadIdx.x == 0)
        up[blockIdx.x] = scale;
    /* four elements a thread; whole warps go on together for the sums */
    const int quads = n_records * 16, even = (quads + X_THREADS - 1) / X_THREADS * X_THREADS;
    for (int i = threadIdx.x; i < even; i += X_THREADS) {
        float v[4];
        if (wide && 4 * i < n_in) {
            const float4 four = reinterpret_cast<const float4 *>(row)[i];
            v[0] = four.x * down, v[1] = four.y * down;
            v[2] = four.z * down, v[3] = four.w * down;
        } else {
#pragma unroll
            for (int j = 0; j < 4; j++)
                v[j] = 4 * i + j < n_in ? row[4 * i + j] * down : 0.0f;
        }
        float sum = (v[0] + v[1]) + (v[2] + v[3]);
        sum += __shfl_xor_sync(CUDA_ALL, sum, 1);
        sum += __shfl_xor_sync(CUDA_ALL, sum, 2);
        if (i >= quads)
            continue;
        uint8_t *record = to + (size_t)(i / 16) * CUDA_RECORD(parts);
        uint2 half;
        half.x = x_pack(v[0], v[1], bf16, &v[0], &v[1]);
        half.y = x_pack(v[2], v[3], bf16, &v[2], &v[3]);
        reinterpret_cast<uint2 *>(record)[i % 16] = half;
        if (parts == 2) {
            float lost;
            half.x = x_pack(v[0], v[1], bf16, &lost, &lost);
            half.y = x_pack(v[2], v[3], bf16, &lost, &lost);
            reinterpret_cast<uint2 *>(record + 128)[i % 16] = half;
        }
        if (i % 4 == 0)
            reinterpret_cast<float *>(record + 128 * parts)[i % 16 / 4] = sum;
    }
}

void cuda_linear_x_launch(uint8_t *records, float *up, const struct cuda_linear_call *l, int parts,
                          bool bf16, cudaStream_t stream)
{
    const int n = CUDA_RECORDS(l->n_in);
    if (bf16)
        LAUNCH((linear_x_kernel<2, true>), l->rows, X_THREADS, 0, stream, records, up, l->x,
               l->n_in, n);
    else if (parts == 2)
        LAUNCH((linear_x_kernel<2, false>), l->rows, X_THREADS, 0, stream, records, up, l->x,
               l->n_in, n);
    else
        LAUNCH((linear_x_kernel<1, false>), l->rows, X_THREADS, 0, stream, records, up, l->x,
               l->n_in, n);
}
