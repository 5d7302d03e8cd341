/* One attention tile: up to a few dozen queries of one kv head against up to 256 tokens.  Included
 * once per level, after vec_*.h, math_tmpl.h and elem_tmpl.h.
 *
 * Three passes: scores of all queries, softmax of each query, weighted sum of the values.  Queries
 * are taken R at a time so that a key or value is loaded (and converted from half) once for R of
 * them.  What one query computes is the same for any R and any neighbours: a score is one chain of
 * fma over ascending head_dim, a weighted sum one chain over ascending tokens. */
#include "kernels/cpu/attn.h"

#define ATTN_R    4 /* queries taken together */
#define ATTN_MANY 8 /* queries for which keys and values are converted from half once for all */

#if VLEN == 1 || defined(DUETTO_SIMDE) /* not for speed: keep the code small */
#define ATTN_UNROLL(n)
#else
#define ATTN_PRAGMA(x) _Pragma(#x)
#define ATTN_UNROLL(n) ATTN_PRAGMA(GCC unroll n)
#endif

/* Vectors of 16 tokens' scores, and pages that R queries take at once: enough independent chains to
 * hide the latency of fma, few enough for the registers. */
#define ATTN_TV (KV_PAGE_TOKENS / VLEN)
#if VLEN == 16
#define ATTN_PAGES(R) 4
#define ATTN_DIMS(R)  ((R) == 1 ? 8 : 4)
#elif VLEN == 1
#define ATTN_PAGES(R) 1
#define ATTN_DIMS(R)  4
#else
#define ATTN_PAGES(R) ((R) == 1 ? 4 : (R) == 4 ? 1 : 2)
#define ATTN_DIMS(R)  ((R) == 1 ? 8 : (R) == 4 ? 2 : 4)
#endif

VEC_INLINE vf attn_load(const char *p, int64_t i, bool half)
{
    return half ? vf_load_h((const uint16_t *)p + i) : vf_load((const float *)p + i);
}

VEC_INLINE vf attn_load_n(const char *p, int64_t i, int n, bool half)
{
    return half ? vf_load_hn((const uint16_t *)p + i, n) : vf_load_n((const float *)p + i, n);
}

/* Scores of queries q0 ... q0+R-1 in pages p0 ... p0+P-1.  With fetch the next pages' keys and these
 * pages' values come into the cache meanwhile: pages lie scattered in memory and are too short for
 * the hardware to foresee. */
VEC_INLINE void attn_score_pages(const struct cpu_attn_tile *t, int q0, int p0, int R, int P,
                                 bool half, bool fetch)
{
    const int hd = t->head_dim, row_bytes = KV_PAGE_TOKENS * (half ? 2 : 4);
    const char *const *next = t->k + (p0 + 2 * P <= t->n_pages ? p0 + P : p0);
    const float *q = t->q + (int64_t)q0 * hd;
    vf s[ATTN_R * 4 * ATTN_TV];
    ATTN_UNROLL(16)
    for (int i = 0; i < R * P * ATTN_TV; i++)
        s[i] = vf_set1(0.0f);
    for (int d = 0; d < hd; d++) {
        ATTN_UNROLL(4)
        for (int p = 0; p < P; p++) {
            if (fetch) {
                __builtin_prefetch(next[p] + d * row_bytes);
                __builtin_prefetch(t->v[p0 + p] + d * row_bytes);
            }
            ATTN_UNROLL(16)
            for (int v = 0; v < ATTN_TV; v++) {
                vf k = attn_load(t->k[p0 + p], (int64_t)d * KV_PAGE_TOKENS + v * VLEN, half);
                ATTN_UNROLL(4)
                for (int r = 0; r < R; r++) {
                    vf *a = &s[(p * ATTN_TV + v) * R + r];
                    *a = vf_fma(k, vf_set1(q[r * hd + d]), *a);
                }
            }
        }
    }
    ATTN_UNROLL(4)
    for (int p = 0; p < P; p++) {
        ATTN_UNROLL(16)
        for (int v = 0; v < ATTN_TV; v++) {
            ATTN_UNROLL(4)
            for (int r = 0; r < R; r++)
                vf_store(t->score + (int64_t)(q0 + r) * ATTN_CHUNK + (p0 + p) * KV_PAGE_TOKENS +
                             v * VLEN,
                         s[(p * ATTN_TV + v) * R + r]);
        }
    }
}

