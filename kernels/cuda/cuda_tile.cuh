/* A tile of a product on tensor cores: 128 outputs times 32, 64 or 128 columns a block.  linear_many and
 * conv2d are built from it; they differ in where the columns come from and where results go.
 * Thread: a block of tile_shape::threads.
 *
 * Weights and columns come through a ring of stages in shared memory, by cp.async from addresses that are
 * computed once a tile.  A warp has `panels` times `eights` tiles of 16 x 8: each fragment that it loads
 * is used 2 to 8 times, and as many products are under way at once.  The least shared memory is read
 * where a warp is wide for weights that must be unpacked (a column's fragment costs one load, a panel's a
 * dozen instructions), and tall for halves, whose columns have two parts.
 *
 * The sum over k is cut into CUDA_SLICES at fixed places.  A slice is summed in the accumulators, then
 * added to the thread's totals.  Tiles that would leave multiprocessors idle are shared by blocks, slice by slice
 * (stream-K, arXiv 2301.03598, but cut between slices only): who ends the last slice of a tile adds them
 * all in the same order.  So neither the shape of a tile nor the sharing changes a bit. */
#ifndef KERNELS_CUDA_CUDA_TILE_CUH
#define KERNELS_CUDA_CUDA_TILE_CUH
#include "kernels/cuda/cuda_fragment.cuh"
#include "kernels/cuda/cuda_linear.h"

#define TILE_PANELS  8
#define TILE_OUTPUTS (TILE_PANELS * CUDA_PANEL)
#define TILE_SHARED  (160 * 1024)       /* what every device has for a block */
#define TILE_STRIDE  (TILE_OUTPUTS + 4) /* floats of a column of results: lanes meet in no bank */

static __host__ __device__ constexpr int tile_least(int a, int b)
{
    return a < b ? a : b;
}

/* Blocks that a multiprocessor runs at once. */
static __host__ __device__ constexpr int tile_blocks(int columns)
{
    return columns == 32 ? 3 : columns == 64 ? 2 : 1;
}

/* The shape of a tile for weights of a type, and its shared memory:
 *     [ totals, of types with groups ] [ ring of stages, each: weights of the panels, records of the columns ]
 * over which the results are laid at the end. */
template <int type, int parts_, int columns_> struct tile_shape {
    typedef cuda_format<type> F;
    static constexpr int parts = parts_, columns = columns_;
    static constexpr int panels = F::group || columns == 32 ? 2 : 4; /* of a warp */
    static constexpr int warps = columns == 128 ? 8 : 4;
    static constexpr int down = TILE_PANELS / panels, across = warps / down; /* warps */
    static constexpr int eights = columns / 8 / across; /* tiles of 8 columns of a warp */
    static constexpr int threads = warps * CUDA_WARP;
    static constexpr int results = panels * eights * 4; /* of a thread */

    static constexpr int records = F::step_k / 64;
    static constexpr int w_bytes = F::head + F::step_bytes;
    static constexpr int record_bytes =
        columns * CUDA_RECORD(parts); /* of 64 elements of all columns */
    static constexpr int stage_bytes = TILE_PANELS * w_bytes + records * record_bytes;
    static constexpr int total_bytes = F::group ? results * threads * 4 : 0;
    static constexpr int stages =
        tile_least((TILE_SHARED - total_bytes) / stage_bytes, columns == 64 ? 3 : 4);
    static constexpr int shared_bytes = total_bytes + stages * stage_bytes;
    static constexpr int blocks = tile_blocks(columns); /* of a multiprocessor */
    static constexpr int slice_floats =
        results * threads; /* the sums of a slice: TILE_OUTPUTS * columns */
    static_assert(stages >= 2 && shared_bytes >= columns * TILE_STRIDE * 4, "shared memory");
};

/* Tiles of 128 columns leave room for a ring of three stages. */
template <int type, int parts> static constexpr bool tile_wide()
{
    typedef cuda_format<type> F;
    return (F::group ? 65536 : 0) + 3 * (TILE_PANELS * (F::head + F::step_bytes) +
                                         F::step_k / 64 * 128 * CUDA_RECORD(parts)) <=
           TILE_SHARED;
}

/* First step of a slice. */
__host__ __device__ static inline int tile_slice_begin(int n_steps, int slice)
{
    return (int)((int64_t)n_steps * slice / CUDA_SLICES);
}

