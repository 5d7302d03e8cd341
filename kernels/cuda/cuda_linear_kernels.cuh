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
/* Parts of x that weights of a type are multiplied with at most. */
#define LINEAR_PARTS(type) (cuda_format<type>::group ? 1 : 2)
#define FEW_ROWS           8 /* computed without sharing x among panels */

/* Matrices of one type over the same records. */
struct linear_job {
    const uint8_t *w[LINEAR_MAX];
    const float *bias[LINEAR_MAX];
    struct cuda_array out[LINEAR_MAX];
    int n_out[LINEAR_MAX], n_panels[LINEAR_MAX];
    struct cuda_array add; /* to out[0] */
    const uint8_t *records;
    const float *up;       /* [rows] */
    struct tile_plan plan; /* of linear_many */
    size_t panel_bytes;
    int64_t multiprocessors; /* no padding: arguments are compared byte for byte */
    int rows, n_records, n_steps;
    int across; /* tiles of a panel tile's rows, which lie one after the other */
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

/* Panels of a matrix with those that fill its last tile. */
__host__ __device__ static inline int linear_whole_panels(const struct linear_job &j, int matrix)
{
    return (j.n_panels[matrix] + TILE_PANELS - 1) / TILE_PANELS * TILE_PANELS;
}

/* linear_store of the outputs from o on. */
__device__ static inline void linear_store_quad(const struct linear_job &j, int matrix, int row,
                                                int o, float4 sum)
{
    const int left = j.n_out[matrix] - o;
    const int64_t at = (int64_t)row * j.n_out[matrix] + o;
    const float up = j.up[row];
    float4 v = make_float4(sum.x * up, sum.y * up, sum.z * up, sum.w * up);
    if (j.bias[matrix])
        v = cuda_quad_add(v, cuda_quad_get(j.bias[matrix] + o, left));
    if (matrix == 0 && j.add.data)
        v = cuda_quad_add(v, cuda_get_quad(j.add, at, left));
    cuda_set_quad(j.out[matrix], at, left, v);
}
#endif
