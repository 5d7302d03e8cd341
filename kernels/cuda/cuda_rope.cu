/* Rotary embedding: a block a row.  Cosine and sine of an angle are computed once for all heads, the angle
 * in double: p * freq in float is off by 1e-3 at position 10^5. */
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

/* x [rows, n_heads * head_dim] */
__global__ void __launch_bounds__(ROPE_THREADS)
    rope_kernel(float *x, const int32_t *pos, const float *freq, int n_heads, int head_dim,
                int n_rot, float mscale, bool interleaved)
{
    SHARED(float, angle_cos, [ROPE_MAX]);
    SHARED(float, angle_sin, [ROPE_MAX]);
    const int half = n_rot / 2;
    float *row = x + (size_t)blockIdx.x * n_heads * head_dim;
    for (int i = threadIdx.x; i < half; i += ROPE_THREADS) {
        const double turns = (double)pos[blockIdx.x] * (double)freq[i] * 0.15915494309189535;
        float c, sine;
        rope_angle(turns - rint(turns), &c, &sine);
        angle_cos[i] = c * mscale;
        angle_sin[i] = sine * mscale;
    }
    __syncthreads();
    for (int k = threadIdx.x; k < n_heads * half; k += ROPE_THREADS) {
        const int i = k % half;
        float *head = row + (size_t)(k / half) * head_dim;
        float *a = head + (interleaved ? 2 * i : i), *b = a + (interleaved ? 1 : half);
        const float c = angle_cos[i], s = angle_sin[i], u = *a, v = *b;
        *a = fmaf(u, c, -(v * s));
        *b = fmaf(v, c, u * s);
    }
}

void cuda_rope_launch(float *x, const int32_t *pos, const float *freq, int rows, int n_heads,
                      int head_dim, int n_rot, float mscale, bool interleaved, cudaStream_t stream)
{
    if (rows > 0)
        LAUNCH(rope_kernel, rows, ROPE_THREADS, 0, stream, x, pos, freq, n_heads, head_dim, n_rot,
               mscale, interleaved);
}
