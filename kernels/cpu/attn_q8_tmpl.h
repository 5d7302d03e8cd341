/* One attention tile over keys and values of 8 bits; the arithmetic is the one of attn_q8_law.h.
 * Included once per level, after quant_*.h and math_tmpl.h.
 *
 * All sums over codes are integers, so neither their order nor the number of queries taken together
 * can change a bit.  A query (and then the weights of the values) has 16 bits:
 *     with VNNI      two parts of 8 bits with a sum for each, 256 times the first plus the second
 *     without        pairs of 16 bits against codes widened to 16 bits: the bytes 0 and 2 of each
 *                    4 in one vector, 1 and 3 in another, which takes no shuffles */
#include "kernels/cpu/attn.h"
#include "kernels/cpu/linear.h"

#if defined(DUETTO_SIMDE) /* not for speed: keep the code small */
#define Q8_UNROLL(n)
#else
#define Q8_PRAGMA(x) _Pragma(#x)
#define Q8_UNROLL(n) Q8_PRAGMA(GCC unroll n)
#endif

#define Q8_R      4                       /* queries taken together */
#define Q8_TV     (KV_PAGE_TOKENS / VLEN) /* vectors of 16 tokens */
#define Q8_WEIGHT 32767.0f                /* the largest weight */
#define Q8_SCALE  (ATTN_CHUNK / 2)        /* its scale stands there, behind the weights */
#if QUANT_VNNI
#define Q8_SUMS     2 /* of one result */
#define Q8_PAGES(R) ((R) < 3 ? 4 : 2)
#define Q8_DIMS(R)  ((R) == 4 ? 2 : 4)
#elif VLEN == 16
#define Q8_SUMS     1
#define Q8_PAGES(R) ((R) < 3 ? 4 : 2)
#define Q8_DIMS(R)  4
#else
#define Q8_SUMS     1
#define Q8_PAGES(R) ((R) == 1 ? 2 : 1)
#define Q8_DIMS(R)  ((R) == 1 ? 4 : 2)
#endif

/* Four bytes of every lane, taken apart. */
struct q8_bytes {
    vi a, b;
};

/* The queries of a tile in the form that is multiplied. */
struct q8_query {
#if QUANT_VNNI
    const struct linear_x *x;
    int n_blocks;
#else
    int16_t x[256]; /* of each 4: 0, 2, 1, 3 */
#endif
};

#if QUANT_VNNI
VEC_INLINE void q8_query(struct q8_query *q, const struct linear_x *x, int n_blocks)
{
    q->x = x;
    q->n_blocks = n_blocks;
}
VEC_INLINE struct q8_bytes q8_keys(const char *p)
{
    return (struct q8_bytes){.a = vi_load(p)};
}
VEC_INLINE struct q8_bytes q8_vals(const char *p)
{
    return (struct q8_bytes){.a = vi_load(p)};
}
VEC_INLINE struct q8_bytes q8_dims(const struct q8_query *q, int b, int j)
{
    const struct linear_x *x = q->x + b;
    return (struct q8_bytes){vi_load4(x->q + 4 * j), vi_load4(x[q->n_blocks].q + 4 * j)};
}
VEC_INLINE struct q8_bytes q8_weights(const char *page, int quad)
{
    const int8_t *w = (const int8_t *)page + 4 * quad;
    return (struct q8_bytes){vi_load4(w), vi_load4(w + KV_PAGE_TOKENS)};
}
VEC_INLINE void q8_add_score(vi *sum, struct q8_bytes k, struct q8_bytes x)
{
    sum[0] = vi_dot8(sum[0], k.a, x.a);
    sum[1] = vi_dot8(sum[1], k.a, x.b);
}
VEC_INLINE void q8_add_value(vi *sum, struct q8_bytes v, struct q8_bytes w)
{
    sum[0] = vi_dot8(sum[0], w.a, v.a);
    sum[1] = vi_dot8(sum[1], w.b, v.a);
}
VEC_INLINE vi q8_total(const vi *sum)
{
    return vi_add32(vi_left32(sum[0], 8), sum[1]);
}
#else
VEC_INLINE void q8_query(struct q8_query *q, const struct linear_x *x, int n_blocks)
{
    for (int b = 0; b < n_blocks; b++, x++)
        for (int d = 0; d < ATTN_BLOCK; d++)
            q->x[b * ATTN_BLOCK + (d & ~3) + d % 4 / 2 + d % 2 * 2] =
                (int16_t)(256 * x->q[d] + x[n_blocks].q[d]);
}
VEC_INLINE struct q8_bytes q8_keys(const char *p)
{
    vi k = vi_load(p);
    return (struct q8_bytes){vi_and(k, vi_set32(0x00ff00ff)), vi_right(k, 8)};
}
VEC_INLINE struct q8_bytes q8_vals(const char *p)
{
    vi v = vi_load(p);
    return (struct q8_bytes){vi_right_signed(vi_left(v, 8), 8), vi_right_signed(v, 8)};
}
VEC_INLINE struct q8_bytes q8_pairs(const void *p)
{
    return (struct q8_bytes){vi_load4(p), vi_load4((const int8_t *)p + 4)};
}
VEC_INLINE struct q8_bytes q8_dims(const struct q8_query *q, int b, int j)
{
    return q8_pairs(q->x + b * ATTN_BLOCK + 4 * j);
}
VEC_INLINE struct q8_bytes q8_weights(const char *page, int quad)
{
    return q8_pairs(page + 8 * quad);
}
VEC_INLINE void q8_add_score(vi *sum, struct q8_bytes k, struct q8_bytes x)
{
    sum[0] = vi_add32(sum[0], vi_add32(vi_mul16(k.a, x.a), vi_mul16(k.b, x.b)));
}
VEC_INLINE void q8_add_value(vi *sum, struct q8_bytes v, struct q8_bytes w)
{
    q8_add_score(sum, v, w);
}
VEC_INLINE vi q8_total(const vi *sum)
{
    return sum[0];
}
#endif

