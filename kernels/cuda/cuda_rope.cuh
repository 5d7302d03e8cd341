/* Rotary embedding of a row by a block: cosine and sine of an angle are computed once for all heads, the angle
 * in double: p * freq in float is off by 1e-3 at position 10^5.
 * Thread: all threads of the block call together. */
#ifndef KERNELS_CUDA_CUDA_ROPE_CUH
#define KERNELS_CUDA_CUDA_ROPE_CUH
#include "kernels/cuda/cuda_dialect.cuh"
#include "kernels/cuda/cuda_kernels.h"

#define ROPE_THREADS 128
#define ROPE_MAX     256 /* n_rot / 2 */

/* Cosine and sine of 2 pi turns, |turns| <= 1/2: a quarter's polynomial (Cephes), then the quadrant. */
__device__ static inline void rope_angle(double turns, float *cosine, float *sine)
{
    const double quarters = rint(turns * 4);
    const int quadrant = (int)quarters & 3;
    const float y = (float)((turns * 4 - quarters) * 1.5707963267948966), z = y * y;
    float s = fmaf(z, -1.9515295891e-4f, 8.3321608736e-3f);
    s = fmaf(s, z, -1.6666654611e-1f);
    s = fmaf(s * z, y, y);
    float c = fmaf(z, 2.443315711809948e-5f, -1.388731625493765e-3f);
    c = fmaf(c, z, 4.166664568298827e-2f);
    c = fmaf(c * z, z, fmaf(z, -0.5f, 1.0f));
    const float u = quadrant & 1 ? s : c, v = quadrant & 1 ? c : s;
    *cosine = quadrant == 1 || quadrant == 2 ? -u : u;
    *sine = quadrant >= 2 ? -v : v;
}

/* To shared memory; a barrier follows before rope_heads. */
__device__ static inline void rope_angles(float *angle_cos, float *angle_sin, int pos,
                                          const float *freq, int half, float mscale)
{
    for (int i = threadIdx.x; i < half; i += ROPE_THREADS) {
        const double turns = (double)pos * (double)freq[i] * 0.15915494309189535;
        float c, sine;
        rope_angle(turns - rint(turns), &c, &sine);
        angle_cos[i] = c * mscale;
        angle_sin[i] = sine * mscale;
    }
}

/* row [n_heads * head_dim] */
__device__ static inline void rope_heads(float *row, const float *angle_cos, const float *angle_sin,
                                         int n_heads, int head_dim, int half, bool interleaved)
{
    for (int k = threadIdx.x; k < n_heads * half; k += ROPE_THREADS) {
        const int i = k % half;
        float *head = row + (size_t)(k / half) * head_dim;
        float *a = head + (interleaved ? 2 * i : i), *b = a + (interleaved ? 1 : half);
        const float c = angle_cos[i], s = angle_sin[i], u = *a, v = *b;
        *a = fmaf(u, c, -(v * s));
        *b = fmaf(v, c, u * s);
    }
}
#endif
