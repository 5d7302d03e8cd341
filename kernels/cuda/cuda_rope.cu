/* Rotary embedding of one matrix: a block a row. */
#include "kernels/cuda/cuda_rope.cuh"

/* x [rows, n_heads * head_dim] */
__global__ void __launch_bounds__(ROPE_THREADS)
    rope_kernel(float *x, const int32_t *pos, const float *freq, int n_heads, int head_dim,
                int n_rot, float mscale, bool interleaved)
{
    SHARED(float, angle_cos, [ROPE_MAX]);
    SHARED(float, angle_sin, [ROPE_MAX]);
    rope_angles(angle_cos, angle_sin, pos[blockIdx.x], freq, n_rot / 2, mscale);
    __syncthreads();
    rope_heads(x + (size_t)blockIdx.x * n_heads * head_dim, angle_cos, angle_sin, n_heads, head_dim,
               n_rot / 2, interleaved);
}

void cuda_rope_launch(float *x, const int32_t *pos, const float *freq, int rows, int n_heads,
                      int head_dim, int n_rot, float mscale, bool interleaved, cudaStream_t stream)
{
    if (rows > 0)
        LAUNCH(rope_kernel, rows, ROPE_THREADS, 0, stream, x, pos, freq, n_heads, head_dim, n_rot,
               mscale, interleaved);
}
