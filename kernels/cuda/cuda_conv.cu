/* conv2d over NHWC for F16 and BF16 weights: an implicit product on tensor cores (cuda_tile.cuh), whose
 * columns are output pixels and whose k runs over (ky, kx, c).  Where c_in is a multiple of 8 the windows
 * are gathered by 16-byte cp.async, zeros outside of the image; else element by element.  Maps too small
 * to occupy the device share the slices of k among blocks.
 *
 * Halves of x are multiplied: x itself where it is of the weights' type, else what it is rounded to, one half
 * where that loses nothing, or two:
 *
 *     work   [ scales of images ] [ tops ] [ halves ] [ what they lost ] [ sums of the slices ] */
#include "kernels/cuda/cuda_conv.h"

#include "kernels/cuda/cuda_conv_kernels.cuh"
#include "kernels/cuda/cuda_conv_tile.cuh"

#define CONV_PARTS   2 /* at most */
#define CONV_THREADS 256

struct conv_job {
    struct cuda_conv_call c;
    const uint16_t *half[CONV_PARTS]; /* [n, h, w, c_in] */
    float *scales;                    /* [n] of the halves; NULL: they have none */
    unsigned *tops;                   /* [n] bits of the largest magnitude */
    float *slices;                    /* [CUDA_SLICES, pixels, c_out] if split */
    size_t panel_bytes;
    int n_k, n_steps, n_panels, split;
    int64_t wide;   /* windows come by 16 bytes */
    int64_t pixels; /* of out that are computed */
};

/* The largest magnitude of each image.  Bits of floats order like the floats; NaN is above all. */
__global__ void __launch_bounds__(CONV_THREADS)
    conv_top_kernel(unsigned *tops, struct cuda_array x, int64_t n)
{
    const int64_t image = blockIdx.y * n;
    unsigned top = 0;
    for (int64_t i = (int64_t)blockIdx.x * CONV_THREADS + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * CONV_THREADS) {
        const unsigned bits = __float_as_uint(fabsf(cuda_get(x, image + i)));
        top = bits > top ? bits : top;
    }
    for (int o = CUDA_WARP / 2; o > 0; o /= 2) {
        const unsigned other = __shfl_xor_sync(CUDA_ALL, top, o);
        top = other > top ? other : top;
    }
    if (threadIdx.x % CUDA_WARP == 0)
        atomicMax(&tops[blockIdx.y], top);
}

/* lost: NULL where one half is exact */
__global__ void __launch_bounds__(CONV_THREADS)
    conv_half_kernel(const struct conv_job j, uint16_t *half, uint16_t *lost, int64_t n, bool bf16)
{
    float down = 1.0f, up = 1.0f;
    if (!bf16)
        cuda_scales_of(__uint_as_float(j.tops[blockIdx.y]), &down, &up);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        j.scales[blockIdx.y] = up;
    const int64_t base = blockIdx.y * n;
    for (int64_t i = (int64_t)blockIdx.x * CONV_THREADS + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * CONV_THREADS) {
        float rest, none;
        half[base + i] = cuda_half_bits(cuda_get(j.c.x.x, base + i) * down, bf16, &rest);
        if (lost)
            lost[base + i] = cuda_half_bits(rest, bf16, &none);
    }
}

/* The records of step s, of the tile's pixels from `first` on. */
template <int parts>
__device__ static inline void conv_gather(const struct conv_job &j, uint8_t *to, int64_t first,
                                          int s)
{
    const struct cuda_window &x = j.c.x;
    constexpr int pieces = 8 * parts; /* of 8 halves */
#pragma unroll 1
    for (int i = threadIdx.x; i < TILE_COLUMNS * pieces; i += TILE_THREADS) {
        const int piece = i % 8, part = i / 8 % parts, column = i / pieces;
        uint8_t *at = to + column * CUDA_RECORD(parts) + part * 128 + piece * 16;
        const int64_t pixel = first + column;
        struct conv_at p = {};
        if (pixel < j.pixels)
            p = conv_at(x, pixel, j.c.y_begin, j.c.n_y);
        int k = s * 64 + piece * 8;
        if (j.wide) {
            const int64_t from = pixel < j.pixels && k < j.n_k ? conv_element(x, p, k) : -1;
            cuda_copy16(at, j.half[part] + (from < 0 ? 0 : from), from < 0 ? 0 : 16);
            continue;
        }
        for (int e = 0; e < 8; e++, k++) {
            const int64_t from = pixel < j.pixels && k < j.n_k ? conv_element(x, p, k) : -1;
            reinterpret_cast<uint16_t *>(at)[e] = from < 0 ? 0 : j.half[part][from];
        }
    }
}

