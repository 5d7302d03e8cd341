/* The vector words for one lane: plain C, the law of what the other vec_*.h mean.
 * Included only by isa_scalar.c, before the templates.
 *
 *   vf             VLEN floats
 *   _n             the first n lanes (1 <= n < VLEN); loads fill the rest with zeros
 *   _h             IEEE half precision in memory, rounded to nearest even
 *   vf_max(a, b)   b when one of them is NaN, like the instruction */
#ifndef KERNELS_CPU_VEC_SCALAR_H
#define KERNELS_CPU_VEC_SCALAR_H
#include <stdint.h>
#include <string.h>

#include "kernels/quant.h"

#define VLEN       1
#define VEC_INLINE static inline __attribute__((always_inline, unused))

typedef float vf;

/* clang-format off */
VEC_INLINE vf vf_load(const float *p) { return *p; }
VEC_INLINE vf vf_load_n(const float *p, int n) { return n > 0 ? *p : 0.0f; }
VEC_INLINE void vf_store(float *p, vf a) { *p = a; }
VEC_INLINE void vf_store_n(float *p, vf a, int n) { if (n > 0) *p = a; }
VEC_INLINE vf vf_load_h(const uint16_t *p) { return f16_to_f32(*p); }
VEC_INLINE vf vf_load_hn(const uint16_t *p, int n) { return n > 0 ? f16_to_f32(*p) : 0.0f; }
VEC_INLINE void vf_store_h(uint16_t *p, vf a) { *p = f32_to_f16(a); }
VEC_INLINE void vf_store_hn(uint16_t *p, vf a, int n) { if (n > 0) *p = f32_to_f16(a); }
VEC_INLINE vf vf_set1(float a) { return a; }
VEC_INLINE vf vf_add(vf a, vf b) { return a + b; }
VEC_INLINE vf vf_sub(vf a, vf b) { return a - b; }
VEC_INLINE vf vf_mul(vf a, vf b) { return a * b; }
VEC_INLINE vf vf_div(vf a, vf b) { return a / b; }
VEC_INLINE vf vf_max(vf a, vf b) { return a > b ? a : b; }
VEC_INLINE vf vf_min(vf a, vf b) { return a < b ? a : b; }
/* a * b + c; c - a * b */
VEC_INLINE vf vf_fma(vf a, vf b, vf c) { return a * b + c; }
VEC_INLINE vf vf_fnma(vf a, vf b, vf c) { return c - a * b; }
VEC_INLINE float vf_sum(vf a) { return a; }
VEC_INLINE float vf_top(vf a) { return a; }
/* 0 in the lanes where x < limit, else v */
VEC_INLINE vf vf_zero_below(vf v, vf x, vf limit) { return x < limit ? 0.0f : v; }
/* 2^n from the float 1.5 * 2^23 + n, -126 <= n <= 127 */
VEC_INLINE vf vf_pow2(vf z)
{
    uint32_t u;
    memcpy(&u, &z, 4);
    u = (u + 127u) << 23;
    memcpy(&z, &u, 4);
    return z;
}
/* clang-format on */
#endif