/* In those of the pages first ... end - 1 that any of the queries sees. */
VEC_INLINE void attn_scores(const struct cpu_attn_tile *t, int q0, int first, int end, int R,
                            bool half, bool fetch)
{
    int p, seen_end;
    attn_pages(t->lo + q0, t->hi + q0, R, &p, &seen_end);
    p = first > p ? first : p;
    end = seen_end < end ? seen_end : end;
    for (; p + ATTN_PAGES(R) <= end; p += ATTN_PAGES(R))
        attn_score_pages(t, q0, p, R, ATTN_PAGES(R), half, fetch);
    for (; p < end; p++)
        attn_score_pages(t, q0, p, R, 1, half, fetch);
}

/* Scores of one query to exp(score - max); the lanes of its pages that it may not see become 0. */
VEC_INLINE void attn_softmax(const struct cpu_attn_tile *t, int q)
{
    float *s = t->score + (int64_t)q * ATTN_CHUNK;
    int lo = t->lo[q], hi = t->hi[q];
    if (lo >= hi) {
        t->m[q] = -INFINITY;
        t->l[q] = 0.0f;
        return;
    }
    int begin = lo / KV_PAGE_TOKENS * KV_PAGE_TOKENS;
    int end = (hi + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS * KV_PAGE_TOKENS;
    for (int i = begin; i < lo; i++)
        s[i] = -INFINITY;
    for (int i = hi; i < end; i++)
        s[i] = -INFINITY;
    vf top = vf_load(s + begin);
    for (int i = begin + VLEN; i < end; i += VLEN)
        top = vf_max(top, vf_load(s + i));
    float m = vf_top(top);
    vf vm = vf_set1(m), sum = vf_set1(0.0f);
    for (int i = begin; i < end; i += VLEN) {
        vf e = vf_exp(vf_sub(vf_load(s + i), vm));
        vf_store(s + i, e);
        sum = vf_add(sum, e);
    }
    t->m[q] = m;
    t->l[q] = vf_sum(sum);
}

/* acc[q0 ... q0+R-1][d ... d + D*VLEN - 1] += score * v over tokens t0 ... t1 - 1; with n > 0 it is
 * one vector of n lanes. */
VEC_INLINE void attn_values(const struct cpu_attn_tile *t, int q0, int t0, int t1, int d, int R,
                            int D, int n, bool half)
{
    const int hd = t->head_dim;
    const float *score = t->score + (int64_t)q0 * ATTN_CHUNK;
    float *acc = t->acc + (int64_t)q0 * hd + d;
    vf a[16];
    ATTN_UNROLL(4)
    for (int r = 0; r < R; r++) {
        ATTN_UNROLL(8)
        for (int i = 0; i < D; i++)
            a[r * D + i] = n ? vf_load_n(acc + r * hd, n) : vf_load(acc + r * hd + i * VLEN);
    }
    while (t0 < t1) {
        const char *page = t->v[t0 / KV_PAGE_TOKENS];
        int base = t0 / KV_PAGE_TOKENS * KV_PAGE_TOKENS;
        int stop = base + KV_PAGE_TOKENS < t1 ? base + KV_PAGE_TOKENS : t1;
        for (; t0 < stop; t0++) {
            int64_t at = (int64_t)(t0 - base) * hd + d;
            ATTN_UNROLL(8)
            for (int i = 0; i < D; i++) {
                vf v = n ? attn_load_n(page, at, n, half) : attn_load(page, at + i * VLEN, half);
                ATTN_UNROLL(4)
                for (int r = 0; r < R; r++)
                    a[r * D + i] = vf_fma(vf_set1(score[r * ATTN_CHUNK + t0]), v, a[r * D + i]);
            }
        }
    }
    ATTN_UNROLL(4)
    for (int r = 0; r < R; r++) {
        ATTN_UNROLL(8)
        for (int i = 0; i < D; i++) {
            if (n)
                vf_store_n(acc + r * hd, a[r * D + i], n);
            else
                vf_store(acc + r * hd + i * VLEN, a[r * D + i]);
        }
    }
}

/* All of head_dim, in the widest pieces first. */
VEC_INLINE void attn_values_dims(const struct cpu_attn_tile *t, int q0, int t0, int t1, int R,
                                 bool half)
{
    const int hd = t->head_dim;
    int d = 0;
    for (; d + ATTN_DIMS(R) * VLEN <= hd; d += ATTN_DIMS(R) * VLEN)
        attn_values(t, q0, t0, t1, d, R, ATTN_DIMS(R), 0, half);
    if (ATTN_DIMS(R) > 2 && d + 2 * VLEN <= hd) {
        attn_values(t, q0, t0, t1, d, R, 2, 0, half);
        d += 2 * VLEN;
    }
    for (; d + VLEN <= hd; d += VLEN)
        attn_values(t, q0, t0, t1, d, R, 1, 0, half);
    if (d < hd)
        attn_values(t, q0, t0, t1, d, R, 1, hd - d, half);
}

/* clang-format off */
/* One function for each R and type: attn_scores_3h, attn_values_3h (half), attn_values_3f ... */
#define ATTN_MAKE(R, suffix, half) \
    static __attribute__((noinline)) void attn_scores_##R##suffix(const struct cpu_attn_tile *t, \
                                                                  int q0, int first, int end) \
    { \
        if (q0 == 0) /* the first queries of a tile fetch for all */ \
            attn_scores(t, q0, first, end, R, half, true); \
        else \
            attn_scores(t, q0, first, end, R, half, false); \
    } \
    static __attribute__((noinline)) void attn_values_##R##suffix(const struct cpu_attn_tile *t, \
                                                                  int q0, int t0, int t1) \
    { \
        attn_values_dims(t, q0, t0, t1, R, half); \
    }
