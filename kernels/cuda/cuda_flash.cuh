/* The softmax of flash attention (Dao 2023; Milakov & Gimelshein 2018) in the registers of a warp that has 16
 * queries: shared by attention over pages and between matrices.
 * Thread: all lanes of a warp call together. */
#ifndef KERNELS_CUDA_CUDA_FLASH_CUH
#define KERNELS_CUDA_CUDA_FLASH_CUH
#include "kernels/cuda/cuda_math.cuh"
#include "kernels/cuda/cuda_ptx.cuh"

/* Of queries lane / 4 and lane / 4 + 8. */
struct cuda_flash {
    float top[2], sum[2]; /* sum: of this lane's keys */
};

/* Scores of `keys` keys (accumulators of mma) to exp(score - top); acc [own dims] and the sums before are
 * brought to the new top.  Key k counts where lo <= k < hi, of either query. */
template <int keys, int own>
__device__ static inline void cuda_flash_softmax(float s[keys / 8][4], struct cuda_flash *f,
                                                 float acc[own / 8][4], const int lo[2],
                                                 const int hi[2], int lane)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float top = f->top[h];
#pragma unroll
        for (int n = 0; n < keys / 8; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float *at = &s[n][2 * h + i];
                const int k = n * 8 + lane % 4 * 2 + i;
                *at = k >= lo[h] && k < hi[h] ? *at : -INFINITY;
                top = cuda_larger_or_nan::of(top, *at);
            }
        top = cuda_exchange<cuda_larger_or_nan, 1, 2>(top);
        const float keep = f->top[h] == top ? 1.0f : cuda_exp(f->top[h] - top);
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < keys / 8; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float *at = &s[n][2 * h + i];
                *at = *at == -INFINITY ? 0.0f : cuda_exp(*at - top);
                sum += *at;
            }
        f->top[h] = top;
        f->sum[h] = fmaf(f->sum[h], keep, sum);
#pragma unroll
        for (int d = 0; d < own / 8; d++) {
            acc[d][2 * h] *= keep;
            acc[d][2 * h + 1] *= keep;
        }
    }
}

/* An infinity or a NaN, of f16 or bf16. */
template <bool bf16 = false> __device__ static inline bool cuda_flash_is_odd(__half x)
{
    const int all = bf16 ? 0x7f80 : 0x7c00;
    return (__half_as_ushort(x) & all) == all;
}

/* A product by mma multiplies weights of 0 too, and 0 * NaN is NaN.  So where not all queries see all keys of a
 * tile, values that are no numbers make acc NaN here, for those that see them, and then become zeros in shared
 * memory before the mma.  Rows of v are keys, `stride` halves apart. */
template <int keys, int own, bool bf16 = false>
__device__ static inline void cuda_flash_odd_values(float acc[own / 8][4], const __half *v,
                                                    int stride, const int lo[2], const int hi[2])
{
    const int lane = threadIdx.x % CUDA_WARP;
#pragma unroll 1
    for (int k = 0; k < keys; k++) {
        const bool first = k >= lo[0] && k < hi[0], second = k >= lo[1] && k < hi[1];
#pragma unroll
        for (int d = 0; d < own / 8; d++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const bool odd = cuda_flash_is_odd<bf16>(v[k * stride + d * 8 + lane % 4 * 2 + i]);
                acc[d][i] = odd && first ? NAN : acc[d][i];
                acc[d][2 + i] = odd && second ? NAN : acc[d][2 + i];
            }
    }
}

/* Two floats as halves (or bf16) of a register, and as a second one what they lost. */
template <bool bf16 = false>
__device__ static inline uint32_t cuda_flash_pair(float a, float b, uint32_t *lost)
{
    float rest_a, rest_b, none;
    const uint32_t bits = cuda_half_pair(a, b, bf16, &rest_a, &rest_b);
    *lost = cuda_half_pair(rest_a, rest_b, bf16, &none, &none);
    return bits;
}

/* Weights of 16 keys, tiles n and n + 1 of s, as an A fragment and what it lost. */
template <bool bf16 = false>
__device__ static inline void cuda_flash_weights(const float s[2][4], uint32_t a[4],
                                                 uint32_t lost[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        a[i] = cuda_flash_pair<bf16>(s[i / 2][i % 2 * 2], s[i / 2][i % 2 * 2 + 1], &lost[i]);
}
#endif