/* Tiles enough for five of six multiprocessors. */
static inline bool tile_enough(int64_t tiles, int64_t multiprocessors)
{
    return 6 * tiles >= 5 * multiprocessors;
}

/* Who computes what.  A block each for the first `whole` tiles; the slices of the other `shared` ones, counted through,
 * go to `sharing` blocks in equal parts, so that a block may end one tile and begin the next. */
struct tile_plan {
    int whole, shared, sharing;
    int zero;    /* no padding: arguments are compared byte for byte */
    float *sums; /* of the slices of shared tiles, each as its threads have them: tile_sums_bytes */
    int *finished; /* [shared] slices whose sums are there; zeros between launches */
};

/* Shared are tiles that do not fill the multiprocessors once more, if that gives no block as much as a tile. */
static inline void tile_plan_blocks(struct tile_plan *plan, int64_t tiles, int columns,
                                    int64_t multiprocessors)
{
    const int64_t slots = multiprocessors * tile_blocks(columns), left = tiles % multiprocessors;
    const int64_t slices = left * CUDA_SLICES;
    const bool sharing = !tile_enough(left, multiprocessors) && slices <= slots * (CUDA_SLICES - 1);
    plan->shared = sharing ? (int)left : 0;
    plan->sharing = sharing ? (int)(slices < slots ? slices : slots) : 0;
    plan->whole = (int)tiles - plan->shared;
}

/* Of `shared` tiles. */
static inline size_t tile_sums_bytes(int64_t shared, int columns)
{
    return (size_t)shared * CUDA_SLICES * TILE_OUTPUTS * columns * sizeof(float);
}

/* The first slice of block i of those that share; slices are counted from tile 0 on. */
__device__ static inline int tile_shared_begin(const struct tile_plan &plan, int i)
{
    return plan.whole * CUDA_SLICES + (int)((int64_t)plan.shared * CUDA_SLICES * i / plan.sharing);
}

/* What a block does at a time: slices [first, end) of a tile, 0 to CUDA_SLICES; how many it does after them. */
struct tile_slices {
    int tile, first, end, left;
};

/* Of the slices [at, end), counted from tile 0 on, those of the first tile. */
__device__ static inline struct tile_slices tile_slices_at(int at, int end)
{
    struct tile_slices s;
    s.tile = at / CUDA_SLICES;
    s.first = at % CUDA_SLICES;
    s.end = tile_least(s.first + end - at, CUDA_SLICES);
    s.left = end - at - (s.end - s.first);
    return s;
}

/* Where the block begins; *of is shared memory: registers are few. */
__device__ static inline void tile_begin(struct tile_slices *of, const struct tile_plan &plan)
{
    const int i = (int)blockIdx.x - plan.whole;
    if (threadIdx.x == 0)
        *of = i < 0 ? tile_slices_at(blockIdx.x * CUDA_SLICES, (blockIdx.x + 1) * CUDA_SLICES)
                    : tile_slices_at(tile_shared_begin(plan, i), tile_shared_begin(plan, i + 1));
    __syncthreads();
}

/* Where it goes on, if it does. */
__device__ static inline bool tile_next(struct tile_slices *of)
{
    const int left = of->left, at = of->tile * CUDA_SLICES + of->end;
    __syncthreads(); /* they are read, and so are the results */
    if (left > 0 && threadIdx.x == 0)
        *of = tile_slices_at(at, at + left);
    __syncthreads();
    return left > 0;
}

/* slices(of) for all that the block does, tile after tile. */
template <class Slices>
__device__ static inline void tile_each(const struct tile_plan &plan, const Slices &slices)
{
    SHARED(struct tile_slices, of, [1]);
    tile_begin(of, plan);
#pragma unroll 1
    do
        slices(of[0]);
    while (tile_next(of));
}

/* Of a shared tile, the slices that one block had together from slice 0 on. */
__device__ static inline int tile_together(const struct tile_plan &plan, int tile)
{
    const int at = tile * CUDA_SLICES, from = at - plan.whole * CUDA_SLICES;
    /* the block of slice `from`: the last one whose first slice is not behind it */
    const int block =
        (int)((((int64_t)from + 1) * plan.sharing - 1) / ((int64_t)plan.shared * CUDA_SLICES));
    return tile_slices_at(at, tile_shared_begin(plan, block + 1)).end;
}

