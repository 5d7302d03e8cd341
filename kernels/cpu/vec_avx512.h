/* The vector words (vec_scalar.h says what they mean) for 16 lanes: AVX-512 F, BW, VL, DQ.
 * Included only by isa_avx512*.c, before the templates.
 *
 * With -DDUETTO_SIMDE the instructions are emulated by SIMDe on an AVX2 machine, so that these
 * paths are tested everywhere (build/kcheck_simde).  SIMDe 0.7.4 lacks some of them: avx512_* below
 * are written with what it has. */
#ifndef KERNELS_CPU_VEC_AVX512_H
#define KERNELS_CPU_VEC_AVX512_H
#include <stdint.h>
#include <string.h>

#ifdef DUETTO_SIMDE
#pragma GCC diagnostic ignored "-Wpsabi"
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#else
#include <immintrin.h>
#endif

#define VLEN       16
#define VEC_INLINE static inline __attribute__((always_inline, unused))

typedef __m512 vf;

/* clang-format off */
#ifdef DUETTO_SIMDE
VEC_INLINE vf avx512_load_n(const float *p, int n)
{
    float t[16] = {0};
    memcpy(t, p, (size_t)n * 4);
    return _mm512_loadu_ps(t);
}
VEC_INLINE void avx512_store_n(float *p, vf a, int n)
{
    float t[16];
    _mm512_storeu_ps(t, a);
    memcpy(p, t, (size_t)n * 4);
}
VEC_INLINE vf avx512_load_h(const uint16_t *p)
{
    float t[16];
    for (int i = 0; i < 16; i += 8)
        _mm256_storeu_ps(t + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + i))));
    return _mm512_loadu_ps(t);
}
VEC_INLINE void avx512_store_h(uint16_t *p, vf a)
{
    float t[16];
    _mm512_storeu_ps(t, a);
    for (int i = 0; i < 16; i += 8)
        _mm_storeu_si128((__m128i *)(p + i), _mm256_cvtps_ph(_mm256_loadu_ps(t + i), 0));
}
VEC_INLINE vf avx512_load_hn(const uint16_t *p, int n)
{
    uint16_t t[16] = {0};
    memcpy(t, p, (size_t)n * 2);
    return avx512_load_h(t);
}
VEC_INLINE void avx512_store_hn(uint16_t *p, vf a, int n)
{
    uint16_t t[16];
    avx512_store_h(t, a);
    memcpy(p, t, (size_t)n * 2);
}
/* In halves, as the native instruction sequence does. */
VEC_INLINE float avx512_sum(vf a)
{
    float t[16];
    _mm512_storeu_ps(t, a);
    for (int w = 8; w > 0; w /= 2)
        for (int i = 0; i < w; i++)
            t[i] += t[i + w];
    return t[0];
}
VEC_INLINE float avx512_top(vf a)
{
    float t[16];
    _mm512_storeu_ps(t, a);
    for (int i = 1; i < 16; i++)
        t[0] = t[0] > t[i] ? t[0] : t[i];
    return t[0];
}
VEC_INLINE vf avx512_swap(vf a)
{
    return _mm512_shuffle_ps(a, a, 0xb1);
}
#else
VEC_INLINE __mmask16 avx512_mask(int n) { return (__mmask16)((1u << n) - 1u); }
VEC_INLINE vf avx512_load_n(const float *p, int n)
{
    return _mm512_maskz_loadu_ps(avx512_mask(n), p);
}
VEC_INLINE void avx512_store_n(float *p, vf a, int n)
{
    _mm512_mask_storeu_ps(p, avx512_mask(n), a);
}
VEC_INLINE vf avx512_load_h(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
VEC_INLINE void avx512_store_h(uint16_t *p, vf a)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
VEC_INLINE vf avx512_load_hn(const uint16_t *p, int n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(avx512_mask(n), p));
}
VEC_INLINE void avx512_store_hn(uint16_t *p, vf a, int n)
{
    _mm256_mask_storeu_epi16(p, avx512_mask(n), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
VEC_INLINE float avx512_sum(vf a) { return _mm512_reduce_add_ps(a); }
VEC_INLINE float avx512_top(vf a) { return _mm512_reduce_max_ps(a); }
VEC_INLINE vf avx512_swap(vf a) { return _mm512_permute_ps(a, 0xb1); }
#endif

VEC_INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
VEC_INLINE vf vf_load_n(const float *p, int n) { return avx512_load_n(p, n); }
VEC_INLINE void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
VEC_INLINE void vf_store_n(float *p, vf a, int n) { avx512_store_n(p, a, n); }
VEC_INLINE vf vf_load_h(const uint16_t *p) { return avx512_load_h(p); }
VEC_INLINE vf vf_load_hn(const uint16_t *p, int n) { return avx512_load_hn(p, n); }
VEC_INLINE void vf_store_h(uint16_t *p, vf a) { avx512_store_h(p, a); }
VEC_INLINE void vf_store_hn(uint16_t *p, vf a, int n) { avx512_store_hn(p, a, n); }
VEC_INLINE vf vf_set1(float a) { return _mm512_set1_ps(a); }
VEC_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
VEC_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
VEC_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
VEC_INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
VEC_INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
VEC_INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
VEC_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
VEC_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
VEC_INLINE float vf_sum(vf a) { return avx512_sum(a); }
VEC_INLINE float vf_top(vf a) { return avx512_top(a); }
/* (1, 0, 3, 2 ...) */
VEC_INLINE vf vf_swap(vf a) { return avx512_swap(a); }
VEC_INLINE vf vf_zero_below(vf v, vf x, vf limit)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ), v, _mm512_setzero_ps());
}
VEC_INLINE vf vf_pow2(vf z)
{
    __m512i u = _mm512_add_epi32(_mm512_castps_si512(z), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(u, 23));
}
/* clang-format on */
#endif