/* The factor of an image's sums. */
__device__ static inline float conv_scale(const struct conv_job &j, int image)
{
    return j.scales ? j.scales[image] : 1.0f;
}

template <int type, int parts>
__global__ void __launch_bounds__(TILE_THREADS, 2) conv_kernel(const struct conv_job j)
{
    typedef tile_ring<type, parts> R;
    SHARED_DYN(float, shared);
    const int panel0 = blockIdx.y * TILE_PANELS;
    const int64_t first = (int64_t)blockIdx.x * TILE_COLUMNS;
    const int64_t left = j.pixels - first;
    const auto fetch = [&](uint8_t *stage, int s) {
        tile_fetch_weights<type>(stage, static_cast<const uint8_t *>(j.c.w), j.panel_bytes, panel0,
                                 j.n_panels, s);
        conv_gather<parts>(j, stage + TILE_PANELS * R::w_bytes, first, s);
    };
    const auto done = [&](const float *total, int slice) {
#pragma unroll 1
        for (int n = 0; n < TILE_RESULTS; n++) {
            int o, column;
            tile_place(n, &o, &column);
            o += panel0 * CUDA_PANEL;
            if (o >= j.c.c_out || column >= left)
                continue;
            const float sum = total[n * TILE_THREADS];
            if (slice >= 0) {
                j.slices[(slice * j.pixels + first + column) * j.c.c_out + o] = sum;
                continue;
            }
            const struct conv_at p = conv_at(j.c.x, first + column, j.c.y_begin, j.c.n_y);
            conv_store(j.c, p, o, sum * conv_scale(j, p.image));
        }
    };
    tile_run<type, parts>(shared, j.n_steps, j.split,
                          (int)(left < TILE_COLUMNS ? left : TILE_COLUMNS), fetch, done);
}

/* The slices' sums to results: a block some outputs of a pixel. */
__global__ void __launch_bounds__(CONV_THREADS) conv_join_kernel(const struct conv_job j)
{
    const int64_t all = j.pixels * j.c.c_out;
    const int64_t i = (int64_t)blockIdx.x * CONV_THREADS + threadIdx.x;
    if (i >= all)
        return;
    const float *p = j.slices + i;
    const struct conv_at at = conv_at(j.c.x, i / j.c.c_out, j.c.y_begin, j.c.n_y);
    conv_store(j.c, at, (int)(i % j.c.c_out),
               (((p[0] + p[all]) + p[2 * all]) + p[3 * all]) * conv_scale(j, at.image));
}

static size_t conv_round(size_t n)
{
    return (n + 255) / 256 * 256;
}

static int64_t conv_pixels(const struct cuda_conv_call *c)
{
    return (int64_t)c->x.n * c->n_y * c->x.wo;
}

static size_t conv_half_bytes(const struct cuda_conv_call *c)
{
    return conv_round((size_t)c->x.n * c->x.h * c->x.w * c->x.c_in * 2);
}

/* Blocks of a launch without shared slices. */
static int64_t conv_tiles(const struct cuda_conv_call *c)
{
    return (conv_pixels(c) + TILE_COLUMNS - 1) / TILE_COLUMNS *
           ((c->c_out + TILE_PANELS * CUDA_PANEL - 1) / (TILE_PANELS * CUDA_PANEL));
}

/* Is x multiplied as it stands? */
static bool conv_direct(const struct cuda_conv_call *c)
{
    return c->x.x.type == c->type;
}

/* Halves of x: a bf16 fits into one f16 that is scaled, not the other way round. */
static int conv_parts(const struct cuda_conv_call *c)
{
    return conv_direct(c) || (c->x.x.type == DTYPE_BF16 && c->type == DTYPE_F16) ? 1 : 2;
}