/* Columns of a tile: the most, `widest` at most, of which there are enough. */
static inline int tile_columns(int64_t columns, int64_t panel_tiles, int widest,
                               int64_t multiprocessors)
{
    for (int n = widest; n > 32; n /= 2)
        if (columns > n / 2 && tile_enough((columns + n - 1) / n * panel_tiles, multiprocessors))
            return n;
    return 32;
}

/* Where a thread finds the pieces of 16 bytes of the panels' weights that it copies. */
template <class S> struct tile_weights {
    typedef typename S::F F;
    static constexpr int pieces = S::w_bytes / 16, all = TILE_PANELS * pieces;
    static constexpr int own = (all + S::threads - 1) / S::threads;
    const uint8_t *w; /* of the first panel */
    uint32_t from[own];
    int there; /* panels */

    __device__ inline tile_weights(const uint8_t *matrix, size_t panel_bytes, int panel0,
                                   int n_panels)
        : w(matrix + (size_t)panel0 * panel_bytes), there(n_panels - panel0)
    {
#pragma unroll
        for (int n = 0; n < own; n++) {
            const int i = n * S::threads + threadIdx.x, panel = i / pieces;
            from[n] =
                (uint32_t)(panel < there ? panel : 0) * (uint32_t)panel_bytes + i % pieces * 16;
        }
    }

    /* Step s to a stage; panels that are not there as zeros. */
    __device__ inline void fetch(uint8_t *stage, int s) const
    {
        const uint8_t *head = w + (size_t)(s / F::steps) * F::unit_bytes;
        const int step = s % F::steps * F::step_bytes; /* behind the head */
#pragma unroll
        for (int n = 0; n < own; n++) {
            const int i = n * S::threads + threadIdx.x;
            if (all % S::threads == 0 || n < own - 1 || i < all)
                cuda_copy16(stage + i * 16, head + from[n] + (i % pieces * 16 < F::head ? 0 : step),
                            i / pieces < there ? 16 : 0);
        }
    }
};

/* One step of types without groups: fragment by fragment, all tiles of a warp side by side. */
template <class S, int type>
__device__ static inline void tile_step_plain(float acc[S::panels][S::eights][4], const uint8_t *w,
                                              const struct cuda_columns &x, int lane)
{
#pragma unroll
    for (int f = 0; f < S::F::fragments; f++) {
        uint4 a[S::panels];
#pragma unroll
        for (int p = 0; p < S::panels; p++)
            a[p] = reinterpret_cast<const uint4 *>(w + p * S::w_bytes)[f * CUDA_LANES + lane];
#pragma unroll
        for (int part = 0; part < S::parts; part++) {
            uint2 b[S::eights];
#pragma unroll
            for (int t = 0; t < S::eights; t++)
                b[t] = cuda_x_pair<S::parts>(x, t, f, part, lane);
#pragma unroll
            for (int p = 0; p < S::panels; p++) {
                const uint32_t of[4] = {a[p].x, a[p].y, a[p].z, a[p].w};
#pragma unroll
                for (int t = 0; t < S::eights; t++)
                    cuda_mma<type>(acc[p][t], of, b[t]);
            }
        }
    }
    cuda_mma_wait();
}