/* Scores of queries q0 ... q0+R-1 in pages p0 ... p0+P-1.  With fetch the next pages' keys and these
 * pages' values come into the cache meanwhile: pages lie scattered in memory and are too short for
 * the hardware to foresee. */
VEC_INLINE void q8_score_pages(const struct cpu_attn_tile *t, const struct q8_query *query, int q0,
                               int p0, int R, int P, bool fetch)
{
    const int hd = t->head_dim, n_blocks = attn_blocks(hd);
    const char *const *next = t->k + (p0 + 2 * P <= t->n_pages ? p0 + P : p0);
    const struct linear_x *x = t->x + (int64_t)q0 * n_blocks * 2;
    vf s[Q8_R * 4 * Q8_TV];
    Q8_UNROLL(32)
    for (int i = 0; i < R * P * Q8_TV; i++)
        s[i] = vf_set1(0.0f);
    for (int b = 0; b < n_blocks; b++) {
        vi sum[Q8_R * 4 * Q8_TV * Q8_SUMS];
        Q8_UNROLL(64)
        for (int i = 0; i < R * P * Q8_TV * Q8_SUMS; i++)
            sum[i] = vi_zero();
        int n_quads = (hd - b * ATTN_BLOCK) / 4;
        n_quads = n_quads < ATTN_BLOCK / 4 ? n_quads : ATTN_BLOCK / 4;
        for (int j = 0; j < n_quads; j++) {
            const int at = (b * ATTN_BLOCK / 4 + j) * 64;
            struct q8_bytes k[4 * Q8_TV];
            Q8_UNROLL(4)
            for (int p = 0; p < P; p++) {
                if (fetch) {
                    __builtin_prefetch(next[p] + at);
                    __builtin_prefetch(t->v[p0 + p] + at);
                }
                Q8_UNROLL(2)
                for (int v = 0; v < Q8_TV; v++)
                    k[p * Q8_TV + v] = q8_keys(t->k[p0 + p] + at + v * 4 * VLEN);
            }
            Q8_UNROLL(4)
            for (int r = 0; r < R; r++) {
                struct q8_bytes xs = q8_dims(query + r, b, j);
                Q8_UNROLL(8)
                for (int i = 0; i < P * Q8_TV; i++)
                    q8_add_score(&sum[(i * R + r) * Q8_SUMS], k[i], xs);
            }
        }
        Q8_UNROLL(4)
        for (int p = 0; p < P; p++) {
            const char *scales = t->k[p0 + p] + KV_PAGE_TOKENS * hd;
            const uint16_t *kd = (const uint16_t *)(const void *)scales + b * KV_PAGE_TOKENS;
            Q8_UNROLL(2)
            for (int v = 0; v < Q8_TV; v++) {
                vf d = vf_load_h(kd + v * VLEN);
                Q8_UNROLL(4)
                for (int r = 0; r < R; r++) {
                    const struct linear_x *xb = x + r * n_blocks * 2 + b;
                    const int i = (p * Q8_TV + v) * R + r;
                    vi total = q8_total(&sum[i * Q8_SUMS]);
                    const int start = 256 * xb->start + xb[n_blocks].start;
                    total = vi_add32(total, vi_set32(128 / LINEAR_ZERO * start));
                    s[i] = vf_fma(vf_mul(d, vf_set1(xb->d * 0x1p-8f)), vf_of_i32(total), s[i]);
                }
            }
        }
    }
    Q8_UNROLL(4)
    for (int p = 0; p < P; p++) {
        Q8_UNROLL(2)
        for (int v = 0; v < Q8_TV; v++) {
            Q8_UNROLL(4)
            for (int r = 0; r < R; r++)
                vf_store(t->score + (int64_t)(q0 + r) * ATTN_CHUNK + (p0 + p) * KV_PAGE_TOKENS +
                             v * VLEN,
                         s[(p * Q8_TV + v) * R + r]);
        }
    }
}

