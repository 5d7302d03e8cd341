/* The words of linear_tmpl.h for the 16 rows of a panel at once: AVX-512, with the u8 x s8 -> i32
 * dot product where there is VNNI.  (What they mean: quant_avx2.h.)
 * Included only by isa_avx512.c and isa_avx512vnni.c, after vec_avx512.h.  The activations are
 * rounded in round_avx512.h. */
#ifndef KERNELS_CPU_QUANT_AVX512_H
#define KERNELS_CPU_QUANT_AVX512_H
#include "kernels/cpu/vec_avx512.h"

#ifndef QUANT_VNNI
#define QUANT_VNNI 0
#endif
#if QUANT_VNNI
#define DOT_WIDE 2 /* panels, with 3 to so many rows of x: */
#ifdef DUETTO_SIMDE
#define DOT_WIDE_ROWS 4 /* the larger ones take minutes to compile */
#else
#define DOT_WIDE_ROWS 6
#endif
#define GEMM_ROWS   4 /* 12 sums, 12 accumulators; as 8 x 1 the loads of x would be the limit */
#define GEMM_WIDE   3
#define EXPAND_ROWS 32
#else
#define GEMM_ROWS   8
#define GEMM_WIDE   1
#define EXPAND_ROWS 12
#endif
#define PLAIN_ROWS 6
#define PLAIN_WIDE 4
#define PLAIN_ONE  8

typedef __m512i vi;

/* clang-format off */
VEC_INLINE vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
VEC_INLINE vi vi_load4(const int8_t *p)
{
    int32_t v;
    memcpy(&v, p, sizeof(v));
    return _mm512_set1_epi32(v);
}
VEC_INLINE vi vi_zero(void) { return _mm512_setzero_si512(); }
VEC_INLINE vi vi_set32(int32_t v) { return _mm512_set1_epi32(v); }
VEC_INLINE vi vi_set8(int v) { return _mm512_set1_epi8((char)v); }
VEC_INLINE vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
VEC_INLINE vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
#define vi_right(a, n) ((n) > 0 ? _mm512_srli_epi16(a, n) : (a))
#define vi_left(a, n)  ((n) > 0 ? _mm512_slli_epi16(a, n) : (a))
VEC_INLINE vi vi_add32(vi a, vi b) { return _mm512_add_epi32(a, b); }
VEC_INLINE vi vi_add16(vi a, vi b) { return _mm512_add_epi16(a, b); }
#define vi_left32(a, n) _mm512_slli_epi32(a, n)
#define vi_right_signed(a, n) _mm512_srai_epi16(a, n)
VEC_INLINE vi vi_mul8(vi u, vi s) { return _mm512_maddubs_epi16(u, s); }
#ifdef DUETTO_SIMDE /* 0.7.4 gives this alias the arguments of the masked form */
VEC_INLINE vi vi_mul16(vi a, vi b) { return simde_mm512_madd_epi16(a, b); }
#else
VEC_INLINE vi vi_mul16(vi a, vi b) { return _mm512_madd_epi16(a, b); }
#endif
VEC_INLINE vi vi_widen(vi a) { return vi_mul16(a, _mm512_set1_epi16(1)); }
#if QUANT_VNNI
/* acc + u8 x s8, sums of four */
VEC_INLINE vi vi_dot8(vi acc, vi u, vi s) { return _mm512_dpbusd_epi32(acc, u, s); }
#endif
VEC_INLINE vi vi_lookup(const uint8_t table[16], vi a)
{
    __m128i t = _mm_loadu_si128((const __m128i *)table);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(t), a);
}
#ifdef DUETTO_SIMDE
#define vi_keep(v) ((void)(v))
#else
#define vi_keep(v) __asm__ volatile("" : "+v"(v))
#endif
#define vi_fence() __asm__ volatile("" ::: "memory")
VEC_INLINE void vi_store(void *p, vi a) { _mm512_storeu_si512(p, a); }
#ifdef DUETTO_SIMDE
VEC_INLINE vi vi_of_vf(vf a)
{
    float in[16];
    int32_t out[16];
    vf_store(in, a);
    for (int i = 0; i < 16; i++)
        out[i] = (int32_t)lrintf(in[i]);
    return vi_load(out);
}
VEC_INLINE void vi_store_weights(char *p, vi a)
{
    int32_t w[16];
    vi_store(w, a);
    for (int i = 0; i < 16; i++) {
#if QUANT_VNNI
        p[i] = (char)(w[i] >> 8);
        p[i + 16] = (char)w[i];
#else
        const int at = 2 * ((i & ~3) + i % 4 / 2 + i % 2 * 2);
        p[at] = (char)w[i];
        p[at + 1] = (char)(w[i] >> 8);
#endif
    }
}
VEC_INLINE vf vf_of_i32(vi a)
{
    int32_t in[16];
    float out[16];
    vi_store(in, a);
    for (int i = 0; i < 16; i++)
        out[i] = (float)in[i];
    return _mm512_loadu_ps(out);
}
VEC_INLINE vf vf_load_u8(const uint8_t *p)
{
    float out[16];
    for (int i = 0; i < 16; i++)
        out[i] = (float)p[i];
    return _mm512_loadu_ps(out);
}
VEC_INLINE vf vf_load_s8(const uint8_t *p)
{
    float out[16];
    for (int i = 0; i < 16; i++)
        out[i] = (float)(int8_t)p[i];
    return _mm512_loadu_ps(out);
}
VEC_INLINE vf vf_load_b(const uint16_t *p)
{
    uint32_t out[16];
    for (int i = 0; i < 16; i++)
        out[i] = (uint32_t)p[i] << 16;
    return _mm512_loadu_ps((const float *)(const void *)out);
}
#else
VEC_INLINE vi vi_of_vf(vf a) { return _mm512_cvtps_epi32(a); }
/* As pairs of 16 bits, or for VNNI the upper bytes of 16 tokens and then the lower ones. */
VEC_INLINE void vi_store_weights(char *p, vi a)
{
#if QUANT_VNNI
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(_mm512_srli_epi32(a, 8)));
    _mm_storeu_si128((__m128i *)p + 1, _mm512_cvtepi32_epi8(a));
#else
    a = _mm512_shuffle_epi32(a, 0xd8);
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(a));
#endif
}
VEC_INLINE vf vf_of_i32(vi a) { return _mm512_cvtepi32_ps(a); }
VEC_INLINE vf vf_load_u8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
VEC_INLINE vf vf_load_s8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
VEC_INLINE vf vf_load_b(const uint16_t *p)
{
    __m512i v = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
}
#endif
/* clang-format on */
#endif