/* One step of types with groups: a group's sums of a panel, then its scales, as cuda_step. */
template <class S, int type>
__device__ static inline void tile_step_groups(float acc[S::panels][S::eights][4], const uint8_t *w,
                                               const struct cuda_columns &x, int lane)
{
    typedef typename S::F F;
    constexpr int per_group = F::group / 16; /* fragments */
    struct cuda_codes<type> codes[S::panels];
#pragma unroll
    for (int p = 0; p < S::panels; p++)
        cuda_codes_load<type>(codes[p], w + p * S::w_bytes + F::head, lane);
#pragma unroll
    for (int g = 0; g < F::fragments / per_group; g++) {
        if (F::step_k > 64 || F::low == 8)
            __syncwarp(); /* loads do not move over it, which would cost registers */
        uint2 b[per_group][S::parts][S::eights];
        float sums[S::eights][2];
#pragma unroll
        for (int t = 0; t < S::eights; t++) {
#pragma unroll
            for (int i = 0; i < per_group * S::parts; i++)
                b[i / S::parts][i % S::parts][t] =
                    cuda_x_pair<S::parts>(x, t, g * per_group + i / S::parts, i % S::parts, lane);
#pragma unroll
            for (int i = 0; i < 2; i++)
                sums[t][i] = F::affine ? cuda_x_sum<S::parts, per_group>(
                                             x, t * 8 + lane % 4 * 2 + i, g * per_group)
                                       : 0.0f;
        }
#pragma unroll
        for (int p = 0; p < S::panels; p++) {
            const uint8_t *head = w + p * S::w_bytes;
            float part[S::eights][4] = {}, d[2], m[2];
#pragma unroll
            for (int i = 0; i < per_group; i++) {
                uint32_t a[4];
                cuda_fragment<type>(a, codes[p], g * per_group + i);
#pragma unroll
                for (int half = 0; half < S::parts; half++)
#pragma unroll
                    for (int t = 0; t < S::eights; t++)
                        cuda_mma<type>(part[t], a, b[i][half][t]);
            }
            cuda_mma_wait();
            cuda_scales<type>(d, m, head, head + F::head, lane / 4, g);
#pragma unroll
            for (int t = 0; t < S::eights; t++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    acc[p][t][i] = fmaf(d[i / 2], part[t][i], acc[p][t][i]);
                    if (F::affine)
                        acc[p][t][i] = fmaf(m[i / 2], sums[t][i % 2], acc[p][t][i]);
                }
        }
    }
}

/* Totals of a thread, through the slices: in shared memory where registers are taken by sums of groups. */
template <class S> struct tile_totals {
    float own[S::total_bytes ? 1 : S::results];
    float *shared;

    /* acc = totals + acc, which are the totals from now on; nothing was before the first slice, and the last
     * one's stay in acc. */
    __device__ inline void add(float acc[S::panels][S::eights][4], bool first, bool last)
    {
#pragma unroll
        for (int n = 0; n < S::results; n++) {
            float *sum = &acc[n / (S::eights * 4)][n / 4 % S::eights][n % 4];
            float *to = S::total_bytes ? shared + n * S::threads + threadIdx.x
                                       : &own[S::total_bytes ? 0 : n];
            if (!first)
                *sum = *to + *sum;
            if (!last)
                *to = *sum, *sum = 0.0f;
        }
    }
};

/* A slice's sums of the thread, where they wait for the others. */
template <class S>
__device__ static inline float4 *tile_sums_at(const struct tile_plan &plan, int tile, int slice)
{
    return reinterpret_cast<float4 *>(plan.sums) +
           ((int64_t)(tile - plan.whole) * CUDA_SLICES + slice) * (S::slice_floats / 4) +
           threadIdx.x;
}

template <class S>
__device__ static inline void tile_sums_put(float4 *to, const float acc[S::panels][S::eights][4])
{
#pragma unroll
    for (int n = 0; n < S::results / 4; n++) {
        const float *v = acc[n / S::eights][n % S::eights];
        to[n * S::threads] = make_float4(v[0], v[1], v[2], v[3]);
    }
}

template <class S> __device__ static inline void tile_clear(float acc[S::panels][S::eights][4])
{
#pragma unroll
    for (int n = 0; n < S::results; n++)
        acc[n / (S::eights * 4)][n / 4 % S::eights][n % 4] = 0.0f;
}

/* acc = what waits there, or that added to it. */
template <class S>
__device__ static inline void tile_sums_take(float acc[S::panels][S::eights][4], const float4 *from,
                                             bool add)
{
#pragma unroll
    for (int n = 0; n < S::results / 4; n++) {
        const float4 v = from[n * S::threads];
        float *sum = acc[n / S::eights][n % S::eights];
        sum[0] = add ? sum[0] + v.x : v.x;
        sum[1] = add ? sum[1] + v.y : v.y;
        sum[2] = add ? sum[2] + v.z : v.z;
        sum[3] = add ? sum[3] + v.w : v.w;
    }
}

/* Says that this block's slices of a shared tile are in memory.  True in the block that was last, whose acc then
 * is the sum of all. */