VEC_INLINE void q8_scores(const struct cpu_attn_tile *t, int q0, int R, bool fetch)
{
    int p, end, n_blocks = attn_blocks(t->head_dim);
    struct q8_query query[Q8_R];
    for (int r = 0; r < R; r++)
        q8_query(&query[r], t->x + (int64_t)(q0 + r) * n_blocks * 2, n_blocks);
    attn_pages(t->lo + q0, t->hi + q0, R, &p, &end);
    for (; p + Q8_PAGES(R) <= end; p += Q8_PAGES(R))
        q8_score_pages(t, query, q0, p, R, Q8_PAGES(R), fetch);
    for (; p < end; p++)
        q8_score_pages(t, query, q0, p, R, 1, fetch);
}

/* Scores of one query to the weights of the values: 16-bit numbers, in place, and their scale. */
static void q8_softmax(const struct cpu_attn_tile *t, int q)
{
    float *s = t->score + (int64_t)q * ATTN_CHUNK;
    char *weights = (char *)s;
    int lo = t->lo[q], hi = t->hi[q];
    if (lo >= hi) {
        t->m[q] = -INFINITY;
        t->l[q] = s[Q8_SCALE] = 0.0f;
        memset(weights, 0, ATTN_CHUNK * 2);
        return;
    }
    int begin = lo / KV_PAGE_TOKENS * KV_PAGE_TOKENS;
    int end = (hi + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS * KV_PAGE_TOKENS;
    for (int i = begin; i < lo; i++)
        s[i] = -INFINITY;
    for (int i = hi; i < end; i++)
        s[i] = -INFINITY;
    vf vtop = vf_load(s + begin);
    for (int i = begin + VLEN; i < end; i += VLEN)
        vtop = vf_max(vtop, vf_load(s + i));
    float m = vf_top(vtop);
    vf vm = vf_set1(m), sum = vf_set1(0.0f);
    for (int i = begin; i < end; i += VLEN) {
        const char *scales = t->v[i / KV_PAGE_TOKENS] + KV_PAGE_TOKENS * t->head_dim;
        vf vd = vf_load((const float *)(const void *)scales + i % KV_PAGE_TOKENS);
        vf e = vf_exp(vf_sub(vf_load(s + i), vm));
        sum = vf_add(sum, e);
        vf_store(s + i, vf_mul(e, vd));
    }
    t->m[q] = m;
    t->l[q] = vf_sum(sum);
    for (int i = begin; i < lo; i++) /* whatever their scales are */
        s[i] = 0.0f;
    for (int i = hi; i < end; i++)
        s[i] = 0.0f;
    vtop = sum = vf_set1(0.0f);
    for (int i = begin; i < end; i += VLEN) {
        vf w = vf_load(s + i);
        vtop = vf_max(vtop, w);
        sum = vf_add(sum, w);
    }
    float top = vf_top(vtop), all = vf_sum(sum);
    bool finite = all - all == 0.0f;
    vf inverse = vf_set1(finite && top >= 1e-30f ? Q8_WEIGHT / top : 0.0f);
    memset(weights, 0, (size_t)begin * 2);
    for (int i = begin; i < end; i += VLEN)
        vi_store_weights(weights + 2 * i, vi_of_vf(vf_mul(vf_load(s + i), inverse)));
    memset(weights + 2 * end, 0, (size_t)(ATTN_CHUNK - end) * 2);
    s[Q8_SCALE] = finite ? top / Q8_WEIGHT : NAN;
}

/* acc[q0 ... q0+R-1][d ... d + D*VLEN - 1] over pages p0 ... p1 - 1; with n > 0 it is one vector of n
 * lanes (what a load reads beyond the values are their scales, in lanes that are dropped). */
VEC_INLINE void q8_values(const struct cpu_attn_tile *t, int q0, int p0, int p1, int d, int R,
                          int D, int n)
{
    const int hd = t->head_dim;
    const float *score = t->score + (int64_t)q0 * ATTN_CHUNK;
    vi sum[16 * Q8_SUMS];
    Q8_UNROLL(32)
    for (int i = 0; i < R * D * Q8_SUMS; i++)
        sum[i] = vi_zero();
    for (int p = p0; p < p1; p++) {
        const char *page = t->v[p] + 4 * d;
        for (int quad = 0; quad < KV_PAGE_TOKENS / 4; quad++, page += 4 * hd) {
            struct q8_bytes v[4];
            Q8_UNROLL(4)
            for (int i = 0; i < D; i++)
                v[i] = q8_vals(page + i * 4 * VLEN);
            Q8_UNROLL(4)
            for (int r = 0; r < R; r++) {
                const char *weights = (const char *)(score + r * ATTN_CHUNK);
                struct q8_bytes w = q8_weights(weights + p * 2 * KV_PAGE_TOKENS, quad);
                Q8_UNROLL(4)
                for (int i = 0; i < D; i++)
                    q8_add_value(&sum[(r * D + i) * Q8_SUMS], v[i], w);
            }
        }
    }
    Q8_UNROLL(4)
    for (int r = 0; r < R; r++) {
        vf scale = vf_set1(score[r * ATTN_CHUNK + Q8_SCALE]);
        float *acc = t->acc + (int64_t)(q0 + r) * hd + d;
        Q8_UNROLL(4)
        for (int i = 0; i < D; i++) {
            vf a = vf_mul(vf_of_i32(q8_total(&sum[(r * D + i) * Q8_SUMS])), scale);
            if (n)
                vf_store_n(acc, a, n);
            else
                vf_store(acc + i * VLEN, a);
        }
    }
}

/* All of head_dim, in the widest pieces first. */
VEC_INLINE void q8_weigh(const struct cpu_attn_tile *t, int q0, int R)
{
    const int hd = t->head_dim;
    int d = 0, p0, p1;
    attn_pages(t->lo + q0, t->hi + q0, R, &p0, &p1);
    for (; d + Q8_DIMS(R) * VLEN <= hd; d += Q8_DIMS(R) * VLEN)
        q8_values(t, q0, p0, p1, d, R, Q8_DIMS(R), 0);
    for (; d + VLEN <= hd; d += VLEN)
        q8_values(t, q0, p0, p1, d, R, 1, 0);
    if (d < hd)
        q8_values(t, q0, p0, p1, d, R, 1, hd - d);
}

/* clang-format off */
/* One function for each R: q8_scores_3, q8_weigh_3 ... */
#define Q8_MAKE(R) \
    static __attribute__((noinline)) void q8_scores_##R(const struct cpu_attn_tile *t, int q0) \
    { \
        if (q0 == 0) /* the first queries of a tile fetch for all */ \
            q8_scores(t, q0, R, true); \
        else \
            q8_scores(t, q0, R, false); \
    } \
    static __attribute__((noinline)) void q8_weigh_##R(const struct cpu_attn_tile *t, int q0) \
    { \
        q8_weigh(t, q0, R); \
    }
Q8_MAKE(1) Q8_MAKE(2) Q8_MAKE(3) Q8_MAKE(4)
#undef Q8_MAKE
    /* clang-format on */

    static void attn_tile_q8(const struct cpu_attn_tile *t)
{
    static void (*const scores[Q8_R])(const struct cpu_attn_tile *t, int q0) = {
        q8_scores_1, q8_scores_2, q8_scores_3, q8_scores_4};
    static void (*const weigh[Q8_R])(const struct cpu_attn_tile *t,
                                     int q0) = {q8_weigh_1, q8_weigh_2, q8_weigh_3, q8_weigh_4};
    for (int q0 = 0, R; q0 < t->n_q; q0 += R) {
        R = t->n_q - q0 < Q8_R ? t->n_q - q0 : Q8_R;
        scores[R - 1](t, q0);
    }
    for (int q = 0; q < t->n_q; q++)
        q8_softmax(t, q);
    for (int q0 = 0, R; q0 < t->n_q; q0 += R) {
        R = t->n_q - q0 < Q8_R ? t->n_q - q0 : Q8_R;
        weigh[R - 1](t, q0);
    }
}
