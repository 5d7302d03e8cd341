/* linear_quant for 32 activations at once: AVX-512.  The law is in linear_law.h.
 * Included only by isa_avx512.c, after vec_avx512.h. */
#ifndef KERNELS_CPU_ROUND_AVX512_H
#define KERNELS_CPU_ROUND_AVX512_H
#include <math.h>
#include <stddef.h>

#include "kernels/cpu/linear.h"
#include "kernels/cpu/vec_avx512.h"

/* The largest magnitude of a block; infinity or NaN if one of them is. */
VEC_INLINE float round_top(const float *x)
{
    const __m512i low31 = _mm512_set1_epi32(0x7fffffff);
    __m512i a = _mm512_and_si512(_mm512_loadu_si512(x), low31);
    a = _mm512_max_epi32(a, _mm512_and_si512(_mm512_loadu_si512(x + 16), low31));
    __m256i b = _mm256_max_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    __m128i c = _mm_max_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    c = _mm_max_epi32(c, _mm_shuffle_epi32(c, 0x4e));
    c = _mm_max_epi32(c, _mm_shuffle_epi32(c, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(c));
}

/* (s, s16[0], s16[1], 0) of 32 numbers */
VEC_INLINE __m128i round_sums(__m256i q)
{
    const __m256i u = _mm256_xor_si256(q, _mm256_set1_epi8((char)0x80)); /* q + 128 */
    __m128i s = _mm256_cvtepi64_epi32(_mm256_sad_epu8(u, _mm256_setzero_si256()));
    s = _mm_sub_epi32(s, _mm_set1_epi32(8 * 128));
    s = _mm_hadd_epi32(s, s);
    const __m128i all = _mm_hadd_epi32(s, s);
    return _mm_maskz_mov_epi32(7, _mm_blend_epi32(all, _mm_shuffle_epi32(s, 0x10), 6));
}

/* (d, m, m16[0], m16[1]) and what products start at follow q; s: round_sums(q). */
VEC_INLINE void round_store(struct linear_x *to, __m256i q, __m128 d, __m128i s)
{
    const __m128i zeros = _mm_setr_epi32(-LINEAR_ZERO, -LINEAR_ZERO16, -LINEAR_ZERO16, 0);
    _mm256_storeu_si256((__m256i *)(void *)to->q, q);
    _mm_storeu_ps(&to->d, d);
    _mm_storeu_si128((__m128i *)(void *)&to->start, _mm_mullo_epi32(s, zeros));
}

/* amax: round_top(x).  Returns whether the block has a second part. */
VEC_INLINE bool round_block(struct linear_x *to, struct linear_x *second, const float *x,
                            float amax, float limit)
{
    if (!(amax >= 1e-30f && amax < INFINITY)) {
        memset(to, 0, sizeof(*to));
        if (second)
            memset(second, 0, sizeof(*second));
        if (!(amax < INFINITY))
            to->d = to->m = to->m16[0] = to->m16[1] = NAN;
        return false;
    }
    const bool two = second && amax > limit;
    const vf inverse = vf_set1((two ? 32512.0f : 127.0f) / amax);
    __m256i low = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(vf_mul(vf_load(x), inverse)));
    __m256i high = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(vf_mul(vf_load(x + 16), inverse)));
    const __m512i all = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    const __m512i upper =
        two ? _mm512_srai_epi16(_mm512_add_epi16(all, _mm512_set1_epi16(128)), 8) : all;
    const __m256i q = _mm512_cvtepi16_epi8(upper);
    const __m128i s = round_sums(q);
    __m128i sum16 = _mm_slli_epi32(s, 8);
    const float one = amax / 127.0f, d = one * 0x1p-8f;
    if (two) {
        const __m256i q2 = _mm512_cvtepi16_epi8(_mm512_sub_epi16(all, _mm512_slli_epi16(upper, 8)));
        const __m128i s2 = round_sums(q2);
        sum16 = _mm_add_epi32(sum16, s2);
        round_store(second, q2, _mm_set_ss(d), s2);
    } else if (second) {
        memset(second, 0, sizeof(*second));
    }
    const __m128 m = _mm_mul_ps(_mm_cvtepi32_ps(sum16), _mm_set1_ps(d));
    round_store(to, q, _mm_move_ss(_mm_permute_ps(m, 0x90), _mm_set_ss(one)), s);
    return two;
}

static void linear_quant(struct linear_x *to, const float *x, int64_t n_rows, int64_t n_in,
                         int parts, float limit)
{
    _Static_assert(offsetof(struct linear_x, m16) == 40 && offsetof(struct linear_x, second) == 60,
                   "round_store");
    const int64_t n_blocks = n_in / 32;
    if (parts == 1) {
        for (int64_t b = 0; b < n_rows * n_blocks; b++)
            round_block(to + b, NULL, x + 32 * b, round_top(x + 32 * b), 0);
        return;
    }
    for (int64_t r = 0; r < n_rows; r++, x += n_in, to += 2 * n_blocks) {
        float sum = 0;
        for (int64_t b = 0; b < n_blocks; b++)
            sum += to[b].d = round_top(x + 32 * b);
        const float above = limit * (sum / (float)n_blocks);
        uint32_t bits = 0;
        for (int64_t b = 0; b < n_blocks; b++) {
            bits |= (uint32_t)round_block(to + b, to + n_blocks + b, x + 32 * b, to[b].d, above)
                    << b % 32;
            if (b % 32 == 31 || b == n_blocks - 1) {
                to[b / 32].second = bits;
                bits = 0;
            }
        }
    }
}
#endif