ATTN_MAKE(1, h, true) ATTN_MAKE(2, h, true) ATTN_MAKE(3, h, true) ATTN_MAKE(4, h, true)
ATTN_MAKE(1, f, false) ATTN_MAKE(2, f, false) ATTN_MAKE(3, f, false) ATTN_MAKE(4, f, false)
#undef ATTN_MAKE
    /* clang-format on */

    typedef void attn_scores_fn(const struct cpu_attn_tile *t, int q0, int first, int end);
typedef void attn_values_fn(const struct cpu_attn_tile *t, int q0, int t0, int t1);

/* [half][R - 1] */
static attn_scores_fn *const attn_scores_of[2][ATTN_R] = {
    {attn_scores_1f, attn_scores_2f, attn_scores_3f, attn_scores_4f},
    {attn_scores_1h, attn_scores_2h, attn_scores_3h, attn_scores_4h},
};
static attn_values_fn *const attn_values_of[2][ATTN_R] = {
    {attn_values_1f, attn_values_2f, attn_values_3f, attn_values_4f},
    {attn_values_1h, attn_values_2h, attn_values_3h, attn_values_4h},
};

/* acc += score * v over the pages first ... end - 1.  The tokens that all R queries see are summed
 * together, those that only one sees before and after it: a hidden token's value is never touched
 * (0 * NaN is NaN). */
static void attn_weigh(const struct cpu_attn_tile *t, int q0, int first, int end, int R)
{
    attn_values_fn *const *values = attn_values_of[t->type == DTYPE_F16];
    int lo[ATTN_R], hi[ATTN_R], all_lo = 0, all_hi = ATTN_CHUNK;
    first *= KV_PAGE_TOKENS;
    end *= KV_PAGE_TOKENS;
    for (int r = 0; r < R; r++) {
        lo[r] = t->lo[q0 + r] > first ? t->lo[q0 + r] : first;
        hi[r] = t->hi[q0 + r] < end ? t->hi[q0 + r] : end;
        all_lo = lo[r] > all_lo ? lo[r] : all_lo;
        all_hi = hi[r] < all_hi ? hi[r] : all_hi;
    }
    if (all_lo >= all_hi) {
        for (int r = 0; r < R; r++)
            if (lo[r] < hi[r])
                values[0](t, q0 + r, lo[r], hi[r]);
        return;
    }
    for (int r = 0; r < R; r++)
        if (lo[r] < all_lo)
            values[0](t, q0 + r, lo[r], all_lo);
    values[R - 1](t, q0, all_lo, all_hi);
    for (int r = 0; r < R; r++)
        if (all_hi < hi[r])
            values[0](t, q0 + r, all_hi, hi[r]);
}

