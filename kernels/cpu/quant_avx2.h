/* The words of linear_tmpl.h for 8 rows of a panel at a time: AVX2.
 * Included only by isa_avx2.c, after vec_avx2.h.
 *
 * There is no instruction for u8 x s8 -> i32; vpmaddubsw gives i16 sums of two products, which
 * linear_tmpl.h adds up as long as they provably fit. */
#ifndef KERNELS_CPU_QUANT_AVX2_H
#define KERNELS_CPU_QUANT_AVX2_H
#include <math.h>

#include "kernels/cpu/linear.h"
#include "kernels/cpu/vec_avx2.h"

#define QUANT_VNNI  0
#define GEMM_ROWS   4  /* rows of x in a tile of expanded panels, */
#define GEMM_WIDE   1  /* and panels side by side */
#define EXPAND_ROWS 12 /* from here on expanding pays */
#define PLAIN_ROWS  6  /* rows and panels of a tile of plain weights: */
#define PLAIN_WIDE  1
#define PLAIN_ONE   4 /* panels side by side for one row, to hide the latency of fma */

typedef __m256i vi;

/* clang-format off */
VEC_INLINE vi vi_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
/* The same 4 bytes for every row. */
VEC_INLINE vi vi_load4(const int8_t *p)
{
    int32_t v;
    memcpy(&v, p, sizeof(v));
    return _mm256_set1_epi32(v);
}
VEC_INLINE vi vi_zero(void) { return _mm256_setzero_si256(); }
VEC_INLINE vi vi_set32(int32_t v) { return _mm256_set1_epi32(v); }
VEC_INLINE vi vi_set8(int v) { return _mm256_set1_epi8((char)v); }
VEC_INLINE vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
VEC_INLINE vi vi_or(vi a, vi b) { return _mm256_or_si256(a, b); }
#define vi_right(a, n) ((n) > 0 ? _mm256_srli_epi16(a, n) : (a)) /* 16-bit lanes */
#define vi_left(a, n)  ((n) > 0 ? _mm256_slli_epi16(a, n) : (a))
VEC_INLINE vi vi_add32(vi a, vi b) { return _mm256_add_epi32(a, b); }
VEC_INLINE vi vi_add16(vi a, vi b) { return _mm256_add_epi16(a, b); }
#define vi_left32(a, n) _mm256_slli_epi32(a, n)
#define vi_right_signed(a, n) _mm256_srai_epi16(a, n)
/* i16 x i16, sums of two as i32 */
VEC_INLINE vi vi_mul16(vi a, vi b) { return _mm256_madd_epi16(a, b); }
/* u8 x s8, sums of two as i16 */
VEC_INLINE vi vi_mul8(vi u, vi s) { return _mm256_maddubs_epi16(u, s); }
/* i16, sums of two as i32 */
VEC_INLINE vi vi_widen(vi a) { return _mm256_madd_epi16(a, _mm256_set1_epi16(1)); }
VEC_INLINE vi vi_lookup(const uint8_t table[16], vi a)
{
    __m128i t = _mm_loadu_si128((const __m128i *)table);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(t), a);
}
VEC_INLINE vi vi_of_vf(vf a) { return _mm256_cvtps_epi32(a); } /* to nearest even */
/* 0 ... 32767 of 4 tokens each, as pairs of 16 bits: the tokens 0 2 1 3 (attn_q8_tmpl.h) */
VEC_INLINE void vi_store_weights(char *p, vi a)
{
    a = _mm256_packs_epi32(_mm256_shuffle_epi32(a, 0xd8), a);
    a = _mm256_permute4x64_epi64(a, 0x08);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(a));
}
VEC_INLINE vf vf_of_i32(vi a) { return _mm256_cvtepi32_ps(a); }
VEC_INLINE vf vf_load_u8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
VEC_INLINE vf vf_load_s8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
VEC_INLINE vf vf_load_b(const uint16_t *p) /* bf16 */
{
    __m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
}
/* Keeps v in a register and the order of what comes before and after: left alone, the compiler
 * reorders the sums of a tile so that all its products are alive at once, and spills most. */
#define vi_keep(v) __asm__ volatile("" : "+x"(v))
/* What was loaded before is loaded again after, instead of being kept for long. */
#define vi_fence() __asm__ volatile("" ::: "memory")
VEC_INLINE void vi_store(void *p, vi a) { _mm256_storeu_si256((__m256i *)p, a); }
/* clang-format on */

/* Packs interleave the 128-bit halves: dwords 0 4 1 5 2 6 3 7 put them in order. */
VEC_INLINE void quant_store8(int8_t *to, const __m256i q16[2])
{
    __m256i q8 = _mm256_packs_epi16(q16[0], q16[1]);
    q8 = _mm256_permutevar8x32_epi32(q8, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)to, q8);
}

