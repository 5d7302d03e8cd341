/* The vector words (vec_scalar.h says what they mean) for 8 lanes: AVX2, FMA, F16C.
 * Included only by isa_avx2.c, before the templates. */
#ifndef KERNELS_CPU_VEC_AVX2_H
#define KERNELS_CPU_VEC_AVX2_H
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define VLEN       8
#define VEC_INLINE static inline __attribute__((always_inline, unused))

typedef __m256 vf;

/* clang-format off */
/* The first n lanes all ones. */
VEC_INLINE __m256i vf_mask(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
VEC_INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
VEC_INLINE vf vf_load_n(const float *p, int n) { return _mm256_maskload_ps(p, vf_mask(n)); }
VEC_INLINE void vf_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
VEC_INLINE void vf_store_n(float *p, vf a, int n) { _mm256_maskstore_ps(p, vf_mask(n), a); }
VEC_INLINE vf vf_load_h(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
VEC_INLINE vf vf_load_hn(const uint16_t *p, int n)
{
    uint16_t t[8] = {0};
    memcpy(t, p, (size_t)n * 2);
    return vf_load_h(t);
}
VEC_INLINE void vf_store_h(uint16_t *p, vf a)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
VEC_INLINE void vf_store_hn(uint16_t *p, vf a, int n)
{
    uint16_t t[8];
    vf_store_h(t, a);
    memcpy(p, t, (size_t)n * 2);
}
VEC_INLINE vf vf_set1(float a) { return _mm256_set1_ps(a); }
VEC_INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
VEC_INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
VEC_INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
VEC_INLINE vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
VEC_INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
VEC_INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
VEC_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
VEC_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
VEC_INLINE float vf_sum(vf a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
VEC_INLINE float vf_top(vf a)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
/* (1, 0, 3, 2, 5, 4, 7, 6) */
VEC_INLINE vf vf_swap(vf a) { return _mm256_permute_ps(a, 0xb1); }
VEC_INLINE vf vf_zero_below(vf v, vf x, vf limit)
{
    return _mm256_andnot_ps(_mm256_cmp_ps(x, limit, _CMP_LT_OQ), v);
}
VEC_INLINE vf vf_pow2(vf z)
{
    __m256i u = _mm256_add_epi32(_mm256_castps_si256(z), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(u, 23));
}
/* clang-format on */
#endif
