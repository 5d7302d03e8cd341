/* Cosines of rows with rows of length 1: the head of a safety checker.  A warp a cosine, so that the sums have one
 * order. */
#include "kernels/cuda/cuda_dialect.cuh"
#include "kernels/cuda/cuda_kernels.h"

#define COSINE_THREADS 256

__global__ void __launch_bounds__(COSINE_THREADS)
    cosine_kernel(float *out, const float *x, const float *w, int n, int dim)
{
    const int lane = threadIdx.x % CUDA_WARP;
    const int k = (blockIdx.x * COSINE_THREADS + threadIdx.x) / CUDA_WARP;
    const float *a = x + (size_t)blockIdx.y * dim, *b = w + (size_t)(k < n ? k : 0) * dim;
    float sum = 0.0f, length = 0.0f;
    for (int i = lane; i < dim; i += CUDA_WARP) {
        sum = fmaf(a[i], b[i], sum);
        length = fmaf(a[i], a[i], length);
    }
    sum = cuda_warp_sum(sum);
    length = cuda_warp_sum(length);
    const bool known = length > 0.0f && length < INFINITY;
    if (lane == 0 && k < n)
        out[(size_t)blockIdx.y * n + k] = known ? sum / sqrtf(length) : NAN;
}

void cuda_cosine_launch(float *out, const float *x, const float *w, int rows, int n, int dim,
                        cudaStream_t stream)
{
    const int warps = COSINE_THREADS / CUDA_WARP;
    if (rows > 0 && n > 0)
        LAUNCH(cosine_kernel, dim3((unsigned)((n + warps - 1) / warps), (unsigned)rows),
               COSINE_THREADS, 0, stream, out, x, w, n, dim);
}