/* The bits of the largest magnitude of 32 floats, which it leaves in v. */
VEC_INLINE int quant_top(__m256 v[4], const float *x)
{
    const __m256i low31 = _mm256_set1_epi32(0x7fffffff);
    __m256i top = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        top = _mm256_max_epi32(top, _mm256_and_si256(_mm256_castps_si256(v[i]), low31));
    }
    __m128i t = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0xb1));
    return _mm_cvtsi128_si32(t);
}

/* Sums of the halves of 32 numbers of 16 bits. */
VEC_INLINE void quant_sums(int32_t sums[2], const __m256i q16[2])
{
    for (int i = 0; i < 2; i++) {
        __m256i s8 = _mm256_madd_epi16(q16[i], _mm256_set1_epi16(1));
        __m128i s = _mm_add_epi32(_mm256_castsi256_si128(s8), _mm256_extracti128_si256(s8, 1));
        s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
        s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
        sums[i] = _mm_cvtsi128_si32(s);
    }
}

VEC_INLINE void quant_start(struct linear_x *to, const int32_t sum16[2])
{
    to->start = -LINEAR_ZERO * (sum16[0] + sum16[1]);
    to->start16[0] = -LINEAR_ZERO16 * sum16[0];
    to->start16[1] = -LINEAR_ZERO16 * sum16[1];
}

/* The law is in linear_law.h. */
VEC_INLINE bool quant_block(struct linear_x *to, struct linear_x *second, const float *x,
                            float limit)
{
    __m256 v[4];
    int top = quant_top(v, x);
    float amax = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(top)));
    const bool two = second && top < 0x7f800000 && amax >= 1e-30f && amax > limit;
    if (second && !two)
        memset(second, 0, sizeof(*second));
    if (top >= 0x7f800000 || amax < 1e-30f) {
        memset(to, 0, sizeof(*to));
        if (top >= 0x7f800000)
            to->d = to->m = to->m16[0] = to->m16[1] = NAN;
        return false;
    }
    __m256 inverse = _mm256_set1_ps((two ? 32512.0f : 127.0f) / amax);
    __m256i q[4];
    for (int i = 0; i < 4; i++)
        q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
    __m256i q16[2] = {_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3])};
    int32_t sum16[2];
    quant_sums(sum16, q16);
    to->d = amax / 127.0f;
    const float d = to->d * 0x1p-8f;
    if (two) {
        __m256i lower[2];
        for (int i = 0; i < 2; i++) {
            __m256i all = q16[i];
            q16[i] = _mm256_srai_epi16(_mm256_add_epi16(all, _mm256_set1_epi16(128)), 8);
            lower[i] = _mm256_sub_epi16(all, _mm256_slli_epi16(q16[i], 8));
        }
        quant_store8(second->q, lower);
        int32_t part16[2];
        quant_sums(part16, lower);
        quant_start(second, part16);
        quant_sums(part16, q16);
        quant_start(to, part16);
        second->d = d;
        second->m = second->m16[0] = second->m16[1] = 0;
        second->second = 0;
    } else {
        quant_start(to, sum16);
        sum16[0] *= 256;
        sum16[1] *= 256;
    }
    quant_store8(to->q, q16);
    to->m = d * (float)(sum16[0] + sum16[1]);
    to->m16[0] = d * (float)sum16[0];
    to->m16[1] = d * (float)sum16[1];
    to->second = 0;
    return two;
}

static void linear_quant(struct linear_x *to, const float *x, int64_t n_rows, int64_t n_in,
                         int parts, float limit)
{
    const int64_t n_blocks = n_in / 32;
    if (parts == 1) {
        for (int64_t b = 0; b < n_rows * n_blocks; b++)
            quant_block(to + b, NULL, x + 32 * b, 0);
        return;
    }
    for (int64_t r = 0; r < n_rows; r++, x += n_in, to += 2 * n_blocks) {
        float sum = 0;
        __m256 v[4];
        for (int64_t b = 0; b < n_blocks; b++)
            sum += _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(quant_top(v, x + 32 * b))));
        float above = limit * (sum / (float)n_blocks);
        uint32_t bits = 0;
        for (int64_t b = 0; b < n_blocks; b++) {
            bits |= (uint32_t)quant_block(to + b, to + n_blocks + b, x + 32 * b, above) << b % 32;
            if (b % 32 == 31 || b == n_blocks - 1) {
                to[b / 32].second = bits;
                bits = 0;
            }
        }
    }
}
#endif
