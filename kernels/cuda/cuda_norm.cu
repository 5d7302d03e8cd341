/* RMSNorm, LayerNorm: a block a row.  GroupNorm (+ act) over NHWC: sums of pieces of an image at fixed
 * places, joined in doubles, then scale and offset of each channel.  Every order depends on the shape of
 * one row or image alone. */
#include "kernels/cuda/cuda_row.cuh"

/* out, x [rows, dim], out may be x */
template <int pre>
__global__ void __launch_bounds__(ROW_THREADS)
    norm_kernel(const struct cuda_array out, const struct cuda_array x, const struct cuda_pre p,
                int dim)
{
    SHARED(float, partial, [CUDA_WARP]);
    const bool wide = row_wide(out, dim);
    row_make<pre>(x, blockIdx.x, dim, p, partial,
                  [&](int i, float4 v) { row_put(out, blockIdx.x, i, dim, wide, v); });
}

void cuda_norm_launch(struct cuda_array out, struct cuda_array x, enum linear_pre_kind kind,
                      const struct cuda_pre *p, int rows, int dim, cudaStream_t stream)
{
    if (rows > 0 && kind == LINEAR_RMSNORM)
        LAUNCH((norm_kernel<LINEAR_RMSNORM>), rows, row_threads(dim, ROW_THREADS), 0, stream, out,
               x, *p, dim);
    else if (rows > 0 && kind == LINEAR_LAYERNORM)
        LAUNCH((norm_kernel<LINEAR_LAYERNORM>), rows, row_threads(dim, ROW_THREADS), 0, stream, out,
               x, *p, dim);
}

/* ---- groupnorm ---- */

#define GROUP_CHUNKS  128   /* pieces of an image, at most */
#define GROUP_PIXELS  16    /* in a piece at least */
#define GROUP_WIDE    128   /* channels of a block */
#define GROUP_THREADS 256   /* where x is scaled */
#define GROUP_BLOCKS  65535 /* there, at most: a thread has several elements then */

static int group_chunk(int64_t pixels)
{
    const int64_t n = (pixels + GROUP_CHUNKS - 1) / GROUP_CHUNKS;
    return (int)(n < GROUP_PIXELS ? GROUP_PIXELS : n);
}

static int group_chunks(int64_t pixels)
{
    const int chunk = group_chunk(pixels);
    return (int)((pixels + chunk - 1) / chunk);
}

size_t cuda_groupnorm_work_bytes(int n, int64_t pixels, int c)
{
    return (size_t)n * 2 * (size_t)c * (size_t)(1 + group_chunks(pixels)) * sizeof(float);
}

/* sums [n, n_chunks, 2, c]: of x - shift and of its square, shift = the image's first pixel.
 * A thread a channel, in the order of the pixels. */
__global__ void __launch_bounds__(GROUP_WIDE)
    group_sums_kernel(float *sums, struct cuda_array x, int64_t pixels, int c, int chunk)
{
    const int i = blockIdx.x * GROUP_WIDE + threadIdx.x, image = blockIdx.z;
    if (i >= c)
        return;
    const int64_t at = image * pixels * c + i;
    const float shift = cuda_get(x, at);
    const int64_t begin = (int64_t)blockIdx.y * chunk;
    const int64_t end = begin + chunk < pixels ? begin + chunk : pixels;
    float s = 0, q = 0;
    for (int64_t p = begin; p < end; p++) {
        const float a = cuda_get(x, at + p * c) - shift;
        s += a;
        q = fmaf(a, a, q);
    }
    float *to = sums + ((size_t)image * gridDim.y + blockIdx.y) * 2 * c + i;
    to[0] = s;
    to[c] = q;
}

