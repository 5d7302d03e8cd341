/* conv2d with F32 weights in f32: 64 outputs times 64 pixels a block, 4 x 4 a thread; a sum is one chain
 * of fma over ascending k, pixels outside of the image as zeros.  lowrank: a thread a sum, in the order that
 * kernels/ops.h says. */
#include "kernels/cuda/cuda_conv_kernels.cuh"
#include "kernels/cuda/cuda_fragment.cuh"

#define F32_TILE    64
#define F32_K       16
#define F32_THREADS 256

__global__ void __launch_bounds__(F32_THREADS, 2)
    conv_f32_kernel(const struct cuda_conv_call c, int n_k, int64_t pixels)
{
    SHARED(float, tile_w, [F32_K][F32_TILE + 4]);
    SHARED(float, tile_x, [F32_K][F32_TILE + 4]);
    const float *w = static_cast<const float *>(c.w);
    const int64_t p0 = (int64_t)blockIdx.x * F32_TILE;
    const int o0 = blockIdx.y * F32_TILE, to = threadIdx.x % 16 * 4, tp = threadIdx.x / 16 * 4;
    const size_t w_stride = (size_t)(n_k + 3) / 4 * 4;
    float acc[4][4] = {};
    for (int k0 = 0; k0 < n_k; k0 += F32_K) {
        for (int i = threadIdx.x; i < F32_TILE * F32_K; i += F32_THREADS) {
            const int k = k0 + i % F32_K, n = i / F32_K;
            int64_t from = -1;
            if (p0 + n < pixels && k < n_k)
                from = conv_element(c.x, conv_at(c.x, p0 + n, c.y_begin, c.n_y), k);
            tile_x[i % F32_K][n] = from < 0 ? 0.0f : cuda_get(c.x.x, from);
            tile_w[i % F32_K][n] = o0 + n < c.c_out && k < n_k ? w[(o0 + n) * w_stride + k] : 0.0f;
        }
        __syncthreads();
        const int end = n_k - k0 < F32_K ? n_k - k0 : F32_K;
        for (int k = 0; k < end; k++)
#pragma unroll
            for (int p = 0; p < 4; p++)
#pragma unroll
                for (int o = 0; o < 4; o++)
                    acc[p][o] = fmaf(tile_w[k][to + o], tile_x[k][tp + p], acc[p][o]);
        __syncthreads();
    }
#pragma unroll
    for (int p = 0; p < 4; p++) {
        if (p0 + tp + p >= pixels)
            continue;
        const struct conv_at at = conv_at(c.x, p0 + tp + p, c.y_begin, c.n_y);
#pragma unroll
        for (int o = 0; o < 4; o++)
            if (o0 + to + o < c.c_out)
                conv_store(c, at, o0 + to + o, acc[p][o]);
    }
}

void conv_f32_launch(const struct cuda_conv_call *c, cudaStream_t stream)
{
    const int64_t pixels = (int64_t)c->x.n * c->n_y * c->x.wo;
    LAUNCH(
        conv_f32_kernel,
        dim3((unsigned)((pixels + F32_TILE - 1) / F32_TILE), (c->c_out + F32_TILE - 1) / F32_TILE),
        F32_THREADS, 0, stream, *c, c->x.kernel * c->x.kernel * c->x.c_in, pixels);
}

/* ---- lowrank ---- */

#define LOW_THREADS 128

/* Element (row, k) of a plain matrix with n_in columns. */
__device__ static inline float low_value(const void *w, enum dtype type, int row, int k, int n_in)
{
    if (type == DTYPE_F32)
        return static_cast<const float *>(w)[(size_t)row * ((n_in + 3) / 4 * 4) + k];
    const size_t panel_bytes = (size_t)((n_in + 63) / 64) * cuda_format<DTYPE_F16>::unit_bytes;
    const uint8_t *panel = static_cast<const uint8_t *>(w) + row / CUDA_PANEL * panel_bytes;
    return type == DTYPE_F16 ? cuda_value<DTYPE_F16>(panel, row % CUDA_PANEL, k)
                             : cuda_value<DTYPE_BF16>(panel, row % CUDA_PANEL, k);
}

/* hidden[row, i] = scale * (sum over taps of (sum over k of down[i, k] x[row, k])) */
__global__ void __launch_bounds__(LOW_THREADS) low_down_kernel(const struct cuda_lowrank_call c)
{
    const int64_t at = (int64_t)blockIdx.x * LOW_THREADS + threadIdx.x;
    if (at >= c.rows * c.rank)
        return;
    const int64_t row = at / c.rank;
    const int i = (int)(at % c.rank), n_k = c.x.kernel * c.x.kernel * c.x.c_in;
    const bool window = c.x.kernel > 1 || c.x.stride > 1 || c.x.up > 1;
    struct conv_at p = {};
    if (window)
        p = conv_at(c.x, c.first + row, 0, c.x.ho);
    float sum = 0.0f;
    for (int tap = 0; tap < n_k; tap += c.x.c_in) {
        float of_tap = 0.0f;
        for (int k = tap; k < tap + c.x.c_in; k++) {
            const int64_t from = window ? conv_element(c.x, p, k) : row * n_k + k;
            of_tap = fmaf(low_value(c.down, c.down_type, i, k, n_k),
                          from < 0 ? 0.0f : cuda_get(c.x.x, from), of_tap);
        }
        sum += of_tap;
    }
    c.hidden[at] = sum * c.scale;
}

/* out[row, o] += hidden[row, :] up[o, :] */
__global__ void __launch_bounds__(LOW_THREADS) low_up_kernel(const struct cuda_lowrank_call c)
{
    const int64_t at = (int64_t)blockIdx.x * LOW_THREADS + threadIdx.x;
    if (at >= c.rows * c.c_out)
        return;
    const int64_t row = at / c.c_out;
    const int o = (int)(at % c.c_out);
    float v = cuda_get(c.out, at);
    for (int i = 0; i < c.rank; i++)
        v = fmaf(low_value(c.up, c.up_type, o, i, c.rank), c.hidden[row * c.rank + i], v);
    cuda_set(c.out, at, v);
}

void cuda_lowrank_launch(const struct cuda_lowrank_call *c, cudaStream_t stream)
{
    if (c->rows <= 0 || c->rank <= 0)
        return;
    LAUNCH(low_down_kernel, (unsigned)((c->rows * c->rank + LOW_THREADS - 1) / LOW_THREADS),
           LOW_THREADS, 0, stream, *c);
    LAUNCH(low_up_kernel, (unsigned)((c->rows * c->c_out + LOW_THREADS - 1) / LOW_THREADS),
           LOW_THREADS, 0, stream, *c);
}
