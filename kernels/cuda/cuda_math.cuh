/* Arithmetic that several kernels share: exp and the activations, operation for operation as the CPU has
 * them (kernels/cpu/math_tmpl.h, elem_tmpl.h), so that device, emulation and CPU give the same bits where
 * the order of the sums is the same.  No special function unit is used.
 * Thread: any. */
#ifndef KERNELS_CUDA_CUDA_MATH_CUH
#define KERNELS_CUDA_CUDA_MATH_CUH
#include <string.h>

#include "kernels/cuda/cuda_dialect.cuh"
#include "kernels/ops.h"

/* exp(x) = 2^n exp(r), n = round(x / ln 2): 0 below -87.33, exp(88.37) above 88.37, NaN stays NaN. */
__device__ static inline float cuda_exp(float x)
{
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    float c = x > -87.33f ? x : -87.33f;
    c = c < 88.37f ? c : 88.37f;
    c = x != x ? x : c;
    const float z = fmaf(c, 1.44269504f, round), n = z - round;
    float r = fmaf(n, -0.693359375f, c);
    r = fmaf(n, 2.121944417e-4f, r);
    float q = fmaf(1.392632606e-3f, r, 8.363292553e-3f);
    q = fmaf(q, r, 4.166655242e-2f);
    q = fmaf(q, r, 1.666657627e-1f);
    q = fmaf(q, r, 0.5f);
    q = fmaf(q, r * r, r) + 1.0f;
    const float scale = __uint_as_float((__float_as_uint(z) + 127u) << 23);
    return x < -87.33f ? 0.0f : q * scale;
}

/* x Phi(x) with the error function (Abramowitz & Stegun 7.1.26). */
__device__ static inline float cuda_gelu(float x)
{
    const float a = fminf(20.0f, fabsf(x)), t = 1.0f / fmaf(a, 0.231641888f, 1.0f);
    float p = fmaf(t, 0.5307027145f, -0.7265760135f);
    p = fmaf(p, t, 0.7107068705f);
    p = fmaf(p, t, -0.142248368f);
    p = fmaf(p, t, 0.127414796f);
    const float e = cuda_exp(a * a * -0.5f);
    const float top = x != x ? x : fmaxf(0.0f, x);
    return fmaf(-(a * e), p * t, top);
}

__device__ static inline float cuda_act(enum act act, float x)
{
    switch (act) {
    case ACT_SILU:
        return x / (1.0f + cuda_exp(0.0f - x));
    case ACT_GELU:
        return cuda_gelu(x);
    case ACT_GELU_TANH:
        return x / (1.0f + cuda_exp(fmaf(x * x, -0.0713548162726f, -1.5957691216f) * x));
    case ACT_QUICK_GELU:
        return x / (1.0f + cuda_exp(-1.702f * x));
    case ACT_RELU:
        return x != x ? x : fmaxf(0.0f, x);
    default:
        return x;
    }
}

/* 2^-e and 2^e such that the largest magnitude times 2^-e is in [2^14, 2^15), so that halves neither
 * overflow nor lose their small neighbours; 1 for zeros, and for what is not finite, which stays so. */
__device__ static inline void cuda_scales_of(float top, float *down, float *up)
{
    *down = *up = 1.0f;
    if (!(top > 0.0f) || top > 3.0e38f)
        return;
    int e = (int)(__float_as_uint(top) >> 23) - 127 - 14;
    e = e < -126 ? -126 : e; /* the smallest power that is normal */
    *up = __uint_as_float((uint32_t)(e + 127) << 23);
    *down = __uint_as_float((uint32_t)(127 - e) << 23);
}

/* Two numbers as halves or bf16 in a register, and what they lost.  The device converts pairs at four times the rate
 * of single numbers. */
__device__ static inline uint32_t cuda_half_pair(float a, float b, bool bf16, float *lost_a,
                                                 float *lost_b)
{
    uint32_t bits;
    if (bf16) {
        const __nv_bfloat162 h = __floats2bfloat162_rn(a, b);
        *lost_a = a - __bfloat162float(h.x), *lost_b = b - __bfloat162float(h.y);
        memcpy(&bits, &h, sizeof(bits));
    } else {
        const __half2 h = __floats2half2_rn(a, b);
        *lost_a = a - __half2float(h.x), *lost_b = b - __half2float(h.y);
        memcpy(&bits, &h, sizeof(bits));
    }
    return bits;
}
#endif
