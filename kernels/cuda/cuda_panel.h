/* What stands around a product of cuBLASLt, for C: a weight's panel as rows of halves, the way from sums to results, and
 * the test of such products.  Rows of x are made by cuda_linear_rows_launch (cuda_linear.h).
 * Thread: the backend's.
 *
 * A weight becomes f16, quant_unpack's values rounded once; BF16 stays as it is.  Rows of halves of n_in elements, of
 * weights and of x alike, are CUDA_ROW_ELEMENTS(n_in) apart. */
#ifndef KERNELS_CUDA_CUDA_PANEL_H
#define KERNELS_CUDA_CUDA_PANEL_H
#include "kernels/cuda/cuda_linear.h"

#define CUDA_ROW_ELEMENTS(n_in) (((n_in) + 255) / 256 * 256)

/* Outputs first ... first + n - 1 of a matrix: products of them, and where they belong. */
struct cuda_panel_store {
    struct cuda_array out; /* [rows, n_out] */
    struct cuda_array add; /* the same, or no data */
    const float *bias;     /* [n_out] or NULL */
    const float *sums;     /* [rows, sums_ld] */
    const float *up;       /* [rows] that sums are multiplied with */
    int64_t rows, n_out, first, n, sums_ld;
};

/* A test: results of x's rows, which recur after `period`, and of those from row `skip` on. */
struct cuda_panel_test {
    struct cuda_array all, some; /* [rows, n] [some_rows, n] */
    const void *w, *x;           /* [n, ld] [rows, ld], halves of the type */
    float *bad;                  /* [cuda_panel_test_blocks(n)] how many results are wrong */
    int64_t type;
    int rows, some_rows, skip, period, n, n_in;
};

#ifdef __cplusplus
extern "C" {
#endif
/* Outputs first (a multiple of CUDA_PANEL) ... first + n - 1, and zeros up to the next multiple, to `to`. */
void cuda_panel_unpack_launch(void *to, const struct cuda_linear_matrix *m, int n_in, int first,
                              int n, cudaStream_t stream);
void cuda_panel_store_launch(const struct cuda_panel_store *s, cudaStream_t stream);
/* What is multiplied in a test: rows of n_in numbers, of which row r is row r % period; x: not weights. */
void cuda_panel_noise_launch(struct cuda_array to, int rows, int n_in, int period, bool x,
                             cudaStream_t stream);
int cuda_panel_test_blocks(int n);
void cuda_panel_test_launch(const struct cuda_panel_test *t, cudaStream_t stream);
#ifdef __cplusplus
}
#endif
#endif