/* All queries over the keys, or the values, of the pages first ... end - 1. */
static void attn_all(const struct cpu_attn_tile *t, bool keys, int first, int end)
{
    for (int q0 = 0, R; q0 < t->n_q; q0 += R) {
        R = t->n_q - q0 < ATTN_R ? t->n_q - q0 : ATTN_R;
        if (keys)
            attn_scores_of[t->type == DTYPE_F16][R - 1](t, q0, first, end);
        else
            attn_weigh(t, q0, first, end, R);
    }
}

/* The same, ATTN_PLAIN pages at a time turned into floats first, in memory that stays in the L1
 * cache: with many queries that costs less than to convert them again for every R. */
static void attn_all_plain(const struct cpu_attn_tile *t, bool keys, int first, int end)
{
    const int64_t n = (int64_t)KV_PAGE_TOKENS * t->head_dim;
    const char *pages[ATTN_CHUNK / KV_PAGE_TOKENS];
    struct cpu_attn_tile plain = *t;
    plain.type = DTYPE_F32;
    plain.k = plain.v = pages;
    for (int p = 0; p < t->n_pages; p++)
        pages[p] = (const char *)(t->plain + p % ATTN_PLAIN * n);
    for (int p = first; p < end;) {
        int stop = p / ATTN_PLAIN * ATTN_PLAIN + ATTN_PLAIN < end
                       ? p / ATTN_PLAIN * ATTN_PLAIN + ATTN_PLAIN
                       : end;
        for (int i = p; i < stop; i++)
            f16_unpack(t->plain + i % ATTN_PLAIN * n,
                       (const uint16_t *)(const void *)(keys ? t->k : t->v)[i], n);
        attn_all(&plain, keys, p, stop);
        p = stop;
    }
}

static void attn_tile(const struct cpu_attn_tile *t)
{
    bool plain = t->type == DTYPE_F16 && t->n_q >= ATTN_MANY;
    int first, end;
    attn_pages(t->lo, t->hi, t->n_q, &first, &end);
    (plain ? attn_all_plain : attn_all)(t, true, first, end);
    for (int q = 0; q < t->n_q; q++)
        attn_softmax(t, q);
    memset(t->acc, 0, sizeof(float) * (size_t)t->n_q * (size_t)t->head_dim);
    (plain ? attn_all_plain : attn_all)(t, false, first, end);
}

static void attn_merge(float *m, float *l, float *acc, float m1, float l1, const float *acc1, int n)
{
    if (l1 == 0.0f)
        return;
    float m0 = *m;
    *m = m0 > m1 ? m0 : m1;
    /* exp's bits do not depend on the lane */
    vf w0 = vf_exp(vf_set1(m0 - *m)); /* 0 at first: m0 is -infinity */
    vf w1 = vf_exp(vf_set1(m1 - *m));
    float one[2 * VLEN];
    vf_store(one, vf_fma(vf_set1(*l), w0, vf_mul(vf_set1(l1), w1)));
    *l = one[0];
    for (int i = 0; i < n; i += VLEN) {
        if (i + VLEN <= n) {
            vf a = vf_mul(vf_load(acc1 + i), w1);
            vf_store(acc + i, vf_fma(vf_load(acc + i), w0, a));
        } else {
            vf a = vf_mul(vf_load_n(acc1 + i, n - i), w1);
            vf_store_n(acc + i, vf_fma(vf_load_n(acc + i, n - i), w0, a), n - i);
        }
    }
}
