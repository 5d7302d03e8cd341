/* conv2d over NHWC for F16 and BF16 weights: an implicit product on tensor
 * cores (cuda_tile.cuh), whose columns are output pixels and whose k runs over
 * (ky, kx, c).  Where c_in is a multiple of 8 the windows are gathered by
 * 16-byte cp.async, zeros outside of the image; else element by element.  Maps
 * too small to occupy the device share the slices of k among blocks.
 *
 * Halves of x are multiplied: x itself where it is of the weights' type, else
 * what it is rounded to, one half where that loses nothing, or two:
 *
 *     work   [ scales of images ] [ tops ] [ halves ] [ what they lost ] [ sums
 * of slices of shared tiles ] */
#include "kernels/cuda/cuda_conv.h"

#include "kernels/cuda/cuda_conv_kernels.cuh"
#include "kernels/cuda/cuda_tile.cuh"

#define CONV_PARTS   2 /* at most */
#define CONV_THREADS 256

struct conv_job {
    struct cuda_conv_call c;
    const uint16_t *half[CONV_PARTS]; /* [n, h, w, c_in] */
    float *scales;                    /* [n] of the halves; NULL: they have none */
    unsigned *tops;                   /* [n] bits of the largest magnitude */
    struct tile_plan plan;
    size_t panel_bytes;
    int n_k, n_steps, n_panels;
    int across;     /* tiles of a panel tile's pixels, which lie one after the other */
    int64_t wide;   /* windows come by 16 bytes */
    int64_t pixels; /* of out that are computed */
};

/* The largest magnitude of each image.  Bits of floats order like the floats; NaN is above all. */
__global__ void __launch_bounds__(CONV_THREADS)
    conv_top_kernel(unsigned *tops, struct cuda_array x, int64_t n)
{
    const int64_t image = blockIdx.y * n, step = (int64_t)gridDim.x * CONV_THREADS * 4;
    unsigned top = 0;
    for (int64_t i = ((int64_t)blockIdx.x * CONV_THREADS + threadIdx.x) * 4; i < n; i += step) {
        const float4 v = cuda_get_quad(x, image + i, n - i < 4 ? (int)(n - i) : 4);
        top = cuda_larger::of(top, __float_as_uint(fabsf(v.x)));
        top = cuda_larger::of(top, __float_as_uint(fabsf(v.y)));
        top = cuda_larger::of(top, __float_as_uint(fabsf(v.z)));
        top = cuda_larger::of(top, __float_as_uint(fabsf(v.w)));
    }
    top = cuda_exchange<cuda_larger, CUDA_WARP / 2, 1>(top);
    if (threadIdx.x % CUDA_WARP == 0)
        atomicMax(&tops[blockIdx.y], top);
}

/* The first n of four halves. */
__device__ static inline void conv_put(uint16_t *to, int n, uint2 four)
{
    if (n >= 4 && reinterpret_cast<uintptr_t>(to) % 8 == 0) {
        *reinterpret_cast<uint2 *>(to) = four;
        return;
    }
    to[0] = (uint16_t)four.x;
    if (n > 1)
        to[1] = (uint16_t)(four.x >> 16);
    if (n > 2)
        to[2] = (uint16_t)four.y;
    if (n > 3)
        to[3] = (uint16_t)(four.y >> 16);
}

/* lost: NULL where one half is exact */
__global__ void __launch_bounds__(CONV_THREADS)
    conv_half_kernel(const struct conv_job j, uint16_t *half, uint16_t *lost, int64_t n, bool bf16)
{
    const int64_t base = blockIdx.y * n, step = (int64_t)gridDim.x * CONV_THREADS * 4;
    float down = 1.0f, up = 1.0f;
    if (!bf16)
        cuda_scales_of(__uint_as_float(j.tops[blockIdx.y]), &down, &up);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        j.scales[blockIdx.y] = up;
    for (int64_t i = ((int64_t)blockIdx.x * CONV_THREADS + threadIdx.x) * 4; i < n; i += step) {
        const int there = n - i < 4 ? (int)(n - i) : 4;
        const float4 v = cuda_get_quad(j.c.x.x, base + i, there);
        float rest[4], none;
        uint2 four;
        four.x = cuda_half_pair(v.x * down, v.y * down, bf16, &rest[0], &rest[1]);
        four.y = cuda_half_pair(v.z * down, v.w * down, bf16, &rest[2], &rest[3]);
        conv_put(half + base + i, there, four);
        if (!lost)
            continue;
        four.x = cuda_half_pair(rest[0], rest[1], bf16, &none, &none);
        four.y = cuda_half_pair(rest[2], rest[3], bf16, &none, &none);
        conv_put(lost + base + i, there, four);
    }
}

