/* A block of a product of f32 matrices: the inner loop under conv2d and attn.
 * Thread: any; no state.
 *
 *     sum[i, o] = fma(w[k, o], x[i, k], sum[i, o])      k ascending
 *
 * One accumulator a sum, so its bits depend neither on the number of rows and panels, nor on where k is
 * cut, nor on the instruction set. */
#ifndef KERNELS_CPU_SGEMM_H
#define KERNELS_CPU_SGEMM_H
#include <stdbool.h>
#include <stdint.h>

#define SGEMM_PANEL 16  /* outputs side by side */
#define SGEMM_ROWS  12  /* rows that stay in the L1 cache together: packed by the caller */
#define SGEMM_K     384 /* of them at most */
#define SGEMM_STRIDE \
    400 /* from row to row of packed x: no two of them in the same set of the cache */

struct sgemm {
    /* sgemm_rows: [n_rows, SGEMM_STRIDE]; sgemm_cols: element (i, k) at x[i + k * x_stride] */
    const float *x;
    int64_t x_stride;
    const float *w;             /* element (k, o) of panel p at w[p * w_panel + k * 16 + o] */
    int64_t w_panel;            /* floats */
    float *sum;                 /* (i, o) of panel p at sum[p * sum_panel + i * sum_row + o] */
    int64_t sum_panel, sum_row; /* floats */
    int n_rows, n_panels, n_k;
    bool first; /* the sums begin at 0, whatever stands there */
};
#endif
