/* linear for more than 8 rows: tiles of 128 outputs times 32, 64 or 128 rows (cuda_tile.cuh), of all matrices
 * of a call in one launch. */
#include "kernels/cuda/cuda_linear_kernels.cuh"
#include "kernels/cuda/cuda_tile.cuh"

/* Slices of a tile, to results where it is complete. */
template <int type, int parts, int columns>
__device__ static inline void many_tile(const struct linear_job &j, float *shared,
                                        const struct tile_slices &of)
{
    typedef tile_shape<type, parts, columns> S;
    const int row0 = of.tile % j.across * columns, last = j.rows - 1 - row0;
    int matrix = 0, panel0 = of.tile / j.across * TILE_PANELS;
    while (matrix < LINEAR_MAX - 1 && panel0 >= linear_whole_panels(j, matrix))
        panel0 -= linear_whole_panels(j, matrix++);
    const tile_weights<S> weights(j.w[matrix], j.panel_bytes, panel0, j.n_panels[matrix]);

    constexpr int pieces = 8 * parts, own = columns * pieces / S::threads; /* of the halves */
    const uint8_t *x = j.records + (size_t)row0 * j.n_records * CUDA_RECORD(parts);
    uint32_t from[own], sums;
    const int piece = threadIdx.x % pieces * 16;
    const auto row_at = [&](int c) { /* rows that are not there: the last one again, for nobody */
                                     return (uint32_t)(c < last ? c : last) *
                                            (uint32_t)(j.n_records * CUDA_RECORD(parts));
    };
#pragma unroll
    for (int n = 0; n < own; n++)
        from[n] = row_at((n * S::threads + threadIdx.x) / pieces) + piece;
    sums = row_at(threadIdx.x) + 128 * parts;
    const auto fetch = [&](uint8_t *to, int s) {
        const uint8_t *step = x + (size_t)s * (S::records * CUDA_RECORD(parts));
#pragma unroll
        for (int r = 0; r < S::records; r++) {
            uint8_t *record = to + r * S::record_bytes;
            const uint8_t *of_row = step + r * CUDA_RECORD(parts);
#pragma unroll
            for (int n = 0; n < own; n++)
                cuda_copy16(record + (n * S::threads + threadIdx.x) / pieces * CUDA_RECORD(parts) +
                                piece,
                            of_row + from[n], 16);
            if (S::F::affine && threadIdx.x < columns)
                cuda_copy16(record + threadIdx.x * CUDA_RECORD(parts) + 128 * parts, of_row + sums,
                            16);
        }
    };
    if (tile_run<S, type>(shared, weights, j.n_steps, j.plan, of, fetch))
        tile_results<S>(shared, last + 1, [&](int c, int o, float4 v) {
            o += panel0 * CUDA_PANEL;
            if (o < j.n_out[matrix])
                linear_store_quad(j, matrix, row0 + c, o, v);
        });
}

/* Blocks that lie one after the other have the same weights and other rows: weights are read once. */
template <int type, int parts, int columns>
__global__ void __launch_bounds__(tile_shape<type, parts, columns>::threads,
                                  tile_shape<type, parts, columns>::blocks)
    linear_many_kernel(const struct linear_job j)
{
    SHARED_DYN(float, shared);
    tile_each(j.plan, [&](const struct tile_slices &of) {
        many_tile<type, parts, columns>(j, shared, of);
    });
}

template <int type, int parts, int columns>
static void many_launch(struct linear_job &j, int panel_tiles, cudaStream_t stream)
{
    typedef tile_shape<type, parts, columns> S;
    j.across = (j.rows + columns - 1) / columns;
    tile_plan_blocks(&j.plan, (int64_t)j.across * panel_tiles, columns, j.multiprocessors);
    LAUNCH((linear_many_kernel<type, parts, columns>), j.plan.whole + j.plan.sharing, S::threads,
           S::shared_bytes, stream, j);
}

/* The widest tile whose ring is deep enough. */
template <int type, int parts> static void many_choose(struct linear_job j, cudaStream_t stream)
{
    constexpr int widest = tile_wide<type, parts>() ? 128 : 64;
    int panel_tiles = 0;
    for (int n = 0; n < LINEAR_MAX && j.n_panels[n]; n++)
        panel_tiles += linear_whole_panels(j, n) / TILE_PANELS;
    const int columns = tile_columns(j.rows, panel_tiles, widest, j.multiprocessors);
    if (columns == 32)
        many_launch<type, parts, 32>(j, panel_tiles, stream);
    else if (columns == 64)
        many_launch<type, parts, 64>(j, panel_tiles, stream);
    else
        many_launch<type, parts, widest>(j, panel_tiles, stream);
}

void cuda_linear_many_launch(const struct linear_job &j, enum dtype type, int parts,
                             cudaStream_t stream)
{
    switch (type) {
#define X(name, ...)                                          \
    case name:                                                \
        if (parts == 1)                                       \
            many_choose<name, 1>(j, stream);                  \
        else                                                  \
            many_choose<name, LINEAR_PARTS(name)>(j, stream); \
        break;
        CUDA_LAYOUTS(X)
#undef X
    default:
        break;
    }
}