template <class S>
__device__ static inline bool tile_finish(float acc[S::panels][S::eights][4],
                                          const struct tile_plan &plan,
                                          const struct tile_slices &of)
{
    SHARED(bool, complete, [1]);
    __syncthreads();
    if (threadIdx.x == 0) {
        int *finished = plan.finished + (of.tile - plan.whole);
        const int own = of.end - of.first;
        complete[0] = cuda_arrive(finished, own) + own == CUDA_SLICES;
        if (complete[0])
            *finished = 0;
    }
    __syncthreads();
    if (!complete[0])
        return false;
    const int together = tile_together(plan, of.tile);
    tile_sums_take<S>(acc, tile_sums_at<S>(plan, of.tile, together - 1), false);
#pragma unroll 1
    for (int slice = together; slice < CUDA_SLICES; slice++)
        tile_sums_take<S>(acc, tile_sums_at<S>(plan, of.tile, slice), true);
    return true;
}

/* Slices of a tile's product.  fetch(records, s) queues the copies of the columns' records of step s, and is called
 * for one step after the other from that of the first slice on.  True where the tile is complete: what comes out
 * lies in shared memory, TILE_STRIDE floats a column. */
template <class S, int type, class Fetch>
__device__ static inline bool tile_run(float *shared, const tile_weights<S> &weights, int n_steps,
                                       const struct tile_plan &plan, const struct tile_slices &of,
                                       const Fetch &fetch)
{
    uint8_t *ring = reinterpret_cast<uint8_t *>(shared) + S::total_bytes;
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    const int down = warp % S::down * S::panels, across = warp / S::down * S::eights;
    const int end = tile_slice_begin(n_steps, of.end);
    const auto stage_fetch = [&](int stage, int s) {
        if (s < end) {
            uint8_t *to = ring + stage * S::stage_bytes;
            weights.fetch(to, s);
            fetch(to + TILE_PANELS * S::w_bytes, s);
        }
        cuda_copy_commit();
    };
    int s = tile_slice_begin(n_steps, of.first), at = 0;
#pragma unroll 1
    for (int i = 0; i < S::stages - 1; i++)
        stage_fetch(i, s + i);
    float acc[S::panels][S::eights][4] = {};
    struct tile_totals<S> totals;
    totals.shared = shared;
#pragma unroll 1
    for (int slice = of.first; slice < of.end; slice++) {
        const int slice_end = tile_slice_begin(n_steps, slice + 1);
#pragma unroll 1
        for (; s < slice_end; s++) {
            cuda_copy_wait<S::stages - 2>();
            __syncthreads();
            stage_fetch(at ? at - 1 : S::stages - 1, s + S::stages - 1);
            const uint8_t *stage = ring + at * S::stage_bytes;
            const uint8_t *w = stage + down * S::w_bytes;
            const struct cuda_columns x = {stage + TILE_PANELS * S::w_bytes +
                                               across * 8 * CUDA_RECORD(S::parts),
                                           S::columns, S::record_bytes};
            if constexpr (S::F::group > 0)
                tile_step_groups<S, type>(acc, w, x, lane);
            else
                tile_step_plain<S, type>(acc, w, x, lane);
            at = at + 1 < S::stages ? at + 1 : 0;
        }
        const bool last = slice == of.end - 1;
        if (of.first == 0)
            totals.add(acc, slice == 0, last);
        if (of.end - of.first < CUDA_SLICES && (of.first > 0 || last)) {
            tile_sums_put<S>(tile_sums_at<S>(plan, of.tile, slice), acc);
            tile_clear<S>(acc);
        }
    }
    cuda_copy_wait<0>();
    if (of.end - of.first < CUDA_SLICES && !tile_finish<S>(acc, plan, of))
        return false;
    __syncthreads();
#pragma unroll
    for (int n = 0; n < S::results; n++) {
        const int p = n / (S::eights * 4), t = n / 4 % S::eights, i = n % 4;
        const int o = (down + p) * CUDA_PANEL + lane / 4 + i / 2 * 8;
        shared[((across + t) * 8 + lane % 4 * 2 + i % 2) * TILE_STRIDE + o] = acc[p][t][i];
    }
    __syncthreads();
    return true;
}

/* each(column, o, four results) for what tile_run left: 32 lanes have 128 outputs of a column. */
template <class S, class Each>
__device__ static inline void tile_results(const float *shared, int n_columns, const Each &each)
{
    const int o = threadIdx.x % CUDA_WARP * 4;
#pragma unroll 4
    for (int c = threadIdx.x / CUDA_WARP; c < S::columns && c < n_columns;
         c += S::threads / CUDA_WARP)
        each(c, o, *reinterpret_cast<const float4 *>(shared + c * TILE_STRIDE + o));
}
#endif
