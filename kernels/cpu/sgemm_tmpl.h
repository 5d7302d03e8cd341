/* sgemm in the words of vec_*.h and quant_*.h; once for each instruction set.
 *
 * A tile is n rows of x times SGEMM_WIDE vectors of outputs; all its sums stay in registers while k goes
 * by: 6 x 2 of the 16 registers of AVX2, 12 x 2 of the 32 of AVX-512.  The tiles are functions of their
 * own, one for each number of rows, so that the last rows of a matrix are spread evenly. */
#include "kernels/cpu/sgemm.h"

#if VLEN == 8
#define SGEMM_TILE 6
#define SGEMM_WIDE 1 /* panels */
#else
#define SGEMM_TILE 12
#define SGEMM_WIDE 2
#endif
#define SGEMM_HALVES (SGEMM_PANEL / VLEN)

VEC_INLINE void sgemm_tile(const int n, const int wide, const bool rows, const struct sgemm *t,
                           const float *x, const float *w, float *sum)
{
    const int n_vecs = wide * SGEMM_HALVES;
    const int64_t x_step = rows ? 1 : t->x_stride;
    const int x_row = rows ? SGEMM_STRIDE : 1;
    vf acc[SGEMM_TILE][SGEMM_WIDE * SGEMM_HALVES];
#pragma GCC unroll 16
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int v = 0; v < n_vecs; v++) {
            const float *at = sum + v / SGEMM_HALVES * t->sum_panel + i * t->sum_row;
            acc[i][v] = t->first ? vf_set1(0.0f) : vf_load(at + v % SGEMM_HALVES * VLEN);
        }
    for (int k = 0; k < t->n_k; k++, w += SGEMM_PANEL, x += x_step) {
        vf wk[SGEMM_WIDE * SGEMM_HALVES];
#pragma GCC unroll 4
        for (int v = 0; v < n_vecs; v++)
            wk[v] = vf_load(w + v / SGEMM_HALVES * t->w_panel + v % SGEMM_HALVES * VLEN);
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) {
            vf xk = vf_set1(x[i * x_row]);
#pragma GCC unroll 4
            for (int v = 0; v < n_vecs; v++) {
                acc[i][v] = vf_fma(wk[v], xk, acc[i][v]);
                vi_keep(acc[i][v]);
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int v = 0; v < n_vecs; v++) {
            float *at = sum + v / SGEMM_HALVES * t->sum_panel + i * t->sum_row;
            vf_store(at + v % SGEMM_HALVES * VLEN, acc[i][v]);
        }
}

/* clang-format off */
typedef void sgemm_fn(const struct sgemm *t, const float *x, const float *w, float *sum);
#define SGEMM_FN(name, n, wide, rows) \
    static __attribute__((noinline)) void name(const struct sgemm *t, const float *x, \
                                               const float *w, float *sum) \
    { \
        sgemm_tile(n, wide, rows, t, x, w, sum); \
    }
#if SGEMM_TILE == 6
#define SGEMM_SIZES(X) X(1) X(2) X(3) X(4) X(5) X(6)
#else
#define SGEMM_SIZES(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)
#endif
#define X(n) \
    SGEMM_FN(sgemm_rows_##n, n, SGEMM_WIDE, true) \
    SGEMM_FN(sgemm_cols_##n, n, SGEMM_WIDE, false) \
    SGEMM_FN(sgemm_rows1_##n, n, 1, true) \
    SGEMM_FN(sgemm_cols1_##n, n, 1, false)
SGEMM_SIZES(X)
#undef X

/* [n - 1]: SGEMM_WIDE panels, one panel */
#define X(n) {sgemm_rows_##n, sgemm_rows1_##n},
static sgemm_fn *const sgemm_row_tiles[SGEMM_TILE][2] = {SGEMM_SIZES(X)};
#undef X
#define X(n) {sgemm_cols_##n, sgemm_cols1_##n},
static sgemm_fn *const sgemm_col_tiles[SGEMM_TILE][2] = {SGEMM_SIZES(X)};
#undef X
/* clang-format on */

static void sgemm_run(const struct sgemm *t, sgemm_fn *const fns[SGEMM_TILE][2], int64_t x_row)
{
    int n_tiles = (t->n_rows + SGEMM_TILE - 1) / SGEMM_TILE;
    for (int i = 0; i < n_tiles; i++) {
        int row = t->n_rows * i / n_tiles, n = t->n_rows * (i + 1) / n_tiles - row, p = 0;
        const float *x = t->x + row * x_row;
        float *sum = t->sum + row * t->sum_row;
        for (; p + SGEMM_WIDE <= t->n_panels; p += SGEMM_WIDE)
            fns[n - 1][0](t, x, t->w + p * t->w_panel, sum + p * t->sum_panel);
        for (; p < t->n_panels; p++)
            fns[n - 1][1](t, x, t->w + p * t->w_panel, sum + p * t->sum_panel);
    }
}

static void sgemm_rows(const struct sgemm *t)
{
    sgemm_run(t, sgemm_row_tiles, SGEMM_STRIDE);
}

static void sgemm_cols(const struct sgemm *t)
{
    sgemm_run(t, sgemm_col_tiles, 1);
}

/* n is a multiple of the panel's 16. */
static void sgemm_expand(float *to, enum dtype type, const void *panel, int64_t n)
{
    const uint16_t *from = panel;
    if (type == DTYPE_F16)
        for (int64_t i = 0; i < n; i += VLEN)
            vf_store(to + i, vf_load_h(from + i));
    else if (type == DTYPE_BF16)
        for (int64_t i = 0; i < n; i += VLEN)
            vf_store(to + i, vf_load_b(from + i));
    else
        memcpy(to, panel, (size_t)n * sizeof(float));
}
