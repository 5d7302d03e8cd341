/* sgemm as one would write it on a whiteboard: the scalar level.  Included only by isa_scalar.c. */
#include "kernels/cpu/sgemm.h"

static void sgemm_law(const struct sgemm *t, int64_t x_row, int64_t x_k)
{
    for (int p = 0; p < t->n_panels; p++) {
        for (int i = 0; i < t->n_rows; i++) {
            float *sum = t->sum + p * t->sum_panel + i * t->sum_row;
            for (int o = 0; o < SGEMM_PANEL; o++) {
                float acc = t->first ? 0.0f : sum[o];
                const float *w = t->w + p * t->w_panel + o;
                for (int k = 0; k < t->n_k; k++)
                    acc = fmaf(w[k * SGEMM_PANEL], t->x[i * x_row + k * x_k], acc);
                sum[o] = acc;
            }
        }
    }
}

static void sgemm_rows(const struct sgemm *t)
{
    sgemm_law(t, SGEMM_STRIDE, 1);
}

static void sgemm_cols(const struct sgemm *t)
{
    sgemm_law(t, 1, t->x_stride);
}

static void sgemm_expand(float *to, enum dtype type, const void *panel, int64_t n)
{
    quant_unpack(type, to, panel, n);
}