/* The factor of an image's sums. */
__device__ static inline float conv_scale(const struct conv_job &j, int image)
{
    return j.scales ? j.scales[image] : 1.0f;
}

/* Records of 64 elements from k0 on, of windows that are not whole pieces of 16
 * bytes. */
template <class S>
__device__ static inline void conv_gather(const struct conv_job &j, uint8_t *records,
                                          const struct conv_at *pixels, int k0)
{
#pragma unroll 1
    for (int i = threadIdx.x; i < S::columns * 64; i += S::threads) {
        const int column = i / 64, k = k0 + i % 64;
        const int64_t from = k < j.n_k ? conv_element(j.c.x, pixels[column], k) : -1;
#pragma unroll
        for (int part = 0; part < S::parts; part++)
            reinterpret_cast<uint16_t *>(records + column * CUDA_RECORD(S::parts) +
                                         part * 128)[i % 64] = from < 0 ? 0 : j.half[part][from];
    }
}

/* Slices of a tile, to results where it is complete. */
template <int type, int parts, int columns>
__device__ static inline void conv_tile(const struct conv_job &j, float *shared,
                                        const struct tile_slices &of)
{
    typedef tile_shape<type, parts, columns> S;
    SHARED(struct conv_at, pixels, [columns]);
    SHARED(struct conv_view, views, [columns]);
    const int panel0 = of.tile / j.across * TILE_PANELS;
    const int64_t first = (int64_t)(of.tile % j.across) * columns;
    const int there = (int)(j.pixels - first < columns ? j.pixels - first : columns);
    const tile_weights<S> weights(static_cast<const uint8_t *>(j.c.w), j.panel_bytes, panel0,
                                  j.n_panels);
    const int at = threadIdx.x;
    if (at < columns) { /* pixels that are not there: the last one again, for nobody */
        pixels[at] = conv_at(j.c.x, first + (at < there ? at : there - 1), j.c.y_begin, j.c.n_y);
        if (j.wide)
            views[at] = conv_view(j.c.x, pixels[at]);
    }
    __syncthreads();

    constexpr int pieces = 8 * parts, own = columns * pieces / S::threads;
    /* of a pixel's record: all copies of a thread have the same k */
    const int piece = threadIdx.x % pieces;
    const uint16_t *half = j.half[piece / 8];
    struct conv_walk walk =
        conv_walk_from(j.c.x, tile_slice_begin(j.n_steps, of.first) * 64 + piece % 8 * 8);
    const auto fetch = [&](uint8_t *to, int s) {
        if (!j.wide) {
            conv_gather<S>(j, to, pixels, s * 64);
            return;
        }
        const struct conv_step step = conv_step(j.c.x, walk, j.n_k);
        conv_walk_on(&walk, j.c.x, 64);
#pragma unroll
        for (int n = 0; n < own; n++) {
            const int column = (n * S::threads + threadIdx.x) / pieces;
            const struct conv_view view = views[column];
            const bool inside = view.taps & step.tap;
            cuda_copy16(to + column * CUDA_RECORD(parts) + piece * 16,
                        half + (inside ? conv_step_element(view, step) : 0), inside ? 16 : 0);
        }
    };
    if (tile_run<S, type>(shared, weights, j.n_steps, j.plan, of, fetch))
        tile_results<S>(shared, there, [&](int c, int o, float4 v) {
            o += panel0 * CUDA_PANEL;
            if (o < j.c.c_out)
                conv_store_quad(j.c, pixels[c], o, v, conv_scale(j, pixels[c].image));
        });
}

