/* What the files of linear have in common: the work of one launch, and who launches it.
 * Thread: the backend's. */
#ifndef KERNELS_CUDA_CUDA_LINEAR_KERNELS_CUH
#define KERNELS_CUDA_CUDA_LINEAR_KERNELS_CUH
#include "kernels/cuda/cuda_array.cuh"
#include "kernels/cuda/cuda_dialect.cuh"
#include "kernels/cuda/cuda_layout.h"
#include "kernels/cuda/cuda_linear.h"
#include "kernels/cuda/cuda_tile.cuh"

/* Records of a row: whole K blocks of 256 if there are any, which costs the others nothing that is read. */
#define CUDA_RECORDS(n_in) (((n_in) + 255) / 256 * 4)
#define FEW_ROWS           8           /* computed without sharing x among panels */
#define LINEAR_X_KEPT      (40 * 1024) /* floats of a row that linear_x keeps in shared memory at most */

/* Matrices of one type over the same records. */
struct linear_job {
    const uint8_t *w[LINEAR_MAX];
    const float *bias[LINEAR_MAX];
    struct cuda_array out[LINEAR_MAX];
    int n_out[LINEAR_MAX], n_panels[LINEAR_MAX];
    struct cuda_array add; /* to out[0] */
    const uint8_t *records;
    const float *up; /* [rows] */
    float *slices;   /* [CUDA_SLICES, rows, n_out] of one matrix, if `split` */
    size_t panel_bytes;
    int rows, n_records, n_steps;
    int split; /* blocks that share the slices of a tile: 1, 2 or 4 */
};

void cuda_linear_x_launch(uint8_t *records, float *up, const struct cuda_linear_call *l, int parts,
                          bool bf16, cudaStream_t stream);
void cuda_linear_few_launch(const struct linear_job &j, enum dtype type, int parts,
                            cudaStream_t stream);
void cuda_linear_many_launch(const struct linear_job &j, enum dtype type, int parts,
                             cudaStream_t stream);
void cuda_linear_f32_launch(const struct cuda_linear_call *l, int matrix, cudaStream_t stream);

/* Sum of the four slices, as it stands in the records' scale, to the result. */
__device__ static inline void linear_store(const struct linear_job &j, int matrix, int row, int o,
                                           float sum)
{
    const int64_t at = (int64_t)row * j.n_out[matrix] + o;
    float v = sum * j.up[row];
    if (j.bias[matrix])
        v += j.bias[matrix][o];
    if (matrix == 0 && j.add.data)
        v += cuda_get(j.add, at);
    cuda_set(j.out[matrix], at, v);
}
#endif