/* A warp a group of an image: scales [n, 2, c], scale and offset of each channel. */
__global__ void __launch_bounds__(CUDA_WARP)
    group_join_kernel(float *scales, const float *sums, struct cuda_array x, const float *w,
                      const float *bias, int64_t pixels, int c, int n_chunks, float eps)
{
    const int width = c / gridDim.x, first = blockIdx.x * width, image = blockIdx.y;
    const int lane = threadIdx.x;
    const int64_t shifts = image * pixels * c; /* the image's first pixel */
    const double count = (double)pixels * width;
    double mean = 0, var = 0;
    for (int pass = 0; pass < 2; pass++) {
        double total = 0;
        for (int i = first + lane; i < first + width; i += CUDA_WARP) {
            double s = 0, q = 0;
            for (int k = 0; k < n_chunks; k++) {
                const float *at = sums + ((size_t)image * n_chunks + k) * 2 * c + i;
                s += (double)at[0];
                q += (double)at[c];
            }
            const double shift = (double)cuda_get(x, shifts + i), far = shift - mean;
            total += pass == 0 ? shift * (double)pixels + s
                               : q + 2 * far * s + far * far * (double)pixels;
        }
        total = cuda_exchange<cuda_add, CUDA_WARP / 2, 1>(total);
        if (pass == 0)
            mean = total / count;
        else
            var = total / count;
    }
    double r = 1.0 / sqrt((var > 0 ? var : 0) + (double)eps);
    if (var != var)
        r = var;
    float *scale = scales + (size_t)image * 2 * c;
    for (int i = first + lane; i < first + width; i += CUDA_WARP) {
        scale[i] = (float)(r * (double)w[i]);
        scale[c + i] = (float)((double)bias[i] - mean * r * (double)w[i]);
    }
}

/* out = act(x * scale + offset); wide: four channels a thread, of c / 4 */
template <bool wide>
__global__ void __launch_bounds__(GROUP_THREADS)
    group_scale_kernel(struct cuda_array out, struct cuda_array x, const float *scales,
                       int64_t pixels, int c, enum act act)
{
    const int64_t n = pixels * c, image = blockIdx.y * n;
    const float *scale = scales + (size_t)blockIdx.y * 2 * c * (wide ? 4 : 1);
    for (int64_t i = (int64_t)blockIdx.x * GROUP_THREADS + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * GROUP_THREADS) {
        const int channel = (int)(i % c);
        if (wide) {
            float4 v = cuda_get4(x, image + i);
            const float4 m = reinterpret_cast<const float4 *>(scale)[channel];
            const float4 a = reinterpret_cast<const float4 *>(scale)[c + channel];
            v.x = cuda_act(act, fmaf(v.x, m.x, a.x));
            v.y = cuda_act(act, fmaf(v.y, m.y, a.y));
            v.z = cuda_act(act, fmaf(v.z, m.z, a.z));
            v.w = cuda_act(act, fmaf(v.w, m.w, a.w));
            cuda_set4(out, image + i, v);
        } else {
            const float v = cuda_get(x, image + i);
            cuda_set(out, image + i, cuda_act(act, fmaf(v, scale[channel], scale[c + channel])));
        }
    }
}

void cuda_groupnorm_launch(struct cuda_array out, struct cuda_array x, const float *w,
                           const float *bias, const struct cuda_groups *g, void *work,
                           cudaStream_t stream)
{
    if (g->n <= 0 || g->pixels <= 0)
        return;
    const int chunk = group_chunk(g->pixels), n_chunks = group_chunks(g->pixels);
    float *scales = static_cast<float *>(work), *sums = scales + (size_t)g->n * 2 * g->c;
    const int64_t blocks = (g->pixels * g->c + GROUP_THREADS * 4 - 1) / (GROUP_THREADS * 4);
    const dim3 over((unsigned)(blocks < GROUP_BLOCKS ? blocks : GROUP_BLOCKS), g->n);
    LAUNCH(group_sums_kernel, dim3((g->c + GROUP_WIDE - 1) / GROUP_WIDE, n_chunks, g->n),
           GROUP_WIDE, 0, stream, sums, x, g->pixels, g->c, chunk);
    LAUNCH(group_join_kernel, dim3(g->n_groups, g->n), CUDA_WARP, 0, stream, scales, sums, x, w,
           bias, g->pixels, g->c, n_chunks, g->eps);
    if (g->c % 4 == 0 && cuda_array_wide(out) && cuda_array_wide(x))
        LAUNCH(group_scale_kernel<true>, over, GROUP_THREADS, 0, stream, out, x, scales, g->pixels,
               g->c / 4, g->act);
    else
        LAUNCH(group_scale_kernel<false>, over, GROUP_THREADS, 0, stream, out, x, scales, g->pixels,
               g->c, g->act);
}
