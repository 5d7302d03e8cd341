/* One attention tile over keys and values of 8 bits, as one would write it on a whiteboard: the
 * scalar level.  Included only by isa_scalar.c, after math_tmpl.h.
 *
 * With x a query rounded to 16 bits and k, v the codes of a page (kernels/cpu/attn.h):
 *     score = the sum over blocks b of  kd[b] x.d[b] / 256 * (float)(sum of k * x over the block)
 *     e = exp(score - m),  l = the sum of e
 *     w = round(e * vd * 32767 / top),  top the largest e * vd of the chunk
 *     acc = (float)(sum of w * v) * (top / 32767)
 * Both integer sums are exact: 256 * 32767 * 127 < 2^31. */
#include "kernels/cpu/attn.h"
#include "kernels/cpu/linear.h"
#include "kernels/quant.h"

#define LAW_WEIGHT 32767

static float law_score(const struct cpu_attn_tile *t, int q, int token)
{
    const int hd = t->head_dim, slot = token % KV_PAGE_TOKENS;
    const uint8_t *k = (const uint8_t *)t->k[token / KV_PAGE_TOKENS];
    const uint16_t *kd = (const uint16_t *)(const void *)(k + KV_PAGE_TOKENS * hd);
    float score = 0;
    for (int b = 0; b < attn_blocks(hd); b++) {
        const struct linear_x *x = t->x + q * attn_blocks(hd) * 2 + b,
                              *second = x + attn_blocks(hd);
        int32_t sum = 0;
        for (int d = b * ATTN_BLOCK; d < hd && d < (b + 1) * ATTN_BLOCK; d++)
            sum += (k[d / 4 * 64 + slot * 4 + d % 4] - 128) *
                   (256 * x->q[d % ATTN_BLOCK] + second->q[d % ATTN_BLOCK]);
        score += f16_to_f32(kd[b * KV_PAGE_TOKENS + slot]) * (x->d * 0x1p-8f) * (float)sum;
    }
    return score;
}

static float law_value_scale(const struct cpu_attn_tile *t, int token)
{
    const char *v = t->v[token / KV_PAGE_TOKENS] + KV_PAGE_TOKENS * t->head_dim;
    return ((const float *)(const void *)v)[token % KV_PAGE_TOKENS];
}

static void law_query(const struct cpu_attn_tile *t, int q)
{
    const int hd = t->head_dim, lo = t->lo[q], hi = t->hi[q];
    float *s = t->score + (int64_t)q * ATTN_CHUNK, *acc = t->acc + (int64_t)q * hd;
    t->m[q] = -INFINITY;
    t->l[q] = 0;
    memset(acc, 0, sizeof(float) * (size_t)hd);
    if (lo >= hi)
        return;
    for (int i = lo; i < hi; i++) {
        s[i] = law_score(t, q, i);
        t->m[q] = t->m[q] > s[i] ? t->m[q] : s[i];
    }
    float top = 0, sum = 0;
    for (int i = lo; i < hi; i++) {
        float e = vf_exp(s[i] - t->m[q]);
        t->l[q] += e;
        s[i] = e * law_value_scale(t, i);
        sum += s[i];
        top = top > s[i] ? top : s[i];
    }
    bool finite = sum - sum == 0;
    float inverse = finite && top >= 1e-30f ? LAW_WEIGHT / top : 0;
    for (int d = 0; d < hd; d++) {
        int32_t total = 0;
        for (int i = lo; i < hi; i++) {
            const char *v = t->v[i / KV_PAGE_TOKENS];
            int slot = i % KV_PAGE_TOKENS;
            int8_t code = ((const int8_t *)v)[slot / 4 * 4 * hd + d * 4 + slot % 4];
            total += finite ? (int32_t)lrintf(s[i] * inverse) * code : 0;
        }
        acc[d] = (float)total * (finite ? top / LAW_WEIGHT : NAN);
    }
}

static void attn_tile_q8(const struct cpu_attn_tile *t)
{
    for (int q = 0; q < t->n_q; q++)
        law_query(t, q);
}