template <int type, int parts, int columns>
__global__ void __launch_bounds__(tile_shape<type, parts, columns>::threads,
                                  tile_shape<type, parts, columns>::blocks)
    conv_kernel(const struct conv_job j)
{
    SHARED_DYN(float, shared);
    tile_each(j.plan, [&](const struct tile_slices &of) {
        conv_tile<type, parts, columns>(j, shared, of);
    });
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

static int conv_panel_tiles(const struct cuda_conv_call *c)
{
    return (c->c_out + TILE_OUTPUTS - 1) / TILE_OUTPUTS;
}

/* Pixels of a tile. */
static int conv_columns(const struct cuda_conv_call *c)
{
    return tile_columns(conv_pixels(c), conv_panel_tiles(c), 128, c->multiprocessors);
}

/* Fills the plan's blocks. */
static void conv_plan(struct tile_plan *plan, const struct cuda_conv_call *c)
{
    const int columns = conv_columns(c);
    tile_plan_blocks(plan, (conv_pixels(c) + columns - 1) / columns * conv_panel_tiles(c), columns,
                     c->multiprocessors);
}

/* Is x multiplied as it stands? */
static bool conv_direct(const struct cuda_conv_call *c)
{
    return c->x.x.type == c->type;
}

/* Halves of x: a bf16 fits into one f16 that is scaled, not the other way
 * round. */
static int conv_parts(const struct cuda_conv_call *c)
{
    return conv_direct(c) || (c->x.x.type == DTYPE_BF16 && c->type == DTYPE_F16) ? 1 : 2;
}

size_t cuda_conv_work_bytes(const struct cuda_conv_call *c)
{
    if (c->type == DTYPE_F32)
        return 0;
    struct tile_plan plan;
    size_t bytes = 0;
    if (!conv_direct(c))
        bytes = conv_round((size_t)c->x.n * 8) + (size_t)conv_parts(c) * conv_half_bytes(c);
    conv_plan(&plan, c);
    return bytes + tile_sums_bytes(plan.shared, conv_columns(c));
}

/* Fills j's halves and their scales, at the beginning of the work; gives what
 * is behind them. */
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

template <int type, int parts, int columns>
static void conv_tiles(const struct conv_job &j, cudaStream_t stream)
{
    typedef tile_shape<type, parts, columns> S;
    LAUNCH((conv_kernel<type, parts, columns>), j.plan.whole + j.plan.sharing, S::threads,
           S::shared_bytes, stream, j);
}

template <int type, int parts> static void conv_run(struct conv_job &j, cudaStream_t stream)
{
    typedef cuda_format<type> F;
    const int columns = conv_columns(&j.c);
    j.n_steps = (j.n_k + F::step_k - 1) / F::step_k;
    j.panel_bytes = (size_t)j.n_steps * F::unit_bytes;
    j.across = (int)((j.pixels + columns - 1) / columns);
    if (columns == 32)
        conv_tiles<type, parts, 32>(j, stream);
    else if (columns == 64)
        conv_tiles<type, parts, 64>(j, stream);
    else
        conv_tiles<type, parts, 128>(j, stream);
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
    j.plan.sums = reinterpret_cast<float *>(conv_halve(j, stream));
    j.plan.finished = c->finished;
    conv_plan(&j.plan, c);
    j.wide = c->x.c_in % 8 == 0 && c->x.kernel * c->x.kernel <= CONV_TAPS &&
             reinterpret_cast<uintptr_t>(j.half[0]) % 16 == 0;
    j.n_k = c->x.kernel * c->x.kernel * c->x.c_in;
    j.n_panels = (c->c_out + CUDA_PANEL - 1) / CUDA_PANEL;
    if (bf16 && once)
        conv_run<DTYPE_BF16, 1>(j, stream);
    else if (bf16)
        conv_run<DTYPE_BF16, 2>(j, stream);
    else if (once)
        conv_run<DTYPE_F16, 1>(j, stream);
    else
        conv_run<DTYPE_F16, 2>(j, stream);
}
