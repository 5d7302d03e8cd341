/* RMSNorm: a block a row, the sum of squares in an order that depends on the length alone. */
#include "kernels/cuda/cuda_dialect.cuh"
#include "kernels/cuda/cuda_kernels.h"

#define NORM_THREADS 256

/* out, x [rows, dim]   w [dim] */
__global__ void __launch_bounds__(NORM_THREADS)
    rmsnorm_kernel(float *out, const float *x, const float *w, int dim, float eps)
{
    SHARED(float, partial, [CUDA_WARP]);
    const float *row = x + (size_t)blockIdx.x * dim;
    float *to = out + (size_t)blockIdx.x * dim;
    float sum = 0;
    for (int i = threadIdx.x; i < dim; i += NORM_THREADS)
        sum = fmaf(row[i], row[i], sum);
    sum = cuda_block_sum(sum, partial);
    const float scale = 1.0f / sqrtf(sum / (float)dim + eps);
    for (int i = threadIdx.x; i < dim; i += NORM_THREADS)
        to[i] = row[i] * scale * w[i];
}

void cuda_rmsnorm_launch(float *out, const float *x, const float *w, int rows, int dim, float eps,
                         cudaStream_t stream)
{
    LAUNCH(rmsnorm_kernel, rows, NORM_THREADS, 0, stream, out, x, w, dim, eps);
}
