/* One chunk of attention between matrices.  Included once per level, after the sgemm. */
#include "kernels/cpu/attn_dense.h"

/* score of all keys of the chunk; a tile of them is copied side by side at a time. */
static void dense_scores(const struct attn_dense *t)
{
    for (int first = 0; first < t->n_k; first += SGEMM_ROWS) {
        int n = t->n_k - first < SGEMM_ROWS ? t->n_k - first : SGEMM_ROWS;
        for (int d = 0, n_d; d < t->head_dim; d += n_d) {
            n_d = t->head_dim - d < SGEMM_K ? t->head_dim - d : SGEMM_K;
            for (int i = 0; i < n; i++) {
                const float *from = t->k + (first + i) * t->kv_stride + d;
                float *to = t->packed + i * SGEMM_STRIDE;
                const float *v = t->v + (first + i) * t->kv_stride + d;
                for (int c = 0; c < n_d; c += VLEN) { /* rows have room for a whole vector more */
                    vf a = n_d - c >= VLEN ? vf_load(from + c) : vf_load_n(from + c, n_d - c);
                    vf_store(to + c, a);
                    if (c % 16 == 0) { /* the values' turn comes next */
                        __builtin_prefetch(from + SGEMM_ROWS * t->kv_stride + c);
                        __builtin_prefetch(v + c);
                    }
                }
            }
            const struct sgemm s = {.x = t->packed,
                                    .w = t->q + d * SGEMM_PANEL,
                                    .w_panel = (int64_t)t->head_dim * SGEMM_PANEL,
                                    .sum = t->score + first * SGEMM_PANEL,
                                    .sum_panel = DENSE_CHUNK * SGEMM_PANEL,
                                    .sum_row = SGEMM_PANEL,
                                    .n_rows = n,
                                    .n_panels = t->n_panels,
                                    .n_k = n_d,
                                    .first = d == 0};
            sgemm_rows(&s);
        }
    }
}

/* VLEN queries: score becomes exp(score - m); what was summed before is brought to the new m. */
VEC_INLINE void dense_softmax(float *score, int n_k, float *m, float *l, float *acc, int head_dim)
{
    vf before = vf_load(m), top[4] = {before, before, before, before};
    int k = 0;
    for (; k + 4 <= n_k; k += 4)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            top[i] = vf_max(top[i], vf_load(score + (k + i) * SGEMM_PANEL));
    for (; k < n_k; k++)
        top[0] = vf_max(top[0], vf_load(score + k * SGEMM_PANEL));
    vf now = vf_max(vf_max(top[0], top[1]), vf_max(top[2], top[3]));
    vf keep = vf_exp(vf_sub(before, now)), zero = vf_set1(0.0f), sum[4] = {zero, zero, zero, zero};
    for (k = 0; k + 4 <= n_k; k += 4)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            float *at = score + (k + i) * SGEMM_PANEL;
            vf e = vf_exp(vf_sub(vf_load(at), now));
            vf_store(at, e);
            sum[i] = vf_add(sum[i], e);
        }
    for (int i = 0; k < n_k; k++, i++) {
        float *at = score + k * SGEMM_PANEL;
        vf e = vf_exp(vf_sub(vf_load(at), now));
        vf_store(at, e);
        sum[i] = vf_add(sum[i], e);
    }
    vf all = vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3]));
    vf_store(m, now);
    vf_store(l, vf_fma(vf_load(l), keep, all));
    for (int d = 0; d < head_dim; d++)
        vf_store(acc + d * SGEMM_PANEL, vf_mul(vf_load(acc + d * SGEMM_PANEL), keep));
}

static void attn_dense_chunk(const struct attn_dense *t)
{
    dense_scores(t);
    for (int i = 0; t->limit && i < t->n_panels * SGEMM_PANEL; i++)
        for (int k = t->limit[i] > 0 ? t->limit[i] : 0; k < t->n_k; k++)
            t->score[(i / SGEMM_PANEL * DENSE_CHUNK + k) * SGEMM_PANEL + i % SGEMM_PANEL] =
                -INFINITY;
    for (int i = 0; i < t->n_panels * SGEMM_PANEL; i += VLEN) {
        int p = i / SGEMM_PANEL, lane = i % SGEMM_PANEL;
        dense_softmax(t->score + p * DENSE_CHUNK * SGEMM_PANEL + lane, t->n_k, t->m + i, t->l + i,
                      t->acc + (int64_t)p * t->head_dim * SGEMM_PANEL + lane, t->head_dim);
    }
    const struct sgemm s = {.x = t->v,
                            .x_stride = t->kv_stride,
                            .w = t->score,
                            .w_panel = DENSE_CHUNK * SGEMM_PANEL,
                            .sum = t->acc,
                            .sum_panel = (int64_t)t->head_dim * SGEMM_PANEL,
                            .sum_row = SGEMM_PANEL,
                            .n_rows = t->head_dim,
                            .n_panels = t->n_panels,
                            .n_k = t->n_k};
    sgemm_cols(&s);
}
