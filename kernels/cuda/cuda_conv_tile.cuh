/* A tile of a product on tensor cores: 128 outputs times 64 columns a block, 2 panels times 4 tiles of 8
 * columns a warp.  linear_many and conv2d are built from it; they differ in where the columns come from
 * and where results go.
 * Thread: a block of TILE_THREADS.
 *
 * The sum over k is cut into CUDA_SLICES at fixed places.  A slice is summed in the accumulators, then
 * added to the thread's totals in shared memory.  Where tiles are few, blocks share the slices of a tile:
 * each writes the slices' sums to memory, and a second kernel adds them in the same order. */
#ifndef KERNELS_CUDA_CUDA_CONV_TILE_CUH
#define KERNELS_CUDA_CUDA_CONV_TILE_CUH
#include "kernels/cuda/cuda_fragment.cuh"
#include "kernels/cuda/cuda_linear.h"

#define TILE_PANELS  8 /* of a block: 4 warps of 2 */
#define TILE_COLUMNS 64
#define TILE_EIGHTS  4 /* tiles of 8 columns of a warp */
#define TILE_THREADS 256
#define TILE_RESULTS (2 * TILE_EIGHTS * 4)         /* of a thread */
#define TILE_TOTAL   (TILE_RESULTS * TILE_THREADS) /* floats */
#define TILE_BLOCKS  132                           /* wanted at least: an H100's multiprocessors */

/* Shared memory: [ totals ] [ ring of stages, each: weights of the panels, records of the columns ] */
template <int type, int parts> struct tile_ring {
    typedef cuda_format<type> F;
    static constexpr int stages = F::step_k > 64 || F::step_bytes > 1500 ? 3 : 4;
    static constexpr int records = F::step_k / 64;
    static constexpr int w_bytes = F::head + F::step_bytes;
    static constexpr int stage_bytes =
        TILE_PANELS * w_bytes + records * TILE_COLUMNS * CUDA_RECORD(parts);
    static constexpr int shared_bytes = TILE_TOTAL * 4 + stages * stage_bytes;
};

/* First step of a slice. */
__host__ __device__ static inline int tile_slice_begin(int n_steps, int slice)
{
    return (int)((int64_t)n_steps * slice / CUDA_SLICES);
}

/* Blocks that share the slices of a tile. */
static inline int tile_split(int64_t tiles)
{
    return tiles >= TILE_BLOCKS ? 1 : 2 * tiles >= TILE_BLOCKS ? 2 : CUDA_SLICES;
}

/* Step s of panels panel0 ... of w to the stage; panels that are not there as zeros. */
template <int type>
__device__ static inline void tile_fetch_weights(uint8_t *stage, const uint8_t *w,
                                                 size_t panel_bytes, int panel0, int n_panels,
                                                 int s)
{
    typedef cuda_format<type> F;
    constexpr int pieces = (F::head + F::step_bytes) / 16;
    const size_t unit = (size_t)(s / F::steps) * F::unit_bytes;
    const int step = s % F::steps * F::step_bytes; /* behind the head */
#pragma unroll 1                                   /* registers are few */
    for (int i = threadIdx.x; i < TILE_PANELS * pieces; i += TILE_THREADS) {
        const int p = i / pieces, at = i % pieces * 16;
        const bool there = panel0 + p < n_panels;
        const uint8_t *from = w + (size_t)(there ? panel0 + p : 0) * panel_bytes + unit + at;
        cuda_copy16(stage + i * 16, from + (at < F::head ? 0 : step), there ? 16 : 0);
    }
}

/* Where result n of a thread belongs in the tile. */
__device__ static inline void tile_place(int n, int *o, int *column)
{
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    const int p = n / (TILE_EIGHTS * 4), t = n / 4 % TILE_EIGHTS, i = n % 4;
    *o = (warp % 4 * 2 + p) * CUDA_PANEL + lane / 4 + i / 2 * 8;
    *column = (warp / 4 * TILE_EIGHTS + t) * 8 + lane % 4 * 2 + i % 2;
}

/* A slice's sums are complete: they begin the totals, or are added to them. */
__device__ static inline void tile_slice(float acc[2][TILE_EIGHTS][4], float *total, bool begin)
{
#pragma unroll
    for (int n = 0; n < TILE_RESULTS; n++) {
        float *sum = &acc[n / (TILE_EIGHTS * 4)][n / 4 % TILE_EIGHTS][n % 4];
        float *to = total + n * TILE_THREADS;
        *to = begin ? *sum : *to + *sum;
        *sum = 0.0f;
    }
}

/* The block's share of the product.  `shared`: tile_ring::shared_bytes.  fetch(stage, s) queues the copies
 * of weights and columns of step s; done(total, slice) is called with the thread's totals, TILE_THREADS
 * apart: once with slice -1 if split is 1, else for each slice.  Columns from n_columns on are not
 * computed. */
template <int type, int parts, class Fetch, class Done>
__device__ static inline void tile_run(float *shared, int n_steps, int split, int n_columns,
                                       const Fetch &fetch, const Done &done)
{
    typedef tile_ring<type, parts> R;
    float *total = shared + threadIdx.x;
    uint8_t *ring = reinterpret_cast<uint8_t *>(shared + TILE_TOTAL);
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    const int per = CUDA_SLICES / split, first = blockIdx.z * per;
    const int begin = tile_slice_begin(n_steps, first),
              end = tile_slice_begin(n_steps, first + per);
#pragma unroll 1
    for (int i = 0; i < R::stages - 1; i++) {
        if (begin + i < end)
            fetch(ring + i * R::stage_bytes, begin + i);
        cuda_copy_commit();
    }
    float acc[2][TILE_EIGHTS][4] = {};
    const int column0 = warp / 4 * TILE_EIGHTS * 8;
    int at = 0, next = R::stages - 1, slice = first;
    for (int s = begin;; s++) {
        for (; slice < first + per && s == tile_slice_begin(n_steps, slice + 1); slice++) {
            tile_slice(acc, total, slice == first || split > 1);
            if (split > 1)
                done(total, slice);
        }
        if (s == end)
            break;
        cuda_copy_wait<R::stages - 2>();
        __syncthreads();
        if (s + R::stages - 1 < end)
            fetch(ring + next * R::stage_bytes, s + R::stages - 1);
        cuda_copy_commit();
        const uint8_t *stage = ring + at * R::stage_bytes;
        const struct cuda_columns x = {stage + TILE_PANELS * R::w_bytes +
                                           column0 * CUDA_RECORD(parts),
                                       TILE_COLUMNS, TILE_COLUMNS * CUDA_RECORD(parts)};
        if (column0 < n_columns)
            cuda_step<type, 2, TILE_EIGHTS, parts>(acc, stage + warp % 4 * 2 * R::w_bytes,
                                                   R::w_bytes, x, lane);
        at = at + 1 < R::stages ? at + 1 : 0;
        next = next + 1 < R::stages ? next + 1 : 0;
    }
    cuda_copy_wait<0>();
    if (split == 1)
        done(total, -1);
}
#endif
