/* Rows of pre(x) to records of halves (cuda_fragment.cuh), or (parts = 0) to rows of nothing but halves: a block a row.
 * What pre makes, rounded to x's type, stays in shared memory until the row's scale is known: a thread's own elements, so without a barrier.  Rows
 * of f16 are their halves: they have no scale. */
#include "kernels/cuda/cuda_fragment.cuh"
#include "kernels/cuda/cuda_linear_kernels.cuh"
#include "kernels/cuda/cuda_row.cuh"

#define X_RECORD(parts) ((parts) ? CUDA_RECORD(parts) : 128)
#define X_THREADS       1024 /* at most, of few rows without sums over them */

/* Four elements, scaled, as halves; v is then what those lost. */
template <bool bf16> __device__ static inline uint2 x_halves(float v[4])
{
    uint2 half;
    half.x = cuda_half_pair(v[0], v[1], bf16, &v[0], &v[1]);
    half.y = cuda_half_pair(v[2], v[3], bf16, &v[2], &v[3]);
    return half;
}

/* x [rows, n_in]   records [rows, n_records, X_RECORD(parts)]   up [rows] */
template <int parts, bool bf16, int pre>
__global__ void __launch_bounds__(X_THREADS)
    linear_x_kernel(uint8_t *records, float *up, const struct cuda_array x, const struct cuda_pre p,
                    int n_in, int n_records)
{
    SHARED(float, partial, [CUDA_WARP]);
    SHARED_DYN(float4, kept); /* [n_in / 4], not with LINEAR_AS_IS */
    cuda_grid_wait();
    uint8_t *to = records + (size_t)blockIdx.x * n_records * X_RECORD(parts);
    const bool wide = row_wide(x, n_in), scaled = !bf16 && x.type != DTYPE_F16;
    float down = 1.0f, scale = 1.0f, top = 0.0f;
    const auto largest = [&](float4 v) {
        top = fmaxf(fmaxf(top, fmaxf(fabsf(v.x), fabsf(v.y))), fmaxf(fabsf(v.z), fabsf(v.w)));
    };
    if (pre != LINEAR_AS_IS)
        row_make<pre>(x, blockIdx.x, n_in, p, partial, [&](int i, float4 v) {
            v = make_float4(cuda_rounded(v.x, x.type), cuda_rounded(v.y, x.type),
                            cuda_rounded(v.z, x.type), cuda_rounded(v.w, x.type));
            kept[i] = v;
            largest(v);
        });
    else if (scaled)
        for (int i = threadIdx.x; 4 * i < n_in; i += blockDim.x)
            largest(row_quad(x, blockIdx.x, i, n_in, wide, 0.0f));
    if (scaled) {
        top = cuda_warp_max(top);
        __syncthreads(); /* row_make's partial */
        if (threadIdx.x % CUDA_WARP == 0)
            partial[threadIdx.x / CUDA_WARP] = top;
        __syncthreads();
        const int at = threadIdx.x % CUDA_WARP, n_warps = blockDim.x / CUDA_WARP;
        top = cuda_warp_max(at < n_warps ? partial[at] : 0.0f);
        cuda_scales_of(top, &down, &scale);
    }
    if (threadIdx.x == 0)
        up[blockIdx.x] = scale;
    /* whole warps go on together for the sums */
    const int quads = n_records * 16, even = (quads + CUDA_WARP - 1) / CUDA_WARP * CUDA_WARP;
    for (int i = threadIdx.x; i < even; i += blockDim.x) {
        float4 four = make_float4(0, 0, 0, 0);
        if (pre == LINEAR_AS_IS)
            four = row_quad(x, blockIdx.x, i, n_in, wide, 0.0f);
        else if (4 * i < n_in)
            four = kept[i];
        four = make_float4(four.x * down, four.y * down, four.z * down, four.w * down);
        float lost[4] = {four.x, four.y, four.z, four.w};
        const uint2 half = x_halves<bf16>(lost);
        /* of what the halves hold: where D q + M is small, rounding x then counts as little */
        float sum =
            ((four.x - lost[0]) + (four.y - lost[1])) + ((four.z - lost[2]) + (four.w - lost[3]));
        if (parts > 0)
            sum = cuda_exchange<cuda_add, 1, 2>(sum);
        if (i >= quads)
            continue;
        uint8_t *record = to + (size_t)(i / 16) * X_RECORD(parts);
        const int at = i % 16;
        reinterpret_cast<uint2 *>(record)[at] = half;
        if (parts == 2)
            reinterpret_cast<uint2 *>(record + 128)[at] = x_halves<bf16>(lost);
        if (parts > 0 && at % 4 == 0)
            reinterpret_cast<float *>(record + 128 * parts)[at / 4] = sum;
    }
}

template <int parts, bool bf16, int pre>
static void x_launch(uint8_t *records, float *up, const struct cuda_linear_call *l,
                     cudaStream_t stream)
{
    const size_t kept = pre == LINEAR_AS_IS ? 0 : (size_t)(l->n_in + 3) / 4 * sizeof(float4);
    const bool sums = pre == LINEAR_RMSNORM || pre == LINEAR_LAYERNORM;
    const int most = sums || l->rows > CUDA_FEW_ROWS ? ROW_THREADS : X_THREADS;
    LAUNCH_EARLY(l->rows, (linear_x_kernel<parts, bf16, pre>), l->rows, row_threads(l->n_in, most),
                 kept, stream, records, up, l->x, l->pre, l->n_in, CUDA_RECORDS(l->n_in));
}

template <int parts, bool bf16>
static void x_launch_of(uint8_t *records, float *up, const struct cuda_linear_call *l,
                        cudaStream_t stream)
{
    switch (l->kind) {
    case LINEAR_RMSNORM:
        x_launch<parts, bf16, LINEAR_RMSNORM>(records, up, l, stream);
        break;
    case LINEAR_LAYERNORM:
        x_launch<parts, bf16, LINEAR_LAYERNORM>(records, up, l, stream);
        break;
    case LINEAR_GLU:
        x_launch<parts, bf16, LINEAR_GLU>(records, up, l, stream);
        break;
    default:
        x_launch<parts, bf16, LINEAR_AS_IS>(records, up, l, stream);
    }
}

void cuda_linear_x_launch(uint8_t *records, float *up, const struct cuda_linear_call *l, int parts,
                          bool bf16, cudaStream_t stream)
{
    if (bf16 && parts == 2)
        x_launch_of<2, true>(records, up, l, stream);
    else if (bf16)
        x_launch_of<1, true>(records, up, l, stream);
    else if (parts == 2)
        x_launch_of<2, false>(records, up, l, stream);
    else
        x_launch_of<1, false>(records, up, l, stream);
}

void cuda_linear_rows_launch(void *rows, float *up, const struct cuda_linear_call *l, bool bf16,
                             cudaStream_t stream)
{
    if (bf16)
        x_launch_of<0, true>(static_cast<uint8_t *>(rows), up, l, stream);
    else
        x_launch_of<0, false>(static_cast<uint8_t *>(rows), up, l, stream);
}
