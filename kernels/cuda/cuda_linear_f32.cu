/* linear for F32 matrices, in f32: 64 outputs times 64 rows a block, 4 x 4 a thread.  A sum is one chain
 * of fma over ascending k, as on the CPU. */
#include "kernels/cuda/cuda_linear_kernels.cuh"

#define F32_TILE    64
#define F32_K       16
#define F32_THREADS 256

__global__ void __launch_bounds__(F32_THREADS, 2)
    linear_f32_kernel(const struct cuda_array out, const float *w, const struct cuda_array x,
                      const float *bias, const struct cuda_array add, int rows, int n_in, int n_out)
{
    SHARED(float, tile_w, [F32_K][F32_TILE + 4]);
    SHARED(float, tile_x, [F32_K][F32_TILE + 4]);
    const int o0 = blockIdx.x * F32_TILE, r0 = blockIdx.y * F32_TILE;
    const int to = threadIdx.x % 16 * 4, tr = threadIdx.x / 16 * 4;
    const size_t w_stride = (size_t)(n_in + 3) / 4 * 4;
    float acc[4][4] = {};
    for (int k0 = 0; k0 < n_in; k0 += F32_K) {
        for (int i = threadIdx.x; i < F32_TILE * F32_K; i += F32_THREADS) {
            const int k = i % F32_K, n = i / F32_K;
            tile_w[k][n] = o0 + n < n_out && k0 + k < n_in ? w[(o0 + n) * w_stride + k0 + k] : 0.0f;
            tile_x[k][n] = r0 + n < rows && k0 + k < n_in
                               ? cuda_get(x, (int64_t)(r0 + n) * n_in + k0 + k)
                               : 0.0f;
        }
        __syncthreads();
        const int end = n_in - k0 < F32_K ? n_in - k0 : F32_K;
        for (int k = 0; k < end; k++)
#pragma unroll
            for (int r = 0; r < 4; r++)
#pragma unroll
                for (int o = 0; o < 4; o++)
                    acc[r][o] = fmaf(tile_w[k][to + o], tile_x[k][tr + r], acc[r][o]);
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
        for (int o = 0; o < 4; o++) {
            if (r0 + tr + r >= rows || o0 + to + o >= n_out)
                continue;
            const int64_t at = (int64_t)(r0 + tr + r) * n_out + o0 + to + o;
            float v = acc[r][o];
            v = bias ? v + bias[o0 + to + o] : v;
            cuda_set(out, at, add.data ? v + cuda_get(add, at) : v);
        }
}

void cuda_linear_f32_launch(const struct cuda_linear_call *l, int matrix, cudaStream_t stream)
{
    const struct cuda_linear_matrix *m = &l->m[matrix];
    const struct cuda_array none = {};
    LAUNCH(linear_f32_kernel,
           dim3((m->n_out + F32_TILE - 1) / F32_TILE, (l->rows + F32_TILE - 1) / F32_TILE),
           F32_THREADS, 0, stream, m->out, static_cast<const float *>(m->w), l->x, m->bias,
           matrix == 0 ? l->add : none, l->rows, l->n_in, m->n_out);
}