size_t cuda_conv_work_bytes(const struct cuda_conv_call *c)
{
    if (c->type == DTYPE_F32)
        return 0;
    size_t bytes = 0;
    if (!conv_direct(c))
        bytes = conv_round((size_t)c->x.n * 8) + (size_t)conv_parts(c) * conv_half_bytes(c);
    if (tile_split(conv_tiles(c)) > 1)
        bytes += CUDA_SLICES * (size_t)conv_pixels(c) * (size_t)c->c_out * sizeof(float);
    return bytes;
}

/* Fills j's halves and their scales, at the beginning of the work; gives what is behind them. */
static uint8_t *conv_halve(struct conv_job &j, cudaStream_t stream)
{
    const struct cuda_window &x = j.c.x;
    uint8_t *at = static_cast<uint8_t *>(j.c.work);
    if (conv_direct(&j.c)) {
        j.half[0] = static_cast<const uint16_t *>(x.x.data);
        return at;
    }
    const int64_t n = (int64_t)x.h * x.w * x.c_in;
    const int64_t blocks = (n + CONV_THREADS * 8 - 1) / (CONV_THREADS * 8);
    const dim3 over((unsigned)(blocks < 1024 ? blocks : 1024), x.n);
    uint16_t *half[CONV_PARTS] = {};
    j.scales = reinterpret_cast<float *>(at);
    j.tops = reinterpret_cast<unsigned *>(j.scales + x.n);
    at += conv_round((size_t)x.n * 8);
    for (int i = 0; i < conv_parts(&j.c); i++, at += conv_half_bytes(&j.c))
        j.half[i] = half[i] = reinterpret_cast<uint16_t *>(at);
    if (j.c.type != DTYPE_BF16) {
        cuda_queue_clear(j.tops, (size_t)x.n * sizeof(unsigned), stream);
        LAUNCH(conv_top_kernel, over, CONV_THREADS, 0, stream, j.tops, x.x, n);
    }
    LAUNCH(conv_half_kernel, over, CONV_THREADS, 0, stream, j, half[0], half[1], n,
           j.c.type == DTYPE_BF16);
    return at;
}

template <int type, int parts> static void conv_run(struct conv_job &j, cudaStream_t stream)
{
    typedef cuda_format<type> F;
    j.n_steps = (j.n_k + F::step_k - 1) / F::step_k;
    j.panel_bytes = (size_t)j.n_steps * F::unit_bytes;
    const dim3 grid((unsigned)((j.pixels + TILE_COLUMNS - 1) / TILE_COLUMNS),
                    (j.n_panels + TILE_PANELS - 1) / TILE_PANELS, j.split);
    LAUNCH((conv_kernel<type, parts>), grid, TILE_THREADS, (tile_ring<type, parts>::shared_bytes),
           stream, j);
    if (j.split > 1)
        LAUNCH(conv_join_kernel,
               (unsigned)((j.pixels * j.c.c_out + CONV_THREADS - 1) / CONV_THREADS), CONV_THREADS,
               0, stream, j);
}

void cuda_conv_launch(const struct cuda_conv_call *c, cudaStream_t stream)
{
    struct conv_job j = {};
    j.c = *c;
    j.pixels = conv_pixels(c);
    if (j.pixels <= 0)
        return;
    if (c->type == DTYPE_F32) {
        conv_f32_launch(c, stream);
        return;
    }
    const bool bf16 = c->type == DTYPE_BF16, once = conv_parts(c) == 1;
    j.slices = reinterpret_cast<float *>(conv_halve(j, stream));
    j.wide = c->x.c_in % 8 == 0 && reinterpret_cast<uintptr_t>(j.half[0]) % 16 == 0;
    j.n_k = c->x.kernel * c->x.kernel * c->x.c_in;
    j.n_panels = (c->c_out + CUDA_PANEL - 1) / CUDA_PANEL;
    j.split = tile_split(conv_tiles(c));
    if (bf16 && once)
        conv_run<DTYPE_BF16, 1>(j, stream);
    else if (bf16)
        conv_run<DTYPE_BF16, 2>(j, stream);
    else if (once)
        conv_run<DTYPE_F16, 1>(j, stream);
    else
        conv_run<DTYPE_F16, 2>(j, stream);
}
